//! What a node counted, as plain numbers: the machines stay free of metric libraries, an exporter reads a copy.

pub mod connection;
pub mod decision;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use self::connection::ConnectionStatus;
use crate::id::{Datacenter, Incarnation, NodeId};
use crate::message::FailReason;

/// Upper bounds of the latency buckets, µs; the last bucket is open.
pub const LATENCY_BUCKETS_US: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// A latency histogram with the bounds of [`LATENCY_BUCKETS_US`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// Observations per bucket, not cumulative; one more than there are bounds.
    pub buckets: [u64; LATENCY_BUCKETS_US.len() + 1],
    /// Sum of all observations, µs.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one observation.
    pub fn observe(&mut self, us: u64) {
        self.buckets[LATENCY_BUCKETS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what another one observed.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// The value that `percent` of the observations do not pass, µs, interpolated within its bucket; the largest bound
    /// if it lies in the open one. `None` without observations.
    #[must_use]
    pub fn percentile_us(&self, percent: u8) -> Option<u64> {
        let rank = (self.count() * u64::from(percent)).div_ceil(100).max(1);
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            if below + count >= rank {
                let low = index.checked_sub(1).map_or(0, |before| LATENCY_BUCKETS_US[before]);
                let Some(high) = LATENCY_BUCKETS_US.get(index) else { return Some(low) };
                return Some(low + (high - low) * (rank - below) / count);
            }
            below += count;
        }
        None
    }
}

/// Bytes sent towards one datacenter, by stage. `1 - wire / logical` is the share of WAN bytes saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageBytes {
    /// What the same messages would have cost sent directly: payload and framing, one frame per destination.
    pub logical: u64,
    /// After the diff.
    pub diff: u64,
    /// After the second stage.
    pub second_stage: u64,
    /// On the wire: all frames with headers, acks, pings and resends.
    pub wire: u64,
}

/// Counters for one datacenter, at a sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatacenterStats {
    /// Bytes sent, by stage.
    pub sent: StageBytes,
    /// Payload bytes that were not sent because the proxy there had sent them itself: named, each once for all of a
    /// frame's destinations.
    pub echoed: u64,
    /// Bytes of the frames received from there, as on the wire.
    pub received_wire: u64,
    /// Messages accepted for sending.
    pub messages: u64,
    /// Batch frames sealed.
    pub frames: u64,
    /// Messages delivered, their last attempt by proxy.
    pub delivered_by_proxy: u64,
    /// Messages delivered, their last attempt direct.
    pub delivered_direct: u64,
    /// Messages delivered, their last attempt by the way back: by a proxy of this node's own datacenter.
    pub delivered_back: u64,
    /// Messages given up, by [`FailReason::label`].
    pub failed: BTreeMap<&'static str, u64>,
    /// From when the first attempt was sealed to the ack.
    pub ack_latency: Histogram,
}

/// How attempts ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AttemptStats {
    /// Decided or held by the member.
    pub acked: u64,
    /// Refused by proxy or member.
    pub refused: u64,
    /// No ack in time.
    pub timed_out: u64,
    /// Their connection closed first.
    pub lost: u64,
}

/// Why messages left the route they were on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FallbackStats {
    /// The proxy delivered nothing in time.
    pub proxy_timeout: u64,
    /// The proxy's connection closed.
    pub proxy_closed: u64,
    /// The proxy is draining.
    pub proxy_draining: u64,
    /// The proxy could not reach the member.
    pub member_unreachable: u64,
    /// No proxy was usable.
    pub direct: u64,
}

/// Counters of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProxyStats {
    /// Batch frames received.
    pub frames: u64,
    /// Runs received, for members of this datacenter or from them. Each is passed on, refused, or still queued.
    pub runs: u64,
    /// Runs passed on.
    pub forwarded: u64,
    /// Payload bytes passed on.
    pub forwarded_bytes: u64,
    /// Those of the runs passed on that went from members of this datacenter to origins elsewhere.
    pub answers: u64,
    /// The frames in which these went.
    pub answer_frames: u64,
    /// Runs not passed on, by reason, whether or not their sender was still there to be told.
    pub refused: BTreeMap<&'static str, u64>,
    /// Frame received to run written to the member's connection.
    pub hop_latency: Histogram,
}

/// Counters of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemberStats {
    /// Messages handed over to the application's inbox.
    pub handed_over: u64,
    /// Payload bytes handed over.
    pub handed_over_bytes: u64,
    /// Messages that had been decided before and were discarded.
    pub duplicates: u64,
    /// Seqs skipped because their sender gave them up.
    pub skipped: u64,
    /// Later lives that a proxy told of an origin which does not live them, as that origin said itself.
    pub false_lives: u64,
    /// Floors that a proxy told of an origin which had not reached them, as that origin said itself.
    pub false_floors: u64,
    /// Messages refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// Certificates, and handshakes that failed over them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsStats {
    /// Until this node's certificate expires, s; below zero once it has. `None` without TLS.
    pub expires_in_s: Option<i64>,
    /// Certificates taken into use since the start.
    pub reloads: u64,
    /// Files that were not taken, each counted once for what is wrong with it.
    pub reloads_failed: u64,
    /// TLS handshakes that failed, and connections that TLS ended, by reason. Every reason is there.
    pub handshakes_failed: BTreeMap<&'static str, u64>,
}

/// Everything one node counted since its start, and a few gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Per datacenter, for senders.
    pub datacenters: BTreeMap<Datacenter, DatacenterStats>,
    /// How attempts ended.
    pub attempts: AttemptStats,
    /// Why routes were left.
    pub fallbacks: FallbackStats,
    /// Whom this sender blamed when nobody answered in time, by verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Bytes sent again to other datacenters because nobody answered in time, after the second stage.
    pub resent_bytes: u64,
    /// Messages that a proxy acknowledged, their senders were told *delivered*, and their destinations say they never
    /// had.
    pub false_acks: u64,
    /// `try_send` answered `Busy`, or `send` had to wait.
    pub busy: u64,
    /// Batch frames that no later one may refer to, because the other end of a bulk connection has not said for 4 MiB
    /// or 8,192 frames what arrived.
    pub unremembered_frames: u64,
    /// At a proxy.
    pub proxy: ProxyStats,
    /// At a member.
    pub member: MemberStats,
    /// Handshakes this node refused, by code label.
    pub handshakes_refused: BTreeMap<&'static str, u64>,
    /// Handshakes of this node that the peer refused, by code label.
    pub handshakes_refused_by_peer: BTreeMap<&'static str, u64>,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Connections closed because the peer broke the protocol, by error label.
    pub protocol_errors: BTreeMap<&'static str, u64>,
    /// Links that were up and ended, by reason.
    pub links_ended: BTreeMap<&'static str, u64>,
    /// Connections that were dialled: two per link.
    pub dials: u64,
    /// Those of them that failed before a handshake began.
    pub dials_failed: u64,
    /// Acks that named something this node does not know, ignored.
    pub acks_ignored: u64,
    /// Connections that could not be accepted, as when the process is out of descriptors. Counted by the shell.
    pub accept_errors: u64,
    /// Of certificates. Counted by the shell.
    pub tls: TlsStats,
    /// By how much alarms rang too late: the process had no CPU, or something in it took too long.
    pub event_loop_lag: Histogram,
}

impl DatacenterStats {
    /// Nothing was counted yet, and every reason is there.
    pub(crate) fn zero() -> Self {
        Self { failed: FailReason::ALL.iter().map(|reason| (reason.label(), 0)).collect(), ..Self::default() }
    }
}

/// One link as seen now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// The peer.
    pub peer: NodeId,
    /// Its datacenter.
    pub datacenter: Datacenter,
    /// True when this node dialled.
    pub dialled: bool,
    /// Both connections are through the handshake.
    pub up: bool,
    /// The peer said that it is going away.
    pub draining: bool,
    /// The peer's incarnation, 0 when not known.
    pub incarnation: Incarnation,
    /// The wire version that both ends speak, 0 before it is chosen.
    pub version: u16,
    /// Smoothed round trip, µs; `None` before the first sample. The side that dialled takes them.
    pub rtt_us: Option<u64>,
    /// Smallest round trip of the last minute or two on this link, µs; `None` before the first sample.
    pub rtt_min_us: Option<u64>,
    /// Peer's clock minus ours, µs, within ± half the smallest round trip; `None` before the first sample.
    pub clock_offset_us: Option<i64>,
    /// Its connections, control first; those that are not there yet, or no more, are left out.
    pub connections: Vec<ConnectionStatus>,
}

/// A peer that is to be linked all the time, and is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DownPeer {
    /// The peer.
    pub peer: NodeId,
    /// Its datacenter.
    pub datacenter: Datacenter,
    /// Its roles.
    pub roles: Vec<&'static str>,
    /// True when this node dials it, again and again; else the peer is to dial.
    pub dialled: bool,
    /// How long no such link has been up, ms; at most as long as this node runs.
    pub down_ms: u64,
    /// Dials in a row that came to no link, or to one that did not last.
    pub failures: u32,
    /// What went wrong last, for people; `None` while nothing has.
    pub why: Option<String>,
}

/// A sender's view of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// The proxy.
    pub proxy: NodeId,
    /// In use for new batches.
    pub in_use: bool,
    /// `up`, `down`, `draining`, `snoozed` or `ejected`.
    pub state: &'static str,
    /// How long it will still be left alone, ms.
    pub snoozed_ms: u64,
    /// Time an attempt waits for its ack at present, ms.
    pub attempt_timeout_ms: u64,
    /// A link to it is up.
    pub linked: bool,
    /// Smoothed round trip of the link's pings, µs; `None` before the first one.
    pub rtt_us: Option<u64>,
    /// Smoothed time from a write to its ack, µs; `None` before the first one.
    pub ack_us: Option<u64>,
    /// How often it was snoozed or ejected since the start.
    pub failures: u64,
    /// Destinations that say of late that it acknowledged what they never had, and avoid it; at most eight of them.
    pub reported_by: Vec<NodeId>,
    /// Its last snooze is over, and it has delivered nothing since.
    pub trial: bool,
}

/// A sender's view of one datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatacenterStatus {
    /// Its name.
    pub name: Datacenter,
    /// The sender stands in it: sends go direct.
    pub local: bool,
    /// Bytes charged to its budget.
    pub queued_bytes: u64,
    /// Messages queued or unacknowledged.
    pub pending_messages: u64,
    /// Destinations and lanes whose messages wait here because the receiver has no room for them.
    pub flows_without_room: u64,
    /// The least room that any of its destinations and lanes has, by its own word, less what is under way to it, bytes;
    /// `None` while none has said.
    pub least_room_bytes: Option<u64>,
    /// Destinations that nothing reaches at present: messages wait for 2 s or more, nothing was answered meanwhile, and attempts came
    /// to nothing. One that is full is none of them, for it answers.
    pub unreached_destinations: u64,
    /// Those of them to which messages wait longest; at most 32.
    pub unreached: Vec<UnreachedDestination>,
    /// Destinations that are full and have taken nothing for 10 s or more of what this node sent, on one lane at least: their
    /// applications take nothing. One that is slow and takes something is none of them.
    pub untaken_destinations: u64,
    /// Those of them that have taken nothing for longest; at most 32.
    pub untaken: Vec<UntakenDestination>,
    /// Its proxies.
    pub routes: Vec<RouteStatus>,
}

/// A destination that nothing reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreachedDestination {
    /// Its name.
    pub node: NodeId,
    /// For how long messages wait and nothing is answered, ms.
    pub unanswered_ms: u64,
    /// Messages queued or unacknowledged.
    pub pending_messages: u64,
    /// The last attempt that came to nothing, or how its only way is.
    #[serde(flatten)]
    pub last: LastTried,
}

/// A destination whose application takes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UntakenDestination {
    /// Its name.
    pub node: NodeId,
    /// For how long it has had what is next and taken nothing of it, ms.
    pub untaken_ms: u64,
    /// Messages queued or unacknowledged, those that it holds among them.
    pub pending_messages: u64,
}

/// The last attempt to reach a destination, which came to nothing. Where there is one way, in the node's own datacenter, an attempt waits
/// for its answer or for the link as long as that takes: then how that way is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastTried {
    /// Its way: `proxy`, `direct` or `back`.
    pub way: &'static str,
    /// Through which proxy, if through one.
    pub proxy: Option<NodeId>,
    /// What came of it: as [`PassedWay::why`](decision::PassedWay), or `silent` or `not_linked` of an only way.
    pub why: &'static str,
    /// What went wrong last with a link of this node's own to the destination, for people; `None` while nothing has, or it is up.
    pub link_why: Option<String>,
}

impl fmt::Display for LastTried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "by {proxy}")?,
            None => f.write_str("directly")?,
        }
        write!(f, ": {}", self.why)?;
        self.link_why.iter().try_for_each(|why| write!(f, "; its link: {why}"))
    }
}

/// A certificate, for people: a node's own, or one of a CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// Whom it is for: the URI of a node's, the distinguished name of a CA's.
    pub subject: String,
    /// Its serial number, as hexadecimal bytes: what a revocation list names it by.
    pub serial: String,
    /// Valid until, seconds since 1970.
    pub not_after_unix_s: i64,
    /// Until then, s; below zero once it has expired.
    pub expires_in_s: i64,
}

/// What is wrong with a node's own certificate, as the node judges itself: by its own clock, CAs and revocation list. Peers with the same
/// refuse it. Links that are up stay so for a day where only its time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CertificateFault {
    /// Its time is over.
    #[error(
        "its certificate has expired: no new link comes up, and those that are up end a day later; issue a new one"
    )]
    Expired,
    /// Its time has not come, by the clock of this machine.
    #[error("its certificate is not valid yet: set the clock of this machine")]
    NotYetValid,
    /// The revocation list that the node was given names it, or one between it and the CA.
    #[error("its certificate was revoked: peers that have the list end its links; issue a new one")]
    Revoked,
    /// No CA that the node trusts now issued it.
    #[error(
        "its certificate does not follow from the CAs that it trusts now: peers that trust the same refuse it"
    )]
    Untrusted,
}

/// How a node's links are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SecurityStatus {
    /// `tls`; `loopback`: plaintext that stays on this machine; `insecure`: plaintext.
    pub links: &'static str,
    /// This node's certificate; `None` without TLS.
    pub certificate: Option<CertificateStatus>,
    /// What is wrong with this node's certificate, by its own clock, CAs and revocation list.
    pub certificate_fault: Option<CertificateFault>,
    /// What is wrong with the certificate files as they are now, while the certificate that was read before is shown; else `None`.
    pub not_taken: Option<String>,
    /// The CAs that it trusts, the first to expire first, at most 16 of them.
    pub authorities: Vec<CertificateStatus>,
}

/// What the readiness of a node is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// It is going away.
    pub draining: bool,
    /// A link to a member of its own datacenter is up.
    pub reaches_member: bool,
    /// What is wrong with its certificate. Known to the shell; empty in what the machine says of itself.
    pub certificate_fault: Option<CertificateFault>,
}

/// What a node is and does now; served as JSON by the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its datacenter.
    pub datacenter: Datacenter,
    /// Its cluster, as text.
    pub cluster: String,
    /// Its roles.
    pub roles: Vec<&'static str>,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Time since start, s.
    pub uptime_s: u64,
    /// It is going away.
    pub draining: bool,
    /// How links are protected. Known to the shell; empty in what the machine says of itself.
    pub security: SecurityStatus,
    /// All links.
    pub links: Vec<LinkStatus>,
    /// Peers that are to be linked all the time and are not: proxies elsewhere and members here that this node dials, and
    /// those that are to dial it.
    pub down: Vec<DownPeer>,
    /// Senders only: all datacenters.
    pub datacenters: Vec<DatacenterStatus>,
    /// Proxies only: bytes queued for members.
    pub proxy_queue_bytes: u64,
    /// Members only: bytes in the inbox.
    pub inbox_bytes: u64,
    /// Members only: what the inbox has room for, bytes.
    pub inbox_bytes_max: u64,
    /// Members only: for how long the application has taken nothing of what is in the inbox, ms; 0 while nothing is.
    pub inbox_untaken_ms: u64,
    /// Members only: bytes held behind gaps, or because the inbox has no room.
    pub held_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_bounds_are_inclusive_and_the_last_is_open() {
        let mut histogram = Histogram::default();
        for us in [0, 50, 51, 10_000_000, 10_000_001] {
            histogram.observe(us);
        }
        assert_eq!(histogram.buckets[..4], [1, 0, 1, 1]);
        assert_eq!(histogram.buckets[17..], [1, 1]);
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn percentiles_lie_in_their_bucket() {
        assert_eq!(Histogram::default().percentile_us(50), None);
        let mut histogram = Histogram::default();
        for us in [20, 60, 70, 80, 90_000_000] {
            histogram.observe(us);
        }
        assert_eq!(histogram.percentile_us(20), Some(25));
        assert_eq!(histogram.percentile_us(50), Some(83), "second of three between 50 and 100");
        assert_eq!(histogram.percentile_us(99), Some(10_000_000));
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.percentile_us(50)), (10, Some(75)));
    }
}
