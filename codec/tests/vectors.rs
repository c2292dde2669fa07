//! Frames that every later release decodes. A vector is a text file: comments, the frame and its messages in hex; or the
//! frames of a connection, as `connections/mod.rs` explains.
//!
//! Vectors are never edited. `WRITE_VECTORS=1 cargo test -p trunkline-codec --features zstd --test vectors` writes those
//! that do not exist yet; a version that encodes better leaves the old ones and adds its own under new names.

#[path = "connections/by_encoder.rs"]
mod by_encoder;
#[path = "connections/by_hand.rs"]
mod by_hand;
mod common;
mod connections;

use std::fmt::Write as _;
use std::fs;

use bytes::Bytes;
use common::{encoder, family, payloads};
use connections::{Connection, directory};
use fastrand::Rng;
use trunkline_codec::{DecodeError, Epochs, Frame, Limits, Options, Payload, Session, SessionDecoder, Stage};

/// What the encoder with seed 7 is expected to still write: name, family, destinations, length, stage.
const WRITTEN: [(&str, usize, usize, usize, Stage); 12] = [
    ("v1-one-message", 7, 1, 60, Stage::None),
    ("v1-all-empty", 10, 3, 0, Stage::None),
    ("v1-headers-5", 1, 5, 80, Stage::None),
    ("v1-headers-70", 1, 70, 40, Stage::None),
    ("v1-edits", 0, 6, 300, Stage::None),
    ("v1-lags", 2, 12, 400, Stage::None),
    ("v1-unrelated", 7, 4, 60, Stage::None),
    ("v1-two-groups", 9, 30, 50, Stage::None),
    ("v1-few-short", 10, 200, 4, Stage::None),
    ("v1-strings-lz4", 8, 4, 200, Stage::Lz4),
    ("v1-zeros-lz4", 3, 3, 500, Stage::Lz4),
    ("v1-repeats-lz4", 4, 3, 500, Stage::Lz4),
];

/// The same for encoders with zstd.
#[cfg(feature = "zstd")]
const WRITTEN_ZSTD: [(&str, usize, usize, usize, Stage); 3] = [
    ("v1-strings-zstd", 8, 4, 200, Stage::Zstd),
    ("v1-zeros-zstd", 3, 3, 500, Stage::Zstd),
    ("v1-repeats-zstd", 4, 3, 500, Stage::Zstd),
];
#[cfg(not(feature = "zstd"))]
const WRITTEN_ZSTD: [(&str, usize, usize, usize, Stage); 0] = [];

fn messages(kind: usize, count: usize, len: usize) -> Vec<Payload> {
    let mut rng = Rng::with_seed(2026);
    let messages = family(kind, &mut rng, count, len);
    payloads(&mut rng, &messages)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The frame and the messages of a vector's text.
fn read(text: &str) -> (Bytes, Vec<Bytes>) {
    let of = |kind: &'static str| {
        text.lines().filter_map(move |line| line.strip_prefix(kind)).map(|hex| unhex(hex.trim()))
    };
    let frame = of("frame").next().expect("a vector has a frame");
    (frame, of("message").collect())
}

#[test]
fn vectors_decode_forever() {
    let mut count = 0;
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if Connection::read(&text).is_some() {
            continue;
        }
        let (frame, expected) = read(&text);
        let frame = Frame::parse(frame, &Limits::default());
        if !cfg!(feature = "zstd") && path.to_string_lossy().ends_with("-zstd.txt") {
            assert!(matches!(frame, Err(DecodeError::Unsupported { offset: 2, .. })), "{}", path.display());
            continue;
        }
        let frame = frame.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(frame.message_count(), expected.len(), "{}", path.display());
        for (index, message) in expected.iter().enumerate() {
            assert_eq!(frame.to_vec(index), message[..], "{}, message {index}", path.display());
        }
        count += 1;
    }
    assert!(count >= WRITTEN.len(), "vectors are missing");
}

/// A vector that was edited, or written anew after a change of the format, still decodes. That it is the one that earlier
/// builds wrote, its checksum in `vectors.crc32c` says.
#[test]
fn no_vector_was_edited() {
    let mut lines: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let checksum = crc32c::crc32c(&fs::read(&path).unwrap());
            format!("{checksum:08x} {}\n", path.file_name().unwrap().to_str().unwrap())
        })
        .collect();
    lines.sort_by(|one, other| one[9..].cmp(&other[9..]));
    let written = lines.concat();
    assert!(written == include_str!("vectors.crc32c"), "the vectors have these checksums:\n{written}");
}

#[test]
fn the_encoder_still_writes_the_vectors() {
    for (name, kind, count, len, stage) in WRITTEN.into_iter().chain(WRITTEN_ZSTD) {
        let messages = messages(kind, count, len);
        let frame = encoder(stage).encode(&messages).unwrap().to_bytes();
        let path = directory().join(name).with_extension("txt");
        if !path.exists() && std::env::var_os("WRITE_VECTORS").is_some() {
            let mut text = format!(
                "# {count} messages of family {kind}, length {len}, {stage:?}, seed 7\nframe {}\n",
                hex(&frame)
            );
            for message in &messages {
                let line = format!("message {}", hex(&message.to_vec()));
                let _ = writeln!(text, "{}", line.trim_end());
            }
            fs::write(&path, text).unwrap();
        }
        let (expected, _) = read(&fs::read_to_string(&path).unwrap());
        assert_eq!(hex(&frame), hex(&expected), "{name}");
    }
}

const FLAG_CONCAT: u8 = 0x01;
const FLAG_ZSTD: u8 = 0x04;
const FLAG_ECHO: u8 = 0x20;

/// The data column of a frame without a second stage.
fn column(frame: &[u8]) -> &[u8] {
    let (flags, mut rest) = (frame[2], &frame[3..frame.len() - 4]);
    let integer = |rest: &mut &[u8]| {
        let len = 1 + rest.iter().position(|byte| byte & 0x80 == 0).unwrap();
        let (integer, behind) = rest.split_at(len);
        *rest = behind;
        integer.iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7F))
    };
    let count = integer(&mut rest);
    if flags & FLAG_ECHO != 0 {
        integer(&mut rest);
    }
    if flags & FLAG_CONCAT != 0 {
        for _ in 0..count {
            integer(&mut rest);
        }
        return rest;
    }
    let head = integer(&mut rest);
    &rest[head..]
}

/// Both ends of a connection, and for each direction a receiver that sends nothing.
struct Ends {
    sessions: [Session; 2],
    /// Until the direction refers to what was sent.
    alone: [Option<SessionDecoder>; 2],
}

impl Ends {
    fn new(epochs: [u64; 2]) -> Self {
        let session =
            |outgoing: u64, incoming: u64| Session::new(Options::default(), Epochs { incoming, outgoing });
        Self {
            sessions: [session(epochs[0], epochs[1]), session(epochs[1], epochs[0])],
            alone: epochs.map(|epoch| Some(SessionDecoder::new(Limits::default(), epoch))),
        }
    }

    /// The frame is sent and arrives.
    fn pass(&mut self, frame: &connections::Sent) -> Result<Vec<Vec<u8>>, DecodeError> {
        let messages =
            |frame: &Frame| (0..frame.message_count()).map(|index| frame.to_vec(index)).collect::<Vec<_>>();
        let to = 1 - frame.from;
        let written = self.sessions[to].reserialise(frame.bytes.clone(), &frame.streams);
        let parsed = self.sessions[to].parse(frame.bytes.clone(), &frame.streams)?;
        let alone = self.alone[frame.from].take();
        if let Some(mut alone) = alone {
            let read = alone.parse(frame.bytes.clone(), &frame.streams);
            if frame.has_flag(FLAG_ECHO) {
                assert!(matches!(read, Err(DecodeError::Unsupported { .. })), "{read:?}");
            } else {
                assert!(messages(&read.unwrap()) == messages(&parsed));
                self.alone[frame.from] = Some(alone);
            }
        }
        // What an encoder chooses must not matter, and yet the end has sent it.
        if !parsed.is_unremembered() {
            let (written, checksum) = (written.unwrap(), frame.bytes.last_chunk().unwrap());
            let column = Bytes::copy_from_slice(column(&written));
            self.sessions[frame.from].note_sent(column, u32::from_le_bytes(*checksum));
        }
        Ok(messages(&parsed))
    }
}

#[test]
fn connections_decode_forever() {
    let connections = connections::all();
    assert!(connections.len() >= 11, "vectors are missing");
    for (name, connection) in connections {
        let after = |count: usize| {
            let mut ends = Ends::new(connection.epochs);
            for frame in connection.frames[..count].iter().filter(|frame| frame.messages.is_some()) {
                ends.pass(frame).unwrap();
            }
            ends
        };
        let mut ends = after(0);
        for (index, frame) in connection.frames.iter().enumerate() {
            let what = format!("{name}, frame {index}");
            let Some(messages) = &frame.messages else {
                let read = after(index).pass(frame);
                let refused =
                    matches!(read, Err(DecodeError::Reference { .. } | DecodeError::Arrived { .. }));
                assert!(refused, "{what}: {read:?}");
                continue;
            };
            let read = ends.pass(frame);
            if !cfg!(feature = "zstd") && frame.has_flag(FLAG_ZSTD) {
                assert!(matches!(read, Err(DecodeError::Unsupported { offset: 2, .. })), "{what}: {read:?}");
                break;
            }
            let read = read.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(read == *messages, "{what}");
        }
    }
}

fn assert_written(all: Vec<(&str, &str, Connection)>) {
    for (name, comment, connection) in all {
        let path = directory().join(name).with_extension("txt");
        let text = connection.write(comment);
        if !path.exists() && std::env::var_os("WRITE_VECTORS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        let differs = text.lines().zip(expected.lines()).position(|(one, other)| one != other);
        assert!(text == expected, "{name}, line {:?}", differs.map(|line| line + 1));
    }
}

#[test]
fn the_encoder_still_writes_the_connections() {
    assert_written(by_encoder::connections());
}

#[test]
fn connections_written_by_hand_are_what_is_said_of_them() {
    assert_written(by_hand::connections());
}
