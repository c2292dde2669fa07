//! An entry as it lies in a segment.
//!
//! ```text
//!  0  crc        4  CRC-32C of the segment's salt, of bytes 4 to 40, and of the payload
//!  4  length     4  of the payload, B
//!  8  index      8
//! 16  term       8
//! 24  synced     8  how many bytes of the segment were known to be durable when this was written
//! 32  committed  8  entries known to be committed then: their number, which is the last one's index + 1
//! 40  payload       followed by zeros up to a multiple of 8
//! ```
//!
//! Integers are little-endian. The salt is drawn for each segment, so that no payload can hold bytes that pass for a record.

use super::entry::{Entry, EntryId};

/// What lies before a payload.
pub(super) const HEAD_BYTES: usize = 40;
/// Records begin at multiples of it.
pub(super) const ALIGN: usize = 8;

/// What a record says beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) crc: u32,
    pub(super) payload_bytes: u32,
    pub(super) id: EntryId,
    pub(super) synced: u64,
    pub(super) committed: u64,
}

/// What a record of so long a payload takes.
pub(super) fn record_bytes(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// Appends a record. The payload is shorter than 4 GiB: [`super::segments::Segments`] takes no longer one.
pub(super) fn write(entry: &Entry, salt: u64, synced: u64, committed: u64, into: &mut Vec<u8>) {
    let from = into.len();
    let payload_bytes = u32::try_from(entry.payload.len()).expect("a payload is shorter than a segment");
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&payload_bytes.to_le_bytes());
    for field in [entry.id.index, entry.id.term, synced, committed] {
        into.extend_from_slice(&field.to_le_bytes());
    }
    into.extend_from_slice(&entry.payload);
    let crc = checksum(salt, &into[from + 4..]);
    into[from..from + 4].copy_from_slice(&crc.to_le_bytes());
    into.resize(from + record_bytes(entry.payload.len()), 0);
}

impl Head {
    /// What the first 40 of these bytes say; `None` if there are not so many.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        Some(Self {
            crc: u32_at(0),
            payload_bytes: u32_at(4),
            id: EntryId { index: u64_at(8), term: u64_at(16) },
            synced: u64_at(24),
            committed: u64_at(32),
        })
    }

    /// What the whole record takes.
    pub(super) fn record_bytes(&self) -> usize {
        record_bytes(self.payload_bytes as usize)
    }

    /// Are these bytes, of which the record is a prefix, what was written?
    pub(super) fn is_whole(&self, bytes: &[u8], salt: u64) -> bool {
        let end = HEAD_BYTES + self.payload_bytes as usize;
        let padded = self.record_bytes();
        bytes.len() >= padded
            && bytes[end..padded].iter().all(|byte| *byte == 0)
            && checksum(salt, &bytes[4..end]) == self.crc
    }
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&salt.to_le_bytes());
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_every_flipped_bit_is_seen() {
        for length in [0, 1, 7, 8, 100] {
            let payload = Bytes::from((0..=u8::MAX).take(length).collect::<Vec<_>>());
            let entry = Entry { id: EntryId { term: 3, index: 70 }, payload };
            let mut bytes = vec![9; 16];
            write(&entry, 77, 16, 69, &mut bytes);
            let record = &mut bytes[16..];
            assert_eq!(record.len(), record_bytes(length));
            let head = Head::read(record).unwrap();
            assert_eq!((head.id, head.synced, head.committed), (entry.id, 16, 69));
            assert!(head.is_whole(record, 77));
            assert!(!head.is_whole(record, 78), "another segment's record");
            assert!(!head.is_whole(&record[..record.len() - 1], 77));
            for bit in 0..record.len() * 8 {
                record[bit / 8] ^= 1 << (bit % 8);
                assert!(!Head::read(record).unwrap().is_whole(record, 77), "bit {bit}");
                record[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
