//! Who is compared: the codec in every stage, compressors on the concatenation of the messages, and plain passes.

use std::collections::HashSet;
use std::hint::black_box;

use bytes::Bytes;
use trunkline_codec::{Encoder, Frame, Limits, Options, Payload, Stage, checksum, varint};
use zstd_safe::{CCtx, CParameter, DCtx};

use crate::corpora::Corpus;
use crate::measure::{Clock, Run};

/// The stages of this build.
pub(crate) const STAGES: &[(&str, Stage)] = &[
    ("codec", Stage::None),
    ("codec + LZ4", Stage::Lz4),
    #[cfg(feature = "zstd")]
    ("codec + zstd", Stage::Zstd),
];

/// zstd as a peer: name, level, long window.
const PEERS: [(&str, i32, bool); 3] =
    [("zstd -1", -1, false), ("zstd -3", -3, false), ("zstd -1 long", -1, true)];

/// One subject of a row. Times are seconds per call.
pub(crate) struct Cell {
    pub(crate) subject: &'static str,
    pub(crate) bytes: usize,
    pub(crate) encode: f64,
    pub(crate) decode: f64,
    /// Decoding to one buffer per message, which is kept, as memcpy's is.
    pub(crate) owned: Option<f64>,
    /// A peer is smaller, beyond 2 %, and encodes faster: its name.
    pub(crate) beaten_by: Option<&'static str>,
}

/// One corpus, measured.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) m: usize,
    pub(crate) input_bytes: usize,
    pub(crate) segments: usize,
    pub(crate) pieces: usize,
    pub(crate) memcpy: f64,
    pub(crate) memcmp: f64,
    /// CRC32C over the bytes at distinct addresses.
    pub(crate) crc: f64,
    /// CRC32C over the frame without a stage.
    pub(crate) crc_frame: f64,
    pub(crate) cells: Vec<Cell>,
}

impl Row {
    pub(crate) fn cell(&self, subject: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.subject == subject)
    }
}

/// The messages one after another.
pub(crate) fn join(payloads: &[Payload], out: &mut Vec<u8>) {
    out.clear();
    for segment in payloads.iter().flat_map(Payload::segments) {
        out.extend_from_slice(segment);
    }
}

/// Looks at every piece without owning it, as whoever reads a message does; a stream's peer gets no more.
pub(crate) fn look_at(frame: &Frame) {
    for index in 0..frame.message_count() {
        frame.slices(index).for_each(|piece| {
            black_box(piece);
        });
    }
}

/// Takes every piece, as whoever passes them on does.
pub(crate) fn read(frame: &Frame) {
    for index in 0..frame.message_count() {
        frame.message(index).for_each(|piece| {
            // Not the handle itself: to store it in two halves and load it whole takes longer than all the rest.
            black_box((piece.as_ptr(), piece.len()));
        });
    }
}

fn parameters(level: i32, long: bool) -> Vec<CParameter> {
    let mut all = vec![CParameter::CompressionLevel(level)];
    if long {
        all.extend([CParameter::EnableLongDistanceMatching(true), CParameter::WindowLog(27)]);
    }
    all
}

fn compressor(level: i32, long: bool) -> CCtx<'static> {
    let mut context = CCtx::create();
    for parameter in parameters(level, long) {
        context.set_parameter(parameter).expect("a valid parameter");
    }
    context
}

/// Measures every subject on `corpus`, in turns.
pub(crate) fn measure(corpus: &Corpus, clock: &Clock) -> Row {
    let payloads = &corpus.payloads;
    let mut joined = Vec::new();
    join(payloads, &mut joined);
    let copy = joined.clone();
    let input_bytes = joined.len();
    // What a peer needs beside its block, to find the messages again: their number and lengths.
    let mut framing = Vec::new();
    varint::put(&mut framing, payloads.len());
    payloads.iter().for_each(|payload| varint::put(&mut framing, payload.len()));
    let framing = framing.len();
    let mut seen = HashSet::new();
    let segments: Vec<&Bytes> = payloads.iter().flat_map(Payload::segments).collect();
    let unique: Vec<&Bytes> =
        segments.iter().copied().filter(|part| seen.insert((part.as_ptr(), part.len()))).collect();

    let joined = &joined;
    let mut target = vec![0; input_bytes];
    let mut runs: Vec<Run<'_>> = vec![
        Box::new(move || target.copy_from_slice(black_box(joined))),
        Box::new(|| {
            black_box(black_box(joined) == black_box(&copy));
        }),
        Box::new(|| {
            black_box(unique.iter().fold(0, |crc, part| checksum::append(crc, part)));
        }),
    ];
    let mut sizes = Vec::new();
    let mut pieces = 0;
    let mut plain = Bytes::new();
    for &(name, stage) in STAGES {
        let mut encoder = Encoder::new(Options { stage, seed: Some(1), ..Options::default() });
        let bytes = encoder.encode(payloads).expect("within limits").to_bytes();
        let frame = Frame::parse(bytes.clone(), &Limits::default()).expect("own frame");
        for (index, payload) in payloads.iter().enumerate() {
            assert!(frame.to_vec(index) == payload.to_vec(), "{}: message {index}", corpus.name);
        }
        sizes.push((name, bytes.len()));
        if stage == Stage::None {
            pieces = (0..payloads.len()).map(|index| frame.message(index).len()).sum();
            plain = bytes.clone();
        }
        let again = bytes.clone();
        let mut buffers = vec![Vec::new(); payloads.len()];
        runs.push(Box::new(move || drop(black_box(encoder.encode(black_box(payloads))))));
        runs.push(Box::new(move || {
            read(&Frame::parse(black_box(&bytes).clone(), &Limits::default()).expect("own frame"));
        }));
        runs.push(Box::new(move || {
            let frame = Frame::parse(black_box(&again).clone(), &Limits::default()).expect("own frame");
            for (index, buffer) in buffers.iter_mut().enumerate() {
                buffer.clear();
                frame.copy_to(index, buffer);
                black_box(&buffer);
            }
        }));
    }
    {
        let block = lz4_flex::block::compress(joined);
        sizes.push(("lz4_flex", block.len() + framing));
        let (mut input, mut out) =
            (Vec::new(), vec![0; lz4_flex::block::get_maximum_output_size(input_bytes)]);
        runs.push(Box::new(move || {
            join(black_box(payloads), &mut input);
            let _ = black_box(lz4_flex::block::compress_into(&input, &mut out));
        }));
        let mut out = vec![0; input_bytes];
        runs.push(Box::new(move || {
            let _ = black_box(lz4_flex::block::decompress_into(black_box(&block), &mut out));
        }));
    }
    for (name, level, long) in PEERS {
        let mut context = compressor(level, long);
        let mut out = vec![0; zstd_safe::compress_bound(input_bytes)];
        let bytes = context.compress2(&mut out[..], joined).expect("room enough");
        let block = out[..bytes].to_vec();
        sizes.push((name, bytes + framing));
        let mut input = Vec::new();
        runs.push(Box::new(move || {
            join(black_box(payloads), &mut input);
            let _ = black_box(context.compress2(&mut out[..], &input));
        }));
        let (mut context, mut out) = (DCtx::create(), vec![0; input_bytes]);
        runs.push(Box::new(move || {
            let _ = black_box(context.decompress(&mut out[..], black_box(&block)));
        }));
    }
    runs.push(Box::new(move || {
        black_box(checksum::crc32c(black_box(&plain)));
    }));

    let times = clock.medians(runs);
    let mut rest = times[3..].iter().copied();
    let mut next = || rest.next().expect("one time per run");
    let mut cells = Vec::new();
    for (index, &(subject, bytes)) in sizes.iter().enumerate() {
        let (encode, decode) = (next(), next());
        let owned = (index < STAGES.len()).then(&mut next);
        cells.push(Cell { subject, bytes, encode, decode, owned, beaten_by: None });
    }
    let crc_frame = next();
    mark(&mut cells);
    Row {
        name: corpus.name.clone(),
        m: payloads.len(),
        input_bytes,
        segments: segments.len(),
        pieces,
        memcpy: times[0],
        memcmp: times[1],
        crc: times[2],
        crc_frame,
        cells,
    }
}

/// Says at each stage which peer of its kind wins on both sides.
fn mark(cells: &mut [Cell]) {
    let known: Vec<(&'static str, usize, f64)> =
        cells.iter().map(|cell| (cell.subject, cell.bytes, cell.encode)).collect();
    for cell in cells {
        let peer = match cell.subject {
            "codec + LZ4" => "lz4",
            "codec + zstd" => "zstd",
            _ => continue,
        };
        let wins = |&&(name, bytes, encode): &&(&'static str, usize, f64)| {
            name.starts_with(peer) && bytes * 102 < cell.bytes * 100 && encode < cell.encode
        };
        cell.beaten_by = known.iter().find(wins).map(|known| known.0);
    }
}
