//! A text with the places where its lines begin, so that many places are found without counting from the top each time.

/// A text, counted once.
pub(super) struct Lines<'a> {
    text: &'a str,
    /// Where each line begins, bytes; the first at 0.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after).collect() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The line that a byte is on, from 1, and where that line begins.
    pub(super) fn of(&self, at: usize) -> (usize, usize) {
        let number = self.starts.partition_point(|start| *start <= at);
        (number, self.starts[number - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_counting_gives() {
        for text in ["", "a", "a\n", "\n\n", "é\r\nb\n\nc"] {
            let lines = Lines::new(text);
            for at in 0..=text.len() {
                let before = &text.as_bytes()[..at];
                let number = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
                assert_eq!(lines.of(at), (number, start), "{text:?} at {at}");
            }
        }
    }
}
