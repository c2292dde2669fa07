//! Proxies that say that a destination is full.

use std::time::Duration;

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::frame::{FrameType, control_frame};
use trunkline_mesh::proto::wire::{AckFlow, Close, CloseCode, RefusedReason};

use super::lives::Sender;
use super::shell::{entry, refused};

/// It carried something of the flow once, and is going away: nobody asks it any more.
#[test]
fn an_empty_run_that_was_not_sent_is_not_refused_and_keeps_no_message_waiting() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (liar, row, seq) = sender.deliver();
    let close = Close { code: CloseCode::Draining as u16 };
    sender.shell.feed(sender.conns[liar][0], &control_frame(FrameType::Close, Lane::Control, &close));
    for reason in [RefusedReason::QueueFull, RefusedReason::InboxFull] {
        let full = vec![refused(seq + 1, 0, reason as u8)];
        sender.say(liar, AckFlow { refused: full, ..entry(row, 100, 0) });
        let (by, row, seq) = sender.send();
        assert_ne!(by, liar);
        sender.say(by, entry(row, 100, seq));
        assert_eq!(sender.delivered(), 1);
    }
}

/// One says so of all that it is sent; the other one would deliver.
#[test]
fn a_proxy_that_calls_a_destination_full_for_ever_is_passed_by() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (liar, row, seq) = sender.send();
    sender.say(
        liar,
        AckFlow { refused: vec![refused(seq, 1, RefusedReason::QueueFull as u8)], ..entry(row, 100, 0) },
    );
    for _ in 0..300 {
        sender.pass(100);
        for (at, row, seq, count) in sender.sent() {
            if at != liar {
                return;
            }
            let full = vec![refused(seq, count, RefusedReason::QueueFull as u8)];
            sender.say(liar, AckFlow { refused: full, ..entry(row, 100, 0) });
        }
    }
    panic!("nobody else is asked for half a minute");
}

/// The other one delivers at once. A message every 100 ms, with 1 s each: while it is believed again and again for a second, a fifth of them
/// fails.
#[test]
fn a_proxy_that_calls_a_destination_full_costs_nothing_once_another_one_delivered() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (liar, _, seq) = sender.deliver();
    let (mut last, mut failed) = (seq, Vec::new());
    for tick in 0..600 {
        sender.shell.submit("eu", &["m"], Duration::from_secs(1));
        // Whoever is sent something answers at once, and who is asked then.
        for _ in 0..5 {
            for (at, row, first, count) in sender.sent() {
                if at == liar {
                    let full = vec![refused(first, count, RefusedReason::QueueFull as u8)];
                    sender.say(liar, AckFlow { refused: full, ..entry(row, 100, 0) });
                } else {
                    last = last.max((first + u64::from(count)).saturating_sub(1));
                    sender.say(at, AckFlow { room_kib: 4096, ..entry(row, 100, last) });
                }
            }
        }
        sender.pass(100);
        let outcomes = std::iter::from_fn(|| sender.shell.outcome());
        failed.extend(outcomes.filter(|outcome| !outcome.is_delivered()).map(|_| tick));
    }
    // It is doubted after 1 s, at the next try half a second later at most.
    assert!(failed.iter().all(|tick| *tick < 30), "failed at {failed:?}");
}

/// It says so of its queue, and nothing of the destination: one that takes nothing fills that queue. A destination that is full itself
/// answers.
#[test]
fn a_destination_whose_proxy_has_no_room_for_it_is_not_reached_by_that() {
    for (reason, unreached) in [(RefusedReason::QueueFull, 1), (RefusedReason::InboxFull, 0)] {
        let mut sender = Sender::by(&["p"]);
        sender.deliver();
        sender.submit();
        for tick in 0..50 {
            for (at, row, seq, count) in sender.sent() {
                let full = vec![refused(seq, count, reason as u8)];
                sender.say(at, AckFlow { refused: full, ..entry(row, 100, 0) });
            }
            sender.pass(100);
            let now = sender.shell.now;
            let status = sender.shell.node.status(now);
            let eu = status.datacenters.iter().find(|of| !of.local).unwrap();
            // After 2 s, and at all times from then on.
            let expected = if tick < 19 { 0 } else { unreached };
            assert_eq!(eu.unreached_destinations, expected, "{reason:?}, {tick}: {:?}", eu.unreached);
            assert!(eu.unreached.iter().all(|of| of.last.why == "queue_full"), "{:?}", eu.unreached);
        }
    }
}
