//! A crowded sender: nobody waits for ever behind others, room is given back at once, and what waits keeps little alive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trunkline_codec::{EncodeError, Options};
use trunkline_mesh::id::{Datacenter, Lane};
use trunkline_mesh::message::{Batch, FailReason, Message, Outcome};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{FrameError, FrameType, Received, control_frame};
use trunkline_mesh::proto::node::Action;
use trunkline_mesh::proto::wire::{AckFlow, Pong, RefusedReason};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::shell::{
    Peer, Shell, ack_frame, batch_frame, cluster, entry, flow, id, refused, roster_frame, run,
};

/// A node that is both writes its own frames and the runs that it passes on to the same connections.
#[test]
fn a_node_with_much_of_its_own_to_send_still_passes_on_what_others_sent() {
    let mut shell = Shell::new("op");
    let [_, from_eu] = shell.link_in(&Peer::new("eo"));
    let [_, to_member] = shell.link_out(&Peer::new("um"));
    shell.feed(from_eu, &roster_frame(Lane::Bulk, 0, vec![flow("eo", 100, "um")]));
    let mut batch = Batch::to(Datacenter::new("us").unwrap());
    batch.extend((0..40_u8).map(|fill| Message::new(id("um"), Bytes::from(vec![fill; 50_000]))));
    shell.node.submit(batch, shell.now).unwrap();
    shell.feed(from_eu, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"from afar"));
    let mut frames = Vec::new();
    for received in shell.sent(to_member) {
        if let Received::Batch(_, frame) = received {
            frames.push(frame.message(0).map(|piece| piece.len()).sum::<usize>());
        }
    }
    assert!(frames.len() > 3, "several frames of its own: {frames:?}");
    assert!(frames.iter().take(2).any(|bytes| *bytes < 100), "behind all of its own: {frames:?}");
}

#[test]
fn a_message_that_is_replaced_makes_room_for_senders_at_once() {
    let settings = Settings { datacenter_budget_bytes: 6000, ..Settings::default() };
    let mut shell = Shell::with("o", 0, settings);
    let mut submit = |bytes: usize, slot: bool| {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        let message = Message::new(id("m"), Bytes::from(vec![0; bytes]));
        batch.push(if slot { message.slot(1) } else { message });
        shell.node.submit(batch, shell.now)
    };
    assert!(submit(4000, true).is_ok());
    assert!(submit(1500, false).is_err(), "no room");
    assert!(submit(10, true).is_ok(), "takes the place of the first");
    let actions: Vec<Action> = std::iter::from_fn(|| shell.node.poll_action()).collect();
    assert!(actions.contains(&Action::Room(Some(Datacenter::new("eu").unwrap()))), "{actions:?}");
}

#[test]
fn a_newer_message_of_a_slot_has_the_room_of_the_one_it_replaces() {
    let whole = Settings { datacenter_budget_bytes: 6000, ..Settings::default() };
    let one = Settings { destination_budget_bytes: 5000, ..Settings::default() };
    for settings in [whole, one] {
        let mut shell = Shell::with("o", 0, settings);
        let mut submit = |bytes: usize| {
            let mut batch = Batch::to(Datacenter::new("eu").unwrap());
            batch.push(Message::new(id("m"), Bytes::from(vec![0; bytes])).slot(1));
            shell.node.submit(batch, shell.now).map(|_| shell.outcome())
        };
        let superseded = Some(Outcome::Failed { reason: FailReason::Superseded, maybe_delivered: false });
        assert_eq!(submit(4000).unwrap(), None);
        assert_eq!(submit(4000).unwrap(), superseded);
        assert_eq!(submit(3000).unwrap(), superseded);
    }
}

/// Heartbeats use the share that is kept for them. What replaces as much as it takes needs no room all the same.
#[test]
fn a_newer_message_of_a_slot_needs_no_room_where_heartbeats_have_used_more_than_the_rest() {
    let settings = Settings { datacenter_budget_bytes: 6000, ..Settings::default() };
    let mut shell = Shell::with("o", 0, settings);
    let mut submit = |message: Message| {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.push(message);
        shell.node.submit(batch, shell.now).is_ok()
    };
    let of = |bytes: usize| Message::new(id("m"), Bytes::from(vec![0; bytes]));
    assert!(submit(of(4000).slot(1)) && submit(of(1000)));
    assert!(submit(of(100).lane(Lane::Control)), "of the share for heartbeats");
    assert!(!submit(of(1)), "no room for others");
    assert!(submit(of(4000).slot(1)), "as much as it replaces");
    assert!(!submit(of(4001).slot(1)), "more than it replaces");
}

/// The sender cannot know that ten bytes keep a megabyte alive; what waits longer than any round trip is copied.
#[test]
fn what_waits_long_lets_go_of_the_buffer_it_is_a_slice_of() {
    let token = Arc::new(vec![7; 1 << 20]);
    struct Owner(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let mut shell = Shell::new("o");
    let submit = |shell: &mut Shell, payload: Bytes| {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.push(Message::new(id("m"), payload));
        shell.node.submit(batch, shell.now).unwrap();
    };
    submit(&mut shell, Bytes::from_owner(Owner(Arc::clone(&token))).slice(..10));
    submit(&mut shell, Bytes::from_static(b"soon after"));
    assert_eq!(Arc::strong_count(&token), 2, "nothing is copied while all goes well");
    shell.advance(Duration::from_secs(2));
    submit(&mut shell, Bytes::from_static(b"later"));
    assert_eq!(Arc::strong_count(&token), 1);
    assert!(shell.outcome().is_none(), "all of them still wait");
}

/// What is charged once is kept once, however the destinations come to be copied for.
#[test]
fn what_several_destinations_share_stays_shared_when_each_of_them_waits_long() {
    let mut shell = Shell::new("o");
    let [_, bulk] = shell.link_out(&Peer::new("p"));
    shell.unread.insert(bulk);
    let submit = |shell: &mut Shell, names: &[&str], payload: Bytes| {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.extend(names.iter().map(|name| Message::new(id(name), payload.clone())));
        shell.node.submit(batch, shell.now).unwrap();
    };
    let buffer = Bytes::from(vec![7; 1 << 20]);
    let entries = buffer.slice(..10_000);
    submit(&mut shell, &["m", "m2"], entries.clone());
    shell.advance(Duration::from_secs(2));
    for name in ["m", "m2"] {
        submit(&mut shell, &[name], Bytes::from_static(b"later"));
    }
    let sealed = shell.node.poll_transmit(bulk, shell.now).batches;
    let segments = sealed.iter().flat_map(|batch| &batch.payloads).flat_map(|payload| payload.segments());
    let kept: Vec<_> = segments.filter(|of| of.len() == entries.len()).map(|of| of.as_ptr()).collect();
    assert_eq!(kept.len(), 2);
    assert_ne!(kept[0], entries.as_ptr(), "out of the large buffer");
    assert_eq!(kept[0], kept[1], "one copy for both");
}

/// Through a proxy and straight lead over one link where the destination is a proxy itself: an attempt takes one way, or
/// its failure would be laid to the wrong one.
#[test]
fn a_frame_takes_one_way_even_where_two_lead_over_one_link() {
    let both = Roles { origin: false, member: true, proxy: true };
    let nodes = [("o", "us", Roles::ORIGIN), ("pm", "eu", both), ("m", "eu", Roles::MEMBER)];
    let mut shell = Shell::among(cluster(&nodes), "o", Settings::default(), 1);
    let [control, bulk] = shell.link_out(&Peer::new("pm"));
    let runs = |shell: &mut Shell| -> Vec<usize> {
        let batch = |frame| match frame {
            Received::Batch(envelope, _) => Some(envelope.runs.len()),
            _ => None,
        };
        shell.sent(bulk).into_iter().filter_map(batch).collect()
    };
    let submit = |shell: &mut Shell| {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.extend(["m", "pm"].map(|name| Message::new(id(name), Bytes::from_static(b"x"))));
        shell.node.submit(batch, shell.now).unwrap();
        shell.drain();
    };
    let refuse = |shell: &mut Shell, row, count| {
        let refused = vec![refused(1, count, RefusedReason::NotServed as u8)];
        shell.feed(control, &ack_frame(vec![AckFlow { refused, ..entry(row, 100, 0) }]));
    };
    submit(&mut shell);
    assert_eq!(runs(&mut shell), [2], "both through the proxy");
    refuse(&mut shell, 1, 1);
    assert_eq!(runs(&mut shell), [1], "again, straight");
    submit(&mut shell);
    assert_eq!(runs(&mut shell), [1, 1], "one of them straight");
    refuse(&mut shell, 2, 2);
    assert_eq!(runs(&mut shell), [], "both ways failed: a pause");
    shell.advance(Duration::from_millis(300));
    assert_eq!(runs(&mut shell), [1], "and then one message");
}

#[test]
fn destinations_take_turns_when_a_frame_has_no_room_for_all() {
    let mut shell = Shell::new("o");
    let [_, bulk] = shell.link_out(&Peer { frame_bytes_max: 64 * 1024 + 4096, ..Peer::new("p") });
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    for _ in 0..3 {
        batch.extend(["m", "m2"].map(|name| Message::new(id(name), Bytes::from(vec![0; 3000]))));
    }
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
    let sent = shell.sent(bulk).into_iter().filter_map(|frame| match frame {
        Received::Batch(envelope, _) => Some(envelope.runs.iter().map(|run| run.flow).collect::<Vec<_>>()),
        _ => None,
    });
    let rows: Vec<u32> = sent.flatten().collect();
    assert_eq!(rows, [0, 1, 0, 1, 0, 1]);
}

/// A defect of the node, and no more than that: neither the message nor the link is tried again and again.
#[test]
fn a_batch_that_fits_no_frame_fails_and_ends_one_connection() {
    let mut shell = Shell::new("o");
    let [_, bulk] = shell.link_out(&Peer::new("p"));
    let [_, other] = shell.link_out(&Peer::new("p2"));
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.extend(["m", "m2"].map(|name| Message::new(id(name), Bytes::from_static(b"x"))));
    shell.node.submit(batch, shell.now).unwrap();
    let sealed = shell.node.poll_transmit(bulk, shell.now).batches.pop().expect("a batch");
    let error = FrameError::Encode(EncodeError::NoDestinations);
    shell.node.handle_unencodable(bulk, sealed.token, &error, shell.now);
    shell.drain();
    let failed = Some(Outcome::Failed { reason: FailReason::TooLarge, maybe_delivered: false });
    assert_eq!([shell.outcome(), shell.outcome()], [failed.clone(), failed]);
    assert!(shell.closed.contains_key(&bulk) && !shell.closed.contains_key(&other));
    assert!(!shell.sent(other).iter().any(|frame| matches!(frame, Received::Batch(..))));
    assert_eq!(shell.errors("encode"), 1);
}

/// The writer reports a frame when it gets to it, which may be as late as the ack: the round trip began before.
#[test]
fn a_round_trip_does_not_begin_when_its_writer_reports() {
    let mut shell = Shell::new("o");
    let [control, bulk] = shell.link_out(&Peer::new("p"));
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.push(Message::new(id("m"), Bytes::from_static(b"x")));
    shell.node.submit(batch, shell.now).unwrap();
    let sealed = shell.node.poll_transmit(bulk, shell.now).batches.pop().expect("a batch");
    let written = sealed.encode(&mut BatchEncoder::new(Options::default(), None), &mut Vec::new());
    shell.advance(Duration::from_millis(3));
    shell.node.handle_written(bulk, &[written], 100, shell.now);
    shell.feed(control, &ack_frame(vec![entry(0, 100, 1)]));
    let outcome = shell.outcome().expect("delivered");
    let took = Duration::from_millis(3);
    assert!(matches!(outcome, Outcome::Delivered { rtt, .. } if rtt == took), "{outcome:?}");
}

/// An alarm rings when its process has the CPU. How late that was is there for who wonders why acks are slow.
#[test]
fn how_late_alarms_ring_is_counted() {
    let mut shell = Shell::new("o");
    let observed = |shell: &Shell| {
        let lag = shell.stats().event_loop_lag;
        (lag.count(), lag.sum_us)
    };
    let (count, sum_us) = observed(&shell);
    shell.node.handle_timeout(shell.now);
    shell.advance(Duration::ZERO);
    assert_eq!(observed(&shell), (count, sum_us), "nothing was due");
    let due = shell.node.poll_timeout();
    shell.node.handle_timeout(due + Duration::from_millis(70));
    assert_eq!(observed(&shell), (count + 1, sum_us + 70_000));
}

/// The same of an empty run, which has nothing but its answer: it is not asked again for having been answered too soon.
#[test]
fn an_empty_run_is_answered_also_before_its_writer_reports() {
    let mut shell = Shell::new("o");
    let [control, _] = shell.link_out(&Peer::new("p"));
    // The link has a round trip: the clocks of its handshake are made up.
    shell.advance(Duration::from_millis(500));
    let sent_us = shell.sent(control).into_iter().find_map(|frame| match frame {
        Received::Ping(ping) => Some(ping.sent_us),
        _ => None,
    });
    let ping_sent_us = sent_us.expect("a ping");
    let pong = Pong { ping_sent_us, ping_received_us: 1, sent_us: 1 };
    shell.feed(control, &control_frame(FrameType::Pong, Lane::Control, &pong));
    shell.node.ping(&id("m"), shell.now).unwrap();
    let sealed = shell.node.poll_transmit(control, shell.now).batches.pop().expect("a batch");
    let written = sealed.encode(&mut BatchEncoder::new(Options::default(), None), &mut Vec::new());
    shell.advance(Duration::from_millis(3));
    shell.feed(control, &ack_frame(vec![AckFlow { lane: 0, ..entry(0, 100, 0) }]));
    let pinged = shell.node.poll_pinged().expect("answered");
    assert_eq!((pinged.attempts, pinged.rtt_us), (1, 3_000));
    shell.node.handle_written(control, &[written], 100, shell.now);
    shell.sent(control);
    shell.advance(Duration::from_millis(2_500));
    let asked = shell.sent(control).iter().any(|frame| matches!(frame, Received::Batch(..)));
    assert!(!asked && shell.node.poll_pinged().is_none(), "once");
}
