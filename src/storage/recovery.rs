//! What a directory holds, read at a start after whatever happened before.
//!
//! Two things look alike and are not: a tail that a crash tore, of which nothing was ever acknowledged, and damage to what
//! was. Every record says how much of its segment was durable when it was written. So damage below the highest such place,
//! and damage in any segment but the newest, is corruption: the log is not opened. Above it, it may be the one or the other:
//! the tail is cut, and the node is **in doubt** about it, durably, until the layer above says that it has caught up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::catalog::{Catalog, Placed};
use super::disk::{Disk, DiskFile};
use super::entry::EntryId;
use super::error::StorageError;
use super::record::{ALIGN, HEAD_BYTES, Head};
use super::segment::{FILE_BYTES_MAX, HEADER_BYTES_MAX, Header, Identity, file_name, first_of};
use super::segments::{COMMITTED, PURGED, Segments, decode_id, within};
use super::slot::{self, UNFINISHED};

/// The slot of the layer above.
pub(super) const VOTE: &str = "vote";
/// Whole records are gone, as with a file that was shortened between two of them.
pub(super) const COMMITTED_MISSING: &str =
    "it ends there, and entries that were known to be committed are missing";
/// The slot of the index from which on entries may be missing.
pub(super) const DOUBT: &str = "doubt";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The entry up to which all were purged.
    pub purged: Option<EntryId>,
    /// The last entry, or the one up to which all were purged.
    pub last: Option<EntryId>,
    /// How many entries were known to be committed when the last ones were written, or cut off. Not more than there are: where some of
    /// them are missing the node is in doubt, or the log is not opened.
    pub committed: u64,
    /// What was saved last as a vote.
    pub vote: Option<Bytes>,
    /// How the newest segment ended.
    pub tail: Tail,
    /// From this index on, entries that were acknowledged may be missing. Neither vote nor acknowledge before the node has
    /// caught up, and then say so with [`Log::trust`](super::Log::trust).
    pub in_doubt: Option<u64>,
}

impl Recovered {
    /// What is saved beside the segments.
    pub(super) fn of_slots<D: Disk>(disk: &D, names: &[String]) -> Result<Self, StorageError> {
        let mut found = Self { vote: slot::load(disk, VOTE, names)?, ..Self::default() };
        if let Some(value) = slot::load(disk, PURGED, names)? {
            let id =
                decode_id(&value).ok_or_else(|| StorageError::corrupt(PURGED, 24, "it is no entry's id"))?;
            found.purged = Some(id);
            found.last = Some(id);
        }
        if let Some(value) = slot::load(disk, COMMITTED, names)? {
            let count = value.as_ref().try_into().map(u64::from_le_bytes);
            found.committed = count.map_err(|_| StorageError::corrupt(COMMITTED, 24, "it is no number"))?;
        }
        if let Some(value) = slot::load(disk, DOUBT, names)?.filter(|value| !value.is_empty()) {
            let index = value.as_ref().try_into().map(u64::from_le_bytes);
            found.in_doubt = Some(index.map_err(|_| StorageError::corrupt(DOUBT, 24, "it is no index"))?);
        }
        Ok(found)
    }
}

/// How the newest segment ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// With a whole record.
    #[default]
    Clean,
    /// With bytes that are no record, which were cut off.
    Cut {
        /// How many bytes.
        bytes: u64,
        /// The index that would have come next.
        index: u64,
    },
}

/// A segment as it was read.
pub(super) struct SegmentFile<F> {
    pub(super) name: String,
    pub(super) file: F,
    pub(super) bytes: Vec<u8>,
    pub(super) header: Header,
}

impl<F: DiskFile> SegmentFile<F> {
    pub(super) fn read<D: Disk<File = F>>(disk: &D, first: u64) -> Result<Self, StorageError> {
        let name = file_name(first);
        let file = disk.open(&name).map_err(StorageError::io("open", &name))?;
        let length = file.bytes().map_err(StorageError::io("read", &name))?;
        if length > FILE_BYTES_MAX {
            return Err(StorageError::corrupt(&name, 0, "it is longer than any segment"));
        }
        let length = u32::try_from(length).expect("the longest segment is shorter than 4 GiB");
        let mut bytes = vec![0; length as usize];
        file.read_at(0, &mut bytes).map_err(StorageError::io("read", &name))?;
        let header = Header::decode(&name, &bytes[..bytes.len().min(HEADER_BYTES_MAX)])?;
        if header.first != first {
            return Err(StorageError::corrupt(&name, 16, "it begins with another index than its name says"));
        }
        Ok(Self { name, file, bytes, header })
    }
}

/// What a segment holds.
pub(super) struct Scan {
    /// Where its records begin.
    pub(super) offsets: Vec<u32>,
    pub(super) last: Option<EntryId>,
    pub(super) committed: u64,
    /// Where the last of them ends.
    pub(super) end: u32,
    /// And so much of that its records say to be durable.
    durable: u32,
    /// What is wrong behind that.
    pub(super) damage: Option<&'static str>,
    /// The highest place that a record behind the damage says to be durable.
    known_synced: u64,
}

impl Scan {
    /// Was what is damaged durable? Then no crash did it.
    pub(super) fn is_corrupt(&self, newest: bool) -> bool {
        self.damage.is_some() && (!newest || self.known_synced > u64::from(self.end))
    }
}

impl<D: Disk> Segments<D> {
    /// Opens what is there, or begins.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`], [`StorageError::Foreign`], and what the disk says. Nothing was changed except that unfinished
    /// and purged files may be gone.
    pub(super) fn open(
        disk: D,
        identity: Identity,
        segment_bytes_max: u32,
        salts: fastrand::Rng,
    ) -> Result<(Self, Recovered), StorageError> {
        let mut names = disk.list().map_err(StorageError::io("list", "the directory"))?;
        names.sort_unstable();
        for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            disk.remove(name).map_err(StorageError::io("remove", name))?;
        }
        let mut found = Recovered::of_slots(&disk, &names)?;
        let mut this = Self {
            disk,
            identity,
            segment_bytes_max,
            salts,
            catalog: Arc::new(Mutex::new(Catalog { segments: VecDeque::new() })),
            next: 0,
            purged: found.purged,
            committed: found.committed,
            committed_kept: found.committed,
            synced: 0,
            buffer: Vec::new(),
        };
        this.next = this.first();
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
        firsts.sort_unstable();
        if firsts.is_empty() && (found.vote.is_some() || found.purged.is_some() || found.committed > 0) {
            return Err(StorageError::corrupt("the directory", 0, "it holds a vote and no segment"));
        }
        // A crash may have left some segments that were purged, in any order: there may be gaps between them.
        let kept = firsts.partition_point(|begin| *begin <= this.first()).saturating_sub(1);
        for gone in firsts.drain(..kept) {
            let name = file_name(gone);
            this.disk.remove(&name).map_err(StorageError::io("remove", &name))?;
        }
        let newest = firsts.last().copied();
        for first in firsts {
            this.take_segment(first, newest == Some(first), &mut found)?;
        }
        if newest.is_none() || this.next < this.first() {
            let first = this.first();
            this.begin(first)?;
            this.drop_purged()?;
        }
        this.disk.sync().map_err(StorageError::io("sync", "the directory"))?;
        found.committed = this.committed.max(this.first()).min(this.next);
        this.committed = found.committed;
        Ok((this, found))
    }

    /// Reads one segment and enters it into the catalog; if it is the newest one, its tail is cut where that may be.
    fn take_segment(&mut self, first: u64, newest: bool, found: &mut Recovered) -> Result<(), StorageError> {
        let SegmentFile { name, file, bytes, header } = SegmentFile::read(&self.disk, first)?;
        header.check_identity(&name, &self.identity)?;
        let before = self.catalog().segments.back().map(Placed::next);
        if before.map_or(first > self.first(), |next| next != first) {
            return Err(StorageError::corrupt(&name, 16, "entries before it are missing"));
        }
        let scan = scan(&bytes, &header, found.last.filter(|_| before.is_some()));
        if let Some(what) = scan.damage {
            if scan.is_corrupt(newest) {
                return Err(StorageError::corrupt(&name, u64::from(scan.end), what));
            }
            let next = first + scan.offsets.len() as u64;
            found.tail = Tail::Cut { bytes: bytes.len() as u64 - u64::from(scan.end), index: next };
            let doubt = found.in_doubt.map_or(next, |before| before.min(next));
            found.in_doubt = Some(doubt);
            // What was known to be committed and is lost may be decided otherwise, by an operator's word.
            if self.committed_kept > next {
                slot::save(&self.disk, COMMITTED, &next.to_le_bytes())?;
                (self.committed, self.committed_kept) = (self.committed.min(next), next);
            }
            // Before the cut: after the cut nobody could tell.
            slot::save(&self.disk, DOUBT, &doubt.to_le_bytes())?;
            file.truncate(u64::from(scan.end)).map_err(StorageError::io("shorten", &name))?;
        }
        self.committed = self.committed.max(scan.committed);
        let there = (first + scan.offsets.len() as u64).max(self.first());
        if newest && self.committed > there && found.in_doubt.is_none() {
            return Err(StorageError::corrupt(&name, u64::from(scan.end), COMMITTED_MISSING));
        }
        if newest {
            // Of the same bytes: where they are on the disk already, no crash in the middle of it changes them.
            let anew = &bytes[scan.durable as usize..scan.end as usize];
            file.write_at(u64::from(scan.durable), anew).map_err(StorageError::io("write to", &name))?;
            file.sync().map_err(StorageError::io("sync", &name))?;
        }
        self.next = first + scan.offsets.len() as u64;
        if let Some(last) =
            scan.last.filter(|last| found.purged.is_none_or(|purged| purged.index < last.index))
        {
            found.last = Some(last);
        }
        self.synced = scan.end;
        self.catalog().segments.push_back(Placed {
            name,
            file: Arc::new(file),
            salt: header.salt,
            first,
            offsets: scan.offsets,
            end: scan.end,
        });
        Ok(())
    }
}

/// Reads the records of a segment up to the first that is not whole.
pub(super) fn scan(bytes: &[u8], header: &Header, before: Option<EntryId>) -> Scan {
    let mut scan = Scan {
        offsets: Vec::new(),
        last: None,
        committed: 0,
        end: within(header.bytes),
        durable: within(header.bytes),
        damage: None,
        known_synced: 0,
    };
    let mut term = before.map_or(0, |id| id.term);
    loop {
        let rest = &bytes[scan.end as usize..];
        if rest.is_empty() {
            return scan;
        }
        let next = header.first + scan.offsets.len() as u64;
        let Some(head) = Head::read(rest).filter(|head| head.is_whole(rest, header.salt)) else {
            scan.damage = Some("it is no whole record");
            scan.known_synced = synced_behind(bytes, scan.end as usize, next, header.salt);
            return scan;
        };
        if head.id.index != next || head.id.term < term {
            // Whole, and not where it was written: no crash does that.
            scan.damage = Some("its index or term does not follow the one before");
            scan.known_synced = u64::MAX;
            return scan;
        }
        term = head.id.term;
        scan.offsets.push(scan.end);
        scan.last = Some(head.id);
        scan.committed = scan.committed.max(head.committed);
        // It speaks of what is before it: else it says nothing that could be.
        let durable = u32::try_from(head.synced).unwrap_or(u32::MAX).min(scan.end);
        scan.durable = scan.durable.max(durable);
        scan.end += within(head.record_bytes());
    }
}

/// The highest durable place that any whole record behind a damaged one tells of.
///
/// Records can be anywhere there. To take sums of everything at every place would be quadratic, so what is summed up is
/// limited; what is not found then leaves the node in doubt, which is safe.
fn synced_behind(bytes: &[u8], damaged: usize, index: u64, salt: u64) -> u64 {
    let mut budget = bytes.len().saturating_mul(4);
    let mut known = 0;
    let mut at = damaged + ALIGN;
    while at + HEAD_BYTES <= bytes.len() {
        let rest = &bytes[at..];
        let plausible = Head::read(rest).filter(|head| {
            let behind = (at - damaged) / HEAD_BYTES;
            head.record_bytes() <= rest.len()
                && (index..=index.saturating_add(behind as u64)).contains(&head.id.index)
                && head.synced <= at as u64
        });
        let mut step = ALIGN;
        if let Some(head) = plausible {
            let Some(left) = budget.checked_sub(head.record_bytes()) else { return known };
            budget = left;
            if head.is_whole(rest, salt) {
                known = known.max(head.synced);
                step = head.record_bytes();
            }
        }
        at += step;
    }
    known
}
