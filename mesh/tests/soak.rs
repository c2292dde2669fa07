//! Ten minutes, in virtual time, with a datacenter into which everything vanishes: what the sender keeps for it stays within
//! its budget and does not grow, and the other datacenter is as fast as without.

mod lab;

use std::time::Duration;

use lab::{Lab, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const LEADER: &str = "leader";
const SITES: [&str; 2] = ["ap", "eu"];
const MEMBERS: [[&str; 3]; 2] = [["ap-1", "ap-2", "ap-3"], ["eu-1", "eu-2", "eu-3"]];
const MINUTES: usize = 10;
const EVERY: Duration = Duration::from_millis(40);
/// 1 MB/s for each datacenter: its budget is full within 10 s.
const ENTRY_BYTES: usize = 40 * 1024;

/// What one run showed.
struct Soak {
    /// Of messages to the datacenter that lives, µs from send to inbox: p99 per minute.
    p99_us: Vec<u64>,
    /// Most bytes kept for the one that does not, per minute.
    kept: Vec<u64>,
}

fn soak(vanishes: bool) -> Soak {
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
    for (site, members) in SITES.into_iter().zip(MEMBERS) {
        let [a, b] = if site == "ap" { ["ap-pa", "ap-pb"] } else { ["eu-pa", "eu-pb"] };
        nodes.extend([(a, site, Roles::PROXY, None), (b, site, Roles::PROXY, None)]);
        nodes.extend(members.map(|member| (member, site, Roles::MEMBER, None)));
    }
    let settings = Settings::default();
    let mut lab = Lab::new(&nodes, &settings, Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    if vanishes {
        lab.cut_off("eu");
    }
    let (mut soak, mut number) = (Soak { p99_us: Vec::new(), kept: Vec::new() }, 0_u64);
    for _ in 0..MINUTES {
        let (mut kept, mut took) = (0, Vec::new());
        for _ in 0..Duration::from_secs(60).as_millis() / EVERY.as_millis() {
            number += 1;
            for (site, members) in SITES.into_iter().zip(MEMBERS) {
                let mut entry = vec![0; ENTRY_BYTES];
                entry[..8].copy_from_slice(&number.to_le_bytes());
                let entry = bytes::Bytes::from(entry);
                let mut batch = Batch::to(dc(site));
                batch.extend(members.map(|member| Message::new(id(member), entry.clone()).lane(Lane::Bulk)));
                // The budget of the one that vanished is full most of the time.
                let taken = lab.submit(LEADER, batch);
                assert!(taken.is_ok() || site == "eu", "{taken:?}");
            }
            lab.run_for(EVERY);
            let now = lab.now;
            for row in lab.node(LEADER).status(now).datacenters {
                if row.name == dc("eu") {
                    kept = kept.max(row.queued_bytes);
                }
            }
        }
        for (at, member, delivery) in std::mem::take(&mut lab.delivered) {
            if member.as_str().starts_with("ap") {
                took.push(late(at, &delivery.payload.to_vec()));
            }
        }
        lab.outcomes.clear();
        took.sort_unstable();
        soak.p99_us.push(took[took.len() * 99 / 100]);
        soak.kept.push(kept);
    }
    let budget = u64::try_from(settings.datacenter_budget_bytes).unwrap();
    assert!(soak.kept.iter().all(|kept| *kept <= budget), "{:?} of {budget}", soak.kept);
    soak
}

/// How long a message was under way, µs: it says when it was sent.
fn late(at: Micros, payload: &[u8]) -> u64 {
    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
    let first = Micros(2_000_000);
    let every = u64::try_from(EVERY.as_micros()).unwrap();
    at.0 - (first.0 + (number - 1) * every)
}

#[test]
fn a_datacenter_into_which_everything_vanishes_costs_its_budget_and_nobody_else() {
    let (calm, struck) = (soak(false), soak(true));
    println!("p99, µs, by minute: {:?} without, {:?} with", calm.p99_us, struck.p99_us);
    println!("bytes kept: {:?}", struck.kept);
    for (calm, struck) in calm.p99_us.iter().zip(&struck.p99_us) {
        assert!(struck * 100 <= calm * 105, "{struck} µs, {calm} µs without");
    }
    // Full from the first minute on, and no fuller later.
    let (first, later) = (struck.kept[0], &struck.kept[1..]);
    assert!(first > 4 << 20, "{first} bytes: it is not put to the test");
    assert!(later.iter().all(|kept| *kept <= first + first / 20), "{:?}", struck.kept);
}
