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
    /// `proxy`, `direct`, or `wait` when there was no way.
    pub way: &'static str,
    /// Through which proxy, if through one.
    pub proxy: Option<NodeId>,
    /// `in_use`: the proxy in use. `next`: that one is left alone by this destination. `trial`: its snooze is over and it
    /// has delivered nothing yet. `local`: the sender stands in that datacenter. `no_proxy`: the datacenter has none.
    /// `proxies_passed`: none would do, see `passed`. When it waits, `receiver_full`; `dialling`: the direct link is not
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
    /// `proxy` or `direct`.
    pub way: &'static str,
    /// Which proxy, if it is one.
    pub proxy: Option<NodeId>,
    /// `not_linked`; `draining`: it is going away; `snoozed`: it delivered nothing in time to several destinations. Or
    /// what failed this destination there a moment ago: `timed_out`, `dial_failed`, `frame_limit` (the peer takes no
    /// frame that long), or the reason of a refusal: `unreachable`, `link_lost`, `not_served` and so on.
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
    /// `proxy`, `direct`, or `link` for a peer that is no destination of this node, as a proxy: then only the link was used.
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
