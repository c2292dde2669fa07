//! The replicated log on one node's disk, and the few values that must survive beside it.
//!
//! In the order of an entry's journey: [`Log`] takes it and has it readable at once; its writer (`writer.rs`) writes all that
//! is queued and makes it durable with one `fdatasync`; it lies as a `record.rs` in a `segment.rs`, which `segments.rs` begins,
//! cuts and deletes. `recovery.rs` reads all of it again after a crash and tells a torn tail from damage; `slot.rs` keeps the
//! vote and its like, each replaced as a whole. `inspection.rs` looks at all of it and changes nothing. All of them reach the disk through [`Disk`], so that tests can break it.
//!
//! What is stored is opaque here: an index, a term, and bytes. What they mean is the consensus layer's business.

mod catalog;
mod data_directory;
mod disk;
mod doubt;
mod entry;
mod error;
mod inspection;
mod log;
mod record;
mod recovery;
mod segment;
mod segments;
mod slot;
mod snapshots;
mod writer;

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;

pub use data_directory::{DataDirectory, LOG};
pub use disk::{Directory, Disk, DiskFile};
pub use doubt::{EndedDoubt, end_doubt};
pub use entry::{Entry, EntryId, INDEX_MAX};
pub use error::StorageError;
pub use inspection::{Inspection, SegmentReport};
pub use log::{Bounds, Done, Log, Options};
pub use recovery::{Recovered, Tail};
pub use segment::Identity;
pub use slot::SLOT_BYTES_MAX;
pub use snapshots::{Reader, Received, Snapshot, Snapshots, Unfinished};
#[cfg(test)]
pub(crate) use writer::Writer;
