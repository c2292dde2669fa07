//! What a message has in common with earlier ones of its stream.

use crate::align::{self, Run};
use crate::openings::Openings;
use crate::streams::{Alike, Streams};
use crate::work::Work;

/// Bytes `from..from + len` of a message are what its stream remembers there, if the message is laid so that it begins
/// `back` bytes before the end of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastRun {
    pub(crate) from: usize,
    pub(crate) len: usize,
    pub(crate) back: usize,
}

/// The runs of all messages of a frame, each message's in rising order.
#[derive(Debug, Default)]
pub(crate) struct PastRuns {
    runs: Vec<PastRun>,
    /// Where in `runs` those of each message end.
    ends: Vec<usize>,
    found: Vec<Run>,
}

impl PastRuns {
    /// Compares every message's opening with that of the earlier message that it is most like; for the first ones that is
    /// `known`.
    pub(crate) fn find(
        &mut self,
        openings: &Openings<'_>,
        numbers: &[u32],
        streams: &Streams,
        known: &[Option<Alike>],
        work: &mut Work,
    ) {
        self.clear();
        let mut finder = streams.finder();
        let mut known = known.iter();
        for (opening, number) in openings.iter().zip(numbers) {
            let known = known.next();
            if let Some(stream) = finder.find(*number).filter(|_| !opening.is_empty())
                && let Some(Alike { start, len, .. }) =
                    known.copied().unwrap_or_else(|| stream.most_alike(opening, work))
            {
                let bytes = stream.bytes();
                self.found.clear();
                align::align_near(&bytes[start..start + len], opening, &mut self.found, work);
                let back = |run: &Run| bytes.len() + run.from - (start + run.at);
                self.runs.extend(self.found.iter().map(|run| PastRun {
                    from: run.from,
                    len: run.len,
                    back: back(run),
                }));
            }
            self.ends.push(self.runs.len());
        }
    }

    /// Nothing is known.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.ends.clear();
    }

    /// The runs of one message.
    pub(crate) fn of(&self, message: usize) -> &[PastRun] {
        let begin = message.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.runs[begin..self.ends[message]]
    }

    /// Nothing of any message was said before.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openings::JoinedOpenings;
    use crate::payload::Payload;

    /// The runs of messages of the streams 0, 1, 2, ..., which have heard what comes before.
    fn runs(earlier: &[&[u8]], now: &[&[u8]]) -> PastRuns {
        let mut streams = Streams::default();
        for (message, number) in earlier.iter().zip(0..) {
            streams.enter(number, std::iter::once(message));
        }
        let (mut joined, mut found) = (JoinedOpenings::default(), PastRuns::default());
        // Nothing is left of what was found before.
        for messages in [earlier, now] {
            let payloads: Vec<Payload> =
                messages.iter().map(|message| Payload::from(message.to_vec())).collect();
            let numbers: Vec<u32> = (0..).take(messages.len()).collect();
            found.find(&joined.reset(&payloads), &numbers, &streams, &[], &mut Work::default());
        }
        found
    }

    const TEXT: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";

    #[test]
    fn a_changed_field_leaves_two_runs_with_one_back() {
        let mut changed = *TEXT;
        changed[10] = b'!';
        let found = runs(&[TEXT], &[&changed]);
        let run = |from, len| PastRun { from, len, back: 32 };
        assert_eq!(found.of(0), [run(0, 10), run(11, 21)]);
    }

    #[test]
    fn a_field_that_grew_leaves_two_runs_with_two_backs() {
        let grown = [&TEXT[..10], b"!!", &TEXT[10..]].concat();
        let found = runs(&[TEXT], &[&grown]);
        let run = |from, len, back| PastRun { from, len, back };
        assert_eq!(found.of(0), [run(0, 10, 32), run(12, 22, 34)]);
    }

    #[test]
    fn messages_are_held_against_their_own_streams_only() {
        let other = TEXT.map(|byte| byte ^ 0x80);
        let found = runs(&[TEXT, &other, TEXT], &[TEXT, TEXT, b"", TEXT]);
        let whole = [PastRun { from: 0, len: 32, back: 32 }];
        assert_eq!([0, 1, 2, 3].map(|message| found.of(message)), [&whole[..], &[], &[], &[]]);
        assert!(!found.is_empty() && runs(&[&other], &[TEXT]).is_empty());
    }

    #[test]
    fn what_lies_behind_an_opening_is_not_remembered() {
        let long: Vec<u8> = (0..=255).chain(0..=255).collect();
        let found = runs(&[&long], &[&long]);
        assert_eq!(found.of(0), [PastRun { from: 0, len: 256, back: 256 }]);
    }

    /// The message before the last is looked at too, and its place is counted from the end of everything.
    #[test]
    fn an_older_message_that_is_clearly_more_alike_is_taken() {
        let mut streams = Streams::default();
        let other = TEXT.map(|byte| byte ^ 0x80);
        for message in [TEXT, TEXT, &other] {
            streams.enter(5, std::iter::once(message));
        }
        let (mut joined, mut found) = (JoinedOpenings::default(), PastRuns::default());
        let payloads = [Payload::from(TEXT.to_vec())];
        found.find(&joined.reset(&payloads), &[5], &streams, &[], &mut Work::default());
        assert_eq!(found.of(0), [PastRun { from: 0, len: 32, back: 64 }]);
    }
}
