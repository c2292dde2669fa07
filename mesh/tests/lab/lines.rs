//! What is between datacenters.

use std::time::Duration;

use super::{Event, Lab, Pair, dc};

/// What two datacenters have between them, in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// How long a byte is under way.
    pub(crate) delay: Duration,
    /// Bytes per second that all streams share, a packet of each in turn; `None`: no limit.
    pub(crate) rate: Option<u64>,
}

impl Lab {
    /// Changes what is between two datacenters, in both directions.
    pub(crate) fn set_line(&mut self, a: &str, b: &str, line: Line) {
        self.lines.insert((dc(a), dc(b)), line);
        self.lines.insert((dc(b), dc(a)), line);
    }

    /// Changes what is from one datacenter to another, and nothing in the other direction.
    pub(crate) fn set_way(&mut self, from: &str, to: &str, line: Line) {
        self.lines.insert((dc(from), dc(to)), line);
    }

    /// Nothing passes between a datacenter and all others any more, in either direction.
    pub(crate) fn cut_off(&mut self, name: &str) {
        let pairs = self.lines.keys().filter(|(a, b)| a.as_str() == name || b.as_str() == name).cloned();
        self.cut.extend(pairs.collect::<Vec<_>>());
    }

    /// Nothing passes between two nodes any more, in either direction.
    pub(crate) fn part(&mut self, a: &str, b: &str) {
        let (a, b) = (self.index(a), self.index(b));
        self.parted.extend([(a, b), (b, a)]);
    }

    /// All of it passes again.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
        self.parted.clear();
        for event in std::mem::take(&mut self.held) {
            self.at(self.now, event);
        }
    }

    /// What is under way to somewhere that it cannot reach.
    pub(super) fn is_cut_off(&self, event: &Event) -> bool {
        let (from, to) = match event {
            Event::Syn { from, to } => (from.0, *to),
            Event::Dialed { from, to: Some(to) } => (to.0, from.0),
            Event::Acked { from, .. } => {
                let Some(peer) = self.hosts[from.0].conns.get(&from.1).and_then(|conn| conn.peer) else {
                    return false;
                };
                (peer.0, from.0)
            }
            Event::Arrive { to, .. } | Event::Fin { to } if self.holes.contains(to) => return true,
            Event::Arrive { to, .. } | Event::Fin { to } => {
                let peer = self.hosts[to.0].conns.get(&to.1).and_then(|conn| conn.peer);
                let Some((peer, _)) = peer else { return false };
                (peer, to.0)
            }
            _ => return false,
        };
        self.parted.contains(&(from, to)) || !self.cut.is_empty() && self.cut.contains(&self.pair(from, to))
    }

    pub(super) fn pair(&self, from: usize, to: usize) -> Pair {
        (self.hosts[from].datacenter.clone(), self.hosts[to].datacenter.clone())
    }

    pub(super) fn line(&self, pair: &Pair) -> Line {
        self.lines.get(pair).copied().unwrap_or(Line { delay: self.local, rate: None })
    }
}
