//! Messages that change in the same places, frame after frame: what a leader sends to followers that keep up.
//!
//! Such messages have their fields where the last ones of their streams had them. One look at all of them, byte by byte
//! beside what the streams remember, tells the places where any of them changed. What lies between is one record for all,
//! and only the rest has to be planned. Heartbeats and appends in one frame are in step each among themselves. Where
//! messages are not, [`crate::past`] looks at each on its own.

use crate::bytes_equal::zero_runs;
use crate::destination_set::DestinationSet;
use crate::openings::Openings;
use crate::streams::{Alike, OPENING_BYTES, Streams};
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
pub(crate) struct Class<const W: usize> {
    /// How far before the end of what each stream remembers that message begins.
    pub(crate) back: usize,
    /// Which messages these are.
    pub(crate) members: DestinationSet<W>,
    /// The places `from..to` where no message changed, in rising order.
    pub(crate) unchanged: Vec<(usize, usize)>,
    /// Bytes that all of them have, and the earlier ones.
    pub(crate) len: usize,
    changes: Box<[u8; OPENING_BYTES]>,
}

/// The messages of one frame, by class.
#[derive(Debug, Default)]
pub(crate) struct InStep<const W: usize> {
    /// Classes in use; there may be more, for their memory.
    used: usize,
    classes: Vec<Class<W>>,
}

impl<const W: usize> InStep<W> {
    /// The classes of the frame that was looked at last.
    pub(crate) fn classes(&self) -> &[Class<W>] {
        &self.classes[..self.used]
    }

    /// Looks at all messages. False when they are not in step, or it saves nothing to know.
    pub(crate) fn find(
        &mut self,
        openings: &Openings,
        numbers: &[u32],
        streams: &Streams,
        work: &mut Work,
    ) -> bool {
        self.used = 0;
        let mut finder = streams.finder();
        for (message, (opening, number)) in openings.iter().zip(numbers).enumerate() {
            if opening.is_empty() {
                continue;
            }
            let Some(stream) = finder.find(*number) else { return false };
            let Some(Alike { start, len, equal }) = stream.most_alike(opening, work) else { return false };
            if equal < ALIKE_BYTES_MIN.min(opening.len() / 2) {
                continue;
            }
            let past = &stream.bytes()[start..start + len];
            let back = stream.bytes().len() - start;
            let Some(class) = self.class(back) else { return false };
            class.members.insert(message);
            class.len = class.len.min(past.len()).min(opening.len());
            // What lies beyond the shortest of them is not looked at afterwards.
            for ((change, now), past) in class.changes.iter_mut().zip(opening).zip(past) {
                *change |= now ^ past;
            }
            work.compared_bytes += class.len;
        }
        let mut any = false;
        for class in &mut self.classes[..self.used] {
            let alone = class.members.sole().is_some();
            let least = if alone { UNCHANGED_BYTES_MIN_ALONE } else { UNCHANGED_BYTES_MIN };
            let unchanged = &mut class.unchanged;
            zero_runs(&class.changes[..class.len], least, |from, to| unchanged.push((from, to)));
            any |= !unchanged.is_empty();
        }
        any
    }

    /// The class of messages laid so far back; a new one if there is none yet and room for it.
    fn class(&mut self, back: usize) -> Option<&mut Class<W>> {
        let known = self.classes[..self.used].iter().position(|class| class.back == back);
        if let Some(index) = known {
            return Some(&mut self.classes[index]);
        }
        if self.used == CLASSES_MAX {
            return None;
        }
        if self.used == self.classes.len() {
            let changes = Box::new([0; OPENING_BYTES]);
            let members = DestinationSet::EMPTY;
            self.classes.push(Class { back, members, unchanged: Vec::new(), len: 0, changes });
        }
        let class = &mut self.classes[self.used];
        (class.back, class.len, class.members) = (back, OPENING_BYTES, DestinationSet::EMPTY);
        class.unchanged.clear();
        class.changes.fill(0);
        self.used += 1;
        Some(class)
    }
}
