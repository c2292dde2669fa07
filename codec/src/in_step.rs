//! Messages that change in the same places, frame after frame: what a leader sends to followers that keep up.
//!
//! Such messages have their fields where the last ones of their streams had them. One look at all of them, byte by byte
//! beside what the streams remember, tells the places where any of them changed. What lies between is one record for all,
//! and only the rest has to be planned. Heartbeats and appends in one frame are in step each among themselves. Where
//! messages are not, [`crate::past`] looks at each on its own.

use crate::destination_set::DestinationSet;
use crate::streams::{HEAD_BYTES, Streams};
use crate::texts::{Span, Texts};
use crate::work::Work;

/// Shorter places without a change are sent with what is around them, of one message and of several.
const UNCHANGED_BYTES_MIN: usize = 5;
const UNCHANGED_BYTES_MIN_ALONE: usize = 8;
/// A message with fewer bytes in common with an earlier one is like none of them; of a short one half is enough.
const ALIKE_BYTES_MIN: usize = 12;
/// Kinds of messages in one frame that are told apart.
const CLASSES_MAX: usize = 4;

/// Messages whose streams remember an earlier one at the same place.
#[derive(Debug)]
pub(crate) struct Class {
    /// How far before the end of what each stream remembers that message begins.
    pub(crate) back: usize,
    /// Which messages these are.
    pub(crate) members: DestinationSet,
    /// The places `from..to` where no message changed, in rising order.
    pub(crate) unchanged: Vec<(usize, usize)>,
    /// Bytes that are compared.
    len: usize,
    changes: Box<[u8; HEAD_BYTES]>,
}

/// The messages of one frame, by class.
#[derive(Debug, Default)]
pub(crate) struct InStep {
    /// Classes in use; there may be more, for their memory.
    used: usize,
    classes: Vec<Class>,
    /// The class of every message, unless it is like none before it.
    of: Vec<Option<usize>>,
}

impl InStep {
    /// The classes of the frame that was looked at last.
    pub(crate) fn classes(&self) -> &[Class] {
        &self.classes[..self.used]
    }

    /// Looks at all messages, none of which may be empty. False when they are not in step, or it saves nothing to know.
    pub(crate) fn find(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        numbers: &[u32],
        streams: &Streams,
        work: &mut Work,
    ) -> bool {
        self.used = 0;
        if spans.len() != numbers.len() || !self.divide(texts, spans, numbers, streams, work) {
            return false;
        }
        for ((span, number), class) in spans.iter().zip(numbers).zip(&self.of) {
            let Some(class) = class.map(|index| &mut self.classes[index]) else { continue };
            let bytes = streams.get(*number).map_or(&[][..], |stream| stream.bytes());
            let past = &bytes[bytes.len() - class.back..];
            let mut at = 0;
            for (segment, start, end) in texts.parts(span.part(0, class.len)) {
                let (now, until) = (&segment[start..end], at + (end - start));
                for ((change, now), past) in
                    class.changes[at..until].iter_mut().zip(now).zip(&past[at..until])
                {
                    *change |= now ^ past;
                }
                at = until;
            }
            work.compared_bytes += class.len;
        }
        let mut any = false;
        for class in &mut self.classes[..self.used] {
            let least =
                if class.members.sole().is_some() { UNCHANGED_BYTES_MIN_ALONE } else { UNCHANGED_BYTES_MIN };
            let mut at = 0;
            for places in class.changes[..class.len].chunk_by(|a, b| (*a == 0) == (*b == 0)) {
                if places[0] == 0 && places.len() >= least {
                    class.unchanged.push((at, at + places.len()));
                }
                at += places.len();
            }
            any |= !class.unchanged.is_empty();
        }
        any
    }

    /// Finds every message's class, if it has one. False when a stream remembers nothing, or there are too many classes.
    fn divide(
        &mut self,
        texts: Texts<'_>,
        spans: &[Span],
        numbers: &[u32],
        streams: &Streams,
        work: &mut Work,
    ) -> bool {
        self.of.clear();
        for (span, number) in spans.iter().zip(numbers) {
            let Some(stream) = streams.get(*number) else { return false };
            let head_len = span.len().min(HEAD_BYTES);
            let begin =
                texts.parts(*span).next().map_or(&[][..], |(segment, start, end)| &segment[start..end]);
            let begin = &begin[..begin.len().min(head_len)];
            let Some(alike) = stream.most_alike(begin, head_len, work) else { return false };
            if alike.equal < ALIKE_BYTES_MIN.min(begin.len() / 2) {
                self.of.push(None);
                continue;
            }
            let (start, past_len) = (alike.start, alike.len);
            let (back, len) = (stream.bytes().len() - start, past_len.min(head_len));
            let known = self.classes[..self.used].iter().position(|class| class.back == back);
            let index = known.unwrap_or(self.used);
            if known.is_none() {
                if self.used == CLASSES_MAX {
                    return false;
                }
                self.open(back, len);
            }
            let class = &mut self.classes[index];
            class.members.insert(span.message);
            class.len = class.len.min(len);
            self.of.push(Some(index));
        }
        true
    }

    fn open(&mut self, back: usize, len: usize) {
        if self.used == self.classes.len() {
            let changes = Box::new([0; HEAD_BYTES]);
            let members = DestinationSet::EMPTY;
            self.classes.push(Class { back, members, unchanged: Vec::new(), len, changes });
        }
        let class = &mut self.classes[self.used];
        (class.back, class.len, class.members) = (back, len, DestinationSet::EMPTY);
        class.unchanged.clear();
        class.changes.fill(0);
        self.used += 1;
    }
}
