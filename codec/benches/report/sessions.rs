//! A connection's history beside what it competes with: one zstd stream per connection, flushed at every frame.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{
    Encoder, Frame, HeadReader, Limits, Options, Payload, SessionDecoder, SessionEncoder, Stage, varint,
};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

use crate::corpora::{header, random};
use crate::measure::{Clock, TellingRun};
use crate::subjects::look_at;

/// Frames that count, and those before them: by then both ends remember as much as they ever will.
const FRAMES: usize = 200;
const FRAMES_BEFORE: usize = 256;
/// So many frames at a time are looked through before they count: a leader's messages were written just now, by the same
/// core. Eight frames for 20 take 340 KB.
const FRAMES_AT_ONCE: usize = 8;
const ENTRY_BYTES: usize = 1024;
/// What no reader of frames does less than: their heads read and checked, with the checksum, and no message made of them.
pub(crate) const HEADS: &str = "heads alone";

/// The stages of this build.
const STAGES: &[(&str, Stage)] = &[
    ("session", Stage::None),
    ("session + LZ4", Stage::Lz4),
    #[cfg(feature = "zstd")]
    ("session + zstd", Stage::Zstd),
];

/// Consecutive frames of a running leader, the ones before with them. Sums are of those that count.
pub(crate) struct Session {
    pub(crate) name: String,
    frames: Vec<(Vec<u32>, Vec<Payload>)>,
    input_bytes: usize,
    /// Bytes of the entries, each counted once.
    new_bytes: usize,
    heartbeats: usize,
}

/// One subject of a session. Times are seconds per run of all frames.
pub(crate) struct SessionCell {
    pub(crate) subject: &'static str,
    pub(crate) bytes: usize,
    /// Not of [`HEADS`].
    pub(crate) encode: Option<f64>,
    pub(crate) decode: f64,
}

/// One session, measured.
pub(crate) struct SessionRow {
    pub(crate) name: String,
    pub(crate) frames: usize,
    pub(crate) input_bytes: usize,
    pub(crate) new_bytes: usize,
    pub(crate) heartbeats: usize,
    pub(crate) cells: Vec<SessionCell>,
}

/// Every session, in the order of the table.
pub(crate) fn all() -> Vec<Session> {
    let mut all = Vec::new();
    for followers in [5, 20] {
        all.push(session(format!("session {followers}, heartbeats"), followers, 0, true));
        all.push(session(format!("session {followers}, entries, shared"), followers, 4, true));
        all.push(session(format!("session {followers}, entries, copies"), followers, 4, false));
    }
    all
}

/// Frames with a heartbeat for every follower, and an AppendEntries with up to `entries_max` entries behind them.
fn session(name: String, followers: u32, entries_max: usize, shared: bool) -> Session {
    let mut rng = Rng::with_seed(8);
    let (mut index, mut new_bytes, mut heartbeats) = (1_000_000, 0, 0);
    let mut frames = Vec::new();
    for frame in 0..FRAMES_BEFORE + FRAMES {
        let counts = frame >= FRAMES_BEFORE;
        let (mut streams, mut payloads) = (Vec::new(), Vec::new());
        let commit = index - rng.usize(..3);
        let entries: Vec<Bytes> =
            (0..rng.usize(..=entries_max)).map(|_| Bytes::from(random(&mut rng, ENTRY_BYTES))).collect();
        let mut matched = Vec::new();
        for to in 0..followers {
            matched.push(index - rng.usize(..20));
            streams.push(2 * to);
            payloads.push(Payload::from(header(8, to as usize, 0, commit, matched[to as usize])));
            heartbeats += usize::from(counts);
        }
        for to in (0..followers).filter(|_| entries_max > 0) {
            let own = Bytes::from(header(3, to as usize, index, commit, matched[to as usize]));
            let payload: Payload = std::iter::once(own).chain(entries.iter().cloned()).collect();
            streams.push(2 * to + 1);
            payloads.push(if shared { payload } else { payload.to_vec().into() });
        }
        index += if entries_max > 0 { entries.len() } else { rng.usize(..5) };
        new_bytes += if counts { entries.len() * ENTRY_BYTES } else { 0 };
        frames.push((streams, payloads));
    }
    let counted = &frames[FRAMES_BEFORE..];
    let input_bytes = counted.iter().flat_map(|(_, payloads)| payloads).map(Payload::len).sum();
    Session { name, frames, input_bytes, new_bytes, heartbeats }
}

/// The messages of a frame as a stream's peer sees them: each behind its length.
pub(crate) fn lined_up(payloads: &[Payload], out: &mut Vec<u8>) {
    out.clear();
    for payload in payloads {
        varint::put(out, payload.len());
        payload.segments().iter().for_each(|segment| out.extend_from_slice(segment));
    }
}

/// A zstd stream that is flushed at every frame, and keeps its memory.
pub(crate) struct Stream {
    context: CCtx<'static>,
    out: Vec<u8>,
}

impl Stream {
    /// For frames of at most `longest` bytes.
    pub(crate) fn new(longest: usize) -> Self {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(-1)).expect("a valid level");
        Self { context, out: vec![0; zstd_safe::compress_bound(longest) + 64] }
    }

    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        self.context.reset(ResetDirective::SessionOnly).expect("between frames");
    }

    /// One frame's part of the stream.
    pub(crate) fn flush(&mut self, input: &[u8]) -> &[u8] {
        let (mut input, mut out) = (InBuffer::around(input), OutBuffer::around(&mut self.out[..]));
        let left = self.context.compress_stream2(&mut out, &mut input, ZSTD_EndDirective::ZSTD_e_flush);
        assert_eq!(left, Ok(0), "room enough");
        let bytes = out.pos();
        &self.out[..bytes]
    }
}

/// The other end of a [`Stream`].
pub(crate) struct Unstream {
    context: DCtx<'static>,
    out: Vec<u8>,
}

impl Unstream {
    /// For frames of at most `longest` bytes.
    pub(crate) fn new(longest: usize) -> Self {
        Self { context: DCtx::create(), out: vec![0; longest] }
    }

    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        self.context.reset(ResetDirective::SessionOnly).expect("between frames");
    }

    /// What one frame's part of the stream stands for.
    pub(crate) fn expand(&mut self, block: &[u8]) -> &[u8] {
        let mut input = InBuffer::around(block);
        let mut out = OutBuffer::around(&mut self.out[..]);
        while input.pos() < block.len() {
            self.context.decompress_stream(&mut out, &mut input).expect("own stream");
        }
        let bytes = out.pos();
        &self.out[..bytes]
    }
}

/// Seconds that `each` takes for the frames that count; `look` reads a frame through.
fn seconds<T>(frames: &[T], look: impl Fn(&T), mut each: impl FnMut(&T)) -> f64 {
    let (before, counted) = frames.split_at(FRAMES_BEFORE);
    before.iter().for_each(&mut each);
    let mut seconds = 0.0;
    for some in counted.chunks(FRAMES_AT_ONCE) {
        some.iter().for_each(&look);
        let begin = Instant::now();
        black_box(some).iter().for_each(&mut each);
        seconds += begin.elapsed().as_secs_f64();
    }
    seconds
}

/// Reads bytes through.
fn look_through(bytes: &[u8]) {
    black_box(bytes.iter().step_by(32).fold(0, |all, byte| all ^ byte));
}

/// Reads the messages of a frame through.
fn look_through_all((_, payloads): &(Vec<u32>, Vec<Payload>)) {
    payloads.iter().flat_map(Payload::segments).for_each(|segment| look_through(segment));
}

/// Measures every subject on `session`, in turns.
pub(crate) fn measure(session: &Session, clock: &Clock) -> SessionRow {
    let frames = &session.frames;
    let counted_bytes = |frames: &[Bytes]| frames[FRAMES_BEFORE..].iter().map(Bytes::len).sum();
    let mut runs: Vec<TellingRun<'_>> = Vec::new();
    let mut sizes = Vec::new();
    let mut heads: Option<TellingRun<'_>> = None;
    for &(name, stage) in STAGES {
        let options = Options { stage, seed: Some(1), ..Options::default() };
        let mut encoder = SessionEncoder::new(options, 1);
        let encoded: Vec<Bytes> = frames
            .iter()
            .map(|(streams, payloads)| encoder.encode(streams, payloads).expect("within limits").to_bytes())
            .collect();
        let mut decoder = SessionDecoder::new(Limits::default(), 1);
        for ((streams, payloads), bytes) in frames.iter().zip(&encoded) {
            let frame = decoder.parse(bytes.clone(), streams).expect("own frame");
            for (index, payload) in payloads.iter().enumerate() {
                assert!(frame.to_vec(index) == payload.to_vec(), "{}: message {index}", session.name);
            }
        }
        sizes.push((name, counted_bytes(&encoded)));
        runs.push(Box::new(move || {
            let mut encoder = SessionEncoder::new(options, 1);
            seconds(frames, look_through_all, |(streams, payloads)| {
                drop(black_box(encoder.encode(streams, payloads)));
            })
        }));
        let parts: Vec<(&[u32], Bytes)> =
            frames.iter().zip(encoded).map(|((streams, _), bytes)| (streams.as_slice(), bytes)).collect();
        if stage == Stage::None {
            let parts = parts.clone();
            heads = Some(Box::new(move || {
                let mut reader = HeadReader::new(Limits::default(), 1);
                let look = |(_, bytes): &(&[u32], Bytes)| look_through(bytes);
                seconds(&parts, look, |(streams, bytes)| {
                    black_box(reader.check(bytes, streams).expect("own frame"));
                })
            }));
        }
        runs.push(Box::new(move || {
            let mut decoder = SessionDecoder::new(Limits::default(), 1);
            let look = |(_, bytes): &(&[u32], Bytes)| look_through(bytes);
            seconds(&parts, look, |(streams, bytes)| {
                look_at(&decoder.parse(bytes.clone(), streams).expect("own frame"));
            })
        }));
    }
    {
        // The same frames without a history: what the session's own work is on top of.
        let mut encoder = Encoder::new(Options { seed: Some(1), ..Options::default() });
        let mut encode = move |payloads: &[Payload]| encoder.encode(payloads).expect("within limits");
        let encoded: Vec<Bytes> = frames.iter().map(|(_, payloads)| encode(payloads).to_bytes()).collect();
        sizes.push(("codec", counted_bytes(&encoded)));
        runs.push(Box::new(move || {
            seconds(frames, look_through_all, |(_, payloads)| drop(black_box(encode(payloads))))
        }));
        runs.push(Box::new(move || {
            seconds(
                &encoded,
                |bytes| look_through(bytes),
                |bytes| look_at(&Frame::parse(bytes.clone(), &Limits::default()).expect("own frame")),
            )
        }));
    }
    let longest =
        frames.iter().map(|(_, payloads)| payloads.iter().map(|one| one.len() + 9).sum()).max().unwrap_or(0);
    let (mut stream, mut input) = (Stream::new(longest), Vec::new());
    let encoded: Vec<Bytes> = frames
        .iter()
        .map(|(_, payloads)| {
            lined_up(payloads, &mut input);
            Bytes::copy_from_slice(stream.flush(&input))
        })
        .collect();
    sizes.push(("zstd -1 stream", counted_bytes(&encoded)));
    runs.push(Box::new(move || {
        stream.reset();
        seconds(frames, look_through_all, |(_, payloads)| {
            lined_up(payloads, &mut input);
            black_box(stream.flush(&input));
        })
    }));
    let mut unstream = Unstream::new(longest);
    runs.push(Box::new(move || {
        unstream.reset();
        seconds(
            &encoded,
            |block| look_through(block),
            |block| {
                black_box(unstream.expand(block));
            },
        )
    }));
    runs.extend(heads);
    let times = clock.medians_told(runs);
    let mut cells: Vec<SessionCell> = sizes
        .into_iter()
        .zip(times.chunks(2))
        .map(|((subject, bytes), times)| SessionCell {
            subject,
            bytes,
            encode: Some(times[0]),
            decode: times[1],
        })
        .collect();
    if let (Some(decode), Some(session)) = (times.last(), cells.first()) {
        let heads = SessionCell { subject: HEADS, bytes: session.bytes, encode: None, decode: *decode };
        cells.insert(STAGES.len(), heads);
    }
    let Session { name, input_bytes, new_bytes, heartbeats, .. } = session;
    SessionRow {
        name: name.clone(),
        frames: FRAMES,
        input_bytes: *input_bytes,
        new_bytes: *new_bytes,
        heartbeats: *heartbeats,
        cells,
    }
}
