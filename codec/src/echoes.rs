//! What messages of a frame take of what this end sent itself.

use std::ops::Range;

use bytes::Bytes;

use crate::echo::{Alive, Sent};
use crate::error::DecodeError;
use crate::head::Source;
use crate::layout::Layout;
use crate::limits::Limits;
use crate::wire;

/// What records take of what this end sent.
#[derive(Default)]
pub(crate) struct Echoes {
    /// Record by record, in parts.
    pub(crate) parts: Vec<Bytes>,
    /// Bytes that these keep alive: they are slices of what this end keeps, which may be far longer.
    pub(crate) alive: usize,
    /// In how many each.
    counts: Vec<usize>,
}

impl Echoes {
    /// Notes what has arrived, looks all of them up, and counts the pieces that come of it: no more than the limit.
    pub(crate) fn find(
        layout: &mut Layout,
        limits: &Limits,
        sent: Option<&mut Sent>,
    ) -> Result<Self, DecodeError> {
        if layout.flags & wire::FLAG_ECHO == 0 {
            return Ok(Self::default());
        }
        // The checksum of a frame that says what has arrived was held against these ends.
        let Some(sent) = sent else { return Err(DecodeError::NOTHING_SENT) };
        sent.arrived(layout.arrived);
        let mut found = Self::default();
        let mut window: Option<Bytes> = None;
        let mut joined_bytes = 0;
        let mut alive = Alive::default();
        let mut pieces = layout.members.len();
        let mut members = layout.members.iter().map(|member| usize::from(*member));
        for record in &layout.records {
            let members = members.by_ref().take(record.members);
            let Source::Echo(distance) = record.source else {
                members.for_each(drop);
                continue;
            };
            const { assert!(wire::WINDOW_BYTES == 1_048_576) };
            let rule = "ECHO has to lie within the last 1,048,576 bytes that arrived of what this end sent";
            let missing = DecodeError::Reference { offset: record.offset, rule };
            let first = found.parts.len();
            // In how many parts this end keeps the bytes is not known to the sender, who counted one piece for each member.
            // If more are too many, all that may be referred to is joined, once for the whole frame.
            if window.is_none() {
                let before = alive;
                let count =
                    sent.find(distance, record.len, &mut found.parts, &mut alive).ok_or(missing.clone())?;
                let more = (count - 1).saturating_mul(record.members);
                if pieces.saturating_add(more) > limits.pieces {
                    let joined = sent.window();
                    joined_bytes = joined.len();
                    window = Some(joined);
                    found.parts.truncate(first);
                    alive = before;
                } else {
                    pieces += more;
                }
            }
            if let Some(window) = &window {
                let begin = window.len().checked_sub(distance).ok_or(missing)?;
                found.parts.push(window.slice(begin..begin + record.len));
            }
            let count = found.parts.len() - first;
            members.for_each(|member| layout.extents[member].pieces += count - 1);
            found.counts.push(count);
        }
        found.alive = alive.bytes.min(sent.kept()) + joined_bytes;
        Ok(found)
    }

    /// The numbers of the parts that each record takes, in the order of the records.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        self.counts.iter().map(move |count| {
            let begin = end;
            end += count;
            begin..end
        })
    }
}
