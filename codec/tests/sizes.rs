//! Frames stay as small as they are: one bound per kind of traffic, close above what is reached today.

mod common;

use bytes::Bytes;
use common::{STAGES, assert_exact, encoder, random};
use fastrand::Rng;
use trunkline_codec::{Payload, Stage};

/// A header of 37 bytes: fields of fixed width, of which the destination, a number of 16 bits and the low byte of
/// another one differ between destinations.
fn header(rng: &mut Rng, to: u8) -> Vec<u8> {
    let mut out = vec![3, 0, 0, 0, to];
    out.extend_from_slice(&7u64.to_le_bytes());
    out.extend_from_slice(&1_000_000u64.to_le_bytes());
    out.extend_from_slice(&u64::from(rng.u16(..)).to_le_bytes());
    out.extend_from_slice(&(0xF_4200 + u64::from(rng.u8(..))).to_le_bytes());
    out
}

fn frame_bytes(messages: &[Payload]) -> usize {
    let encoded = encoder(Stage::None).encode(messages).unwrap();
    assert_exact(messages, &encoded);
    for &stage in STAGES {
        let staged = encoder(stage).encode(messages).unwrap();
        assert_exact(messages, &staged);
        assert!(staged.len() <= encoded.len());
    }
    encoded.len()
}

fn at_most(messages: &[Payload], bound: usize) {
    let bytes = frame_bytes(messages);
    assert!(bytes <= bound, "{bytes} bytes, expected at most {bound}");
    assert!(bytes * 100 >= bound * 97, "{bytes} bytes: tighten the bound of {bound}");
}

/// `count` messages of a header and `entries` entries of `entry_bytes`; destination k lags by `lag(k)` entries.
fn messages(
    shared: bool,
    count: u8,
    entries: usize,
    entry_bytes: usize,
    lag: impl Fn(u8) -> usize,
) -> Vec<Payload> {
    let mut rng = Rng::with_seed(1);
    let lag_max = (0..count).map(&lag).max().unwrap();
    let log: Vec<Bytes> =
        (0..entries + lag_max).map(|_| Bytes::from(random(&mut rng, entry_bytes))).collect();
    let message = |to: u8| {
        let own = Bytes::from(header(&mut rng, to));
        let payload: Payload = std::iter::once(own).chain(log[lag_max - lag(to)..].iter().cloned()).collect();
        if shared { payload } else { Payload::from(payload.to_vec()) }
    };
    (0..count).map(message).collect()
}

#[test]
fn an_entry_for_sixty_four() {
    // Of 66,368 bytes; 64 × 4 of them differ.
    for shared in [true, false] {
        at_most(&messages(shared, 64, 1, 1000, |_| 0), 1330);
    }
}

#[test]
fn heartbeats_for_five() {
    at_most(&messages(false, 5, 0, 0, |_| 0), 80);
}

#[test]
fn one_laggard_of_five() {
    for shared in [true, false] {
        at_most(&messages(shared, 5, 4, 1024, |to| if to == 3 { 8 } else { 0 }), 12_380);
    }
}

#[test]
fn nested_lags() {
    for shared in [true, false] {
        at_most(&messages(shared, 16, 4, 4096, usize::from), 78_100);
    }
}

/// Fields of other lengths between short ones that are equal: too far apart for what looks close by, too short for blocks. Where
/// the sender cuts its messages at their fields, each equal one is found.
#[test]
fn where_a_message_is_cut_is_a_hint() {
    let mut rng = Rng::with_seed(3);
    let equal: Vec<Bytes> = (0..20).map(|_| random(&mut rng, 24).into()).collect();
    let messages: Vec<Vec<Bytes>> = (0..5)
        .map(|_| {
            let field = |equal: &Bytes| {
                let len = rng.usize(20..200);
                [Bytes::from(random(&mut rng, len)), Bytes::copy_from_slice(equal)]
            };
            equal.iter().flat_map(field).collect()
        })
        .collect();
    let own: usize = messages.iter().flatten().step_by(2).map(Bytes::len).sum();
    let cut: Vec<Payload> = messages.iter().map(|fields| fields.iter().cloned().collect()).collect();
    let whole: Vec<Payload> = messages.iter().map(|fields| Payload::from(fields.concat())).collect();
    let (cut, whole) = (frame_bytes(&cut), frame_bytes(&whole));
    println!("{cut} bytes where it is cut, {whole} in one piece; {own} are of one message each, 480 of all");
    assert!(cut < own + 480 + 20 * 6 * 4, "{cut}");
    assert!(whole > own + 3 * 480, "{whole}: it is no hint");
}
