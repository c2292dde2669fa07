//! What links counted, and what they are now, for people and for metrics.

use super::{Link, Links};
use crate::id::Lane;
use crate::stats::connection::ConnectionStatus;
use crate::stats::{LinkStatus, Stats};

impl Links {
    /// Adds what links counted to the node's stats.
    pub fn add_to(&self, stats: &mut Stats) {
        let counters = &self.counters;
        stats.handshakes = counters.handshakes;
        stats.handshakes_refused = counters.refused.clone();
        stats.handshakes_refused_by_peer = counters.refused_by_peer.clone();
        stats.protocol_errors = counters.protocol_errors.clone();
        stats.links_ended = counters.ended.clone();
        stats.dials = counters.dials;
        stats.dials_failed = counters.dials_failed;
        stats.unremembered_frames = counters.unremembered;
        for (name, place) in &self.datacenters {
            let row = stats.datacenters.entry(name.clone()).or_default();
            (row.sent.wire, row.received_wire) = counters.wire[*place];
        }
    }

    /// All links, for people.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        self.links
            .values()
            .map(|link| {
                let spec = self.spec(link.peer);
                // A sample has all three, and an accepted link has none.
                let sampled = !link.rtt.is_empty();
                LinkStatus {
                    peer: spec.id.clone(),
                    datacenter: spec.datacenter.clone(),
                    dialled: link.dialled,
                    up: link.up,
                    draining: link.draining,
                    incarnation: link.incarnation,
                    version: link.version,
                    rtt_us: sampled.then(|| link.rtt.smoothed_us()),
                    rtt_min_us: sampled.then(|| link.rtt.min_us()),
                    clock_offset_us: sampled.then(|| self.wall.offset_us(link.offset.us())),
                    connections: Lane::ALL.into_iter().filter_map(|lane| connection(link, lane)).collect(),
                }
            })
            .collect()
    }
}

fn connection(link: &Link, lane: Lane) -> Option<ConnectionStatus> {
    let conn = link.conns[lane.index()]?;
    Some(ConnectionStatus { conn: conn.0, lane: lane.label(), socket: None })
}
