//! A node's data directory, which one process has at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::disk::{Directory, Disk};
use super::error::StorageError;
use super::inspection::Inspection;
use super::log::{Log, Options};
use super::recovery::{DOUBT, VOTE};
use super::segment::{Identity, first_of};
use super::segments::{COMMITTED, PURGED};
use super::slot;

/// The file with the directory's own number.
const REPLICA: &str = "replica";
/// The directory within it that has the log.
pub const LOG: &str = "log";

/// The directory, locked as long as this is there.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// The system lets go of the lock when the process ends, however it ends.
    lock: File,
}

impl DataDirectory {
    /// Opens it, and makes it where it is not there.
    ///
    /// # Errors
    ///
    /// [`StorageError::Locked`] where another process has it, [`StorageError::Foreign`] where its lock is no plain file, and
    /// what the disk says.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let shown = path.display().to_string();
        make(path).map_err(StorageError::io("make the directory", &shown))?;
        // A pipe would be waited at, and what a link leads to is not ours.
        if std::fs::symlink_metadata(path.join("lock")).is_ok_and(|there| !there.is_file()) {
            return Err(StorageError::Foreign {
                file: format!("{shown}/lock"),
                found: "something else".to_owned(),
                expected: "a plain file".to_owned(),
            });
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(StorageError::io("open the file lock of", &shown))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(StorageError::Locked { directory: shown }),
            Err(TryLockError::Error(error)) => Err(StorageError::io("lock", &shown)(error)),
        }
    }

    /// The number that this directory was given when it was first used, and never changes; drawn then, when the log is begun.
    ///
    /// # Errors
    ///
    /// [`StorageError::LogGone`] where there is a number and no log, [`StorageError::Foreign`] where it is another node's or another
    /// cluster's, [`StorageError::Corrupt`], and what the disk says.
    pub fn replica(&self, identity: &Identity, draw: impl FnOnce() -> u64) -> Result<u64, StorageError> {
        let disk = Directory::new(self.path.clone());
        let names = disk.list().map_err(StorageError::io("list", "the data directory"))?;
        if let Some(value) = slot::load(&disk, REPLICA, &names)? {
            let none = || StorageError::corrupt(REPLICA, 24, "it is no number and names");
            let (number, rest) = value.split_first_chunk().ok_or_else(none)?;
            let names = std::str::from_utf8(rest).map_err(|_| none())?;
            let (cluster, node) = names.split_once('\n').ok_or_else(none)?;
            let found = Identity { cluster: cluster.to_owned(), node: node.to_owned() };
            if found != *identity {
                return Err(StorageError::Foreign {
                    file: REPLICA.to_owned(),
                    found: found.shown(),
                    expected: identity.shown(),
                });
            }
            let replica = u64::from_le_bytes(*number);
            if self.log_begun()? == Begun::No {
                return Err(StorageError::LogGone { replica });
            }
            // Whoever was killed may have given the file its name a moment before.
            disk.sync().map_err(StorageError::io("sync", "the data directory"))?;
            return Ok(replica);
        }
        // A log that promised something without a number lost it, and whoever it was must not come back as somebody else beside it.
        if self.log_begun()? == Begun::Used {
            return Err(StorageError::corrupt(REPLICA, 0, "it is gone, and the log is there"));
        }
        // Before the number: a number without a log lost it, wherever the first start was ended.
        drop(Log::open_idle(self.sub_directory(LOG)?, identity.clone(), Options::new(fastrand::u64(..)))?);
        let number = draw();
        let mut value = number.to_le_bytes().to_vec();
        value.extend_from_slice(format!("{}\n{}", identity.cluster, identity.node).as_bytes());
        slot::save(&disk, REPLICA, &value)?;
        Ok(number)
    }

    /// What is there of the log.
    fn log_begun(&self) -> Result<Begun, StorageError> {
        let log = Directory::new(self.path.join(LOG));
        let names = match log.list() {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Begun::No),
            Err(error) => return Err(StorageError::io("list", LOG)(error)),
        };
        if !names.iter().any(|name| first_of(name).is_some()) {
            return Ok(Begun::No);
        }
        let saved = |name: &String| [VOTE, PURGED, COMMITTED, DOUBT].contains(&name.as_str());
        let looked = Inspection::of(&log, |_| false)?;
        let empty = looked.problems.is_empty() && looked.torn_bytes == 0 && looked.indexes() == (0..0);
        Ok(if empty && !names.iter().any(saved) { Begun::Unused } else { Begun::Used })
    }

    /// A directory within it; made where it is not there. That it is there is durable.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn sub_directory(&self, name: &str) -> Result<Directory, StorageError> {
        let path = self.path.join(name);
        // One that is there may have been made a moment before its process was killed.
        make(&path)
            .and_then(|()| Directory::new(self.path.clone()).sync())
            .map_err(StorageError::io("make the directory", name))?;
        Ok(Directory::new(path))
    }
}

/// How far the log of a directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// There is no segment.
    No,
    /// There is one, and nothing was ever promised in it.
    Unused,
    /// Something was promised, or may have been.
    Used,
}

/// A child that was just forked has the open file too, for a moment: closing it would not be enough.
impl Drop for DataDirectory {
    fn drop(&mut self) {
        // If this fails, the lock goes with the last of them.
        let _ = self.lock.unlock();
    }
}

/// Makes a directory that its owner alone can read, and has it durably in its parent.
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        }
    }
}
