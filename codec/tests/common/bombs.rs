//! Frames that announce far more than they hold: each is refused from its head, or by the block of its second stage.

use bytes::Bytes;
use trunkline_codec::{LimitName, Limits, Payload, Stage, varint};

use super::{encoder, frame_of};

/// A frame to be refused, and how much of it is read before that.
pub(crate) struct Bomb {
    pub(crate) name: &'static str,
    pub(crate) frame: Bytes,
    /// Of the receiver.
    pub(crate) limits: Limits,
    /// The limit that it would pass. Without one it contradicts itself, and any error will do.
    pub(crate) limit: Option<LimitName>,
    pub(crate) held: Held,
}

/// What a frame holds up to where it is refused: its receiver may have made room for that, and for nothing else.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) messages: usize,
    pub(crate) records: usize,
    pub(crate) pieces: usize,
    pub(crate) definitions: usize,
    /// The data column, expanded.
    pub(crate) data_bytes: usize,
}

/// Limits that leave everything to the decoder that depends on lengths.
pub(crate) const GENEROUS: Limits = Limits {
    destinations: 1024,
    message_bytes: usize::MAX,
    output_bytes: usize::MAX,
    pieces: 1 << 20,
    records: 1 << 18,
    data_bytes: usize::MAX,
    set_bytes: 4 << 20,
};

fn uv(value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, value);
    out
}

/// The frame of `m` destinations with this head and data.
fn split(m: usize, head: &[u8], data: &[u8]) -> Bytes {
    frame_of(&[&[0][..], &uv(m), &uv(head.len()), head, data].concat())
}

/// As many sets of three among 1,024, in records of one byte, each defined.
pub(crate) fn definitions(count: usize) -> Vec<u8> {
    let definition = |k: usize| [vec![0xC6, 3], uv(k / 300), uv(k % 300), vec![1, 1]].concat();
    (0..count).flat_map(definition).collect()
}

/// Those that pass a limit.
fn beyond_limits() -> Vec<Bomb> {
    let (defaults, huge) = (Limits::default(), uv(usize::MAX));
    let bomb = |name, frame, limit, held| Bomb { name, frame, limits: defaults, limit: Some(limit), held };
    let to = |messages| Held { messages, ..Held::default() };
    let long = [&[0x00][..], &uv(1 << 20)].concat();
    let longest = [&[0x00][..], &huge].concat();
    vec![
        bomb("1 MiB for 1,000", split(1000, &long, &vec![0; 1 << 20]), LimitName::OutputBytes, to(1000)),
        bomb("2^64 - 1 bytes", split(1000, &longest, &[]), LimitName::MessageBytes, to(1000)),
        bomb(
            "2^64 - 1 bytes, alone",
            frame_of(&[&[1, 1], &huge[..]].concat()),
            LimitName::MessageBytes,
            to(1),
        ),
        bomb(
            "two head bytes make 1,024 pieces",
            split(1024, &[0x00, 0x01].repeat(1025), &[1; 1025]),
            LimitName::Pieces,
            Held { messages: 1024, records: 1024, pieces: 1 << 20, ..Held::default() },
        ),
        bomb(
            "records",
            split(1, &[0x00, 0x01].repeat((1 << 18) + 1), &[1; (1 << 18) + 1]),
            LimitName::Records,
            Held { messages: 1, records: 1 << 18, pieces: 1 << 18, ..Held::default() },
        ),
        bomb(
            "sets",
            split(1024, &definitions(33_000), &[1; 33_000]),
            LimitName::SetBytes,
            Held {
                messages: 1024,
                records: 1 << 15,
                pieces: 3 << 15,
                definitions: 1 << 15,
                ..Held::default()
            },
        ),
        bomb("1,025 destinations", frame_of(&[&[1][..], &uv(1025)].concat()), LimitName::Destinations, to(0)),
        bomb("2^64 - 1 destinations", frame_of(&[&[1], &huge[..]].concat()), LimitName::Destinations, to(0)),
    ]
}

/// Those that contradict themselves, for a receiver that takes any length.
fn contradictions() -> Vec<Bomb> {
    let huge = uv(usize::MAX);
    let longest = [&[0x00][..], &huge].concat();
    let bomb = |name, frame, held| Bomb { name, frame, limits: GENEROUS, limit: None, held };
    let holding = |messages, records, pieces| Held { messages, records, pieces, ..Held::default() };
    let long_list = [&[0xC6][..], &uv(1 << 40), &[0; 9]].concat();
    vec![
        bomb("twice 2^64 - 1", split(1, &longest.repeat(2), &[]), holding(1, 1, 1)),
        bomb("2^64 - 1 for 1,000", split(1000, &longest, &[]), holding(1000, 1, 1000)),
        bomb(
            "2^64 - 1 for each",
            split(1000, &[&[0xD0], &longest[..]].concat(), &[]),
            holding(1000, 1, 1000),
        ),
        bomb("messages of 2^64 - 1", frame_of(&[&[1, 2], &huge[..], &huge].concat()), holding(2, 2, 2)),
        bomb("a head that is not there", frame_of(&[0, 9, 0xFF, 0xFF, 0x03]), holding(9, 0, 0)),
        bomb("a head of 2^64 - 1", frame_of(&[&[0, 9], &huge[..]].concat()), holding(9, 0, 0)),
        bomb("a list of 2^40 members", split(1000, &long_list, &[]), holding(1000, 0, 0)),
        bomb("no destinations", frame_of(&[1, 0]), holding(0, 0, 0)),
    ]
}

/// One message of `announced` bytes, which a block of the second stage is said to have.
fn staged(name: &'static str, flags: u8, block: &[u8], announced: usize, limits: Limits) -> Bomb {
    let frame = frame_of(&[&[flags, 1][..], &uv(announced), block].concat());
    let passed = announced > limits.data_bytes;
    let limit = passed.then_some(LimitName::DataBytes);
    let read = usize::from(!passed);
    Bomb {
        name,
        frame,
        limits,
        limit,
        held: Held { messages: 1, records: read, pieces: read, ..Held::default() },
    }
}

/// Those whose second stage lies about how long it gets.
fn stages() -> Vec<Bomb> {
    let message = Payload::from(vec![b'a'; 10_000]);
    let narrow = Limits { data_bytes: 9_999, ..Limits::default() };
    let mut bombs = Vec::new();
    let kinds = [(Stage::Lz4, 0x03, 255), (Stage::Zstd, 0x05, 32_768)];
    for (stage, flags, expansion) in kinds.into_iter().filter(|(stage, ..)| super::STAGES.contains(stage)) {
        let frame = encoder(stage).encode(std::slice::from_ref(&message)).unwrap().to_bytes();
        assert_eq!(frame[2], flags, "a staged concatenation");
        let block = &frame[3 + 1 + 2..frame.len() - 4];
        for announced in [(block.len() + 1) * expansion, 1 << 40, 1 << 62, usize::MAX] {
            bombs.push(staged("expands by more than any block", flags, block, announced, GENEROUS));
        }
        bombs.push(staged("expands to more than the limit", flags, block, 10_000, narrow));
        // As much as a block of that length could expand to: there is room for what is announced, and no more.
        for announced in [1, 9_999, 10_001, block.len() * expansion] {
            if announced > block.len() {
                let mut bomb = staged("expands to something else", flags, block, announced, GENEROUS);
                bomb.held.data_bytes = announced;
                bombs.push(bomb);
            }
        }
    }
    bombs
}

/// All of them.
pub(crate) fn bombs() -> Vec<Bomb> {
    [beyond_limits(), contradictions(), stages()].into_iter().flatten().collect()
}
