//! The parts of `trunkline demo`: a shaped WAN, what a leader sends over it, a check of its own, and a screen.
//!
//! In the order of a run: [`wan`] shapes the links between the datacenters, [`workload`] makes the messages a Raft
//! leader sends, [`ledger`] checks what arrived without asking the mesh, [`screen`] shows it, [`report`] sums it up.
//! None of them knows the mesh: what they say about it would be worth less if they did. Only [`cluster`], which starts
//! the nodes, and [`run`], which brings all together, do. [`replicas`] is the other run, `--cluster`: a replicated log.

pub mod wan;

pub mod workload;

pub mod ledger;

pub mod screen;

pub mod report;

// What knows the mesh.
pub mod cluster;
pub mod run;

// A replicated cluster of processes over the same WAN; it knows their HTTP alone.
pub mod replicas;

#[cfg(test)]
mod tests;

/// A datacenter of the demo, counted from 0; the leader is in datacenter 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dc(pub usize);

/// A member of the demo, counted from 0 over all datacenters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub usize);
