//! How often memory is asked for per frame, once working memory has grown: one bound per kind of traffic. And how much of
//! it a frame can make its receiver take.
//!
//! The bounds are what is true today, and what remains is said beside each: lower them when less is asked for.
//! `cargo test -p trunkline-codec --test allocations -- --nocapture` prints the figures.

mod common;

use std::hint::black_box;

use allocation_counter::measure;
use bytes::Bytes;
use common::bombs::{self, Bomb, Held};
use common::named::{carried, named};
use trunkline_codec::{
    EncodedFrame, Encoder, Epochs, Frame, Limits, Options, Payload, Session, SessionDecoder, SessionEncoder,
    varint,
};

const EPOCHS: Epochs = Epochs { outgoing: 1, incoming: 2 };
const STREAMS: [u32; 5] = [1, 2, 3, 4, 5];
/// Frames until nothing grows any more: streams have forgotten their oldest bytes more than once by then.
const WARM: usize = 300;
const COUNTED: usize = 600;

/// Allocations per frame, at most, today: of the heartbeats and of the longer messages.
///
/// Encoding asks for nothing: a frame of one slice has no list, and its bytes go into the room of the last one, which was
/// dropped. A frame that is kept while the next one is made costs that one a buffer, and shared segments a list of slices.
const ENCODE: [f64; 2] = [0.0, 0.0];
const ENCODE_IN_A_SESSION: [f64; 2] = [0.0, 0.0];
/// With the other direction: the data column is kept in a buffer of its own, and joined with the last one while both are
/// short.
const ENCODE_AT_AN_END: [f64; 2] = [2.0, 2.0];
/// The messages with their pieces. The lists of records and members, and of what these make of each message, are used again.
const DECODE: [f64; 2] = [1.0, 1.0];
/// Added are the openings that streams remember, which are copied because streams forget, and where in them each message is.
const DECODE_IN_A_SESSION: [f64; 2] = [3.0, 3.0];

/// Heartbeats of 40 bytes, or messages of four such structs that take 64 bytes each. A few fields change from frame to
/// frame, some for every destination.
fn frames(structs: usize, len: usize) -> Vec<Vec<Payload>> {
    let message = |round: usize, to: usize| {
        let mut out = Vec::new();
        for index in 0..structs {
            let end = out.len() + len;
            out.extend_from_slice(&3u32.to_le_bytes());
            out.extend_from_slice(&(index * 0x0123_4567_89AB).to_le_bytes());
            out.extend_from_slice(&to.to_le_bytes());
            out.extend_from_slice(&(70_000 + round * 7 + to % 3).to_le_bytes());
            out.extend_from_slice(&7u64.to_le_bytes());
            out.resize(end, 0);
        }
        assert_eq!(out.len(), structs * len);
        Payload::from(out)
    };
    (0..WARM + COUNTED).map(|round| (0..STREAMS.len()).map(|to| message(round, to)).collect()).collect()
}

/// Both corpora under their names.
fn corpora() -> [(&'static str, Vec<Vec<Payload>>); 2] {
    [("5 heartbeats of 40 B", frames(1, 40)), ("5 x 256 B", frames(4, 64))]
}

fn options() -> Options {
    Options { seed: Some(1), ..Options::default() }
}

/// Allocations per item, when `each` is done to all of them and what it gives is dropped before the next one. Those
/// that warm up come first, and do not count.
fn per_frame<T, R>(items: &[T], mut each: impl FnMut(&T) -> R) -> f64 {
    let (warm, counted) = items.split_at(WARM);
    warm.iter().for_each(|item| drop(black_box(each(item))));
    let info = measure(|| counted.iter().for_each(|item| drop(black_box(each(item)))));
    info.count_total as f64 / counted.len() as f64
}

/// Holds both corpora against their bounds.
fn assert_bounds(what: &str, bounds: [f64; 2], per_frame: impl Fn(&[Vec<Payload>]) -> f64) {
    let found: Vec<(&str, f64)> =
        corpora().iter().map(|(corpus, frames)| (*corpus, per_frame(frames))).collect();
    for ((corpus, found), bound) in found.iter().zip(bounds) {
        println!("{what:<20} {corpus:<22} {found:>6.2} allocations per frame, at most {bound:.2}");
    }
    for ((corpus, found), bound) in found.into_iter().zip(bounds) {
        assert!(found <= bound, "{what}, {corpus}: {found} allocations per frame, at most {bound} are known");
    }
}

#[test]
fn encoding_asks_for_no_more_memory_than_is_known() {
    assert_bounds("encode", ENCODE, |frames| {
        let mut encoder = Encoder::new(options());
        per_frame(frames, |payloads| encoder.encode(payloads).unwrap())
    });
}

#[test]
fn encoding_in_a_session_asks_for_no_more_memory_than_is_known() {
    assert_bounds("encode in a session", ENCODE_IN_A_SESSION, |frames| {
        let mut encoder = SessionEncoder::new(options(), 1);
        per_frame(frames, |payloads| encoder.encode(&STREAMS, payloads).unwrap())
    });
}

#[test]
fn encoding_at_an_end_of_a_connection_asks_for_no_more_memory_than_is_known() {
    assert_bounds("encode at an end", ENCODE_AT_AN_END, |frames| {
        let mut end = Session::new(options(), EPOCHS);
        per_frame(frames, |payloads| end.encode(&STREAMS, payloads).unwrap())
    });
}

/// A frame in one piece, as it comes out of a socket's buffer: shared already, so that a handle costs nothing.
fn received(frame: &EncodedFrame) -> Bytes {
    let bytes = Bytes::from(frame.to_bytes().to_vec());
    drop(bytes.clone());
    bytes
}

#[test]
fn decoding_asks_for_no_more_memory_than_is_known() {
    assert_bounds("decode", DECODE, |frames| {
        let mut encoder = Encoder::new(options());
        let bytes: Vec<Bytes> =
            frames.iter().map(|payloads| received(&encoder.encode(payloads).unwrap())).collect();
        per_frame(&bytes, |bytes| Frame::parse(bytes.clone(), &Limits::default()).unwrap())
    });
}

#[test]
fn decoding_in_a_session_asks_for_no_more_memory_than_is_known() {
    assert_bounds("decode in a session", DECODE_IN_A_SESSION, |frames| {
        let mut encoder = SessionEncoder::new(options(), 1);
        let bytes: Vec<Bytes> =
            frames.iter().map(|payloads| received(&encoder.encode(&STREAMS, payloads).unwrap())).collect();
        let mut decoder = SessionDecoder::new(Limits::default(), 1);
        per_frame(&bytes, |bytes| decoder.parse(bytes.clone(), &STREAMS).unwrap())
    });
}

/// A frame of `count` destinations from its records, with what belongs around them; on a connection with what its checksum
/// goes on from and with what has arrived.
fn frame_of(history: Option<(u32, usize)>, count: usize, records: &[u8], data_bytes: usize) -> Bytes {
    let mut frame = vec![0xF5, 1, if history.is_some() { 0x28 } else { 0 }];
    varint::put(&mut frame, count);
    if let Some((_, arrived)) = history {
        varint::put(&mut frame, arrived);
    }
    varint::put(&mut frame, records.len());
    frame.extend_from_slice(records);
    frame.resize(frame.len() + data_bytes, 7);
    let checksum = crc32c::crc32c_append(history.map_or(0, |(begins, _)| begins), &frame);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.into()
}

/// What FORMAT.md says under "Limits" that pieces, records, messages, definitions and parts of echoes take, at most.
const PIECE_BYTES: usize = 32;
const RECORD_BYTES: usize = 120;
const MESSAGE_BYTES: usize = 80;
/// Per definition, and per 64 destinations of it.
const DEFINITION_BYTES: usize = 24;
const DEFINITION_WORD_BYTES: usize = 24;
const ECHO_RECORD_BYTES: usize = 16;
const ECHO_PART_BYTES: usize = 64;
/// What does not grow with what a frame holds: the room for a usual one, and an error.
const FRAME_BYTES: usize = 16 << 10;

/// What a frame that holds this may take, after FORMAT.md.
fn most_bytes(held: Held) -> usize {
    let Held { messages, records, pieces, definitions, data_bytes } = held;
    let definition = DEFINITION_WORD_BYTES * messages.div_ceil(64) + DEFINITION_BYTES;
    PIECE_BYTES * pieces
        + RECORD_BYTES * records
        + MESSAGE_BYTES * messages
        + definition * definitions
        + data_bytes
}

/// Bytes that are taken at one time while the frame is read, at most.
fn taken_bytes(frame: &Bytes, limits: &Limits) -> usize {
    let info = measure(|| drop(black_box(Frame::parse(frame.clone(), limits))));
    usize::try_from(info.bytes_max).unwrap()
}

#[test]
fn a_bomb_costs_its_receiver_no_more_than_what_it_holds() {
    for Bomb { name, frame, limits, held, .. } in bombs::bombs() {
        let (taken, most) = (taken_bytes(&frame, &limits), most_bytes(held) + FRAME_BYTES);
        println!("{name:<34} {:>8} bytes, takes {taken:>9}, {most:>9} at most", frame.len());
        assert!(taken <= most, "{name}: {taken} bytes, {most} at most");
    }
}

#[test]
fn a_piece_costs_its_receiver_no_more_than_is_said() {
    // All but the first, all but the second, and so on in turn: no two neighbours become one piece for everybody.
    let in_turn = |count: usize, records: usize| {
        let head: Vec<u8> = (0..records).flat_map(|index| [0x80 + u8::from(index % 2 == 1), 1]).collect();
        let held = Held { messages: count, records, pieces: (count - 1) * records, ..Held::default() };
        (head, held)
    };
    // One after the other to a destination of its own: as few pieces as records.
    let alone = |records: usize| {
        let head = [0x00, 1].repeat(records);
        (head, Held { messages: 1, records, pieces: records, ..Held::default() })
    };
    // A new set each.
    let defined = |records: usize| {
        let pieces = 3 * records;
        (
            bombs::definitions(records),
            Held { messages: 1024, records, pieces, definitions: records, data_bytes: 0 },
        )
    };
    let frames = [(1000, 10), (1024, 1000), (300, 3400), (64, 10_000), (16, 60_000), (3, 262_144)]
        .map(|(count, records)| in_turn(count, records))
        .into_iter()
        // Full lists, and such as have just been moved to twice the room.
        .chain([262_144, 131_073].map(alone))
        .chain([32_768, 16_385, 8_193, 1_025, 33, 13].map(defined));
    for (head, held) in frames {
        let frame = frame_of(None, held.messages, &head, held.records);
        assert_eq!(Frame::parse(frame.clone(), &Limits::default()).unwrap().message_count(), held.messages);
        let (taken, most) = (taken_bytes(&frame, &Limits::default()), most_bytes(held) + 1000);
        let Held { messages, records, definitions, .. } = held;
        println!("{messages:>5} x {records:<8} {definitions:>6} sets {taken:>10} bytes, {most:>10} at most");
        assert!(taken <= most, "{messages} x {records}, {definitions} sets: {taken} bytes");
    }
}

#[test]
fn a_message_costs_its_receiver_no_more_than_is_said() {
    const MESSAGES: usize = 1024;
    let most = MESSAGE_BYTES * MESSAGES + 500;
    // Nobody gets anything.
    let frame = frame_of(None, MESSAGES, &[], 0);
    let taken = taken_bytes(&frame, &Limits::default());
    assert!(taken <= most, "{taken} bytes, {most} at most");
    // On a connection one gets a byte that its stream remembers. Then what others could refer to is looked up as well.
    let streams: Vec<u32> = (0..1024).collect();
    let first = SessionEncoder::new(options(), 1).encode(&[0], &[Payload::from(vec![7; 40])]).unwrap();
    let mut decoder = SessionDecoder::new(Limits::default(), 1);
    decoder.parse(first.to_bytes(), &[0]).unwrap();
    let mut frame = frame_of(None, MESSAGES, &[0xD1, 0xC0, 1, 1], 0).to_vec();
    // With HISTORY and NOREF: what streams take is another matter.
    frame[2] = 0x18;
    let end = frame.len() - 4;
    let checksum = crc32c::crc32c_append(named(carried(&first.to_bytes()), &streams), &frame[..end]);
    frame[end..].copy_from_slice(&checksum.to_le_bytes());
    let frame = Bytes::from(frame);
    let mut read = None;
    let taken = measure(|| read = Some(decoder.parse(frame.clone(), &streams))).bytes_max;
    // A decoder also keeps the numbers that it is given, before it looks at the frame.
    let most = most + size_of_val(streams.as_slice());
    println!("{taken} bytes of {most} for {MESSAGES} messages");
    assert_eq!(read.unwrap().unwrap().to_vec(0), [7]);
    assert!(usize::try_from(taken).unwrap() <= most, "{taken} bytes, {most} at most");
}

/// Bytes of lists that a decoder keeps for the next frame, at most: 40 KiB of records and 8 KiB of members, both or neither,
/// and 6 KiB of what they make of messages.
const KEPT_LISTS_MAX: i64 = (40 + 8) << 10;
const KEPT_EXTENTS_MAX: i64 = 6 << 10;

#[test]
fn a_large_frame_does_not_make_its_connection_expensive() {
    let all = KEPT_LISTS_MAX + KEPT_EXTENTS_MAX;
    // Many records, and few that have many members. Of neither the lists of these are kept; of the last one all are.
    for (count, records, most) in
        [(1, 262_144, KEPT_EXTENTS_MAX), (1024, 900, KEPT_EXTENTS_MAX), (256, 16, all)]
    {
        let mut decoder = SessionDecoder::new(Limits::default(), 1);
        let mut frame = frame_of(None, count, &[0x00, 1].repeat(records), records).to_vec();
        // With HISTORY and NOREF: what remains is not what streams remember.
        frame[2] = 0x18;
        let end = frame.len() - 4;
        let streams: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
        let begins = named(crc32c::crc32c(&1u64.to_le_bytes()), &streams);
        let checksum = crc32c::crc32c_append(begins, &frame[..end]);
        frame[end..].copy_from_slice(&checksum.to_le_bytes());
        let frame = Bytes::from(frame);
        drop(frame.clone());
        let info = measure(|| drop(decoder.parse(frame.clone(), &streams).unwrap()));
        println!("{count:>5} x {records:<8} {:>9} bytes taken, {} kept", info.bytes_max, info.bytes_current);
        assert!(info.bytes_current <= most, "{count} x {records}: {} bytes", info.bytes_current);
    }
}

#[test]
fn echoes_in_too_many_parts_are_joined_once() {
    let limits = Limits { data_bytes: 1 << 16, ..Limits::default() };
    let mut end = Session::new(Options { limits, ..options() }, EPOCHS);
    // Kept in 1,200 parts of 800 bytes.
    let mut last = Bytes::new();
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let text: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(60 * 800).collect();
        let message: Payload = text.chunks(800).map(Bytes::copy_from_slice).collect();
        last = end.encode(&[1], &[message]).unwrap().to_bytes();
    }
    let total = 20 * 60 * 800;
    // Nearly all pieces that there may be are used up before 250 records take everything that was sent.
    let mut head: Vec<u8> = [0x00, 1].repeat(1023);
    for _ in 0..250 {
        head.extend([0xD2, 0xC0]);
        varint::put(&mut head, total);
        varint::put(&mut head, total);
    }
    let streams: Vec<u32> = (0..1024).collect();
    let begins = carried(&last) ^ named(crc32c::crc32c(&EPOCHS.incoming.to_le_bytes()), &streams);
    let frame = frame_of(Some((begins, total)), 1024, &head, 1023);
    let mut read = Ok(0);
    let info = measure(|| read = end.parse(frame.clone(), &streams).map(|frame| frame.message_count()));
    println!("{} bytes for a frame of {}: {read:?}", info.bytes_max, frame.len());
    assert!(info.bytes_max < 64 << 20, "{} bytes for a frame of {}", info.bytes_max, frame.len());
}

#[test]
fn an_echo_costs_its_receiver_no_more_than_is_said() {
    for (count, records, len) in [(1, 262_144, 1), (3, 80_000, 1), (1, 60, 1 << 20), (3, 60, 1 << 20)] {
        let mut end = Session::new(options(), EPOCHS);
        // In so many parts it is kept: each is too long to be joined with the next.
        const PARTS: usize = (1 << 20) / 600 + 2;
        let mut last = Bytes::new();
        for index in 0..PARTS {
            let mut rng = fastrand::Rng::with_seed(index as u64);
            let text: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(600).collect();
            last = end.encode(&[u32::try_from(index).unwrap()], &[text.into()]).unwrap().to_bytes();
        }
        let mut one = vec![0xD2, 0x00];
        varint::put(&mut one, len);
        varint::put(&mut one, 1 << 20);
        let streams: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
        let begins = carried(&last) ^ named(crc32c::crc32c(&2u64.to_le_bytes()), &streams);
        let bytes = frame_of(Some((begins, PARTS * 600)), count, &one.repeat(records), 0);
        let mut pieces = 0;
        let info = measure(|| {
            let frame = end.parse(bytes.clone(), &streams).unwrap();
            pieces = (0..count).map(|index| frame.message(index).len()).sum();
        });
        let most = PIECE_BYTES * pieces
            + (RECORD_BYTES + ECHO_RECORD_BYTES) * records
            + ECHO_PART_BYTES * pieces / count
            + MESSAGE_BYTES * count;
        let taken = info.bytes_max;
        println!("{count:>5} x {records:<8} {taken:>10} bytes, {most:>10} at most");
        assert!(usize::try_from(taken).unwrap() <= most + 10_000, "{count} x {records}: {taken} bytes");
    }
}
