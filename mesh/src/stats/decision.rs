//! Which ways messages took, and why: what answers "why did this go direct?".

use serde::Serialize;

use super::DatacenterStatus;
use crate::id::{Lane, NodeId};

/// One decision of a sender about a destination and lane. Decisions that are equal and follow each other are one entry
/// that counts them, so that a busy way does not push out what is worth reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Rises by one per entry of a datacenter.
    pub number: u64,
    /// To whom.
    pub destination: NodeId,
    /// `control` or `bulk`.
    pub lane: &'static str,
    /// Which attempt of its messages it was: 1 for the first.
    pub attempt: u32,
    /// `proxy`, `direct`, `back`: with others' answers through a proxy of this node's own datacenter, or `wait` when there was no way.
    pub way: &'static str,
    /// Through which proxy, if through one.
    pub proxy: Option<NodeId>,
    /// `in_use`: the proxy in use. `next`: that one is left alone by this destination. `trial`: its snooze is over and it
    /// has delivered nothing yet. `probe`: it alone was silent, and is asked directly. `local`: the sender stands in that
    /// datacenter. `back`: the destination is heard through that proxy. `no_proxy`: the datacenter has none.
    /// `proxies_passed`: none would do, see `passed`. When it waits, `receiver_full`; `proxy_dialled`: the first link to any
    /// proxy there is not up; `dialling`: the direct link is not
    /// up; `all_avoided`: every way failed it a moment ago.
    pub why: &'static str,
    /// It sends single messages until one is answered, after failures in a row.
    pub probing: bool,
    /// The ways that were passed over.
    pub passed: Vec<PassedWay>,
    /// How often in a row.
    pub times: u64,
    /// When first, ms since 1970.
    pub first_unix_ms: u64,
    /// When last, ms since 1970.
    pub last_unix_ms: u64,
}

/// A way that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedWay {
    /// `proxy`, `direct` or `back`.
    pub way: &'static str,
    /// Which proxy, if it is one.
    pub proxy: Option<NodeId>,
    /// `not_linked`; `draining`: it is going away; `snoozed`: it delivered nothing in time to several destinations;
    /// `ejected`: destinations say that it acknowledged what they never had; `still`: its connection of this lane takes nothing more. Or
    /// what failed this destination there a moment ago: `timed_out`, `dial_failed`, `frame_limit` (the peer takes no
    /// frame that long), `false_ack` (the destination says that it acknowledged what it never had), or the reason of a refusal: `unreachable`, `link_lost`, `not_served` and so on.
    pub why: &'static str,
    /// For how long it was then still to be left alone, ms; `None` where that is not known.
    pub left_ms: Option<u64>,
}

/// A datacenter as a sender reaches it, and how it came to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatacenterRoutes {
    /// How it is reached now.
    #[serde(flatten)]
    pub status: DatacenterStatus,
    /// Entries that made room for later ones.
    pub decisions_forgotten: u64,
    /// The latest decisions, the latest entry first.
    pub decisions: Vec<Decision>,
    /// Whom this sender blamed for silence, the latest entry first.
    pub verdicts: Vec<Verdict>,
}

/// Whom a sender blamed when nobody answered in time, or an ack was false, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `proxy`: it delivered nothing to several destinations, and is left alone. `connection`: the same on one lane, while its
    /// other connection brings answers, or one that takes nothing more; that lane leaves it. `member`: one destination is silent, and
    /// is asked directly. `datacenter`: all its proxies are late at once, and none is left alone for it. `capped`: a proxy,
    /// but half of them are left alone already. `own_lag`: this process was late itself, and waits longer. `false_ack`: a
    /// destination says that the proxy acknowledged what it never had, and avoids it. `ejected`: several say so.
    /// `false_life`: a destination says that it does not live the life that the proxy said, and avoids it.
    /// `false_hold`: it does not have what the proxy said it holds, as another way says, and gets it again.
    pub verdict: &'static str,
    /// The proxy that the messages went through; `None` if they went directly.
    pub proxy: Option<NodeId>,
    /// The silent destination, or the one that reports, if it is one.
    pub destination: Option<NodeId>,
    /// Destinations that say of late that the proxy acknowledged what they never had; at most eight of them.
    pub reported_by: Vec<NodeId>,
    /// The proxy that the latest such report came through, and which may have made it up; `None` if the destination said it
    /// over its own link.
    pub carried_by: Option<NodeId>,
    /// What was seen, the last time.
    pub evidence: VerdictEvidence,
    /// How often in a row.
    pub times: u64,
    /// When first, ms since 1970.
    pub first_unix_ms: u64,
    /// When last, ms since 1970.
    pub last_unix_ms: u64,
}

/// What a verdict follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VerdictEvidence {
    /// Destinations of the attempt that said nothing; of a report, messages that never were there.
    pub silent: u64,
    /// The same, with the destinations that avoid the proxy already.
    pub suspects: u64,
    /// The proxy answered something that was written as late.
    pub answers: bool,
    /// Something of the other lane was that was written as late.
    pub other_lane: bool,
    /// Silent destinations of which something of the other lane was.
    pub elsewhere: u64,
    /// It had been left alone, and this was its trial.
    pub on_trial: bool,
    /// By this lane alone, so that it was the trial of its connection.
    pub lane_on_trial: bool,
    /// Proxies that the datacenter has.
    pub proxies: u64,
    /// Other proxies with a link.
    pub others: u64,
    /// Those of them that were late as well.
    pub others_late: u64,
    /// Other proxies that were left alone, or ejected.
    pub others_snoozed: u64,
    /// How long nothing at all was heard of any proxy of the datacenter, ms; `None` where none is linked. Pings are answered every
    /// `ping_interval` while the way there and back carries anything: beyond that it is the way, or all of them are down.
    pub unheard_ms: Option<u64>,
}

/// All ways of one node; served as JSON by the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoutesStatus {
    /// This node.
    pub node: NodeId,
    /// It may send. One that may not has no ways.
    pub origin: bool,
    /// This node's clock, ms since 1970.
    pub now_unix_ms: u64,
    /// All datacenters.
    pub datacenters: Vec<DatacenterRoutes>,
}

/// One round trip through the mesh, asked for by [`Mesh::ping`](crate::Mesh::ping).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pinged {
    /// To whom.
    pub node: NodeId,
    /// `proxy`, `direct`, `back`, or `link` for a peer that is no destination of this node, as a proxy: then only the link was used.
    pub way: &'static str,
    /// Through which proxy, if through one.
    pub proxy: Option<NodeId>,
    /// From the write to the answer, µs.
    pub rtt_us: u64,
    /// Attempts that it took.
    pub attempts: u32,
    /// Peer's clock minus ours, µs, where this node has a link of its own to it.
    pub clock_offset_us: Option<i64>,
}

/// How a lane is called here.
pub(crate) fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Bulk => "bulk",
    }
}
