//! How often memory is asked for per frame, once working memory has grown: one bound per kind of traffic.
//!
//! The bounds are what is true today, not what is wanted, which is none for encoding: lower them when less is asked for.
//! `cargo test -p trunkline-codec --test allocations -- --nocapture` prints the figures.

use std::hint::black_box;

use allocation_counter::measure;
use bytes::Bytes;
use trunkline_codec::{
    EncodedFrame, Encoder, Frame, Limits, Options, Payload, SessionDecoder, SessionEncoder,
};

const STREAMS: [u32; 5] = [1, 2, 3, 4, 5];
/// Frames until nothing grows any more: streams have forgotten their oldest bytes more than once by then.
const WARM: usize = 300;
const COUNTED: usize = 600;

/// Allocations per frame, at most, today: of the heartbeats and of the longer messages. Encoding outside of a connection
/// asks for the list of slices only.
const ENCODE: [f64; 2] = [1.0, 1.0];
const ENCODE_IN_A_SESSION: [f64; 2] = [3.0, 3.0];
const DECODE: [f64; 2] = [7.0, 10.0];
const DECODE_IN_A_SESSION: [f64; 2] = [12.0, 16.0];

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
