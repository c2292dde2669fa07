//! Frames as a connection brings them: cut anywhere, and batches with their envelopes.

use bytes::{Bytes, BytesMut};
use trunkline_codec::{Epochs, Options, Payload, Stage};
use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{
    FrameError, FrameReader, FrameType, HANDSHAKE_BYTES_MAX, HEADER_BYTES, Opened, Received, SealedBatch,
    Token,
};
use trunkline_mesh::proto::run::{message_head, split_run};
use trunkline_mesh::proto::wire::{CONTROL_BYTES_MAX, Envelope, PREAMBLE, Run, encode};

use super::control::check_again;
use super::hand::Hand;
use super::shell::{every_frame, frame_of, run};

/// Longest payload of these connections, bytes.
const FRAME_BYTES_MAX: usize = 1 << 18;

fn opened(lane: Lane, epochs: Option<Epochs>) -> Opened {
    Opened { lane, frame_bytes_max: FRAME_BYTES_MAX, epochs, echo: None }
}

/// The bytes of a connection: a preamble and frames, whole or not, with right checksums or not.
fn stream(hand: &mut Hand<'_>, lane: Lane) -> Vec<u8> {
    let mut bytes = if hand.one_in(32) { hand.noise().to_vec() } else { PREAMBLE.to_vec() };
    for _ in 0..1 + hand.below(8) {
        match hand.below(8) {
            0 => bytes.extend_from_slice(hand.noise()),
            1..3 => {
                let (kind, body) = (hand.byte() % 12, hand.noise());
                bytes.extend(frame_of(kind, lane, body));
            }
            3 => {
                let mut header = [0; HEADER_BYTES];
                header[0] = hand.byte() % 12;
                header[1] = u8::try_from(lane.index()).unwrap();
                header[4..8].copy_from_slice(&hand.number32().to_le_bytes());
                header[8..12].copy_from_slice(&hand.number32().to_le_bytes());
                bytes.extend_from_slice(&header);
            }
            _ => {
                let all = every_frame(lane);
                let mut frame = all[hand.below(all.len())].1.clone();
                if hand.one_in(8) {
                    let at = hand.below(frame.len());
                    frame[at] ^= 1 << hand.below(8);
                }
                bytes.extend(frame);
            }
        }
    }
    bytes
}

/// What is read of a connection that arrives in these parts, and how it ends.
fn read(opened: Option<&Opened>, parts: &[&[u8]]) -> (Vec<String>, Option<FrameError>) {
    let mut reader = FrameReader::new();
    if let Some(opened) = opened {
        reader.open(opened);
    }
    let most = if opened.is_some() { CONTROL_BYTES_MAX + FRAME_BYTES_MAX } else { HANDSHAKE_BYTES_MAX };
    let (mut buffer, mut frames, mut taken, mut missing) = (BytesMut::new(), Vec::new(), 0, 0);
    for part in parts {
        buffer.extend_from_slice(part);
        let enough = part.len() >= missing;
        loop {
            let before = buffer.len();
            match reader.read(&mut buffer) {
                Ok(None) => break,
                Ok(Some((received, bytes))) => {
                    assert!(enough, "{} bytes were less than what was missing", part.len());
                    taken += bytes;
                    assert!(bytes >= HEADER_BYTES && bytes <= HEADER_BYTES + most, "{bytes}");
                    frames.push(format!("{received:?}"));
                }
                Err(error) => {
                    assert!(FrameError::LABELS.contains(&error.label()));
                    assert!(error.to_string().len() <= 2048, "{error}");
                    // Only a preamble is judged by its first byte, and a checksum before the payload is there.
                    let early = matches!(error, FrameError::Preamble(_) | FrameError::Checksum { .. });
                    assert!(enough || early, "{error}");
                    return (frames, Some(without_what_came(error)));
                }
            }
            assert!(buffer.len() < before, "a frame takes bytes");
        }
        assert!(buffer.len() < HEADER_BYTES + most, "{} bytes wait", buffer.len());
        missing = reader.missing(&buffer);
        assert!(missing >= 1);
    }
    let all: usize = parts.iter().map(|part| part.len()).sum();
    assert!(taken <= all, "{taken} of {all}");
    (frames, None)
}

/// A preamble is refused at its first wrong byte, and shown as far as it came.
fn without_what_came(error: FrameError) -> FrameError {
    if matches!(error, FrameError::Preamble(_)) { FrameError::Preamble([0; 8]) } else { error }
}

/// However a connection's bytes are cut, the same frames come out, and the same end.
pub(crate) fn cuts(data: &[u8]) {
    let mut hand = Hand::new(data);
    let lane = hand.lane();
    let open = hand.one_in(2).then(|| opened(lane, None));
    let bytes = stream(&mut hand, lane);
    let whole = read(open.as_ref(), &[&bytes]);
    let mut parts = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() && !hand.is_empty() {
        let (part, behind) = rest.split_at(hand.below(24).min(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    assert_eq!(read(open.as_ref(), &parts), whole);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(open.as_ref(), &single), whole);
}

/// Batches of one connection, of which some are not what they seem. A connection that was said nothing wrong on is read to
/// its end, and gives what was put in.
pub(crate) fn batch(data: &[u8]) {
    let mut hand = Hand::new(data);
    let lane = hand.lane();
    let epochs = hand.one_in(2).then_some(Epochs { incoming: 8, outgoing: 9 });
    let mut reader = FrameReader::new();
    reader.open(&opened(lane, epochs));
    let mut encoder =
        BatchEncoder::new(Options::default(), Some(&opened(lane, epochs.map(Epochs::reversed))));
    let mut buffer = BytesMut::from(&PREAMBLE[..]);
    for _ in 0..16 {
        if hand.is_empty() {
            return;
        }
        let runs: Vec<Run> = (0..hand.below(6)).map(|_| hand.run()).collect();
        let payloads: Vec<Payload> = runs.iter().map(|run| hand.payload(run)).collect();
        let (mut frame, right) = write(&mut hand, lane, &mut encoder, &runs, &payloads);
        let damaged = hand.one_in(8);
        if damaged {
            let at = (hand.below(256) << 8 | hand.below(256)) % frame.len();
            frame[at] ^= 1 << hand.below(8);
        }
        buffer.extend_from_slice(&frame);
        match reader.read(&mut buffer) {
            Ok(Some((Received::Batch(envelope, frame), _))) => {
                check_batch(&envelope, &frame);
                assert!(!damaged, "the checksums see one bit");
                if right {
                    assert_eq!(envelope.runs, runs);
                    let said = payloads.iter().map(Payload::to_vec);
                    assert!(said.zip(0..).all(|(payload, index)| payload == frame.to_vec(index)));
                }
            }
            Ok(other) => return assert!(!right || damaged, "{other:?}"),
            Err(error) => return assert!(!right || damaged, "{error}"),
        }
    }
}

/// A batch, and whether it is right.
fn write(
    hand: &mut Hand<'_>,
    lane: Lane,
    encoder: &mut BatchEncoder,
    runs: &[Run],
    payloads: &[Payload],
) -> (Vec<u8>, bool) {
    let envelope = Envelope { batch: hand.number(), attempt: 1, runs: runs.to_vec() };
    let stage = if hand.one_in(3) { Stage::Lz4 } else { Stage::None };
    let payloads = payloads.to_vec();
    let sealed = SealedBatch { lane, envelope, payloads, stage, token: Token::Attempt(0) };
    let mut wire = Vec::new();
    let shape = hand.below(10);
    if shape < 7 && sealed.try_encode(encoder, &mut wire).is_ok() {
        return (wire.concat(), true);
    }
    let (body, payload) = match shape {
        // An envelope of any bytes; or a codec frame of any bytes behind a good envelope.
        7 => (hand.noise().to_vec(), hand.noise().to_vec()),
        8 => (encode(&sealed.envelope), hand.noise().to_vec()),
        // More or fewer runs than messages.
        _ => {
            let mut other = sealed.clone();
            other.payloads.push(Payload::from(hand.noise().to_vec()));
            other.envelope.runs.push(run(0, 1, 1, 0));
            let mut codec = Vec::new();
            if other.try_encode(encoder, &mut codec).is_err() {
                return (Vec::from([0; HEADER_BYTES]), false);
            }
            (encode(&sealed.envelope), codec[1..].concat())
        }
    };
    (batch_of(lane, &body, &payload), false)
}

/// A batch frame around any envelope and any payload.
fn batch_of(lane: Lane, envelope: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_of(FrameType::Batch as u8, lane, envelope);
    frame[8..12].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    frame = super::shell::sum_again(frame);
    frame.extend_from_slice(payload);
    frame
}

/// What was taken has as many messages as runs, within the connection's limits; and a run that is cut into messages has
/// one spelling.
fn check_batch(envelope: &Envelope, frame: &trunkline_codec::Frame) {
    assert_eq!(envelope.runs.len(), frame.message_count());
    check_again(&encode(envelope), envelope);
    let mut all = 0;
    for (index, run) in envelope.runs.iter().enumerate() {
        let bytes = frame.to_vec(index);
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        all += bytes.len();
        let Ok(messages) = split_run(frame.message(index), run.count) else { continue };
        assert_eq!(u32::try_from(messages.len()), Ok(run.count));
        let heads = messages.iter().map(|message| {
            [message_head(message.kind, message.payload.len()), Bytes::from(message.payload.to_vec())]
                .concat()
        });
        assert!(heads.collect::<Vec<_>>().concat() == bytes, "run {index} has another spelling");
    }
    assert!(all <= 16 * FRAME_BYTES_MAX);
}
