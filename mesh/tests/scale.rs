//! Scale, where it is not a matter of timing: what a leader writes grows with datacenters, and hardly with members; and what nodes count
//! of that is true. Time is in `benches/scale.rs`.

mod lab;

use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, Line, dc, id};
use trunkline_codec::Payload;
use trunkline_mesh::id::{Lane, NodeId};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::wire::PREAMBLE;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const LEADER: &str = "leader";
const ROUNDS: u64 = 50;
const ENTRY_BYTES: usize = 1024;

/// What one leader wrote and read per round, bytes.
struct Cost {
    written: u64,
    read: u64,
}

/// One entry per round for every member of every datacenter, each behind a head of its own.
fn cost(datacenters: usize, members: usize) -> Cost {
    let sites: Vec<String> = (0..datacenters).map(|site| format!("dc-{site}")).collect();
    let mut names = Vec::new();
    for site in &sites {
        names.push((format!("{site}-p0"), site, Roles::PROXY));
        names.push((format!("{site}-p1"), site, Roles::PROXY));
        names.extend((0..members).map(|member| (format!("{site}-m{member}"), site, Roles::MEMBER)));
    }
    let mut nodes = vec![(LEADER, "home", Roles::ORIGIN, None)];
    nodes.extend(names.iter().map(|(name, site, roles)| (name.as_str(), site.as_str(), *roles, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(20));
    lab.run_for(Duration::from_secs(2));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counted = [(0, 0); 2];
    for round in 0..2 * ROUNDS {
        // What is said once, of rosters and links, is not counted.
        if round % ROUNDS == 0 {
            counted[usize::try_from(round / ROUNDS).unwrap()] = totals(&lab);
        }
        let entry: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(ENTRY_BYTES).collect();
        let entry = Bytes::from(entry);
        for site in &sites {
            let mut batch = Batch::to(dc(site));
            batch.extend((0..members).map(|member| {
                let head: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(8).collect();
                let payload: Payload = [Bytes::from(head), entry.clone()].into_iter().collect();
                Message::new(id(&format!("{site}-m{member}")), payload).lane(Lane::Bulk)
            }));
            lab.submit(LEADER, batch).unwrap();
        }
        lab.run_for(Duration::from_millis(10));
    }
    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.delivered.len(), usize::try_from(2 * ROUNDS).unwrap() * datacenters * members);
    let (before, after) = (counted[1], totals(&lab));
    Cost { written: (after.0 - before.0) / ROUNDS, read: (after.1 - before.1) / ROUNDS }
}

/// Bytes that the leader wrote, and read.
fn totals(lab: &Lab) -> (u64, u64) {
    let leader = id(LEADER);
    let sum = |of: &dyn Fn(&(NodeId, NodeId)) -> bool| {
        lab.received.iter().filter(|(key, _)| of(key)).map(|(_, traffic)| traffic.bytes).sum()
    };
    (sum(&|(_, from)| *from == leader), sum(&|(to, _)| *to == leader))
}

#[test]
fn what_a_leader_writes_grows_with_datacenters_and_hardly_with_members() {
    let (few, many) = (cost(2, 5), cost(2, 45));
    let further = 2 * 40;
    let per_member = |few: u64, many: u64| (many - few) as f64 / f64::from(further);
    let (out, back) = (per_member(few.written, many.written), per_member(few.read, many.read));
    println!("a further member: {out:.1} B out, {back:.1} B back per message");
    // 8 B of it are the member's own.
    assert!(out + back <= 40.0, "{out:.1} B out and {back:.1} B back per further member and message");
    let entries = 2 * u64::try_from(ENTRY_BYTES).unwrap();
    assert!(few.written < entries * 5 / 4, "{} B per round, each entry once per datacenter", few.written);

    let twice = cost(4, 5);
    let ratio = twice.written as f64 / few.written as f64;
    assert!((1.9..2.1).contains(&ratio), "twice the datacenters, {ratio:.2} times the bytes");
}

/// Bytes that came from a leader to a datacenter, and from there to it.
fn between(lab: &Lab, site: &str) -> (u64, u64) {
    let there = |node: &NodeId| lab.topology.node(node).is_some_and(|spec| spec.datacenter == dc(site));
    let sum = |counts: &dyn Fn(&NodeId, &NodeId) -> bool| {
        lab.received.iter().filter(|((to, from), _)| counts(to, from)).map(|(_, traffic)| traffic.bytes).sum()
    };
    let leader = id(LEADER);
    (sum(&|to, from| *from == leader && there(to)), sum(&|to, from| *to == leader && there(from)))
}

#[test]
fn what_a_leader_counts_as_written_and_read_is_what_came_and_went() {
    let sites = [("dc-0", ["m0", "m1"]), ("dc-1", ["m2", "m3"])];
    let mut nodes = vec![(LEADER, "home", Roles::ORIGIN, None)];
    for ((site, members), proxy) in sites.into_iter().zip(["p0", "p1"]) {
        nodes.push((proxy, site, Roles::PROXY, None));
        nodes.extend(members.map(|name| (name, site, Roles::MEMBER, None)));
    }
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..100 {
        for (site, members) in sites {
            let entry: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(ENTRY_BYTES).collect();
            let entry = Bytes::from(entry);
            let mut batch = Batch::to(dc(site));
            batch.extend(members.map(|name| Message::new(id(name), entry.clone())));
            lab.submit(LEADER, batch).unwrap();
        }
        // What is sent again, straight and over new links, is written as well.
        match round {
            30 => lab.stop("p0"),
            50 => lab.go_on(),
            _ => {}
        }
        lab.run_for(Duration::from_millis(20));
    }
    let stats = lab.stats(LEADER);
    assert!(stats.attempts.timed_out > 0 && stats.datacenters[&dc("dc-0")].delivered_direct > 0);
    // Between two pings nothing is under way.
    let all_came = |lab: &mut Lab| {
        let stats = lab.stats(LEADER);
        sites.iter().all(|(site, _)| stats.datacenters[&dc(site)].sent.wire == between(lab, site).0)
    };
    lab.run_until("all that is counted as written came", Duration::from_secs(1), all_came);
    let stats = lab.stats(LEADER);
    let mut unread = 0;
    for (site, members) in sites {
        let of = &stats.datacenters[&dc(site)];
        let payload = 100 * u64::try_from(members.len() * ENTRY_BYTES).unwrap();
        assert!(of.sent.logical >= payload && of.sent.diff < of.sent.logical, "{:?}", of.sent);
        assert!(of.sent.second_stage < of.sent.wire, "{:?}", of.sent);
        unread += between(&lab, site).1 - of.received_wire;
    }
    // All but what a connection begins with, which is no frame.
    let preambles = lab.connections(LEADER) * PREAMBLE.len();
    assert_eq!(unread, u64::try_from(preambles).unwrap());
}

#[test]
fn a_hop_takes_as_long_as_the_line_behind_it() {
    const BYTES: usize = 60_000;
    const RATE: u64 = 600_000;
    let nodes = [
        (LEADER, "us", Roles::ORIGIN, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(20));
    // What is written is on the line.
    lab.kernel_bytes = 0;
    lab.run_for(Duration::from_secs(1));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut hop_us = |lab: &mut Lab| {
        let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(BYTES).collect();
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id("eu-1"), payload).lane(Lane::Bulk));
        let before = lab.stats("eu-p").proxy.hop_latency;
        lab.submit(LEADER, batch).unwrap();
        lab.run_for(Duration::from_secs(1));
        let after = lab.stats("eu-p").proxy.hop_latency;
        assert_eq!(after.count(), before.count() + 1);
        after.sum_us - before.sum_us
    };
    assert_eq!(hop_us(&mut lab), 0, "a proxy itself takes no time here");
    lab.set_line("eu", "eu", Line { delay: Duration::from_millis(50), rate: Some(RATE) });
    let took = hop_us(&mut lab);
    // Until the last packet is on the line; how long that is under way then is no matter of the proxy.
    let packet_us = 1_500 * 1_000_000 / RATE;
    let all_us = BYTES as u64 * 1_000_000 / RATE;
    assert!((all_us - packet_us..=all_us + packet_us).contains(&took), "{took} µs, {all_us} µs on the line");
}
