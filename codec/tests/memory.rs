//! What is kept of messages: no more than is said, not longer than it is of use, and never in a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use allocation_counter::measure;
use bytes::Bytes;
use trunkline_codec::{
    Encoder, Epochs, Frame, Limits, Options, Payload, Session, SessionDecoder, SessionEncoder,
};

const EPOCHS: Epochs = Epochs { incoming: 2, outgoing: 1 };

fn options() -> Options {
    Options { seed: Some(1), ..Options::default() }
}

/// Bytes that look like no others.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

#[test]
fn nothing_that_is_printed_has_a_message_in_it() {
    const SECRET: &[u8] =
        b"a text that nobody may find in a log, long enough to be kept in every way there is. ";
    let text = Payload::from(SECRET.repeat(20));
    let payloads = [text.clone(), text];
    let streams = [1, 2];
    let (mut encoder, mut sending) = (Encoder::new(options()), SessionEncoder::new(options(), 1));
    let mut receiving = SessionDecoder::new(Limits::default(), 1);
    let (mut one, mut other) = (Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed()));
    let encoded = encoder.encode(&payloads).unwrap();
    let frame = Frame::parse(encoded.to_bytes(), &Limits::default()).unwrap();
    for _ in 0..2 {
        let sent = sending.encode(&streams, &payloads).unwrap();
        receiving.parse(sent.to_bytes(), &streams).unwrap();
        let sent = one.encode(&streams, &payloads).unwrap();
        other.parse(sent.to_bytes(), &streams).unwrap();
    }
    let printed = format!(
        "{payloads:?} {encoder:?} {encoded:?} {frame:?} {:?} {sending:?} {receiving:?} {one:?} {other:?}",
        frame.message(0)
    );
    let listed = format!("{:?}", &SECRET[..8]);
    assert!(!printed.contains("nobody may find"), "{printed}");
    assert!(!printed.contains(listed.trim_matches(['[', ']'])), "{printed}");
}

/// A buffer that counts itself.
struct Counted(Arc<AtomicUsize>, Vec<u8>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn what_was_sent_is_not_kept_with_the_buffer_that_it_is_a_slice_of() {
    let alive = Arc::new(AtomicUsize::new(0));
    let mut end = Session::new(options(), EPOCHS);
    for seed in 0..200 {
        alive.fetch_add(1, Ordering::Relaxed);
        let buffer = Bytes::from_owner(Counted(Arc::clone(&alive), noise(seed, 64 << 10)));
        end.encode(&[1], &[Payload::from(buffer.slice(1000..1600))]).unwrap();
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    // Of long ones it keeps what may be referred to.
    let mut other = Session::new(options(), EPOCHS.reversed());
    let mut end = Session::new(options(), EPOCHS);
    for seed in 0..200 {
        alive.fetch_add(1, Ordering::Relaxed);
        let buffer = Bytes::from_owner(Counted(Arc::clone(&alive), noise(seed, 64 << 10)));
        let frame = end.encode(&[1], &[Payload::from(buffer)]).unwrap();
        other.parse(frame.to_bytes(), &[1]).unwrap();
        let answer = other.encode(&[1], &[Payload::from(vec![7])]).unwrap();
        end.parse(answer.to_bytes(), &[1]).unwrap();
        // A window, what is told only every quarter of one, and the frame that the window begins in.
        assert!(alive.load(Ordering::Relaxed) <= 16 + 4 + 1, "{seed}");
    }
    assert!(alive.load(Ordering::Relaxed) >= 16);
}

#[test]
fn what_was_received_is_not_kept_with_the_buffer_that_it_was_cut_from() {
    let alive = Arc::new(AtomicUsize::new(0));
    for (len, kept_max) in [(1, 0), (200, 0), (16 << 10, 0), (20 << 10, (1 << 20) / (20 << 10) + 1)] {
        let (mut end, mut other) =
            (Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed()));
        let (frames, mut most) = (if len < 1000 { 5000 } else { 200 }, 0);
        for seed in 0..frames {
            let text = noise(seed, len);
            let frame = end.encode(&[1], &[Payload::from(text.clone())]).unwrap().to_bytes();
            // As of one who reads 64 KiB at a time and cuts frames out of that.
            let mut read = vec![0; 64 << 10];
            read[..frame.len()].copy_from_slice(&frame);
            alive.fetch_add(1, Ordering::Relaxed);
            let read = Bytes::from_owner(Counted(Arc::clone(&alive), read));
            let got = other.parse(read.slice(..frame.len()), &[1]).unwrap();
            drop(read);
            // What is passed on is still recognised.
            let up = std::iter::once(Bytes::from(vec![5; 20])).chain(got.message(0)).collect::<Payload>();
            drop(got);
            if seed % 100 == 99 {
                let back = other.encode(&[1], &[up]).unwrap();
                assert!(len < 20 || back.len() < 80, "{len}: {back:?}");
                let back = end.parse(back.to_bytes(), &[1]).unwrap();
                assert!(back.to_vec(0)[20..] == text);
            }
            most = most.max(alive.load(Ordering::Relaxed));
        }
        // And the one that was parsed last.
        assert!(most <= kept_max + 1, "frames of {len} bytes: {most} buffers");
    }
}

#[test]
fn a_short_frame_does_not_keep_the_buffer_of_a_long_one() {
    let long = [Payload::from(noise(1, 400_000).iter().map(|byte| byte % 3).collect::<Vec<u8>>())];
    let short = [Payload::from(vec![1; 40]), Payload::from(vec![2; 40])];
    let mut encoder = Encoder::new(Options { stage: trunkline_codec::Stage::Lz4, ..options() });
    let mut kept = None;
    let all = measure(|| {
        assert!(encoder.encode(&long).unwrap().len() > 50_000);
        kept = Some(encoder.encode(&short).unwrap());
        encoder.release();
    });
    let kept = kept.unwrap();
    assert!(all.bytes_current < 5000, "{} bytes for {kept:?}", all.bytes_current);
}

#[test]
fn an_end_that_hears_nothing_sends_what_need_not_be_kept() {
    const NOREF: u8 = 0x10;
    let (mut end, mut other) = (Session::new(options(), EPOCHS), Session::new(options(), EPOCHS.reversed()));
    let mut send = |end: &mut Session, seed| {
        let encoded = end.encode(&[1], &[Payload::from(noise(seed, 64 << 10))]).unwrap();
        let frame = encoded.to_bytes();
        other.parse(frame.clone(), &[1]).unwrap();
        assert_eq!(encoded.is_unremembered(), frame[2] & NOREF != 0);
        encoded.is_unremembered()
    };
    let unremembered: Vec<bool> = (0..96).map(|seed| send(&mut end, seed)).collect();
    assert_eq!(unremembered.iter().position(|&noref| noref), Some(64), "4 MiB are 64 frames of 64 KiB");
    assert!(unremembered[64..].iter().all(|&noref| noref));
    // The other end says how much arrived, in any frame of its own.
    assert!(other.ack_due() && !end.ack_due());
    let answer = other.encode(&[1], &[Payload::default()]).unwrap();
    assert!(!other.ack_due());
    end.parse(answer.to_bytes(), &[1]).unwrap();
    let mut again = |seed| {
        let frame = end.encode(&[1], &[Payload::from(noise(seed, 64 << 10))]).unwrap().to_bytes();
        frame[2] & NOREF != 0
    };
    assert!(!again(200));
}

#[test]
fn release_gives_back_what_a_large_frame_needed() {
    let large: Vec<Payload> = (0..64).map(|seed| noise(seed % 4, 20_000).into()).collect();
    let small = [Payload::from(vec![1; 40]), Payload::from(vec![2; 40])];
    let mut encoder = Encoder::new(options());
    let before = encoder.encode(&small).unwrap().to_bytes();
    let grown = measure(|| drop(encoder.encode(&large).unwrap())).bytes_current;
    let given = -measure(|| encoder.release()).bytes_current;
    println!("{grown} bytes for the large frame, {given} given back");
    assert!(grown > 10_000 && given >= grown, "{grown} bytes for the large frame, {given} given back");
    assert_eq!(encoder.encode(&small).unwrap().to_bytes(), before);

    let mut session = SessionEncoder::new(options(), 1);
    let streams: Vec<u32> = (0..64).collect();
    session.encode(&streams, &large).unwrap();
    let given = -measure(|| session.release()).bytes_current;
    assert!(given > 10_000, "{given}");
    session.encode(&streams, &large).unwrap();

    let mut session = Session::new(options(), EPOCHS);
    session.encode(&streams, &large).unwrap();
    let given = -measure(|| session.release()).bytes_current;
    assert!(given > 10_000, "{given}");
    session.encode(&streams, &large).unwrap();
}
