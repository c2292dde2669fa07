//! The faulty wire: pairs of byte streams with delay, chopped at random, that can be cut, reset, and fill up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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

/// All streams, and where they are cut.
pub(super) struct Wire {
    /// What a sender's and a receiver's kernel take in before a write blocks.
    kernel_bytes: usize,
    directions: BTreeMap<End, Direction>,
    /// From datacenter, to datacenter.
    cut: BTreeSet<(usize, usize)>,
    held: BTreeMap<(usize, usize), VecDeque<(End, Cargo)>>,
}

impl Wire {
    pub(super) fn new(kernel_bytes: usize) -> Self {
        let (directions, cut, held) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { kernel_bytes, directions, cut, held }
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

    /// When something sent now arrives.
    pub(super) fn send(
        &mut self,
        from: End,
        bytes: usize,
        delay: Duration,
        now: Micros,
    ) -> Option<(Micros, End)> {
        let direction = self.directions.get_mut(&from).filter(|direction| !direction.closed)?;
        direction.buffered += bytes;
        direction.last_at = direction.last_at.max(now + delay);
        Some((direction.last_at, direction.to))
    }

    /// Nothing more comes from this end.
    pub(super) fn close(&mut self, from: End) {
        if let Some(direction) = self.directions.get_mut(&from) {
            direction.closed = true;
        }
    }

    /// A write of this end would block.
    pub(super) fn is_full(&self, from: End) -> bool {
        self.directions
            .get(&from)
            .is_some_and(|direction| !direction.closed && direction.buffered > self.kernel_bytes)
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

    pub(super) fn cut(&mut self, pair: (usize, usize)) {
        self.cut.insert(pair);
    }

    pub(super) fn is_cut(&self, pair: (usize, usize)) -> bool {
        self.cut.contains(&pair)
    }

    /// Keeps what would have passed a cut.
    pub(super) fn hold(&mut self, pair: (usize, usize), to: End, cargo: Cargo) {
        self.held.entry(pair).or_default().push_back((to, cargo));
    }

    /// Ends a cut; TCP delivers what was held.
    pub(super) fn heal(&mut self, pair: (usize, usize)) -> VecDeque<(End, Cargo)> {
        self.cut.remove(&pair);
        self.held.remove(&pair).unwrap_or_default()
    }
}
