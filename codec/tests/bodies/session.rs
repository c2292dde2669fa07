//! Two ends of a connection, whatever happens between them: they agree on every message, or the connection is over.

use std::collections::VecDeque;

use bytes::Bytes;
use trunkline_codec::{
    DecodeError, EchoDecoder, EchoEncoder, EchoWindow, EncodedFrame, Epochs, Frame, Options, Payload,
    SessionDecoder, SessionEncoder,
};

use super::hand::{Hand, seal};
use super::named::{carried, named};
use super::{PER_BYTE, PER_MESSAGE, PER_SEGMENT, bytes_and_lengths};

/// What comparing with earlier messages adds, as in `linear.rs`.
const PER_BYTE_OF_A_SESSION: usize = 300;
const PER_MESSAGE_OF_A_SESSION: usize = 2000;

/// Frames get lost, come twice or damaged, connections begin anew.
pub(crate) fn session(data: &[u8]) {
    let mut hand = Hand::new(data);
    if hand.byte() & 1 == 0 { one_way(&mut hand) } else { both_ways(&mut hand) }
}

fn options(hand: &mut Hand<'_>) -> Options {
    Options { stage: hand.stage(), seed: Some(7), limits: hand.limits() }
}

fn streams(hand: &mut Hand<'_>, count: usize) -> Vec<u32> {
    // In order, which leaves the bytes to the messages, or any of a few.
    let any = hand.below(4) == 0;
    let number = |index: usize| u32::try_from(if any { hand.below(7) } else { index }).unwrap();
    (0..count).map(number).collect()
}

fn assert_bounds(messages: &[Payload], frame: &EncodedFrame) {
    let (stats, count) = (frame.stats(), messages.len());
    // Besides what every frame has, how much has arrived where that is said.
    let echo = if frame.to_bytes()[2] & 0x20 != 0 { 10 } else { 0 };
    assert!(frame.len() <= bytes_and_lengths(messages.iter()) + 9 + echo);
    let segments: usize = messages.iter().map(|message| message.segments().len()).sum();
    let (per_byte, per_message) = (PER_BYTE + PER_BYTE_OF_A_SESSION, PER_MESSAGE + PER_MESSAGE_OF_A_SESSION);
    let most = per_byte * stats.input_bytes + per_message * count + PER_SEGMENT * segments;
    assert!(stats.work.operations() <= most, "{:?} for {} bytes", stats.work, stats.input_bytes);
}

fn one_way(hand: &mut Hand<'_>) {
    let options = options(hand);
    let begin = |epoch: u64| {
        let ends = (SessionEncoder::new(options, epoch), SessionDecoder::new(options.limits, epoch));
        (ends, crc32c::crc32c(&epoch.to_le_bytes()))
    };
    let mut epoch = 0;
    let ((mut encoder, mut decoder), mut history) = begin(epoch);
    // The error that ended the connection, and whether the next frame must end it.
    let (mut over, mut astray): (Option<DecodeError>, bool) = (None, false);
    while !hand.is_empty() {
        let event = hand.byte();
        if event >= 250 {
            epoch += 1;
            ((encoder, decoder), history) = begin(epoch);
            (over, astray) = (None, false);
            continue;
        }
        if event >= 245 {
            encoder.release();
        }
        let messages = hand.messages();
        let numbers = streams(hand, messages.len());
        let encoded = match event & 7 {
            7 => encoder.encode_unremembered(&numbers, &messages),
            _ => encoder.encode(&numbers, &messages),
        };
        let Ok(encoded) = encoded else {
            assert!(!super::fits(&messages, &options.limits));
            continue;
        };
        assert_bounds(&messages, &encoded);
        let bytes = encoded.to_bytes();
        let begins = named(std::mem::replace(&mut history, carried(&bytes)), &numbers);
        match event >> 3 & 15 {
            // Lost.
            0 => astray = true,
            // Named otherwise.
            5 => {
                let mut others = numbers.clone();
                others[hand.below(numbers.len())] ^= 1 << hand.below(32);
                let error = decoder.parse(bytes, &others).unwrap_err();
                astray = true;
                over = over.or(Some(error));
            }
            // Damaged or made up, by somebody who knows the history.
            kind @ (1 | 3) => {
                let other = if kind == 1 {
                    let mut other = bytes.to_vec();
                    hand.damage(&mut other);
                    seal(other, begins)
                } else {
                    let flags = 8 | hand.byte() & 0x10;
                    let error = |bytes| decoder.reserialise(bytes, &numbers).err();
                    super::made(hand, flags, numbers.len(), None, |_| begins, error)
                };
                let spelled = super::has_one_spelling(&other, |bytes| decoder.reserialise(bytes, &numbers));
                let parsed = decoder.parse(other.clone(), &numbers);
                assert!(spelled || parsed.is_err());
                if over.is_some() || astray {
                    assert!(parsed.is_err());
                } else if other == bytes {
                    super::assert_messages(&parsed.unwrap(), &messages);
                    continue;
                } else if let Ok(frame) = &parsed {
                    for index in 0..frame.message_count() {
                        assert_eq!(frame.to_vec(index).len(), frame.message_len(index));
                    }
                }
                astray = true;
                over = over.or(parsed.err());
            }
            delivery => {
                let spelled = super::has_one_spelling(&bytes, |bytes| decoder.reserialise(bytes, &numbers));
                let parsed = decoder.parse(bytes.clone(), &numbers);
                assert_eq!(spelled, parsed.is_ok());
                match (&over, parsed) {
                    (Some(first), parsed) => {
                        let ended = DecodeError::Ended { by: Box::new(first.clone()) };
                        assert_eq!(parsed.unwrap_err(), ended, "for ever");
                    }
                    (None, Ok(frame)) => {
                        assert!(!astray, "a frame of another history was accepted");
                        super::assert_messages(&frame, &messages);
                        assert_eq!(frame.is_unremembered(), event & 7 == 7);
                    }
                    (None, Err(error)) => {
                        assert!(astray, "{error}");
                        over = Some(error);
                    }
                }
                if delivery == 2 {
                    // Once more.
                    let error = decoder.parse(bytes, &numbers).unwrap_err();
                    over = over.or(Some(error));
                }
            }
        }
    }
}

/// An encoder that gives its working memory back between frames writes what one writes that keeps it.
pub(crate) fn stale(hand: &mut Hand<'_>) {
    let options = options(hand);
    let (mut kept, mut released) = (SessionEncoder::new(options, 1), SessionEncoder::new(options, 1));
    for _ in 0..hand.below(6) {
        let messages = hand.messages();
        let numbers = streams(hand, messages.len());
        released.release();
        let frame = |encoder: &mut SessionEncoder| {
            encoder.encode(&numbers, &messages).map(|frame| (frame.to_bytes(), frame.stats()))
        };
        assert!(frame(&mut kept) == frame(&mut released));
    }
}

/// A frame, the numbers of its streams, and what it says.
type Sent = (Bytes, Vec<u32>, Vec<Payload>);

/// One end of a connection, with what it got and may send back.
struct End {
    encoder: EchoEncoder,
    decoder: EchoDecoder,
    window: EchoWindow,
    got: VecDeque<Bytes>,
    under_way: VecDeque<Sent>,
    /// It has missed a frame or taken one that nobody sent: it reads no other.
    astray: bool,
}

impl End {
    fn new(options: Options, epochs: Epochs, window: EchoWindow) -> Self {
        Self {
            encoder: EchoEncoder::new(options, epochs),
            decoder: EchoDecoder::new(options.limits, epochs),
            window,
            got: VecDeque::new(),
            under_way: VecDeque::new(),
            astray: false,
        }
    }

    /// Reads what the other end wrote: nothing comes out if a frame was missed.
    fn read(&mut self, bytes: &Bytes, numbers: &[u32]) -> Option<Frame> {
        let frame = self.take(bytes, numbers);
        assert!(!self.astray || frame.is_none(), "a frame of another history was accepted");
        self.astray |= frame.is_none();
        frame
    }

    /// Reads anything: what comes out has one spelling.
    fn take(&mut self, bytes: &Bytes, numbers: &[u32]) -> Option<Frame> {
        let again = |bytes| self.decoder.reserialise(&self.window, bytes, numbers);
        let spelled = super::has_one_spelling(bytes, again);
        let parsed = self.decoder.parse(&mut self.window, bytes.clone(), numbers);
        assert!(spelled || parsed.is_err());
        parsed.ok()
    }

    /// A frame made up or changed by somebody who knows what both ends do.
    fn other(&self, hand: &mut Hand<'_>, bytes: &Bytes, numbers: &[u32]) -> Bytes {
        let begins = |bytes: &[u8]| self.decoder.begins(&self.window, bytes, numbers).unwrap_or_default();
        if hand.byte() & 1 == 0 {
            let mut other = bytes.to_vec();
            hand.damage(&mut other);
            let begins = begins(&other);
            return seal(other, begins);
        }
        let echo = hand.byte();
        let flags = 0x08 | echo & 0x30;
        let arrived = (flags & 0x20 != 0).then(|| if echo & 1 == 0 { 0 } else { hand.below(3000) });
        let error = |bytes| self.decoder.reserialise(&self.window, bytes, numbers).err();
        super::made(hand, flags, numbers.len(), arrived, begins, error)
    }
}

/// Both refer to what the other one sent, or one does. Frames get lost, come twice or changed; whatever an end reads is what
/// the other one wrote, also where that has got what nobody sent.
fn both_ways(hand: &mut Hand<'_>) {
    let options = options(hand);
    let epochs = Epochs { outgoing: 1, incoming: 2 };
    let (one, other) = (epochs, epochs.reversed());
    let windows = if hand.byte() & 1 == 0 {
        [EchoWindow::of_both(one), EchoWindow::of_both(other)]
    } else {
        [EchoWindow::of_sent(one), EchoWindow::of_received(other)]
    };
    let [first, second] = windows;
    let mut ends = [End::new(options, one, first), End::new(options, other, second)];
    while !hand.is_empty() {
        let event = hand.byte();
        let index = usize::from(event & 1);
        let end = &mut ends[index];
        if event & 2 == 0 {
            let Some((bytes, numbers, messages)) = end.under_way.pop_front() else { continue };
            match event >> 2 & 31 {
                0 => {
                    end.astray = true;
                    continue;
                }
                1 | 2 => {
                    let other = end.other(hand, &bytes, &numbers);
                    if other != bytes {
                        end.take(&other, &numbers);
                        end.astray = true;
                        continue;
                    }
                }
                _ => {}
            }
            if let Some(frame) = end.read(&bytes, &numbers) {
                super::assert_messages(&frame, &messages);
                for index in 0..frame.message_count().min(9) {
                    end.got.extend(frame.message(index).take(40));
                }
                let over = end.got.len().saturating_sub(64);
                end.got.drain(..over);
            }
            if event >> 2 & 31 == 3 {
                end.astray = true;
                assert!(end.read(&bytes, &numbers).is_none(), "it came twice");
            }
            continue;
        }
        let mut messages = hand.messages();
        if !end.got.is_empty() {
            for message in &mut messages {
                let back: Vec<Bytes> =
                    (0..hand.below(3)).map(|_| end.got[hand.below(end.got.len())].clone()).collect();
                *message = message.segments().iter().cloned().chain(back).collect();
            }
        }
        let numbers = streams(hand, messages.len());
        let encoded = match event & 0xE0 {
            0xE0 => end.encoder.encode_unremembered(&mut end.window, &numbers, &messages),
            _ => end.encoder.encode(&mut end.window, &numbers, &messages),
        };
        if let Ok(encoded) = encoded {
            assert_bounds(&messages, &encoded);
            ends[1 - index].under_way.push_back((encoded.to_bytes(), numbers, messages));
        }
    }
}
