//! Rotary position embedding; [`Value`](crate::Value) says what it computes.

use crate::element::Element;

pub(crate) fn rotate<E: Element>(heads: &[E], stride: usize, cos: &[E], signed_sin: &[E], rotated: &mut [E]) {
    let size = cos.len();
    for (head, rotated) in rotated.chunks_exact_mut(size).enumerate() {
        rotate_head(&heads[head * stride..][..size], cos, signed_sin, rotated);
    }
}

fn rotate_head<E: Element>(head: &[E], cos: &[E], signed_sin: &[E], rotated: &mut [E]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at(half);
    let (first_cos, second_cos) = cos.split_at(half);
    let (first_sin, second_sin) = signed_sin.split_at(half);
    let (first_rotated, second_rotated) = rotated.split_at_mut(half);
    turn(first, second, first_cos, first_sin, first_rotated);
    turn(second, first, second_cos, second_sin, second_rotated);
}

/// own ⊙ cos + other ⊙ sin.
fn turn<E: Element>(own: &[E], other: &[E], cos: &[E], sin: &[E], turned: &mut [E]) {
    for ((((turned, own), other), cos), sin) in turned.iter_mut().zip(own).zip(other).zip(cos).zip(sin) {
        *turned = E::rounded(own.wide() * cos.wide() + other.wide() * sin.wide());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rotated() {
        let mut rotated = [0.0; 4];
        let (cos, sin) = ([0.0, 1.0, 0.0, 1.0], [-1.0, 0.0, 1.0, 0.0]);
        rotate(&[1.0, 2.0, 3.0, 4.0], 4, &cos, &sin, &mut rotated);
        assert_eq!(rotated, [-3.0, 2.0, 1.0, 4.0]);
        let mut rotated = [0.0; 8];
        rotate(&[1.0, 2.0, 3.0, 4.0, 9.0, 5.0, 6.0, 7.0, 8.0], 5, &cos, &sin, &mut rotated);
        assert_eq!(rotated, [-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0], "heads that are five values apart");
    }
}
