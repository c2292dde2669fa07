//! Frames that every later release decodes. A vector is a text file: comments, the frame and its messages in hex.
//!
//! Vectors are never edited. `WRITE_VECTORS=1 cargo test -p trunkline-codec --features zstd --test vectors` writes those
//! that do not exist yet; a version that encodes better leaves the old ones and adds its own under new names.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{encoder, family, payloads};
use fastrand::Rng;
use trunkline_codec::{DecodeError, Frame, Limits, Payload, Stage};

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

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

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
        let (frame, expected) = read(&fs::read_to_string(&path).unwrap());
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
