//! What goes wrong with a disk, and what follows from it.

use std::io;
use std::sync::Arc;

/// Why the log cannot be used, or not go on. Everything except [`Full`](Self::Full) ends the node: nothing is tried again
/// after a disk said no, because a second `fsync` may say yes to what the first one lost.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The disk refused. What was acknowledged is safe; what was not may be there or not.
    #[error("cannot {doing} {file}: {source}")]
    Io {
        /// What was tried, such as `write to`.
        doing: &'static str,
        /// The file's name within its directory.
        file: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Bytes that were durable are not what was written. Nothing is repaired: to cut them away could lose what was
    /// committed. Take the node out, and let it come back empty as a learner.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file's name within its directory.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The directory belongs to another node or cluster, or to a later version.
    #[error("{file} is {found}, not {expected}")]
    Foreign {
        /// The file's name within its directory.
        file: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Another process has the directory.
    #[error("the data directory {directory} is in use by another process")]
    Locked {
        /// The directory.
        directory: String,
    },
    /// So much waits to be written that nothing more is taken. Nothing was appended: wait, and try again.
    #[error("{pending_bytes} B and {calls} calls wait to be written to the log already")]
    Full {
        /// What waits of entries, B.
        pending_bytes: usize,
        /// How many calls wait.
        calls: usize,
    },
    /// No log gets so far: whoever says so is wrong. Nothing was changed.
    #[error("index {index} is higher than any log can have")]
    IndexTooHigh {
        /// What was asked for.
        index: u64,
    },
    /// An entry that no segment can hold. Nothing was appended.
    #[error("an entry of {bytes} B is longer than {bytes_max} B")]
    TooLarge {
        /// Its payload.
        bytes: usize,
        /// The most it can have.
        bytes_max: usize,
    },
    /// The log was closed. What was not acknowledged may be there or not.
    #[error("the log was closed")]
    Closed,
}

impl StorageError {
    pub(crate) fn io(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, file: file.to_owned(), source: Arc::new(source) }
    }

    /// A file of a format version that this one does not read.
    pub(super) fn other_version(file: &str, found: u16, expected: u16) -> Self {
        Self::Foreign {
            file: file.to_owned(),
            found: format!("of format version {found}"),
            expected: format!("of version {expected}"),
        }
    }

    pub(super) fn corrupt(file: &str, offset: u64, what: &'static str) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, what }
    }
}
