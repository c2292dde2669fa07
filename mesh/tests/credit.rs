//! What a reader that is slow or deaf costs the WAN, in virtual time: refused attempts are bytes that were sent for nothing,
//! and credit in acks keeps a sender from them.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, FailReason, Message, Outcome};
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::proto::wire::Offer;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const MEMBERS: [&str; 4] = ["eu-1", "eu-2", "eu-3", "eu-4"];
const MESSAGE_BYTES: usize = 10_000;

/// What half a minute of broadcast came to, 1 MB/s to each of four members.
struct Ran {
    /// Over the WAN towards the members.
    bytes: u64,
    /// Messages whose attempt was refused.
    refused: u64,
    /// Messages that the application at `eu-4` took.
    taken: u64,
}

/// `eu-4` reads one message in `slow` rounds of 10 ms, or as fast as the others. The messages of a batch are the same, as when
/// a leader replicates.
fn broadcast(slow: Option<u64>) -> Ran {
    let mut nodes = vec![("leader", "us", Roles::ORIGIN, None), ("eu-p", "eu", Roles::PROXY, None)];
    nodes.extend(MEMBERS.map(|name| (name, "eu", Roles::MEMBER, None)));
    let delay = Duration::from_millis(20);
    let settings = Settings { inbox_bytes_max: 1 << 20, reorder_bytes_max: 512 << 10, ..Settings::default() };
    let mut lab = Lab::new(&nodes, &settings, delay);
    lab.set_line("us", "eu", Line { delay, rate: Some(12_500_000) });
    lab.run_for(Duration::from_secs(1));
    let before = lab.received[&(id("eu-p"), id("leader"))].bytes;
    lab.set_deaf("eu-4", slow.is_some());
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..3_000_u64 {
        let mut batch = Batch::to(dc("eu"));
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(MESSAGE_BYTES).collect();
        let bytes = bytes::Bytes::from(bytes);
        for member in MEMBERS {
            let message = Message::new(id(member), bytes.clone()).lane(Lane::Bulk);
            batch.push(message.deadline(Duration::from_secs(1)));
        }
        // Whoever is over its budget is turned down, one by one.
        let _ = lab.submit("leader", batch);
        if slow.is_some_and(|slow| round % slow == 0) {
            lab.take_one("eu-4");
        }
        lab.run_for(Duration::from_millis(10));
    }
    lab.run_for(Duration::from_millis(100));
    Ran {
        bytes: lab.received[&(id("eu-p"), id("leader"))].bytes - before,
        refused: lab.stats("leader").attempts.refused,
        taken: lab.delivered.iter().filter(|(_, at, _)| *at == id("eu-4")).count() as u64,
    }
}

#[test]
fn a_reader_that_is_slow_costs_the_wan_next_to_nothing_and_gets_what_it_can_read() {
    let all = broadcast(None);
    assert_eq!((all.refused, all.taken), (0, 3_000));
    // Half as fast as the others, a tenth, deaf.
    for (slow, reads) in [(2, 1_500), (10, 300), (u64::MAX, 1)] {
        let Ran { bytes, refused, taken } = broadcast(Some(slow));
        let (share, more) =
            (refused as f64 * MESSAGE_BYTES as f64 / bytes as f64, bytes as f64 / all.bytes as f64);
        println!("reads 1 of {slow}: {more:.2} x the bytes, {refused} messages refused");
        assert!(share < 0.02, "{share}");
        // What it reads later than the others it does not share with them, and a few messages ask for room.
        assert!(more < 1.05 + reads as f64 / 3_000.0, "{more} x the bytes");
        assert!(taken >= reads * 95 / 100, "{taken} of {reads}");
    }
}

/// The word that there is room again may be lost with a proxy: the sender asks for it.
#[test]
fn a_lost_word_of_room_is_asked_for() {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-pa", "eu", Roles::PROXY, None),
        ("eu-pb", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
    ];
    let settings = Settings { inbox_bytes_max: 64 << 10, reorder_bytes_max: 64 << 10, ..Settings::default() };
    let mut lab = Lab::new(&nodes, &settings, Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    lab.set_deaf("eu-1", true);
    for number in 0..40 {
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id("eu-1"), vec![number; 10_000]).lane(Lane::Bulk));
        lab.submit("leader", batch).unwrap();
    }
    lab.run_for(Duration::from_secs(1));
    let now = lab.now;
    let in_use = lab.node("leader").status(now).datacenters.remove(0).routes;
    let in_use = in_use.into_iter().find(|route| route.in_use).unwrap().proxy;
    // It reads everything, and the proxy dies with the acks that say so.
    lab.set_deaf("eu-1", false);
    lab.kill(in_use.as_str());
    lab.run_for(Duration::from_secs(3));
    assert_eq!(lab.delivered.len(), 40);
}

/// Seven messages for a member whose inbox has room for six: the last one is held.
fn holds_one(nodes: &[(&str, &str, Roles, Option<Offer>)], deadline: Duration) -> Lab {
    let settings = Settings { inbox_bytes_max: 64 << 10, reorder_bytes_max: 64 << 10, ..Settings::default() };
    let mut lab = Lab::new(nodes, &settings, Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    lab.set_deaf("eu-1", true);
    for number in 0..7 {
        let mut batch = Batch::to(dc("eu"));
        let message = Message::new(id("eu-1"), vec![number; 10_000]).lane(Lane::Bulk);
        batch.push(message.deadline(deadline));
        lab.submit("leader", batch).unwrap();
    }
    lab.run_for(Duration::from_secs(1));
    assert_eq!((lab.outcomes.len(), lab.stats("eu-1").member.handed_over), (6, 6));
    lab
}

fn all_delivered(lab: &Lab) -> bool {
    let delivered = |outcome: &Outcome| matches!(outcome, Outcome::Delivered { .. });
    lab.outcomes.len() == 7 && lab.outcomes.values().all(|(_, outcomes)| outcomes.iter().all(delivered))
}

/// What a destination has room for is there before its messages wait.
#[test]
fn the_least_room_that_any_destination_has_is_shown() {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-1", "eu", Roles::MEMBER, None),
        ("eu-2", "eu", Roles::MEMBER, None),
    ];
    let settings = Settings { inbox_bytes_max: 64 << 10, reorder_bytes_max: 64 << 10, ..Settings::default() };
    let mut lab = Lab::new(&nodes, &settings, Duration::from_millis(20));
    let least = |lab: &mut Lab| {
        let now = lab.now;
        let eu = lab.node("leader").status(now).datacenters.remove(0);
        assert_eq!(eu.name, dc("eu"));
        eu.least_room_bytes
    };
    let send = |lab: &mut Lab, to: &str, length: usize| {
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id(to), vec![7; length]).lane(Lane::Bulk));
        lab.submit("leader", batch).unwrap();
    };
    lab.run_for(Duration::from_secs(1));
    assert_eq!(least(&mut lab), None, "nobody has said");
    send(&mut lab, "eu-2", 100);
    lab.run_for(Duration::from_secs(1));
    let all = least(&mut lab).expect("said with the ack");
    lab.set_deaf("eu-1", true);
    send(&mut lab, "eu-1", 40_000);
    lab.run_for(Duration::from_secs(1));
    let left = least(&mut lab).expect("said with the ack");
    // It is said in KiB.
    assert!(left > 0 && left + 39_000 <= all, "{left} of {all}");
    send(&mut lab, "eu-1", 10_000);
    let under_way = least(&mut lab).expect("known");
    assert!(under_way + 10_000 <= left, "{under_way} of {left}");
}

/// The same of a message that its member held for want of room: nothing is sent that its member would answer.
#[test]
fn the_lost_word_of_what_was_held_is_asked_for() {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-pa", "eu", Roles::PROXY, None),
        ("eu-pb", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
    ];
    let mut lab = holds_one(&nodes, Duration::from_secs(20));
    let now = lab.now;
    let routes = lab.node("leader").status(now).datacenters.remove(0).routes;
    let in_use = routes.into_iter().find(|route| route.in_use).unwrap().proxy;
    lab.set_deaf("eu-1", false);
    lab.kill(in_use.as_str());
    lab.run_until("delivered", Duration::from_secs(1), |lab| all_delivered(lab));
}

/// What waits at its member for room, and for nothing else, was refused when its time is over.
#[test]
fn what_is_held_for_room_until_its_deadline_is_refused() {
    let nodes = [("leader", "us", Roles::ORIGIN, None), ("eu-1", "eu", Roles::MEMBER, None)];
    let mut lab = holds_one(&nodes, Duration::from_secs(3));
    lab.run_for(Duration::from_secs(3));
    let last = lab.outcomes.values().last().unwrap().1.clone();
    assert_eq!(last, [Outcome::Failed { reason: FailReason::Refused, maybe_delivered: true }]);
}

/// A direct link is closed when it was idle for a while. While its peer holds a message it is not.
#[test]
fn a_link_whose_peer_holds_something_is_not_idle() {
    let nodes = [("leader", "us", Roles::ORIGIN, None), ("eu-1", "eu", Roles::MEMBER, None)];
    let mut lab = holds_one(&nodes, Duration::from_secs(60));
    lab.run_for(Duration::from_secs(40));
    assert_eq!(lab.connections("eu-1"), 2, "the link is up");
    lab.set_deaf("eu-1", false);
    lab.run_until("delivered", Duration::from_secs(1), |lab| all_delivered(lab));
    // Asking is cheap, and ends with what was held.
    let asked = lab.received[&(id("eu-1"), id("leader"))].batches;
    assert!(asked < 120, "{asked} batches");
    lab.run_for(Duration::from_secs(31));
    assert_eq!(lab.connections("eu-1"), 0, "now it is idle");
}

/// Two origins keep a member busy whose application reads one message in 10 ms.
#[test]
fn a_slow_reader_gets_as_much_of_every_origin() {
    let both = ["us-a", "us-b"];
    let mut nodes = vec![("eu-p", "eu", Roles::PROXY, None), ("eu-1", "eu", Roles::MEMBER, None)];
    nodes.extend(both.map(|name| (name, "us", Roles::ORIGIN, None)));
    let settings = Settings { inbox_bytes_max: 64 << 10, reorder_bytes_max: 64 << 10, ..Settings::default() };
    let mut lab = Lab::new(&nodes, &settings, Duration::from_millis(10));
    lab.run_for(Duration::from_secs(1));
    lab.set_deaf("eu-1", true);
    for round in 0..2_000 {
        // One of them was there first, and has more.
        for (name, messages) in [(both[0], 4), (both[1], 2)].into_iter().take(1 + usize::from(round > 100)) {
            let mut batch = Batch::to(dc("eu"));
            for _ in 0..messages {
                let message = Message::new(id("eu-1"), vec![7; MESSAGE_BYTES]).lane(Lane::Bulk);
                batch.push(message.deadline(Duration::from_secs(2)));
            }
            let _ = lab.submit(name, batch);
        }
        lab.take_one("eu-1");
        lab.run_for(Duration::from_millis(10));
    }
    let late = || lab.delivered.iter().filter(|(at, ..)| *at > Micros(4_000_000));
    let got = both.map(|name| late().filter(|(_, _, delivery)| delivery.origin == id(name)).count());
    assert!(got.iter().all(|one| 10 * one >= 4 * got.iter().sum::<usize>()), "{got:?}");
}
