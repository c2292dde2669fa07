//! Stats and status of one node → metric families.

use std::collections::BTreeMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use trunkline_mesh::stats::{DatacenterStats, LinkStatus, SecurityStatus};
use trunkline_mesh::{Datacenter, FailReason, NodeId, Stats, Status};

use super::catalog;
use super::family::{Spec, flag, float, seconds, signed_seconds};

/// Where the numbers come from.
pub(super) type Source = Box<dyn Fn() -> (Stats, Status) + Send + Sync>;

/// All families of one node.
pub(super) struct Node {
    descs: Vec<Desc>,
    source: Source,
}

impl Node {
    pub(super) fn new(source: Source) -> Self {
        Self { descs: catalog::ALL.iter().map(|spec| spec.desc()).collect(), source }
    }
}

impl Collector for Node {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (stats, status) = (self.source)();
        let mut families = process(&stats, &status);
        families.extend(sender(&stats, &status));
        families.extend(proxy(&stats, &status));
        families.extend(member(&stats, &status));
        families.extend(links(&status));
        families.extend(handshakes(&stats, &status.security));
        families
    }
}

fn process(stats: &Stats, status: &Status) -> Vec<MetricFamily> {
    vec![
        catalog::BUILD_INFO.family().value(&[env!("CARGO_PKG_VERSION")], 1.0).done(),
        catalog::UPTIME.family().value(&[], float(status.uptime_s)).done(),
        catalog::DRAINING.family().value(&[], flag(status.draining)).done(),
        catalog::LOOP_LAG.family().latencies(&[], &stats.event_loop_lag).done(),
    ]
}

fn sender(stats: &Stats, status: &Status) -> Vec<MetricFamily> {
    let datacenters = || stats.datacenters.iter().map(|(name, row)| (name.as_str(), row));
    let attempts = &stats.attempts;
    let attempts = [
        ("acked", attempts.acked),
        ("refused", attempts.refused),
        ("timed_out", attempts.timed_out),
        ("lost", attempts.lost),
    ];
    let fallbacks = &stats.fallbacks;
    let fallbacks = [
        ("proxy_timeout", fallbacks.proxy_timeout),
        ("proxy_closed", fallbacks.proxy_closed),
        ("proxy_draining", fallbacks.proxy_draining),
        ("member_unreachable", fallbacks.member_unreachable),
        ("direct", fallbacks.direct),
    ];
    let mut families = vec![
        catalog::MESSAGES.family().each(datacenters(), |f, (dc, row)| f.count(&[dc], row.messages)).done(),
        catalog::FRAMES.family().each(datacenters(), |f, (dc, row)| f.count(&[dc], row.frames)).done(),
        catalog::DELIVERED
            .family()
            .each(datacenters(), |f, (dc, row)| {
                f.count(&[dc, "proxy"], row.delivered_by_proxy)
                    .count(&[dc, "direct"], row.delivered_direct)
                    .count(&[dc, "back"], row.delivered_back)
            })
            .done(),
        catalog::FAILED
            .family()
            .each(datacenters(), |f, (dc, row)| {
                f.each(failures(row), |f, (reason, count)| f.count(&[dc, reason], count))
            })
            .done(),
        catalog::ATTEMPTS.family().each(attempts, |f, (outcome, count)| f.count(&[outcome], count)).done(),
        catalog::FALLBACKS.family().each(fallbacks, |f, (reason, count)| f.count(&[reason], count)).done(),
        catalog::VERDICTS
            .family()
            .each(&stats.verdicts, |f, (verdict, count)| f.count(&[verdict], *count))
            .done(),
        catalog::RESENT_BYTES.family().count(&[], stats.resent_bytes).done(),
        catalog::FALSE_ACKS.family().count(&[], stats.false_acks).done(),
        catalog::BUSY.family().count(&[], stats.busy).done(),
        catalog::UNREMEMBERED_FRAMES.family().count(&[], stats.unremembered_frames).done(),
        catalog::SENT_BYTES
            .family()
            .each(datacenters(), |f, (dc, row)| {
                f.count(&[dc, "logical"], row.sent.logical)
                    .count(&[dc, "diff"], row.sent.diff)
                    .count(&[dc, "second_stage"], row.sent.second_stage)
                    .count(&[dc, "wire"], row.sent.wire)
            })
            .done(),
        catalog::ECHOED_BYTES.family().each(datacenters(), |f, (dc, row)| f.count(&[dc], row.echoed)).done(),
        catalog::RECEIVED_BYTES
            .family()
            .each(datacenters(), |f, (dc, row)| f.count(&[dc], row.received_wire))
            .done(),
        catalog::ACK_LATENCY
            .family()
            .each(datacenters(), |f, (dc, row)| f.latencies(&[dc], &row.ack_latency))
            .done(),
    ];
    families.extend(routes(status));
    families
}

/// A count for every reason there is, touched or not.
fn failures(row: &DatacenterStats) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<&'static str, u64> =
        FailReason::ALL.iter().map(|reason| (reason.label(), 0)).collect();
    counts.extend(row.failed.iter().map(|(reason, count)| (*reason, *count)));
    counts
}

const ROUTE_STATES: [&str; 5] = ["up", "down", "draining", "snoozed", "ejected"];

fn routes(status: &Status) -> Vec<MetricFamily> {
    let datacenters = || status.datacenters.iter().map(|datacenter| (datacenter.name.as_str(), datacenter));
    let routes = || {
        datacenters().flat_map(|(dc, datacenter)| {
            datacenter.routes.iter().map(move |route| ([dc, route.proxy.as_str()], route))
        })
    };
    vec![
        catalog::QUEUE_BYTES
            .family()
            .each(datacenters(), |f, (dc, row)| f.value(&[dc], float(row.queued_bytes)))
            .done(),
        catalog::PENDING
            .family()
            .each(datacenters(), |f, (dc, row)| f.value(&[dc], float(row.pending_messages)))
            .done(),
        catalog::UNREACHED
            .family()
            .each(datacenters(), |f, (dc, row)| f.value(&[dc], float(row.unreached_destinations)))
            .done(),
        catalog::UNTAKEN
            .family()
            .each(datacenters(), |f, (dc, row)| f.value(&[dc], float(row.untaken_destinations)))
            .done(),
        catalog::WITHOUT_ROOM
            .family()
            .each(datacenters(), |f, (dc, row)| f.value(&[dc], float(row.flows_without_room)))
            .done(),
        // A row appears with the first word of a destination: 0 would read as no room at all.
        catalog::LEAST_ROOM
            .family()
            .each(datacenters(), |f, (dc, row)| {
                f.each(row.least_room_bytes, |f, bytes| f.value(&[dc], float(bytes)))
            })
            .done(),
        catalog::ROUTE_IN_USE
            .family()
            .each(routes(), |f, (labels, route)| f.value(&labels, flag(route.in_use)))
            .done(),
        catalog::ROUTE_STATE
            .family()
            .each(routes(), |f, ([dc, proxy], route)| {
                f.each(ROUTE_STATES, |f, state| f.value(&[dc, proxy, state], flag(route.state == state)))
            })
            .done(),
        catalog::ROUTE_SNOOZED
            .family()
            .each(routes(), |f, (labels, route)| f.value(&labels, float(route.snoozed_ms) / 1e3))
            .done(),
        catalog::ROUTE_TIMEOUT
            .family()
            .each(routes(), |f, (labels, route)| f.value(&labels, float(route.attempt_timeout_ms) / 1e3))
            .done(),
    ]
}

fn proxy(stats: &Stats, status: &Status) -> Vec<MetricFamily> {
    let proxy = &stats.proxy;
    vec![
        catalog::PROXY_FRAMES.family().count(&[], proxy.frames).done(),
        catalog::PROXY_RUNS.family().count(&[], proxy.runs).done(),
        catalog::PROXY_FORWARDED.family().count(&[], proxy.forwarded).done(),
        catalog::PROXY_FORWARDED_BYTES.family().count(&[], proxy.forwarded_bytes).done(),
        catalog::PROXY_ANSWERS.family().count(&[], proxy.answers).done(),
        catalog::PROXY_ANSWER_FRAMES.family().count(&[], proxy.answer_frames).done(),
        catalog::PROXY_REFUSED
            .family()
            .each(&proxy.refused, |f, (reason, count)| f.count(&[reason], *count))
            .done(),
        catalog::PROXY_QUEUE_BYTES.family().value(&[], float(status.proxy_queue_bytes)).done(),
        catalog::HOP_LATENCY.family().latencies(&[], &proxy.hop_latency).done(),
    ]
}

fn member(stats: &Stats, status: &Status) -> Vec<MetricFamily> {
    let member = &stats.member;
    vec![
        catalog::MEMBER_HANDED_OVER.family().count(&[], member.handed_over).done(),
        catalog::MEMBER_HANDED_OVER_BYTES.family().count(&[], member.handed_over_bytes).done(),
        catalog::MEMBER_DUPLICATES.family().count(&[], member.duplicates).done(),
        catalog::MEMBER_SKIPPED.family().count(&[], member.skipped).done(),
        catalog::MEMBER_FALSE_LIVES.family().count(&[], member.false_lives).done(),
        catalog::MEMBER_FALSE_FLOORS.family().count(&[], member.false_floors).done(),
        catalog::MEMBER_REFUSED
            .family()
            .each(&member.refused, |f, (reason, count)| f.count(&[reason], *count))
            .done(),
        catalog::INBOX_BYTES.family().value(&[], float(status.inbox_bytes)).done(),
        catalog::INBOX_UNTAKEN.family().value(&[], float(status.inbox_untaken_ms) / 1e3).done(),
        catalog::HELD_BYTES.family().value(&[], float(status.held_bytes)).done(),
    ]
}

fn links(status: &Status) -> Vec<MetricFamily> {
    // Two peers that dial each other have two links: one row per peer all the same, of the better one. Whoever accepted a link
    // measures nothing on it, so of two that are up the one that was dialled says more.
    let rank = |link: &LinkStatus| (link.up, link.rtt_us.is_some());
    let mut peers: BTreeMap<(&NodeId, &Datacenter), &LinkStatus> = BTreeMap::new();
    for link in &status.links {
        let row = peers.entry((&link.peer, &link.datacenter)).or_insert(link);
        if rank(link) > rank(row) {
            *row = link;
        }
    }
    let peers = || peers.iter().map(|((peer, dc), link)| ([peer.as_str(), dc.as_str()], *link));
    // A row of these appears with the first sample: 0 would read as no distance at all.
    let sampled = |family: &'static Spec, value: fn(&LinkStatus) -> Option<f64>| {
        let known = peers().filter_map(|(labels, link)| Some((labels, value(link)?)));
        family.family().each(known, |f, (labels, value)| f.value(&labels, value)).done()
    };
    vec![
        catalog::LINK_UP.family().each(peers(), |f, (labels, link)| f.value(&labels, flag(link.up))).done(),
        catalog::PEER_DOWN
            .family()
            .each(status.down.iter().filter(|down| down.dialled), |f, down| {
                f.value(&[down.peer.as_str(), down.datacenter.as_str()], float(down.down_ms) / 1e3)
            })
            .done(),
        sampled(&catalog::LINK_RTT, |link| link.rtt_us.map(seconds)),
        sampled(&catalog::LINK_RTT_MIN, |link| link.rtt_min_us.map(seconds)),
        sampled(&catalog::LINK_CLOCK_OFFSET, |link| link.clock_offset_us.map(signed_seconds)),
    ]
}

/// No row without certificates.
fn until(family: &'static Spec, expires_in_s: Option<i64>) -> MetricFamily {
    let left = |s: i64| signed_seconds(s.saturating_mul(1_000_000));
    family.family().each(expires_in_s, |f, s| f.value(&[], left(s))).done()
}

fn handshakes(stats: &Stats, security: &SecurityStatus) -> Vec<MetricFamily> {
    vec![
        catalog::HANDSHAKES.family().count(&[], stats.handshakes).done(),
        catalog::HANDSHAKES_REFUSED
            .family()
            .each(&stats.handshakes_refused, |f, (code, count)| f.count(&[code, "us"], *count))
            .each(&stats.handshakes_refused_by_peer, |f, (code, count)| f.count(&[code, "peer"], *count))
            .done(),
        catalog::PROTOCOL_ERRORS
            .family()
            .each(&stats.protocol_errors, |f, (error, count)| f.count(&[error], *count))
            .done(),
        catalog::LINKS_ENDED
            .family()
            .each(&stats.links_ended, |f, (reason, count)| f.count(&[reason], *count))
            .done(),
        catalog::DIALS.family().count(&[], stats.dials).done(),
        catalog::DIALS_FAILED.family().count(&[], stats.dials_failed).done(),
        catalog::TLS_FAILED
            .family()
            .each(&stats.tls.handshakes_failed, |f, (reason, count)| f.count(&[reason], *count))
            .done(),
        until(&catalog::CERTIFICATE_EXPIRY, stats.tls.expires_in_s),
        until(&catalog::CA_EXPIRY, security.authorities.first().map(|first| first.expires_in_s)),
        catalog::CERTIFICATE_INVALID.family().value(&[], flag(security.certificate_fault.is_some())).done(),
        catalog::CERTIFICATE_FILES_WRONG.family().value(&[], flag(security.not_taken.is_some())).done(),
        catalog::CERTIFICATE_RELOADS
            .family()
            .count(&["ok"], stats.tls.reloads)
            .count(&["failed"], stats.tls.reloads_failed)
            .done(),
        catalog::ACCEPT_ERRORS.family().count(&[], stats.accept_errors).done(),
        catalog::ACKS_IGNORED.family().count(&[], stats.acks_ignored).done(),
    ]
}
