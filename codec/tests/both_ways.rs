//! Both directions of a connection: what one end sent is not sent back to it, nor anything told of it that should not be.

mod common;

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{
    DecodeError, EchoDecoder, EchoEncoder, EchoWindow, Epochs, Limits, Options, Payload, Session,
};

const EPOCHS: Epochs = Epochs { outgoing: 1, incoming: 2 };

fn options() -> Options {
    Options { seed: Some(1), ..Options::default() }
}

fn ends() -> (Session, Session) {
    (Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed()))
}

/// Nor of how much came the other way, though other frames say so.
#[test]
fn the_length_of_what_is_not_remembered_tells_nothing_of_what_arrived() {
    let mut rng = Rng::with_seed(5);
    let secret = Payload::from(common::random(&mut rng, 40));
    let mut len_after = |frames: usize, bytes: usize| {
        let (mut one, mut other) = ends();
        for _ in 0..frames {
            let sent = other.encode(&[2], &[Payload::from(common::random(&mut rng, bytes))]).unwrap();
            one.parse(sent.to_bytes(), &[2]).unwrap();
        }
        let frame = one.encode_unremembered(&[1], std::slice::from_ref(&secret)).unwrap();
        let parsed = other.parse(frame.to_bytes(), &[1]).unwrap();
        assert_eq!(parsed.to_vec(0), secret.to_vec());
        let later = one.encode(&[1], std::slice::from_ref(&secret)).unwrap();
        other.parse(later.to_bytes(), &[1]).unwrap();
        frame.len()
    };
    let nothing = len_after(0, 0);
    for (frames, bytes) in [(1, 100), (1, 300_000), (3000, 20)] {
        assert_eq!(len_after(frames, bytes), nothing, "{frames} frames of {bytes} B");
    }
}

/// Whoever resends what came, as one message each, has every one of them named that is not cut up because others are like it.
#[test]
fn what_the_peer_sent_is_not_sent_back_to_it_however_long_and_how_many() {
    let mut rng = Rng::with_seed(12);
    for (count, len) in [(8_u32, 513), (8, 512), (8, 64), (8, 16), (3, 300), (4, 300), (200, 40)] {
        let (mut leader, mut proxy) = ends();
        let streams: Vec<u32> = (0..count).collect();
        let proposals: Vec<Payload> =
            streams.iter().map(|_| Payload::from(common::random(&mut rng, len))).collect();
        let up = proxy.encode(&streams, &proposals).unwrap().to_bytes();
        let up = leader.parse(up, &streams).unwrap();
        let mut back: Vec<Payload> = (0..proposals.len()).map(|index| up.message(index).collect()).collect();
        let all = back.iter().map(Payload::len).sum::<usize>();
        let down = leader.encode(&streams, &back).unwrap();
        assert_eq!(down.stats().echoed_bytes, all, "{count} x {len}");
        let frame = proxy.parse(down.to_bytes(), &streams).unwrap();
        assert!((0..back.len()).all(|index| frame.to_vec(index) == proposals[index].to_vec()));
        // Beside one and two that are new, in turn.
        for (round, new) in [(1, &[1][..]), (2, &[0, 2])] {
            // Not what their own streams remember.
            let streams: Vec<u32> = streams.iter().map(|stream| stream + round * 1000).collect();
            new.iter().for_each(|index| back[*index] = common::random(&mut rng, len).into());
            let down = leader.encode(&streams, &back).unwrap();
            assert_eq!(down.stats().echoed_bytes, all - new.len() * len, "{count} x {len}");
            let frame = proxy.parse(down.to_bytes(), &streams).unwrap();
            assert!((0..back.len()).all(|index| frame.to_vec(index) == back[index].to_vec()));
            back = proposals.iter().zip(0..).map(|(_, index)| up.message(index).collect()).collect();
        }
    }
}

/// Naming takes records, and beyond what the receiver takes of these the messages would all be sent in full.
#[test]
fn what_came_in_many_short_parts_makes_no_frame_longer_than_without_it() {
    let limits = Limits { records: 2000, ..Limits::default() };
    let options = Options { limits, ..options() };
    let mut rng = Rng::with_seed(14);
    let (count, fields) = (64_usize, 40);
    let streams: Vec<u32> = (0..64).collect();
    let came: Payload = common::random(&mut rng, count * fields * 16).into();
    let shared: Vec<Bytes> = (0..fields).map(|_| common::random(&mut rng, 200).into()).collect();
    let lens = [true, false].map(|echoes| {
        let mut proxy = Session::new(options, EPOCHS.reversed());
        let mut leader = Session::new(options, EPOCHS);
        let up = proxy.encode(&[9], std::slice::from_ref(&came)).unwrap().to_bytes();
        let up = leader.parse(up, &[9]).unwrap().message(0).next().unwrap();
        let up = if echoes { up } else { Bytes::copy_from_slice(&up) };
        let field = |message: usize, field: usize| up.slice((field * count + message) * 16..).slice(..16);
        let message =
            |index| shared.iter().enumerate().flat_map(move |(at, text)| [text.clone(), field(index, at)]);
        let payloads: Vec<Payload> = (0..count).map(|index| message(index).collect()).collect();
        let down = leader.encode(&streams, &payloads).unwrap();
        let frame = proxy.parse(down.to_bytes(), &streams).unwrap();
        assert!((0..count).all(|index| frame.to_vec(index) == payloads[index].to_vec()));
        assert_eq!(down.stats().echoed_bytes > 0, echoes);
        down.len()
    });
    assert!(lens[0] <= lens[1] && lens[1] < 60_000, "{lens:?}");
}

/// Two buffers in turn are two, however often.
#[test]
fn an_echo_that_takes_turns_keeps_no_more_alive_than_was_sent() {
    let (mut leader, mut proxy) = ends();
    let mut rng = Rng::with_seed(13);
    let long: Vec<Bytes> = (0..2).map(|_| common::random(&mut rng, 400_000).into()).collect();
    let up = proxy.encode(&[1, 2], &[long[0].clone().into(), long[1].clone().into()]).unwrap().to_bytes();
    let up = leader.parse(up, &[1, 2]).unwrap();
    let came: Vec<Bytes> = (0..2).map(|index| up.message(index).next().unwrap()).collect();
    let back: Vec<Payload> =
        (0..100).map(|at| Payload::from(came[at % 2].slice(at * 3000..(at + 1) * 3000))).collect();
    let streams: Vec<u32> = (0..100).collect();
    let down = leader.encode(&streams, &back).unwrap();
    assert_eq!(down.stats().echoed_bytes, 300_000);
    let frame = proxy.parse(down.to_bytes(), &streams).unwrap();
    assert!((800_000..900_000).contains(&frame.buffer_bytes()), "{}", frame.buffer_bytes());
}

/// What one frame carried in many parts goes back to everybody in one record.
#[test]
fn an_echo_of_many_parts_is_not_too_many_pieces() {
    let options = Options { limits: Limits { pieces: 10_000, ..Limits::default() }, ..options() };
    let (mut leader, mut proxy) = (Session::new(options, EPOCHS), Session::new(options, EPOCHS.reversed()));
    let mut rng = Rng::with_seed(9);
    // Commands of 1,100 bytes, each behind a short head.
    let mut part = |len: usize| std::iter::repeat_with(|| rng.u8(..)).take(len).collect::<Bytes>();
    let commands: Payload = (0..100).flat_map(|_| [part(8), part(1100)]).collect();
    let up = proxy.encode(&[9], std::slice::from_ref(&commands)).unwrap();
    let up = leader.parse(up.to_bytes(), &[9]).unwrap();
    let back: Payload = up.message(0).collect();
    let streams: Vec<u32> = (0..700).collect();
    let down = leader.encode(&streams, &vec![back; 700]).unwrap();
    assert!(down.len() < 50, "{} bytes back", down.len());
    let frame = proxy.parse(down.to_bytes(), &streams).unwrap();
    for index in [0, 1, 699] {
        assert!(frame.to_vec(index) == commands.to_vec(), "message {index}");
    }
    // All that may be referred to was joined, once for them all, and stays as long as any of it is held.
    let kept_alive = commands.len()..commands.len() + 1000;
    assert!(kept_alive.contains(&frame.buffer_bytes()), "{}", frame.buffer_bytes());
}

/// A stream that no destination has, for acknowledgements.
const ACK: u32 = u32::MAX;

/// The halves of a session. Which window they share, or do not, is the test's.
fn halves(epochs: Epochs) -> (EchoEncoder, EchoDecoder) {
    (EchoEncoder::new(options(), epochs), EchoDecoder::new(options().limits, epochs))
}

/// Sends 12 MiB from an end with a window of what it sent to one with a window of what it received. The other end says what
/// arrived with a frame of one empty message where that is due, if it may. Returns how many of 40 frames were remembered, and how
/// many bytes of the last one need not be sent back.
fn one_way(windows: fn(Epochs) -> [EchoWindow; 2], acknowledges: bool) -> (usize, usize) {
    let mut rng = Rng::with_seed(21);
    let [mut here, _] = windows(EPOCHS);
    let [_, mut there] = windows(EPOCHS.reversed());
    let ((mut out, mut back), (mut acks, mut got)) = (halves(EPOCHS), halves(EPOCHS.reversed()));
    let (mut remembered, mut last) = (0, Payload::default());
    for _ in 0..40 {
        let sent = out.encode(&mut here, &[1], &[common::random(&mut rng, 300_000).into()]).unwrap();
        let frame = got.parse(&mut there, sent.to_bytes(), &[1]).unwrap();
        remembered += usize::from(!frame.is_unremembered());
        last = frame.message(0).collect();
        if acknowledges && there.ack_due() {
            let ack = acks.encode(&mut there, &[ACK], &[Payload::default()]).unwrap();
            let ack = back.parse(&mut here, ack.to_bytes(), &[ACK]).unwrap();
            assert!(!there.ack_due() && ack.message_count() == 1 && ack.to_vec(0).is_empty());
        }
    }
    let again = acks.encode(&mut there, &[2], std::slice::from_ref(&last)).unwrap();
    let frame = back.parse(&mut here, again.to_bytes(), &[2]).unwrap();
    assert!(frame.to_vec(0) == last.to_vec());
    (remembered, again.stats().echoed_bytes)
}

#[test]
fn an_end_that_only_acknowledges_keeps_its_peer_remembering() {
    let of_both: fn(Epochs) -> _ = |epochs| [EchoWindow::of_both(epochs), EchoWindow::of_both(epochs)];
    let of_one: fn(Epochs) -> _ = |epochs| [EchoWindow::of_sent(epochs), EchoWindow::of_received(epochs)];
    for windows in [of_both, of_one] {
        assert_eq!(one_way(windows, true), (40, 300_000));
        assert_eq!(one_way(windows, false), (13, 0), "4 MiB, and then nothing more");
    }
}

/// That it is one message is under the checksum, so who takes it for a frame to every follower cannot read it.
#[test]
fn an_acknowledgement_that_nothing_marks_ends_the_connection() {
    let followers = [1, 2, 3];
    for (named, read) in [(&[ACK][..], true), (&followers, false), (&[1], false), (&[], false)] {
        let (mut one, mut other) = ends();
        let beats = followers.map(|to| Payload::from(vec![u8::try_from(to).unwrap(); 30]));
        other.parse(one.encode(&followers, &beats).unwrap().to_bytes(), &followers).unwrap();
        let ack = one.encode(&[ACK], &[Payload::default()]).unwrap();
        match other.parse(ack.to_bytes(), named) {
            Ok(_) => assert!(read, "{named:?}"),
            Err(error) => {
                assert!(!read && matches!(error, DecodeError::History { .. }), "{named:?}: {error}")
            }
        }
    }
}

/// The other one of two connections that a leader has.
#[test]
fn the_window_of_another_connection_is_refused() {
    let other_epochs = Epochs { outgoing: 3, incoming: 4 };
    let message = |byte: u8, len: usize| Payload::from(vec![byte; len]);
    // Which window the peer has, whether it sent as much as came on the other connection, and how it refuses.
    type Window = fn(Epochs) -> EchoWindow;
    type Refusal = fn(&DecodeError) -> bool;
    let of_sent: Window = EchoWindow::of_sent;
    let cases: [(Window, usize, Refusal); 4] = [
        (of_sent, 100, |error| matches!(error, DecodeError::History { .. })),
        (of_sent, 99, |error| matches!(error, DecodeError::Arrived { .. })),
        (of_sent, 0, |error| matches!(error, DecodeError::Arrived { .. })),
        (EchoWindow::of_received, 100, |error| matches!(error, DecodeError::Unsupported { .. })),
    ];
    for (case, (window, len, refusal)) in cases.into_iter().enumerate() {
        // The other connection, on which a hundred bytes come.
        let mut other = EchoWindow::of_received(other_epochs);
        let (mut up, _) = halves(other_epochs.reversed());
        let (_, mut got) = halves(other_epochs);
        let sent = up.encode(&mut window(other_epochs.reversed()), &[1], &[message(7, 100)]).unwrap();
        let came = got.parse(&mut other, sent.to_bytes(), &[1]).unwrap().message(0).collect::<Payload>();
        // This one.
        let (mut peer, mut own) = (window(EPOCHS.reversed()), EchoWindow::of_received(EPOCHS));
        let ((mut up, mut back), (mut down, mut got)) = (halves(EPOCHS.reversed()), halves(EPOCHS));
        let sent = up.encode(&mut peer, &[1], &[message(8, len)]).unwrap();
        got.parse(&mut own, sent.to_bytes(), &[1]).unwrap();
        let wrong = down.encode(&mut other, &[2], &[came]).unwrap();
        assert_eq!(wrong.stats().echoed_bytes, 100);
        let error = back.parse(&mut peer, wrong.to_bytes(), &[2]).unwrap_err();
        assert!(refusal(&error), "case {case}: {error}");
    }
    // Two ends of which neither refers.
    assert_eq!(one_way(|epochs| [EchoWindow::of_sent(epochs), EchoWindow::of_sent(epochs)], true), (13, 0));
}

#[test]
fn halves_that_do_not_share_a_window_forget_and_refuse_what_the_peer_says() {
    let mut rng = Rng::with_seed(22);
    let there = EPOCHS.reversed();
    let mut here = EchoWindow::of_both(EPOCHS);
    let (mut parses, mut encodes) = (EchoWindow::of_both(there), EchoWindow::of_both(there));
    let ((mut out, mut back), (mut acks, mut got)) = (halves(EPOCHS), halves(there));
    let mut remembered = 0;
    for _ in 0..40 {
        let sent = out.encode(&mut here, &[1], &[common::random(&mut rng, 300_000).into()]).unwrap();
        let frame = got.parse(&mut parses, sent.to_bytes(), &[1]).unwrap();
        remembered += usize::from(!frame.is_unremembered());
        // What came is sent back, if so little of it that the peer need not say so.
        let back_bytes: Payload = frame.message(0).last().unwrap().slice(..100).into();
        let again = acks.encode(&mut encodes, &[2], &[back_bytes]).unwrap();
        assert_eq!(again.stats().echoed_bytes, 0);
        back.parse(&mut here, again.to_bytes(), &[2]).unwrap();
    }
    assert_eq!(remembered, 13);
    let long = acks.encode(&mut encodes, &[2], &[common::random(&mut rng, 300_000).into()]).unwrap();
    back.parse(&mut here, long.to_bytes(), &[2]).unwrap();
    let says = out.encode(&mut here, &[ACK], &[Payload::default()]).unwrap();
    let error = got.parse(&mut parses, says.to_bytes(), &[ACK]).unwrap_err();
    assert!(matches!(error, DecodeError::Arrived { .. }), "{error}");
}
