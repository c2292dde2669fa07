//! Messages that are cut alike: part by part as long, and each part the same memory in all of them or in none but the first.
//!
//! That is what a leader sends that has a header for every follower and entries for all. Nothing has to be looked up there,
//! and no cuts to be sorted: one walk over the parts of each message is enough.

use crate::texts::{Span, Texts};

/// One part of every message.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// In the first message.
    address: usize,
    len: usize,
    /// It is the same memory in all of them.
    shared: bool,
}

/// The parts of messages that are cut alike, and memory for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    parts: Vec<Part>,
}

impl Rows {
    /// Takes in `spans`, of which there are several. False if they are not cut alike, or share nothing; counts the addresses that are
    /// looked at.
    pub(crate) fn find(&mut self, texts: Texts<'_>, spans: &[Span], lookups: &mut usize) -> bool {
        let [first, second, others @ ..] = spans else { return false };
        if spans.iter().any(|span| span.len() != first.len()) {
            return false;
        }
        self.parts.clear();
        let place = |(segment, start, end): (&bytes::Bytes, usize, usize)| {
            (segment.as_ptr().addr() + start, end - start)
        };
        // What the second one shares all have to share.
        let mut parts = texts.parts(*second).map(place);
        for (address, len) in texts.parts(*first).map(place) {
            *lookups += 1;
            match parts.next() {
                Some((other, same)) if same == len => {
                    self.parts.push(Part { address, len, shared: other == address });
                }
                _ => return false,
            }
        }
        let any = self.parts.iter().any(|part| part.shared);
        any && others.iter().all(|span| {
            let mut parts = texts.parts(*span).map(place);
            self.parts.iter().all(|part| {
                *lookups += 1;
                parts
                    .next()
                    .is_some_and(|(address, len)| len == part.len && (address == part.address) == part.shared)
            })
        })
    }

    /// Forgets that stretches are shared which are not `worth` a record, by their length. False if nothing is left.
    pub(crate) fn keep(&mut self, worth: impl Fn(usize) -> bool) -> bool {
        let mut any = false;
        for stretch in self.parts.chunk_by_mut(|a, b| a.shared == b.shared) {
            if !stretch[0].shared {
                continue;
            }
            if worth(stretch.iter().map(|part| part.len).sum()) {
                any = true;
            } else {
                stretch.iter_mut().for_each(|part| part.shared = false);
            }
        }
        any
    }

    /// How long each stretch is of parts that are shared, or are not, and which of both.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (usize, bool)> {
        let stretches = self.parts.chunk_by(|a, b| a.shared == b.shared);
        stretches.map(|stretch| (stretch.iter().map(|part| part.len).sum(), stretch[0].shared))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::payload::Payload;
    use crate::texts::Borders;

    /// The stretches of messages of these segments, if they are cut alike.
    fn stretches(messages: &[&[&Bytes]], worth: usize) -> Option<Vec<(usize, bool)>> {
        let payloads: Vec<Payload> =
            messages.iter().map(|segments| segments.iter().copied().cloned().collect()).collect();
        let mut borders = Borders::default();
        borders.reset(&payloads);
        let whole = |message: usize| Span { message, start: 0, end: payloads[message].len() };
        let spans: Vec<Span> = (0..payloads.len()).map(whole).collect();
        let mut rows = Rows::default();
        // What an earlier frame left behind is nothing of this one.
        rows.parts.push(Part { address: 0, len: 7, shared: true });
        let found = rows.find(Texts::new(&payloads, &borders), &spans, &mut 0);
        (found && rows.keep(|len| len >= worth)).then(|| rows.stretches().collect())
    }

    #[test]
    fn parts_of_one_kind_in_a_row_are_one_stretch() {
        let own: [Bytes; 6] = std::array::from_fn(|_| Bytes::from(vec![1; 10]));
        let [one, two] = [Bytes::from(vec![2; 100]), Bytes::from(vec![3; 50])];
        let messages: [&[&Bytes]; 3] = [
            &[&own[0], &own[1], &one, &two, &own[0], &one],
            &[&own[2], &own[3], &one, &two, &own[2], &one],
            &[&own[4], &own[5], &one, &two, &own[4], &one],
        ];
        assert_eq!(stretches(&messages, 0), Some(vec![(20, false), (150, true), (10, false), (100, true)]));
        assert_eq!(stretches(&messages, 101), Some(vec![(20, false), (150, true), (110, false)]));
        assert_eq!(stretches(&messages, 151), None, "nothing is worth a record");
        assert_eq!(stretches(&[&[&one, &two], &[&one, &two]], 0), Some(vec![(150, true)]));
    }

    #[test]
    fn messages_that_are_cut_otherwise_are_not_cut_alike() {
        let own: [Bytes; 3] = std::array::from_fn(|_| Bytes::from(vec![1; 10]));
        let [one, other] = [2, 3].map(|byte| Bytes::from(vec![byte; 100]));
        let first: &[&Bytes] = &[&own[0], &one];
        let second: &[&Bytes] = &[&own[1], &one];
        let alike = |messages: &[&[&Bytes]]| stretches(messages, 0).is_some();
        assert!(alike(&[first, second]) && alike(&[first, second, &[&own[2], &one]]));
        assert!(!alike(&[first]), "alone");
        assert!(!alike(&[first, second, &[&own[2], &other]]), "some share it, one does not");
        assert!(!alike(&[first, second, &[&own[0], &one]]), "one shares more");
        assert!(!alike(&[first, &[&own[1], &other]]), "nothing is shared");
        let (begin, end) = (one.slice(..40), one.slice(40..));
        assert!(!alike(&[first, second, &[&own[2], &begin, &end]]), "cut elsewhere");
        assert!(
            !alike(&[first, second, &[&begin.slice(..10), &own[2], &one.slice(..90)]]),
            "in another place"
        );
        let long = Bytes::from(vec![1; 11]);
        assert!(!alike(&[first, &[&long, &one]]), "longer");
        assert!(!alike(&[first, second, &[&long, &one.slice(1..)]]), "as long, cut elsewhere");
    }
}
