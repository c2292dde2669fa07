//! A decoder of FORMAT.md in another language, which shares no code with this crate, accepts what it accepts, refuses
//! what it refuses, and reads the same messages. Without python3 these tests say so and pass.
#![allow(
    clippy::duplicate_mod,
    reason = "two modules of tests use the naive reader, and this file both of them"
)]

mod bodies;
mod common;
mod connections;

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use common::{
    FAMILIES, encoder, family, frame_of,
    named::{carried, named},
    payloads, random, seal,
};
use fastrand::Rng;
use trunkline_codec::{
    Epochs, Frame, Limits, Options, Payload, Session, SessionDecoder, SessionEncoder, Stage,
};

/// Python takes about a microsecond per byte of a frame.
const FRAME_BYTES_MAX: usize = 8 << 10;

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the decoder is to print for a frame: its messages, or nothing but that it is refused.
fn shown(frame: Option<&Frame>) -> String {
    let Some(frame) = frame else { return "refused".to_owned() };
    let messages = (0..frame.message_count()).map(|index| hex(&frame.to_vec(index)));
    std::iter::once("ok".to_owned()).chain(messages).collect::<Vec<_>>().join(" ")
}

/// Gives the decoder lines of `input`, and compares what it says of each. False where there is no python3.
fn assert_read(name: &str, arguments: &[&str], input: &[String], expected: &[String]) -> bool {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["--version"]).is_ok_and(|output| output.status.success()) {
        eprintln!("{name}: skipped, python3 is not installed");
        return false;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.hex"));
    std::fs::write(&file, input.join("\n")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent/decode.py");
    let output = python(&[&[script], arguments, &[file.to_str().unwrap()]].concat()).unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), input.len(), "{name}");
    let mut skipped = 0;
    for ((said, expected), input) in said.lines().zip(expected).zip(input) {
        // A module that reads zstd may be missing there.
        if said.starts_with("skipped zstd: ") {
            skipped += 1;
            continue;
        }
        let same = if said.starts_with("refused ") { expected == "refused" } else { said == expected };
        assert!(same, "{name}: {input}\nthe crate: {expected}\ndecode.py: {said}");
    }
    if skipped > 0 {
        eprintln!("{name}: {skipped} frames skipped, no module of python3 reads zstd");
    }
    true
}

fn assert_frames(name: &str, frames: &[Bytes]) -> usize {
    let expected: Vec<String> = frames
        .iter()
        .map(|frame| shown(Frame::parse(frame.clone(), &Limits::default()).ok().as_ref()))
        .collect();
    let lines: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
    assert_read(name, &[], &lines, &expected);
    expected.iter().filter(|expected| *expected != "refused").count()
}

/// Frames of every family and stage.
fn fresh() -> Vec<Bytes> {
    let mut frames = Vec::new();
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let count = [rng.usize(1..9), rng.usize(9..70), rng.usize(64..300)][rng.usize(..3)];
        let len = rng.usize(..3000 / count + 8);
        let messages = family(rng.usize(..FAMILIES), &mut rng, count, len);
        let stage = if rng.bool() { Stage::None } else { Stage::Lz4 };
        frames.push(encoder(stage).encode(&payloads(&mut rng, &messages)).unwrap().to_bytes());
    }
    assert!(frames.iter().filter(|frame| frame[2] & 2 != 0).count() > 30, "second stages");
    assert!(frames.iter().filter(|frame| frame[2] & 1 == 0).count() > 100, "records");
    frames
}

#[test]
fn vectors_are_read_independently() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let (mut lines, mut expected) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // Those of a connection do not stand alone.
        if connections::Connection::read(&text).is_some() {
            continue;
        }
        let of = |kind: &'static str| text.lines().filter_map(move |line| line.strip_prefix(kind));
        let frames: Vec<&str> = of("frame").collect();
        if let [frame] = frames[..] {
            lines.push(frame.trim().to_owned());
            let messages =
                of("message").map(|message| if message.trim().is_empty() { "-" } else { message.trim() });
            expected.push(std::iter::once("ok").chain(messages).collect::<Vec<_>>().join(" "));
        }
    }
    assert!(lines.len() >= 12);
    assert_read("vectors", &[], &lines, &expected);
}

/// As either end sees them; and as one sees them that sends nothing, where that is enough.
#[test]
fn connections_are_read_independently() {
    for (name, connection) in connections::all() {
        let epochs = connection.epochs;
        for end in 0..2 {
            let mut seen = Seen::default();
            for frame in &connection.frames {
                let texts = |messages: &Vec<Vec<u8>>| {
                    let texts = messages.iter().map(|message| hex(message));
                    std::iter::once("ok".to_owned()).chain(texts).collect::<Vec<_>>().join(" ")
                };
                let expected = frame.messages.as_ref().map_or("refused".to_owned(), texts);
                match (frame.from == end, &frame.messages) {
                    (true, Some(_)) => seen.frame('>', &frame.bytes, &frame.streams, expected),
                    (true, None) => {}
                    (false, Some(_)) => seen.frame('<', &frame.bytes, &frame.streams, expected),
                    (false, None) => seen.frame('?', &frame.bytes, &frame.streams, expected),
                }
            }
            let epochs = Epochs { incoming: epochs[1 - end], outgoing: epochs[end] };
            seen.assert_read(&format!("{name}-{end}"), epochs);
            let came = |line: &String| line.starts_with('<');
            if !connection.frames.iter().any(|frame| frame.from != end && frame.has_flag(0x20)) {
                let (lines, expected): (Vec<String>, Vec<String>) = seen
                    .lines
                    .iter()
                    .zip(&seen.expected)
                    .filter(|(line, _)| came(line))
                    .map(|(line, expected)| (line[2..].to_owned(), expected.clone()))
                    .unzip();
                let epoch = epochs.incoming.to_string();
                assert_read(&format!("{name}-{end}-alone"), &["--session", &epoch], &lines, &expected);
            }
        }
    }
}

#[test]
fn fresh_frames_are_read_independently() {
    let frames = fresh();
    assert_eq!(assert_frames("fresh", &frames), frames.len());
}

#[test]
fn what_is_refused_is_refused_independently() {
    let mut rng = Rng::with_seed(1);
    let mut frames = Vec::new();
    for frame in fresh() {
        frames.push(frame.slice(..rng.usize(..frame.len())));
        for _ in 0..3 {
            let mut bytes = frame.to_vec();
            let near = if rng.bool() { 16 } else { bytes.len() };
            let at = rng.usize(..bytes.len().min(near));
            match rng.u8(..4) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes[at] ^= 1 << rng.u8(..8),
                2 => bytes.insert(at, rng.u8(..)),
                _ => drop(bytes.remove(at)),
            }
            frames.push(seal(bytes));
        }
    }
    // Heads that no encoder would write, some of them canonical.
    for seed in 0..1500 {
        let mut rng = Rng::with_seed(seed);
        let len = rng.usize(..300);
        frames.push(bodies::any_frame(&random(&mut rng, len)));
    }
    frames.retain(|frame| frame.len() <= FRAME_BYTES_MAX);
    let accepted = assert_frames("changed", &frames);
    assert!(accepted > 200 && frames.len() - accepted > 500, "{accepted} of {} are accepted", frames.len());
}

/// Frames of which each breaks one rule, or just keeps it.
#[test]
fn every_rule_is_known_independently() {
    let mut frames = Vec::new();
    let split = |count: u8, head: &[u8], data: usize| {
        frame_of(&[&[0, count, u8::try_from(head.len()).unwrap()], head, &vec![7; data]].concat())
    };
    for (count, head) in [
        (100, &[0x40, 1][..]),                        // ONE 0 is NEXT
        (100, &[0x41, 1]),                            // and ONE 1 is not
        (100, &[0xC1, 5, 1]),                         // numbers below 64 are short
        (100, &[0xC1, 70, 1]),                        //
        (100, &[0xC2, 63, 1]),                        //
        (100, &[0xC2, 64, 1]),                        //
        (100, &[0xC3, 0, 1]),                         //
        (2, &[0x80, 1]),                              // BUT 0 of two is ONE 1
        (3, &[0x80, 1]),                              //
        (1, &[0xC0, 1]),                              // NEXT of one is all
        (1, &[0x00, 1]),                              //
        (12, &[0xC4, 0xFF, 0x0F, 1]),                 // all, as bits
        (12, &[0xC4, 0x01, 0x00, 1]),                 // NEXT, as bits
        (12, &[0xC4, 0x55, 0x05, 1]),                 //
        (12, &[0xC4, 0x55, 0x15, 1]),                 // a bit beyond the last
        (12, &[0xC4, 0x00, 0x00, 1]),                 // empty
        (100, &[0xC6, 2, 3, 5, 1, 0xC6, 2, 3, 5, 1]), // defined twice
        (100, &[0xC6, 2, 3, 5, 1, 0x01, 1]),          //
        (100, &[0xC6, 2, 3, 5, 1, 0x02, 1]),          // not defined
        (12, &[0xC6, 6, 0, 1, 1, 1, 1, 1, 1]),        // BITS are shorter
        (12, &[0xC6, 2, 11, 0, 1]),                   // beyond the last
        (100, &[0xC6, 0, 1]),                         // an empty list
        (100, &[0xC5, 2, 3, 5, 1]),                   // FLIP of all comes before COLIST
        (100, &[0xC7, 2, 3, 5, 1]),                   //
        (100, &[0xD0, 0xC0, 1]),                      // EACH of one
        (100, &[0xD0, 0x80, 1]),                      //
        (100, &[0xC8, 1]),                            // no code
        (100, &[0xD1, 0x00, 1, 1]),                   // reserved
        (100, &[0xD2, 0x00, 1, 1]),                   //
        (100, &[0xD3, 0x00, 1]),                      //
        (100, &[0x00, 0]),                            // no bytes
        (100, &[0x00, 0x81, 0]),                      // longer than needed
        (100, &[0x00]),                               // cut
    ] {
        frames.extend((0..4).map(|data| split(count, head, data)));
        frames.push(split(count, head, 99));
    }
    for flags in 0..=255 {
        frames.push(frame_of(&[flags, 2, 1, 1, b'a', b'b']));
    }
    // Blocks that expand to ten bytes, to six, which saves nothing, and one that refers to what is not there.
    for bytes in 3..14 {
        frames.push(frame_of(&[3, 1, bytes, 0x14, b'a', 1, 0, 0x10, b'b']));
        frames.push(frame_of(&[3, 1, bytes, 0x10, b'a', 1, 0, 0x10, b'b']));
        frames.push(frame_of(&[3, 1, bytes, 0x14, b'a', 2, 0, 0x10, b'b']));
    }
    let accepted = assert_frames("rules", &frames);
    assert!((12..30).contains(&accepted), "{accepted} are accepted");
}

fn uv(value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    trunkline_codec::varint::put(&mut out, value);
    out
}

/// A frame of the streams 1 and 2 from its bytes between version and checksum; `before` is the checksum of the one before.
fn after(before: u32, flags_and_rest: &[u8]) -> Bytes {
    let mut frame = [&[0xF5, 1], flags_and_rest].concat();
    let checksum = crc32c::crc32c_append(named(before, &[1, 2]), &frame);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.into()
}

/// Frames of which each breaks a rule of references to earlier messages, or just keeps it.
#[test]
fn every_rule_of_the_past_is_known_independently() {
    let (streams, epochs) = ([1, 2], Epochs { incoming: 3, outgoing: 4 });
    let mut encoder = SessionEncoder::new(Options { seed: Some(7), ..Options::default() }, epochs.incoming);
    let mut rng = Rng::with_seed(8);
    let mut seen = Seen::default();
    // The first stream remembers two openings, the second one a short message.
    let mut earlier = Vec::new();
    for (count, len) in [(1, 400), (2, 300)] {
        let messages: Vec<Payload> =
            [random(&mut rng, len), vec![7; 20]].into_iter().take(count).map(Payload::from).collect();
        let bytes = encoder.encode(&streams[..count], &messages).unwrap().to_bytes();
        let texts = messages.iter().map(|message| hex(&message.to_vec()));
        let expected = std::iter::once("ok".to_owned()).chain(texts).collect::<Vec<_>>().join(" ");
        seen.frame('<', &bytes, &streams[..count], expected);
        earlier.push((bytes, count));
    }
    let begin = || {
        let mut end = SessionDecoder::new(Limits::default(), epochs.incoming);
        for (bytes, count) in &earlier {
            end.parse(bytes.clone(), &streams[..*count]).unwrap();
        }
        end
    };
    let before = u32::from_le_bytes(*earlier[1].0.last_chunk().unwrap());
    let frame = |flags: u8, head: &[u8], data: usize| {
        after(before, &[&[flags, 2][..], &uv(head.len()), head, &vec![9; data]].concat())
    };
    let past = |code: u8, set: u8, len: usize, back: &[u8]| [&[code, set][..], &uv(len), back].concat();
    let mut frames = Vec::new();
    // So many bytes of its own, and then some of what the stream remembers.
    for own in [0, 1, 100, 255, 256, 257, 300] {
        for len in [1, 2, 156, 157, 256, 257] {
            for back in [own + len - 1, own + len, 256, 512, 512 + own, 513 + own, usize::MAX] {
                let first = if own > 0 { [vec![0xC0], uv(own)].concat() } else { Vec::new() };
                let set = if own > 0 { 0x40 } else { 0xC0 };
                let head = [first, past(0xD1, set, len, &uv(back))].concat();
                frames.push(frame(8, &head, own));
            }
        }
    }
    // To both at once, of which the second has little; again; the same place spelled again; and without a history.
    for (len, back) in [(20, 20), (21, 21), (19, 20), (10, 20), (11, 10)] {
        let both = past(0xD1, 0x00, len, &uv(back));
        let again = past(0xD4, 0x00, 3, &[]);
        frames.extend([8, 0, 9, 0x18].map(|flags| frame(flags, &both, 0)));
        frames.push(frame(8, &[&both[..], &again].concat(), 0));
        frames.push(frame(8, &[&both[..], &[0x00, 1], &again].concat(), 1));
        frames.push(frame(8, &[&both[..], &both].concat(), 0));
        frames.push(frame(8, &[&again[..], &both].concat(), 0));
    }
    let mut accepted = 0;
    for frame in &frames {
        let parsed = begin().parse(frame.clone(), &streams).ok();
        accepted += usize::from(parsed.is_some());
        seen.frame('?', frame, &streams, shown(parsed.as_ref()));
    }
    assert!((60..120).contains(&accepted), "{accepted} of {} are accepted", frames.len());
    // Of other streams.
    let both = frame(8, &past(0xD1, 0x00, 20, &uv(20)), 0);
    for (named, accepted) in [([1, 2], true), ([2, 1], false), ([1, 3], false)] {
        let parsed = begin().parse(both.clone(), &named).ok();
        assert_eq!(parsed.is_some(), accepted, "{named:?}");
        seen.frame('?', &both, &named, shown(parsed.as_ref()));
    }
    seen.assert_read("past-rules", epochs);
}

/// What the messages of a session have in common.
#[derive(Clone, Copy)]
enum Shape {
    /// Few streams, whose messages resemble each other's and earlier ones.
    Edits,
    /// More streams than are remembered, each with a text of its own.
    Many,
    /// One stream, whose messages come again when they are about to be forgotten.
    Rounds,
}

/// The next frame's streams and messages.
fn said(shape: Shape, round: usize, rng: &mut Rng, texts: &mut [Vec<u8>]) -> (Vec<u32>, Vec<Payload>) {
    let (count, numbers) = match shape {
        Shape::Edits => (rng.usize(1..8), 9),
        Shape::Many => (rng.usize(100..300), 1500),
        Shape::Rounds => (1, 1),
    };
    let streams: Vec<u32> = (0..count).map(|_| rng.u32(..numbers)).collect();
    let message = |stream: &u32| match shape {
        Shape::Edits => {
            let text = &mut texts[*stream as usize % 6];
            let edits = rng.usize(..2);
            common::edit(rng, text, edits);
            text.truncate(900);
            text.clone()
        }
        Shape::Many => random(&mut Rng::with_seed(u64::from(*stream)), 20),
        Shape::Rounds => random(&mut Rng::with_seed(round as u64 % 8), 600),
    };
    let messages = streams.iter().map(message).map(Payload::from).collect();
    (streams, messages)
}

#[test]
fn sessions_are_read_independently() {
    for (seed, shape) in [Shape::Edits, Shape::Many, Shape::Rounds].into_iter().cycle().take(12).enumerate() {
        let mut rng = Rng::with_seed(seed as u64);
        let epoch = rng.u64(..);
        let options = Options { seed: Some(7), ..Options::default() };
        let (mut encoder, mut decoder) =
            (SessionEncoder::new(options, epoch), SessionDecoder::new(Limits::default(), epoch));
        let (mut lines, mut expected) = (Vec::new(), Vec::new());
        let mut texts: Vec<Vec<u8>> = (0..6).map(|_| random(&mut rng, 700)).collect();
        let (mut input, mut sent) = (0, 0);
        for round in 0..40 {
            let (streams, messages) = said(shape, round, &mut rng, &mut texts);
            encoder.set_stage(if rng.bool() { Stage::Lz4 } else { Stage::None });
            let frame = if rng.u8(..) < 20 {
                encoder.encode_unremembered(&streams, &messages).unwrap()
            } else {
                encoder.encode(&streams, &messages).unwrap()
            };
            input += frame.stats().input_bytes;
            sent += frame.len();
            let mut bytes = frame.to_bytes();
            if round == 38 {
                // Damaged; and then the connection is over.
                let mut damaged = bytes.to_vec();
                let at = rng.usize(..damaged.len());
                damaged[at] ^= 1 + rng.u8(..255);
                bytes = damaged.into();
            }
            let numbers: Vec<String> = streams.iter().map(u32::to_string).collect();
            lines.push(format!("{} {}", hex(&bytes), numbers.join(",")));
            expected.push(shown(decoder.parse(bytes, &streams).ok().as_ref()));
        }
        assert!(sent * 10 < input * 9, "much was said before: {sent} of {input} bytes");
        assert!(expected[..38].iter().all(|one| one != "refused"));
        assert!(expected[38..].iter().all(|one| one == "refused"));
        assert_read(&format!("session-{seed}"), &["--session", &epoch.to_string()], &lines, &expected);
    }
}

/// What one end of a connection sees: lines for the decoder, and what it is to say of each.
#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    expected: Vec<String>,
}

impl Seen {
    /// A frame that came (`<`), went (`>`) or may come (`?`).
    fn frame(&mut self, way: char, bytes: &[u8], streams: &[u32], expected: String) {
        let numbers: Vec<String> = streams.iter().map(u32::to_string).collect();
        self.lines.push(format!("{way} {} {}", hex(bytes), numbers.join(",")));
        self.expected.push(expected);
    }

    fn assert_read(&self, name: &str, epochs: Epochs) {
        let (from, to) = (epochs.incoming.to_string(), epochs.outgoing.to_string());
        assert_read(name, &["--connection", &from, &to], &self.lines, &self.expected);
    }
}

/// Something that has come, a part of it, to be sent back.
fn come(rng: &mut Rng, got: &[Bytes]) -> Option<Bytes> {
    let one = got.get(rng.usize(got.len().saturating_sub(20)..got.len().max(1)))?;
    Some(one.slice(rng.usize(..one.len())..))
}

/// Two ends send what is new and what they got, in any order of frames, until the window has passed more than once.
#[test]
fn echoes_are_read_independently() {
    for seed in 0..7 {
        let mut rng = Rng::with_seed(seed);
        let longest = if seed < 6 { 700 } else { 50_000 };
        let options = Options { seed: Some(7), ..Options::default() };
        let epochs = Epochs { outgoing: rng.u64(..), incoming: rng.u64(..) };
        let mut ends = [Session::new(options, epochs), Session::new(options, epochs.reversed())];
        let mut seen = [Seen::default(), Seen::default()];
        let mut got: [Vec<Bytes>; 2] = Default::default();
        let mut under_way: [VecDeque<(Bytes, Vec<u32>, String)>; 2] = Default::default();
        let (mut said, mut sent, mut echoes) = (0, 0, 0);
        for _ in 0..120 {
            let end = rng.usize(..2);
            if rng.bool() {
                let count = rng.usize(1..5);
                let message = |rng: &mut Rng| {
                    let len = rng.usize(..longest);
                    let new = Bytes::from(random(rng, len));
                    let back = (0..rng.usize(..3)).filter_map(|_| come(rng, &got[end]));
                    std::iter::once(new).chain(back.collect::<Vec<_>>()).collect()
                };
                let messages: Vec<Payload> = (0..count).map(|_| message(&mut rng)).collect();
                let streams: Vec<u32> = (0..count).map(|_| rng.u32(..6)).collect();
                ends[end].set_stage(if rng.bool() { Stage::Lz4 } else { Stage::None });
                let frame = match rng.u8(..8) {
                    0 => ends[end].encode_unremembered(&streams, &messages),
                    _ => ends[end].encode(&streams, &messages),
                };
                let frame = frame.unwrap();
                said += frame.stats().input_bytes;
                sent += frame.len();
                let bytes = frame.to_bytes();
                echoes += usize::from(bytes[2] & 0x20 != 0);
                let texts = messages.iter().map(|message| hex(&message.to_vec()));
                let expected = std::iter::once("ok".to_owned()).chain(texts).collect::<Vec<_>>().join(" ");
                seen[end].frame('>', &bytes, &streams, expected.clone());
                under_way[1 - end].push_back((bytes, streams, expected));
            } else if let Some((bytes, streams, expected)) = under_way[end].pop_front() {
                let frame = ends[end].parse(bytes.clone(), &streams).unwrap();
                for index in 0..frame.message_count() {
                    got[end].extend(frame.message(index));
                }
                assert!(shown(Some(&frame)) == expected, "seed {seed}");
                seen[end].frame('<', &bytes, &streams, expected);
            }
        }
        assert!(echoes > 20 && sent * 20 < said * 17, "{echoes} echoes, {sent} of {said} bytes");
        assert!(longest < 1000 || sent > 2 << 20, "the window has passed: {sent} bytes");
        for (end, epochs) in [epochs, epochs.reversed()].into_iter().enumerate() {
            seen[end].assert_read(&format!("echo-{seed}-{end}"), epochs);
        }
    }
}

/// A frame of a connection for two destinations, with what it says to have arrived and the checksum that belongs to it.
/// `before` is that of the frame before, XORed with that of the frame with which it has arrived.
fn echoing(before: u32, flags: u8, arrived: usize, head: &[u8], data: &[u8]) -> Bytes {
    after(before, &[&[flags, 2][..], &uv(arrived), &uv(head.len()), head, data].concat())
}

/// Frames of which each breaks a rule of references to what the receiver sent, or just keeps it.
#[test]
fn every_rule_of_echoes_is_known_independently() {
    for sent in [5_000, 1_100_000] {
        let accepted = rules_of_echoes(sent);
        assert!((20..40).contains(&accepted), "{accepted} are accepted");
    }
}

/// Says how many frames are accepted where so many bytes were sent.
fn rules_of_echoes(sent: usize) -> usize {
    const WINDOW: usize = 1 << 20;
    let (streams, epochs) = ([1, 2], Epochs { incoming: 3, outgoing: 4 });
    // An end that has sent, and got a frame which says that all but the last 100 bytes have arrived. These have one frame
    // that ends after the first of them, and one that ends before the last.
    let text = random(&mut Rng::with_seed(2), sent);
    let (most, rest) = text.split_at(sent - 100);
    let own = [&[9; 50], most, &rest[..1], &rest[1..99], &rest[99..], &[8; 50]];
    let send = || {
        let mut end = Session::new(Options { seed: Some(7), ..Options::default() }, epochs);
        let frames = own.iter().enumerate().map(|(index, text)| {
            let message = [Payload::from(text.to_vec())];
            let frame = match index {
                1..5 => end.encode(&[5], &message),
                _ => end.encode_unremembered(&[5], &message),
            };
            frame.unwrap().to_bytes()
        });
        let frames: Vec<Bytes> = frames.collect();
        (end, frames)
    };
    let ends: Vec<u32> = send().1.iter().map(|frame| carried(frame)).collect();
    let first = echoing(
        crc32c::crc32c(&epochs.incoming.to_le_bytes()) ^ ends[1],
        0x28,
        sent - 100,
        &[0x00, 5, 0xC0, 1],
        b"firstx",
    );
    let begin = |mut seen: Option<&mut Seen>| {
        let (mut end, frames) = send();
        for (text, bytes) in own.iter().zip(&frames) {
            if let Some(seen) = &mut seen {
                seen.frame('>', bytes, &[5], format!("ok {}", hex(text)));
            }
        }
        let frame = end.parse(first.clone(), &streams).unwrap();
        if let Some(seen) = seen {
            seen.frame('<', &first, &streams, shown(Some(&frame)));
        }
        end
    };
    let before = |arrived: usize| {
        let end = [0, 1, 99, 100].iter().position(|end| *end == arrived);
        carried(&first) ^ end.map_or(0, |end| ends[1 + end])
    };
    let echo = |len: usize, distance: usize| [vec![0xD2, 0x00], uv(len), uv(distance)].concat();
    let mut frames = Vec::new();
    for arrived in [0, 1, 50, 99, 100, 101, 150, sent, 1 << 40, usize::MAX] {
        let before = before(arrived);
        for (len, distance) in [(1, 1), (30, 30), (30, 31), (31, 30), (1, 0), (10, usize::MAX)] {
            frames.push(echoing(before, 0x28, arrived, &echo(len, distance), b""));
        }
        // The first byte that was sent and may be referred to; it is the first one of all, or the window ends there.
        for distance in [sent - 100, sent - 99, sent, WINDOW, WINDOW + 1] {
            frames.push(echoing(before, 0x28, arrived, &echo(7, distance), b""));
        }
        frames.push(echoing(before, 0x28, arrived, &[0x00, 1], b"x"));
    }
    frames.push(echoing(before(100), 0x28, 100, &echo(WINDOW, WINDOW), b""));
    // The checksum of its own direction alone, and of what had arrived before.
    frames.push(echoing(carried(&first), 0x28, 100, &echo(7, 7), b""));
    frames.push(echoing(before(0), 0x28, 100, &echo(7, 7), b""));
    // Beside other records; with and without the flag; with bytes that the record does not take.
    let both = [&[0xD1, 0x00, 3, 5, 0x00, 3][..], &echo(20, 100), &[0xC0, 2]].concat();
    for data in [&b""[..], b"abc", b"abcde", b"abcdef"] {
        for flags in [0x08, 0x20, 0x28, 0x38, 0x29, 0x68] {
            frames.push(echoing(before(100), flags, 100, &both, data));
        }
    }
    let mut seen = Seen::default();
    begin(Some(&mut seen));
    let mut accepted = 0;
    for frame in &frames {
        let parsed = begin(None).parse(frame.clone(), &streams).ok();
        accepted += usize::from(parsed.is_some());
        seen.frame('?', frame, &streams, shown(parsed.as_ref()));
    }
    assert!(frames.len() - accepted > 90);
    seen.assert_read(&format!("echo-rules-{sent}"), epochs);
    accepted
}
