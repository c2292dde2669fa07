//! The ledger must be right when all is well, and must find each fault that is planted.

use bytes::Bytes;

use super::*;
use crate::demo::workload::{EntrySource, Workload, WorkloadConfig};

const DCS: [Dc; 4] = [Dc(0), Dc(0), Dc(1), Dc(1)];
const FAR: Member = Member(2);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A ledger that knows of `ticks` batches, one per 10 ms from 0, and the payloads for each member.
fn sent(ticks: u64) -> (Ledger, Vec<Vec<Bytes>>) {
    let mut ledger = Ledger::new(&DCS);
    let config = WorkloadConfig { seed: 12, leader: 1, members: DCS.to_vec() };
    let mut leader = Workload::new(config, EntrySource::generated(64));
    let mut payloads = vec![Vec::new(); DCS.len()];
    for tick in 0..ticks {
        for message in leader.tick(2).unwrap() {
            ledger.sent(&message, ms(10 * tick));
            payloads[message.member.0].push(Bytes::from(message.segments.concat()));
        }
    }
    for message in leader.finish() {
        ledger.sent(&message, ms(10 * ticks));
        payloads[message.member.0].push(Bytes::from(message.segments.concat()));
    }
    (ledger, payloads)
}

/// Ten messages for [`FAR`] alone; seed 12 leaves nobody out of the first batches.
fn ten() -> (Ledger, Vec<Bytes>) {
    let (ledger, mut payloads) = sent(10);
    let payloads = payloads.swap_remove(FAR.0);
    assert_eq!(payloads.len(), 10);
    (ledger, payloads)
}

#[test]
fn a_run_without_faults_is_clean() {
    let (mut ledger, payloads) = sent(300);
    let messages: usize = payloads.iter().map(Vec::len).sum();
    assert_eq!(ledger.outstanding(), messages as u64);
    for (member, payloads) in payloads.iter().enumerate() {
        for payload in payloads {
            ledger.received(Member(member), payload, ms(4_000)).unwrap();
        }
    }
    let tally = ledger.tally(None);
    let payload_bytes = payloads.iter().flatten().map(|p| p.len() as u64).sum();
    let (messages, delivered) = (messages as u64, messages as u64);
    assert_eq!(tally, Tally { messages, payload_bytes, delivered, ..Tally::default() });
    assert!(tally.is_clean());
    assert_eq!(ledger.tally(Some(Dc(0))).messages + ledger.tally(Some(Dc(1))).messages, messages);
    assert!(messages < 4 * 300, "in some batches a member is left out, and catches up later");
}

#[test]
fn a_lost_message_is_missing_and_later_ones_are_in_order() {
    let (mut ledger, payloads) = ten();
    for payload in payloads.iter().enumerate().filter(|(at, _)| *at != 4).map(|(_, p)| p) {
        ledger.received(FAR, payload, ms(500)).unwrap();
    }
    let tally = ledger.tally(Some(Dc(1)));
    assert_eq!((tally.delivered, tally.missing, tally.faults()), (9, 11, 0));
    assert!(!tally.is_clean());
}

#[test]
fn a_second_copy_is_a_duplicate() {
    let (mut ledger, payloads) = ten();
    ledger.received(FAR, &payloads[0], ms(500)).unwrap();
    ledger.received(FAR, &payloads[1], ms(500)).unwrap();
    let fault = ledger.received(FAR, &payloads[0], ms(501)).unwrap_err();
    assert_eq!(fault, Fault::Duplicated { member: FAR, message_id: 1 });
    let tally = ledger.tally(None);
    assert_eq!((tally.delivered, tally.duplicated, tally.out_of_order), (2, 1, 0));
}

#[test]
fn a_message_after_a_later_one_is_out_of_order() {
    let (mut ledger, payloads) = ten();
    ledger.received(FAR, &payloads[1], ms(500)).unwrap();
    let fault = ledger.received(FAR, &payloads[0], ms(500)).unwrap_err();
    assert_eq!(fault, Fault::OutOfOrder { member: FAR, message_id: 1, after: 2 });
    ledger.received(FAR, &payloads[2], ms(500)).unwrap();
    let tally = ledger.tally(None);
    assert_eq!((tally.delivered, tally.out_of_order, tally.duplicated), (3, 1, 0));
}

#[test]
fn every_changed_byte_is_found() {
    let (_, payloads) = ten();
    for at in 0..payloads[0].len() {
        let (mut ledger, _) = ten();
        let mut changed = payloads[0].to_vec();
        changed[at] ^= 0x20;
        ledger.received(FAR, &changed, ms(500)).expect_err("a changed byte");
        let tally = ledger.tally(None);
        assert_eq!((tally.corrupted, tally.delivered), (1, 0), "byte {at}");
    }
}

#[test]
fn entries_in_other_order_or_missing_are_found() {
    let (mut ledger, payloads) = ten();
    let entries = payloads[0].slice(61..);
    let half = entries.len() / 2;
    let swapped = [&payloads[0][..61], &entries[half..], &entries[..half]].concat();
    let altered = Err(Fault::Altered { member: FAR, message_id: 1 });
    assert_eq!(ledger.received(FAR, &swapped, ms(1)), altered);
    assert!(matches!(ledger.received(FAR, &payloads[0][..61 + half], ms(1)), Err(Fault::Unreadable { .. })));
    assert_eq!(ledger.tally(None).corrupted, 2);
}

#[test]
fn a_message_of_another_member_or_of_nobody_is_found() {
    let (mut ledger, payloads) = ten();
    let fault = ledger.received(Member(3), &payloads[0], ms(1)).unwrap_err();
    assert_eq!(fault, Fault::NeverSent { member: Member(3), message_id: 1, addressed: 2 });
    let (_, longer) = sent(11);
    let fault = ledger.received(FAR, &longer[FAR.0][10], ms(1)).unwrap_err();
    assert_eq!(fault, Fault::NeverSent { member: FAR, message_id: 11, addressed: 2 });
    assert!(matches!(ledger.received(FAR, b"", ms(1)), Err(Fault::Unreadable { .. })));
    assert_eq!(ledger.tally(None).corrupted, 3);
}

#[test]
fn failed_messages_are_not_lost_and_must_stay_away_if_promised() {
    let (mut ledger, payloads) = ten();
    ledger.failed(FAR, 1, false).unwrap();
    ledger.failed(FAR, 2, true).unwrap();
    ledger.failed(FAR, 3, true).unwrap();
    for payload in &payloads[3..] {
        ledger.received(FAR, payload, ms(500)).unwrap();
    }
    let tally = ledger.tally(Some(Dc(1)));
    assert_eq!((tally.failed, tally.delivered, tally.missing, tally.faults()), (3, 7, 10, 0));

    let (mut ledger, payloads) = ten();
    ledger.failed(FAR, 1, false).unwrap();
    ledger.failed(FAR, 2, true).unwrap();
    let misreported = Fault::Misreported { member: FAR, message_id: 1 };
    assert_eq!(ledger.received(FAR, &payloads[0], ms(1)), Err(misreported));
    ledger.received(FAR, &payloads[1], ms(1)).expect("it was a maybe");
    ledger.received(FAR, &payloads[2], ms(1)).unwrap();
    assert_eq!(ledger.failed(FAR, 3, false), Err(Fault::Misreported { member: FAR, message_id: 3 }));
    let tally = ledger.tally(Some(Dc(1)));
    assert_eq!((tally.failed, tally.delivered, tally.misreported, tally.missing), (3, 3, 2, 17));
}

#[test]
fn latencies_are_nearest_rank() {
    let latency = Latency::of((1..=200).rev().collect()).unwrap();
    let us = Duration::from_micros;
    assert_eq!(latency, Latency { messages: 200, p50: us(100), p99: us(198), max: us(200) });
    let one = Latency::of(vec![7]).unwrap();
    assert_eq!((one.p50, one.p99), (us(7), us(7)));
    assert_eq!(Latency::of(Vec::new()), None);
}

#[test]
fn a_wait_is_what_exceeds_the_median_of_the_quiet_time() {
    let (mut ledger, payloads) = ten();
    // Sent at 0, 10, … 90 ms; the first five take 40, 41, … 44 ms, then a route breaks.
    for (at, took) in [(0, 40), (1, 41), (2, 42), (3, 43), (4, 44), (5, 300), (6, 290), (7, 41)] {
        ledger.received(FAR, &payloads[at], ms(10 * at as u64 + took)).unwrap();
    }
    let quiet = ms(0)..ms(50);
    let latency = ledger.latency(Some(Dc(1)), quiet.clone()).unwrap();
    assert_eq!((latency.messages, latency.p50, latency.max), (5, ms(42), ms(44)));
    // The other member of the datacenter got nothing: report it as failed, so that it does not count as waiting.
    for message_id in 1..=10 {
        ledger.failed(Member(3), message_id, true).unwrap();
    }
    let wait = ledger.longest_wait(Dc(1), quiet.clone(), ms(50)..ms(80), ms(1_000)).unwrap();
    assert_eq!(wait, Wait { normal: ms(42), longest: ms(258), messages: 6, missing: 0, failed: 3 });
    // Messages sent at 80 and 90 ms never arrived: they have waited until now.
    let wait = ledger.longest_wait(Dc(1), quiet.clone(), ms(50)..ms(100), ms(1_000)).unwrap();
    assert_eq!((wait.longest, wait.missing), (ms(1_000 - 80 - 42), 2));
    assert_eq!(ledger.longest_wait(Dc(1), quiet, ms(500)..ms(600), ms(1_000)), None);
    assert_eq!(ledger.longest_wait(Dc(0), ms(0)..ms(50), ms(50)..ms(100), ms(1_000)), None);
}
