//! The head of a frame, written: the ordered list of records that says which bytes of the data column go to whom.
//!
//! The writer chooses the one spelling of every record; the reader, in `layout`, accepts no other.

use crate::destination_set::DestinationSet;
use crate::limits::Limits;
use crate::set_table::SetTable;
use crate::varint;
use crate::wire;

/// Writes records and counts what the reader will be charged for them.
#[derive(Debug)]
pub(crate) struct HeadWriter<const W: usize> {
    bytes: Vec<u8>,
    table: SetTable<W>,
    /// The last record, while the next one may still prolong it.
    open: Option<(DestinationSet<W>, usize)>,
    records: usize,
    pieces: usize,
    echoed_bytes: usize,
    /// Where the last record from a stream took its bytes.
    back: Option<usize>,
}

impl<const W: usize> HeadWriter<W> {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            table: SetTable::new(1),
            open: None,
            records: 0,
            pieces: 0,
            echoed_bytes: 0,
            back: None,
        }
    }

    /// Starts over, for a frame with `count` destinations.
    pub(crate) fn reset(&mut self, count: usize) {
        self.bytes.clear();
        self.table.reset(count);
        self.open = None;
        self.records = 0;
        self.pieces = 0;
        self.echoed_bytes = 0;
        self.back = None;
    }

    /// Appends a record: the next `len` bytes of data go to every member of `set`. Neighbours of one set become one.
    pub(crate) fn put(&mut self, set: &DestinationSet<W>, len: usize) {
        match &mut self.open {
            Some((last, last_len)) if last == set => *last_len += len,
            _ => {
                self.flush();
                self.open = Some((*set, len));
            }
        }
    }

    /// Appends a record whose members get `len` bytes from elsewhere than one run of data for all.
    pub(crate) fn put_from(&mut self, set: &DestinationSet<W>, len: usize, source: Source) {
        self.flush();
        self.write(set, len, source);
    }

    /// Writes out the record that might still have grown.
    pub(crate) fn flush(&mut self) {
        if let Some((set, len)) = self.open.take() {
            self.write(&set, len, Source::Shared);
        }
    }

    fn write(&mut self, set: &DestinationSet<W>, len: usize, source: Source) {
        let (prefix, place) = match source {
            Source::Shared => (None, None),
            Source::Each => (Some(wire::EACH), None),
            Source::Past(back) if self.back == Some(back) => (Some(wire::AGAIN), None),
            Source::Past(back) => (Some(wire::PAST), Some(back)),
            Source::Echo(distance) => (Some(wire::ECHO), Some(distance)),
        };
        match source {
            Source::Past(back) => self.back = Some(back),
            Source::Echo(_) => self.echoed_bytes += len,
            Source::Shared | Source::Each => {}
        }
        if let Some(prefix) = prefix {
            self.bytes.push(prefix);
        }
        let members = self.table.put(&mut self.bytes, set);
        varint::put(&mut self.bytes, len);
        if let Some(place) = place {
            varint::put(&mut self.bytes, place);
        }
        self.records += 1;
        self.pieces += members;
    }

    /// The head so far; [`flush`](Self::flush) first.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.open.is_none()
    }

    /// Bytes that a record from a stream takes besides its set.
    pub(crate) fn past_cost(&self, len: usize, back: usize) -> usize {
        1 + varint::len(len) + if self.back == Some(back) { 0 } else { varint::len(back) }
    }

    /// Bytes of records that refer to what the receiver sent.
    pub(crate) fn echoed_bytes(&self) -> usize {
        self.echoed_bytes
    }

    /// What is known of sets after the last record that was written.
    pub(crate) fn table(&self) -> &SetTable<W> {
        &self.table
    }

    /// Whether fewer records and pieces than these are written.
    pub(crate) fn is_below(&self, records: usize, pieces: usize) -> bool {
        self.records < records && self.pieces < pieces
    }

    /// Whether a reader with these limits accepts the head so far.
    pub(crate) fn within(&self, limits: &Limits) -> bool {
        self.records <= limits.records
            && self.pieces <= limits.pieces
            && self.table.charged_bytes() <= limits.set_bytes
    }
}

/// Where the bytes of a record come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// One run of the data column, for all members.
    Shared,
    /// The data column, which has a run for each member.
    Each,
    /// What the member's own stream remembers: as if its message had begun so many bytes before the end of that.
    Past(usize),
    /// What the receiver itself sent, from so many bytes before the end of what has arrived of it on.
    Echo(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[usize]) -> DestinationSet<1> {
        let mut set = DestinationSet::EMPTY;
        members.iter().for_each(|&index| set.insert(index));
        set
    }

    #[test]
    fn neighbours_of_one_set_become_one_record() {
        let mut head = HeadWriter::<1>::new();
        head.reset(3);
        head.put(&set(&[0, 1, 2]), 5);
        head.put(&set(&[0, 1, 2]), 7);
        head.put(&set(&[2]), 1);
        head.put_from(&set(&[0, 1]), 2, Source::Each);
        head.put_from(&set(&[0, 1]), 2, Source::Each);
        head.flush();
        assert_eq!(head.bytes(), [0x00, 12, 0x42, 1, 0xD0, 0x82, 2, 0xD0, 0x82, 2]);
        let limits = |records, pieces| Limits { records, pieces, ..Limits::default() };
        assert!(head.within(&limits(4, 8)));
        assert!(!head.within(&limits(3, 8)) && !head.within(&limits(4, 7)));
    }
}
