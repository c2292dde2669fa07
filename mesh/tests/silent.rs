//! A proxy that dies without a word while much is under way by it: how much later than without that death anything arrives,
//! in virtual time, over a line of 50 Mbit/s.

mod lab;

use std::collections::BTreeMap;
use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const RATE: u64 = 6_250_000;
const LEADER: &str = "leader";
const MEMBERS: [&str; 4] = ["eu-1", "eu-2", "eu-3", "eu-4"];
const EVERY: Duration = Duration::from_millis(2);

struct Run {
    /// When the messages of each member arrived, by seq.
    arrived: BTreeMap<(String, u64), Micros>,
    /// Under way when the proxy died.
    pending: u64,
}

/// Batches of one message per member every 2 ms, which take `percent` of the line, for six seconds; after three of them the
/// proxy in use stops, if it is to.
fn run(rtt: Duration, percent: u64, dies: bool) -> Run {
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
    nodes.extend(["eu-pa", "eu-pb"].map(|proxy| (proxy, "eu", Roles::PROXY, None)));
    nodes.extend(MEMBERS.map(|member| (member, "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_micros(100));
    lab.set_line("us", "eu", Line { delay: rtt / 2, rate: Some(RATE) });
    lab.run_for(Duration::from_secs(1));
    let length = usize::try_from(RATE * 2 / 1000 * percent / 100 / 4).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut pending = 0;
    for round in 0..3_000 {
        let mut batch = Batch::to(dc("eu"));
        batch.extend(MEMBERS.map(|member| {
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
            Message::new(id(member), bytes).deadline(Duration::from_secs(60))
        }));
        lab.submit(LEADER, batch).expect("room");
        if round == 1_500 {
            let now = lab.now;
            let rows = lab.node(LEADER).status(now).datacenters;
            let row = rows.iter().find(|row| row.name == dc("eu")).unwrap();
            let in_use = row.routes.iter().find(|route| route.in_use).unwrap().proxy.clone();
            pending = row.pending_messages;
            if dies {
                lab.stop(in_use.as_str());
            }
        }
        lab.run_for(EVERY);
    }
    lab.run_for(Duration::from_secs(20));
    let arrived = lab.delivered.iter().map(|(at, node, delivery)| ((node.to_string(), delivery.seq.0), *at));
    Run { arrived: arrived.collect(), pending }
}

#[test]
fn a_silent_death_under_load_costs_what_was_promised() {
    for rtt in [20, 100, 200].map(Duration::from_millis) {
        for percent in [10, 50, 80] {
            let (calm, struck) = (run(rtt, percent, false), run(rtt, percent, true));
            assert_eq!(struck.arrived.len(), calm.arrived.len(), "nothing is lost");
            let later = calm.arrived.iter().map(|(key, at)| struck.arrived[key].since(*at)).max().unwrap();
            let promised = (3 * rtt).max(Duration::from_millis(300));
            let pending = struck.pending;
            println!(
                "round trip {rtt:?}, {percent} % of the line, {pending} under way: at most {later:?} later"
            );
            assert!(later <= promised, "round trip {rtt:?}, {percent} % of the line: {later:?} later");
        }
    }
}
