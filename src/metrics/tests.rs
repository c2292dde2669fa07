//! Scrapes are read back by a strict parser.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_mesh::stats::{
    CertificateStatus, DatacenterStats, DatacenterStatus, DownPeer, LinkStatus, RouteStatus, SecurityStatus,
    TlsStats,
};
use trunkline_mesh::{Datacenter, Incarnation, NodeId, Stats, Status};

use super::{MembersHeard, Metrics};
use crate::consensus::{Place, ReplicaId, Role, Sent, SnapshotBytes};
use crate::storage::EntryId;
use exposition::{Family, Labels, parse};

#[path = "../../tests/support/exposition.rs"]
mod exposition;

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn dc(name: &str) -> Datacenter {
    Datacenter::new(name).unwrap()
}

fn link(peer: &str, up: bool, rtt_us: Option<u64>) -> LinkStatus {
    LinkStatus {
        peer: node(peer),
        datacenter: dc("eu"),
        dialled: true,
        up,
        draining: false,
        incarnation: Incarnation(1),
        version: 1,
        rtt_us,
        rtt_min_us: rtt_us,
        clock_offset_us: rtt_us.map(|_| -1_500),
        connections: Vec::new(),
    }
}

/// A CA, as a status has them: the first to expire first.
fn authority(expires_in_s: i64) -> CertificateStatus {
    CertificateStatus { subject: String::new(), serial: String::new(), not_after_unix_s: 0, expires_in_s }
}

fn down(dialled: bool, down_ms: u64) -> DownPeer {
    let roles = vec!["member"];
    DownPeer { peer: node("us-m1"), datacenter: dc("us"), roles, dialled, down_ms, failures: 0, why: None }
}

fn status() -> Status {
    Status {
        node: node("us-leader"),
        datacenter: dc("us"),
        cluster: "test".to_owned(),
        roles: vec!["origin"],
        incarnation: Incarnation(1),
        uptime_s: 7,
        draining: false,
        links: vec![
            link("eu-p1", false, None),
            link("eu-p1", true, Some(25_000)),
            link("eu-p2", false, None),
            link("eu-m1", true, None),
            link("eu-m1", true, Some(7_000)),
            // Of one that is down, what was measured is of yesterday.
            link("eu-m2", false, Some(9_000)),
            link("eu-m2", true, None),
        ],
        security: SecurityStatus {
            authorities: [700, 900].map(authority).into(),
            ..SecurityStatus::default()
        },
        down: vec![down(true, 4_000), down(false, 2_500)],
        datacenters: vec![DatacenterStatus {
            name: dc("eu"),
            local: false,
            queued_bytes: 4096,
            pending_messages: 2,
            flows_without_room: 1,
            unreached_destinations: 3,
            unreached: Vec::new(),
            untaken_destinations: 2,
            untaken: Vec::new(),
            least_room_bytes: Some(4096),
            routes: vec![RouteStatus {
                proxy: node("eu-p1"),
                in_use: true,
                state: "snoozed",
                snoozed_ms: 1500,
                attempt_timeout_ms: 40,
                linked: true,
                rtt_us: Some(25_000),
                ack_us: None,
                failures: 1,
                reported_by: Vec::new(),
                trial: false,
            }],
        }],
        proxy_queue_bytes: 0,
        inbox_bytes: 700,
        inbox_bytes_max: 4096,
        inbox_untaken_ms: 12_500,
        held_bytes: 0,
    }
}

/// What a node that has done nothing has counted.
fn idle() -> Stats {
    let zero = || BTreeMap::from([("malformed", 0)]);
    let mut stats =
        Stats { handshakes_refused: zero(), handshakes_refused_by_peer: zero(), ..Stats::default() };
    stats.datacenters = BTreeMap::from([(dc("eu"), DatacenterStats::default())]);
    stats.protocol_errors = zero();
    stats.links_ended = BTreeMap::from([("silent", 0)]);
    stats.proxy.refused = zero();
    stats.member.refused = zero();
    stats.verdicts = BTreeMap::from([("proxy", 0)]);
    stats.tls = TlsStats { expires_in_s: Some(0), handshakes_failed: zero(), ..TlsStats::default() };
    stats
}

#[test]
fn who_asks_nobody_for_members_has_no_row_of_them() {
    let stats = idle();
    let metrics = Metrics::from_source(move || (stats.clone(), status())).with_members(|| None);
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    assert!(!text.contains("proxy_members") && parse(&text).is_ok());
}

fn scrape(stats: &Stats) -> BTreeMap<String, Family> {
    let stats = stats.clone();
    let metrics = Metrics::from_source(move || (stats.clone(), status()));
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn sample(
    families: &BTreeMap<String, Family>,
    family: &str,
    name: &str,
    labels: &[(&str, &str)],
) -> Option<f64> {
    let labels: Labels =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    families.get(family)?.samples.get(&(name.to_owned(), labels)).copied()
}

#[test]
fn every_family_exists_before_anything_is_counted() {
    let families = scrape(&idle());
    let described = Metrics::described();
    let expected: Vec<&str> = described.iter().map(|described| described.name).collect();
    let others = ["trunkline_replica_", "trunkline_proxy_members_", "trunkline_config_"];
    let own = |name: &&str| others.iter().all(|of| !name.starts_with(of));
    let expected: Vec<&str> = expected.into_iter().filter(own).collect();
    assert_eq!(families.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    for described in described.into_iter().filter(|described| own(&described.name)) {
        let family = &families[described.name];
        assert_eq!((family.kind.as_str(), family.help.as_str()), (described.kind, described.help));
        for (_, labels) in family.samples.keys() {
            let mut names: Vec<&str> =
                labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
            names.sort_unstable();
            let mut expected = described.labels.to_vec();
            expected.sort_unstable();
            assert_eq!(names, expected, "{}", described.name);
        }
    }
    for reason in trunkline_mesh::FailReason::ALL {
        let labels = [("datacenter", "eu"), ("reason", reason.label())];
        let name = "trunkline_messages_failed_total";
        assert_eq!(sample(&families, name, name, &labels), Some(0.0), "{reason:?}");
    }
}

#[test]
fn a_replica_and_what_a_proxy_heard_are_scraped_with_their_node() {
    let (own, place) = (ReplicaId(7), Place::known(node("eu-1"), dc("eu")));
    let status_of = move || crate::consensus::Status {
        replica: own,
        role: Role::Follower,
        term: 3,
        leader: None,
        not_ready: None,
        voters: vec![(own, place.clone())],
        learners: vec![],
        last: Some(12),
        committed: Some(EntryId { term: 3, index: 11 }),
        applied: None,
        snapshot: None,
        snapshots_failed: 2,
        purged: Some(EntryId { term: 1, index: 4 }),
        in_doubt: false,
        clocks_sure: true,
        leases: false,
        stopped: None,
        sent: Sent {
            entries: BTreeMap::from([(dc("us"), 9)]),
            snapshots: SnapshotBytes { own: 0, lent: 700 },
            ..Sent::default()
        },
    };
    let stats = idle();
    let heard = MembersHeard { age: Duration::from_millis(2_500), index: 9, joined: 1, failed: 3 };
    let metrics = Metrics::from_source(move || (stats.clone(), status())).with_replica(status_of);
    let metrics = metrics.with_members(move || Some(heard)).with_file(|| true);
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    let families = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let described = Metrics::described();
    let expected: Vec<&str> = described.iter().map(|described| described.name).collect();
    assert_eq!(families.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    let of_members = |family: &str| {
        let name = format!("trunkline_proxy_members_{family}");
        sample(&families, &name, &name, &[])
    };
    let read = ["age_seconds", "index", "joined", "failed_total"].map(of_members);
    assert_eq!(read, [Some(2.5), Some(9.0), Some(1.0), Some(3.0)]);
    let refused = "trunkline_config_refused";
    assert_eq!(sample(&families, refused, refused, &[]), Some(1.0));
    let value = |family: &str, labels: &[(&str, &str)]| {
        let name = format!("trunkline_replica_{family}");
        sample(&families, &name, &name, labels)
    };
    assert_eq!(value("role", &[("role", "follower")]), Some(1.0));
    assert_eq!(value("role", &[("role", "leader")]), Some(0.0));
    assert_eq!(value("members", &[("kind", "voter")]), Some(1.0));
    assert_eq!(value("index", &[("of", "first")]), Some(5.0));
    assert_eq!(value("index", &[("of", "committed")]), Some(11.0));
    assert_eq!(value("index", &[("of", "applied")]), None);
    assert_eq!(value("entries_sent_total", &[("datacenter", "us")]), Some(9.0));
    assert_eq!(value("snapshots_failed_total", &[]), Some(2.0));
    assert_eq!(value("snapshot_sent_bytes_total", &[("as", "lent")]), Some(700.0));
    assert_eq!(value("leader_known", &[]), Some(0.0));
}

#[test]
fn numbers_arrive_in_base_units() {
    let mut stats = idle();
    let row = stats.datacenters.get_mut(&dc("eu")).unwrap();
    row.sent.logical = 5_000;
    row.sent.wire = 1_000;
    row.failed.insert("expired", 3);
    for us in [40, 60, 20_000_000] {
        row.ack_latency.observe(us);
    }
    stats.tls.expires_in_s = Some(-90);
    let families = scrape(&stats);
    let expiry = "trunkline_certificate_expiry_seconds";
    assert_eq!(sample(&families, expiry, expiry, &[]), Some(-90.0), "it has expired");
    let sent = "trunkline_sent_bytes_total";
    assert_eq!(sample(&families, sent, sent, &[("datacenter", "eu"), ("stage", "wire")]), Some(1_000.0));
    let failed = "trunkline_messages_failed_total";
    assert_eq!(sample(&families, failed, failed, &[("datacenter", "eu"), ("reason", "expired")]), Some(3.0));
    let ack = "trunkline_ack_latency_seconds";
    let bucket = |le| {
        sample(&families, ack, "trunkline_ack_latency_seconds_bucket", &[("datacenter", "eu"), ("le", le)])
    };
    assert_eq!(
        (bucket("0.00005"), bucket("0.0001"), bucket("10"), bucket("+Inf")),
        (Some(1.0), Some(2.0), Some(2.0), Some(3.0))
    );
    assert_eq!(
        sample(&families, ack, "trunkline_ack_latency_seconds_sum", &[("datacenter", "eu")]),
        Some(20.0001)
    );
    let snoozed = "trunkline_route_snoozed_seconds";
    assert_eq!(sample(&families, snoozed, snoozed, &[("datacenter", "eu"), ("proxy", "eu-p1")]), Some(1.5));
}

#[test]
fn a_peer_has_one_row_and_no_round_trip_before_the_first_sample() {
    let families = scrape(&idle());
    let at = |name, peer| sample(&families, name, name, &[("peer", peer), ("datacenter", "eu")]);
    assert_eq!((at("trunkline_link_up", "eu-p1"), at("trunkline_link_up", "eu-p2")), (Some(1.0), Some(0.0)));
    assert_eq!(at("trunkline_link_rtt_seconds", "eu-p1"), Some(0.025));
    assert_eq!(at("trunkline_link_rtt_seconds", "eu-p2"), None);
    assert_eq!(at("trunkline_link_clock_offset_seconds", "eu-p1"), Some(-0.0015));
}

#[test]
fn who_is_down_who_is_not_reached_and_when_a_ca_expires_can_be_asked_for() {
    let families = scrape(&idle());
    let down = "trunkline_peer_down_seconds";
    assert_eq!(sample(&families, down, down, &[("peer", "us-m1"), ("datacenter", "us")]), Some(4.0));
    assert_eq!(families[down].samples.len(), 1, "none of who dials this node, and may have nothing to say");
    let ca = "trunkline_ca_expiry_seconds";
    assert_eq!(sample(&families, ca, ca, &[]), Some(700.0), "of the first to expire");
    let unreached = "trunkline_destinations_unreached";
    assert_eq!(sample(&families, unreached, unreached, &[("datacenter", "eu")]), Some(3.0));
}

#[test]
fn who_takes_nothing_can_be_asked_for_at_the_sender_and_at_the_member() {
    let families = scrape(&idle());
    let value = |name, labels: &[_]| sample(&families, name, name, labels);
    assert_eq!(value("trunkline_destinations_untaken", &[("datacenter", "eu")]), Some(2.0));
    assert_eq!(value("trunkline_inbox_untaken_seconds", &[]), Some(12.5));
}

#[test]
fn of_two_links_that_are_up_the_row_is_that_of_the_one_that_measures() {
    let families = scrape(&idle());
    let at = |name, peer| sample(&families, name, name, &[("peer", peer), ("datacenter", "eu")]);
    assert_eq!(at("trunkline_link_rtt_seconds", "eu-m1"), Some(0.007));
    assert_eq!(at("trunkline_link_rtt_min_seconds", "eu-m1"), Some(0.007));
    assert_eq!(at("trunkline_link_clock_offset_seconds", "eu-m1"), Some(-0.0015));
    assert_eq!(
        (at("trunkline_link_up", "eu-m2"), at("trunkline_link_rtt_seconds", "eu-m2")),
        (Some(1.0), None)
    );
}

#[test]
fn the_parser_is_strict() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{l=\"\\\"\\\\\\n\"} 1\n";
    assert_eq!(parse(good).unwrap()["a_total"].samples.keys().next().unwrap().1["l"], "\"\\\n");
    let histogram = |buckets: &str| format!("# HELP h x\n# TYPE h histogram\n{buckets}h_sum 1\nh_count 2\n");
    let bucket = |le: &str, count: u32| format!("h_bucket{{le=\"{le}\"}} {count}\n");
    assert!(parse(&histogram(&(bucket("1", 1) + &bucket("+Inf", 2)))).is_ok());
    for bad in [
        "a_total 1\n".to_owned(),
        good.replace("counter", "gauge"),
        good.replace("# HELP a_total x\n", ""),
        good.replace(" 1\n", " one\n"),
        good.replace("\\n", "\\t"),
        good.trim_end().to_owned(),
        format!("{good}{good}"),
        histogram(&(bucket("1", 3) + &bucket("+Inf", 2))),
        histogram(&bucket("1", 2)),
        histogram(&(bucket("1", 1) + &bucket("+Inf", 3))),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
}
