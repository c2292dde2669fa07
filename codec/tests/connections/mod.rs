//! Vectors of connections: files of `tests/vectors` that begin with their epochs and list frames of both directions.
//!
//! ```text
//! epochs 3 4              of what the first end sends, and of what the second one sends
//! > 1-5,9                 a frame of the first end (<: of the second one) and the streams of its messages
//! frame f501
//! message 00*256 0a       a message each, in their order
//! <? 7                    a frame that is refused in place of the next one, for what it refers to
//! frame f501
//! ```
//!
//! Frames stand in the order in which they were sent. What had arrived by then they say themselves, so the order in which
//! they arrived is of no account. Bytes are hex; `00*256` is a byte and how often it comes.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Fewer equal bytes are written one by one.
const REPEATED_MIN: usize = 8;

/// The frames of a connection.
pub(crate) struct Connection {
    /// Of what each end sends.
    pub(crate) epochs: [u64; 2],
    pub(crate) frames: Vec<Sent>,
}

/// One of them.
pub(crate) struct Sent {
    /// The end that sends it, 0 or 1.
    pub(crate) from: usize,
    pub(crate) streams: Vec<u32>,
    pub(crate) bytes: Bytes,
    /// What it says; none where it is refused.
    pub(crate) messages: Option<Vec<Vec<u8>>>,
}

impl Sent {
    pub(crate) fn has_flag(&self, flag: u8) -> bool {
        self.bytes[2] & flag != 0
    }
}

impl Connection {
    /// What a file says; none if it is of another kind.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut epochs = None;
        let mut frames: Vec<Sent> = Vec::new();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "epochs" => {
                    let (one, two) = rest.split_once(' ').unwrap();
                    epochs = Some([one, two].map(|epoch| epoch.parse().unwrap()));
                }
                ">" | "<" | ">?" | "<?" => frames.push(Sent {
                    from: usize::from(word.starts_with('<')),
                    streams: unlist(rest),
                    bytes: Bytes::new(),
                    messages: (word.len() == 1).then(Vec::new),
                }),
                "frame" if epochs.is_some() => frames.last_mut().unwrap().bytes = unhex(rest).into(),
                "message" if epochs.is_some() => {
                    frames.last_mut().unwrap().messages.as_mut().unwrap().push(unhex(rest));
                }
                _ => assert!(epochs.is_none() || word == "#" || word.is_empty(), "{line}"),
            }
        }
        Some(Self { epochs: epochs?, frames })
    }

    /// The file that says so.
    pub(crate) fn write(&self, comment: &str) -> String {
        let mut text = format!("# {comment}\nepochs {} {}\n", self.epochs[0], self.epochs[1]);
        let mut line = |word: &str, rest: &str| {
            let _ = writeln!(text, "{}", format!("{word} {rest}").trim_end());
        };
        for frame in &self.frames {
            let refused = if frame.messages.is_none() { "?" } else { "" };
            line(&format!("{}{refused}", ['>', '<'][frame.from]), &list(&frame.streams));
            line("frame", &hex(&frame.bytes));
            for message in frame.messages.iter().flatten() {
                line("message", &hex(message));
            }
        }
        text
    }
}

/// Where vectors are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Every connection among the vectors, with its name.
pub(crate) fn all() -> Vec<(String, Connection)> {
    let paths = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<(String, Connection)> = paths
        .filter_map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Some((name, Connection::read(&fs::read_to_string(path).unwrap())?))
        })
        .collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

/// Numbers as they are, or the first and the last of a row.
fn list(numbers: &[u32]) -> String {
    let rows = numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let row = |row: &[u32]| match row {
        [one] => one.to_string(),
        row => format!("{}-{}", row[0], row[row.len() - 1]),
    };
    rows.map(row).collect::<Vec<_>>().join(",")
}

fn unlist(text: &str) -> Vec<u32> {
    let row = |row: &str| {
        let (first, last) = row.split_once('-').unwrap_or((row, row));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    };
    text.split(',').flat_map(row).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for row in bytes.chunk_by(|one, next| one == next) {
        if row.len() >= REPEATED_MIN {
            let _ = write!(out, " {:02x}*{} ", row[0], row.len());
        } else {
            row.iter().for_each(|byte| {
                let _ = write!(out, "{byte:02x}");
            });
        }
    }
    out.trim().replace("  ", " ")
}

fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let some: Vec<u8> = (0..digits.len()).step_by(2).map(digit).collect();
        bytes.extend(some.repeat(times.parse().unwrap()));
    }
    bytes
}
