//! Frames of one connection: exact whatever was said before, small where it was, and over at the first thing that is
//! wrong.

mod common;

use bytes::Bytes;
use common::{STAGES, bound, named::named};
use fastrand::Rng;
use trunkline_codec::{
    DecodeError, EchoDecoder, EchoEncoder, EchoWindow, EncodeError, EncodedFrame, Epochs, Limits, Options,
    Payload, Session, SessionDecoder, SessionEncoder, Stage,
};

const EPOCH: u64 = 7;
const EPOCHS: Epochs = Epochs { outgoing: 1, incoming: 2 };

fn options() -> Options {
    Options { seed: Some(1), ..Options::default() }
}

fn pair() -> (SessionEncoder, SessionDecoder) {
    (SessionEncoder::new(options(), EPOCH), SessionDecoder::new(Limits::default(), EPOCH))
}

/// A frame has one spelling, whatever its records refer to: read into them and written again it is the same, but for its
/// second stage.
fn assert_one_spelling(frame: &EncodedFrame, reserialise: impl Fn(Bytes) -> Result<Vec<u8>, DecodeError>) {
    let again = reserialise(frame.to_bytes()).unwrap();
    assert_eq!(again.len(), frame.stats().diff_bytes);
    if frame.len() == again.len() {
        assert!(frame.to_bytes() == again, "two spellings of one frame");
    }
    assert!(reserialise(again.clone().into()).unwrap() == again);
}

/// Says how much has arrived.
fn is_echo(frame: &EncodedFrame) -> bool {
    frame.to_bytes()[2] & 0x20 != 0
}

fn check(decoder: &mut SessionDecoder, frame: &EncodedFrame, streams: &[u32], payloads: &[Payload]) {
    assert!(frame.len() <= bound(payloads, false), "{} bytes", frame.len());
    assert_one_spelling(frame, |bytes| decoder.reserialise(bytes, streams));
    let frame = decoder.parse(frame.to_bytes(), streams).unwrap();
    assert_eq!(frame.message_count(), payloads.len());
    for (index, payload) in payloads.iter().enumerate() {
        assert!(frame.to_vec(index) == payload.to_vec(), "message {index}");
        assert_eq!(frame.message_len(index), payload.len());
    }
}

/// A heartbeat of 40 bytes: to whom, term and commit index, a few that never change.
fn heartbeat(to: u8, commit: u64, round: u64) -> Payload {
    let mut message = vec![8, 8, 16, to, 24, 1, 32, 9];
    message.extend_from_slice(&commit.to_le_bytes());
    message.extend_from_slice(&round.to_le_bytes());
    message.extend_from_slice(&[0x5a; 16]);
    message.into()
}

#[test]
fn heartbeats_shrink_to_what_changed() {
    let (mut encoder, mut decoder) = pair();
    let streams = [1, 2, 3, 4, 5];
    let mut last = 0;
    for round in 0..50 {
        let payloads: Vec<Payload> =
            (1..=5).map(|to| heartbeat(to, 1000 + round / 3, 70_000 + round)).collect();
        let frame = encoder.encode(&streams, &payloads).unwrap();
        check(&mut decoder, &frame, &streams, &payloads);
        last = frame.len();
    }
    assert!(last <= 25, "{last} bytes for five heartbeats of 40");
}

/// Nine bytes that all messages begin with, two that change, and a body.
fn titled(to: u8, round: u8, body: &[u8]) -> Payload {
    [&[1, 2, 3, 4, 5, 6, 7, 8, 9, to, round][..], body].concat().into()
}

#[test]
fn messages_of_two_kinds_in_turn_are_compared_with_their_own() {
    for members in [1, 5] {
        let (mut encoder, mut decoder) = pair();
        let mut rng = Rng::with_seed(4);
        let kinds = [(); 2].map(|()| std::iter::repeat_with(|| rng.u8(..)).take(190).collect::<Vec<u8>>());
        let streams: Vec<u32> = (0..members).collect();
        for round in 0..20 {
            let payloads: Vec<Payload> = (0..5)
                .map(|to| titled(to, round, &kinds[usize::from(round % 2)]))
                .take(streams.len())
                .collect();
            let frame = encoder.encode(&streams, &payloads).unwrap();
            check(&mut decoder, &frame, &streams, &payloads);
            assert!(round < 2 || frame.len() <= 25, "round {round}: {} bytes", frame.len());
        }
    }
}

#[test]
fn one_message_out_of_step_does_not_cost_the_others_their_history() {
    for odd in 0..5 {
        let (mut encoder, mut decoder) = pair();
        let mut rng = Rng::with_seed(4);
        let mut body = |bytes| std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect::<Vec<u8>>();
        let (own, other) = ([(); 5].map(|()| body(150)), body(90));
        let streams = [0, 1, 2, 3, 4];
        for round in 0..4 {
            let payloads: Vec<Payload> = (0..5u8)
                .map(|to| {
                    titled(to, round, if (to, round) == (odd, 3) { &other } else { &own[usize::from(to)] })
                })
                .collect();
            let frame = encoder.encode(&streams, &payloads).unwrap();
            check(&mut decoder, &frame, &streams, &payloads);
            let most = [usize::MAX, 25, 25, 170][usize::from(round)];
            assert!(frame.len() <= most, "{odd} in round {round}: {} bytes", frame.len());
        }
    }
}

/// Two equal messages and one that differs in a place, in one frame and one after the other, whichever comes first.
#[test]
fn an_equal_pair_and_one_that_differs_survive_in_any_order() {
    for (len, place) in [(40, 9), (40, 39), (256, 255), (300, 280), (600, 0), (600, 599), (2000, 1000)] {
        let mut rng = Rng::with_seed(len as u64);
        let equal: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
        let mut differs = equal.clone();
        differs[place] ^= 0xFF;
        let text = |kind: usize| Payload::from(if kind == 0 { equal.clone() } else { differs.clone() });
        for odd in 0..3 {
            let kinds: Vec<usize> = (0..3).map(|index| usize::from(index == odd)).collect();
            // One stream hears all of them, or the pair, or each has its own.
            for streams in [[1, 1, 1], [1, 1, 2], [1, 2, 3]] {
                let (mut encoder, mut decoder) = pair();
                // In one frame, three times; the last time all are as they were, and little has to be said.
                let payloads: Vec<Payload> = kinds.iter().map(|&kind| text(kind)).collect();
                for round in 0..3 {
                    let frame = encoder.encode(&streams, &payloads).unwrap();
                    check(&mut decoder, &frame, &streams, &payloads);
                    let most = len.saturating_sub(256) + 40;
                    assert!(round == 0 || frame.len() <= most, "{len}, {odd}: {} bytes", frame.len());
                }
                // One after the other.
                for (index, &kind) in kinds.iter().chain(&kinds).chain(&kinds).enumerate() {
                    let (streams, payloads) = ([streams[index % 3]], [text(kind)]);
                    let frame = encoder.encode(&streams, &payloads).unwrap();
                    check(&mut decoder, &frame, &streams, &payloads);
                }
                // And all of the other kind, for those that remember both and those that do not.
                let payloads = [1 - kinds[0], 1 - kinds[1], 1 - kinds[2]].map(text);
                let frame = encoder.encode(&streams, &payloads).unwrap();
                check(&mut decoder, &frame, &streams, &payloads);
            }
        }
    }
}

#[test]
fn every_stage_serves_a_connection() {
    let streams = [1, 2, 3];
    for &stage in STAGES {
        let (mut encoder, mut decoder) = pair();
        encoder.set_stage(stage);
        for round in 0..20u8 {
            let text = format!("entry {round}: the same words come again and again, ").repeat(40);
            let message = |to: u8| Payload::from([&[to, round][..], text.as_bytes()].concat());
            let payloads: Vec<Payload> = (1..=3).map(message).collect();
            let frame = encoder.encode(&streams, &payloads).unwrap();
            check(&mut decoder, &frame, &streams, &payloads);
            assert_eq!(
                frame.len() * 4 < text.len(),
                stage != Stage::None,
                "{stage:?}: {} bytes",
                frame.len()
            );
        }
    }
}

#[test]
fn any_messages_survive_whatever_came_before() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let (mut encoder, mut decoder) = pair();
        let mut texts: Vec<Vec<u8>> = (0..12).map(|_| random(&mut rng, 900)).collect();
        for _ in 0..40 {
            let count = rng.usize(1..=8);
            let mut streams = Vec::new();
            let mut payloads = Vec::new();
            let base = rng.usize(0..texts.len());
            for _ in 0..count {
                let number = rng.usize(0..texts.len());
                let mut text = texts[if rng.bool() { base } else { number }].clone();
                for _ in 0..rng.usize(0..4) {
                    if text.is_empty() {
                        break;
                    }
                    let at = rng.usize(0..text.len());
                    match rng.u8(0..3) {
                        0 => text[at] = rng.u8(..),
                        1 => drop(text.splice(at..at, random(&mut rng, 6))),
                        _ => drop(text.drain(at..(at + rng.usize(0..9)).min(text.len()))),
                    }
                }
                texts[number] = text.clone();
                streams.push(u32::try_from(number).unwrap());
                payloads.push(cut(&mut rng, &text));
            }
            let frame = if rng.u8(..) < 30 {
                encoder.encode_unremembered(&streams, &payloads).unwrap()
            } else {
                encoder.encode(&streams, &payloads).unwrap()
            };
            check(&mut decoder, &frame, &streams, &payloads);
        }
    }
}

/// Whoever keeps one message has to know what it keeps alive with it.
#[test]
fn what_messages_keep_alive_is_more_than_came_in() {
    let (mut encoder, mut decoder) = pair();
    let streams: Vec<u32> = (0..100).collect();
    let payloads: Vec<Payload> = (0..100).map(|to| heartbeat(to, 5, 6)).collect();
    for round in 0..2 {
        let frame = encoder.encode(&streams, &payloads).unwrap();
        let parsed = decoder.parse(frame.to_bytes(), &streams).unwrap();
        if round == 1 {
            assert_eq!(parsed.buffer_bytes(), frame.len() + 100 * payloads[0].len());
        }
    }
    encoder.set_stage(Stage::Lz4);
    let frame = encoder.encode(&[1], &[Payload::from(vec![7; 100_000])]).unwrap();
    assert!(frame.len() < 1000);
    assert_eq!(decoder.parse(frame.to_bytes(), &[1]).unwrap().buffer_bytes(), 100_000);
}

fn random(rng: &mut Rng, most: usize) -> Vec<u8> {
    let len = rng.usize(0..=most);
    let alphabet = if rng.bool() { 3 } else { 255 };
    (0..len).map(|_| rng.u8(0..alphabet)).collect()
}

fn cut(rng: &mut Rng, text: &[u8]) -> Payload {
    let mut segments = Vec::new();
    let mut rest = Bytes::copy_from_slice(text);
    while !rest.is_empty() {
        segments.push(rest.split_to(rng.usize(1..=rest.len())));
    }
    segments.into_iter().collect()
}

#[test]
fn a_frame_of_another_history_is_the_end() {
    let (mut encoder, mut decoder) = pair();
    let frames: Vec<Bytes> =
        (0..4).map(|round| encoder.encode(&[1], &[heartbeat(1, 5, round)]).unwrap().to_bytes()).collect();
    decoder.parse(frames[0].clone(), &[1]).unwrap();
    let skipped = decoder.parse(frames[2].clone(), &[1]).unwrap_err();
    assert!(matches!(skipped, DecodeError::History { .. }), "{skipped}");
    let ended = DecodeError::Ended { by: Box::new(skipped) };
    for frame in &frames[1..] {
        assert_eq!(decoder.parse(frame.clone(), &[1]).unwrap_err(), ended, "also for what would have fitted");
    }
    let mut other = SessionDecoder::new(Limits::default(), EPOCH + 1);
    assert!(matches!(other.parse(frames[0].clone(), &[1]), Err(DecodeError::History { .. })));
    let mut twice = SessionDecoder::new(Limits::default(), EPOCH);
    twice.parse(frames[0].clone(), &[1]).unwrap();
    assert!(matches!(twice.parse(frames[0].clone(), &[1]), Err(DecodeError::History { .. })));
    let mut short = SessionDecoder::new(Limits::default(), EPOCH);
    assert!(matches!(short.parse(frames[0].clone(), &[]), Err(DecodeError::History { .. })));
    let alone = trunkline_codec::Frame::parse(frames[0].clone(), &Limits::default());
    assert!(matches!(alone, Err(DecodeError::Unsupported { .. })));
}

/// The numbers are not in the frame. With others its messages would be made of what other streams remember, and the two ends
/// would remember something else from then on.
#[test]
fn streams_that_were_not_named_are_the_end() {
    let streams = [1, 2, u32::MAX];
    let said = |round: u64| [1, 2, 3].map(|to| heartbeat(to, 5 + round, round));
    for remember in [true, false] {
        let (mut encoder, mut decoder) = pair();
        let first = encoder.encode(&streams, &said(0)).unwrap().to_bytes();
        let next = match remember {
            true => encoder.encode(&streams, &said(1)),
            false => encoder.encode_unremembered(&streams, &said(1)),
        };
        let next = next.unwrap().to_bytes();
        let after_first = || {
            let mut decoder = SessionDecoder::new(Limits::default(), EPOCH);
            decoder.parse(first.clone(), &streams).unwrap();
            decoder
        };
        for others in [[2, 1, u32::MAX], [u32::MAX, 2, 1], [1, 2, 3], [1, 2, 0x7FFF_FFFF], [1, 1, u32::MAX]] {
            let error = after_first().parse(next.clone(), &others).unwrap_err();
            assert!(matches!(error, DecodeError::History { .. }), "{others:?}: {error}");
            let mut at_once = SessionDecoder::new(Limits::default(), EPOCH);
            let error = at_once.parse(first.clone(), &others).unwrap_err();
            let ended = DecodeError::Ended { by: Box::new(error) };
            assert_eq!(at_once.parse(first.clone(), &streams).unwrap_err(), ended, "it is over");
        }
        for few_or_many in [&streams[..0], &streams[..2], &[1, 2, u32::MAX, 4]] {
            let error = after_first().parse(next.clone(), few_or_many).unwrap_err();
            assert!(matches!(error, DecodeError::History { .. }), "{few_or_many:?}: {error}");
        }
        decoder.parse(first.clone(), &streams).unwrap();
        let frame = decoder.parse(next, &streams).unwrap();
        assert!((0..3).all(|index| frame.to_vec(index) == said(1)[index].to_vec()));
    }
}

/// Whoever seals a frame can name as many streams as it likes; the numbers are under the checksum, not their count.
#[test]
fn another_number_of_streams_than_of_messages_is_the_end() {
    for (messages, streams) in [(1, 0), (1, 2), (3, 2), (3, 4), (2, 0)] {
        let numbers: Vec<u32> = (1..=streams).collect();
        let mut frame = vec![0xF5, 1, 9, messages];
        frame.resize(frame.len() + usize::from(messages), 0);
        let begins = named(crc32c::crc32c(&EPOCH.to_le_bytes()), &numbers);
        let checksum = crc32c::crc32c_append(begins, &frame);
        frame.extend_from_slice(&checksum.to_le_bytes());
        let mut decoder = SessionDecoder::new(Limits::default(), EPOCH);
        let error = decoder.parse(frame.into(), &numbers).unwrap_err();
        let (messages, streams) = (usize::from(messages), numbers.len());
        assert_eq!(error, DecodeError::Streams { messages, streams });
    }
}

#[test]
fn flipped_bytes_never_pass() {
    let (mut encoder, _) = pair();
    let one = encoder.encode(&[1, 2], &[heartbeat(1, 5, 1), heartbeat(2, 5, 1)]).unwrap().to_bytes();
    let two = encoder.encode(&[1, 2], &[heartbeat(1, 6, 2), heartbeat(2, 6, 2)]).unwrap().to_bytes();
    for at in 0..two.len() {
        for bit in 0..8 {
            let mut bad = two.to_vec();
            bad[at] ^= 1 << bit;
            let mut decoder = SessionDecoder::new(Limits::default(), EPOCH);
            decoder.parse(one.clone(), &[1, 2]).unwrap();
            assert!(decoder.parse(bad.into(), &[1, 2]).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn the_length_of_what_is_not_remembered_tells_nothing_of_what_was() {
    let mut rng = Rng::with_seed(4);
    let text = |rng: &mut Rng, len: usize| common::random(rng, len);
    for (count, len) in [(1, 40), (1, 300), (3, 40), (3, 64), (4, 300)] {
        let secrets: Vec<Vec<u8>> = (0..count).map(|_| text(&mut rng, len)).collect();
        let streams: Vec<u32> = (0..count).collect();
        let payloads = |texts: &[Vec<u8>]| texts.iter().cloned().map(Payload::from).collect::<Vec<_>>();
        // Heard before: the same, half of it, something else, nothing.
        let half =
            secrets.iter().map(|secret| [&secret[..len / 2], &text(&mut rng, len / 2)].concat()).collect();
        let other = (0..count).map(|_| text(&mut rng, len)).collect();
        let lens: Vec<usize> = [Some(secrets.clone()), Some(half), Some(other), None]
            .into_iter()
            .map(|before: Option<Vec<Vec<u8>>>| {
                let (mut encoder, mut decoder) = pair();
                for texts in before.iter().chain(before.iter()) {
                    let frame = encoder.encode(&streams, &payloads(texts)).unwrap();
                    decoder.parse(frame.to_bytes(), &streams).unwrap();
                }
                let frame = encoder.encode_unremembered(&streams, &payloads(&secrets)).unwrap();
                let parsed = decoder.parse(frame.to_bytes(), &streams).unwrap();
                assert!((0..secrets.len()).all(|index| parsed.to_vec(index) == secrets[index]));
                frame.len()
            })
            .collect();
        assert!(lens.iter().all(|len| *len == lens[0]), "{count} x {len}: {lens:?}");
    }
}

#[test]
fn an_end_takes_other_frames_than_its_peer() {
    let epochs = Epochs { outgoing: 1, incoming: 2 };
    let small = Limits { message_bytes: 10, ..Limits::default() };
    let options = |limits| Options { limits, ..options() };
    let mut one = Session::with_limits(options(Limits::default()), small, epochs);
    let mut other = Session::with_limits(options(small), Limits::default(), epochs.reversed());
    let long = [Payload::from(vec![1; 11])];
    let sent = one.encode(&[1], &long).unwrap();
    assert_eq!(other.parse(sent.to_bytes(), &[1]).unwrap().to_vec(0), [1; 11]);
    assert!(matches!(other.encode(&[1], &long), Err(EncodeError::Limit { maximum: 10, needed: 11, .. })));
    let mut other = Session::new(options(Limits::default()), epochs.reversed());
    let sent = other.encode(&[1], &long).unwrap();
    assert!(matches!(one.parse(sent.to_bytes(), &[1]), Err(DecodeError::Limit { maximum: 10, .. })));
}

#[test]
fn what_must_not_be_remembered_is_not() {
    let (mut encoder, mut decoder) = pair();
    let mut rng = Rng::with_seed(3);
    let secret = Payload::from(std::iter::repeat_with(|| rng.u8(..)).take(700).collect::<Vec<u8>>());
    for _ in 0..3 {
        let frame = encoder.encode_unremembered(&[1], std::slice::from_ref(&secret)).unwrap();
        assert!(frame.len() >= secret.len());
        let parsed = decoder.parse(frame.to_bytes(), &[1]).unwrap();
        assert!(parsed.is_unremembered());
    }
    let frame = encoder.encode(&[1], std::slice::from_ref(&secret)).unwrap();
    assert!(frame.len() >= secret.len(), "the first time that it counts");
    decoder.parse(frame.to_bytes(), &[1]).unwrap();
    let frame = encoder.encode(&[1], std::slice::from_ref(&secret)).unwrap();
    assert!(frame.len() + 230 < secret.len());
    decoder.parse(frame.to_bytes(), &[1]).unwrap();
}

/// A proposal goes up and comes back in an entry for many.
#[test]
fn what_the_peer_sent_is_not_sent_back() {
    let (mut leader, mut proxy) =
        (Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed()));
    let mut rng = Rng::with_seed(5);
    for round in 0..60_u64 {
        let proposal: Bytes =
            std::iter::repeat_with(|| rng.u8(..)).take(64 << 10).collect::<Vec<u8>>().into();
        let head = Bytes::copy_from_slice(&round.to_le_bytes());
        let up = proxy.encode(&[9], &[[head, proposal.clone()].into_iter().collect()]).unwrap();
        let up = leader.parse(up.to_bytes(), &[9]).unwrap();
        // The leader appends what it got, as it got it, and sends it to five members.
        let pieces: Vec<Bytes> = up.message(0).collect();
        let streams = [1, 2, 3, 4, 5];
        let payloads: Vec<Payload> = (0..5u8)
            .map(|to| {
                [Bytes::copy_from_slice(&[to, 1, 2]), Bytes::from_static(b"entry")]
                    .into_iter()
                    .chain(pieces.clone())
                    .collect()
            })
            .collect();
        let down = leader.encode(&streams, &payloads).unwrap();
        assert!(down.len() < 200, "round {round}: {} bytes back", down.len());
        let frame = proxy.parse(down.to_bytes(), &streams).unwrap();
        for (index, payload) in payloads.iter().enumerate() {
            assert!(frame.to_vec(index) == payload.to_vec());
        }
    }
}

/// Where only one end refers to what the other one sent, only that is kept.
#[test]
fn one_end_alone_refers_to_what_the_other_sent() {
    let (up_epochs, down_epochs) = (EPOCHS, EPOCHS.reversed());
    let (mut up, mut got) =
        (EchoEncoder::new(options(), up_epochs), EchoDecoder::new(options().limits, down_epochs));
    let (mut down, mut back) =
        (EchoEncoder::new(options(), down_epochs), EchoDecoder::new(options().limits, up_epochs));
    let (mut proxy, mut leader) = (EchoWindow::of_sent(up_epochs), EchoWindow::of_received(down_epochs));
    let mut rng = Rng::with_seed(6);
    for round in 0..60 {
        let bytes = [64 << 10, 3 << 10][round % 2];
        let proposal: Bytes = std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect::<Vec<u8>>().into();
        let frame = up.encode(&mut proxy, &[9], &[proposal.clone().into()]).unwrap();
        assert!(frame.len() > bytes && frame.stats().echoed_bytes == 0);
        let frame = got.parse(&mut leader, frame.to_bytes(), &[9]).unwrap();
        let piece = frame.message(0).last().unwrap();
        let frame = down.encode(&mut leader, &[1, 2], &[piece.clone().into(), piece.into()]).unwrap();
        assert!(frame.len() < 100, "round {round}: {} bytes back", frame.len());
        assert_eq!(frame.stats().echoed_bytes, bytes);
        let frame = back.parse(&mut proxy, frame.to_bytes(), &[1, 2]).unwrap();
        assert!(frame.to_vec(0) == proposal[..] && frame.to_vec(1) == proposal[..]);
        // What comes down is not kept by anybody.
        let again = up.encode(&mut proxy, &[9], &[frame.message(0).collect()]).unwrap();
        assert!(again.len() > bytes - 300 && !proxy.ack_due());
        got.parse(&mut leader, again.to_bytes(), &[9]).unwrap();
    }
}

#[test]
fn a_frame_that_ends_at_once_is_refused() {
    for bytes in 0..8 {
        let (mut encoder, mut decoder) = pair();
        let frame = encoder.encode(&[1], &[Payload::from(vec![7; 100])]).unwrap().to_bytes();
        assert!(decoder.parse(frame.slice(..bytes), &[1]).is_err(), "{bytes}");
    }
}

/// A message that takes a few bytes of a long segment keeps that alive, which whoever keeps messages has to know.
#[test]
fn what_an_echo_keeps_alive_is_the_whole_of_what_was_sent() {
    for (segment, taken) in [(16 << 10, 200), (64 << 10, 200), (1_000_000, 16)] {
        let (mut leader, mut proxy) =
            (Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed()));
        let mut rng = Rng::with_seed(1);
        let text: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(segment).collect();
        let up = proxy.encode(&[9], &[text.into()]).unwrap().to_bytes();
        let got = leader.parse(up, &[9]).unwrap().message(0).last().unwrap();
        // Two places of one segment: it counts once.
        let back: Payload =
            [got.slice(100..100 + taken), got.slice(5000..5000 + taken)].into_iter().collect();
        let down = leader.encode(&[1], std::slice::from_ref(&back)).unwrap();
        assert!(is_echo(&down) && down.len() < 60, "{down:?}");
        let frame = proxy.parse(down.to_bytes(), &[1]).unwrap();
        assert_eq!(frame.to_vec(0), back.to_vec());
        let alive = frame.buffer_bytes();
        assert!((segment..segment + 1000).contains(&alive), "{segment}: {alive}");
    }
}

/// An end that keeps nothing of what it sent is told nothing of it.
#[test]
fn an_echo_of_what_was_not_kept_is_refused() {
    let (mut up, mut leader) = (SessionEncoder::new(options(), 1), Session::new(options(), LEADERS));
    let frame = up.encode(&[9], &[Payload::from(vec![7; 4000])]).unwrap();
    let frame = leader.parse(frame.to_bytes(), &[9]).unwrap();
    let echo = leader.encode(&[1], &[frame.message(0).collect()]).unwrap();
    let mut alone = SessionDecoder::new(options().limits, LEADERS.outgoing);
    let error = alone.parse(echo.to_bytes(), &[1]).unwrap_err();
    assert!(
        matches!(error, DecodeError::Unsupported { offset: 2, .. })
            && error.to_string().contains("a Session"),
        "{error}"
    );
    let mut other = Session::new(options(), LEADERS.reversed());
    let error = other.parse(echo.to_bytes(), &[1]).unwrap_err();
    assert!(matches!(error, DecodeError::Arrived { .. }), "{error}");
}

const LEADERS: Epochs = Epochs { incoming: 1, outgoing: 2 };

/// An end that knows of other bytes than the peer sent, as many of them, or more or fewer, and counts as well as the peer does:
/// it would take others than are meant, and no count would tell.
#[test]
fn an_echo_of_other_bytes_is_refused_before_one_is_taken() {
    let text = |seed: u64, len: usize| {
        let mut rng = Rng::with_seed(seed);
        Bytes::from(std::iter::repeat_with(|| rng.u8(..)).take(len).collect::<Vec<u8>>())
    };
    // What the peer sent, and what the end that refers to it has got; in frames.
    for (sent, got, agree) in [
        (&[(1, 5000), (2, 3000)][..], &[(1, 5000)][..], true),
        (&[(1, 5000), (2, 3000)], &[(1, 5000), (2, 3000)], true),
        (&[(1, 5000)], &[(3, 5000)], false),
        (&[(1, 5000), (2, 3000)], &[(2, 3000)], false),
        (&[(1, 8000)], &[(1, 5000)], false),
        (&[(1, 5000), (2, 3000)], &[(2, 5000)], false),
        (&[(1, 5000), (2, 3000)], &[(2, 5000), (1, 3000)], false),
    ] {
        let (mut proxy, mut leader) =
            (Session::new(options(), LEADERS.reversed()), Session::new(options(), LEADERS));
        for &(seed, len) in sent {
            proxy.encode(&[9], &[text(seed, len).into()]).unwrap();
        }
        let mut peer = Session::new(options(), LEADERS.reversed());
        let mut last = None;
        for &(seed, len) in got {
            let frame = peer.encode(&[9], &[text(seed, len).into()]).unwrap();
            last = Some(leader.parse(frame.to_bytes(), &[9]).unwrap());
        }
        let echoed: Payload = last.unwrap().message(0).collect();
        let echo = leader.encode(&[1], std::slice::from_ref(&echoed)).unwrap();
        assert!(is_echo(&echo) && echo.len() < 50, "{echo:?}");
        match proxy.parse(echo.to_bytes(), &[1]) {
            Ok(frame) => assert!(agree && frame.to_vec(0) == echoed.to_vec(), "{sent:?}, {got:?}"),
            Err(error) => {
                let expected = matches!(error, DecodeError::History { .. } | DecodeError::Arrived { .. });
                assert!(!agree && expected, "{sent:?}, {got:?}: {error}");
            }
        }
    }
}

fn recent(rng: &mut Rng, all: &[Bytes]) -> Option<Bytes> {
    let from = all.len().saturating_sub(20);
    (!all.is_empty()).then(|| all[rng.usize(from..all.len())].clone())
}

#[test]
fn an_echo_survives_any_order_of_frames_and_a_window_that_passes() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let mut ends = [Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed())];
        // What each end got, and may send back.
        let mut got: [Vec<Bytes>; 2] = [Vec::new(), Vec::new()];
        let (mut said, mut sent) = (0, 0);
        let mut under_way: [std::collections::VecDeque<(EncodedFrame, Vec<Vec<u8>>)>; 2] = Default::default();
        for _ in 0..120 {
            let end = rng.usize(0..2);
            if rng.bool() {
                let count = rng.usize(1..4);
                let payloads: Vec<Payload> = (0..count)
                    .map(|_| {
                        let mut segments = vec![Bytes::from(random(&mut rng, 50_000))];
                        if let Some(old) = recent(&mut rng, &got[end])
                            && rng.u8(..) < 180
                        {
                            let from = rng.usize(0..=old.len());
                            segments.push(old.slice(from..));
                        }
                        segments.into_iter().collect()
                    })
                    .collect();
                let streams: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
                let frame = ends[end].encode(&streams, &payloads).unwrap();
                assert!(frame.len() <= bound(&payloads, is_echo(&frame)), "{} bytes", frame.len());
                said += payloads.iter().map(Payload::len).sum::<usize>();
                sent += frame.len();
                let texts = payloads.iter().map(Payload::to_vec).collect();
                under_way[1 - end].push_back((frame, texts));
            } else if let Some((frame, texts)) = under_way[end].pop_front() {
                let streams: Vec<u32> = (0..u32::try_from(texts.len()).unwrap()).collect();
                assert_one_spelling(&frame, |bytes| ends[end].reserialise(bytes, &streams));
                let frame = ends[end].parse(frame.to_bytes(), &streams).unwrap();
                for (index, text) in texts.iter().enumerate() {
                    assert!(frame.to_vec(index) == *text);
                    got[end].extend(frame.message(index));
                }
            }
        }
        assert!(sent * 20 < said * 19, "much went back by reference: {sent} of {said} bytes");
    }
}

/// A frame of the streams 1 and 2: its head and data as they are, with the checksum that belongs to it.
fn sealed(after: Option<&Bytes>, head: &[u8], data: &[u8]) -> Bytes {
    let before = match after {
        None => crc32c::crc32c(&EPOCH.to_le_bytes()),
        Some(frame) => u32::from_le_bytes(*frame.last_chunk().unwrap()),
    };
    let mut frame = vec![0xF5, 1, 8, 2, u8::try_from(head.len()).unwrap()];
    frame.extend_from_slice(head);
    frame.extend_from_slice(data);
    let checksum = crc32c::crc32c_append(named(before, &[1, 2]), &frame);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.into()
}

/// Sound checksums do not make up for references that cannot be, or are spelled otherwise.
#[test]
fn references_beyond_what_is_remembered_are_refused() {
    let (mut encoder, _) = pair();
    let first = encoder.encode(&[1, 2], &[vec![1; 300].into(), vec![2; 20].into()]).unwrap().to_bytes();
    let parse = |head: &[u8], data: &[u8]| {
        let mut decoder = SessionDecoder::new(Limits::default(), EPOCH);
        decoder.parse(first.clone(), &[1, 2]).unwrap();
        decoder
            .parse(sealed(Some(&first), head, data), &[1, 2])
            .map(|frame| (frame.to_vec(0), frame.to_vec(1)))
    };
    let legal = |head: &[u8], data: &[u8], one: &[u8], two: &[u8]| {
        assert_eq!(parse(head, data), Ok((one.to_vec(), two.to_vec())), "{head:02x?}");
    };
    legal(&[0xD1, 0x00, 20, 20], b"", &[1; 20], &[2; 20]);
    // Three bytes, one of its own, and on with the sixteen behind that place.
    legal(
        &[0xD1, 0x00, 3, 20, 0x00, 1, 0xD4, 0x00, 16],
        b"x",
        &[&[1; 3][..], b"x", &[1; 16]].concat(),
        &[&[2; 3][..], b"x", &[2; 16]].concat(),
    );
    legal(&[0xD1, 0xC0, 0x80, 2, 0x80, 2], b"", &[1; 256], b"");
    for (what, head, data) in [
        ("more than is remembered", &[0xD1, 0x00, 20, 21][..], &b""[..]),
        ("past the end", &[0xD1, 0x00, 21, 20], b""),
        ("more than the latest has behind that place", &[0x00, 2, 0xD1, 0x41, 20, 20], b"xx"),
        ("nothing is left there", &[0xD1, 0x00, 1, 0], b""),
        ("more than a head", &[0xD1, 0xC0, 0x80, 2, 0x80, 2, 0x40, 1, 0xD1, 0x40, 1, 0x81, 2], b"x"),
        ("again without a place", &[0xD4, 0x00, 1], b""),
        ("the same place spelled again", &[0xD1, 0xC0, 1, 20, 0xD1, 0xC0, 1, 20], b""),
        ("an echo where nothing was sent", &[0xD2, 0x00, 1, 1], b""),
        ("a huge place", &[0xD1, 0x00, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], b""),
    ] {
        let error = parse(head, data).unwrap_err();
        let spelling = matches!(error, DecodeError::NotCanonical { .. });
        let refused = spelling || matches!(error, DecodeError::Reference { .. } | DecodeError::Record { .. });
        assert!(refused && spelling == what.contains("spelled"), "{what}: {error}");
    }
}
