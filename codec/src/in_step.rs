//! Messages that change in the same places, frame after frame: what a leader sends to followers that keep up.
//!
//! Such messages have their fields where the last ones of their streams had them. One look at all of them, byte by byte
//! beside what the streams remember, tells the places where any of them changed. What lies between is one record for all,
//! and only the rest has to be planned. Where messages are not in step, [`crate::past`] looks at each on its own.

use crate::streams::{HEAD_BYTES, Streams};
use crate::texts::{Span, Texts};
use crate::work::Work;

/// Shorter places without a change are sent with what is around them, of one message and of several.
const UNCHANGED_BYTES_MIN: usize = 5;
const UNCHANGED_BYTES_MIN_ALONE: usize = 8;

/// The heads of all messages of a frame, beside those of one earlier message each.
#[derive(Debug)]
pub(crate) struct InStep {
    /// How far before the end of what each stream remembers that message begins.
    pub(crate) back: usize,
    /// The places `from..to` where no message changed, in rising order.
    pub(crate) unchanged: Vec<(usize, usize)>,
    changes: Box<[u8; HEAD_BYTES]>,
}

impl Default for InStep {
    fn default() -> Self {
        Self { back: 0, unchanged: Vec::new(), changes: Box::new([0; HEAD_BYTES]) }
    }
}

impl InStep {
    /// Looks at all messages, none of which may be empty. False when they are not in step, or it saves nothing to know.
    pub(crate) fn find(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        numbers: &[u32],
        streams: &Streams,
        work: &mut Work,
    ) -> bool {
        self.unchanged.clear();
        let [first, others @ ..] = spans else { return false };
        if spans.len() != numbers.len() {
            return false;
        }
        // The latest message as long as the first one's now, or else the latest.
        let Some(stream) = streams.get(numbers[0]) else { return false };
        let head_len = first.len().min(HEAD_BYTES);
        let alike = stream.heads().find(|(_, len)| *len == head_len).or_else(|| stream.heads().next());
        let Some((start, past_len)) = alike else { return false };
        self.back = stream.bytes().len() - start;
        let shortest = others.iter().map(Span::len).min().unwrap_or(head_len);
        let len = past_len.min(head_len).min(shortest);
        self.changes[..len].fill(0);
        for (span, number) in spans.iter().zip(numbers) {
            let bytes = streams.get(*number).map_or(&[][..], |stream| stream.bytes());
            let Some(past) = bytes.len().checked_sub(self.back).and_then(|from| bytes.get(from..from + len))
            else {
                return false;
            };
            let head = Span { end: span.start + len, ..*span };
            let mut at = 0;
            for (segment, start, end) in texts.parts(head) {
                let (now, until) = (&segment[start..end], at + (end - start));
                for ((change, now), past) in self.changes[at..until].iter_mut().zip(now).zip(&past[at..until])
                {
                    *change |= now ^ past;
                }
                at = until;
            }
        }
        work.compared_bytes += spans.len() * len;
        let least = if others.is_empty() { UNCHANGED_BYTES_MIN_ALONE } else { UNCHANGED_BYTES_MIN };
        let mut at = 0;
        for places in self.changes[..len].chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            if places[0] == 0 && places.len() >= least {
                self.unchanged.push((at, at + places.len()));
            }
            at += places.len();
        }
        !self.unchanged.is_empty()
    }
}
