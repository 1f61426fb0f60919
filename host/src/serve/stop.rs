//! Stop strings in text that comes in pieces.

/// Passes text on until one of the stop strings appears, which is left out with all that follows.
#[derive(Debug)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    /// Text that was not passed on, because it may be the beginning of a stop string.
    held: String,
}

impl StopFilter {
    /// Begins a text that ends before the first of `stops`, none of which is empty.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds text; returns the text that may be passed on, and whether a stop string has ended it.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        // The one that is complete first, so that the text does not depend on the pieces.
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop).map(|start| (start + stop.len(), start)));
        if let Some((_, start)) = found.min() {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let held = self.held.split_off(self.held.len() - self.len_to_hold());
        (std::mem::replace(&mut self.held, held), false)
    }

    /// Ends the text; returns what was held back.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Returns the length of the longest end of the text that a stop string begins with.
    fn len_to_hold(&self) -> usize {
        let beginnings = self.stops.iter().flat_map(|stop| {
            let lengths = stop.char_indices().map(|(at, _)| at);
            lengths.filter(|&length| self.held.ends_with(&stop[..length]))
        });
        beginnings.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on for each piece, and at the end; None where a stop string ends the text.
    fn pass(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut filter = StopFilter::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut passed = Vec::new();
        for piece in pieces {
            let (text, is_stopped) = filter.push(piece);
            passed.push(text);
            if is_stopped {
                return (passed, None);
            }
        }
        (passed, Some(filter.finish()))
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn text_that_may_begin_a_stop_string_is_held_back() {
        assert_eq!(pass(&[], &["a", "b"]), (texts(&["a", "b"]), Some(String::new())));
        assert_eq!(pass(&["\n\n"], &["one\n", "two\n", "\nthree"]), (texts(&["one", "\ntwo", ""]), None));
        assert_eq!(pass(&["\n\n"], &["one\n"]), (texts(&["one"]), Some("\n".to_owned())));
        assert_eq!(pass(&["END"], &["xE", "N", "E", "ND", "y"]), (texts(&["x", "", "EN", ""]), None));
        assert_eq!(pass(&["aab"], &["a", "a", "a", "b"]), (texts(&["", "", "a", ""]), None));
    }

    #[test]
    fn the_first_stop_string_in_the_text_ends_it() {
        assert_eq!(pass(&["d", "bc"], &["abcd"]), (texts(&["a"]), None));
        assert_eq!(pass(&["b", "abc"], &["a", "bc"]), (texts(&["", "a"]), None), "`b` is complete first");
        assert_eq!(pass(&["é→"], &["xé", "→y"]), (texts(&["x", ""]), None));
        assert_eq!(pass(&["é→"], &["xé", "y"]), (texts(&["x", "éy"]), Some(String::new())));
    }

    #[test]
    fn pieces_do_not_change_the_text() {
        let text = "the toad, the toad\nthe end of it";
        for stops in [&["toad\n"][..], &["e e", "end"], &["none", "of these"], &["t"]] {
            let whole = pass(stops, &[text]);
            let joined = |(passed, rest): (Vec<String>, Option<String>)| (passed.concat(), rest.is_none());
            let whole = (whole.0.concat() + whole.1.as_deref().unwrap_or_default(), whole.1.is_none());
            for size in 1..6 {
                let pieces: Vec<&str> =
                    (0..text.len()).step_by(size).map(|start| &text[start..(start + size).min(text.len())]).collect();
                let (passed, rest) = pass(stops, &pieces);
                let end = rest.clone().unwrap_or_default();
                let (found, is_stopped) = joined((passed, rest));
                assert_eq!((found + &end, is_stopped), whole, "{stops:?} in pieces of {size}");
            }
        }
    }
}
