//! Equal bytes are sent once whether messages hold the same memory, memory of their own, or some of each.

mod common;

use bytes::Bytes;
use common::{assert_exact, encoder, random};
use fastrand::Rng;
use trunkline_codec::{Payload, Stage};

/// The messages of one frame: for each destination, which entries of the log it gets and in which of the memories it holds
/// each of them.
struct Mixture<'a> {
    name: &'a str,
    /// First entry and one beyond the last.
    entries: Vec<(usize, usize)>,
    memory: &'a dyn Fn(usize, usize) -> usize,
    /// This destination's message is one segment.
    joined: Option<usize>,
}

/// Encodes a mixture of entries of `entry_bytes` and holds the frame against the entries, each counted once.
fn assert_sent_once(mixture: &Mixture<'_>, entry_bytes: usize) {
    let mut rng = Rng::with_seed(1);
    let count = mixture.entries.iter().map(|(_, end)| *end).max().unwrap();
    let first = mixture.entries.iter().map(|(first, _)| *first).min().unwrap();
    let log: Vec<Bytes> = (0..count).map(|_| random(&mut rng, entry_bytes).into()).collect();
    // What lies in memory 0 is shared by all that hold it there, and so on; every number beyond 3 is used by one message.
    let mut memories: Vec<Vec<Bytes>> = vec![log.clone()];
    for _ in 1..4 {
        memories.push(log.iter().map(|entry| Bytes::copy_from_slice(entry)).collect());
    }
    let message = |(to, &(first, end)): (usize, &(usize, usize))| -> Payload {
        let mut head = b"type 3, term 7, to the destination ".to_vec();
        head.extend_from_slice(&[u8::try_from(to).unwrap(), 0, 0, u8::try_from(first).unwrap()]);
        let entry = |at: usize| match (mixture.memory)(to, at) {
            shared @ 0..4 => memories[shared][at].clone(),
            _ => Bytes::copy_from_slice(&log[at]),
        };
        let payload: Payload = std::iter::once(Bytes::from(head)).chain((first..end).map(entry)).collect();
        if mixture.joined == Some(to) { Payload::from(payload.to_vec()) } else { payload }
    };
    let messages: Vec<Payload> = mixture.entries.iter().enumerate().map(message).collect();
    let encoded = encoder(Stage::None).encode(&messages).unwrap();
    assert_exact(&messages, &encoded);
    let new = (count - first) * entry_bytes;
    assert!(
        encoded.len() <= new + 300,
        "{}, entries of {entry_bytes}: {} bytes for {new}",
        mixture.name,
        encoded.len()
    );
    let stats = encoded.stats();
    let (operations, input) = (stats.work.operations(), stats.input_bytes);
    assert!(operations <= 16 * input + 40_000, "{}: {operations} operations for {input} bytes", mixture.name);
}

const SIZES: [usize; 5] = [1 << 10, 4 << 10, 16 << 10, 100_000, 1 << 20];
const OWN: usize = 9;

#[test]
fn one_of_three_has_a_copy_of_its_own() {
    for bytes in SIZES {
        for who in 0..3 {
            for joined in [None, Some(who), Some((who + 1) % 3)] {
                let memory = |to: usize, _: usize| if to == who { OWN } else { 0 };
                let entries = vec![(0, 4); 3];
                let name = &format!("{who} alone, {joined:?} joined");
                assert_sent_once(&Mixture { name, entries, memory: &memory, joined }, bytes);
            }
        }
    }
}

#[test]
fn two_groups_of_equal_content_and_a_laggard() {
    for bytes in SIZES {
        for laggard in 0..5 {
            for its_memory in [0, 1, OWN] {
                for (first, end) in [(0, 6), (2, 4), (0, 4), (4, 6)] {
                    let memory = |to: usize, _: usize| if to == laggard { its_memory } else { to % 2 };
                    let mut entries = vec![(2, 6); 5];
                    entries[laggard] = (first, end);
                    let name = &format!("{laggard} lags with {first}..{end} in {its_memory}");
                    assert_sent_once(&Mixture { name, entries, memory: &memory, joined: None }, bytes);
                }
            }
        }
    }
}

#[test]
fn any_entry_in_any_memory() {
    let mut rng = Rng::with_seed(2);
    for round in 0..300 {
        let bytes = SIZES[rng.usize(..if round % 30 == 0 { 5 } else { 4 })];
        let (count, memories) = (rng.usize(2..8), rng.usize(1..5));
        let held: Vec<Vec<usize>> = (0..count)
            .map(|_| (0..8).map(|_| if rng.u8(..8) == 0 { OWN } else { rng.usize(..memories) }).collect())
            .collect();
        let memory = |to: usize, at: usize| held[to][at];
        let lag = if rng.bool() { 4 } else { 1 };
        let entries: Vec<_> = (0..count).map(|_| (rng.usize(..lag), 5 + rng.usize(..lag))).collect();
        let name = &format!("round {round}: {entries:?}, {held:?}");
        assert_sent_once(&Mixture { name, entries, memory: &memory, joined: None }, bytes);
    }
}
