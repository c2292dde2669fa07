//! The segments as their one writer sees them: where the next record goes, and what goes with it.
//!
//! What it guarantees at every step, whatever of the step a crash leaves: entries that were synced are there, without a gap,
//! and nothing is there that was never written. Each step below says why its order has that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::catalog::{Catalog, Placed};
use super::disk::{Disk, DiskFile};
use super::entry::{Entry, EntryId, INDEX_MAX};
use super::error::StorageError;
use super::record;
use super::segment::{Header, Identity, file_name};
use super::slot;

/// The slot of the entry up to which all are purged.
pub(super) const PURGED: &str = "purged";
/// The slot of how many entries were known to be committed before the last cut.
pub(super) const COMMITTED: &str = "committed";

/// The one writer of the segments of a directory.
#[derive(Debug)]
pub(super) struct Segments<D: Disk> {
    pub(super) disk: D,
    pub(super) identity: Identity,
    /// The next segment begins when this one would be longer.
    pub(super) segment_bytes_max: u32,
    /// Where salts come from.
    pub(super) salts: fastrand::Rng,
    pub(super) catalog: Arc<Mutex<Catalog<D::File>>>,
    /// The index of the next entry.
    pub(super) next: u64,
    /// Everything up to this entry is gone, or may go.
    pub(super) purged: Option<EntryId>,
    /// How many entries are known to be committed: goes into the next records.
    pub(super) committed: u64,
    /// And is in [`COMMITTED`].
    pub(super) committed_kept: u64,
    /// How much of the newest segment is durable.
    pub(super) synced: u32,
    /// Records that are not written yet; kept for its memory.
    pub(super) buffer: Vec<u8>,
}

impl<D: Disk> Segments<D> {
    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog<D::File>> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first index that can be asked for.
    pub(super) fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// Writes entries, which can be read from here on and are not durable yet.
    ///
    /// # Panics
    ///
    /// When the first is not the next one, or one does not follow the other.
    pub(super) fn write(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let mut rest = entries;
        while !rest.is_empty() {
            let (end, empty) = {
                let catalog = self.catalog();
                let newest = newest(&catalog.segments);
                (newest.end, newest.offsets.is_empty())
            };
            let mut room = self.segment_bytes_max.saturating_sub(end) as usize;
            let fits = rest
                .iter()
                .take_while(|entry| {
                    let bytes = record::record_bytes(entry.payload.len());
                    room.checked_sub(bytes).inspect(|left| room = *left).is_some()
                })
                .count();
            // An empty segment takes any one: entries have a limit of their own.
            let (now, later) = rest.split_at(if fits == 0 && empty { 1 } else { fits });
            if now.is_empty() {
                self.rotate()?;
                continue;
            }
            self.write_here(now, end)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes entries into the newest segment, in one piece.
    fn write_here(&mut self, entries: &[Entry], end: u32) -> Result<(), StorageError> {
        let (file, name, salt) = {
            let catalog = self.catalog();
            let newest = newest(&catalog.segments);
            (Arc::clone(&newest.file), newest.name.clone(), newest.salt)
        };
        self.buffer.clear();
        let mut offsets = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.id.index, self.next, "entries follow each other");
            offsets.push(end + within(self.buffer.len()));
            record::write(entry, salt, u64::from(self.synced), self.committed, &mut self.buffer);
            self.next += 1;
        }
        if let Err(error) = file.write_at(u64::from(end), &self.buffer) {
            // What of it was written was promised to nobody, and only this process knows that: whoever finds half a record at a start must take
            // it for a promise. If it cannot be taken back either, that is what happens.
            let _ = file.truncate(u64::from(end));
            return Err(StorageError::io("write to", &name)(error));
        }
        let written = within(self.buffer.len());
        // One large group is no reason to keep its memory.
        self.buffer.shrink_to(1 << 20);
        let mut catalog = self.catalog();
        let newest = newest_mut(&mut catalog.segments);
        newest.offsets.extend_from_slice(&offsets);
        newest.end = end + written;
        Ok(())
    }

    /// What was written is durable afterwards.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        let (file, name, end) = {
            let catalog = self.catalog();
            let newest = newest(&catalog.segments);
            (Arc::clone(&newest.file), newest.name.clone(), newest.end)
        };
        if self.synced == end {
            return Ok(());
        }
        file.sync().map_err(StorageError::io("sync", &name))?;
        self.synced = end;
        Ok(())
    }

    /// Ends the newest segment and begins another one. The old one is durable before the new one is there: of all segments
    /// but the newest, everything is durable.
    pub(super) fn rotate(&mut self) -> Result<(), StorageError> {
        if newest(&self.catalog().segments).offsets.is_empty() {
            return Ok(());
        }
        self.sync()?;
        self.begin(self.next)
    }

    /// Begins the segment of an index.
    pub(super) fn begin(&mut self, first: u64) -> Result<(), StorageError> {
        let header = Header::new(first, self.salts.u64(..), self.identity.clone());
        let name = file_name(first);
        let file = slot::replace(&self.disk, &name, &header.encode())?;
        let header_bytes = within(header.bytes);
        self.catalog().segments.push_back(Placed {
            name,
            file: Arc::new(file),
            salt: header.salt,
            first,
            offsets: Vec::new(),
            end: header_bytes,
        });
        self.next = first;
        self.synced = header_bytes;
        Ok(())
    }

    /// Takes out all entries after this one, or all. Durable when this returns.
    ///
    /// How many are known to be committed was said by records, and may be by those that go alone: it is durable elsewhere before.
    /// The newest segment goes first, and is durably gone before the next one is touched: no crash leaves a gap. What is cut
    /// off is durably cut off before anything is written in its place: no crash mixes old and new.
    pub(super) fn truncate_after(&mut self, last: Option<EntryId>) -> Result<(), StorageError> {
        let next = last.map_or(0, |id| id.index + 1).max(self.first());
        if next >= self.next {
            return Ok(());
        }
        if self.committed > self.committed_kept {
            slot::save(&self.disk, COMMITTED, &self.committed.to_le_bytes())?;
            self.committed_kept = self.committed;
        }
        loop {
            let mut catalog = self.catalog();
            if catalog.segments.len() == 1 || newest(&catalog.segments).first < next {
                break;
            }
            let Some(gone) = catalog.segments.pop_back() else { break };
            drop(catalog);
            self.disk.remove(&gone.name).map_err(StorageError::io("remove", &gone.name))?;
            self.disk.sync().map_err(StorageError::io("sync the directory of", &gone.name))?;
        }
        let (file, name, end) = {
            let mut catalog = self.catalog();
            let newest = newest_mut(&mut catalog.segments);
            let kept = usize::try_from(next - newest.first).expect("it is within the segment");
            newest.end = newest.offsets.get(kept).copied().unwrap_or(newest.end);
            newest.offsets.truncate(kept);
            (Arc::clone(&newest.file), newest.name.clone(), newest.end)
        };
        file.truncate(u64::from(end)).map_err(StorageError::io("shorten", &name))?;
        self.next = next;
        self.synced = end;
        Ok(())
    }

    /// Lets go of all entries up to this one, which may lie beyond the last: a snapshot has them. Whole segments go.
    ///
    /// That they may go is durable before any goes. If they all go, the next one is there first.
    pub(super) fn purge(&mut self, up_to: EntryId) -> Result<(), StorageError> {
        if up_to.index < self.first() {
            return Ok(());
        }
        slot::save(&self.disk, PURGED, &encode_id(up_to))?;
        self.purged = Some(up_to);
        let first = self.first();
        if first >= self.next && newest(&self.catalog().segments).first != first {
            self.begin(first)?;
        }
        self.drop_purged()
    }

    /// Takes out the segments of which everything is purged.
    pub(super) fn drop_purged(&mut self) -> Result<(), StorageError> {
        loop {
            let mut catalog = self.catalog();
            if catalog.segments.get(1).is_none_or(|second| second.first > self.first()) {
                return Ok(());
            }
            let Some(gone) = catalog.segments.pop_front() else { return Ok(()) };
            drop(catalog);
            self.disk.remove(&gone.name).map_err(StorageError::io("remove", &gone.name))?;
        }
    }
}

/// There is always one: opening a directory begins it.
fn newest<F>(segments: &VecDeque<Placed<F>>) -> &Placed<F> {
    segments.back().expect("there is always a newest segment")
}

fn newest_mut<F>(segments: &mut VecDeque<Placed<F>>) -> &mut Placed<F> {
    segments.back_mut().expect("there is always a newest segment")
}

/// A place in a segment: none is as long as 4 GiB.
pub(super) fn within(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment is shorter than 4 GiB")
}

/// The value of [`PURGED`]: term and index, little-endian.
pub(super) fn encode_id(id: EntryId) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&id.term.to_le_bytes());
    out[8..].copy_from_slice(&id.index.to_le_bytes());
    out
}

/// The entry that such a value names.
pub(super) fn decode_id(value: &[u8]) -> Option<EntryId> {
    let (term, index) = value.split_first_chunk::<8>()?;
    let id = EntryId { term: u64::from_le_bytes(*term), index: u64::from_le_bytes(index.try_into().ok()?) };
    (id.index <= INDEX_MAX).then_some(id)
}
