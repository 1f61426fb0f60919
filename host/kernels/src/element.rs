//! Values of the dtypes that the loops take.

/// Conversion from and to float32, in which all loops compute.
pub(crate) trait Element: Copy {
    /// Rounds to the nearest.
    fn rounded(value: f32) -> Self;

    fn wide(self) -> f32;
}

impl Element for f32 {
    fn rounded(value: f32) -> Self {
        value
    }

    fn wide(self) -> f32 {
        self
    }
}

/// A bfloat16 by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Element for Bf16 {
    fn rounded(value: f32) -> Self {
        // To the nearest, and to the even one in the middle.
        let bits = value.to_bits();
        let nearest = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
        Self(if value.is_nan() { 0x7FC0 } else { nearest })
    }

    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_is_rounded_to_the_nearest_even() {
        let rounded = |bits: u32| Bf16::rounded(f32::from_bits(bits)).0;
        assert_eq!(rounded(0x3F80_0000), 0x3F80);
        assert_eq!(rounded(0x3F80_8000), 0x3F80, "the middle, even below");
        assert_eq!(rounded(0x3F81_8000), 0x3F82, "the middle, even above");
        assert_eq!(rounded(0xBF80_8001), 0xBF81);
        assert_eq!(rounded(0x7F80_0000), 0x7F80, "infinite");
        for bits in [0x7FFF_FFFF, 0xFFFF_FFFF, 0x7F80_0001] {
            assert!(Bf16::rounded(f32::from_bits(bits)).wide().is_nan());
        }
    }
}
