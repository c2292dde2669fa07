//! Destinations that nothing reaches, or whose applications take nothing: what their sender says of them, and they themselves.

mod lab;

use std::time::Duration;

use lab::{Lab, dc, id};
use trunkline_mesh::PingError;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::stats::DatacenterStatus;
use trunkline_mesh::topology::Roles;

const MEMBERS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

fn lab() -> Lab {
    lab_with(&Settings::default())
}

fn lab_with(settings: &Settings) -> Lab {
    let mut nodes = vec![("leader", "us", Roles::ORIGIN, None)];
    nodes.extend(["eu-pa", "eu-pb"].map(|name| (name, "eu", Roles::PROXY, None)));
    nodes.extend(MEMBERS.map(|name| (name, "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, settings, Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    lab
}

fn submit(lab: &mut Lab, to: &[&str]) {
    let mut batch = Batch::to(dc("eu"));
    batch.extend(to.iter().map(|member| Message::new(id(member), vec![7; 100])));
    lab.submit("leader", batch).expect("there is room");
}

fn send(lab: &mut Lab, to: &[&str]) {
    submit(lab, to);
    lab.run_for(Duration::from_millis(100));
}

fn eu(lab: &mut Lab) -> DatacenterStatus {
    let now = lab.now;
    lab.node("leader").status(now).datacenters.into_iter().find(|of| of.name == dc("eu")).unwrap()
}

#[test]
fn a_destination_that_nothing_reaches_is_shown_with_the_reason_until_it_answers() {
    let mut lab = lab();
    send(&mut lab, &MEMBERS);
    assert_eq!((eu(&mut lab).unreached_destinations, eu(&mut lab).unreached), (0, Vec::new()));
    lab.kill("eu-2");
    for _ in 0..30 {
        send(&mut lab, &MEMBERS);
    }
    let shown = eu(&mut lab);
    assert_eq!((shown.unreached_destinations, shown.unreached.len()), (1, 1), "{shown:?}");
    let row = &shown.unreached[0];
    assert_eq!(row.node, id("eu-2"));
    assert!((2_000..=3_000).contains(&row.unanswered_ms) && row.pending_messages >= 29, "{row:?}");
    let known = ["unreachable", "dial_failed", "link_lost", "timed_out"].contains(&row.last.why);
    assert!(known && (row.last.proxy.is_some() == (row.last.way == "proxy")), "{row:?}");

    let now = lab.now;
    let told = lab.node("leader").unanswered(&id("eu-2"), Duration::from_secs(1), now);
    let PingError::TimedOut { last: Some(last), .. } = &told else { panic!("{told}") };
    assert_eq!(*last, row.last);
    let told = told.to_string();
    assert!(told.starts_with("no answer within 1 s; last tried ") && told.contains(row.last.why), "{told}");

    lab.restart("eu-2", 2);
    lab.run_for(Duration::from_secs(3));
    send(&mut lab, &MEMBERS);
    assert_eq!((eu(&mut lab).unreached_destinations, eu(&mut lab).unreached), (0, Vec::new()));
}

#[test]
fn one_to_whom_nothing_is_sent_any_more_is_forgotten_and_of_many_the_first_are_shown() {
    let names: Vec<String> = (0..40).map(|n| format!("m{n:02}")).collect();
    let mut nodes = vec![("leader", "us", Roles::ORIGIN, None), ("eu-pa", "eu", Roles::PROXY, None)];
    nodes.extend(names.iter().map(|name| (name.as_str(), "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    names.iter().for_each(|name| lab.kill(name));
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    for _ in 0..30 {
        send(&mut lab, &all);
    }
    let shown = eu(&mut lab);
    assert_eq!((shown.unreached_destinations, shown.unreached.len()), (40, 32));
    lab.run_for(Settings::default().message_deadline);
    let shown = eu(&mut lab);
    assert_eq!((shown.unreached_destinations, shown.pending_messages), (0, 0), "nobody knows how they are");
}

#[test]
fn a_lane_that_is_idle_says_nothing_of_a_destination_that_answers_on_the_other() {
    let mut lab = lab();
    send(&mut lab, &MEMBERS);
    lab.cut_off("eu");
    // Of control, nothing but this.
    let now = lab.now;
    lab.node("leader").ping(&id("eu-1"), now).unwrap();
    for _ in 0..30 {
        send(&mut lab, &MEMBERS);
    }
    assert_eq!(eu(&mut lab).unreached_destinations, 3);
    let now = lab.now;
    lab.node("leader").end_ping(&id("eu-1"), now);
    lab.mend();
    lab.run_for(Duration::from_secs(5));
    for _ in 0..3 {
        send(&mut lab, &MEMBERS);
        assert_eq!((eu(&mut lab).unreached_destinations, eu(&mut lab).unreached), (0, Vec::new()));
    }
}

#[test]
fn one_of_the_senders_own_datacenter_is_not_reached_while_its_link_is_missing_or_silent() {
    let nodes = [("leader", "eu", Roles::ORIGIN, None), ("eu-1", "eu", Roles::MEMBER, None)];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(1));
    lab.run_for(Duration::from_secs(1));
    lab.kill("eu-1");
    lab.run_for(Duration::from_secs(10));
    assert_eq!(eu(&mut lab).unreached_destinations, 0, "nobody sends to it");
    send(&mut lab, &["eu-1"]);
    lab.run_for(Duration::from_secs(3));
    let shown = eu(&mut lab).unreached;
    let [row] = &shown[..] else { panic!("{shown:?}") };
    assert!((3_000..4_000).contains(&row.unanswered_ms) && row.pending_messages == 1, "{row:?}");
    assert_eq!((row.last.way, row.last.why), ("direct", "not_linked"), "nothing was attempted");
    assert!(row.last.link_why.is_some());
    lab.restart("eu-1", 2);
    lab.run_for(Duration::from_secs(3));
    assert_eq!(eu(&mut lab).unreached_destinations, 0);
    lab.stop("eu-1");
    send(&mut lab, &["eu-1"]);
    // A little less than until a silent link is ended.
    lab.run_for(Duration::from_millis(2_500));
    let row = eu(&mut lab).unreached.remove(0);
    assert_eq!(row.last.why, "silent", "no attempt has ended");
    // As who asks for a round trip is told.
    let now = lab.now;
    let told = lab.node("leader").unanswered(&id("eu-1"), Duration::from_secs(1), now);
    assert!(matches!(&told, PingError::TimedOut { last: Some(last), .. } if *last == row.last), "{told}");
}

#[test]
fn who_never_answered_is_reached_until_what_is_sent_waited_for_long_enough() {
    let nodes = [("leader", "eu", Roles::ORIGIN, None), ("eu-1", "eu", Roles::MEMBER, None)];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(1));
    // Sooner than what came before would be forgotten.
    lab.run_for(Duration::from_secs(6));
    submit(&mut lab, &["eu-1"]);
    let shown = eu(&mut lab);
    assert_eq!((shown.unreached_destinations, shown.pending_messages), (0, 1));
}

#[test]
fn a_destination_that_is_a_proxy_too_and_cannot_be_dialled_is_reached_by_another_one() {
    let both = Roles { proxy: true, ..Roles::MEMBER };
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-pa", "eu", Roles::PROXY, None),
        ("eu-1", "eu", both, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(20));
    lab.part("leader", "eu-1");
    // A dial has come to nothing before the first message.
    lab.run_for(Duration::from_secs(6));
    for _ in 0..10 {
        lab.run_for(Duration::from_secs(3));
        submit(&mut lab, &["eu-1"]);
        // Halfway to the answer.
        lab.run_for(Duration::from_millis(30));
        let shown = eu(&mut lab);
        assert_eq!((shown.unreached_destinations, shown.pending_messages), (0, 1));
        lab.run_for(Duration::from_millis(70));
    }
    assert_eq!((eu(&mut lab).unreached_destinations, eu(&mut lab).pending_messages), (0, 0));
}

#[test]
fn messages_that_expire_soon_and_never_wait_together_are_waited_for_all_the_same() {
    let mut lab = lab();
    send(&mut lab, &MEMBERS);
    lab.run_for(Duration::from_secs(20));
    lab.kill("eu-2");
    let mut shown = 0;
    for _ in 0..10 {
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id("eu-2"), vec![7; 100]).deadline(Duration::from_secs(1)));
        lab.submit("leader", batch).expect("there is room");
        lab.run_for(Duration::from_millis(900));
        shown += eu(&mut lab).unreached.first().map_or(0, |row| row.unanswered_ms);
        lab.run_for(Duration::from_millis(600));
    }
    // One second after the other of 2.4 to 14.4 s, and none of the first message.
    assert!((60_000..90_000).contains(&shown), "{shown}");
}

/// A member whose inbox has room for six messages of [`send_long`], and which holds as many more.
fn small() -> Lab {
    lab_with(&Settings { inbox_bytes_max: 64 << 10, reorder_bytes_max: 64 << 10, ..Settings::default() })
}

/// Two long messages to every member in a second.
fn send_long(lab: &mut Lab) {
    let mut batch = Batch::to(dc("eu"));
    batch.extend(MEMBERS.map(|member| Message::new(id(member), vec![7; 10_000])));
    lab.submit("leader", batch).expect("there is room");
    lab.run_for(Duration::from_millis(500));
}

/// What is in its inbox, and for how long nothing was taken of that, ms.
fn inbox(lab: &mut Lab, member: &str) -> (u64, u64) {
    let now = lab.now;
    let status = lab.node(member).status(now);
    assert_eq!(status.inbox_bytes_max, 64 << 10);
    (status.inbox_bytes, status.inbox_untaken_ms)
}

#[test]
fn a_destination_whose_application_stands_is_shown_there_at_once_and_at_its_sender_once_it_is_full() {
    let mut lab = small();
    lab.set_deaf("eu-2", true);
    for tick in 1..=60 {
        send_long(&mut lab);
        let (bytes, untaken_ms) = inbox(&mut lab, "eu-2");
        assert_eq!(bytes / 10_000, tick.min(6), "messages in the inbox");
        assert!((400..500).contains(&(untaken_ms - 500 * (tick - 1))), "{untaken_ms} after {tick}");
        assert_eq!(inbox(&mut lab, "eu-1"), (0, 0));
        let shown = eu(&mut lab);
        assert_eq!(shown.unreached_destinations, 0, "it answers");
        // The seventh is held, from 3.02 s on; what expires from 13 s on changes nothing.
        let stands = tick >= 27;
        assert_eq!(
            (shown.untaken_destinations, shown.untaken.len()),
            (stands.into(), stands.into()),
            "{tick}"
        );
        for row in shown.untaken {
            assert!(row.node == id("eu-2") && row.pending_messages >= 19, "{row:?}");
            assert!((3_000..3_500).contains(&(500 * tick - row.untaken_ms)), "{row:?} after {tick}");
        }
    }
    lab.set_deaf("eu-2", false);
    lab.run_for(Duration::from_secs(1));
    assert_eq!((inbox(&mut lab, "eu-2"), eu(&mut lab).untaken_destinations), ((0, 0), 0));
}

/// It is full all the time, and its messages expire.
#[test]
fn a_destination_whose_application_is_slow_does_not_stand() {
    let mut lab = small();
    lab.set_deaf("eu-2", true);
    let mut full = 0;
    for tick in 1..=120 {
        send_long(&mut lab);
        if tick % 8 == 0 {
            lab.take_one("eu-2");
        }
        let (bytes, untaken_ms) = inbox(&mut lab, "eu-2");
        full += u64::from(bytes > 60_000);
        assert!(untaken_ms <= 4_000, "{untaken_ms} after {tick}");
        let shown = eu(&mut lab);
        assert_eq!((shown.untaken_destinations, shown.unreached_destinations), (0, 0), "{tick}: {shown:?}");
    }
    assert!(full > 90, "{full} of 120");
    assert!(lab.stats("leader").datacenters[&dc("eu")].failed["refused"] > 60);
}

#[test]
fn one_whose_application_stood_and_that_nothing_reaches_since_is_said_not_to_be_reached() {
    let mut lab = small();
    lab.set_deaf("eu-2", true);
    (0..30).for_each(|_| send_long(&mut lab));
    let shown = eu(&mut lab);
    assert_eq!((shown.untaken_destinations, shown.unreached_destinations), (1, 0));
    lab.kill("eu-2");
    (0..6).for_each(|_| send_long(&mut lab));
    let shown = eu(&mut lab);
    assert_eq!((shown.untaken_destinations, shown.unreached_destinations), (0, 1));
    lab.restart("eu-2", 2);
    (0..6).for_each(|_| send_long(&mut lab));
    let shown = eu(&mut lab);
    assert_eq!((shown.untaken_destinations, shown.unreached_destinations), (0, 0), "it has an empty inbox");
}
