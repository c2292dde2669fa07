//! What a message has in common with earlier ones of its stream.

use crate::align::{self, Run};
use crate::streams::{Alike, HEAD_BYTES, Streams};
use crate::texts::{Span, Texts};
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
    head: Vec<u8>,
}

impl PastRuns {
    /// Compares every message's head with those that its stream remembers.
    pub(crate) fn find(
        &mut self,
        texts: Texts<'_>,
        numbers: &[u32],
        lens: impl Iterator<Item = usize>,
        streams: &Streams,
        work: &mut Work,
    ) {
        self.clear();
        for (message, (number, len)) in numbers.iter().zip(lens).enumerate() {
            if let Some(stream) = streams.get(*number).filter(|_| len > 0) {
                let span = Span { message, start: 0, end: len.min(HEAD_BYTES) };
                let mut joined = std::mem::take(&mut self.head);
                let head = match texts.contiguous(span) {
                    Some(head) => head,
                    None => {
                        joined.clear();
                        texts.copy_to(span, &mut joined);
                        work.copied_bytes += joined.len();
                        &joined
                    }
                };
                let bytes = stream.bytes();
                if let Some(Alike { start, len: past_len, .. }) = stream.most_alike(head, head.len(), work) {
                    self.found.clear();
                    align::align_near(&bytes[start..start + past_len], head, &mut self.found, work);
                    let back = |run: &Run| bytes.len() + run.from - (start + run.at);
                    self.runs.extend(self.found.iter().map(|run| PastRun {
                        from: run.from,
                        len: run.len,
                        back: back(run),
                    }));
                }
                self.head = joined;
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
