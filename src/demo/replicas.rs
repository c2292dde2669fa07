//! `trunkline demo --cluster`: the same datacenters as a replicated key-value store. Every node is a process of its own with its
//! log on disk; clients in each datacenter write and read over HTTP; the leader and a proxy are killed and come back; and what
//! the clients saw is held against the log.
//!
//! In the order of a run: [`nodes`] starts and kills processes, `load` are the clients, [`record`] is what they saw and checks it,
//! [`report`] sums it up, [`run`] brings all together.

mod client;
mod load;
pub mod nodes;
pub mod record;
pub mod report;
pub mod run;
