//! The parts of `trunkline demo`.

pub mod wan;

pub mod workload;

pub mod ledger;

pub mod screen;

pub mod report;

/// A datacenter of the demo, counted from 0; the leader is in datacenter 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dc(pub usize);

/// A member of the demo, counted from 0 over all datacenters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub usize);
