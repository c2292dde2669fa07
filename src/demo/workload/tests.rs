//! What the leader sends, and what a member reads of it.

use std::collections::HashMap;
use std::io::Write;
use std::num::NonZeroU64;
use std::time::Duration;

use super::*;

const ENTRY_BYTES: usize = 1_024;

fn config(seed: u64) -> WorkloadConfig {
    WorkloadConfig { seed, leader: 99, members: (0..15).map(|at| Dc(at / 5)).collect() }
}

fn leader(seed: u64) -> Workload {
    Workload::new(config(seed), EntrySource::generated(ENTRY_BYTES))
}

fn payload(message: &Outgoing) -> Vec<u8> {
    message.segments.concat()
}

fn input(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn every_member_gets_every_entry_once_in_order_with_its_own_header() {
    let mut leader = leader(1);
    let mut messages = Vec::new();
    for tick in 0..500 {
        messages.extend(leader.tick(1 + tick % 3).unwrap());
    }
    let batches = 500 * 3;
    let left_out = 500 * 15 - messages.len();
    assert!((batches / 200..batches / 20).contains(&left_out), "{left_out} of {batches} batches, 2 % asked");
    messages.extend(leader.finish());
    assert!(leader.finish().is_empty());

    let mut seen: HashMap<Member, (u64, u64)> = HashMap::new();
    for message in &messages {
        let bytes = payload(message);
        assert_eq!(bytes.len() as u64, message.payload_bytes());
        let received = ReceivedMessage::parse(&bytes).unwrap();
        let (id, index) = seen.entry(message.member).or_default();
        assert_eq!(received.header.message_id, *id + 1);
        assert_eq!(received.header.prev_index, *index);
        assert_eq!((message.message_id, message.first_index), (*id + 1, *index + 1));
        assert_eq!(received.header.member as usize, message.member.0);
        assert!(
            received.header.match_index <= *index && received.header.leader_commit <= leader.last_index()
        );
        *id += 1;
        for entry in &received.entries {
            *index += 1;
            assert_eq!((entry.index, entry.body.len()), (*index, ENTRY_BYTES - ENTRY_HEAD_BYTES));
        }
    }
    assert_eq!(seen.len(), 15);
    assert!(seen.values().all(|(_, index)| *index == leader.last_index()), "somebody misses entries");
}

#[test]
fn entries_are_the_same_buffers_for_all_members() {
    let mut leader = leader(2);
    let messages = leader.tick(2).unwrap();
    let first = messages[0].entries();
    assert_eq!(first.len(), 2);
    for message in &messages {
        let same = message.entries().iter().zip(first).all(|(a, b)| a.as_ptr() == b.as_ptr());
        assert!(same, "an entry was copied");
    }
}

#[test]
fn a_seed_makes_the_same_messages_and_another_seed_others() {
    let run = |seed| {
        let mut leader = leader(seed);
        (0..100).flat_map(|_| leader.tick(2).unwrap()).map(|m| payload(&m)).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn generated_entries_do_not_compress() {
    let mut leader = leader(3);
    let entries = leader.tick(64).unwrap()[0].entries().concat();
    assert!(lz4_flex::compress(&entries).len() > entries.len() * 98 / 100);
}

#[test]
fn the_header_has_the_bytes_the_module_promises() {
    let mut leader = leader(4);
    leader.tick(3).unwrap();
    leader.tick(2).unwrap();
    let message = leader.tick(1).unwrap().remove(1);
    let bytes = payload(&message);
    assert_eq!(message.segments[0].len(), HEADER_BYTES);
    let fields =
        [(1, 8, 7), (9, 4, 99), (13, 8, 5), (21, 8, 7), (29, 8, 3), (37, 4, 1), (41, 8, 3), (49, 8, 3)];
    assert_eq!(bytes[0], 1);
    for (at, len, value) in fields.into_iter().chain([(57, 4, 1), (61, 8, 6), (69, 4, 1_012)]) {
        let mut field = [0; 8];
        field[..len].copy_from_slice(&bytes[at..at + len]);
        assert_eq!(u64::from_le_bytes(field), value, "field at byte {at}");
    }
}

#[test]
fn wrong_payloads_are_refused_whatever_they_claim() {
    let good = payload(&leader(5).tick(2).unwrap()[0]);
    for bytes in 0..good.len() {
        let cut = ReceivedMessage::parse(&good[..bytes]);
        assert!(matches!(cut, Err(ParseError::Truncated { .. })), "cut to {bytes}: {cut:?}");
    }
    let mut long = good.clone();
    long.extend([0; 3]);
    assert_eq!(ReceivedMessage::parse(&long), Err(ParseError::Trailing { bytes: 3 }));
    let mut kind = good.clone();
    kind[0] = 9;
    assert_eq!(ReceivedMessage::parse(&kind), Err(ParseError::UnknownKind { kind: 9 }));
    let mut many = good;
    many[57..61].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(ReceivedMessage::parse(&many), Err(ParseError::Truncated { what: "entry head" }));
}

#[test]
fn lines_become_entries_and_begin_again_or_stop() {
    let file = input(b"one\n\n\xff\xfe three\nfour without end");
    let bodies = |at_end, ticks| {
        let mut leader = Workload::new(config(1), EntrySource::lines(file.path(), at_end).unwrap());
        let mut bodies = Vec::new();
        for _ in 0..ticks {
            for message in leader.tick(4).unwrap().iter().filter(|m| m.member == Member(0)) {
                let bytes = payload(message);
                let entries = ReceivedMessage::parse(&bytes).unwrap().entries;
                bodies.extend(entries.iter().map(|e| e.body.to_vec()));
            }
        }
        bodies
    };
    let once: [&[u8]; 4] = [b"one", b"", b"\xff\xfe three", b"four without end"];
    assert_eq!(bodies(AtEnd::Stop, 3), once);
    assert_eq!(bodies(AtEnd::Again, 3), [once, once, once].concat());
    let mean = EntrySource::lines(file.path(), AtEnd::Stop).unwrap().entry_bytes();
    assert_eq!(mean, ENTRY_HEAD_BYTES + (3 + 8 + 16) / 4);
    assert_eq!(EntrySource::generated(ENTRY_BYTES).entry_bytes(), ENTRY_BYTES);
}

#[test]
fn bad_input_files_are_errors_with_the_path() {
    let lines = |path: &std::path::Path| EntrySource::lines(path, AtEnd::Again);
    let missing = lines("/nowhere/at all".as_ref()).unwrap_err();
    assert!(matches!(missing, InputError::Io { .. }) && missing.to_string().contains("/nowhere/at all"));
    assert!(matches!(lines(std::env::temp_dir().as_ref()), Err(InputError::Io { .. })), "a directory");
    assert!(matches!(lines(input(b"").path()), Err(InputError::Empty { .. })));

    let mut content = b"short\n".to_vec();
    content.extend(vec![b'x'; LINE_BYTES_MAX]);
    content.push(b'\n');
    let file = input(&content);
    let mut leader = Workload::new(config(1), lines(file.path()).unwrap());
    assert!(leader.tick(2).is_ok(), "the longest line allowed");

    content.insert(6, b'x');
    let file = input(&content);
    let mut leader = Workload::new(config(1), lines(file.path()).unwrap());
    let error = leader.tick(2).unwrap_err();
    assert!(matches!(error, InputError::LineTooLong { line: 2, .. }), "{error}");
    assert_eq!(leader.last_index(), 0);
}

#[test]
fn a_file_truncated_while_running_is_an_error() {
    let file = input(b"only\n");
    let mut leader = Workload::new(config(1), EntrySource::lines(file.path(), AtEnd::Again).unwrap());
    leader.tick(1).unwrap();
    file.as_file().set_len(0).unwrap();
    assert!(matches!(leader.tick(1), Err(InputError::Empty { .. })));
}

#[test]
fn direct_sends_would_need_twice_the_egress() {
    let egress_bytes_per_s = NonZeroU64::new(12_500_000).unwrap();
    let offer = Offer { egress_bytes_per_s, remote_members: 10, entry_bytes: ENTRY_BYTES };
    let rate = offered_rate(offer).get();
    assert_eq!(rate, 2_442);
    assert!(rate * 10 * 1_024 >= 2 * 12_500_000);
    assert_eq!(offered_rate(Offer { remote_members: 0, entry_bytes: 0, ..offer }).get(), 25_000_000);
}

#[test]
fn the_pacer_gives_the_rate_and_keeps_what_is_over() {
    let mut pacer = Pacer::new(NonZeroU64::new(1_000).unwrap());
    let at = Duration::from_millis;
    assert_eq!(pacer.take(at(0), 100), 0);
    assert_eq!(pacer.take(at(5), 100), 5);
    assert_eq!(pacer.take(at(5), 100), 0);
    assert_eq!(pacer.take(at(1_005), 600), 600);
    assert_eq!(pacer.take(at(1_005), 600), 400);
    let mut thirds = Pacer::new(NonZeroU64::new(3).unwrap());
    assert_eq!((0..=3_000).map(|n| thirds.take(at(n), 9)).sum::<usize>(), 9, "no rounding error adds up");
}
