//! Work is linear in the bytes of all messages, whatever they contain: counted, not timed.

mod common;

use bytes::Bytes;
use common::{FAMILIES, encoder, family, payloads};
use fastrand::Rng;
use trunkline_codec::{Encoder, Epochs, Limits, Options, Payload, Session, SessionEncoder, Stage};

/// What no family needs more of, per byte of input and per message. The two-letter alphabet comes closest, because
/// nearly every probe succeeds and finds next to nothing.
const PER_BYTE: usize = 150;
const PER_MESSAGE: usize = 4000;
/// In each of 4 rounds 64 steps for each of 3 references, and one address beside that of the first message.
const PER_SEGMENT: usize = 4 * (64 * 3 + 1);

struct Counted {
    operations: usize,
    bytes: usize,
    segments: usize,
}

/// Encodes a family.
fn work(kind: usize, count: usize, len: usize, cut: bool) -> Counted {
    let mut rng = Rng::with_seed(5);
    let messages = family(kind, &mut rng, count, len);
    let messages: Vec<Payload> =
        if cut { payloads(&mut rng, &messages) } else { messages.into_iter().map(Payload::from).collect() };
    let stats = encoder(Stage::None).encode(&messages).unwrap().stats();
    let segments = messages.iter().map(|message| message.segments().len()).sum();
    Counted { operations: stats.work.operations(), bytes: stats.input_bytes, segments }
}

#[test]
fn operations_per_byte_are_bounded() {
    for kind in 0..FAMILIES {
        for (count, len) in [(2, 100), (5, 1000), (5, 30_000), (60, 3000), (1000, 300)] {
            for cut in [false, true] {
                let Counted { operations, bytes, segments } = work(kind, count, len, cut);
                assert!(
                    operations <= PER_BYTE * bytes + PER_MESSAGE * count + PER_SEGMENT * segments,
                    "family {kind}, {count} x {len}: {operations} operations for {bytes} bytes"
                );
            }
        }
    }
}

#[test]
fn operations_per_byte_do_not_grow_with_the_input() {
    for kind in 0..FAMILIES {
        let per_byte = |len| {
            let Counted { operations, bytes, .. } = work(kind, 3, len, false);
            operations as f64 / bytes.max(1) as f64
        };
        let (short, long) = (per_byte(20_000), per_byte(1_000_000));
        assert!(long <= short * 1.25 + 1.0, "family {kind}: {short:.1} operations per byte, then {long:.1}");
    }
}

#[test]
fn operations_per_message_do_not_grow_with_their_number() {
    for kind in 0..FAMILIES {
        let per_message = |count| work(kind, count, 200, true).operations as f64 / count as f64;
        let (few, many) = (per_message(100), per_message(1000));
        assert!(many <= few * 3.0 + 1000.0, "family {kind}: {few:.0} operations per message, then {many:.0}");
    }
}

#[test]
fn tiny_segments_of_long_buffers_are_not_looked_up_byte_by_byte() {
    // The first message is every byte of four buffers in turn; 460 others are one of the buffers each.
    let mut rng = Rng::with_seed(1);
    let buffers: Vec<Bytes> = (0..4).map(|_| Bytes::from(common::random(&mut rng, 4000))).collect();
    let mut messages = vec![Payload::default(); 1024];
    messages[0] = (0..4000).flat_map(|at| buffers.iter().map(move |one| one.slice(at..at + 1))).collect();
    let mut places: Vec<usize> = (1..1024).collect();
    rng.shuffle(&mut places);
    for (one, places) in buffers.iter().zip(places.chunks(115)) {
        for &place in places {
            messages[place] = one.clone().into();
        }
    }
    let segments: usize = messages.iter().map(|message| message.segments().len()).sum();
    let stats = encoder(Stage::None).encode(&messages).unwrap().stats();
    let most = 10 * stats.input_bytes + PER_MESSAGE * messages.len() + PER_SEGMENT * segments;
    assert!(stats.work.operations() <= most, "{:?} for {} bytes", stats.work, stats.input_bytes);
}

#[test]
fn smaller_groups_take_three_times_the_work_at_most() {
    let mut rng = Rng::with_seed(1);
    let blob = common::random(&mut rng, 64);
    let mut letters = || std::iter::repeat_with(|| rng.u8(..2)).take(300).collect::<Vec<u8>>();
    let messages: Vec<Payload> = (0..200).map(|_| [&blob[..], &letters()].concat().into()).collect();
    let limits = Limits { pieces: 200, ..Limits::default() };
    let stats = |limits| {
        let mut encoder = Encoder::new(Options { seed: Some(7), limits, ..Options::default() });
        encoder.encode(&messages).unwrap().stats()
    };
    let (one, all) = (stats(Limits::default()), stats(limits));
    let (one, all, bytes) = (one.work.operations(), all.work.operations(), one.input_bytes);
    let most = PER_BYTE * bytes + PER_MESSAGE * messages.len();
    assert!(one <= most && most < all && all <= 3 * most, "{one} operations, {all} in groups");
}

/// Messages made to drive one part of the encoder, about `len` bytes each, and how many of them.
type Made = fn(&mut Rng, usize) -> Vec<Vec<u8>>;

fn of_family(kind: usize, rng: &mut Rng, count: usize, len: usize) -> Vec<Vec<u8>> {
    family(kind, rng, count, len)
}

/// Blocks that the index with seed 7 takes for one: with a word that equals its key a half of the hash is always 0.
fn colliding(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mix = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        u64::try_from(product & u128::from(u64::MAX)).unwrap() ^ u64::try_from(product >> 64).unwrap()
    };
    let mut state = 7u64;
    let keys: [u64; 4] = std::array::from_fn(|_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(state ^ 0xBF58_476D_1CE4_E5B9, state.rotate_left(32) ^ 0x94D0_49BB_1331_11EB) | 1
    });
    let block = |rng: &mut Rng| [keys[0], rng.u64(..), keys[2], rng.u64(..)].map(u64::to_le_bytes).concat();
    (0..len / 32).flat_map(|_| block(rng)).collect()
}

/// Blocks of 32 bytes in another order, so that they have to be looked up.
fn moved(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut blocks: Vec<&[u8]> = bytes.chunks(32).collect();
    rng.shuffle(&mut blocks);
    blocks.concat()
}

const MADE: [(&str, Made); 8] = [
    ("zeros with marks", |rng, len| of_family(3, rng, 5, len)),
    ("one block with varying glue", |rng, len| of_family(4, rng, 5, len)),
    ("two letters", |rng, len| of_family(5, rng, 5, len)),
    ("rotations", |rng, len| of_family(6, rng, 5, len)),
    ("blocks in another order", |rng, len| of_family(11, rng, 5, len)),
    ("blocks in reverse order", |rng, len| {
        let base = common::random(rng, len);
        let reversed = |size: usize| base.rchunks(size).flatten().copied().collect();
        std::iter::once(base.clone()).chain([8, 32, 33, 64, 500].map(reversed)).collect()
    }),
    ("blocks that collide", |rng, len| {
        let base = colliding(rng, len);
        (0..5).map(|_| moved(rng, &base)).collect()
    }),
    // 1,000 of them are longer together than any other family.
    ("nested lags of 1,000", |rng, len| of_family(2, rng, 1000, len / 10)),
];

#[test]
fn work_doubles_when_messages_do() {
    for (name, made) in MADE {
        let mut before = f64::MAX;
        for times in [1, 2, 4, 8] {
            let messages: Vec<Payload> =
                made(&mut Rng::with_seed(3), times * 8000).into_iter().map(Payload::from).collect();
            let stats = encoder(Stage::None).encode(&messages).unwrap().stats();
            let (operations, count) = (stats.work.operations(), messages.len());
            assert!(
                operations <= PER_BYTE * stats.input_bytes + PER_MESSAGE * count,
                "{name} × {times}: {operations} operations for {} bytes",
                stats.input_bytes
            );
            let per_byte = operations as f64 / stats.input_bytes as f64;
            assert!(
                per_byte <= before * 1.25 + 1.0,
                "{name} × {times}: {before:.1} per byte, then {per_byte:.1}"
            );
            before = per_byte.min(before);
        }
    }
}

#[test]
fn blocks_collide_for_the_seed_that_they_are_made_for() {
    let mut rng = Rng::with_seed(3);
    let base = colliding(&mut rng, 64_000);
    // Only the index finds what the two have in common.
    let noise = |rng: &mut Rng| common::random(rng, 200);
    // The first few that are looked up are compared with every block, and found whatever they collide with.
    let few = (0..12).flat_map(|piece| [&noise(&mut rng)[..], &base[piece * 500..][..100]].concat());
    let other: Vec<u8> =
        few.chain(base[40_000..60_000].to_vec()).chain(common::random(&mut Rng::with_seed(4), 200)).collect();
    let messages = [base, other].map(Payload::from);
    let bytes = |seed| {
        let options = Options { seed: Some(seed), ..Options::default() };
        Encoder::new(options).encode(&messages).unwrap().len()
    };
    let (known, unknown) = (bytes(7), bytes(8));
    assert!(known > 84_000, "{known} bytes where blocks collide");
    assert!(unknown < 68_000, "{unknown} bytes where they do not");
}

/// What a session adds. A probe is 1,000 operations and finds at least four bytes, but for the last one of a message.
const PER_BYTE_OF_A_SESSION: usize = 300;
/// That last probe, and twice eight earlier messages of 32 bytes.
const PER_MESSAGE_OF_A_SESSION: usize = 2000;

/// Message `index` of round `round`, about as long as the given text.
type Said = fn(&mut Rng, &[u8], usize, usize) -> Vec<u8>;

/// Histories against which the last round's messages are held; in the first three these are all alike.
const HISTORIES: [(&str, Said); 6] = [
    ("every fifth byte is another", |_, base, index, round| {
        let other =
            |(at, byte): (usize, &u8)| if (at + index) % 5 == 0 { byte.wrapping_add(1) } else { *byte };
        if round == LAST { base.to_vec() } else { base.iter().enumerate().map(other).collect() }
    }),
    ("cut in every place", |rng, base, index, round| {
        let mut bytes = base.to_vec();
        if round < LAST {
            for at in (index % 11..bytes.len()).step_by(11) {
                bytes[at] = rng.u8(..);
            }
        }
        bytes
    }),
    ("at every distance", |rng, base, index, round| match round {
        LAST => base.to_vec(),
        0 => [&common::random(rng, index % 97)[..], base].concat(),
        _ => common::random(rng, 1 + index % 300),
    }),
    ("two letters", |rng, base, _, _| base.iter().map(|_| if rng.bool() { b'a' } else { b'b' }).collect()),
    ("zeros with marks", |rng, base, _, _| {
        let mut bytes = vec![0; base.len()];
        (0..base.len().div_ceil(20)).for_each(|_| bytes[rng.usize(..base.len())] = rng.u8(..));
        bytes
    }),
    ("nothing in common", |rng, base, _, _| common::random(rng, base.len())),
];
const LAST: usize = 3;

fn session_work(kind: usize, count: usize, len: usize) -> (usize, usize) {
    let mut rng = Rng::with_seed(4);
    let base = common::random(&mut rng, len);
    let mut encoder = SessionEncoder::new(Options { seed: Some(7), ..Options::default() }, 1);
    let streams: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
    let (mut operations, mut bytes) = (0, 0);
    for round in 0..=LAST {
        let messages: Vec<Payload> =
            (0..count).map(|index| HISTORIES[kind].1(&mut rng, &base, index, round).into()).collect();
        let stats = encoder.encode(&streams, &messages).unwrap().stats();
        // The one that needs most.
        if stats.work.operations() * bytes.max(1) >= operations * stats.input_bytes {
            (operations, bytes) = (stats.work.operations(), stats.input_bytes);
        }
    }
    (operations, bytes)
}

#[test]
fn a_history_adds_a_constant_per_byte() {
    for (kind, (name, _)) in HISTORIES.iter().enumerate() {
        for (count, len) in
            [(1, 512), (2, 40), (128, 512), (256, 512), (512, 512), (1024, 512), (1024, 60), (1024, 4000)]
        {
            let (operations, bytes) = session_work(kind, count, len);
            let most =
                (PER_BYTE + PER_BYTE_OF_A_SESSION) * bytes + (PER_MESSAGE + PER_MESSAGE_OF_A_SESSION) * count;
            assert!(operations <= most, "{name}, {count} x {len}: {operations} operations for {bytes} bytes");
        }
    }
}

#[test]
fn looking_for_what_the_receiver_sent_adds_a_constant_per_segment() {
    let options = Options { seed: Some(7), ..Options::default() };
    let epochs = Epochs { outgoing: 1, incoming: 2 };
    let (mut here, mut there) = (Session::new(options, epochs), Session::new(options, epochs.reversed()));
    let mut rng = Rng::with_seed(6);
    // Many frames, and then all of them in pieces just long enough to be looked for, in any order, to many.
    let mut pieces: Vec<Bytes> = Vec::new();
    for _ in 0..200 {
        let sent = there.encode(&[0], &[common::random(&mut rng, 500).into()]).unwrap();
        let frame = here.parse(sent.to_bytes(), &[0]).unwrap();
        for piece in frame.message(0) {
            pieces.extend((0..piece.len() / 20).map(|k| piece.slice(k * 20..k * 20 + 17)));
        }
    }
    for (count, taken) in [(1, 1000), (10, 500), (100, 100), (1000, 30)] {
        let streams: Vec<u32> = (0..count).collect();
        let messages: Vec<Payload> = streams
            .iter()
            .map(|_| (0..taken).map(|_| pieces[rng.usize(..pieces.len())].clone()).collect())
            .collect();
        let frame = here.encode(&streams, &messages).unwrap();
        let (stats, count) = (frame.stats(), messages.len());
        let most = (PER_BYTE + PER_BYTE_OF_A_SESSION) * stats.input_bytes
            + (PER_MESSAGE + PER_MESSAGE_OF_A_SESSION) * count
            + PER_SEGMENT * count * taken;
        assert!(stats.work.operations() <= most, "{count} x {taken}: {:?}", stats.work);
        let frame = there.parse(frame.to_bytes(), &streams).unwrap();
        assert!((0..count).all(|index| frame.to_vec(index) == messages[index].to_vec()));
    }
}
