//! What is encoded: messages from fixed seeds, shaped like the traffic of a leader, and some that share nothing or hurt.
#![allow(dead_code, reason = "every bench uses its own part")]

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{Payload, varint};

/// Messages under a name.
pub(crate) struct Corpus {
    pub(crate) name: String,
    pub(crate) payloads: Vec<Payload>,
    pub(crate) kind: Kind,
}

/// Which promise the corpus is held against.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Equal segments are the same memory.
    Shared,
    /// Nearly the same bytes, each message in memory of its own, 64 KiB and more.
    Near,
    /// Three messages of 4 KiB.
    NearShort,
    /// Five messages of a few bytes.
    Tiny,
    /// Nothing is shared.
    Unrelated,
    /// None in particular.
    Other,
}

/// `len` random bytes.
pub(crate) fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// The fields of a message before its entries, spelled as raftpb does: type, to, from, term, log term, previous index,
/// commit, match.
pub(crate) fn header(kind: usize, to: usize, index: usize, commit: usize, matched: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in [
        (0x08, kind),
        (0x10, to + 1),
        (0x18, 1),
        (0x20, 7),
        (0x28, 7),
        (0x30, index),
        (0x40, commit),
        (0x58, matched),
    ] {
        out.push(tag);
        varint::put(&mut out, value);
    }
    out
}

/// What is in a log entry.
#[derive(Clone, Copy)]
enum Entry {
    Random,
    Json,
    Ycsb,
    Padded,
}

const WORDS: [&str; 24] = [
    "account", "ledger", "pending", "transfer", "balance", "customer", "region", "status", "settled",
    "amount", "invoice", "payment", "order", "shipped", "refund", "created", "updated", "session", "device",
    "network", "quota", "policy", "tenant", "archive",
];

fn text(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < len {
        out.extend_from_slice(WORDS[rng.usize(..WORDS.len())].as_bytes());
        out.push(if rng.u8(..9) == 0 { b'\n' } else { b' ' });
    }
    out.truncate(len);
    out
}

fn json_line(rng: &mut Rng) -> String {
    let word = |rng: &mut Rng| WORDS[rng.usize(..WORDS.len())];
    format!(
        "{{\"id\":{},\"kind\":\"{}\",\"owner\":\"{}-{:08x}\",\"amount\":{}.{:02},\"tags\":[\"{}\",\"{}\"],\"at\":{}}}\n",
        rng.u32(..),
        word(rng),
        word(rng),
        rng.u32(..),
        rng.u32(..100_000),
        rng.u8(..100),
        word(rng),
        word(rng),
        1_700_000_000_000u64 + rng.u64(..1 << 30)
    )
}

impl Entry {
    fn bytes(self, rng: &mut Rng, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < len {
            match self {
                Self::Random => out.extend(random(rng, len)),
                Self::Json => out.extend_from_slice(json_line(rng).as_bytes()),
                // Ten fields of 100 printable characters.
                Self::Ycsb => {
                    for field in 0..10 {
                        out.extend_from_slice(format!("field{field}=").as_bytes());
                        out.extend((0..100).map(|_| rng.u8(32..127)));
                    }
                }
                // Structs of 128 bytes, most of them room for names.
                Self::Padded => {
                    out.extend_from_slice(&rng.u64(..1 << 20).to_le_bytes());
                    out.extend_from_slice(&rng.u32(..9).to_le_bytes());
                    let name = WORDS[rng.usize(..WORDS.len())].as_bytes();
                    out.extend_from_slice(name);
                    out.resize(out.len() + 116 - name.len(), 0);
                }
            }
        }
        out.truncate(len);
        out
    }
}

/// `m` AppendEntries; destination `k` lags by `lag(k)` entries.
struct Append {
    name: &'static str,
    m: usize,
    entries: usize,
    entry_bytes: usize,
    entry: Entry,
    lag: fn(usize) -> usize,
}

impl Append {
    fn payloads(&self, shared: bool) -> Vec<Payload> {
        let mut rng = Rng::with_seed(1);
        let lag_max = (0..self.m).map(self.lag).max().unwrap_or(0);
        let log: Vec<Bytes> = (0..self.entries + lag_max)
            .map(|_| Bytes::from(self.entry.bytes(&mut rng, self.entry_bytes)))
            .collect();
        let message = |to: usize| {
            let behind = (self.lag)(to);
            let own = Bytes::from(header(3, to, 1_000_000 - behind, 999_990, 999_900 + rng.usize(..90)));
            let payload: Payload =
                std::iter::once(own).chain(log[lag_max - behind..].iter().cloned()).collect();
            if shared { payload } else { payload.to_vec().into() }
        };
        (0..self.m).map(message).collect()
    }
}

/// Every corpus, in the order of the table.
pub(crate) fn all() -> Vec<Corpus> {
    let corpus = |name: &str, kind, payloads| Corpus { name: name.to_owned(), payloads, kind };
    let mut all = vec![
        corpus("heartbeats 5 x 40 B", Kind::Tiny, records(5, 1, 40)),
        corpus("5 x 256 B", Kind::Tiny, records(5, 4, 64)),
    ];
    let none = |_: usize| 0;
    let append =
        |name, m, entries, entry_bytes, entry, lag| Append { name, m, entries, entry_bytes, entry, lag };
    for append in [
        append("64 x 1,000 B", 64, 1, 1000, Entry::Random, none),
        append("raft 2 x 1 x 64 KiB", 2, 1, 65_536, Entry::Random, none),
        append("raft 3 x 1 x 4 KiB", 3, 1, 4096, Entry::Random, none),
        append("raft 3 x 1 x 64 KiB", 3, 1, 65_536, Entry::Random, none),
        append("raft 5 x 4 x 1 KiB", 5, 4, 1024, Entry::Random, none),
        append("raft 256 x 1 x 1 KiB", 256, 1, 1024, Entry::Random, none),
        append("raft 5, one laggard by 8", 5, 4, 1024, Entry::Random, |to| if to == 3 { 8 } else { 0 }),
        append("raft 16, nested lags 1 KiB", 16, 4, 1024, Entry::Random, |to| to),
        append("raft 16, nested lags 64 KiB", 16, 4, 65_536, Entry::Random, |to| to),
        append("raft json 5 x 16 x 1 KiB", 5, 16, 1024, Entry::Json, none),
        append("raft ycsb 5 x 16 x 1 KiB", 5, 16, 1024, Entry::Ycsb, none),
        append("raft padded 5 x 16 x 1 KiB", 5, 16, 1024, Entry::Padded, none),
        append("raft json 20, nested lags", 20, 4, 1024, Entry::Json, |to| to),
    ] {
        let near = match (append.m, append.entry_bytes) {
            (3, 4096) => Kind::NearShort,
            (3.., 65_536) => Kind::Near,
            _ => Kind::Other,
        };
        all.push(corpus(&format!("{}, shared", append.name), Kind::Shared, append.payloads(true)));
        all.push(corpus(&format!("{}, copies", append.name), near, append.payloads(false)));
    }
    let mut rng = Rng::with_seed(2);
    let mut unrelated = |m: usize, len: usize, make: fn(&mut Rng, usize) -> Vec<u8>| -> Vec<Payload> {
        (0..m).map(|_| Payload::from(make(&mut rng, len))).collect()
    };
    let other = [
        corpus("bincode structs 20 x 2 KiB", Kind::Other, records(20, 32, 64)),
        corpus(
            "json lines 8 x 8 KiB",
            Kind::Other,
            edited(8, &Entry::Json.bytes(&mut Rng::with_seed(3), 8192), b'\n', |rng| {
                json_line(rng).trim_end().to_owned()
            }),
        ),
        corpus(
            "NUL packets 16 x 2 KiB",
            Kind::Other,
            edited(16, &text(&mut Rng::with_seed(4), 2048), b' ', |rng| {
                WORDS[rng.usize(..WORDS.len())].to_owned()
            }),
        ),
        corpus("unrelated random 4 x 1 KiB", Kind::Unrelated, unrelated(4, 1024, random)),
        corpus("unrelated random 4 x 64 KiB", Kind::Unrelated, unrelated(4, 65_536, random)),
        corpus("unrelated text 4 x 16 KiB", Kind::Unrelated, unrelated(4, 16_384, text)),
        corpus("zeros with marks 5 x 64 KiB", Kind::Other, unrelated(5, 65_536, zeros)),
        corpus("repeated block 5 x 64 KiB", Kind::Other, unrelated(5, 65_536, repeated)),
    ];
    all.extend(other);
    all
}

/// `m` messages of `count` structs of `len` bytes with fields of fixed width, a few of which differ.
fn records(m: usize, count: usize, len: usize) -> Vec<Payload> {
    let mut rng = Rng::with_seed(5);
    let base: Vec<u64> = (0..count).map(|_| rng.u64(..)).collect();
    let message = |to: usize| {
        let mut out = Vec::new();
        for value in &base {
            let end = out.len() + len;
            out.extend_from_slice(&3u32.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
            out.extend_from_slice(&(to as u64).to_le_bytes());
            out.extend_from_slice(&u64::from(rng.u16(..)).to_le_bytes());
            out.extend_from_slice(&7u64.to_le_bytes());
            out.resize(end, 0);
        }
        Payload::from(out)
    };
    (0..m).map(message).collect()
}

/// `m` copies of `base`, whose parts end with NUL or a line feed; in each copy an `other` is in the place of one part in sixteen.
fn edited(m: usize, base: &[u8], separator: u8, other: fn(&mut Rng) -> String) -> Vec<Payload> {
    let mut rng = Rng::with_seed(6);
    let end = if separator == b'\n' { b'\n' } else { 0 };
    let message = |_| {
        let mut out = Vec::new();
        for part in base.split(|byte| *byte == separator) {
            if rng.u8(..16) == 0 {
                out.extend_from_slice(other(&mut rng).as_bytes());
            } else {
                out.extend_from_slice(part);
            }
            out.push(end);
        }
        Payload::from(out)
    };
    (0..m).map(message).collect()
}

fn zeros(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    for _ in 0..40 {
        out[rng.usize(..len)] = rng.u8(..);
    }
    out
}

/// The same 48 bytes again and again, with glue of varying length.
fn repeated(rng: &mut Rng, len: usize) -> Vec<u8> {
    let block = random(&mut Rng::with_seed(7), 48);
    let mut out = Vec::new();
    while out.len() < len {
        out.extend_from_slice(&block);
        out.extend(std::iter::repeat_n(7, rng.usize(..5)));
    }
    out.truncate(len);
    out
}
