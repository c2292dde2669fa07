//! The books of one flow: what goes next, what is told, what is given up.

use super::room::STARVED_ASKS_AFTER;
use super::*;
use crate::proto::pause::Cause;
use crate::proto::wire::{LOOKED_AT, ROOM_UNKNOWN};

fn flow() -> Flow {
    Flow::new(PeerIx(0), NodeId::new("m").unwrap(), 0, Lane::Bulk)
}

fn push(flow: &mut Flow, id: u64, slot: Option<u32>) -> Option<u64> {
    let pending = Pending {
        id: MessageId(id),
        ticket: Ticket(id),
        index: 0,
        kind: 0,
        slot,
        expires_at: Micros::NEVER,
        group: MessageId(id),
        payload: Payload::from(vec![0; 10]),
    };
    flow.push(pending, Micros(0)).map(|old| old.id.0)
}

fn seal(flow: &mut Flow, attempt: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    flow.select(8, (true, true), Micros(0), |_| true, &mut runs);
    let leg = Leg { attempt, way: Way::Direct, link: LinkId(0), now: Micros(0) };
    runs.into_iter().map(|run| flow.fly(run, leg, 0, 1)).collect()
}

#[test]
fn a_newer_message_of_a_slot_replaces_the_queued_one_and_leaves_no_gap() {
    let mut flow = flow();
    assert_eq!(push(&mut flow, 1, Some(7)), None);
    assert_eq!(push(&mut flow, 2, None), None);
    assert_eq!(push(&mut flow, 3, Some(7)), Some(1));
    let runs = seal(&mut flow, 1);
    assert_eq!((runs.len(), runs[0].first, runs[0].count), (1, Seq(1), 2));
    assert_eq!(push(&mut flow, 4, Some(7)), None, "what was sent is not replaced");
}

#[test]
fn a_gap_that_was_given_up_is_told_once_by_an_empty_run() {
    let mut flow = flow();
    for id in 1..=3 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    flow.hold(2, Way::Direct);
    flow.hold(3, Way::Direct);
    assert!(!flow.has_work());
    flow.forget(1);
    assert!(flow.floor_due());
    let runs = seal(&mut flow, 2);
    assert_eq!(runs, [Run { flow: 0, first: Seq(4), count: 0, floor_back: 2, deadline_ms: 1 }]);
    assert_eq!(runs[0].floor(), Some(Seq(2)));
    assert!(!flow.floor_due(), "told");
    flow.asking.clear();
    flow.forget_floor_told();
    assert!(flow.floor_due(), "and again when that was lost");
    flow.raise_decided(1);
    assert!(!flow.floor_due(), "the member knows");
}

/// A receiver that waits for what was given up here, and does not know it, is not full.
#[test]
fn what_the_receiver_has_behind_a_gap_does_not_wait_for_its_application() {
    let mut flow = flow();
    for id in 1..=70 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    let ack = |decided, held: &[u64]| AckFlow {
        lane: 1,
        flow: 0,
        incarnation: Incarnation(1),
        decided,
        room_kib: ROOM_UNKNOWN,
        held: held.to_vec(),
        refused: Vec::new(),
    };
    let hear = |flow: &mut Flow, entry: &AckFlow| {
        flow.raise_decided(entry.decided);
        flow.note_waiting(entry, Micros(0));
        flow.newly_held(entry, (Way::Direct, LinkId(1)))
            .into_iter()
            .for_each(|seq| flow.hold(seq, Way::Direct));
    };
    hear(&mut flow, &ack(0, &[0b110]));
    flow.forget(1);
    assert!(![2, 3].into_iter().any(|seq| flow.waits_for_application(seq)), "it waits for 1");
    hear(&mut flow, &ack(1, &[u64::MAX, 1]));
    assert!((2..=66).all(|seq| flow.waits_for_application(seq)) && !flow.waits_for_application(67));
    hear(&mut flow, &ack(2, &[0b11]));
    flow.forget(3);
    assert!(
        flow.waits_for_application(4),
        "an older ack, and one in front that was given up, change nothing"
    );
    flow.begin(Incarnation(2));
    assert!(!flow.waits_for_application(4), "another life holds nothing");
}

#[test]
fn retries_go_first_in_order_and_gaps_cut_runs() {
    let mut flow = flow();
    for id in 1..=5 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    push(&mut flow, 6, None);
    for seq in [5, 2, 1] {
        assert!(flow.retry(seq, true));
    }
    let runs: Vec<(u64, u32, u64)> =
        seal(&mut flow, 2).iter().map(|run| (run.first.0, run.count, run.floor_back)).collect();
    assert_eq!(runs, [(1, 2, 0), (5, 2, 4)]);
    assert!(flow.sent.get(1).unwrap().maybe_delivered());
}

#[test]
fn what_an_old_life_may_have_had_is_not_tried_again() {
    let mut flow = flow();
    for id in 1..=5 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    assert!(flow.retry(1, true) && flow.retry(2, false));
    flow.hold(3, Way::Direct);
    assert_eq!(flow.restart(Incarnation(2)), [1, 3], "uncertain, and held by the old life");
    assert!(flow.retry(4, false), "refused for its old life: it never had it");
    assert!(!flow.retry(5, true), "nobody knows");
}

#[test]
fn a_failing_flow_sends_one_message_at_a_time() {
    let mut flow = flow();
    for id in 1..=5 {
        push(&mut flow, id, None);
    }
    flow.pauses.avoid(Way::Proxy(0), Cause::TimedOut, Micros(0));
    flow.pauses.avoid(Way::Direct, Cause::TimedOut, Micros(0));
    assert_eq!(seal(&mut flow, 1)[0].count, 1);
    assert_eq!(seal(&mut flow, 2), [], "one flies");
    flow.answered(Way::Direct, Micros(0));
    assert_eq!(seal(&mut flow, 2)[0].count, 4);
}

#[test]
fn the_window_is_never_passed() {
    let mut flow = flow();
    for id in 0..WINDOW_SEQS + 10 {
        push(&mut flow, id, None);
    }
    let count = seal(&mut flow, 1)[0].count;
    assert_eq!(u64::from(count), WINDOW_SEQS);
    assert!(!flow.has_work());
    flow.forget(1);
    assert!(flow.has_work());
}

#[test]
fn what_waits_for_its_share_says_nothing_of_what_goes_next() {
    let mut flow = flow();
    push(&mut flow, 1, None);
    seal(&mut flow, 1);
    assert!(flow.retry(1, true));
    flow.sent.get_mut(1).unwrap().late = true;
    let pending = |id, bytes| Pending {
        id: MessageId(id),
        ticket: Ticket(id),
        index: 0,
        kind: 0,
        slot: None,
        expires_at: Micros::NEVER,
        group: MessageId(id),
        payload: Payload::from(vec![0; bytes]),
    };
    flow.push(pending(2, 1000), Micros(0));
    assert_eq!((flow.next_bytes(true), flow.next_bytes(false)), (10, 1000));
    let mut taken = Vec::new();
    flow.select(8, (true, false), Micros(0), |payload| payload.len() == 1000, &mut taken);
    assert_eq!(taken, [Selected { first: 2, count: 1 }]);
}

#[test]
fn the_newest_message_that_nobody_has_is_the_first_to_be_given_up() {
    let mut flow = flow();
    for id in 1..=4 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    push(&mut flow, 5, None);
    assert_eq!(flow.newest(), Some(Undecided::Queued(MessageId(5))));
    flow.unqueue(MessageId(5));
    assert_eq!(flow.newest(), None, "all are under way");
    assert!(flow.retry(2, true) && flow.retry(3, false));
    assert_eq!(flow.newest(), Some(Undecided::Sent(3)));
    for seq in [1, 3, 4] {
        flow.forget(seq);
    }
    assert_eq!(flow.newest(), None, "one always stays");
}

#[test]
fn no_more_is_under_way_than_the_receiver_has_room_for() {
    let mut flow = flow();
    // Each counts 266 bytes: three fit into 1 KiB.
    for id in 1..=9 {
        push(&mut flow, id, None);
    }
    let seqs = |runs: Vec<Run>| runs.iter().map(|run| run.count).sum::<u32>();
    flow.set_room(1, 0);
    assert_eq!(seqs(seal(&mut flow, 1)), 3);
    assert_eq!((seqs(seal(&mut flow, 2)), flow.waits_for_room(Micros(9))), (0, Some(Micros::NEVER)));
    // Two are there, and the receiver has room for nothing but what is under way: it says so.
    flow.raise_decided(1);
    flow.forget(1);
    flow.hold(2, Way::Direct);
    flow.set_room(0, 1);
    assert_eq!(seqs(seal(&mut flow, 3)), 0);
    // What is given up is on its way all the same.
    flow.set_room(1, 1);
    let third = flow.forget(3).unwrap();
    flow.spend_room(&third.pending.payload);
    assert_eq!(seqs(seal(&mut flow, 4)), 2);
    flow.set_room(1, 0);
    assert_eq!(seqs(seal(&mut flow, 5)), 0, "an older word says nothing");
}

#[test]
fn what_the_receiver_waits_for_goes_whatever_room_it_has() {
    let mut flow = flow();
    for id in 1..=3 {
        push(&mut flow, id, None);
    }
    flow.set_room(0, 0);
    assert_eq!(seal(&mut flow, 1)[0].count, 1, "the next in turn is always taken");
    flow.hold(1, Way::Direct);
    assert_eq!(flow.waits_for_room(Micros(5)), Some(Micros(5) + STARVED_ASKS_AFTER));
    assert_eq!(flow.waits_for_room(Micros(5) + STARVED_ASKS_AFTER), None, "the word may be lost: one asks");
    let mut runs = Vec::new();
    flow.select(8, (true, true), Micros(5) + STARVED_ASKS_AFTER, |_| true, &mut runs);
    assert_eq!(runs, [Selected { first: 2, count: 1 }]);
    // An unknown room says nothing.
    let mut other = Flow::new(PeerIx(0), NodeId::new("m").unwrap(), 0, Lane::Bulk);
    for id in 1..=3 {
        push(&mut other, id, None);
    }
    other.set_room(ROOM_UNKNOWN, 0);
    assert_eq!(seal(&mut other, 1)[0].count, 3);
}

/// An ack may name 16,384 seqs, whatever is under way: it costs no more than that.
#[test]
fn a_full_bitmap_costs_what_is_under_way() {
    let mut flow = flow();
    let mut ack = AckFlow {
        lane: 1,
        flow: 0,
        incarnation: Incarnation(1),
        decided: 0,
        room_kib: ROOM_UNKNOWN,
        held: vec![u64::MAX; 256],
        refused: Vec::new(),
    };
    let looked = |flow: &Flow, ack: &AckFlow| {
        LOOKED_AT.set(0);
        (flow.newly_held(ack, (Way::Direct, LinkId(1))), LOOKED_AT.get())
    };
    assert_eq!(looked(&flow, &ack), (vec![], 0), "nothing is");
    for id in 1..=200 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    assert_eq!(looked(&flow, &ack), ((1..=200).collect(), 200));
    flow.hold(7, Way::Direct);
    (ack.decided, ack.held) = (2, vec![0b1_0101, 0, 1 << 63]);
    assert_eq!(looked(&flow, &ack).0, [3, 5, 194], "and not 7, which is known");
    ack.held = vec![1];
    assert!(looked(&flow, &ack).1 <= 64, "nor more than it names");
}

/// All that was behind a gap was given up as well: without a word the member would keep it, and hand it over when something is
/// sent again, perhaps hours later.
#[test]
fn a_gap_that_was_given_up_with_all_behind_it_is_told_and_not_for_ever() {
    let mut flow = flow();
    for id in 1..=3 {
        push(&mut flow, id, None);
    }
    seal(&mut flow, 1);
    flow.hold(2, Way::Direct);
    flow.hold(3, Way::Direct);
    for seq in 1..=3 {
        flow.forget(seq);
    }
    assert!(flow.floor_due());
    let floors = |flow: &mut Flow, attempt| -> Vec<_> {
        let runs = seal(flow, attempt);
        flow.asking.clear();
        runs.iter().map(|run| (run.count, run.floor())).collect()
    };
    assert_eq!(floors(&mut flow, 2), [(0, Some(Seq(4)))]);
    assert!(!flow.floor_due(), "told");
    for attempt in 3..6 {
        flow.forget_floor_told();
        assert!(flow.floor_due(), "and again when that was lost");
        floors(&mut flow, attempt);
    }
    flow.forget_floor_told();
    assert!(!flow.floor_due(), "but not for ever");
    flow.held.given_up();
    assert!(flow.floor_due());
    flow.raise_decided(3);
    assert!(!flow.floor_due(), "the member knows");
}

#[test]
fn what_was_only_under_way_when_it_was_given_up_owes_no_floor() {
    let mut flow = flow();
    push(&mut flow, 1, None);
    seal(&mut flow, 1);
    flow.forget(1);
    assert!(!flow.floor_due() && !flow.has_work());
}

/// Which of a row of messages are not decided, against a look at every message.
#[test]
fn what_is_undecided_of_a_row_is_what_a_plain_look_finds() {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut some = 0;
    for attempt in 0..300_u16 {
        let mut flow = flow();
        let (mut id, mut sealed) = (rng.u64(0..5), 0);
        for _ in 0..rng.u64(0..60) {
            // Other flows' messages have the numbers between.
            id += rng.u64(1..4);
            push(&mut flow, id, None);
            if rng.u8(0..8) == 0 {
                sealed += 1;
                seal(&mut flow, sealed);
            }
        }
        let seqs: Vec<(u64, u64)> = flow.sent.iter().map(|(seq, sent)| (seq, sent.pending.id.0)).collect();
        for (seq, _) in seqs {
            // Decided in any order: some flows have nothing left at either end, or a long gap.
            if rng.u8(0..10) < attempt.to_le_bytes()[0] % 11 {
                flow.forget(seq);
            }
        }
        for queued in flow.queue.iter().map(|pending| pending.id).collect::<Vec<_>>() {
            if rng.u8(0..4) == 0 {
                flow.unqueue(queued);
            }
        }
        for _ in 0..20 {
            let first = rng.u64(0..id + 3);
            let ids = MessageId(first)..=MessageId(first + rng.u64(0..20));
            let queued = flow.queue.iter().filter(|pending| ids.contains(&pending.id));
            let queued = queued.map(|pending| Undecided::Queued(pending.id));
            let sent = flow.sent.iter().filter(|(_, sent)| ids.contains(&sent.pending.id));
            let plain: Vec<_> = queued.chain(sent.map(|(seq, _)| Undecided::Sent(seq))).collect();
            some += usize::from(plain.len() > 1);
            assert_eq!(flow.undecided(&ids), plain, "{ids:?}");
        }
    }
    assert!(some > 1000, "{some}");
}
