//! Lines that carry a long message for longer than a peer may be silent.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

/// Bytes per second: the longest message takes 14 s.
const RATE: u64 = 300_000;

fn noise(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect()
}

fn lab() -> Lab {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-pa", "eu", Roles::PROXY, None),
        ("eu-pb", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::ZERO);
    lab.set_line("us", "eu", Line { delay: Duration::from_millis(20), rate: Some(RATE) });
    lab.run_for(Duration::from_secs(1));
    lab
}

fn submit(lab: &mut Lab) -> (usize, trunkline_mesh::proto::client::Ticket) {
    let bytes = Settings::default().message_bytes_max;
    let message = Message::new(id("eu-1"), noise(bytes)).lane(Lane::Control);
    let mut batch = Batch::to(dc("eu"));
    batch.push(message.deadline(Duration::from_secs(60)));
    (lab.index("leader"), lab.submit("leader", batch).expect("room"))
}

/// Neither end hears a whole frame on control meanwhile.
#[test]
fn a_message_that_takes_long_on_the_control_lane_is_no_silence() {
    let mut lab = lab();
    let ticket = submit(&mut lab);
    lab.run_until("an outcome", Duration::from_secs(60), |lab| lab.outcomes.contains_key(&ticket));
    let (_, outcomes) = &lab.outcomes[&ticket];
    assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
    assert_eq!(lab.delivered.len(), 1);
    let stats = lab.stats("leader");
    assert_eq!((stats.attempts.lost, stats.fallbacks.proxy_closed), (0, 0), "and no link was");
    // Pings that waited behind it do not say how long the way is.
    lab.run_for(Duration::from_secs(1));
    let now = lab.now;
    let links = lab.node("leader").status(now).links;
    let longest = links.iter().filter_map(|link| link.rtt_us).max().expect("measured");
    assert!(longest < 1_000_000, "{longest} µs");
}

/// The same where the proxy dies with the half of it.
#[test]
fn who_dies_within_a_long_message_is_missed_as_soon_as_anybody() {
    let mut lab = lab();
    submit(&mut lab);
    lab.run_for(Duration::from_secs(5));
    let carries = ["eu-pa", "eu-pb"].into_iter().max_by_key(|proxy| {
        let key = (id(proxy), id("leader"));
        lab.received.get(&key).map_or(0, |traffic| traffic.bytes)
    });
    let proxy = carries.unwrap();
    lab.stop(proxy);
    let linked = |lab: &mut Lab| {
        let now = lab.now;
        lab.node("leader").status(now).links.iter().any(|link| link.peer == id(proxy) && link.up)
    };
    assert!(linked(&mut lab));
    let most = Settings::default().silence_timeout + Settings::default().ping_interval;
    lab.run_until("the link is given up", most, |lab| !linked(lab));
}
