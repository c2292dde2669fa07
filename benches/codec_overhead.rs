//! What the codec costs and saves beside plain concatenation, LZ4 of the concatenation and memcpy.
//!
//! Every corpus comes from a fixed seed. All competitors work on the same messages in the same run, in turns, and the
//! medians are shown: other processes disturb all of them alike.
//!
//! ```text
//! cargo bench --bench codec_overhead                  # everything
//! cargo bench --bench codec_overhead -- heartbeats    # corpora whose name contains the word
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{Encoder, Frame, Limits, Options, Payload, Stage, varint};

/// Time per competitor and corpus, split over the rounds.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(12);

struct Corpus {
    name: &'static str,
    payloads: Vec<Payload>,
}

/// One row's measurements, medians over the rounds.
struct Row {
    name: &'static str,
    destinations: usize,
    input_bytes: usize,
    cells: Vec<Cell>,
    memcpy_gbs: f64,
}

struct Cell {
    method: &'static str,
    frame_bytes: usize,
    encode_gbs: f64,
    decode_gbs: f64,
}

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// The fields of an AppendEntries message before its entries, spelled as raftpb does.
fn header(rng: &mut Rng, to: u64, index: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in [
        (0x08, 3),
        (0x10, to + 1),
        (0x18, 1),
        (0x20, 7),
        (0x28, 7),
        (0x30, index),
        (0x40, 1_000_000),
        (0x50, 0),
        (0x58, u64::from(rng.u32(1..90))),
    ] {
        out.push(tag);
        varint::put(&mut out, usize::try_from(value).expect("small"));
    }
    out
}

/// `count` AppendEntries of `entries` entries each; destination `k` lags by `lag(k)` entries.
fn append_entries(
    seed: u64,
    count: u64,
    entries: usize,
    entry_bytes: usize,
    shared: bool,
    lag: impl Fn(u64) -> u64,
) -> Vec<Payload> {
    let mut rng = Rng::with_seed(seed);
    let lag = |to: u64| usize::try_from(lag(to)).expect("a small number");
    let lag_max = (0..count).map(&lag).max().unwrap_or(0);
    let log: Vec<Bytes> =
        (0..entries + lag_max).map(|_| Bytes::from(random(&mut rng, entry_bytes))).collect();
    (0..count)
        .map(|to| {
            let behind = lag(to);
            let own = header(&mut rng, to, 1_000_000 - behind as u64);
            let sent = log[lag_max - behind..].iter();
            if shared {
                std::iter::once(Bytes::from(own)).chain(sent.cloned()).collect()
            } else {
                let mut bytes = own;
                sent.for_each(|entry| bytes.extend_from_slice(entry));
                Payload::from(bytes)
            }
        })
        .collect()
}

fn corpora() -> Vec<Corpus> {
    let corpus = |name, payloads| Corpus { name, payloads };
    let none = |_: u64| 0;
    let one_laggard = |to: u64| if to == 3 { 8 } else { 0 };
    let mut rng = Rng::with_seed(9);
    vec![
        corpus("heartbeats, 5", append_entries(1, 5, 0, 0, false, none)),
        corpus("entries 4 x 1 KiB, shared, 5", append_entries(2, 5, 4, 1024, true, none)),
        corpus("entries 4 x 1 KiB, copies, 5", append_entries(2, 5, 4, 1024, false, none)),
        corpus("entries 16 x 4 KiB, shared, 5", append_entries(3, 5, 16, 4096, true, none)),
        corpus("entries 16 x 4 KiB, copies, 5", append_entries(3, 5, 16, 4096, false, none)),
        corpus("one laggard, shared, 5", append_entries(4, 5, 4, 1024, true, one_laggard)),
        corpus("one laggard, copies, 5", append_entries(4, 5, 4, 1024, false, one_laggard)),
        corpus("entry 1,000 B, copies, 64", append_entries(5, 64, 1, 1000, false, none)),
        corpus("entry 1,000 B, shared, 64", append_entries(5, 64, 1, 1000, true, none)),
        corpus("nested lags 64 KiB, copies, 16", append_entries(6, 16, 4, 65_536, false, |to| to)),
        corpus("nested lags 64 KiB, shared, 16", append_entries(6, 16, 4, 65_536, true, |to| to)),
        corpus(
            "unrelated random 64 KiB, 5",
            (0..5).map(|_| Payload::from(random(&mut rng, 65_536))).collect(),
        ),
        corpus("unrelated random 1 KiB, 5", (0..5).map(|_| Payload::from(random(&mut rng, 1024))).collect()),
    ]
}

/// Something that is measured: called until the round is over.
struct Bench<'a> {
    run: Box<dyn FnMut() + 'a>,
    samples: Vec<f64>,
}

impl<'a> Bench<'a> {
    fn new(run: impl FnMut() + 'a) -> Self {
        Self { run: Box::new(run), samples: Vec::new() }
    }

    /// Seconds per call in one round.
    fn round(&mut self) {
        let begin = Instant::now();
        let mut calls = 0u32;
        let mut batch = 1;
        while begin.elapsed() < ROUND {
            (0..batch).for_each(|_| (self.run)());
            calls += batch;
            batch = (calls / 8).clamp(1, 64);
        }
        self.samples.push(begin.elapsed().as_secs_f64() / f64::from(calls));
    }

    fn median(mut self) -> f64 {
        self.samples.sort_by(f64::total_cmp);
        self.samples[self.samples.len() / 2]
    }
}

fn concatenation(payloads: &[Payload], out: &mut Vec<u8>) {
    out.clear();
    for segment in payloads.iter().flat_map(Payload::segments) {
        out.extend_from_slice(segment);
    }
}

fn measure(corpus: &Corpus) -> Row {
    let payloads = &corpus.payloads;
    let input_bytes: usize = payloads.iter().map(Payload::len).sum();
    let limits = Limits::default();
    let options = |stage| Options { stage, seed: Some(1), ..Options::default() };
    let (mut plain, mut staged) = (Encoder::new(options(Stage::None)), Encoder::new(options(Stage::Lz4)));
    let frame_plain = plain.encode(payloads).expect("within limits").to_bytes();
    let frame_staged = staged.encode(payloads).expect("within limits").to_bytes();
    let mut joined = Vec::new();
    concatenation(payloads, &mut joined);
    let lz4 = lz4_flex::block::compress(&joined);
    let prefix_bytes = 4 * payloads.len();

    let (mut out_concat, mut out_lz4_in, mut out_copy) = (Vec::new(), Vec::new(), vec![0; input_bytes]);
    let mut out_lz4 = vec![0; lz4_flex::block::get_maximum_output_size(input_bytes)];
    let mut out_expanded = vec![0; input_bytes];
    let decode = |frame: &Bytes| {
        let frame = Frame::parse(frame.clone(), &limits).expect("own frame");
        for index in 0..frame.message_count() {
            frame.message(index).for_each(|piece| drop(black_box(piece)));
        }
    };
    let mut benches = vec![
        Bench::new(|| out_copy.copy_from_slice(black_box(&joined))),
        Bench::new(|| drop(black_box(plain.encode(black_box(payloads))))),
        Bench::new(|| decode(black_box(&frame_plain))),
        Bench::new(|| drop(black_box(staged.encode(black_box(payloads))))),
        Bench::new(|| decode(black_box(&frame_staged))),
        Bench::new(|| concatenation(black_box(payloads), &mut out_concat)),
        Bench::new(|| {
            concatenation(black_box(payloads), &mut out_lz4_in);
            let _ = black_box(lz4_flex::block::compress_into(&out_lz4_in, &mut out_lz4));
        }),
        Bench::new(|| {
            let _ = black_box(lz4_flex::block::decompress_into(black_box(&lz4), &mut out_expanded));
        }),
    ];
    for _ in 0..ROUNDS {
        benches.iter_mut().for_each(Bench::round);
    }
    let gbs: Vec<f64> = benches.into_iter().map(|bench| input_bytes as f64 / bench.median() / 1e9).collect();
    let cell =
        |method, frame_bytes, encode_gbs, decode_gbs| Cell { method, frame_bytes, encode_gbs, decode_gbs };
    Row {
        name: corpus.name,
        destinations: payloads.len(),
        input_bytes,
        memcpy_gbs: gbs[0],
        cells: vec![
            cell("codec", frame_plain.len(), gbs[1], gbs[2]),
            cell("codec + LZ4", frame_staged.len(), gbs[3], gbs[4]),
            cell("concatenation", input_bytes + prefix_bytes, gbs[5], f64::NAN),
            cell("LZ4 of it", lz4.len() + prefix_bytes, gbs[6], gbs[7]),
        ],
    }
}

fn main() {
    println!(
        "Speeds are GB (10^9 bytes) of input per second, one thread, medians of {ROUNDS} interleaved rounds."
    );
    println!(
        "'over' is the frame's length less that of the longest message, per destination. A concatenation is"
    );
    println!("given 4 bytes of length per message, and costs nothing to decode. x is the ratio to memcpy.\n");
    println!(
        "{:<31} {:>3} {:>10}  {:<13} {:>10} {:>8} {:>8} {:>6} {:>8} {:>6} {:>9}",
        "corpus", "m", "input B", "method", "frame B", "over B", "enc GB/s", "x", "dec GB/s", "x", "enc us"
    );
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for corpus in corpora() {
        if !wanted.is_empty() && !wanted.iter().any(|word| corpus.name.contains(word)) {
            continue;
        }
        let row = measure(&corpus);
        let longest = corpus.payloads.iter().map(Payload::len).max().unwrap_or(0);
        for (index, cell) in row.cells.iter().enumerate() {
            let name = if index == 0 { row.name } else { "" };
            let over = (cell.frame_bytes as f64 - longest as f64) / row.destinations as f64;
            let decode = |value: f64| if value.is_nan() { String::from("-") } else { format!("{value:.2}") };
            println!(
                "{name:<31} {:>3} {:>10}  {:<13} {:>10} {:>8.1} {:>8.2} {:>6.2} {:>8} {:>6} {:>9.2}",
                row.destinations,
                row.input_bytes,
                cell.method,
                cell.frame_bytes,
                over,
                cell.encode_gbs,
                cell.encode_gbs / row.memcpy_gbs,
                decode(cell.decode_gbs),
                decode(cell.decode_gbs / row.memcpy_gbs),
                row.input_bytes as f64 / cell.encode_gbs / 1e3,
            );
        }
    }
}
