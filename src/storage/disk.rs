//! The files of one directory: all that the log asks of an operating system.
//!
//! A trait, so that tests put a disk beneath the log that loses what was not synced, tears writes, and fails when told to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A directory. Names are plain: of letters, digits, `-` and `.`.
pub trait Disk: Send + Sync + 'static {
    /// One of its files.
    type File: DiskFile;

    /// The names of its files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file, readable and writable. One of that name is an error.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// A file that is there, readable and writable.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// One file takes another's name, and its place if there is one. After a crash it is the one or the other.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file out. Who has it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// What was created, renamed and removed is durable afterwards.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// How long it is.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills a buffer with what lies from an offset on. A file that ends before is an error.
    fn read_at(&self, from: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes all of it. What was written of it if that fails is unknown.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Shortens it; durable afterwards.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// What was written is durable afterwards.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// A directory that is there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for Directory {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is no text is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, from: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, from)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        // Not its data alone: on some file systems a shorter length is none of that.
        self.sync_all()
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
