//! What goes up comes back: proposals in one direction of a connection, AppendEntries with the same bytes in the other.
//!
//! Each end gets slices of what it received and passes them on, so a [`Session`] recognises them. Beside it the same
//! two ends without an echo, and a zstd stream for each direction.

use std::hint::black_box;
use std::ops::Range;

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{
    EncodedFrame, Epochs, Frame, Limits, Options, Payload, Session, SessionDecoder, SessionEncoder, varint,
};

use crate::corpora::{header, random};
use crate::measure::{Clock, Run};
use crate::sessions::{Stream, Unstream, lined_up};
use crate::subjects::read;

const ROUNDS: usize = 200;
const FOLLOWERS: u32 = 5;
/// What precedes every proposal on its way up: from whom, which one.
const TITLE_BYTES: usize = 12;

/// One exchange after another between a proxy and its leader.
pub(crate) struct Echo {
    pub(crate) name: String,
    rounds: Vec<Round>,
    /// Bytes of all messages, up and down.
    input_bytes: usize,
    /// Bytes of the proposals without what precedes them, each counted once.
    new_bytes: usize,
}

struct Round {
    /// Every proposal is a message of its own: a title, and what comes back.
    proposals: Vec<Payload>,
    /// What precedes the entries in the message to each follower.
    headers: Vec<Bytes>,
}

/// One subject. The time is of a run of all rounds: encode, decode, encode what came, decode.
pub(crate) struct EchoCell {
    pub(crate) subject: &'static str,
    pub(crate) up: usize,
    pub(crate) down: usize,
    pub(crate) time: f64,
}

/// One echo, measured.
pub(crate) struct EchoRow {
    pub(crate) name: String,
    pub(crate) rounds: usize,
    pub(crate) input_bytes: usize,
    pub(crate) new_bytes: usize,
    pub(crate) cells: Vec<EchoCell>,
}

/// Every echo, in the order of the table.
pub(crate) fn all() -> Vec<Echo> {
    [64, 1024, 16 << 10].into_iter().map(echo).collect()
}

/// Rounds with one to four proposals of `bytes`.
fn echo(bytes: usize) -> Echo {
    let mut rng = Rng::with_seed(9);
    let (mut index, mut input_bytes, mut new_bytes) = (1_000_000_usize, 0, 0);
    let rounds = (0..ROUNDS).map(|_| {
        let proposals: Vec<Payload> = (0..rng.usize(1..=4))
            .map(|from| {
                index += 1;
                let mut title = vec![1, 2, 3, from.to_le_bytes()[0]];
                title.extend_from_slice(&index.to_le_bytes());
                assert_eq!(title.len(), TITLE_BYTES);
                [Bytes::from(title), Bytes::from(random(&mut rng, bytes))].into_iter().collect()
            })
            .collect();
        let commit = index - rng.usize(..3);
        let headers: Vec<Bytes> = (0..FOLLOWERS as usize)
            .map(|to| Bytes::from(header(3, to, index, commit, index - rng.usize(..20))))
            .collect();
        let new = proposals.len() * bytes;
        new_bytes += new;
        input_bytes += proposals.iter().map(Payload::len).sum::<usize>();
        input_bytes += headers.iter().map(|header| header.len() + new).sum::<usize>();
        Round { proposals, headers }
    });
    let rounds = rounds.collect();
    let name = if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes >> 10) };
    Echo { name: format!("echo {FOLLOWERS} x 1 to 4 x {name}"), rounds, input_bytes, new_bytes }
}

/// One end of a connection.
enum End {
    Echoing(Box<Session>),
    Plain(Box<(SessionEncoder, SessionDecoder)>),
}

impl End {
    fn encode(&mut self, streams: &[u32], payloads: &[Payload]) -> EncodedFrame {
        let frame = match self {
            Self::Echoing(session) => session.encode(streams, payloads),
            Self::Plain(halves) => halves.0.encode(streams, payloads),
        };
        frame.expect("within limits")
    }

    fn parse(&mut self, bytes: Bytes, streams: &[u32]) -> Frame {
        let frame = match self {
            Self::Echoing(session) => session.parse(bytes, streams),
            Self::Plain(halves) => halves.1.parse(bytes, streams),
        };
        frame.expect("own frame")
    }
}

/// Proxy and leader.
fn ends(echoing: bool) -> [End; 2] {
    let options = Options { seed: Some(1), ..Options::default() };
    let epochs = Epochs { outgoing: 1, incoming: 2 };
    [epochs, epochs.reversed()].map(|epochs| {
        if echoing {
            End::Echoing(Box::new(Session::new(options, epochs)))
        } else {
            let decoder = SessionDecoder::new(Limits::default(), epochs.incoming);
            End::Plain(Box::new((SessionEncoder::new(options, epochs.outgoing), decoder)))
        }
    })
}

/// What came without its title, in as many slices as it has.
fn untitled(frame: &Frame, index: usize, entries: &mut Vec<Bytes>) {
    let mut title = TITLE_BYTES;
    for piece in frame.message(index) {
        let skipped = title.min(piece.len());
        title -= skipped;
        if skipped < piece.len() {
            entries.push(piece.slice(skipped..));
        }
    }
}

/// Both ways through all rounds; gives the bytes of the frames up and down. `check` sees what arrives at the proxy.
fn exchange(rounds: &[Round], echoing: bool, mut check: impl FnMut(&Round, &Frame)) -> (usize, usize) {
    let [mut proxy, mut leader] = ends(echoing);
    let down_streams: Vec<u32> = (0..FOLLOWERS).collect();
    let (mut up_bytes, mut down_bytes) = (0, 0);
    let mut entries = Vec::new();
    for round in rounds {
        let up_streams = &[0, 1, 2, 3][..round.proposals.len()];
        let up = proxy.encode(up_streams, &round.proposals);
        up_bytes += up.len();
        let frame = leader.parse(up.to_bytes(), up_streams);
        entries.clear();
        (0..frame.message_count()).for_each(|index| untitled(&frame, index, &mut entries));
        let message = |header: &Bytes| std::iter::once(header).chain(&entries).cloned().collect();
        let messages: Vec<Payload> = round.headers.iter().map(message).collect();
        let down = leader.encode(&down_streams, &messages);
        down_bytes += down.len();
        let frame = proxy.parse(down.to_bytes(), &down_streams);
        read(&frame);
        check(round, &frame);
    }
    (up_bytes, down_bytes)
}

/// Panics unless every follower gets its header and all proposals without their titles.
fn assert_exact(round: &Round, frame: &Frame) {
    for (index, header) in round.headers.iter().enumerate() {
        let mut expected = header.to_vec();
        round.proposals.iter().for_each(|one| expected.extend_from_slice(&one.to_vec()[TITLE_BYTES..]));
        assert!(frame.to_vec(index) == expected, "message {index}");
    }
}

/// Bytes of a length in front of a message.
fn varint_bytes(len: usize) -> usize {
    (usize::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize
}

/// The four ends of two streams, one per direction.
struct Streams {
    up: (Stream, Unstream),
    down: (Stream, Unstream),
    input: Vec<u8>,
    entries: Vec<Range<usize>>,
}

impl Streams {
    /// Both ways through all rounds, as [`exchange`].
    fn exchange(&mut self, rounds: &[Round]) -> (usize, usize) {
        let Self { up, down, input, entries } = self;
        for (stream, unstream) in [&mut *up, &mut *down] {
            stream.reset();
            unstream.reset();
        }
        let (mut up_bytes, mut down_bytes) = (0, 0);
        for round in rounds {
            lined_up(&round.proposals, input);
            let block = up.0.flush(input);
            up_bytes += block.len();
            let came = up.1.expand(block);
            // Where what comes back lies in it. A peer is spared reading the lengths there.
            let mut end = came.len();
            let lens = round.proposals.iter().map(Payload::len);
            entries.clear();
            for len in lens.rev() {
                entries.push(end - (len - TITLE_BYTES)..end);
                end -= len + varint_bytes(len);
            }
            let new: usize = entries.iter().map(ExactSizeIterator::len).sum();
            input.clear();
            for header in &round.headers {
                varint::put(input, header.len() + new);
                input.extend_from_slice(header);
                entries.iter().rev().for_each(|entry| input.extend_from_slice(&came[entry.clone()]));
            }
            let block = down.0.flush(input);
            down_bytes += block.len();
            let came = down.1.expand(block);
            assert_eq!(came.len(), input.len());
            black_box(came);
        }
        (up_bytes, down_bytes)
    }
}

/// Measures every subject on `echo`, in turns.
pub(crate) fn measure(echo: &Echo, clock: &Clock) -> EchoRow {
    let rounds = &echo.rounds;
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut sizes = Vec::new();
    for (subject, echoing) in [("session + echo", true), ("session", false)] {
        sizes.push((subject, exchange(rounds, echoing, assert_exact)));
        runs.push(Box::new(move || {
            black_box(exchange(black_box(rounds), echoing, |_, _| ()));
        }));
    }
    let longest = |round: &Round| {
        let new: usize = round.proposals.iter().map(|one| one.len() + 9).sum();
        round.headers.iter().map(|header| header.len() + 9 + new).sum::<usize>()
    };
    let longest = rounds.iter().map(longest).max().unwrap_or(0);
    let pair = || (Stream::new(longest), Unstream::new(longest));
    let mut streams = Streams { up: pair(), down: pair(), input: Vec::new(), entries: Vec::new() };
    sizes.push(("zstd -1 stream", streams.exchange(rounds)));
    runs.push(Box::new(move || {
        black_box(streams.exchange(black_box(rounds)));
    }));
    let times = clock.medians(runs);
    let cells = sizes
        .into_iter()
        .zip(times)
        .map(|((subject, (up, down)), time)| EchoCell { subject, up, down, time })
        .collect();
    let Echo { name, input_bytes, new_bytes, .. } = echo;
    EchoRow {
        name: name.clone(),
        rounds: rounds.len(),
        input_bytes: *input_bytes,
        new_bytes: *new_bytes,
        cells,
    }
}
