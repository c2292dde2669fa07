//! Bytes that no encoder wrote: every one is refused with a typed error or has exactly one meaning. Nothing panics, and
//! nothing is allocated that the limits do not allow.

mod common;

use bytes::Bytes;
use common::bombs::{Bomb, bombs};
use common::{
    FAMILIES, STAGES, cases, encoder, family, frame_of,
    named::{carried, named},
    payloads, random, seal,
};
use fastrand::Rng;
use proptest::prelude::*;
use trunkline_codec::{
    DecodeError, EncodeError, Encoder, Epochs, Frame, LimitName, Limits, Options, Payload, Session,
    SessionDecoder, Stage, reserialise, varint,
};

fn parse(bytes: &Bytes) -> Result<Frame, DecodeError> {
    Frame::parse(bytes.clone(), &Limits::default())
}

/// Frames of several shapes: concatenations, records of every kind, with and without a second stage.
fn frames() -> Vec<(Vec<Payload>, Bytes)> {
    let mut rng = Rng::with_seed(11);
    let mut frames = Vec::new();
    for kind in 0..FAMILIES {
        for (count, len, stage) in [
            (5, 150, Stage::None),
            (70, 16, Stage::None),
            (3, 400, Stage::Lz4),
            (1, 40, Stage::None),
            (3, 400, Stage::Zstd),
        ] {
            if !STAGES.contains(&stage) {
                continue;
            }
            let messages = family(kind, &mut rng, count, len);
            let messages = payloads(&mut rng, &messages);
            let frame = encoder(stage).encode(&messages).unwrap().to_bytes();
            frames.push((messages, frame));
        }
    }
    frames
}

/// The frame is refused, or it is canonical and can be read.
fn harmless(bytes: &Bytes) {
    let Ok(frame) = parse(bytes) else { return };
    for index in 0..frame.message_count() {
        assert_eq!(frame.to_vec(index).len(), frame.message_len(index));
        assert_eq!(frame.message(index).map(|piece| piece.len()).sum::<usize>(), frame.message_len(index));
    }
    let again = reserialise(bytes.clone(), &Limits::default()).unwrap();
    if bytes[2] & 6 == 0 {
        assert!(again == *bytes, "two spellings of one frame");
    }
}

#[test]
fn truncations_are_refused() {
    for (_, frame) in frames() {
        for len in 0..frame.len() {
            assert!(parse(&frame.slice(..len)).is_err(), "{len} of {}", frame.len());
            if len >= 7 {
                // The same with a checksum that fits.
                harmless(&seal(frame[..len].to_vec()));
            }
        }
        let longer = [&frame[..], &[0]].concat();
        assert!(parse(&longer.clone().into()).is_err());
        let shifted = seal([&frame[..frame.len() - 4], &[0; 5]].concat());
        assert!(parse(&shifted).is_err(), "a byte too many");
    }
}

#[test]
fn flipped_bytes_are_refused() {
    for (_, frame) in frames() {
        for at in 0..frame.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut bytes = frame.to_vec();
                bytes[at] ^= mask;
                assert!(parse(&bytes.into()).is_err(), "byte {at}");
            }
        }
    }
}

#[test]
fn resealed_frames_never_panic() {
    for (_, frame) in frames() {
        for at in 0..frame.len() - 4 {
            for mask in [0x01, 0x06, 0x40, 0x80] {
                let mut bytes = frame.to_vec();
                bytes[at] ^= mask;
                harmless(&seal(bytes));
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn what_is_accepted_is_canonical(flags in 0u8..32, m in 1u8..80, head in prop::collection::vec(any::<u8>(), 0..40), data in 0usize..60) {
        // Heads made of likely bytes, so that some are accepted; the data fits by chance only, so try around it.
        let codes = [0x00, 0x01, 0x40, 0x41, 0x80, 0xC0, 0xC4, 0xC5, 0xC6, 0xC7, 0xD0, 1, 2, 3, 5, 7];
        let head: Vec<u8> = head.iter().map(|&byte| if byte < 200 { codes[usize::from(byte) % 16] } else { byte }).collect();
        let head_len = u8::try_from(head.len()).unwrap();
        harmless(&frame_of(&[&[flags, m], &head[..], &vec![7; data]].concat()));
        for data in 0..60 {
            harmless(&frame_of(&[&[flags & 0x10, m, head_len], &head[..], &vec![7; data]].concat()));
        }
    }

    #[test]
    fn noise_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        harmless(&bytes.clone().into());
        harmless(&frame_of(&bytes));
    }
}

#[test]
fn other_spellings_are_refused() {
    let refused = |rest: &[u8]| match parse(&frame_of(rest)) {
        Err(DecodeError::NotCanonical { offset, .. }) => offset,
        other => panic!("{rest:02x?}: {other:?}"),
    };
    // ONE 0 is NEXT.
    assert_eq!(refused(&[0, 3, 2, 0x40, 1, b'x']), 5);
    // BUT 1 of two is NEXT.
    refused(&[0, 2, 2, 0x81, 1, b'x']);
    // EACH with one member.
    refused(&[0, 3, 3, 0xD0, 0xC0, 1, b'x']);
    // A set defined twice.
    assert_eq!(refused(&[0, 9, 8, 0xC4, 5, 0, 1, 0xC4, 5, 0, 1, b'x', b'y']), 9);
    // A record without bytes.
    assert!(matches!(parse(&frame_of(&[0, 2, 2, 0x00, 0])), Err(DecodeError::Length { offset: 6, .. })));
    let overlong = |rest: &[u8], at: usize| {
        assert_eq!(parse(&frame_of(rest)).unwrap_err(), DecodeError::Varint { offset: at }, "{rest:02x?}");
    };
    overlong(&[1, 0x81, 0x00, 0], 3);
    overlong(&[1, 1, 0x80, 0x00], 4);
    overlong(&[0, 2, 0x83, 0x00, 0x00, 0x01, 0], 4);
    overlong(&[0, 2, 3, 0x00, 0x81, 0x00, b'x'], 6);
    overlong(&[1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], 4);
    overlong(&[1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], 4);
}

#[test]
fn unknown_versions_and_flags_are_refused() {
    let (_, frame) = frames().swap_remove(0);
    let with = |at: usize, byte: u8| {
        let mut bytes = frame.to_vec();
        bytes[at] = byte;
        parse(&seal(bytes)).unwrap_err()
    };
    assert_eq!(with(0, 0xF4), DecodeError::Magic { found: 0xF4 });
    assert_eq!(with(1, 2), DecodeError::Version { found: 2 });
    assert_eq!(with(1, 0), DecodeError::Version { found: 0 });
    assert_eq!(with(2, 0x20), DecodeError::Flags { found: 0x20 });
    assert_eq!(with(2, 0x06), DecodeError::Flags { found: 0x06 });
    if cfg!(feature = "zstd") {
        assert!(matches!(with(2, 0x04), DecodeError::NotCanonical { .. } | DecodeError::Stage { .. }));
    } else {
        assert!(matches!(with(2, 0x04), DecodeError::Unsupported { offset: 2, .. }));
    }
    assert!(matches!(with(2, 0x08), DecodeError::Unsupported { offset: 2, .. }));
    let error = parse(&frame_of(&[0, 2, 2, 0xD3, 0])).unwrap_err();
    assert!(matches!(error, DecodeError::Unsupported { offset: 5, .. }), "{error:?}");
    for code in [0xD1, 0xD2, 0xD4] {
        let error = parse(&frame_of(&[0, 2, 2, code, 0])).unwrap_err();
        assert_eq!(error, DecodeError::Record { offset: 5, code });
    }
    let error = parse(&frame_of(&[0, 2, 2, 0xC8, 1, b'x'])).unwrap_err();
    assert_eq!(error, DecodeError::Record { offset: 5, code: 0xC8 });
    let noref = parse(&frame_of(&[0x11, 1, 1, b'x'])).unwrap();
    assert!(noref.is_unremembered() && noref.to_vec(0) == b"x");
    let zstd =
        Encoder::new(Options { stage: Stage::Zstd, ..Options::default() }).encode(&[Payload::default()]);
    let refused = matches!(zstd, Err(EncodeError::StageUnsupported));
    assert_eq!(refused, cfg!(not(feature = "zstd")));
    assert_eq!(zstd.is_ok(), cfg!(feature = "zstd"));
}

/// A frame of these streams on a connection that begins with this epoch: flags, and what is between them and the checksum.
fn first_frame_of(epoch: u64, streams: &[u32], flags_and_rest: &[u8]) -> Bytes {
    let frame = [&[0xF5, 1], flags_and_rest].concat();
    let begins = named(crc32c::crc32c(&epoch.to_le_bytes()), streams);
    let checksum = crc32c::crc32c_append(begins, &frame);
    [&frame[..], &checksum.to_le_bytes()].concat().into()
}

#[test]
fn frames_of_the_other_kind_are_refused_as_such() {
    let decode = |frame: Bytes| SessionDecoder::new(Limits::default(), 7).parse(frame, &[1]);
    assert_eq!(decode(first_frame_of(7, &[1], &[0x09, 1, 1, b'x'])).unwrap().to_vec(0), b"x");
    // Alone, with the checksum of such a frame or of a connection's; with NOREF.
    for frame in [frame_of(&[0x01, 1, 1, b'x']), first_frame_of(7, &[1], &[0x01, 1, 1, b'x'])] {
        assert_eq!(decode(frame).unwrap_err(), DecodeError::NoHistory { found: 0x01 });
    }
    let error = decode(frame_of(&[0x11, 1, 1, b'x'])).unwrap_err();
    assert_eq!(error, DecodeError::NoHistory { found: 0x11 });
    assert!(error.to_string().contains("belongs to no connection"), "{error}");
    // What has no meaning anywhere has none here.
    for flags in [0x20, 0x06, 0x40] {
        let error = decode(frame_of(&[flags, 1, 1, b'x'])).unwrap_err();
        assert_eq!(error, DecodeError::Flags { found: flags });
    }
    let error = parse(&first_frame_of(7, &[1], &[0x09, 1, 1, b'x'])).unwrap_err();
    assert!(error.to_string().contains("the connection's history"), "{error}");
}

#[test]
fn what_has_arrived_ends_where_a_frame_does() {
    for (count, at) in [(1, 4), (300, 5)] {
        let streams: Vec<u32> = (0..count).collect();
        let mut rest = vec![0x29];
        varint::put(&mut rest, streams.len());
        rest.push(6);
        rest.resize(rest.len() + streams.len(), 0);
        for sent in [&[5][..], &[6], &[7], &[4, 2, 1], &[6, 6]] {
            let mut end = Session::new(Options::default(), Epochs { outgoing: 7, incoming: 7 });
            let (mut place, mut ends_there) = (0, None);
            for &bytes in sent {
                let frame = end.encode(&[1], &[vec![1; bytes].into()]).unwrap().to_bytes();
                place += bytes;
                ends_there = ends_there.or((place == 6).then(|| carried(&frame)));
            }
            let frame = first_frame_of(7, &streams, &rest);
            let body = &frame[..frame.len() - 4];
            let begins = named(crc32c::crc32c(&7u64.to_le_bytes()), &streams);
            let Some(checksum) = ends_there else {
                let error = end.parse(frame.clone(), &streams).unwrap_err();
                assert_eq!(error, DecodeError::Arrived { offset: at, announced: 6, unknown: place });
                continue;
            };
            // With the checksum of its own direction alone, of another frame, and of the one that ends there.
            for (window, fits) in [(0, false), (checksum ^ 1, false), (checksum, true)] {
                let sealed = crc32c::crc32c_append(begins ^ window, body).to_le_bytes();
                let mut end = Session::new(Options::default(), Epochs { outgoing: 7, incoming: 7 });
                for &bytes in sent {
                    end.encode(&[1], &[vec![1; bytes].into()]).unwrap();
                }
                let parsed = end.parse([body, &sealed].concat().into(), &streams);
                assert_eq!(parsed.is_ok(), fits, "{sent:?}: {parsed:?}");
                assert!(fits || matches!(parsed, Err(DecodeError::History { .. })), "{sent:?}: {parsed:?}");
            }
        }
    }
}

/// Limits of which one is `value`.
fn limits(name: LimitName, value: usize) -> Limits {
    let mut limits = Limits::default();
    match name {
        LimitName::Destinations => limits.destinations = value,
        LimitName::MessageBytes => limits.message_bytes = value,
        LimitName::OutputBytes => limits.output_bytes = value,
        LimitName::Pieces => limits.pieces = value,
        LimitName::Records => limits.records = value,
        LimitName::DataBytes => limits.data_bytes = value,
        LimitName::SetBytes => limits.set_bytes = value,
        other => panic!("unknown limit {other}"),
    }
    limits
}

/// What is wrong, where, and in which words.
#[test]
fn what_is_wrong_with_a_frame_is_said() {
    let sealed = |body: &[u8]| {
        let mut frame = [&[0xF5, 1], body].concat();
        frame.extend_from_slice(&trunkline_codec::checksum::crc32c(&frame).to_le_bytes());
        Frame::parse(frame.into(), &limits(LimitName::MessageBytes, 10)).unwrap_err()
    };
    for (body, text) in [
        (&[0, 0][..], "number at byte 3 is 0: a frame has at least one destination"),
        (&[0, 2, 2, 0, 0], "number at byte 6 is 0: a record has at least one byte"),
        (&[0, 3, 3, 0xC4, 0, 1], "byte 5 is no set of destinations: a set has at least one member"),
        (
            &[0, 3, 3, 0xC4, 8, 1],
            "byte 6 is no set of destinations: members are below the number of destinations",
        ),
        (&[0, 3, 2, 1, 1, 9], "byte 5 is no set of destinations: a set is defined before it is referred to"),
        (&[0, 3, 1, 0], "an integer or a set is cut off at byte 6"),
        (&[0, 3, 9, 0, 1], "the head is cut off at byte 7"),
        (&[0, 3, 2, 0, 2, 9], "the data column is cut off at byte 8"),
        (
            &[2, 1, 2, 0, 10, 0xFF, 0xFF, 0xFF],
            "second stage at byte 7: a block of 3 bytes that does not expand to the 10 announced",
        ),
        (
            &[0, 3, 2, 0, 11],
            "limit message_bytes is 10, a message needs 11 at byte 5 already: raise the limit here, or give the sender this \
             one, which then makes no such frame",
        ),
        (&[0, 0x81, 8], "byte 3 says 1025 destinations, and a frame has at most 1024"),
    ] {
        let found = sealed(body);
        assert!(found.to_string().starts_with(text), "{found}");
    }
    for bytes in 0..5 {
        let short = parse(&Bytes::from(vec![0xF5, 1, 0, 1, 0]).slice(..bytes)).unwrap_err();
        assert_eq!(short.to_string(), format!("the frame is cut off at byte {bytes}"));
    }
    assert_eq!(parse(&Bytes::from_static(b"GE")).unwrap_err(), DecodeError::Magic { found: b'G' });
    assert_eq!(parse(&Bytes::from_static(&[0xF5, 2])).unwrap_err(), DecodeError::Version { found: 2 });
    if !cfg!(feature = "zstd") {
        let found = sealed(&[4, 1]).to_string();
        assert_eq!(
            found,
            "byte 2 needs what is not available here: the cargo feature `zstd`, for its second stage"
        );
    }
}

/// The same of frames of a connection, on which one message of two bytes went each way before.
#[test]
fn what_is_wrong_with_a_frame_of_a_connection_is_said() {
    let epochs = Epochs { outgoing: 3, incoming: 7 };
    let earlier = first_frame_of(7, &[1], &[0x09, 1, 2, b'h', b'i']);
    // The other end says that the two bytes arrived. Its checksum goes on from that of the frame with which they did.
    let after = |streams: &[u32], flags_and_rest: &[u8], sent: Option<u32>| -> Bytes {
        let frame = [&[0xF5, 1], flags_and_rest].concat();
        let begins = named(carried(&earlier), streams) ^ sent.unwrap_or_default();
        [&frame[..], &crc32c::crc32c_append(begins, &frame).to_le_bytes()].concat().into()
    };
    let end = || {
        let mut end = Session::new(Options::default(), epochs);
        let sent = end.encode(&[1], &[b"yo".to_vec().into()]).unwrap().to_bytes();
        end.parse(earlier.clone(), &[1]).unwrap();
        (end, carried(&sent))
    };
    for (flags_and_rest, text) in [
        // PAST of what its stream remembers, of more than that, and of what would be later.
        (&[0x08, 1, 4, 0xD1, 0, 2, 2][..], ""),
        (
            &[0x08, 1, 4, 0xD1, 0, 3, 2],
            "record at byte 5 refers to what is not there: PAST has to lie within what the streams of all its members remember",
        ),
        (
            &[0x08, 1, 4, 0xD1, 0, 3, 3],
            "record at byte 5 refers to what is not there: PAST has to lie within what the streams of all its members remember",
        ),
        (
            &[0x08, 1, 4, 0xD1, 0, 1, 0],
            "record at byte 5 refers to what is not there: PAST has to lie within what the streams of all its members remember",
        ),
        (
            &[0x08, 1, 3, 0xD4, 0, 1],
            "record at byte 5 refers to what is not there: AGAIN needs a PAST before it",
        ),
        (
            &[0x08, 1, 5, 0xD1, 0, 0x81, 2, 2],
            "record at byte 5 refers to what is not there: PAST has to stay within a message's first 256 bytes",
        ),
        (&[0x08, 1, 4, 0xD2, 0, 1, 1], "record code 0xd2 at byte 5 has no meaning in a frame of these flags"),
        // Two bytes have arrived, and they are said.
        (&[0x28, 1, 2, 4, 0xD2, 0, 2, 2], ""),
        (
            &[0x28, 1, 2, 4, 0xD2, 0, 2, 3],
            "record at byte 6 refers to what is not there: ECHO has to lie within the last 1,048,576 bytes that arrived of what this end \
             sent",
        ),
        (
            &[0x28, 1, 2, 4, 0xD2, 0, 2, 1],
            "record at byte 6 refers to what is not there: an ECHO may be no longer than its distance",
        ),
        (
            &[0x28, 1, 1, 4, 0xD2, 0, 1, 1],
            "byte 4 says that 1 byte more arrived, where no frame ends; not known to have arrived: 2; ",
        ),
    ] {
        let (mut end, sent) = end();
        let echoes = flags_and_rest[0] & 0x20 != 0;
        match end.parse(after(&[1], flags_and_rest, echoes.then_some(sent)), &[1]) {
            Ok(frame) => assert!(text.is_empty() && frame.message_len(0) == 2, "{flags_and_rest:?}"),
            Err(error) => assert!(error.to_string().starts_with(text) && !text.is_empty(), "{error}"),
        }
    }
    let concat = [0x09, 1, 1, b'x'];
    let error = end().0.parse(after(&[1, 2], &concat, None), &[1, 2]).unwrap_err().to_string();
    let text = "byte 3 says 1 message, and both ends name 2 streams for them: the sender has to name one for each message, on a \
                new connection";
    assert_eq!(error, text);
    let error = end().0.parse(after(&[1], &concat, None), &[2]).unwrap_err().to_string();
    assert!(error.starts_with("checksum over this history and the streams named (1) is 0x"), "{error}");
    assert!(error.ends_with("begin a new connection"), "{error}");
    let mut alone = SessionDecoder::new(Limits::default(), epochs.incoming);
    let error = alone.parse(first_frame_of(7, &[1], &[0x29, 1, 1, 0]), &[1]).unwrap_err().to_string();
    let text = "byte 2 needs what is not available here: a window of what this end sent (a Session has one, or EchoWindow::of_sent)";
    assert_eq!(error, text);
}

#[test]
fn every_limit_is_checked() {
    // Nine messages: `ab` for destinations 0 and 2, `z` for all, one byte each for 0 and 2 again.
    let frame =
        frame_of(&[0, 9, 9, 0xC4, 0x05, 0x00, 2, 0x00, 1, 0xD0, 0x01, 1, b'a', b'b', b'z', b'1', b'2']);
    // Where each would be passed: the number of messages, a record, or the set of one.
    let needed = [
        (LimitName::Destinations, 9, 3),
        (LimitName::MessageBytes, 4, 11),
        (LimitName::OutputBytes, 15, 11),
        (LimitName::Pieces, 13, 11),
        (LimitName::Records, 3, 11),
        (LimitName::DataBytes, 5, 11),
        (LimitName::SetBytes, 2, 5),
    ];
    for (name, value, place) in needed {
        assert!(Frame::parse(frame.clone(), &limits(name, value)).is_ok(), "{name}");
        match Frame::parse(frame.clone(), &limits(name, value - 1)) {
            Err(DecodeError::Limit { offset, limit, maximum, needed }) => {
                assert_eq!((offset, limit, maximum, needed), (place, name, value - 1, value))
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_encoder_keeps_to_the_receivers_limits() {
    let mut rng = Rng::with_seed(5);
    let messages = family(1, &mut rng, 20, 300);
    let messages = payloads(&mut rng, &messages);
    let names = [
        LimitName::Destinations,
        LimitName::MessageBytes,
        LimitName::OutputBytes,
        LimitName::Pieces,
        LimitName::Records,
        LimitName::DataBytes,
        LimitName::SetBytes,
    ];
    for name in names {
        for value in (0..40).chain([300, 305, 310, 320, 6000, 6500, 7000]) {
            let limits = limits(name, value);
            let options = Options { seed: Some(7), limits, ..Options::default() };
            match Encoder::new(options).encode(&messages) {
                Ok(encoded) => drop(Frame::parse(encoded.to_bytes(), &limits).unwrap()),
                Err(EncodeError::Limit { limit, maximum, needed, message }) => {
                    assert_eq!((limit, maximum), (name, value));
                    assert!(needed > value);
                    let bytes = matches!(
                        limit,
                        LimitName::MessageBytes | LimitName::OutputBytes | LimitName::DataBytes
                    );
                    let first = messages.iter().position(|message| bytes && message.len() > value);
                    assert_eq!(message, first, "{name}");
                    assert!(message.is_none_or(|message| messages[message].len() == needed));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// `tests/allocations.rs` measures what they make their receiver take.
#[test]
fn bombs_are_refused_from_the_head() {
    for Bomb { name, frame, limits, limit, .. } in bombs() {
        match (Frame::parse(frame, &limits), limit) {
            (Err(DecodeError::Limit { limit: passed, .. }), Some(limit)) => {
                assert_eq!(passed, limit, "{name}")
            }
            (Err(_), None) => {}
            (other, _) => panic!("{name}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn second_stages_that_lie_are_refused() {
    let text = vec![b'a'; 10_000];
    let messages = vec![Payload::from(text.clone()), Payload::from(random(&mut Rng::with_seed(1), 50))];
    let frame = encoder(Stage::Lz4).encode(&messages).unwrap().to_bytes();
    assert_eq!(frame[2], 0x03, "a staged concatenation");
    assert!(frame.len() < 200);
    assert_eq!(parse(&frame).unwrap().to_vec(0), text);
    // One message a byte longer or shorter than the block expands to.
    for low in [0x8F, 0x91] {
        let mut bytes = frame.to_vec();
        assert_eq!(bytes[4..6], [0x90, 0x4E]);
        bytes[4] = low;
        assert!(matches!(parse(&seal(bytes)), Err(DecodeError::Stage { offset: 7, .. })));
    }
    // Far longer than any block of that size can be: refused without an allocation.
    let mut bytes = frame.to_vec();
    bytes.splice(4..6, [0x80, 0x80, 0x80, 0x10]);
    assert!(matches!(parse(&seal(bytes)), Err(DecodeError::Stage { .. })));
    let generous = Limits {
        message_bytes: usize::MAX,
        output_bytes: usize::MAX,
        data_bytes: usize::MAX,
        ..Limits::default()
    };
    let mut bytes = frame.to_vec();
    bytes.splice(4..6, [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]);
    assert!(matches!(Frame::parse(seal(bytes), &generous), Err(DecodeError::Stage { .. })), "2^62 bytes");
    // A block that saves nothing.
    let stored = [&[0x03, 1, 4, 0x40][..], b"abcd"].concat();
    assert!(matches!(parse(&frame_of(&stored)), Err(DecodeError::NotCanonical { .. })));
}

/// A frame of one message of `announced` bytes whose data is this zstd block.
#[cfg(feature = "zstd")]
fn zstd_frame(announced: usize, block: &[u8]) -> Bytes {
    let mut rest = vec![0x05, 1];
    trunkline_codec::varint::put(&mut rest, announced);
    rest.extend_from_slice(block);
    frame_of(&rest)
}

/// What zstd makes of `data` with these parameters.
#[cfg(feature = "zstd")]
fn zstd_block(data: &[u8], parameters: &[zstd_safe::CParameter]) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    for &parameter in parameters {
        context.set_parameter(parameter).unwrap();
    }
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
    context.compress2(&mut out, data).unwrap();
    out
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_blocks_of_another_form_are_refused() {
    use zstd_safe::CParameter::{ChecksumFlag, CompressionLevel, ContentSizeFlag, WindowLog};

    let text = b"the same words come again and again, ".repeat(300);
    let refused = |announced: usize, block: &[u8]| {
        assert!(
            matches!(parse(&zstd_frame(announced, block)), Err(DecodeError::Stage { .. })),
            "{announced}"
        );
    };
    for level in [-5, 1, 9] {
        let plain = zstd_block(&text, &[ContentSizeFlag(false), CompressionLevel(level)]);
        assert_eq!(parse(&zstd_frame(text.len(), &plain)).unwrap().to_vec(0), text);
        refused(text.len() - 1, &plain);
        refused(text.len() + 1, &plain);
        refused(text.len(), &plain[..plain.len() - 1]);
        refused(text.len(), &[&plain[..], &[0]].concat());
        // Frames behind it that say nothing, and one before it that is to be skipped.
        let empty = zstd_block(&[], &[ContentSizeFlag(false)]);
        let skipped = [0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 7];
        refused(text.len(), &[&plain[..], &empty].concat());
        refused(text.len(), &[&plain[..], &skipped].concat());
        refused(text.len(), &[&skipped[..], &plain].concat());
        refused(2 * text.len(), &[&plain[..], &plain].concat());
    }
    refused(text.len(), &zstd_block(&text, &[]));
    refused(text.len(), &zstd_block(&text, &[ContentSizeFlag(false), ChecksumFlag(true)]));
    // A dictionary by number: the descriptor says one byte of it.
    let mut dictionary = zstd_block(&text, &[ContentSizeFlag(false)]);
    dictionary[4] = 1;
    dictionary.insert(6, 7);
    refused(text.len(), &dictionary);
    // The largest window that is allowed, and the next one.
    for (log, allowed) in [(23, true), (24, false), (27, false)] {
        let mut windowed = zstd_block(&text, &[ContentSizeFlag(false), WindowLog(20)]);
        windowed[5] = (log - 10) << 3;
        assert_eq!(parse(&zstd_frame(text.len(), &windowed)).is_ok(), allowed, "window of 2^{log}");
    }
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_bombs_are_refused() {
    // The shortest frame there is for so many zeros: blocks of 4 bytes, 128 KiB each.
    let bomb = |blocks: usize| {
        let mut block = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x68];
        for index in 0..blocks {
            let header = (128u32 << 10) << 3 | 1 << 1 | u32::from(index + 1 == blocks);
            block.extend_from_slice(&header.to_le_bytes()[..3]);
            block.push(0);
        }
        block
    };
    let full = 128 << 10;
    let message = parse(&zstd_frame(4 * full, &bomb(4))).unwrap().to_vec(0);
    assert!(message.len() == 4 * full && message.iter().all(|byte| *byte == 0));
    // Longer or shorter than announced: nothing is written beyond what the head allows.
    for announced in [1 << 10, 3 * full, 4 * full - 1, 4 * full + 1] {
        assert!(matches!(parse(&zstd_frame(announced, &bomb(4))), Err(DecodeError::Stage { .. })));
    }
    // More than the receiver holds.
    let limits = Limits { data_bytes: full, ..Limits::default() };
    let error = Frame::parse(zstd_frame(4 * full, &bomb(4)), &limits).unwrap_err();
    assert!(matches!(error, DecodeError::Limit { limit: LimitName::DataBytes, .. }));
    // More than any frame of zstd can hold, with limits that allow everything: refused without an allocation.
    let generous = Limits {
        message_bytes: usize::MAX,
        output_bytes: usize::MAX,
        data_bytes: usize::MAX,
        ..Limits::default()
    };
    for announced in [1 << 40, 1 << 62] {
        let error = Frame::parse(zstd_frame(announced, &bomb(4)), &generous).unwrap_err();
        assert!(matches!(error, DecodeError::Stage { .. }));
    }
}

#[cfg(feature = "zstd")]
#[test]
fn mutated_zstd_blocks_never_panic() {
    let mut rng = Rng::with_seed(3);
    for kind in 0..FAMILIES {
        let messages = family(kind, &mut rng, 3, 3000);
        let frame = encoder(Stage::Zstd).encode(&payloads(&mut rng, &messages)).unwrap().to_bytes();
        for _ in 0..400 {
            let mut bytes = frame.to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(3..bytes.len() - 4);
                bytes[at] = rng.u8(..);
            }
            harmless(&seal(bytes));
        }
    }
}
