//! Lanes under load, in virtual time over a line of 50 Mbit/s and 20 ms each way: what is urgent waits for no bulk, and bulk
//! shares the line fairly, between destinations and between large messages and small ones.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::proto::client::Ticket;
use trunkline_mesh::proto::node::RejectReason;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const DELAY: Duration = Duration::from_millis(20);
const RATE: u64 = 6_250_000;
const LEADER: &str = "leader";

fn shaped(settings: &Settings) -> Lab {
    let nodes = [
        (LEADER, "us", Roles::ORIGIN, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
        ("eu-2", "eu", Roles::MEMBER, None),
        ("eu-3", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, settings, DELAY);
    lab.set_line("us", "eu", Line { delay: DELAY, rate: Some(RATE) });
    lab.run_for(Duration::from_secs(1));
    lab
}

/// Bytes that no second stage shortens.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// Bytes that the leader keeps until they are answered.
fn waiting(lab: &mut Lab) -> u64 {
    let now = lab.now;
    lab.node(LEADER).status(now).datacenters.iter().map(|of| of.queued_bytes).sum()
}

/// Bulk for a destination until its budget is full.
fn fill(lab: &mut Lab, to: &str, length: usize, seed: &mut u64) {
    loop {
        *seed += 1;
        let mut batch = Batch::to(dc("eu"));
        batch.push(
            Message::new(id(to), noise(*seed, length)).lane(Lane::Bulk).deadline(Duration::from_secs(60)),
        );
        if waiting(lab) > 3 << 20 {
            return;
        }
        match lab.submit(LEADER, batch) {
            Ok(_) => {}
            Err(rejected) if matches!(rejected.reason, RejectReason::Busy { .. }) => return,
            Err(rejected) => panic!("{:?}", rejected.reason),
        }
    }
}

/// What the receipts of these batches took, in the order of the time they took.
fn times(lab: &Lab, sent: &[(trunkline_mesh::proto::time::Micros, Ticket)]) -> Vec<Duration> {
    let leader = lab.index(LEADER);
    let took = sent.iter().map(|(at, ticket)| {
        let (told, outcomes) = lab.outcomes.get(&(leader, *ticket)).expect("a receipt");
        assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
        told.since(*at)
    });
    let mut took: Vec<Duration> = took.collect();
    took.sort();
    took
}

/// Sends `one` every 10 ms for three seconds while `load` keeps the line full; sorted times of their receipts.
fn beside(lab: &mut Lab, mut load: impl FnMut(&mut Lab), one: impl Fn(u64) -> Message) -> Vec<Duration> {
    let mut sent = Vec::new();
    for number in 0..300 {
        load(lab);
        let mut batch = Batch::to(dc("eu"));
        batch.push(one(number));
        sent.push((lab.now, lab.submit(LEADER, batch).expect("room for what is small")));
        lab.run_for(Duration::from_millis(10));
    }
    lab.run_for(Duration::from_secs(10));
    times(lab, &sent)
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

#[test]
fn a_heartbeat_waits_for_no_bulk() {
    let beat = |number: u64| Message::new(id("eu-1"), noise(number, 64)).lane(Lane::Control);
    let mut lab = shaped(&Settings::default());
    let idle = p99(&beside(&mut lab, |_| {}, beat));
    let mut lab = shaped(&Settings::default());
    let before = lab.stats(LEADER).datacenters[&dc("eu")].sent.wire;
    let mut seed = 0;
    let members = ["eu-1", "eu-2", "eu-3"];
    let load = |lab: &mut Lab| members.iter().for_each(|to| fill(lab, to, 16 * 1024, &mut seed));
    let loaded = p99(&beside(&mut lab, load, beat));
    let sent = lab.stats(LEADER).datacenters[&dc("eu")].sent.wire - before;
    let late = lab.stats(LEADER).attempts.timed_out;
    println!("heartbeats, p99: {idle:?} alone, {loaded:?} beside bulk; {late} messages late");
    assert!(idle <= 2 * DELAY + Duration::from_millis(2), "{idle:?}");
    assert!(loaded <= 2 * DELAY + Duration::from_millis(10), "{loaded:?}");
    // The line was full all the time: three seconds, and what was queued then.
    assert!(sent > 3 * RATE * 9 / 10, "{sent} bytes");
}

/// What one destination has waiting keeps another one's messages waiting for a frame or two, not for all of it.
#[test]
fn a_destination_with_much_to_get_does_not_hold_up_another_one() {
    let small = |number: u64| Message::new(id("eu-2"), noise(number, 1000)).lane(Lane::Bulk);
    let mut lab = shaped(&Settings::default());
    let mut seed = 0;
    let took = beside(&mut lab, |lab| fill(lab, "eu-1", 16 * 1024, &mut seed), small);
    println!("small messages beside another destination's 3 MiB: p50 {:?} p99 {:?}", took[150], p99(&took));
    // 3 MiB wait for eu-1, half a second of the line. A frame has a run of 64 KiB for it, 11 ms, and the kernel has two.
    assert!(p99(&took) <= 2 * DELAY + Duration::from_millis(60), "{:?}", p99(&took));
}

/// Messages of megabytes and small ones on one lane: a small one waits for the large one that is being written, and for none
/// behind that.
#[test]
fn a_small_message_waits_for_one_large_one_at_most() {
    const LARGE: usize = 1 << 20;
    let small = |number: u64| Message::new(id("eu-2"), noise(number, 1000)).lane(Lane::Bulk);
    let mut lab = shaped(&Settings::default());
    let mut seed = 0;
    let took = beside(&mut lab, |lab| fill(lab, "eu-1", LARGE, &mut seed), small);
    let one = Duration::from_nanos(LARGE as u64 * 1_000_000_000 / RATE);
    println!("small messages beside ones of 1 MiB ({one:?} each): p50 {:?} p99 {:?}", took[150], p99(&took));
    assert!(p99(&took) <= 2 * DELAY + one * 3 / 2, "{:?}", p99(&took));
}

/// Three destinations that always have more get a third each.
#[test]
fn destinations_that_always_have_more_get_equal_shares() {
    let mut lab = shaped(&Settings::default());
    let mut seed = 0;
    // Messages of very different lengths: shares are of bytes.
    let lengths = [("eu-1", 1_000), ("eu-2", 16 * 1024), ("eu-3", 60_000)];
    for _ in 0..300 {
        for (to, length) in lengths {
            for _ in 0..64_000 / length {
                seed += 1;
                let mut batch = Batch::to(dc("eu"));
                let message = Message::new(id(to), noise(seed, length)).lane(Lane::Bulk);
                batch.push(message.deadline(Duration::from_secs(60)));
                // A full budget of one destination turns down what is over it.
                let _ = lab.submit(LEADER, batch);
            }
        }
        lab.run_for(Duration::from_millis(10));
    }
    let taken = |to: &str| -> usize {
        lab.delivered
            .iter()
            .filter(|(_, at, _)| *at == id(to))
            .map(|(_, _, delivery)| delivery.payload.len())
            .sum()
    };
    let shares = lengths.map(|(to, _)| taken(to));
    println!("bytes in three seconds: {shares:?}");
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    // A frame has a run for each of up to 64 KiB of whole messages: three of 16 KiB with what is in front of them.
    assert!(most * 10 <= least * 14, "{shares:?}");
}

/// Where buffers take in half a second of the line, every frame is late, and none is lost: a line that goes on is not taken for a
/// proxy that is silent, whose messages would go again, and directly.
#[test]
fn a_slow_line_with_long_buffers_is_not_taken_for_silence() {
    let members = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"];
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
    nodes.extend(["eu-pa", "eu-pb"].map(|proxy| (proxy, "eu", Roles::PROXY, None)));
    nodes.extend(members.map(|member| (member, "eu", Roles::MEMBER, None)));
    for kernel_bytes in [128 << 10, 1 << 20, 4 << 20] {
        let mut lab = Lab::new(&nodes, &Settings::default(), DELAY);
        lab.set_line("us", "eu", Line { delay: DELAY, rate: Some(RATE) });
        lab.kernel_bytes = kernel_bytes;
        lab.run_for(Duration::from_secs(1));
        let mut seed = 0;
        for _ in 0..600 {
            members.iter().for_each(|to| fill(&mut lab, to, 16 * 1024, &mut seed));
            lab.run_for(Duration::from_millis(10));
        }
        lab.run_for(Duration::from_secs(20));
        let stats = lab.stats(LEADER);
        let sent = stats.datacenters[&dc("eu")].messages;
        let (direct, late) = (stats.fallbacks.direct, stats.attempts.timed_out);
        println!("buffers of {kernel_bytes}: {direct} of {sent} messages went directly, {late} were late");
        assert!(direct * 50 <= sent && late * 50 <= sent, "{direct} direct and {late} late of {sent}");
    }
}

const THREE: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

/// Three members behind two proxies, over a line with much room in front of it.
fn three_over_a_line() -> Lab {
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
    nodes.extend(["eu-pa", "eu-pb"].map(|proxy| (proxy, "eu", Roles::PROXY, None)));
    nodes.extend(THREE.map(|member| (member, "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), DELAY);
    lab.set_line("us", "eu", Line { delay: DELAY, rate: Some(RATE) });
    lab.kernel_bytes = 4 << 20;
    lab.run_for(Duration::from_secs(1));
    lab
}

fn submit_to_three(lab: &mut Lab, lane: Lane, payload: &[u8]) {
    let mut batch = Batch::to(dc("eu"));
    for to in THREE {
        batch.push(Message::new(id(to), payload.to_vec()).lane(lane).deadline(Duration::from_secs(60)));
    }
    lab.submit(LEADER, batch).unwrap();
}

/// A megabyte is under way at any time, in messages of 4 KiB to 124, on a line that others have a part of now and then: what an answer
/// takes is a matter of what stands before it, and not of its proxy.
#[test]
fn a_line_that_others_fill_now_and_then_convicts_nobody() {
    // With the first three a sender that turns from one proxy to the other has less of the line for what is on its way by the
    // former, and large messages among that.
    for seed in [5, 6, 9, 7] {
        fill_now_and_then(seed);
    }
}

fn fill_now_and_then(seed: u64) {
    let mut lab = three_over_a_line();
    let mut rng = fastrand::Rng::with_seed(seed);
    for beat in 0..8000 {
        // Now and then somebody else has a part of the line.
        let rate = if beat % 500 < 200 { RATE / 5 * 3 } else { RATE };
        lab.set_line("us", "eu", Line { delay: DELAY, rate: Some(rate) });
        while waiting(&mut lab) < 3 << 20 {
            let bytes = 4096 * if rng.u8(..8) == 0 { rng.usize(8..32) } else { rng.usize(1..4) };
            submit_to_three(&mut lab, Lane::Bulk, &noise(beat, bytes));
        }
        lab.run_for(Duration::from_millis(1));
    }
    lab.run_for(Duration::from_secs(5));
    let stats = lab.stats(LEADER);
    let blamed: u64 = stats.verdicts.values().sum();
    let told = (stats.attempts.timed_out, stats.fallbacks.direct, blamed);
    assert_eq!(told, (0, 0, 0), "seed {seed}: {:?}", stats.verdicts);
}

/// What comes at once after a quiet time fills a line before anybody knows how fast it is: all of it is later than anything was
/// before, and no proxy is to blame.
#[test]
fn a_burst_that_fills_a_line_convicts_nobody() {
    let mut lab = three_over_a_line();
    for round in 0..5 {
        for beat in 0..100 {
            submit_to_three(&mut lab, Lane::Control, &noise(beat, 64));
            if round % 2 == 0 {
                submit_to_three(&mut lab, Lane::Bulk, &noise(beat, 512));
            }
            lab.run_for(Duration::from_millis(20));
        }
        // 200 ms of the line, five times what an answer took.
        (0..40)
            .for_each(|part| submit_to_three(&mut lab, Lane::Bulk, &noise(1000 * round + part, 32 * 1024)));
    }
    lab.run_for(Duration::from_secs(5));
    let stats = lab.stats(LEADER);
    assert_eq!(stats.datacenters[&dc("eu")].messages, (5 * 140 + 3 * 100) * 3);
    let blamed: u64 = stats.verdicts.values().sum();
    assert_eq!((stats.attempts.timed_out, stats.fallbacks.direct, blamed), (0, 0, 0), "{:?}", stats.verdicts);
}
