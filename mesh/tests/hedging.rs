//! What a hedge would gain: messages sent again by the next proxy once the time has passed within which most acks come, held
//! against the attempt timeout as it is. In virtual time, over a line of 50 Mbit/s and a round trip of 80 ms. The machines
//! have no hedging: a timeout that is set to that time stands for it. It sends again when a hedge would, within the limits
//! that resends have.

mod lab;

use std::collections::BTreeMap;
use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const RTT: Duration = Duration::from_millis(80);
const LEADER: &str = "leader";
const MEMBERS: [&str; 4] = ["eu-1", "eu-2", "eu-3", "eu-4"];
const PROXIES: [&str; 2] = ["eu-pa", "eu-pb"];
const ROUNDS: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// The proxy in use stops for good.
    SilentDeath,
    /// One packet in a thousand is lost.
    Loss,
    /// The proxy in use stops for 60 ms, once a second.
    SlowProxy,
}

/// From submission to hand-over of 40,000 messages, sorted, and the bytes that went to the datacenter.
fn run(trouble: Trouble, timeout: Option<Duration>) -> (Vec<Duration>, u64, u64) {
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
    nodes.extend(PROXIES.map(|proxy| (proxy, "eu", Roles::PROXY, None)));
    nodes.extend(MEMBERS.map(|member| (member, "eu", Roles::MEMBER, None)));
    let mut settings = Settings::default();
    if let Some(timeout) = timeout {
        (settings.attempt_timeout_min, settings.attempt_timeout_max) = (timeout, timeout);
    }
    let mut lab = Lab::new(&nodes, &settings, Duration::from_micros(100));
    lab.set_line("us", "eu", Line { delay: RTT / 2, rate: Some(6_250_000) });
    lab.run_for(Duration::from_secs(1));
    if let Trouble::Loss = trouble {
        lab.losses = Some((fastrand::Rng::with_seed(3), 1_000));
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut sent, mut counts) = (BTreeMap::new(), 0);
    for round in 0..ROUNDS {
        let mut batch = Batch::to(dc("eu"));
        batch.extend(MEMBERS.map(|member| {
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(400).collect();
            Message::new(id(member), bytes).deadline(Duration::from_secs(60))
        }));
        sent.insert(round + 1, lab.now);
        counts += 4;
        lab.submit(LEADER, batch).expect("room");
        let now = lab.now;
        let in_use = |lab: &mut Lab| {
            let rows = lab.node(LEADER).status(now).datacenters;
            let routes = rows.into_iter().find(|row| row.name == dc("eu")).unwrap().routes;
            routes.into_iter().find(|route| route.in_use).map(|route| route.proxy)
        };
        match trouble {
            Trouble::SilentDeath if round == ROUNDS / 2 => {
                let proxy = in_use(&mut lab).expect("one of them");
                lab.stop(proxy.as_str());
            }
            Trouble::SlowProxy if round % 500 == 250 => {
                if let Some(proxy) = in_use(&mut lab) {
                    lab.stop(proxy.as_str());
                }
            }
            Trouble::SlowProxy if round % 500 == 280 => lab.go_on(),
            _ => {}
        }
        lab.run_for(Duration::from_millis(2));
    }
    lab.run_for(Duration::from_secs(20));
    let took = lab.delivered.iter().map(|(at, _, delivery)| at.since(sent[&delivery.seq.0]));
    let mut took: Vec<Duration> = took.collect();
    took.sort();
    assert_eq!(took.len(), counts, "all of them, once");
    let stats = lab.stats(LEADER);
    (took, stats.datacenters[&dc("eu")].sent.wire, stats.attempts.timed_out)
}

fn per_mille(took: &[Duration], of: usize) -> Duration {
    took[(took.len() * of / 1000).min(took.len() - 1)]
}

/// The decision against it rests on this: it gains next to nothing but at a silent death, and there a round trip at most.
#[test]
fn what_a_hedge_would_gain() {
    for trouble in [Trouble::SilentDeath, Trouble::Loss, Trouble::SlowProxy] {
        let (took, before, late) = run(trouble, None);
        let p999 = per_mille(&took, 999);
        println!("{trouble:?}, as it is: p99 {:?}, p99.9 {p999:?}; {late} late", per_mille(&took, 990));
        for after in [RTT * 11 / 10, RTT * 5 / 4] {
            let (took, bytes, late) = run(trouble, Some(after));
            let hedged = per_mille(&took, 999);
            let more = bytes as f64 * 100.0 / before as f64 - 100.0;
            println!(
                "{trouble:?}, after {after:?}: p99 {:?}, p99.9 {hedged:?}; {late} late, {more:+.1} % of the bytes",
                per_mille(&took, 990)
            );
            match trouble {
                Trouble::SilentDeath => assert!(p999.saturating_sub(hedged) < RTT),
                Trouble::Loss | Trouble::SlowProxy => assert!(hedged * 100 > p999 * 95 && more > 2.0),
            }
        }
    }
}
