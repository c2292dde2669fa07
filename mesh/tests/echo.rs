//! What comes back: a proposal that went up over the bulk connection of a proxy comes down in entries by its name. All of it in
//! virtual time.

mod lab;

use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::NodeId;
use trunkline_mesh::message::{Delivery, Outcome};
use trunkline_mesh::proto::wire::{FEATURE_ECHO, FEATURES, Offer};
use trunkline_mesh::{Batch, Lane, Message, Roles, Route, Settings};

const WAN: Duration = Duration::from_millis(40);
const EU: [&str; 3] = ["eu-1", "eu-2", "eu-3"];
const VOTER: Roles = Roles { origin: true, member: true, proxy: false };
const PROPOSAL_BYTES: usize = 64 << 10;
/// In front of a proposal, and of an entry: of another content, and of another length.
const PROPOSAL_HEAD: usize = 72;
const ENTRY_HEAD: usize = 40;

/// A leader with three members elsewhere; `without` lacks the feature.
fn cluster(without: &str, settings: &Settings) -> Lab {
    let offer = |name: &str| {
        (name == without).then(|| Offer { features: FEATURES & !FEATURE_ECHO, ..Offer::default() })
    };
    let mut nodes = vec![
        ("leader", "us", VOTER, offer("leader")),
        ("us-p", "us", Roles::PROXY, offer("us-p")),
        ("eu-p", "eu", Roles::PROXY, offer("eu-p")),
        ("eu-q", "eu", Roles::PROXY, offer("eu-q")),
    ];
    nodes.extend(EU.map(|name| (name, "eu", VOTER, offer(name))));
    let mut lab = Lab::new(&nodes, settings, WAN);
    lab.run_for(Duration::from_secs(1));
    // All have heard the leader, by the proxy in use.
    lab.submit("leader", entry(&[1; 10])).unwrap();
    lab.run_for(Duration::from_secs(1));
    lab
}

fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect()
}

/// What the leader makes of a proposal, in memory of its own as a log has it, for all members.
fn entry(body: &[u8]) -> Batch {
    let mut batch = Batch::to(dc("eu"));
    let stamped = Bytes::from([&[9; ENTRY_HEAD][..], body].concat());
    batch.extend(EU.map(|name| {
        let head = Bytes::copy_from_slice(name.as_bytes());
        Message::new(id(name), [head, stamped.clone()].into_iter().collect::<trunkline_codec::Payload>())
    }));
    batch
}

fn proposal(body: &[u8]) -> Batch {
    let mut batch = Batch::to(dc("us"));
    batch.push(Message::new(id("leader"), [&[7; PROPOSAL_HEAD][..], body].concat()));
    batch
}

/// What came to one datacenter from another, bytes, both directions together.
fn crossed(lab: &Lab) -> u64 {
    let of = |name: &NodeId| lab.topology.node(name).unwrap().datacenter.clone();
    lab.received.iter().filter(|((at, by), _)| of(at) != of(by)).map(|(_, one)| one.bytes).sum()
}

/// Batches of no runs that came from the leader.
fn news(lab: &Lab) -> u64 {
    lab.received.iter().filter(|((_, by), _)| *by == id("leader")).map(|(_, one)| one.news).sum()
}

fn delivered<'a>(lab: &'a Lab, name: &str) -> Vec<&'a Delivery> {
    let name = id(name);
    lab.delivered.iter().filter(|(_, at, _)| *at == name).map(|(.., delivery)| delivery).collect()
}

/// A member proposes; the leader sends it on to all as soon as it has it. Says what crossed meanwhile, in proposals.
fn propose(lab: &mut Lab, name: &str, seed: u64) -> f64 {
    let (body, before, had) = (random(seed, PROPOSAL_BYTES), crossed(lab), delivered(lab, "leader").len());
    lab.submit(name, proposal(&body)).unwrap();
    lab.run_until("the leader has it", Duration::from_secs(3), |lab| delivered(lab, "leader").len() > had);
    let got = delivered(lab, "leader")[had].payload.to_vec();
    assert!(got[PROPOSAL_HEAD..] == body);
    lab.submit("leader", entry(&got[PROPOSAL_HEAD..])).unwrap();
    lab.run_for(Duration::from_millis(500));
    for name in EU {
        let last = delivered(lab, name).last().unwrap().payload.to_vec();
        assert!(last[name.len() + ENTRY_HEAD..] == body, "{name}");
    }
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let copies = (crossed(lab) - before) as f64 / PROPOSAL_BYTES as f64;
    copies
}

fn route_of_last(lab: &Lab, name: &str) -> Route {
    let host = lab.index(name);
    let mut of = lab.outcomes.iter().filter(|((index, _), _)| *index == host);
    match of.next_back().unwrap().1.1.last().unwrap() {
        Outcome::Delivered { route, .. } => route.clone(),
        failed @ Outcome::Failed { .. } => panic!("{failed:?}"),
    }
}

#[test]
fn a_proposal_that_went_up_does_not_come_down() {
    let mut lab = cluster("nobody", &Settings::default());
    for (round, name) in EU.iter().cycle().take(30).enumerate() {
        let copies = propose(&mut lab, name, u64::try_from(round).unwrap());
        assert!(copies < 1.02, "round {round}: {copies}");
        assert!(matches!(route_of_last(&lab, name), Route::Back(_)));
    }
    let echoed = lab.stats("leader").datacenters[&dc("eu")].echoed;
    assert_eq!(usize::try_from(echoed), Ok(30 * PROPOSAL_BYTES));
}

#[test]
fn who_does_not_know_of_it_gets_all_of_it() {
    for without in ["leader", "eu-p", "eu-1"] {
        let mut lab = cluster(without, &Settings::default());
        if without == "eu-p" {
            // Whichever is in use.
            lab = cluster("eu-q", &Settings::default());
            let other = propose(&mut lab, "eu-1", 1);
            lab = cluster("eu-p", &Settings::default());
            let copies = propose(&mut lab, "eu-1", 1);
            assert!(copies.max(other) > 1.98 && copies.min(other) < 1.02, "{copies} and {other}");
            continue;
        }
        let copies = propose(&mut lab, "eu-1", 1);
        assert!(copies > 1.98, "without it at {without}: {copies}");
        if without == "eu-1" {
            // The others' come back by name all the same.
            assert!(propose(&mut lab, "eu-2", 2) < 1.02);
        }
    }
}

/// Both proxies serve in turn: what went up by one is not named to the other.
#[test]
fn another_proxy_gets_all_of_it_and_begins_anew() {
    let mut lab = cluster("nobody", &Settings::default());
    assert!(propose(&mut lab, "eu-1", 1) < 1.02);
    let Route::Back(proxy) = route_of_last(&lab, "eu-1") else { panic!() };
    // It is gone while an entry is being made of what it brought.
    let body = random(2, PROPOSAL_BYTES);
    lab.submit("eu-1", proposal(&body)).unwrap();
    lab.run_for(WAN + Duration::from_millis(5));
    assert!(delivered(&lab, "leader").last().unwrap().payload.to_vec()[PROPOSAL_HEAD..] == body);
    lab.kill(proxy.as_str());
    let before = crossed(&lab);
    lab.submit("leader", entry(&body)).unwrap();
    lab.run_for(Duration::from_secs(1));
    for name in EU {
        let all: Vec<Vec<u8>> = delivered(&lab, name).iter().map(|one| one.payload.to_vec()).collect();
        assert_eq!(all.len(), 3, "{name}: each once");
        assert!(all[2][name.len() + ENTRY_HEAD..] == body);
    }
    assert!(crossed(&lab) - before > u64::try_from(PROPOSAL_BYTES).unwrap());
    assert!(propose(&mut lab, "eu-1", 3) < 1.02, "by the other one");
    lab.restart(proxy.as_str(), 1_800_000_000_000_000);
    lab.run_for(Duration::from_secs(3));
    for round in 4..8 {
        assert!(propose(&mut lab, "eu-2", round) < 1.02);
    }
    let stats = lab.stats("leader");
    assert_eq!(stats.protocol_errors.values().sum::<u64>(), 0, "{:?}", stats.protocol_errors);
}

/// A leader that sends nothing on bulk says all the same what has arrived: else what goes up would not be kept for long.
#[test]
fn who_sends_nothing_says_what_has_arrived() {
    let settings = Settings { inbox_bytes_max: 32 << 20, ..Settings::default() };
    let mut lab = cluster("nobody", &settings);
    let first = news(&lab);
    const ROUNDS: u64 = 120;
    for round in 0..ROUNDS {
        lab.submit("eu-3", proposal(&random(1000 + round, PROPOSAL_BYTES))).unwrap();
        lab.run_for(Duration::from_millis(150));
    }
    assert_eq!(delivered(&lab, "leader").len(), usize::try_from(ROUNDS).unwrap());
    // Once per 256 KiB.
    let told = news(&lab) - first;
    assert!((ROUNDS / 5..=ROUNDS / 4 + 1).contains(&told), "{told}");
    assert!(propose(&mut lab, "eu-1", 1) < 1.02, "{} KiB have gone up", ROUNDS * 64);
}

/// Much is under way from one member: beyond a part of the proxy's queue it goes another way, and comes down in full.
#[test]
fn more_than_a_part_of_the_queue_goes_another_way() {
    let mut lab = cluster("nobody", &Settings::default());
    let at_once = |lab: &mut Lab, count: u64| {
        for seed in 0..count {
            lab.submit("eu-1", proposal(&random(seed, PROPOSAL_BYTES))).unwrap();
        }
        lab.run_for(Duration::from_secs(2));
        let stats = lab.stats("eu-1").datacenters[&dc("us")].clone();
        (stats.delivered_back, stats.delivered_by_proxy)
    };
    assert_eq!(at_once(&mut lab, 7), (7, 0));
    let (back, by_proxy) = at_once(&mut lab, 16);
    assert_eq!(back + by_proxy, 7 + 16);
    assert!(by_proxy > 7, "{by_proxy}");
}

/// What the member takes for its part of the queue is what the proxy does, whatever the messages: nothing that goes back is refused
/// for being too much.
#[test]
fn what_goes_back_at_once_is_never_more_than_the_proxy_takes() {
    let settings = Settings::default();
    let part = settings.member_queue_bytes_max / 8;
    for bytes in [300, 4 << 10, 32 << 10, 64 << 10, part / 4, part / 2, part] {
        let mut lab = cluster("nobody", &settings);
        // So slow that all of it stands at the proxy at once.
        lab.set_line("us", "eu", Line { delay: WAN, rate: Some(400_000) });
        for round in 0..3 {
            for seed in 0..u64::try_from(part / bytes).unwrap() {
                let mut batch = Batch::to(dc("us"));
                let message = Message::new(id("leader"), random(1000 * round + seed, bytes));
                batch.push(message.deadline(Duration::from_secs(60)));
                lab.submit("eu-1", batch).unwrap();
            }
            lab.run_for(Duration::from_secs(8));
        }
        let stats = lab.stats("eu-1");
        let by = &stats.datacenters[&dc("us")];
        let all = 3 * u64::try_from(part / bytes).unwrap();
        assert_eq!(by.delivered_back + by.delivered_by_proxy + by.delivered_direct, all, "{bytes} B: {by:?}");
        assert!(by.delivered_back > 0 || bytes == part, "{bytes} B: {by:?}");
        let refused: Vec<_> = ["eu-p", "eu-q"].map(|proxy| lab.stats(proxy).proxy.refused).into();
        assert!(refused.iter().all(|of| of.values().all(|times| *times == 0)), "{bytes} B: {refused:?}");
        assert_eq!(stats.attempts.refused, 0, "{bytes} B");
    }
}

/// Many at once, as they come up together: each is found by more than what it ends with.
#[test]
fn proposals_that_end_alike_come_down_by_name() {
    const BODY: usize = 8 << 10;
    const ALIKE: usize = 2 << 10;
    let template = random(1, ALIKE);
    let ends: [(&str, &[u8]); 3] = [("zeros", &[0; ALIKE]), ("a template", &template), ("nothing", &[])];
    for (named, end) in ends {
        let mut lab = cluster("nobody", &Settings::default());
        for round in 0..4 {
            let body = |seed: u64| [&random(seed, BODY - end.len())[..], end].concat();
            let bodies: Vec<_> = (0..40).map(|number| body(10 + 40 * round + number)).collect();
            let (before, had) = (crossed(&lab), delivered(&lab, "leader").len());
            for (body, name) in bodies.iter().zip(EU.iter().cycle()) {
                lab.submit(name, proposal(body)).unwrap();
            }
            lab.run_until("the leader has them", Duration::from_secs(3), |lab| {
                delivered(lab, "leader").len() == had + bodies.len()
            });
            let came: Vec<Vec<u8>> =
                delivered(&lab, "leader")[had..].iter().map(|one| one.payload.to_vec()).collect();
            for one in &came {
                lab.submit("leader", entry(&one[PROPOSAL_HEAD..])).unwrap();
            }
            lab.run_for(Duration::from_secs(1));
            for name in EU {
                let got = delivered(&lab, name);
                let last = &got[got.len() - came.len()..];
                assert!(
                    last.iter()
                        .zip(&came)
                        .all(|(one, came)| one.payload.to_vec().ends_with(&came[PROPOSAL_HEAD..]))
                );
            }
            // One copy, and half of another is lost to those who are not told apart.
            let unlike = u64::try_from(bodies.len() * (BODY - end.len())).unwrap();
            let percent = (crossed(&lab) - before) * 100 / unlike;
            println!("{named}: {percent} % of what is unlike crossed");
            assert!(percent < 150, "that end with {named}, round {round}: {percent} %");
        }
    }
}

/// Nothing of it is on the lane of votes and heartbeats, nor within a datacenter.
#[test]
fn control_and_local_connections_keep_nothing() {
    let mut lab = cluster("nobody", &Settings::default());
    let body = random(1, PROPOSAL_BYTES);
    let mut batch = Batch::to(dc("us"));
    batch.push(Message::new(id("leader"), body.clone()).lane(Lane::Control));
    lab.submit("eu-1", batch).unwrap();
    lab.run_for(Duration::from_secs(1));
    let before = crossed(&lab);
    let mut batch = Batch::to(dc("eu"));
    batch.push(Message::new(id("eu-2"), body).lane(Lane::Control));
    lab.submit("leader", batch).unwrap();
    lab.run_for(Duration::from_secs(1));
    assert!(crossed(&lab) - before > u64::try_from(PROPOSAL_BYTES).unwrap());
}
