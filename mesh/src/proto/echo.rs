//! What comes back: bytes that the other end of a connection sent itself, such as a proposal that returns in an entry, are
//! named and not sent again.
//!
//! The codec recognises such bytes by where they lie in memory. Nobody who takes a message has to keep it where it came: an
//! entry outlives the frame that brought it, must not keep that frame alive, and gets a stamp in front. So they are looked for
//! by content here: what is to be sent is held against the messages that came, from their ends, and where it ends as one of
//! them does, that one's bytes take its place. What is in front may be as different as it likes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use trunkline_codec::{
    DecodeError, EchoDecoder, EchoEncoder, EchoWindow, EncodeError, EncodedFrame, Epochs, Frame, Payload,
};

use super::run::split_run;
use super::wire::Run;

/// Shorter ends of messages are sent again: naming them costs a record, and looking for them more than they are worth.
pub const TAIL_BYTES_MIN: usize = 256;

/// What the frames that the tails are slices of have together: as much as the codec can refer to.
const TAILS_BYTES_MAX: usize = 1 << 20;

/// Where the eight bytes of a mark begin, counted from the end.
const PLACES: [usize; 4] = [8, 64, 128, TAIL_BYTES_MIN];

/// What is kept of a tail besides its bytes: twice its mark, and where it is found.
const MARK_BYTES: usize = 160;

/// Some bytes near the end of a message, by which it is found.
type Mark = [u64; PLACES.len()];

/// The echo of one bulk connection: its reader and its writer share it.
#[derive(Clone)]
pub struct SharedEcho(Arc<Mutex<Echo>>);

struct Echo {
    window: EchoWindow,
    tails: Tails,
}

/// The ends of messages that came.
#[derive(Default)]
struct Tails {
    /// With the number of the frame that they came in.
    by_mark: BTreeMap<Mark, (u64, Bytes)>,
    /// What each frame has, and which marks came in it, the oldest first.
    frames: VecDeque<(usize, Vec<Mark>)>,
    /// The number of the oldest frame.
    oldest: u64,
    bytes: usize,
}

impl SharedEcho {
    /// Of a connection that begins. Who dialled it sends back what the other end sent, and names it.
    #[must_use]
    pub fn new(dialled: bool, epochs: Epochs) -> Self {
        let window = if dialled { EchoWindow::of_received(epochs) } else { EchoWindow::of_sent(epochs) };
        Self(Arc::new(Mutex::new(Echo { window, tails: Tails::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Echo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next codec frame.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn encode(
        &self,
        encoder: &mut EchoEncoder,
        rows: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        let mut echo = self.lock();
        let found = echo.tails.find_all(payloads);
        encoder.encode(&mut echo.window, rows, found.as_deref().unwrap_or(payloads))
    }

    /// The messages of the next codec frame, one for each run.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn parse(
        &self,
        decoder: &mut EchoDecoder,
        bytes: Bytes,
        rows: &[u32],
        runs: &[Run],
    ) -> Result<Frame, DecodeError> {
        let mut echo = self.lock();
        let frame_bytes = bytes.len();
        let frame = decoder.parse(&mut echo.window, bytes, rows)?;
        if echo.window.refers() && !frame.is_unremembered() {
            echo.tails.enter(&frame, frame_bytes, runs);
        }
        Ok(frame)
    }

    /// This end names what the other one sent.
    #[must_use]
    pub fn refers(&self) -> bool {
        self.lock().window.refers()
    }

    /// So much has come that the other end has to be told.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.lock().window.has_news()
    }
}

impl Tails {
    /// The messages of a frame came.
    fn enter(&mut self, frame: &Frame, frame_bytes: usize, runs: &[Run]) {
        let bytes = frame.buffer_bytes().max(frame_bytes);
        if bytes > TAILS_BYTES_MAX {
            return;
        }
        let number = self.oldest + self.frames.len() as u64;
        let mut marks = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            if frame.message(index).map(|piece| piece.len()).sum::<usize>() < TAIL_BYTES_MIN {
                continue;
            }
            // A run that is none is refused by whom it is for.
            for message in split_run(frame.message(index), run.count).unwrap_or_default() {
                let Some(tail) = message.payload.segments().last() else { continue };
                let Some(mark) = mark_of(tail) else { continue };
                // What several runs of a frame share is noted once.
                let before = self.by_mark.insert(mark, (number, tail.clone()));
                if before.is_none_or(|(frame, _)| frame != number) {
                    marks.push(mark);
                }
            }
        }
        if marks.is_empty() {
            return;
        }
        let bytes = bytes + marks.len() * MARK_BYTES;
        self.bytes += bytes;
        self.frames.push_back((bytes, marks));
        while self.bytes > TAILS_BYTES_MAX
            && let Some((bytes, marks)) = self.frames.pop_front()
        {
            self.bytes -= bytes;
            for mark in marks {
                // The same bytes may have come again since.
                if self.by_mark.get(&mark).is_some_and(|(number, _)| *number == self.oldest) {
                    self.by_mark.remove(&mark);
                }
            }
            self.oldest += 1;
        }
    }

    /// The same payloads, with what came in place of what equals it; `None` where nothing does.
    fn find_all(&self, payloads: &[Payload]) -> Option<Vec<Payload>> {
        if self.by_mark.is_empty() {
            return None;
        }
        // What several messages share is looked for once.
        let mut known: BTreeMap<(usize, usize), Option<Bytes>> = BTreeMap::new();
        let key = |segment: &Bytes| (segment.as_ptr().addr(), segment.len());
        for segment in payloads.iter().flat_map(Payload::segments) {
            if segment.len() >= TAIL_BYTES_MIN {
                known.entry(key(segment)).or_insert_with(|| self.find(segment));
            }
        }
        known.values().any(Option::is_some).then(|| {
            let cut = |segment: &Bytes| {
                let tail = known.get(&key(segment)).cloned().flatten().unwrap_or_default();
                [segment.slice(..segment.len() - tail.len()), tail]
            };
            let whole = |payload: &Payload| {
                payload.segments().iter().flat_map(cut).filter(|part| !part.is_empty()).collect()
            };
            payloads.iter().map(whole).collect()
        })
    }

    /// What came and ends as this does, as far as it does.
    fn find(&self, segment: &Bytes) -> Option<Bytes> {
        let (_, tail) = self.by_mark.get(&mark_of(segment)?)?;
        let common = common_suffix(segment, tail);
        (common >= TAIL_BYTES_MIN).then(|| tail.slice(tail.len() - common..))
    }
}

fn mark_of(bytes: &[u8]) -> Option<Mark> {
    let mut mark = Mark::default();
    for (word, place) in mark.iter_mut().zip(PLACES) {
        let begin = bytes.len().checked_sub(place)?;
        *word = u64::from_le_bytes(*bytes.get(begin..)?.first_chunk()?);
    }
    Some(mark)
}

/// How many bytes are equal at the ends of both.
fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    const STEP: usize = 64;
    let (mut parts, mut others) = (one.rchunks_exact(STEP), other.rchunks_exact(STEP));
    let mut common = 0;
    while let (Some(part), Some(of_other)) = (parts.next(), others.next())
        && part == of_other
    {
        common += STEP;
    }
    let rest = one[..one.len() - common].iter().rev().zip(other[..other.len() - common].iter().rev());
    common + rest.take_while(|(byte, of_other)| byte == of_other).count()
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for SharedEcho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let echo = self.lock();
        f.debug_struct("SharedEcho")
            .field("window", &echo.window)
            .field("tails", &echo.tails.by_mark.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    #[test]
    fn equal_ends_are_counted_byte_by_byte() {
        let text = random(1, 400);
        for (from, changed) in
            [(0, None), (1, None), (0, Some(399)), (0, Some(17)), (130, Some(200)), (0, Some(0))]
        {
            let mut other = text[from..].to_vec();
            if let Some(at) = changed {
                other[at - from] ^= 1;
            }
            let expected = changed.map_or(other.len(), |at| 399 - at);
            assert_eq!(common_suffix(&text, &other), expected, "{from} {changed:?}");
            assert_eq!(common_suffix(&other, &text), expected, "{from} {changed:?}");
        }
        assert_eq!(common_suffix(&text, &[]), 0);
    }

    #[test]
    fn what_ends_as_a_message_that_came_takes_its_bytes_however_it_begins() {
        let mut tails = Tails::default();
        let came = Bytes::from(random(2, 5000));
        tails.by_mark.insert(mark_of(&came).unwrap(), (0, came.clone()));
        let stamped = Bytes::from([&random(3, 40)[..], &came[32..]].concat());
        let other = Bytes::from(random(4, 5000));
        let payload = |to: u8| -> Payload {
            [Bytes::from(vec![to]), stamped.clone(), other.clone(), came.slice(4990..)].into_iter().collect()
        };
        let payloads = [payload(1), payload(2)];
        let found = tails.find_all(&payloads).unwrap();
        for (found, payload) in found.iter().zip(&payloads) {
            assert_eq!(found.to_vec(), payload.to_vec());
            let tail = &found.segments()[2];
            assert_eq!((tail.as_ptr(), tail.len()), (came[32..].as_ptr(), came.len() - 32));
        }
        assert!(tails.find_all(&[Payload::from(other)]).is_none());
        // An end that is equal for less than is worth naming.
        let mut short = came.to_vec();
        let at = short.len() - TAIL_BYTES_MIN + 20;
        short[at] ^= 1;
        assert!(tails.find_all(&[Payload::from(short)]).is_none());
    }

    #[test]
    fn no_more_is_kept_than_can_be_referred_to() {
        let mut tails = Tails::default();
        let mut encoder = trunkline_codec::Encoder::new(trunkline_codec::Options::default());
        let run = Run { flow: 0, first: crate::id::Seq(1), count: 1, floor_back: 0, deadline_ms: 1 };
        for seed in 0..60 {
            let message = random(seed, 64 << 10);
            let head = super::super::run::message_head(0, message.len());
            let payload: Payload = [head, Bytes::from(message)].into_iter().collect();
            let frame = encoder.encode(&[payload]).unwrap().to_bytes();
            let frame_bytes = frame.len();
            let frame = Frame::parse(frame, &trunkline_codec::Limits::default()).unwrap();
            tails.enter(&frame, frame_bytes, &[run]);
            assert!(tails.bytes <= TAILS_BYTES_MAX && tails.by_mark.len() == tails.frames.len());
        }
        assert_eq!(tails.frames.len(), 15);
        // A peer that has one message for many, in many short frames.
        let message = random(7, TAIL_BYTES_MIN);
        let head = super::super::run::message_head(0, message.len());
        let payload: Payload = [head, Bytes::from(message)].into_iter().collect();
        let frame = encoder.encode(&vec![payload; 1024]).unwrap().to_bytes();
        for _ in 0..10_000 {
            let parsed = Frame::parse(frame.clone(), &trunkline_codec::Limits::default()).unwrap();
            tails.enter(&parsed, frame.len(), &[run; 1024]);
            let marks: usize = tails.frames.iter().map(|(_, marks)| marks.len()).sum();
            assert!(marks * MARK_BYTES <= TAILS_BYTES_MAX && tails.bytes <= TAILS_BYTES_MAX);
        }
        for seed in 50..60 {
            let message = random(seed, 64 << 10);
            let head = super::super::run::message_head(0, message.len());
            let frame =
                encoder.encode(&[[head, Bytes::from(message)].into_iter().collect()]).unwrap().to_bytes();
            let parsed = Frame::parse(frame.clone(), &trunkline_codec::Limits::default()).unwrap();
            tails.enter(&parsed, frame.len(), &[run]);
        }
        assert!(tails.find(&Bytes::from(random(59, 64 << 10))).is_some());
        assert!(tails.find(&Bytes::from(random(3, 64 << 10))).is_none());
    }
}
