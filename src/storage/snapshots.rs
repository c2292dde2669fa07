//! Snapshots: everything that was applied up to an entry, in one file, of which the newest is kept.
//!
//! ```text
//!  0  magic    8  "TRUNKSNP"
//!  8  version  2  1; another one is refused
//! 10  zeros    2
//! 12  crc      4  CRC-32C of the 64 bytes of this head with zeros here, then of the cluster's name
//! 16  term     8  of the last entry in it
//! 24  index    8  likewise
//! 32  length   8  of what follows, B
//! 40  sum      8  CRC-64/NVME of what follows
//! 48  zeros   16
//! 64  content     opaque here
//! ```
//!
//! Integers are little-endian. The file is called `snapshot-` and its index with 20 digits. It is written and synced under
//! another name first: one of this name is whole. The cluster's name is in the checksum, so that a snapshot of another
//! cluster is refused; the node's is not, because nodes give them to each other.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::{Disk, DiskFile};
use super::entry::{EntryId, INDEX_MAX};
use super::error::StorageError;
use super::slot::UNFINISHED;

const MAGIC: &[u8; 8] = b"TRUNKSNP";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 64;
const PREFIX: &str = "snapshot-";
/// What a reader takes from the disk at once, and a writer gives it.
const CHUNK_BYTES: usize = 256 << 10;

/// The snapshots of a directory, which holds nothing else.
#[derive(Debug)]
pub struct Snapshots<D: Disk> {
    disk: Arc<D>,
    cluster: String,
    newest: Mutex<Newest<D::File>>,
}

#[derive(Debug)]
struct Newest<F> {
    snapshot: Option<Snapshot<F>>,
    /// For names of files that are being written.
    begun: u64,
}

/// One that is whole. It can be read as long as this is there, also when a newer one took its place.
#[derive(Debug)]
pub struct Snapshot<F> {
    file: Arc<F>,
    name: Arc<str>,
    head: Head,
}

impl<F> Clone for Snapshot<F> {
    fn clone(&self) -> Self {
        Self { file: Arc::clone(&self.file), name: Arc::clone(&self.name), head: self.head }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    last: EntryId,
    bytes: u64,
    sum: u64,
}

impl Head {
    fn encode(self, cluster: &str) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let fields = [self.last.term, self.last.index, self.bytes, self.sum];
        for (field, place) in fields.iter().zip(out[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let crc = checksum(&out, cluster);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(mut bytes: [u8; HEAD_BYTES], name: &str, cluster: &str) -> Result<Self, StorageError> {
        if !bytes.starts_with(MAGIC) {
            return Err(StorageError::corrupt(name, 0, "it does not begin as a snapshot does"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(StorageError::other_version(name, version, VERSION));
        }
        let crc = [bytes[12], bytes[13], bytes[14], bytes[15]];
        bytes[12..16].fill(0);
        if checksum(&bytes, cluster).to_le_bytes() != crc {
            let what = "its head is damaged, or it is of another cluster";
            return Err(StorageError::corrupt(name, 12, what));
        }
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let last = EntryId { term: field(16), index: field(24) };
        if last.index > INDEX_MAX {
            return Err(StorageError::IndexTooHigh { index: last.index });
        }
        Ok(Self { last, bytes: field(32), sum: field(40) })
    }
}

fn checksum(head: &[u8; HEAD_BYTES], cluster: &str) -> u32 {
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    crc.update(head);
    crc.update(cluster.as_bytes());
    u32::try_from(crc.finalize()).expect("a checksum of 32 bits")
}

fn sum() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme)
}

impl<D: Disk> Snapshots<D> {
    /// Opens what a directory holds: the newest one, and takes out what is older or was not finished.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] and [`StorageError::Foreign`] where the newest one is not a snapshot of this cluster, and
    /// what the disk says.
    pub fn open(disk: D, cluster: &str) -> Result<Self, StorageError> {
        let mut names = disk.list().map_err(StorageError::io("list", "the snapshots"))?;
        names.sort_unstable();
        let newest =
            names.iter().rfind(|name| name.starts_with(PREFIX) && !name.ends_with(UNFINISHED)).cloned();
        // Whoever was killed may have named it a moment before. An older one goes, and the log before it, only when its name is durable.
        disk.sync().map_err(StorageError::io("sync", "the directory of snapshots"))?;
        for name in names.iter().filter(|name| Some(*name) != newest.as_ref()) {
            if name.starts_with(PREFIX) || name.ends_with(UNFINISHED) {
                disk.remove(name).map_err(StorageError::io("remove", name))?;
            }
        }
        let snapshot = newest.map(|name| read_head(&disk, &name, cluster)).transpose()?;
        Ok(Self {
            disk: Arc::new(disk),
            cluster: cluster.to_owned(),
            newest: Mutex::new(Newest { snapshot, begun: 0 }),
        })
    }

    /// The newest one.
    pub fn newest(&self) -> Option<Snapshot<D::File>> {
        self.lock().snapshot.clone()
    }

    /// Begins one of this node's own state.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn begin(self: &Arc<Self>) -> Result<Unfinished<D>, StorageError> {
        let (file, name) = self.create()?;
        Ok(Unfinished { snapshots: Arc::clone(self), file, name, bytes: 0, sum: sum(), buffer: Vec::new() })
    }

    /// Begins one that another node sends, as its [`Snapshot::read_at`] gives it.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn begin_received(&self) -> Result<Received<D::File>, StorageError> {
        let (file, name) = self.create()?;
        let (disk, leftover) = (Arc::clone(&self.disk), name.clone());
        // It is taken out at the next start if this fails.
        let remove = Box::new(move || drop(disk.remove(&leftover)));
        Ok(Received { file, name, bytes: 0, sum: sum(), left: Leftover { remove: Some(remove) } })
    }

    /// Looks whether all that was sent is there and unchanged, and has it durably as the newest one.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] where it is not what was sent, and what the disk says. The newest one is then the one before.
    pub fn finish_received(&self, received: Received<D::File>) -> Result<Snapshot<D::File>, StorageError> {
        let head = self.head_of(&received)?;
        let Received { file, name, left, .. } = received;
        let published = self.publish(file, &name, head)?;
        left.keep();
        Ok(published)
    }

    /// The last entry in what another node sent, if all of it is there and unchanged.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] where it is not what was sent, and what the disk says.
    pub fn last_of_received(&self, received: &Received<D::File>) -> Result<EntryId, StorageError> {
        self.head_of(received).map(|head| head.last)
    }

    fn head_of(&self, received: &Received<D::File>) -> Result<Head, StorageError> {
        let Received { file, name, bytes, sum, .. } = received;
        let content = bytes
            .checked_sub(HEAD_BYTES as u64)
            .ok_or_else(|| StorageError::corrupt(name, *bytes, "it ends early"))?;
        let mut head = [0; HEAD_BYTES];
        file.read_at(0, &mut head).map_err(StorageError::io("read", name))?;
        let head = Head::decode(head, name, &self.cluster)?;
        let same = head.bytes == content && head.sum == sum.clone().finalize();
        let error = || StorageError::corrupt(name, HEAD_BYTES as u64, "its checksum does not match");
        same.then_some(head).ok_or_else(error)
    }

    fn create(&self) -> Result<(D::File, String), StorageError> {
        let begun = {
            let mut newest = self.lock();
            newest.begun += 1;
            newest.begun
        };
        let name = format!("{PREFIX}{begun}{UNFINISHED}");
        let file = self.disk.create(&name).map_err(StorageError::io("create", &name))?;
        Ok((file, name))
    }

    /// In this order: content durable, then its name, then the older one is gone.
    fn publish(&self, file: D::File, from: &str, head: Head) -> Result<Snapshot<D::File>, StorageError> {
        let name = format!("{PREFIX}{:020}", head.last.index);
        let named = file
            .sync()
            .map_err(StorageError::io("sync", from))
            .and_then(|()| self.disk.rename(from, &name).map_err(StorageError::io("rename", from)));
        if let Err(error) = named {
            // It is taken out at the next start if this fails.
            let _ = self.disk.remove(from);
            return Err(error);
        }
        self.disk.sync().map_err(StorageError::io("sync", "the directory of snapshots"))?;
        let snapshot = Snapshot { file: Arc::new(file), name: name.into(), head };
        let mut newest = self.lock();
        if newest.snapshot.as_ref().is_some_and(|there| there.last().index > head.last.index) {
            // Somebody was faster with a later one.
            let _ = self.disk.remove(&snapshot.name);
            return Ok(snapshot);
        }
        if let Some(older) = newest.snapshot.replace(snapshot.clone())
            && older.name != snapshot.name
        {
            // It is taken out at the next start if this fails.
            let _ = self.disk.remove(&older.name);
        }
        Ok(snapshot)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Newest<D::File>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_head<D: Disk>(disk: &D, name: &str, cluster: &str) -> Result<Snapshot<D::File>, StorageError> {
    let file = disk.open(name).map_err(StorageError::io("open", name))?;
    let length = file.bytes().map_err(StorageError::io("read", name))?;
    let mut head = [0; HEAD_BYTES];
    if length < HEAD_BYTES as u64 {
        return Err(StorageError::corrupt(name, length, "it ends early"));
    }
    file.read_at(0, &mut head).map_err(StorageError::io("read", name))?;
    let head = Head::decode(head, name, cluster)?;
    if head.bytes != length - HEAD_BYTES as u64 {
        return Err(StorageError::corrupt(name, length, "it does not have the length that its head states"));
    }
    Ok(Snapshot { file: Arc::new(file), name: name.into(), head })
}

impl<F: DiskFile> Snapshot<F> {
    /// The last entry in it.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.head.last
    }

    /// How long the file is, B.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        HEAD_BYTES as u64 + self.head.bytes
    }

    /// Bytes of the file, for another node: fewer than asked for only where it ends.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn read_at(&self, from: u64, bytes_max: usize) -> Result<Vec<u8>, StorageError> {
        let left = self.bytes().saturating_sub(from);
        let mut out = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max)];
        self.file.read_at(from, &mut out).map_err(StorageError::io("read", &self.name))?;
        Ok(out)
    }

    /// Its content. Where it is damaged, the last read is an error.
    #[must_use]
    pub fn reader(&self) -> Reader<F> {
        Reader { snapshot: self.clone(), at: 0, buffer: Vec::new(), taken: 0, sum: Some(sum()) }
    }
}

/// Reads the content of a [`Snapshot`].
#[derive(Debug)]
pub struct Reader<F> {
    snapshot: Snapshot<F>,
    /// So much was read from the file.
    at: u64,
    buffer: Vec<u8>,
    /// So much of the buffer was given away.
    taken: usize,
    /// Until it was compared.
    sum: Option<crc_fast::Digest>,
}

impl<F: DiskFile> Read for Reader<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            let from = HEAD_BYTES as u64 + self.at;
            self.buffer = self.snapshot.read_at(from, CHUNK_BYTES).map_err(io::Error::other)?;
            self.taken = 0;
            self.at += self.buffer.len() as u64;
            if let Some(sum) = &mut self.sum {
                sum.update(&self.buffer);
            }
            if self.at == self.snapshot.head.bytes
                && let Some(sum) = self.sum.take()
                && sum.finalize() != self.snapshot.head.sum
            {
                let name = &self.snapshot.name;
                let error = StorageError::corrupt(name, HEAD_BYTES as u64, "its checksum does not match");
                return Err(io::Error::other(error));
            }
        }
        let left = &self.buffer[self.taken..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        Ok(count)
    }
}

/// One that is being written. Dropped unfinished, it is gone at the next start.
pub struct Unfinished<D: Disk> {
    snapshots: Arc<Snapshots<D>>,
    file: D::File,
    name: String,
    bytes: u64,
    sum: crc_fast::Digest,
    buffer: Vec<u8>,
}

impl<D: Disk> Unfinished<D> {
    /// Has it durably as the newest one.
    ///
    /// # Errors
    ///
    /// What the disk says. The newest one is then the one before.
    pub fn finish(mut self, last: EntryId) -> Result<Snapshot<D::File>, StorageError> {
        let (name, snapshots) = (self.name.clone(), Arc::clone(&self.snapshots));
        let written = self.write_out().and_then(|()| {
            let head = Head { last, bytes: self.bytes, sum: self.sum.clone().finalize() };
            self.file.write_at(0, &head.encode(&snapshots.cluster)).map(|()| head)
        });
        match written.map_err(StorageError::io("write to", &name)) {
            Ok(head) => snapshots.publish(self.file, &name, head),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// Gives it up.
    pub fn discard(self) {
        // It is taken out at the next start if this fails.
        let _ = self.snapshots.disk.remove(&self.name);
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(HEAD_BYTES as u64 + self.bytes, &self.buffer)?;
        self.sum.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl<D: Disk> Write for Unfinished<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.write_out()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }
}

/// One that comes from another node. Dropped unfinished, it is gone at the next start.
#[derive(Debug)]
pub struct Received<F> {
    file: F,
    name: String,
    bytes: u64,
    sum: crc_fast::Digest,
    left: Leftover,
}

/// A file that nobody finished goes with what was to become of it.
struct Leftover {
    remove: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Leftover {
    fn keep(mut self) {
        self.remove = None;
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if let Some(remove) = self.remove.take() {
            remove();
        }
    }
}

impl fmt::Debug for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leftover").finish_non_exhaustive()
    }
}

impl<F: DiskFile> Received<F> {
    /// How much came, B.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes what comes next.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_at(self.bytes, bytes).map_err(StorageError::io("write to", &self.name))?;
        let head = usize::try_from((HEAD_BYTES as u64).saturating_sub(self.bytes)).unwrap_or(0);
        self.sum.update(&bytes[head.min(bytes.len())..]);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
