//! Whole clusters in virtual time, from one seed: what the seed decides happens again with it.
//!
//! All of a replica runs here as it does in a process, from [`Access`](super::super::access::Access) down to the log's files,
//! except for what a seed cannot decide: threads are tasks (`tasks.rs`), disks are in memory and lose what was not synced, the
//! mesh is a network that keeps its contract (`net.rs`). A [`World`](world::World) has nodes go down and links cut, while clients and
//! subscribers write down what they were told; `checker.rs` and [`history`](crate::consensus::history) say what contradicts what.

mod checker;
mod clients;
mod delays;
mod elections;
mod faults;
mod leases;
mod lent;
mod marked;
mod net;
mod node;
mod outsider;
mod planted;
mod readiness;
mod runtime;
mod scene;
mod stopped;
mod subscribers;
mod tests;
mod trace;
mod troubles;
mod verdicts;
mod world;

pub(super) use runtime::Runtime;
