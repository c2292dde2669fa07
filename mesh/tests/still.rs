//! Connections that take nothing more, in virtual time, behind kernels that take a frame in parts: what waits on them takes
//! another way as soon as after any other silent death, and nothing else is touched.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const LEADER: &str = "leader";
const MEMBERS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];
const RTTS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(200)];

/// What a silent death may cost.
fn promised(rtt: Duration) -> Duration {
    (3 * rtt).max(Duration::from_millis(300))
}

fn calm(rtt: Duration, rate: Option<u64>, window_bytes: usize) -> Lab {
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
    nodes.extend(["eu-pa", "eu-pb"].map(|proxy| (proxy, "eu", Roles::PROXY, None)));
    nodes.extend(MEMBERS.map(|member| (member, "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_micros(100));
    lab.set_line("us", "eu", Line { delay: rtt / 2, rate });
    lab.window_bytes = Some(window_bytes);
    lab.run_for(Duration::from_secs(3));
    lab
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

fn in_use(lab: &mut Lab) -> String {
    let now = lab.now;
    let rows = lab.node(LEADER).status(now).datacenters;
    let row = rows.iter().find(|row| row.name == dc("eu")).unwrap();
    row.routes.iter().find(|route| route.in_use).unwrap().proxy.to_string()
}

fn send(lab: &mut Lab, to: &[&str], lane: Lane, seed: u64, length: usize) {
    let mut batch = Batch::to(dc("eu"));
    let message =
        |to: &&str| Message::new(id(to), noise(seed, length)).lane(lane).deadline(Duration::from_secs(60));
    batch.extend(to.iter().map(message));
    lab.submit(LEADER, batch).expect("room");
}

/// When each message arrived, by member, lane and seq.
fn arrived(lab: &Lab) -> std::collections::BTreeMap<(String, usize, u64), Micros> {
    let of = |(at, node, delivery): &(Micros, _, trunkline_mesh::message::Delivery)| {
        let node: &trunkline_mesh::id::NodeId = node;
        ((node.to_string(), delivery.lane.index(), delivery.seq.0), *at)
    };
    lab.delivered.iter().map(of).collect()
}

fn latest(calm: &Lab, struck: &Lab) -> Duration {
    let (calm, struck) = (arrived(calm), arrived(struck));
    assert_eq!(calm.len(), struck.len(), "nothing is lost, and nothing comes twice");
    calm.iter().map(|(key, at)| struck[key].since(*at)).max().unwrap()
}

/// The first frame to a proxy that died without a word is longer than what a kernel takes.
#[test]
fn a_long_first_frame_to_a_dead_proxy_is_tried_by_the_next_one_in_time() {
    for rtt in RTTS {
        for to in [&MEMBERS[..1], &MEMBERS[..]] {
            let run = |dies: bool| {
                let mut lab = calm(rtt, None, 200_000);
                let proxy = in_use(&mut lab);
                if dies {
                    lab.stop(&proxy);
                }
                send(&mut lab, to, Lane::Bulk, 1, 1 << 20);
                lab.run_for(Duration::from_secs(20));
                lab
            };
            let later = latest(&run(false), &run(true));
            println!("round trip {rtt:?}, {} destinations: {later:?} later", to.len());
            assert!(later <= promised(rtt), "round trip {rtt:?}, {} destinations: {later:?} later", to.len());
        }
    }
}

/// Bulk of one length every so many rounds of 10 ms, beside heartbeats in every one; and after two seconds the connection of bulk
/// to the proxy in use goes nowhere. Bulk goes by the other proxy in time, no heartbeat is late, and nobody is convicted for both.
fn bulk_leaves(rtt: Duration, every: u64, length: usize, window_bytes: usize) {
    let run = |struck: bool| {
        let mut lab = calm(rtt, Some(6_250_000), window_bytes);
        let proxy = in_use(&mut lab);
        for round in 0..600 {
            send(&mut lab, &MEMBERS, Lane::Control, round, 100);
            if round % every == 0 {
                send(&mut lab, &MEMBERS, Lane::Bulk, 1_000 + round, length);
            }
            if round == 200 && struck {
                lab.stop_lane(LEADER, &proxy, Lane::Bulk);
            }
            lab.run_for(Duration::from_millis(10));
        }
        lab.run_for(Duration::from_secs(20));
        lab
    };
    let (calm, mut struck) = (run(false), run(true));
    let later = latest(&calm, &struck);
    let (before, after) = (arrived(&calm), arrived(&struck));
    let beats = before.iter().filter(|((_, lane, _), _)| *lane == Lane::Control.index());
    let beat = beats.map(|(key, at)| after[key].since(*at)).max().unwrap();
    let stats = struck.stats(LEADER);
    println!("round trip {rtt:?}: {later:?} later, heartbeats {beat:?}; {:?}", stats.verdicts);
    assert!(later <= promised(rtt), "round trip {rtt:?}: {later:?} later");
    assert!(beat <= Duration::from_millis(20), "round trip {rtt:?}: a heartbeat {beat:?} later");
    assert_eq!(stats.verdicts["proxy"], 0, "{:?}", stats.verdicts);
    assert!(stats.verdicts["connection"] > 0, "{:?}", stats.verdicts);
    assert_eq!(stats.fallbacks.direct, 0, "there is another proxy");
}

#[test]
fn bulk_leaves_a_connection_that_takes_nothing_and_control_stays() {
    RTTS.into_iter().for_each(|rtt| bulk_leaves(rtt, 80, 300_000, 200_000));
}

#[test]
fn bulk_that_is_taken_and_never_answered_leaves_a_proxy_that_control_keeps() {
    RTTS.into_iter().for_each(|rtt| bulk_leaves(rtt, 4, 20_000, 1 << 20));
}

/// Rounds of 10 ms: a heartbeat in one of `beats`, bulk in one of `bulks`; after two seconds bulk to the proxy in use is swallowed, for
/// two minutes. The other proxy may be farther, so that the one with the hole is better in all that control can tell.
fn two_minutes_beside_a_hole(
    to: &[&str],
    rtt: Duration,
    (beats, bulks): (u64, u64),
    farther: Duration,
) -> trunkline_mesh::stats::Stats {
    let mut lab = calm(rtt, None, 1 << 20);
    let proxy = in_use(&mut lab);
    let other = lab.index(if proxy == "eu-pa" { "eu-pb" } else { "eu-pa" });
    lab.farther.insert(other, farther);
    // Long enough for pings to know it.
    lab.run_for(Duration::from_secs(10));
    for round in 0..12_200 {
        if round % beats == 0 {
            send(&mut lab, to, Lane::Control, round, 100);
        }
        if round % bulks == 0 {
            send(&mut lab, to, Lane::Bulk, round, 2_000);
        }
        if round == 200 {
            lab.stop_lane(LEADER, &proxy, Lane::Bulk);
        }
        lab.run_for(Duration::from_millis(10));
    }
    lab.run_for(Duration::from_secs(5));
    let sent = 12_200_u64.div_ceil(beats) + 12_200_u64.div_ceil(bulks);
    assert_eq!(arrived(&lab).len() as u64, sent * to.len() as u64, "nothing is lost");
    assert_eq!(lab.delivered.len() as u64, sent * to.len() as u64, "and nothing comes twice");
    lab.stats(LEADER)
}

/// Alone it convicts no proxy; it leaves this one alone for as long as others leave one that is convicted.
#[test]
fn a_destination_that_is_alone_tries_a_hole_ever_more_seldom() {
    for rtt in RTTS {
        let stats = two_minutes_beside_a_hole(&MEMBERS[..1], rtt, (1, 4), Duration::ZERO);
        let (late, verdicts) = (stats.attempts.timed_out, stats.verdicts["member"]);
        println!("round trip {rtt:?}: {late} messages late, {verdicts} times");
        assert_eq!(stats.verdicts["proxy"] + stats.verdicts["connection"], 0, "{:?}", stats.verdicts);
        // What was under way at first, and then one in 200 ms, 400 ms and so on; not a timeout's worth of them every 2 s.
        assert!(late <= 25, "round trip {rtt:?}: {late} messages late");
    }
}

/// Heartbeats are too seldom to tell a connection from its proxy, and the proxy is the better one by far.
#[test]
fn a_hole_of_bulk_is_not_tried_again_for_what_control_answers() {
    for (rtt, beats, bulks) in [(20, 30, 2), (20, 30, 100), (100, 30, 20), (100, 30, 100)] {
        let rtt = Duration::from_millis(rtt);
        let stats = two_minutes_beside_a_hole(&MEMBERS, rtt, (beats, bulks), rtt);
        let times = stats.verdicts["proxy"] + stats.verdicts["connection"];
        println!("round trip {rtt:?}, {beats} and {bulks}: {:?}", stats.verdicts);
        // At first, and after 1 s, 2 s, 4 s and so on; one more where the connection is convicted beside its proxy.
        assert!((7..=8).contains(&times), "round trip {rtt:?}, {beats} and {bulks}: {:?}", stats.verdicts);
    }
}

/// Answers come 100 ms later than pings, and what is sent is little: the speed of answers is that of what was sent. A long frame
/// that follows, to a proxy that dies, is not waited for as if the line were as slow.
#[test]
fn what_is_sent_is_not_taken_for_what_the_line_can_carry() {
    let (rtt, inside) = (Duration::from_millis(20), Duration::from_millis(50));
    let run = |dies: bool| {
        let mut lab = calm(rtt, Some(6_250_000), 1 << 20);
        lab.local = inside;
        let proxy = in_use(&mut lab);
        for seed in 0..20 {
            send(&mut lab, &MEMBERS[..1], Lane::Bulk, seed, 1_000);
            lab.run_for(Duration::from_millis(if seed < 19 { 110 } else { 100 }));
        }
        // Short enough to be written at once, while the one before it is under way.
        send(&mut lab, &MEMBERS[..1], Lane::Bulk, 99, 120_000);
        // The one before it is answered, and it is not all there yet.
        lab.run_for(Duration::from_millis(22));
        if dies {
            lab.stop(&proxy);
        }
        lab.run_for(Duration::from_secs(20));
        lab
    };
    let later = latest(&run(false), &run(true));
    println!("{later:?} later");
    assert!(later <= promised(rtt + 2 * inside), "{later:?} later");
}
