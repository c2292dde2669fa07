//! Frames whole, cut anywhere, damaged, and from strangers.

use super::*;
use crate::id::Seq;
use crate::proto::wire::Run;
use trunkline_codec::EncodeError;
use trunkline_codec::Options;

fn sealed(payloads: Vec<Payload>) -> SealedBatch {
    let run = |flow| Run { flow, first: Seq(7), count: 1, floor_back: 2, deadline_ms: 900 };
    let runs = (0..u32::try_from(payloads.len()).unwrap()).map(run).collect();
    SealedBatch {
        lane: Lane::Bulk,
        envelope: Envelope { batch: 12, attempt: 1, runs },
        payloads,
        stage: Stage::None,
        token: Token::Attempt(5),
    }
}

fn bytes_of(batch: &SealedBatch) -> Vec<u8> {
    let mut wire = Vec::new();
    batch.encode(&mut BatchEncoder::new(Options::default(), None), &mut wire);
    wire.iter().flat_map(|slice| slice.iter().copied()).collect()
}

fn open_reader() -> FrameReader {
    let mut reader = FrameReader::new();
    let mut preamble = BytesMut::from(&PREAMBLE[..]);
    assert!(reader.read(&mut preamble).unwrap().is_none());
    reader.open(&Opened { lane: Lane::Bulk, frame_bytes_max: 1 << 20, epochs: None, echo: None });
    reader
}

#[test]
fn a_batch_arrives_whole_whatever_the_cuts() {
    let bytes = bytes_of(&sealed(vec![Bytes::from_static(b"one").into(), Bytes::from_static(b"two").into()]));
    for cut in 0..=bytes.len() {
        let mut reader = open_reader();
        let mut buffer = BytesMut::from(&bytes[..cut]);
        let early = reader.read(&mut buffer).unwrap();
        assert_eq!(early.is_some(), cut == bytes.len());
        assert!(early.is_some() || reader.missing(&buffer) >= 1);
        buffer.extend_from_slice(&bytes[cut..]);
        let (received, length) = early.or_else(|| reader.read(&mut buffer).unwrap()).unwrap();
        let Received::Batch(envelope, frame) = received else { panic!("a batch") };
        assert_eq!(length, bytes.len());
        assert_eq!(envelope.runs.len(), 2);
        assert_eq!(frame.to_vec(1), b"two");
    }
}

#[test]
fn a_batch_that_no_frame_holds_is_an_error_and_leaves_nothing_half_written() {
    let mut wire = vec![Bytes::from_static(b"before")];
    let mut encoder = BatchEncoder::new(Options::default(), None);
    let error = sealed(Vec::new()).try_encode(&mut encoder, &mut wire).unwrap_err();
    assert_eq!(error, FrameError::Encode(EncodeError::NoDestinations));
    assert_eq!(wire.len(), 1);
    let limits = codec_limits(1000);
    let mut encoder = BatchEncoder::new(Options { limits, ..Options::default() }, None);
    let large = sealed(vec![Bytes::from(vec![0; 1001]).into()]);
    assert!(matches!(large.try_encode(&mut encoder, &mut wire), Err(FrameError::Encode(_))));
    assert!(
        sealed(vec![Bytes::from_static(b"x").into()]).try_encode(&mut encoder, &mut wire).is_ok(),
        "usable"
    );
}

#[test]
fn every_flipped_bit_is_an_error_or_waits_for_more() {
    let bytes = bytes_of(&sealed(vec![Bytes::from_static(b"payload").into()]));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = BytesMut::from(&bytes[..]);
        damaged[bit / 8] ^= 1 << (bit % 8);
        // A longer length waits for bytes that never come; the silence timeout ends that connection.
        assert!(!matches!(open_reader().read(&mut damaged), Ok(Some(_))), "bit {bit}");
    }
}

#[test]
fn strangers_get_little() {
    let mut http = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
    assert!(matches!(FrameReader::new().read(&mut http), Err(FrameError::Preamble(_))));
    let mut first_byte = BytesMut::from(&b"G"[..]);
    assert!(FrameReader::new().read(&mut first_byte).is_err(), "known by its first byte");

    let mut oversize = BytesMut::from(&PREAMBLE[..]);
    oversize.extend_from_slice(&header(FrameType::Hello, Lane::Bulk, &[0; HANDSHAKE_BYTES_MAX + 1], 0));
    assert!(matches!(FrameReader::new().read(&mut oversize), Err(FrameError::TooLong { .. })));

    let mut early = BytesMut::from(&PREAMBLE[..]);
    early.extend_from_slice(&bytes_of(&sealed(vec![Bytes::from_static(b"x").into()])));
    assert!(matches!(FrameReader::new().read(&mut early), Err(FrameError::TooLong { what: "payload", .. })));
}

#[test]
fn direct_cost_is_what_a_frame_of_one_run_has() {
    for length in [1, 100, 5_000, 200_000] {
        let payload = Payload::from(Bytes::from(vec![7; length]));
        let actual = u64::try_from(bytes_of(&sealed(vec![payload])).len()).unwrap();
        assert!(actual.abs_diff(direct_frame_bytes(length)) <= 6, "{length}: {actual}");
    }
}

/// A damaged length of the payload that stays below the limit: nobody sends the bytes that it promises.
#[test]
fn a_damaged_length_of_a_payload_is_found_before_the_payload_is_waited_for() {
    let bytes = bytes_of(&sealed(vec![Bytes::from_static(b"one").into()]));
    let control = usize::try_from(u32::from_le_bytes(bytes[4..8].try_into().unwrap())).unwrap();
    for bit in 0..20 {
        let mut damaged = bytes.clone();
        damaged[8 + bit / 8] ^= 1 << (bit % 8);
        let mut buffer = BytesMut::from(&damaged[..HEADER_BYTES + control]);
        let read = open_reader().read(&mut buffer);
        assert!(matches!(read, Err(FrameError::Checksum { .. } | FrameError::TooLong { .. })), "{read:?}");
    }
}
