//! The way back: what members answer a leader elsewhere goes by the proxy of their own datacenter, in one frame over the WAN.
//! All of it in virtual time.

mod lab;

use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, Line, Traffic, dc, id};
use trunkline_mesh::id::NodeId;
use trunkline_mesh::message::Outcome;
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::proto::wire::{FEATURE_BACK, FEATURES, Offer};
use trunkline_mesh::{Batch, Lane, Message, Roles, Route, Settings};

const WAN: Duration = Duration::from_millis(40);
/// Within a datacenter, as the lab has it.
const LAN: Duration = Duration::from_micros(100);
const EU: [&str; 5] = ["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"];
const BEAT: Duration = Duration::from_millis(100);

const VOTER: Roles = Roles { origin: true, member: true, proxy: false };

/// A leader with five members elsewhere; `without` lacks the feature.
fn cluster(without: &str, settings: &Settings) -> Lab {
    let offer = |name: &str| {
        (name == without).then(|| Offer { features: FEATURES & !FEATURE_BACK, ..Offer::default() })
    };
    let mut nodes = vec![
        ("leader", "us", VOTER, offer("leader")),
        ("us-p", "us", Roles::PROXY, None),
        ("eu-p", "eu", Roles::PROXY, offer("eu-p")),
        ("eu-q", "eu", Roles::PROXY, None),
    ];
    nodes.extend(EU.map(|name| (name, "eu", VOTER, offer(name))));
    let mut lab = Lab::new(&nodes, settings, WAN);
    lab.run_for(Duration::from_secs(1));
    lab
}

fn to_all(round: u64) -> Batch {
    let mut batch = Batch::to(dc("eu"));
    let beat = Bytes::from([&round.to_le_bytes()[..], &[7; 56]].concat());
    batch.extend(EU.map(|name| Message::new(id(name), beat.clone()).lane(Lane::Control)));
    batch
}

/// What a voter answers: term, index, and whether it has it.
fn answer(round: u64) -> Batch {
    let mut batch = Batch::to(dc("us"));
    let bytes = [&7_u64.to_le_bytes()[..], &round.to_le_bytes(), &[1]].concat();
    batch.push(Message::new(id("leader"), bytes).lane(Lane::Control));
    batch
}

/// Runs for this long. Whoever gets something of the leader answers it, but for those that are `silent`: the first at once, and
/// each a `step` later than the one before.
fn run_answering(lab: &mut Lab, time: Duration, step: Duration, silent: &[&str]) {
    let (until, mut seen) = (lab.now + time, lab.delivered.len());
    let mut thinking: Vec<(Micros, NodeId, u64)> = Vec::new();
    while lab.now < until {
        lab.run_for(Duration::from_micros(20));
        for (heard, at, delivery) in &lab.delivered[seen..] {
            if delivery.origin == id("leader") && !silent.contains(&at.as_str()) {
                let bytes = delivery.payload.to_vec();
                let round = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let steps = EU.iter().position(|name| *name == at.as_str()).unwrap();
                thinking.push((*heard + step * u32::try_from(steps).unwrap(), at.clone(), round));
            }
        }
        seen = lab.delivered.len();
        let now = lab.now;
        for (_, name, round) in thinking.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>() {
            lab.submit(name.as_str(), answer(round)).unwrap();
        }
    }
}

fn beats(lab: &mut Lab, rounds: std::ops::Range<u64>) {
    for round in rounds {
        lab.submit("leader", to_all(round)).unwrap();
        run_answering(lab, BEAT, Duration::ZERO, &[]);
    }
}

/// What came to one datacenter from another, all nodes together.
fn crossed(lab: &Lab, from: &str, to: &str) -> Traffic {
    let of = |name: &NodeId| lab.topology.node(name).unwrap().datacenter.clone();
    let mut all = Traffic::default();
    for (_, one) in lab.received.iter().filter(|((at, by), _)| of(at) == dc(to) && of(by) == dc(from)) {
        all.bytes += one.bytes;
        all.batches += one.batches;
        all.batch_bytes += one.batch_bytes;
        all.runs += one.runs;
        all.acks += one.acks;
    }
    all
}

/// When the leader got the answers of a round, after it asked.
fn answered(lab: &Lab, round: u64, asked: Micros) -> Vec<Duration> {
    let answers = lab.delivered.iter().filter(|(_, at, _)| *at == id("leader"));
    let of_round = answers.filter(|(_, _, delivery)| delivery.payload.to_vec()[8..16] == round.to_le_bytes());
    of_round.map(|(at, ..)| at.since(asked)).collect()
}

/// The outcomes of what a member sent.
fn outcomes(lab: &Lab, name: &str) -> Vec<Outcome> {
    let index = lab.index(name);
    let of = lab.outcomes.iter().filter(|((host, _), _)| *host == index);
    of.flat_map(|(_, (_, outcomes))| outcomes.clone()).collect()
}

fn route(outcome: &Outcome) -> &Route {
    match outcome {
        Outcome::Delivered { route, .. } => route,
        Outcome::Failed { .. } => panic!("{outcome:?}"),
    }
}

/// Nobody was blamed, whatever went wrong.
fn assert_nobody_is_convicted(lab: &mut Lab) {
    for name in EU.into_iter().chain(["leader"]).filter(|name| lab.is_alive(name)).collect::<Vec<_>>() {
        let stats = lab.stats(name);
        let verdicts: u64 = stats.verdicts.values().sum();
        assert_eq!((verdicts, stats.false_acks), (0, 0), "{name}: {:?}", stats.verdicts);
    }
}

/// Every answer that was sent arrived once.
fn assert_each_arrived_once(lab: &Lab, each: u64) {
    for name in EU {
        let of = lab.delivered.iter().filter(|(_, at, one)| *at == id("leader") && one.origin == id(name));
        let seqs: Vec<u64> = of.map(|(.., one)| one.seq.0).collect();
        assert_eq!(seqs, (1..=each).collect::<Vec<_>>(), "{name}: in order and once");
        let outcomes = outcomes(lab, name);
        let delivered = outcomes.iter().filter(|outcome| outcome.is_delivered()).count();
        assert_eq!(u64::try_from(delivered), Ok(each), "{name}");
    }
}

#[test]
fn what_members_answer_a_leader_elsewhere_crosses_in_one_frame() {
    const ROUNDS: u64 = 80;
    let measure = |without: &str| {
        let mut lab = cluster(without, &Settings::default());
        beats(&mut lab, 0..5);
        let (before, asked) = (crossed(&lab, "eu", "us"), lab.now);
        for round in 5..5 + ROUNDS {
            lab.submit("leader", to_all(round)).unwrap();
            run_answering(&mut lab, BEAT, LAN, &[]);
        }
        let after = crossed(&lab, "eu", "us");
        let all = (0..ROUNDS).flat_map(|round| {
            let asked = asked + BEAT * u32::try_from(round).unwrap();
            let all = answered(&lab, round + 5, asked);
            assert_eq!(all.len(), EU.len(), "round {round}");
            all
        });
        let slowest = all.max().unwrap();
        for name in EU {
            assert_eq!(lab.stats(name).attempts.timed_out, 0);
        }
        assert_nobody_is_convicted(&mut lab);
        let seen = Traffic {
            bytes: after.bytes - before.bytes,
            batches: after.batches - before.batches,
            batch_bytes: after.batch_bytes - before.batch_bytes,
            runs: after.runs - before.runs,
            acks: after.acks - before.acks,
            news: 0,
            reads: 0,
        };
        (lab, seen, slowest)
    };
    let (mut lab, merged, slowest) = measure("");
    let (_, alone, slowest_alone) = measure("eu-p");
    println!(
        "{ROUNDS} heartbeats, {} answers each: {} frames of {} bytes ({} with acks and pings), slowest {slowest:?}; \
         each answer on its own: {} frames of {} bytes ({}), slowest {slowest_alone:?}",
        EU.len(),
        merged.batches,
        merged.batch_bytes,
        merged.bytes,
        alone.batches,
        alone.batch_bytes,
        alone.bytes,
    );
    assert_eq!((merged.batches, merged.runs), (ROUNDS, 5 * ROUNDS), "one frame per heartbeat");
    assert_eq!((alone.batches, alone.runs), (5 * ROUNDS, 5 * ROUNDS));
    assert!(2 * merged.batch_bytes < alone.batch_bytes, "{merged:?} and {alone:?}");
    assert!(slowest <= slowest_alone + LAN, "{slowest:?} and {slowest_alone:?}");
    for name in EU {
        let ways = outcomes(&lab, name);
        assert!(ways[5..].iter().all(|outcome| *route(outcome) == Route::Back(id("eu-p"))), "{ways:?}");
        assert!(lab.stats(name).datacenters[&dc("us")].delivered_back >= ROUNDS);
    }
    lab.run_for(Duration::from_secs(1));
    assert_each_arrived_once(&lab, 5 + ROUNDS);
    let leader = &lab.stats("leader").datacenters[&dc("eu")];
    assert_eq!(
        (leader.delivered_back, leader.frames),
        (0, 5 + ROUNDS),
        "heartbeats go by proxy, in one frame"
    );
}

#[test]
fn a_message_that_nobody_else_sends_waits_for_no_company() {
    let mut lab = cluster("", &Settings::default());
    beats(&mut lab, 0..5);
    for round in 100..110 {
        let asked = lab.now;
        lab.submit("eu-3", answer(round)).unwrap();
        lab.run_for(Duration::from_millis(200));
        assert_eq!(answered(&lab, round, asked), [LAN + WAN]);
    }
    assert_eq!(*route(outcomes(&lab, "eu-3").last().unwrap()), Route::Back(id("eu-p")));
}

#[test]
fn an_answer_on_bulk_keeps_none_on_control_waiting() {
    let mut lab = cluster("", &Settings::default());
    beats(&mut lab, 0..5);
    let bulk = || {
        let mut batch = Batch::to(dc("us"));
        batch.push(Message::new(id("leader"), Bytes::from_static(&[0; 17])).lane(Lane::Bulk));
        batch
    };
    for round in 100..110 {
        // A frame of bulk goes a moment before.
        lab.submit("eu-2", bulk()).unwrap();
        lab.run_for(Duration::from_micros(300));
        let asked = lab.now;
        lab.submit("eu-3", answer(round)).unwrap();
        lab.run_for(Duration::from_millis(200));
        assert_eq!(answered(&lab, round, asked), [LAN + WAN]);
    }
    for name in ["eu-2", "eu-3"] {
        assert_eq!(*route(outcomes(&lab, name).last().unwrap()), Route::Back(id("eu-p")), "{name}");
    }
}

#[test]
fn a_member_that_says_nothing_keeps_the_others_waiting_once_and_not_for_long() {
    let mut lab = cluster("", &Settings::default());
    beats(&mut lab, 0..5);
    let mut waits = Vec::new();
    for round in 5..25 {
        let asked = lab.now;
        lab.submit("leader", to_all(round)).unwrap();
        run_answering(&mut lab, BEAT, Duration::ZERO, &["eu-5"]);
        let all = answered(&lab, round, asked);
        assert_eq!(all.len(), 4);
        waits.push(*all.iter().max().unwrap() - (LAN * 2 + WAN * 2));
    }
    let delay = Settings::default().ack_delay;
    let slack = Duration::from_micros(100);
    assert!(waits[0] >= delay && waits[0] <= delay + slack, "{waits:?}");
    assert!(waits[1..].iter().all(|wait| *wait <= slack), "{waits:?}");
}

/// The proxy dies, by kill or by drain, while answers are at it, on their way, and on their way back as acks.
#[test]
fn when_the_proxy_dies_under_answers_nothing_is_lost_and_nothing_comes_twice() {
    for at_us in [40_150, 40_250, 60_000, 80_150, 80_350, 120_000] {
        let mut lab = cluster("", &Settings::default());
        beats(&mut lab, 0..5);
        for round in 5..15 {
            lab.submit("leader", to_all(round)).unwrap();
            if round == 8 {
                run_answering(&mut lab, Duration::from_micros(at_us), Duration::ZERO, &[]);
                lab.kill("eu-p");
                run_answering(&mut lab, BEAT, Duration::ZERO, &[]);
            } else {
                run_answering(&mut lab, BEAT, Duration::ZERO, &[]);
            }
        }
        run_answering(&mut lab, Duration::from_secs(2), Duration::ZERO, &[]);
        assert_each_arrived_once(&lab, 15);
        assert_nobody_is_convicted(&mut lab);
        for name in EU {
            let last = outcomes(&lab, name).pop().unwrap();
            assert_eq!(
                *route(&last),
                Route::Back(id("eu-q")),
                "{name}, {at_us}: the other proxy leads back now"
            );
        }
    }
}

/// Nothing else happens that would remind anybody of what was under way.
#[test]
fn answers_under_way_take_another_way_as_soon_as_the_proxy_is_gone() {
    let mut lab = cluster("", &Settings::default());
    beats(&mut lab, 0..5);
    for name in EU {
        lab.submit(name, answer(100)).unwrap();
    }
    lab.run_for(Duration::from_millis(20));
    lab.kill("eu-p");
    lab.run_for(Duration::from_millis(110));
    assert_each_arrived_once(&lab, 6);
    assert_nobody_is_convicted(&mut lab);
}

/// Takes in whatever comes, and passes nothing on: heartbeats do not come by it either, after a moment.
#[test]
fn a_proxy_that_swallows_answers_is_left_and_nobody_is_convicted_for_it() {
    let mut lab = cluster("", &Settings::default());
    beats(&mut lab, 0..5);
    lab.node("eu-p").set_frozen(true);
    for round in 100..110 {
        for name in EU.into_iter().flat_map(|name| [name; 5]) {
            lab.submit(name, answer(round)).unwrap();
        }
        lab.run_for(BEAT);
    }
    lab.run_for(Duration::from_secs(1));
    assert_each_arrived_once(&lab, 55);
    assert_nobody_is_convicted(&mut lab);
    for name in EU {
        let late = lab.stats(name).attempts.timed_out;
        println!("{name}: {late} answers were late");
        assert!(late <= 13, "{name}: what the first two rounds sent, and then one at a time: {late}");
    }
    lab.node("eu-p").set_frozen(false);
    lab.run_for(Duration::from_secs(3));
    beats(&mut lab, 10..12);
    for name in EU {
        assert_eq!(
            *route(outcomes(&lab, name).last().unwrap()),
            Route::Back(id("eu-p")),
            "{name}: it mended"
        );
    }
}

#[test]
fn a_proxy_that_acknowledges_answers_falsely_is_found_out_and_left() {
    let mut lab = cluster("", &Settings::default());
    beats(&mut lab, 0..5);
    lab.node("eu-p").set_lying(4);
    let mut told = 0;
    for round in 100..110 {
        for name in EU {
            lab.submit(name, answer(round)).unwrap();
        }
        lab.run_for(BEAT);
    }
    for name in EU {
        told += lab.stats(name).false_acks;
    }
    assert!(told > 0, "somebody found out");
    let found = EU.into_iter().filter(|name| lab.stats(name).false_acks > 0).collect::<Vec<_>>();
    for name in found {
        lab.submit(name, answer(200)).unwrap();
        lab.run_for(BEAT);
        assert_eq!(*route(outcomes(&lab, name).last().unwrap()), Route::Proxy(id("us-p")), "{name}");
    }
}

/// Whoever lacks the feature, at any of the three places, is served as ever.
#[test]
fn without_the_feature_answers_take_the_ways_that_there_were() {
    for without in ["leader", "eu-p", "eu-1"] {
        let mut lab = cluster(without, &Settings::default());
        beats(&mut lab, 0..20);
        lab.run_for(Duration::from_secs(1));
        assert_each_arrived_once(&lab, 20);
        assert_nobody_is_convicted(&mut lab);
        for name in EU {
            let by_us =
                outcomes(&lab, name).iter().filter(|one| *route(one) == Route::Proxy(id("us-p"))).count();
            let back = without == "eu-1" && name != "eu-1";
            assert_eq!(by_us == 20, !back, "{without} lacks it: {name} has {by_us}");
        }
    }
}

/// What several members of the leader's datacenter get crosses once, by a proxy there; and much goes by a connection of its own.
#[test]
fn what_others_get_as_well_and_what_is_much_does_not_go_back() {
    let nodes = [
        ("leader", "us", VOTER, None),
        ("us-1", "us", Roles::MEMBER, None),
        ("us-p", "us", Roles::PROXY, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", VOTER, None),
    ];
    // What may come back in an echo is much a little later.
    for (echo, little, much) in [(false, 60_000, 100_000), (true, 500_000, 600_000)] {
        let mut lab = Lab::new(&nodes, &Settings { echo, ..Settings::default() }, WAN);
        lab.run_for(Duration::from_secs(1));
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id("eu-1"), vec![1; 100]));
        lab.submit("leader", batch).unwrap();
        lab.run_for(Duration::from_secs(1));
        let mut send = |to: &[&str], bytes: usize| {
            let mut batch = Batch::to(dc("us"));
            let payload = Bytes::from(vec![7; bytes]);
            batch.extend(to.iter().map(|name| Message::new(id(name), payload.clone())));
            lab.submit("eu-1", batch).unwrap();
            lab.run_for(Duration::from_secs(1));
            route(outcomes(&lab, "eu-1").last().unwrap()).clone()
        };
        assert_eq!(send(&["leader"], 1_000), Route::Back(id("eu-p")));
        assert_eq!(send(&["us-1", "leader"], 1_000), Route::Proxy(id("us-p")));
        assert_eq!(send(&["leader"], little), Route::Back(id("eu-p")));
        assert_eq!(send(&["leader"], much), Route::Proxy(id("us-p")));
        assert_eq!(send(&["leader"], 1_000), Route::Back(id("eu-p")));
    }
}

/// A batch for two has no company for either where neither is to be reached otherwise; nor is the way forgotten for what came
/// directly since.
#[test]
fn who_has_no_other_way_goes_back_whatever_there_is_for_others() {
    let nodes = [
        ("leader", "us", VOTER, None),
        ("us-1", "us", Roles::MEMBER, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", VOTER, None),
    ];
    for directly_since in [false, true] {
        let mut lab = Lab::new(&nodes, &Settings::default(), WAN);
        lab.set_settings("eu-p", &Settings { frame_bytes_max: 128 << 10, ..Settings::default() });
        lab.run_for(Duration::from_secs(1));
        // What no frame of the proxy's has room for goes directly.
        let sizes: &[usize] = if directly_since { &[100, 100_000] } else { &[100] };
        for bytes in sizes {
            let mut batch = Batch::to(dc("eu"));
            batch.push(Message::new(id("eu-1"), vec![1; *bytes]));
            lab.submit("leader", batch).unwrap();
            lab.run_for(Duration::from_secs(1));
        }
        let directly = outcomes(&lab, "leader").iter().any(|one| *route(one) == Route::Direct);
        assert_eq!(directly, directly_since);
        lab.accepts_per_second = Some(0);
        let mut batch = Batch::to(dc("us"));
        let late = Duration::from_secs(60);
        batch.extend(["leader", "us-1"].map(|name| Message::new(id(name), vec![7; 1000]).deadline(late)));
        lab.submit("eu-1", batch).unwrap();
        lab.run_for(Duration::from_secs(1));
        let came = lab.delivered.iter().filter(|(_, at, _)| *at == id("leader")).count();
        assert_eq!(came, 1, "directly since: {directly_since}");
    }
}

/// It waits for a dial that hangs when the first message of its destination comes by a proxy.
#[test]
fn what_had_no_way_goes_back_as_soon_as_one_leads_there() {
    let nodes =
        [("leader", "us", VOTER, None), ("eu-p", "eu", Roles::PROXY, None), ("eu-1", "eu", VOTER, None)];
    let mut lab = Lab::new(&nodes, &Settings::default(), WAN);
    lab.run_for(Duration::from_secs(1));
    lab.accepts_per_second = Some(0);
    let send = |lab: &mut Lab, from: &str, to: &str, site: &str| {
        let mut batch = Batch::to(dc(site));
        batch.push(Message::new(id(to), vec![7; 100]));
        lab.submit(from, batch).unwrap();
    };
    send(&mut lab, "eu-1", "leader", "us");
    lab.run_for(Duration::from_secs(1));
    send(&mut lab, "leader", "eu-1", "eu");
    lab.run_for(3 * WAN);
    let came = lab.delivered.iter().filter(|(_, at, _)| *at == id("leader")).count();
    assert_eq!(came, 1);
}

/// The link to the leader is so slow that the proxy's queue for it fills: members take their other ways, and are not held up.
#[test]
fn a_full_queue_for_the_leader_sends_answers_another_way() {
    let settings =
        Settings { member_queue_bytes_max: 48 << 10, message_bytes_max: 48 << 10, ..Settings::default() };
    let mut lab = cluster("", &settings);
    beats(&mut lab, 0..3);
    let slow = Line { delay: WAN, rate: Some(400_000) };
    lab.set_line("eu", "us", slow);
    for _ in 0..8 {
        for name in EU {
            let mut batch = Batch::to(dc("us"));
            batch.push(Message::new(id("leader"), vec![name.as_bytes()[3]; 30_000]));
            lab.submit(name, batch).unwrap();
        }
        lab.run_for(Duration::from_millis(10));
    }
    lab.run_for(Duration::from_secs(15));
    let full = lab.stats("eu-p").proxy.refused["queue_full"];
    assert!(full > 0, "nothing was tried");
    let others =
        EU.iter().flat_map(|name| outcomes(&lab, name)).filter(|one| *route(one) == Route::Proxy(id("us-p")));
    let others = others.count();
    println!("{full} refused, {others} delivered by another way");
    assert!(others > 0, "nobody took another way");
    for name in EU {
        let of = lab.delivered.iter().filter(|(_, at, one)| *at == id("leader") && one.origin == id(name));
        assert_eq!(of.count(), 3 + 8, "{name}");
        assert!(outcomes(&lab, name).iter().all(Outcome::is_delivered), "{name}");
    }
}
