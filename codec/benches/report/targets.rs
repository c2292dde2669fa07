//! What was promised of each corpus, and whether this run keeps it.

use crate::corpora::{Corpus, Kind};
use crate::sessions::{SessionCell, SessionRow};
use crate::subjects::Row;

/// One promise against what was measured.
pub(crate) struct Target {
    pub(crate) corpus: String,
    pub(crate) what: &'static str,
    pub(crate) measured: f64,
    pub(crate) wanted: f64,
    pub(crate) at_least: bool,
    /// What the target leaves, where it asks for more than others of its line.
    pub(crate) leaves: Option<Leaves>,
}

/// What decoding to kept buffers may take, if it is to take twice as long as a memcpy of as much. Nanoseconds.
pub(crate) struct Leaves {
    pub(crate) all: f64,
    /// Of that, one memcpy and the checksum of the frame.
    pub(crate) spent: f64,
    pub(crate) pieces: usize,
}

impl Leaves {
    /// For finding, checking and copying each piece, beside its bytes.
    pub(crate) fn per_piece(&self) -> f64 {
        (self.all - self.spent) / self.pieces as f64
    }
}

impl Target {
    pub(crate) fn met(&self) -> bool {
        if self.at_least { self.measured >= self.wanted } else { self.measured <= self.wanted }
    }
}

/// The promises that `corpus` is held against.
pub(crate) fn of(corpus: &Corpus, row: &Row) -> Vec<Target> {
    let target = |what, measured, wanted, at_least| Target {
        corpus: row.name.clone(),
        what,
        measured,
        wanted,
        at_least,
        leaves: None,
    };
    let cell = |subject| row.cell(subject).expect("every row has it");
    let codec = cell("codec");
    let us = 1e6;
    let mut all = Vec::new();
    match corpus.kind {
        Kind::Shared => {
            let wanted = 1.3 * row.crc + 150e-9 * row.segments as f64;
            all.push(target(
                "encode, us: 1.3 x CRC32C + 150 ns per segment",
                codec.encode * us,
                wanted * us,
                false,
            ));
        }
        Kind::Near => all.push(target("encode over memcmp", row.memcmp / codec.encode, 0.4, true)),
        Kind::NearShort => all.push(target("encode, us", codec.encode * us, 2.0, false)),
        Kind::Tiny => all.push(target("encode, us", codec.encode * us, 1.0, false)),
        Kind::Unrelated => {
            let lz4 = cell("lz4_flex");
            all.push(target("encode over lz4_flex", lz4.encode / codec.encode, 1.0, true));
            all.push(target(
                "encode + LZ4 over lz4_flex",
                lz4.encode / cell("codec + LZ4").encode,
                0.9,
                true,
            ));
            if let Some(staged) = row.cell("codec + zstd") {
                let speed = cell("zstd -1").encode / staged.encode;
                all.push(target("encode + zstd over zstd -1", speed, 0.9, true));
            }
        }
        Kind::Other => {}
    }
    for cell in row.cells.iter().filter(|cell| cell.subject.starts_with("codec +")) {
        let beaten = f64::from(u8::from(cell.beaten_by.is_some()));
        all.push(target("peers that are smaller and faster, by stage", beaten, 0.0, false));
    }
    let wanted = row.crc_frame + 40e-9 * row.pieces as f64;
    all.push(target(
        "decode, us: CRC32C of the frame + 40 ns per piece",
        codec.decode * us,
        wanted * us,
        false,
    ));
    if let Some(owned) = codec.owned {
        let ns = 1e9;
        let (all_ns, spent) = (2.0 * row.memcpy * ns, (row.memcpy + row.crc_frame) * ns);
        all.push(Target {
            leaves: Some(Leaves { all: all_ns, spent, pieces: row.pieces }),
            ..target("decode to kept buffers over memcpy", row.memcpy / owned, 0.5, true)
        });
    }
    all
}

/// The promises of a session: no larger than the stream and three times as fast.
pub(crate) fn of_session(row: &SessionRow) -> Vec<Target> {
    let find = |subject| row.cells.iter().find(|cell| cell.subject == subject).expect("every row has it");
    let (session, stream) = (find("session"), find("zstd -1 stream"));
    let encode = |cell: &SessionCell| cell.encode.expect("both ends of it are measured");
    let target = |what, measured, wanted, at_least| Target {
        corpus: row.name.clone(),
        what,
        measured,
        wanted,
        at_least,
        leaves: None,
    };
    vec![
        target("bytes over the stream's", session.bytes as f64 / stream.bytes as f64, 1.0, false),
        target("encode over the stream's", encode(stream) / encode(session), 3.0, true),
        target("decode over the stream's", stream.decode / session.decode, 3.0, true),
    ]
}
