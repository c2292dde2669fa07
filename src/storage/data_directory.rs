//! A node's data directory, which one process has at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::disk::{Directory, Disk};
use super::error::StorageError;
use super::segment::Identity;
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

    /// The number that this directory was given when it was first used, and never changes; drawn then.
    ///
    /// # Errors
    ///
    /// [`StorageError::Foreign`] where it is another node's or another cluster's, [`StorageError::Corrupt`], and what the
    /// disk says.
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
            return Ok(u64::from_le_bytes(*number));
        }
        // The number comes before the log does: a log without one lost it, and whoever it was must not come back as somebody else beside it.
        if names.iter().any(|name| name == LOG) {
            return Err(StorageError::corrupt(REPLICA, 0, "it is gone, and the log is there"));
        }
        let number = draw();
        let mut value = number.to_le_bytes().to_vec();
        value.extend_from_slice(format!("{}\n{}", identity.cluster, identity.node).as_bytes());
        slot::save(&disk, REPLICA, &value)?;
        Ok(number)
    }

    /// A directory within it; made where it is not there.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn sub_directory(&self, name: &str) -> Result<Directory, StorageError> {
        let path = self.path.join(name);
        make(&path).map_err(StorageError::io("make the directory", name))?;
        Ok(Directory::new(path))
    }
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
