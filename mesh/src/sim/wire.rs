//! The faulty wire: pairs of byte streams with delay, chopped at random, that can be cut, reset, and fill up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::proto::links::ConnId;
use crate::proto::time::Micros;

/// A node, as an index.
pub(super) type NodeIx = usize;

/// One end of a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct End {
    pub(super) node: NodeIx,
    /// Which life of the node.
    pub(super) life: u64,
    pub(super) conn: ConnId,
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Cargo {
    Bytes(Bytes),
    Fin,
}

struct Direction {
    to: End,
    /// Nothing overtakes in a stream.
    last_at: Micros,
    /// Sent and not yet read by the other end.
    buffered: usize,
    closed: bool,
}

/// Where nothing passes, until it is mended; TCP delivers it then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Hole {
    /// From one node to another.
    Between(NodeIx, NodeIx),
    /// Into this end of one stream, while others pass: as in front of a link with a smaller MTU that does not say so.
    Stream(End),
}

/// All streams, and where they are cut.
pub(super) struct Wire {
    /// What a sender's and a receiver's kernel take in before a write blocks.
    kernel_bytes: usize,
    directions: BTreeMap<End, Direction>,
    /// How often each is cut: it passes again when all cuts are mended.
    holes: BTreeMap<Hole, u32>,
    /// What has arrived at a hole, in order, per receiving end and with its number.
    held: BTreeMap<End, VecDeque<(u64, Cargo)>>,
    held_so_far: u64,
    /// Between datacenters, bytes per second.
    bandwidth: Option<u64>,
    /// When what was sent between two datacenters is through.
    busy_until: BTreeMap<(usize, usize), Micros>,
}

impl Wire {
    pub(super) fn new(kernel_bytes: usize, bandwidth: Option<u64>) -> Self {
        Self {
            kernel_bytes,
            directions: BTreeMap::new(),
            holes: BTreeMap::new(),
            held: BTreeMap::new(),
            held_so_far: 0,
            bandwidth,
            busy_until: BTreeMap::new(),
        }
    }

    pub(super) fn connect(&mut self, a: End, b: End) {
        for (from, to) in [(a, b), (b, a)] {
            self.directions.insert(from, Direction { to, last_at: Micros(0), buffered: 0, closed: false });
        }
    }

    /// The other end, while the stream is open.
    pub(super) fn peer(&self, from: End) -> Option<End> {
        self.directions.get(&from).filter(|direction| !direction.closed).map(|direction| direction.to)
    }

    /// The other end, open or closed, as long as this end is remembered.
    pub(super) fn other(&self, end: End) -> Option<End> {
        self.directions.get(&end).map(|direction| direction.to)
    }

    /// When something sent now, from one datacenter to another, arrives.
    pub(super) fn send(
        &mut self,
        from: End,
        bytes: usize,
        sites: (usize, usize),
        delay: Duration,
        now: Micros,
    ) -> Option<(Micros, End)> {
        let direction = self.directions.get_mut(&from).filter(|direction| !direction.closed)?;
        direction.buffered += bytes;
        let mut through = now;
        if let Some(bandwidth) = self.bandwidth.filter(|_| sites.0 != sites.1) {
            let busy_until = self.busy_until.entry(sites).or_default();
            let takes_us = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / bandwidth;
            *busy_until = (*busy_until).max(now) + Duration::from_micros(takes_us);
            through = *busy_until;
        }
        direction.last_at = direction.last_at.max(through + delay);
        Some((direction.last_at, direction.to))
    }

    /// Nothing more comes from this end.
    pub(super) fn close(&mut self, from: End) {
        if let Some(direction) = self.directions.get_mut(&from) {
            direction.closed = true;
        }
    }

    /// How much a write of this end takes at once.
    pub(super) fn room(&self, from: End) -> usize {
        match self.directions.get(&from) {
            Some(direction) if !direction.closed => self.kernel_bytes.saturating_sub(direction.buffered),
            _ => usize::MAX,
        }
    }

    /// A write of this end that found no room may go on. Not before half of it is free, as of a socket.
    pub(super) fn has_room(&self, from: End) -> bool {
        self.room(from) >= self.kernel_bytes / 2
    }

    /// The end `to` read bytes. Gives the end whose write may go on.
    pub(super) fn read(&mut self, to: End, bytes: usize) -> Option<End> {
        let from = self.directions.get(&to)?.to;
        let direction = self.directions.get_mut(&from)?;
        direction.buffered = direction.buffered.saturating_sub(bytes);
        Some(from)
    }

    pub(super) fn forget(&mut self, end: End) {
        self.directions.remove(&end);
    }

    /// All open ends, in order.
    pub(super) fn ends(&self) -> Vec<End> {
        self.directions.iter().filter(|(_, direction)| !direction.closed).map(|(end, _)| *end).collect()
    }

    pub(super) fn cut(&mut self, hole: Hole) {
        *self.holes.entry(hole).or_default() += 1;
    }

    pub(super) fn is_cut(&self, hole: Hole) -> bool {
        self.holes.contains_key(&hole)
    }

    /// Nothing reaches this end now.
    pub(super) fn is_cut_off(&self, to: End) -> bool {
        if self.holes.is_empty() {
            return false;
        }
        let between = self.other(to).map(|from| Hole::Between(from.node, to.node));
        self.is_cut(Hole::Stream(to)) || between.is_some_and(|hole| self.is_cut(hole))
    }

    /// Keeps what cannot reach its end.
    pub(super) fn hold(&mut self, to: End, cargo: Cargo) {
        self.held_so_far += 1;
        self.held.entry(to).or_default().push_back((self.held_so_far, cargo));
    }

    /// Ends a cut of each. What was held by it arrives in the order it came, unless something else holds it still.
    pub(super) fn mend(&mut self, holes: &[Hole]) -> Vec<(End, Cargo)> {
        for hole in holes {
            match self.holes.get_mut(hole) {
                Some(cuts) if *cuts > 1 => *cuts -= 1,
                _ => drop(self.holes.remove(hole)),
            }
        }
        let mut free = Vec::new();
        for end in self.held.keys().copied().filter(|end| !self.is_cut_off(*end)).collect::<Vec<_>>() {
            let held = self.held.remove(&end).into_iter().flatten();
            free.extend(held.map(|(number, cargo)| (number, end, cargo)));
        }
        free.sort_by_key(|(number, ..)| *number);
        free.into_iter().map(|(_, end, cargo)| (end, cargo)).collect()
    }

    /// What is held of a stream is lost.
    pub(super) fn lose(&mut self, to: End) {
        self.held.remove(&to);
    }
}
