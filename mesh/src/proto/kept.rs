//! What a node keeps, limit by limit: for the checker of a simulation, which holds each against its own.

use crate::id::{Lane, NodeId};

/// What has a limit of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Of a member: what its application has not taken.
    Inbox,
    /// Of a member: what one origin sent on one lane and is not in turn, or has no room in the inbox.
    Reorder,
    /// Of a proxy: what waits for one member, or for one origin elsewhere, on one lane.
    Member,
    /// Of a proxy: all its queues together. Told of each lane of each of them: what waits there behind the first run of
    /// its flow, which is taken in any case.
    Proxy,
    /// Of a sender: what is charged to one destination on one lane.
    Destination,
    /// Of a sender: what is charged to one datacenter.
    Datacenter,
    /// Of a sender: what is charged to its process.
    Process,
}

/// What is kept under one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept<'a> {
    /// The limit.
    pub limit: Limit,
    /// Whose, where a node has several of them.
    pub of: Option<(&'a NodeId, Lane)>,
    /// Bytes, as they are charged.
    pub bytes: usize,
}
