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
    /// The directory has the number of a replica, and its log is not there. What the replica promised is lost, and it cannot know
    /// that it promised nothing. Nothing was changed.
    #[error(
        "the log of replica {replica:016x} is gone: `replica` is there, and `log` has no segment. The votes it gave and the \
         entries it acknowledged are lost with it, so it must not vote as that replica again. If the log lies elsewhere, as on a \
         file system that is not mounted, bring it back; else empty the directory, and let the node come back as a new replica"
    )]
    LogGone {
        /// Its number.
        replica: u64,
    },
    /// The log let go of entries that no snapshot has: snapshots were taken out. Nothing was changed.
    #[error(
        "the log begins after entry {purged}, and the newest snapshot ends with {}: what lies between is gone. If the snapshots lie \
         elsewhere, bring them back; else empty the directory, and let the node come back as a new replica",
        newest.map_or("none".to_owned(), |index| format!("entry {index}"))
    )]
    SnapshotsGone {
        /// The last entry that the log let go of.
        purged: u64,
        /// The last entry in the newest snapshot.
        newest: Option<u64>,
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
