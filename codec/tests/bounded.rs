//! What an encoder takes to encode a frame is in proportion to the frame, whatever the messages contain, and does not grow
//! from frame to frame. Counted by an allocator, against what FORMAT.md says.
//!
//! `cargo test -p trunkline-codec --test bounded -- --nocapture` prints the figures.

mod common;

use allocation_counter::measure;
use bytes::Bytes;
use common::{FAMILIES, STAGES, encoder, family, payloads, random};
use fastrand::Rng;
use trunkline_codec::{Epochs, Limits, Options, Payload, Session, SessionDecoder, SessionEncoder, Stage};

/// FORMAT.md, "What an encoder takes". Nothing here needs more than 16 per byte: it is 1,000 messages, every fifth byte of which
/// is changed.
const PER_BYTE: usize = 24;
const PER_SEGMENT: usize = 96;
const PER_MESSAGE: usize = 600;
const ALWAYS: usize = 64 << 10;
/// What a session takes besides: for each message of a frame, and for each stream of a direction that is remembered.
const PER_MESSAGE_OF_A_SESSION: usize = 3000;
const PER_STREAM: usize = 9 << 10;
const STREAMS: usize = 1024;
/// With the other direction: what it sent, a MiB of it in whole segments of at most 4 and 4 that have not arrived as far as is
/// known; and what it got, a MiB in whole frames of at most twice that.
const SENT: usize = 9 << 20;
const GOT: usize = 2 << 20;
/// Lists of these: 40 bytes for each of at most two chunks per KiB, 16 for each of 8,192 ends, with the room by which they grow.
const LISTS: usize = 1 << 20;
const WINDOWS: usize = SENT + GOT + LISTS;

/// Of one frame, or of the largest of several.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    bytes: usize,
    messages: usize,
    segments: usize,
}

impl Size {
    fn of(messages: &[Payload]) -> Self {
        Self {
            bytes: messages.iter().map(Payload::len).sum(),
            messages: messages.len(),
            segments: messages.iter().map(|message| message.segments().len()).sum(),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            messages: self.messages.max(other.messages),
            segments: self.segments.max(other.segments),
        }
    }

    /// Bytes that an encoder takes for it, at most.
    fn most(self) -> usize {
        PER_BYTE * self.bytes + PER_MESSAGE * self.messages + PER_SEGMENT * self.segments + ALWAYS
    }
}

/// Messages made to hurt: all families in one segment each and cut up, and some that no family is.
fn made(rng: &mut Rng, count: usize, len: usize) -> Vec<(String, Vec<Payload>)> {
    let mut all = Vec::new();
    for kind in 0..FAMILIES {
        let messages = family(kind, rng, count, len);
        all.push((format!("family {kind}, cut"), payloads(rng, &messages)));
        all.push((format!("family {kind}"), messages.into_iter().map(Payload::from).collect()));
    }
    let base = random(rng, len);
    for apart in [5, 9, 12, 20, 40] {
        let other = |index: usize| -> Payload {
            let changed =
                |(at, byte): (usize, &u8)| byte.wrapping_add(u8::from((at + index).is_multiple_of(apart)));
            base.iter().enumerate().map(changed).collect::<Vec<u8>>().into()
        };
        all.push((format!("one in {apart} is another"), (0..count).map(other).collect()));
        let some = |_: usize| -> Payload {
            let changed = |byte: &u8| if rng.usize(..apart) == 0 { rng.u8(..) } else { *byte };
            base.iter().map(changed).collect::<Vec<u8>>().into()
        };
        all.push((format!("some of {apart} are others"), (0..count).map(some).collect()));
    }
    let whole = Bytes::from(base);
    for bytes in [1, 3, 20] {
        // Every byte shared by address, in tiny segments, from another place each.
        let cut = |index: usize| -> Payload {
            (index % bytes..len.saturating_sub(bytes))
                .step_by(bytes)
                .map(|at| whole.slice(at..at + bytes))
                .collect()
        };
        all.push((format!("segments of {bytes}"), (0..count).map(cut).collect()));
    }
    all
}

const SIZES: [(usize, usize); 14] = [
    (1, 0),
    (1, 300_000),
    (2, 100),
    (2, 100_000),
    (5, 1000),
    (5, 30_000),
    (5, 200_000),
    (64, 3000),
    (65, 3000),
    (65, 300),
    (300, 1000),
    (1000, 1),
    (1000, 60),
    (1000, 300),
];

/// Holds what was `taken` against the bound.
fn assert_within(taken: i64, most: usize, what: &str) {
    let taken = usize::try_from(taken).unwrap_or(0);
    assert!(taken <= most, "{what}: {taken} bytes, {most} at most");
}

#[test]
fn a_frame_takes_no_more_than_is_said() {
    let mut rng = Rng::with_seed(5);
    let mut closest = (0.0, String::new());
    for (count, len) in SIZES {
        for (name, messages) in made(&mut rng, count, len) {
            let size = Size::of(&messages);
            for &stage in STAGES {
                let (mut one, mut frame) = (encoder(stage), None);
                let taken = measure(|| frame = Some(one.encode(&messages).unwrap())).bytes_max;
                let what = format!("{name}, {count} x {len}, {stage:?}");
                assert_within(taken.try_into().unwrap(), size.most(), &what);
                let part = taken as f64 / size.most() as f64;
                if part > closest.0 {
                    closest = (part, what);
                }
            }
        }
    }
    println!("closest: {closest:?}");
}

/// One encoder for all frames, again and again: it keeps the room of the largest, and not more for every one.
#[test]
fn many_frames_take_no_more_than_the_largest() {
    let mut rng = Rng::with_seed(6);
    let frames: Vec<Vec<Payload>> = SIZES
        .iter()
        .flat_map(|&(count, len)| made(&mut rng, count, len))
        .map(|(_, messages)| messages)
        .collect();
    let mut one = encoder(Stage::Lz4);
    let (mut kept, mut largest, mut after) = (0, Size::default(), Vec::new());
    for _ in 0..4 {
        for messages in &frames {
            largest = largest.max(Size::of(messages));
            let taken = measure(|| drop(one.encode(messages).unwrap()));
            assert_within(
                kept + i64::try_from(taken.bytes_max).unwrap(),
                largest.most(),
                "with what was kept",
            );
            kept += taken.bytes_current;
        }
        after.push(kept);
    }
    println!("{after:?} of {}", largest.most());
    assert_eq!(after[2], after[3], "nothing grows that is used again: {after:?}");
    let small = [Payload::from(vec![1; 40]), Payload::from(vec![2; 40])];
    kept += measure(|| one.release()).bytes_current;
    kept += measure(|| drop(one.encode(&small).unwrap())).bytes_current;
    assert_within(kept, ALWAYS, "released");
}

const EPOCHS: Epochs = Epochs { outgoing: 1, incoming: 2 };
const ALONE: Options = Options {
    stage: Stage::None,
    seed: Some(7),
    limits: Limits {
        destinations: 1024,
        message_bytes: 8 << 20,
        output_bytes: 64 << 20,
        pieces: 1 << 20,
        records: 1 << 18,
        data_bytes: 64 << 20,
        set_bytes: 4 << 20,
    },
};

/// An end that sends, beside one that does the same and keeps nothing of the other direction: what its window keeps is the
/// difference. Messages are dropped once they are sent.
struct Sending {
    here: Session,
    alone: SessionEncoder,
    there: Session,
    kept: i64,
    rng: Rng,
}

impl Sending {
    fn new() -> Self {
        Self {
            here: Session::new(ALONE, EPOCHS),
            alone: SessionEncoder::new(ALONE, EPOCHS.outgoing),
            there: Session::new(ALONE, EPOCHS.reversed()),
            kept: 0,
            rng: Rng::with_seed(8),
        }
    }

    /// A message of so many bytes, to a peer that hears it and is silent. False if nobody may refer to it.
    fn say(&mut self, len: usize) -> bool {
        let text = random(&mut self.rng, len);
        let mut frame = None;
        let taken = measure(|| frame = Some(self.here.encode(&[1], &[text.clone().into()]).unwrap()));
        let frame = frame.unwrap();
        self.there.parse(Bytes::copy_from_slice(&frame.to_bytes()), &[1]).unwrap();
        let remembered = !frame.is_unremembered();
        self.kept += taken.bytes_current + measure(|| drop(frame)).bytes_current;
        self.kept -= measure(|| drop(self.alone.encode(&[1], &[text.clone().into()]).unwrap())).bytes_current;
        remembered
    }

    /// The peer says what has arrived.
    fn hear(&mut self) {
        assert!(self.there.ack_due());
        let says = self.there.encode(&[1], &[Payload::default()]).unwrap().to_bytes();
        self.kept += measure(|| drop(self.here.parse(says.clone(), &[1]).unwrap())).bytes_current;
    }
}

#[test]
fn what_was_sent_takes_no_more_than_is_said() {
    // Neighbours are joined up to 1 KiB, segments copied up to 16; longer ones are kept by reference.
    for len in [1, 30, 700, 1100, 5000, 16 << 10, 17 << 10, 4 << 20] {
        let mut end = Sending::new();
        let frames = std::iter::repeat(()).take_while(|()| end.say(len)).count();
        let open = frames * len;
        assert!(open > (4 << 20) - len || frames == 8 << 10, "{len}: {open} bytes in {frames} frames");
        println!("{len:>8} x {frames:<5} {:>9} bytes kept of {open}", end.kept);
        assert_within(end.kept, open + open / 16 + LISTS, &format!("{frames} x {len}"));
        // Of what has arrived a MiB stays, with the rest of the segment in which that begins.
        end.hear();
        assert_within(end.kept, (1 << 20) + (1 << 16) + len + LISTS, &format!("{frames} x {len}, arrived"));
        assert!(end.say(len), "there is room again");
    }
    // A segment of which the last byte may be referred to, all but a byte of a MiB, and as much as may be open.
    let mut end = Sending::new();
    for len in [4 << 20, (1 << 20) - 1] {
        assert!(end.say(len));
        end.hear();
    }
    assert!(end.say(4 << 20) && !end.say(1));
    println!("at most {:>9} bytes kept", end.kept);
    assert_within(end.kept, SENT + LISTS, "at most");
    assert!(end.kept > i64::try_from(SENT).unwrap() - 2, "what is said is what may come");
}

/// Columns of all lengths, and openings of more streams than are remembered, beside a decoder that keeps nothing for the other
/// direction.
#[test]
fn what_was_received_takes_no_more_than_is_said() {
    for (len, count) in [(300, 500), (16, 500), (5000, 3), (30 << 10, 1), (1 << 20, 1), (900_000, 1)] {
        let mut there = SessionEncoder::new(ALONE, EPOCHS.incoming);
        let mut here = Session::new(ALONE, EPOCHS);
        let mut alone = SessionDecoder::new(ALONE.limits, EPOCHS.incoming);
        let mut rng = Rng::with_seed(9);
        let (mut kept, mut streams_kept, mut first, mut came) = (0, 0, 0, 0);
        while came < (12 << 20) {
            let streams: Vec<u32> = (first..first + count).collect();
            let messages: Vec<Payload> = (0..count).map(|_| random(&mut rng, len).into()).collect();
            let bytes = there.encode(&streams, &messages).unwrap().to_bytes();
            came += bytes.len();
            first = (first + count) % 2000;
            kept +=
                measure(|| drop(here.parse(Bytes::copy_from_slice(&bytes), &streams).unwrap())).bytes_current;
            let copy = || Bytes::copy_from_slice(&bytes);
            streams_kept += measure(|| drop(alone.parse(copy(), &streams).unwrap())).bytes_current;
        }
        let window = kept - streams_kept;
        println!(
            "{count:>4} x {len:<8} {window:>9} bytes kept in the window, {streams_kept} of streams, of {came}"
        );
        assert_within(window, GOT + LISTS, &format!("{count} x {len}"));
        assert_within(streams_kept, PER_STREAM * STREAMS + LISTS, &format!("{count} x {len}, streams"));
    }
}

/// A connection whose windows are full in both directions: more streams than are remembered, more sent and received than is
/// kept.
#[test]
fn a_connection_takes_no_more_than_is_said() {
    let options = Options { seed: Some(7), stage: Stage::Lz4, limits: Limits::default() };
    let mut rng = Rng::with_seed(7);
    let (mut here, mut there) = (Session::new(options, EPOCHS), Session::new(options, EPOCHS.reversed()));
    // To more streams than are remembered, with more than is remembered of a message; and what hurts.
    let mut frames: Vec<(Vec<u32>, Vec<Payload>)> = Vec::new();
    for first in [0, 500, 1000, 1500] {
        let base = random(&mut rng, 700);
        let edited = |_| {
            let mut text = base.clone();
            (0..20).for_each(|_| text[rng.usize(..700)] = rng.u8(..));
            text.into()
        };
        frames.push(((first..first + 500).collect(), (0..500).map(edited).collect()));
    }
    for (count, len) in [(1, 300_000), (5, 30_000), (65, 300), (1000, 60)] {
        let all = made(&mut rng, count, len).into_iter();
        frames.extend(all.map(|(_, messages)| ((0..u32::try_from(count).unwrap()).collect(), messages)));
    }
    let (mut kept, mut largest, mut after) = (0, Size::default(), Vec::new());
    for _ in 0..6 {
        for (streams, messages) in &frames {
            largest = largest.max(Size::of(messages));
            let most = largest.most()
                + PER_MESSAGE_OF_A_SESSION * largest.messages
                + 2 * PER_STREAM * STREAMS
                + WINDOWS;
            let mut frame = None;
            // What is sent by reference is not the session's, and alive in `frames`.
            let taken = measure(|| frame = Some(here.encode(streams, messages).unwrap()));
            assert_within(kept + i64::try_from(taken.bytes_max).unwrap(), most, "with what was kept");
            // A copy: what the other end keeps is not this one's.
            let bytes = Bytes::copy_from_slice(&frame.as_ref().unwrap().to_bytes());
            there.parse(bytes, streams).unwrap();
            kept += taken.bytes_current + measure(|| drop(frame)).bytes_current;
            // The other way: something long now and then, and what has arrived.
            let back = [Payload::from(random(&mut rng, if streams.len() == 500 { 300_000 } else { 30 }))];
            let back = there.encode(&[1], &back).unwrap().to_bytes();
            let taken = measure(|| drop(here.parse(Bytes::copy_from_slice(&back), &[1]).unwrap()));
            kept += taken.bytes_current;
            assert_within(kept, most, "with what came");
        }
        after.push(kept);
    }
    println!("{after:?} of {}", largest.most());
    assert!(after[5] < after[2] + (64 << 10), "it grows on, with full windows: {after:?}");
}

#[test]
fn what_is_said_is_what_is_measured() {
    let said = include_str!("../FORMAT.md");
    let section = said.split("## What an encoder takes").nth(1).unwrap();
    for (count, what) in [
        (PER_BYTE, "per byte of the messages"),
        (PER_SEGMENT, "per segment"),
        (PER_MESSAGE, "per message"),
        (ALWAYS >> 10, "KiB always"),
        (PER_MESSAGE_OF_A_SESSION, "per message of a frame"),
        (PER_STREAM >> 10, "KiB per stream"),
        (WINDOWS >> 20, "MiB of windows"),
    ] {
        let mut digits = count.to_string();
        if count >= 1000 {
            digits.insert(digits.len() - 3, ',');
        }
        let row = section.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}"));
        assert!(row.contains(&format!("| {digits} ")), "{row} {digits}");
    }
}
