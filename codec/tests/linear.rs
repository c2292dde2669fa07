//! Work is linear in the bytes of all messages, whatever they contain: counted, not timed.

mod common;

use common::{FAMILIES, encoder, family, payloads};
use fastrand::Rng;
use trunkline_codec::{Payload, Stage};

/// What no family needs more of, per byte of input and per message. The two-letter alphabet comes closest, because
/// nearly every probe succeeds and finds next to nothing.
const PER_BYTE: usize = 150;
const PER_MESSAGE: usize = 4000;
/// 64 steps, 4 rounds, 3 references.
const PER_SEGMENT: usize = 768;

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
