//! What a directory holds, looked at from outside: nothing is changed, and nothing stops at the first damage.

use bytes::Bytes;

use super::disk::Disk;
use super::entry::{Entry, EntryId};
use super::error::StorageError;
use super::record::{HEAD_BYTES, Head};
use super::recovery::{COMMITTED_MISSING, Recovered, SegmentFile, scan};
use super::segment::{Identity, first_of};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Whose log it is, as the oldest readable segment says.
    pub identity: Option<Identity>,
    /// The entry up to which all were purged.
    pub purged: Option<EntryId>,
    /// From this index on, entries that were acknowledged may be missing since an earlier start.
    pub in_doubt: Option<u64>,
    /// How many entries were known to be committed when the last ones were written, or cut off.
    pub committed: u64,
    /// The segments, the oldest first. Ones that cannot be read at all are only among the problems.
    pub segments: Vec<SegmentReport>,
    /// Bytes behind the last record of the newest segment that are no record. A start cuts them off, and is in doubt.
    pub torn_bytes: u64,
    /// Everything for which a start would be refused.
    pub problems: Vec<StorageError>,
}

/// What one segment holds.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// The file's name.
    pub name: String,
    /// Its first index.
    pub first: u64,
    /// How many entries can be read, from the first on.
    pub entries: u64,
    /// The length of the file, B.
    pub bytes: u64,
}

impl Inspection {
    /// Looks at a directory, and shows every entry that can be read, in order, until it is told to stop.
    ///
    /// # Errors
    ///
    /// When the directory itself cannot be listed. What is wrong with its files is in [`problems`](Self::problems).
    pub fn of<D: Disk>(disk: &D, mut show: impl FnMut(Entry) -> bool) -> Result<Self, StorageError> {
        let mut names = disk.list().map_err(StorageError::io("list", "the directory"))?;
        names.sort_unstable();
        let mut this = Self::default();
        match Recovered::of_slots(disk, &names) {
            Ok(found) => {
                (this.purged, this.in_doubt, this.committed) =
                    (found.purged, found.in_doubt, found.committed);
            }
            Err(error) => this.problems.push(error),
        }
        let next = this.purged.map_or(0, |id| id.index + 1);
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
        firsts.sort_unstable();
        // Those before are only not deleted yet.
        let needed = firsts.partition_point(|first| *first <= next).saturating_sub(1);
        let newest = firsts.last().copied();
        let mut showing = true;
        let mut expected = None;
        let mut last = None;
        for first in firsts.drain(needed..) {
            let segment = match SegmentFile::read(disk, first) {
                Ok(segment) => segment,
                Err(error) => {
                    this.problems.push(error);
                    expected = None;
                    continue;
                }
            };
            if expected.is_some_and(|expected| expected != first)
                || (this.segments.is_empty() && first > next)
            {
                this.problems.push(StorageError::corrupt(&segment.name, 16, "entries before it are missing"));
                last = None;
            }
            let identity = this.identity.get_or_insert_with(|| segment.header.identity.clone());
            this.problems.extend(segment.header.check_identity(&segment.name, identity).err());
            let scan = scan(&segment.bytes, &segment.header, last);
            let is_newest = newest == Some(first);
            if scan.is_corrupt(is_newest) {
                let what = scan.damage.unwrap_or_default();
                this.problems.push(StorageError::corrupt(&segment.name, u64::from(scan.end), what));
                expected = None;
            } else {
                this.torn_bytes = segment.bytes.len() as u64 - u64::from(scan.end);
                expected = Some(first + scan.offsets.len() as u64);
            }
            last = scan.last.or(last);
            this.committed = this.committed.max(scan.committed);
            this.segments.push(SegmentReport {
                name: segment.name,
                first,
                entries: scan.offsets.len() as u64,
                bytes: segment.bytes.len() as u64,
            });
            let bytes = Bytes::from(segment.bytes);
            for offset in scan.offsets {
                let record = bytes.slice(offset as usize..);
                let Some(head) = Head::read(&record).filter(|_| showing) else { break };
                let payload = HEAD_BYTES..HEAD_BYTES + head.payload_bytes as usize;
                showing = head.id.index < next || show(Entry { id: head.id, payload: record.slice(payload) });
            }
        }
        let is_told = this.in_doubt.is_some() || this.torn_bytes > 0 || !this.problems.is_empty();
        if let Some(newest) = this.segments.last().filter(|_| !is_told && this.committed > this.indexes().end)
        {
            this.problems.push(StorageError::corrupt(&newest.name, newest.bytes, COMMITTED_MISSING));
        }
        // The note of before a cut may count what the log has no more.
        this.committed = this.committed.min(this.indexes().end);
        Ok(this)
    }

    /// The indexes of the entries that can be read, if there is no damage.
    #[must_use]
    pub fn indexes(&self) -> std::ops::Range<u64> {
        let first = self.purged.map_or(0, |id| id.index + 1);
        let end = self.segments.last().map_or(first, |segment| segment.first + segment.entries);
        first..end.max(first)
    }
}
