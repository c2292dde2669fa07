//! The end of a doubt by an operator's word, where no quorum is left that could end it.

use std::sync::mpsc;

use super::disk::Disk;
use super::entry::EntryId;
use super::error::StorageError;
use super::inspection::Inspection;
use super::log::{Log, Options};

/// What was taken for all that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedDoubt {
    /// From this index on entries that were acknowledged may be missing; `None` where nothing was in doubt, and nothing was changed.
    pub from: Option<u64>,
    /// The last entry, of the log or of those that were purged.
    pub last: Option<EntryId>,
}

/// Takes what a stopped node's log has for all that it ever acknowledged. A torn tail is cut off first, as at a start.
///
/// What it acknowledged and lost is then gone, unless another node that votes has it.
///
/// # Errors
///
/// [`StorageError::Corrupt`] where the log is damaged: that is no doubt, and stays. What the disk says.
pub fn end_doubt<D: Disk>(disk: D) -> Result<EndedDoubt, StorageError> {
    let looked = Inspection::of(&disk, |_| false)?;
    if let Some(problem) = looked.problems.into_iter().next() {
        return Err(problem);
    }
    let Some(identity) = looked.identity else { return Ok(EndedDoubt { from: None, last: looked.purged }) };
    let (log, found) = Log::open(disk, identity, Options::new(fastrand::u64(..)))?;
    let ended = EndedDoubt { from: found.in_doubt, last: log.bounds().last };
    if found.in_doubt.is_some() {
        let (tell, told) = mpsc::channel();
        log.trust(Box::new(move |result| drop(tell.send(result))))?;
        told.recv().map_err(|_| StorageError::Closed)??;
    }
    Ok(ended)
}
