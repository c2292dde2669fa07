//! Proxies that say that a destination is full.

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::frame::{FrameType, control_frame};
use trunkline_mesh::proto::wire::{AckFlow, Close, CloseCode, RefusedReason};

use super::lives::Sender;
use super::shell::{entry, refused};

/// It carried something of the flow once, and is going away: nobody asks it any more.
#[test]
fn an_empty_run_that_was_not_sent_is_not_refused_and_keeps_no_message_waiting() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (liar, row, seq) = sender.send();
    sender.say(liar, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
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
