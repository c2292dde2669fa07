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
    /// Compares every message's opening with those that its stream remembers.
    pub(crate) fn find(&mut self, openings: &Openings, numbers: &[u32], streams: &Streams, work: &mut Work) {
        self.clear();
        let mut finder = streams.finder();
        for (opening, number) in openings.iter().zip(numbers) {
            if let Some(stream) = finder.find(*number).filter(|_| !opening.is_empty())
                && let Some(Alike { start, len, .. }) = stream.most_alike(opening, work)
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
