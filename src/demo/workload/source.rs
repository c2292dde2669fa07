//! Where entries come from: random bytes, or the lines of a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{ENTRY_HEAD_BYTES, put_entry_head};

/// The longest line accepted, bytes, without its line feed. Together with the batch it must fit in a mesh message.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// What to do at the end of the input file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Begin again with the first line; the file must be seekable.
    Again,
    /// Make no more entries.
    Stop,
}

/// Makes entries.
#[derive(Debug)]
pub struct EntrySource {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Generated { body_bytes: u32 },
    Lines(Lines),
}

/// How much of the file is read at once, and looked at for the mean length of its lines.
const READ_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    at_end: AtEnd,
    /// Mean over the beginning of the file, with head.
    entry_bytes: usize,
    /// Lines read since the beginning of the file.
    line: u64,
    buffer: Vec<u8>,
}

impl EntrySource {
    /// Incompressible entries of `entry_bytes` each, with their head; less than a head counts as a head.
    #[must_use]
    pub fn generated(entry_bytes: usize) -> Self {
        let body_bytes = u32::try_from(entry_bytes.saturating_sub(ENTRY_HEAD_BYTES)).unwrap_or(u32::MAX);
        Self { kind: Kind::Generated { body_bytes } }
    }

    /// The lines of a file, each the body of an entry, without the line feed. Any bytes will do.
    ///
    /// # Errors
    /// `Io` if the file cannot be read, `Empty` if nothing is in it.
    pub fn lines(path: &Path, at_end: AtEnd) -> Result<Self, InputError> {
        let failed = |source| InputError::Io { path: path.to_owned(), source };
        let mut reader = BufReader::with_capacity(READ_BYTES, File::open(path).map_err(failed)?);
        let beginning = reader.fill_buf().map_err(failed)?;
        if beginning.is_empty() {
            return Err(InputError::Empty { path: path.to_owned() });
        }
        let feeds = beginning.iter().filter(|b| **b == b'\n').count();
        let lines = if beginning.ends_with(b"\n") { feeds } else { feeds + 1 };
        let entry_bytes = ENTRY_HEAD_BYTES + (beginning.len() - feeds) / lines;
        let lines = Lines { path: path.to_owned(), reader, at_end, entry_bytes, line: 0, buffer: Vec::new() };
        Ok(Self { kind: Kind::Lines(lines) })
    }

    /// Bytes of an entry with its head: what was asked for, or the mean over the first 64 KiB of the file.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        match &self.kind {
            Kind::Generated { body_bytes } => ENTRY_HEAD_BYTES + usize::try_from(*body_bytes).unwrap_or(0),
            Kind::Lines(lines) => lines.entry_bytes,
        }
    }

    /// The entry for `index`, head and body in one segment; `None` once the file has ended.
    pub(super) fn next(&mut self, index: u64, rng: &mut fastrand::Rng) -> Result<Option<Bytes>, InputError> {
        match &mut self.kind {
            Kind::Generated { body_bytes } => {
                let body = usize::try_from(*body_bytes).unwrap_or(usize::MAX);
                let mut entry = BytesMut::with_capacity(ENTRY_HEAD_BYTES.saturating_add(body));
                put_entry_head(&mut entry, index, *body_bytes);
                entry.resize(ENTRY_HEAD_BYTES + body, 0);
                rng.fill(&mut entry[ENTRY_HEAD_BYTES..]);
                Ok(Some(entry.freeze()))
            }
            Kind::Lines(lines) => Ok(lines.next()?.map(|line| {
                let mut entry = BytesMut::with_capacity(ENTRY_HEAD_BYTES + line.len());
                put_entry_head(&mut entry, index, u32::try_from(line.len()).expect("at most LINE_BYTES_MAX"));
                entry.put_slice(line);
                entry.freeze()
            })),
        }
    }
}

impl Lines {
    fn next(&mut self) -> Result<Option<&[u8]>, InputError> {
        if !self.read_line()? {
            if self.at_end == AtEnd::Stop {
                return Ok(None);
            }
            self.reader.rewind().map_err(|source| self.failed(source))?;
            self.line = 0;
            if !self.read_line()? {
                // It was not empty when opened: somebody truncated it.
                return Err(InputError::Empty { path: self.path.clone() });
            }
        }
        Ok(Some(&self.buffer))
    }

    /// Whether there was one more line; it is in the buffer.
    fn read_line(&mut self) -> Result<bool, InputError> {
        self.buffer.clear();
        let mut limited = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
        let bytes = limited.read_until(b'\n', &mut self.buffer).map_err(|source| self.failed(source))?;
        if bytes == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(InputError::LineTooLong { path: self.path.clone(), line: self.line });
        }
        Ok(true)
    }

    fn failed(&self, source: io::Error) -> InputError {
        InputError::Io { path: self.path.clone(), source }
    }
}

/// Why there are no more entries.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The file cannot be opened, read, or begun again.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The input file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing is in the file.
    #[error("{} is empty", path.display())]
    Empty {
        /// The input file.
        path: PathBuf,
    },
    /// A line is longer than [`LINE_BYTES_MAX`].
    #[error("line {line} of {} is longer than {LINE_BYTES_MAX} bytes", path.display())]
    LineTooLong {
        /// The input file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: u64,
    },
}
