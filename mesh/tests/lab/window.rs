//! Kernels that take a frame in parts: no more is under way on a connection than its buffers and the way hold.

use super::*;

impl Lab {
    /// Nothing comes over the connections of a lane from one node to another any more, until they are gone; others pass.
    pub(crate) fn stop_lane(&mut self, from: &str, to: &str, lane: Lane) {
        let (from, to) = (self.index(from), self.index(to));
        let of_lane = |(end, known): (&End, &Lane)| (end.0 == from && *known == lane).then_some(*end);
        for end in self.lanes.iter().filter_map(of_lane).collect::<Vec<_>>() {
            let peer = self.conn(end).and_then(|conn| conn.peer).filter(|peer| peer.0 == to);
            self.holes.extend(peer);
        }
    }

    /// What was held by such holes arrives now, and they are gone.
    pub(crate) fn mend_lanes(&mut self) {
        self.holes.clear();
        self.mend();
    }

    /// A write: as much of it as there is room for.
    pub(super) fn take(&mut self, end: End, bytes: Bytes) {
        let peer = self.conn(end).and_then(|conn| conn.peer);
        let far = peer.is_some_and(|peer| self.hosts[peer.0].datacenter != self.hosts[end.0].datacenter);
        let Some(window) = self.window_bytes.filter(|_| far) else { return self.push(end, bytes) };
        let now = self.now;
        let host = &mut self.hosts[end.0];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&end.1)) else { return };
        conn.untaken = bytes;
        let room = window.saturating_sub(conn.unacked).min(conn.untaken.len());
        // As a socket does: not for every packet.
        if room < conn.untaken.len() && room < window / 2 {
            return;
        }
        let part = conn.untaken.split_to(room);
        conn.unacked += room;
        if !conn.untaken.is_empty() {
            node.handle_progress(end.1, now);
        }
        self.push(end, part);
    }

    /// The other end's kernel has so many bytes, and says so.
    pub(super) fn acknowledge(&mut self, from: Option<End>, to: End, bytes: usize) {
        if let Some(from) = from.filter(|_| self.window_bytes.is_some()) {
            let delay = self.line(&self.pair(to.0, from.0)).delay;
            self.at(self.now + delay, Event::Acked { from, bytes });
        }
    }

    pub(super) fn acked(&mut self, from: End, bytes: usize) {
        let Some(conn) = self.conn(from) else { return };
        conn.unacked = conn.unacked.saturating_sub(bytes);
        if !conn.untaken.is_empty() {
            let rest = std::mem::take(&mut conn.untaken);
            self.take(from, rest);
            self.pump(from.0);
        }
    }
}
