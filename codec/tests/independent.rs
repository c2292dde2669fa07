//! A decoder of FORMAT.md in another language, which shares no code with this crate, accepts what it accepts, refuses
//! what it refuses, and reads the same messages. Without python3 these tests say so and pass.
#![allow(
    clippy::duplicate_mod,
    reason = "two modules of tests use the naive reader, and this file both of them"
)]

mod bodies;
mod common;

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use common::{FAMILIES, encoder, family, frame_of, payloads, random, seal};
use fastrand::Rng;
use trunkline_codec::{Frame, Limits, Options, Payload, SessionDecoder, SessionEncoder, Stage};

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
    for ((said, expected), input) in said.lines().zip(expected).zip(input) {
        // A module that reads zstd may be missing there.
        if said.starts_with("skipped zstd: ") {
            eprintln!("{name}: {said}");
            continue;
        }
        let same = if said.starts_with("refused ") { expected == "refused" } else { said == expected };
        assert!(same, "{name}: {input}\nthe crate: {expected}\ndecode.py: {said}");
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
        // Only frames of the stateless kind stand alone.
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
