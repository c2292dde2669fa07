//! Scale, where it is not a matter of timing: what a leader writes grows with datacenters, and hardly with members. Time is in
//! `benches/scale.rs`.

mod lab;

use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, dc, id};
use trunkline_codec::Payload;
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
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
    let sum = |of: &dyn Fn(&(trunkline_mesh::NodeId, trunkline_mesh::NodeId)) -> bool| {
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
