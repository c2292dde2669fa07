//! What fuzzing checks, one function per target. Each takes any bytes and reads its messages, frames and limits from
//! them. `fuzz/` runs these functions with inputs that a fuzzer finds, `fuzzing.rs` with random ones, so that no target
//! rots where there is no fuzzer.
#![allow(dead_code, reason = "every fuzz target uses its own function")]

mod hand;
#[path = "../common/naive.rs"]
mod naive;
#[path = "../common/named.rs"]
mod named;
mod session;

pub(crate) use session::session;

use bytes::Bytes;
use hand::Hand;
use trunkline_codec::{
    DecodeError, EncodedFrame, Encoder, Frame, Limits, Options, Payload, Stage, reserialise,
};

/// As in `linear.rs`, where the numbers are explained.
const PER_BYTE: usize = 150;
const PER_MESSAGE: usize = 4000;
const PER_SEGMENT: usize = 4 * (64 * 3 + 1);

/// Enough for every frame that a few kilobytes of input describe, and not more than a fuzzer can run thousands of times
/// per second.
const LIMITS: Limits = Limits {
    destinations: 1024,
    message_bytes: 1 << 20,
    output_bytes: 4 << 20,
    pieces: 1 << 16,
    records: 1 << 14,
    data_bytes: 4 << 20,
    set_bytes: 1 << 16,
};

/// What checks one input.
pub(crate) type Target = fn(&[u8]);

/// Every target, for whoever runs them all.
pub(crate) const TARGETS: [(&str, Target); 8] = [
    ("decode", decode),
    ("round_trip", round_trip),
    ("bound_and_work", bound_and_work),
    ("canonical", canonical),
    ("limits", limits),
    ("session", session),
    ("naive", naively),
    ("stale", stale),
];

fn encoder(stage: Stage, limits: Limits) -> Encoder {
    Encoder::new(Options { stage, seed: Some(7), limits })
}

fn bytes_and_lengths<'a>(parts: impl Iterator<Item = &'a Payload>) -> usize {
    let varint = |len: usize| (usize::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize;
    parts.map(|payload| payload.len() + varint(payload.len())).sum()
}

fn assert_messages(frame: &Frame, payloads: &[Payload]) {
    assert_eq!(frame.message_count(), payloads.len());
    for (index, payload) in payloads.iter().enumerate() {
        assert_eq!(frame.message_len(index), payload.len(), "message {index}");
        assert!(frame.to_vec(index) == payload.to_vec(), "message {index} differs");
    }
}

/// An accepted frame can be read, within the limits, and has its one spelling.
fn assert_sound(bytes: &Bytes, frame: &Frame, limits: &Limits) {
    let (mut output, mut pieces) = (0, 0);
    for index in 0..frame.message_count() {
        let len = frame.message_len(index);
        assert!(len <= limits.message_bytes);
        assert_eq!(frame.to_vec(index).len(), len);
        assert_eq!(frame.message(index).map(|piece| piece.len()).sum::<usize>(), len);
        pieces += frame.message(index).len();
        output += len;
    }
    assert!(frame.message_count() <= limits.destinations);
    assert!(output <= limits.output_bytes && pieces <= limits.pieces);
    assert!(has_one_spelling(bytes, |bytes| reserialise(bytes, limits)));
}

/// Reading a frame into records and writing those changes nothing but the second stage. False if it cannot be read.
fn has_one_spelling(bytes: &Bytes, reserialise: impl Fn(Bytes) -> Result<Vec<u8>, DecodeError>) -> bool {
    let Ok(again) = reserialise(bytes.clone()) else { return false };
    if bytes[2] & 6 == 0 {
        assert!(again == *bytes, "two spellings of one frame");
    } else {
        assert!(bytes.len() < again.len(), "a second stage that saves nothing");
        assert!(reserialise(again.clone().into()).unwrap() == again);
    }
    true
}

/// A frame out of any bytes; about half of them are accepted.
pub(crate) fn any_frame(data: &[u8]) -> Bytes {
    frame(&mut Hand::new(data))
}

/// A frame that the bytes describe in one of several ways, from noise to a frame of the encoder with a few changes.
fn frame(hand: &mut Hand<'_>) -> Bytes {
    match hand.below(8) {
        0 => Bytes::copy_from_slice(hand.rest()),
        1 => hand::seal([&[0xF5, 1], hand.rest(), &[0; 4]].concat(), 0),
        2..=4 => {
            let mut bytes =
                encoder(hand.stage(), LIMITS).encode(&hand.messages()).unwrap().to_bytes().to_vec();
            hand.damage(&mut bytes);
            hand::seal(bytes, 0)
        }
        _ => {
            let flags = hand.byte() & 0x10;
            let most = [4, 12, 200, 1024][hand.below(4)];
            let count = 1 + hand.below(most);
            made(hand, flags, count, None, |_| 0, |bytes| Frame::parse(bytes, &LIMITS).err())
        }
    }
}

/// A head of records, and as much data as it asks for: the error of a frame that has too much says how much that is.
fn made(
    hand: &mut Hand<'_>,
    flags: u8,
    count: usize,
    arrived: Option<usize>,
    begins: impl Fn(&[u8]) -> u32,
    error: impl Fn(Bytes) -> Option<DecodeError>,
) -> Bytes {
    let head = hand.head(count, flags);
    let mut bytes = vec![0xF5, 1, flags];
    hand::put_varint(&mut bytes, count);
    if let Some(arrived) = arrived {
        hand::put_varint(&mut bytes, arrived);
    }
    hand::put_varint(&mut bytes, head.len());
    bytes.extend_from_slice(&head);
    let (begin, most) = (bytes.len(), 1 << 13);
    let begins = begins(&bytes);
    let padded = |data: usize| hand::seal([&bytes[..], &vec![7; data + 4]].concat(), begins);
    match error(padded(most)) {
        Some(DecodeError::Trailing { offset }) => padded(offset - begin),
        _ => padded(most),
    }
}

/// Anything at all: no panic, and what is accepted is sound.
pub(crate) fn decode(data: &[u8]) {
    let bytes = any_frame(data);
    if let Ok(frame) = Frame::parse(bytes.clone(), &LIMITS) {
        assert_sound(&bytes, &frame, &LIMITS);
    }
}

/// Messages come back as they were.
pub(crate) fn round_trip(data: &[u8]) {
    let mut hand = Hand::new(data);
    let stage = hand.stage();
    let messages = hand.messages();
    let encoded = encoder(stage, Limits::default()).encode(&messages).unwrap();
    let bytes = encoded.to_bytes();
    assert_eq!(bytes.len(), encoded.len());
    assert_eq!(encoded.stats().frame_bytes, encoded.len());
    assert_messages(&Frame::parse(bytes, &Limits::default()).unwrap(), &messages);
}

/// No frame is longer than promised, and none takes more work.
pub(crate) fn bound_and_work(data: &[u8]) {
    let mut hand = Hand::new(data);
    let stage = hand.stage();
    let messages = hand.messages();
    let encoded = encoder(stage, Limits::default()).encode(&messages).unwrap();
    assert_bounds(&messages, &encoded);
}

fn assert_bounds(messages: &[Payload], encoded: &EncodedFrame) {
    let (stats, count) = (encoded.stats(), messages.len());
    // FORMAT.md promises m + 48 and shows 9.
    let bound = bytes_and_lengths(messages.iter()) + 9;
    assert!(encoded.len() <= bound, "{} bytes, {bound} are promised", encoded.len());
    let segments: usize = messages.iter().map(|message| message.segments().len()).sum();
    let most = PER_BYTE * stats.input_bytes + PER_MESSAGE * count + PER_SEGMENT * segments;
    assert!(stats.work.operations() <= most, "{:?} for {} bytes", stats.work, stats.input_bytes);
}

/// Parsing into records and writing those changes nothing, for frames of the encoder.
pub(crate) fn canonical(data: &[u8]) {
    let mut hand = Hand::new(data);
    let encoded = encoder(hand.stage(), LIMITS).encode(&hand.messages()).unwrap();
    let bytes = encoded.to_bytes();
    let frame = Frame::parse(bytes.clone(), &LIMITS).unwrap();
    assert_sound(&bytes, &frame, &LIMITS);
    assert_eq!(reserialise(bytes.clone(), &LIMITS).unwrap().len(), encoded.stats().diff_bytes);
    // One other byte, and a checksum that fits: another frame, or none.
    let mut other = bytes.to_vec();
    hand.damage(&mut other);
    let other = hand::seal(other, 0);
    if let Ok(frame) = Frame::parse(other.clone(), &LIMITS) {
        assert_sound(&other, &frame, &LIMITS);
    }
}

/// Tiny limits hold for what comes in; and what an encoder with the same limits writes is accepted.
pub(crate) fn limits(data: &[u8]) {
    let mut hand = Hand::new(data);
    let limits = hand.limits();
    let stage = hand.stage();
    let messages = hand.messages();
    match encoder(stage, limits).encode(&messages) {
        Ok(encoded) => {
            let bytes = encoded.to_bytes();
            let frame = Frame::parse(bytes.clone(), &limits).unwrap();
            assert_messages(&frame, &messages);
            assert_sound(&bytes, &frame, &limits);
        }
        // A concatenation takes no more than the messages have, so that only these can be too much.
        Err(error) => assert!(!fits(&messages, &limits), "{error}"),
    }
    let bytes = frame(&mut hand);
    if let Ok(frame) = Frame::parse(bytes.clone(), &limits) {
        assert_sound(&bytes, &frame, &limits);
        assert!(Frame::parse(bytes, &Limits::default()).is_ok(), "larger limits accept it too");
    }
}

fn fits(messages: &[Payload], limits: &Limits) -> bool {
    let input: usize = messages.iter().map(Payload::len).sum();
    let pieces = messages.iter().filter(|message| !message.is_empty()).count();
    messages.len() <= limits.destinations
        && messages.iter().all(|message| message.len() <= limits.message_bytes)
        && input <= limits.output_bytes.min(limits.data_bytes)
        && pieces <= limits.pieces.min(limits.records)
}

/// A reader that shares nothing with the crate reads the same in every frame that the crate accepts.
pub(crate) fn naively(data: &[u8]) {
    let bytes = any_frame(data);
    let limits = Limits { output_bytes: 1 << 18, ..LIMITS };
    if let Ok(frame) = Frame::parse(bytes.clone(), &limits) {
        let messages = naive::decode(&bytes);
        assert_eq!(messages.len(), frame.message_count());
        for (index, message) in messages.iter().enumerate() {
            assert!(frame.to_vec(index) == *message, "message {index}");
        }
    }
}

/// What an encoder wrote before, or refused to write, has no bearing on what it writes.
pub(crate) fn stale(data: &[u8]) {
    let mut hand = Hand::new(data);
    let (stage, limits) = (hand.stage(), hand.limits());
    let mut used = encoder(stage, limits);
    for _ in 0..1 + hand.below(3) {
        let messages = hand.messages();
        if hand.below(8) == 0 {
            used.release();
        }
        let again = used.encode(&messages).map(|frame| (frame.to_bytes(), frame.stats()));
        let fresh = encoder(stage, limits).encode(&messages).map(|frame| (frame.to_bytes(), frame.stats()));
        assert!(
            again == fresh,
            "{:?} and {:?}",
            again.map(|(_, stats)| stats),
            fresh.map(|(_, stats)| stats)
        );
    }
    session::stale(&mut hand);
}
