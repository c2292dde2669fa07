//! Empty runs, which deliver nothing and ask for an ack, in virtual time: only their member answers them, and what a proxy says
//! of one is no answer and no silence.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn lab() -> Lab {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-pa", "eu", Roles::PROXY, None),
        ("eu-pb", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
        ("eu-2", "eu", Roles::MEMBER, None),
        ("eu-3", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), MS(20));
    lab.run_for(Duration::from_secs(1));
    lab
}

/// The round trip to a member behind a slow line, which is busy with a long message, ends with that member's answer.
#[test]
fn an_empty_run_waits_in_its_members_queue_as_long_as_it_must() {
    let mut lab = lab();
    lab.set_line("eu", "eu", Line { delay: MS(1), rate: Some(10_000_000) });
    let mut rng = fastrand::Rng::with_seed(1);
    let mut batch = Batch::to(dc("eu"));
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(600_000).collect();
    batch.push(Message::new(id("eu-1"), bytes).lane(Lane::Control));
    lab.submit("leader", batch).unwrap();
    lab.run_for(MS(5));
    lab.ping("leader", "eu-1");
    lab.run_for(MS(500));
    let pinged = lab.node("leader").poll_pinged().expect("it was answered");
    assert_eq!((pinged.node, pinged.way, pinged.attempts), (id("eu-1"), "proxy", 1));
    assert!(pinged.rtt_us > 80_000, "behind 600 KB: {} µs", pinged.rtt_us);
    for proxy in ["eu-pa", "eu-pb"] {
        assert_eq!(lab.stats(proxy).proxy.refused["expired"], 0);
    }
    assert!(lab.empty_runs.len() >= 2 && lab.empty_runs.iter().all(|ms| *ms >= 100), "{:?}", lab.empty_runs);
}

/// Two members are gone and somebody pings them. The proxy says so at once, which is no silence of the proxy's.
#[test]
fn a_proxy_that_says_that_members_are_gone_is_not_convicted_for_their_silence() {
    let mut lab = lab();
    lab.kill("eu-1");
    lab.kill("eu-2");
    lab.run_for(MS(100));
    for _ in 0..20 {
        lab.ping("leader", "eu-1");
        lab.ping("leader", "eu-2");
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id("eu-3"), vec![7; 64]));
        lab.submit("leader", batch).unwrap();
        lab.run_for(MS(100));
    }
    let stats = lab.stats("leader");
    assert_eq!(stats.verdicts["proxy"], 0, "{:?}", stats.verdicts);
    assert!(lab.node("leader").poll_pinged().is_none(), "nobody is there");
    assert_eq!((stats.attempts.timed_out, lab.delivered.len()), (0, 20));
}
