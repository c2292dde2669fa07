//! Encoding and decoding of a handful of corpora, for comparing a change with what was before it. How the codec does
//! beside its peers is the matter of `report`.
//!
//! ```text
//! cargo bench -p trunkline-codec --bench codec -- --save-baseline before
//! cargo bench -p trunkline-codec --bench codec -- --baseline before
//! ... -- --quick            rough
//! ... -- encode             only what has the word in its name
//! ```

mod corpora;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use corpora::Corpus;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use trunkline_codec::{
    EncodedFrame, Encoder, Frame, Limits, Options, Payload, SessionDecoder, SessionEncoder, Stage,
};

/// Names of corpora, one of each kind: tiny, shared, copied, in need of a stage, cut into many pieces, unlike.
const PICKED: [&str; 7] = [
    "heartbeats 5 x 40 B",
    "5 x 256 B",
    "64 x 1,000 B, shared",
    "raft 3 x 1 x 64 KiB, copies",
    "raft json 5 x 16 x 1 KiB, shared",
    "NUL packets 16 x 2 KiB",
    "unrelated random 4 x 64 KiB",
];

/// Those of them that are also encoded in segments.
const CUT: [&str; 2] = ["NUL packets 16 x 2 KiB", "raft 3 x 1 x 64 KiB, copies"];

fn picked() -> Vec<Corpus> {
    let all = corpora::all();
    let picked: Vec<Corpus> =
        all.into_iter().filter(|corpus| PICKED.contains(&corpus.name.as_str())).collect();
    assert_eq!(picked.len(), PICKED.len(), "every picked corpus exists");
    picked
}

fn options(stage: Stage) -> Options {
    Options { stage, seed: Some(1), ..Options::default() }
}

fn throughput(corpus: &Corpus) -> Throughput {
    Throughput::Bytes(corpus.payloads.iter().map(|payload| payload.len() as u64).sum())
}

/// Where to cut a message.
type Cuts = fn(&[u8]) -> Vec<usize>;

/// Ways to cut a message into segments.
const CUTS: [(&str, Cuts); 4] = [
    ("whole", |_| Vec::new()),
    ("cut every 64 bytes", |message| (64..message.len()).step_by(64).collect()),
    ("cut every 8 bytes", |message| (8..message.len()).step_by(8).collect()),
    ("cut behind every NUL", |message| {
        let ends = |(at, byte): (usize, &u8)| (*byte == 0 && at + 1 < message.len()).then_some(at + 1);
        message.iter().enumerate().filter_map(ends).collect()
    }),
];

fn cut(payload: &Payload, at: &[usize]) -> Payload {
    let whole = Bytes::from(payload.to_vec());
    let begins = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain([whole.len()]);
    begins.zip(ends).map(|(begin, end)| whole.slice(begin..end)).collect()
}

/// Every piece of every message, as whoever passes them on takes them.
fn read(frame: &Frame) {
    for index in 0..frame.message_count() {
        frame.message(index).for_each(|piece| drop(black_box(piece)));
    }
}

fn encode(criterion: &mut Criterion) {
    for (name, stage) in [("encode", Stage::None), ("encode + LZ4", Stage::Lz4)] {
        let mut group = criterion.benchmark_group(name);
        for corpus in picked() {
            let mut encoder = Encoder::new(options(stage));
            group.throughput(throughput(&corpus));
            group.bench_function(&corpus.name, |bencher| {
                // The frame is dropped before the next one, within the time.
                bencher.iter(|| drop(black_box(encoder.encode(black_box(&corpus.payloads)))));
            });
        }
    }
}

/// What it costs to say where fields begin.
fn encode_cut(criterion: &mut Criterion) {
    for corpus in picked().into_iter().filter(|corpus| CUT.contains(&corpus.name.as_str())) {
        let mut group = criterion.benchmark_group(format!("encode cut, {}", corpus.name));
        group.throughput(throughput(&corpus));
        for (name, cuts) in CUTS {
            let payloads: Vec<Payload> =
                corpus.payloads.iter().map(|payload| cut(payload, &cuts(&payload.to_vec()))).collect();
            let mut encoder = Encoder::new(options(Stage::None));
            let bytes = encoder.encode(&payloads).expect("within limits").len();
            let segments: usize = payloads.iter().map(|payload| payload.segments().len()).sum();
            group.bench_function(format!("{name}, {segments} segments, frame {bytes} B"), |bencher| {
                bencher.iter(|| drop(black_box(encoder.encode(black_box(&payloads)))));
            });
        }
    }
}

fn decode(criterion: &mut Criterion) {
    for (name, stage) in [("decode", Stage::None), ("decode + LZ4", Stage::Lz4)] {
        let mut group = criterion.benchmark_group(name);
        for corpus in picked() {
            let frame = Encoder::new(options(stage)).encode(&corpus.payloads).expect("within limits");
            let bytes = frame.to_bytes();
            group.throughput(throughput(&corpus));
            group.bench_function(&corpus.name, |bencher| {
                bencher.iter(|| {
                    let frame = Frame::parse(black_box(&bytes).clone(), &Limits::default());
                    read(&frame.expect("own frame"));
                });
            });
        }
    }
}

/// The second frame of a connection with the same messages: everything that is remembered is said again.
fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session, the same again");
    for corpus in picked() {
        let numbers: Vec<u32> = (0..).take(corpus.payloads.len()).collect();
        let begin = |payloads: &[Payload]| -> (SessionEncoder, EncodedFrame) {
            let mut encoder = SessionEncoder::new(options(Stage::None), 1);
            let first = encoder.encode(&numbers, payloads).expect("within limits");
            (encoder, first)
        };
        group.throughput(throughput(&corpus));
        let (mut encoder, first) = begin(&corpus.payloads);
        let again = encoder.encode(&numbers, &corpus.payloads).expect("within limits").to_bytes();
        group.bench_function(format!("encode {}", corpus.name), |bencher| {
            bencher.iter(|| drop(black_box(encoder.encode(&numbers, black_box(&corpus.payloads)))));
        });
        let first = first.to_bytes();
        let decoder = || {
            let mut decoder = SessionDecoder::new(Limits::default(), 1);
            decoder.parse(first.clone(), &numbers).expect("own frame");
            decoder
        };
        group.bench_function(format!("decode {}", corpus.name), |bencher| {
            let parse = |mut decoder: SessionDecoder| {
                read(&decoder.parse(black_box(&again).clone(), &numbers).expect("own frame"));
                decoder
            };
            bencher.iter_batched(decoder, parse, BatchSize::SmallInput);
        });
    }
}

/// Short runs: the whole takes two minutes.
fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = codec;
    config = short();
    targets = encode, encode_cut, decode, session
}
criterion_main!(codec);
