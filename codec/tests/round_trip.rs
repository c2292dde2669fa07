//! What goes in comes out, no frame is longer than promised, and the spelling is the only one.

mod common;

use common::{FAMILIES, STAGES, assert_exact, bound, cases, encoder, family, payloads};
use fastrand::Rng;
use proptest::prelude::*;
use trunkline_codec::{Frame, Limits, Payload, Stage, reserialise};

fn check(messages: &[Payload], stage: Stage) {
    let encoded = encoder(stage).encode(messages).unwrap();
    assert_exact(messages, &encoded);
    let bound = bound(messages, false);
    assert!(encoded.len() <= bound, "{} > {bound}", encoded.len());
    let bytes = encoded.to_bytes();
    let again = reserialise(bytes.clone(), &Limits::default()).unwrap();
    assert_eq!(again.len(), encoded.stats().diff_bytes);
    if encoded.len() == encoded.stats().diff_bytes {
        assert!(again == bytes, "records are spelled otherwise");
    } else {
        assert!(encoded.len() < again.len());
    }
    assert!(reserialise(again.clone().into(), &Limits::default()).unwrap() == again);
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn families_survive(kind in 0..FAMILIES, seed: u64, count in 1usize..12, len in 0usize..3000, stage in prop::sample::select(STAGES)) {
        let mut rng = Rng::with_seed(seed);
        let messages = family(kind, &mut rng, count, len);
        check(&payloads(&mut rng, &messages), stage);
    }

    #[test]
    fn short_messages_survive(messages in prop::collection::vec(prop::collection::vec(0u8..3, 0..12), 1..20)) {
        let messages: Vec<Payload> = messages.into_iter().map(Payload::from).collect();
        check(&messages, Stage::Lz4);
    }

    #[test]
    fn common_parts_survive(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..6),
        picks in prop::collection::vec(prop::collection::vec(0usize..6, 0..8), 1..9),
    ) {
        let message = |pick: &Vec<usize>| pick.iter().flat_map(|&k| parts[k % parts.len()].clone()).collect::<Vec<u8>>();
        let messages: Vec<Payload> = picks.iter().map(|pick| Payload::from(message(pick))).collect();
        check(&messages, Stage::None);
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn long_and_many_survive(kind in 0..FAMILIES, seed: u64, many: bool, stage in prop::sample::select(STAGES)) {
        let mut rng = Rng::with_seed(seed);
        let (count, len) = if many { (rng.usize(12..300), 200) } else { (rng.usize(2..5), 60_000) };
        let messages = family(kind, &mut rng, count, len);
        check(&payloads(&mut rng, &messages), stage);
    }
}

#[test]
fn every_count_of_destinations_survives() {
    for count in [1, 2, 3, 7, 8, 9, 63, 64, 65, 66, 127, 128, 129, 500, 1023, 1024] {
        for kind in 0..FAMILIES {
            let mut rng = Rng::with_seed(kind as u64);
            let messages = family(kind, &mut rng, count, 120);
            check(&payloads(&mut rng, &messages), Stage::None);
        }
        check(&vec![Payload::default(); count], Stage::Lz4);
    }
}

#[test]
fn more_destinations_than_the_format_has_are_refused() {
    assert!(encoder(Stage::None).encode(&vec![Payload::default(); 1025]).is_err());
    assert!(encoder(Stage::None).encode(&[]).is_err());
}

#[test]
fn a_used_encoder_writes_what_a_fresh_one_writes() {
    let mut used = encoder(Stage::None);
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let (count, len) = (rng.usize(1..20), rng.usize(..5000));
        let messages = family(rng.usize(..FAMILIES), &mut rng, count, len);
        let messages = payloads(&mut rng, &messages);
        let stage = STAGES[rng.usize(..STAGES.len())];
        let fresh = encoder(stage).encode(&messages).unwrap();
        used.set_stage(stage);
        let again = used.encode(&messages).unwrap();
        assert!(fresh.to_bytes() == again.to_bytes(), "seed {seed}");
        assert_eq!(fresh.stats(), again.stats());
    }
}

#[test]
fn frames_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug>() {}
    shared::<Frame>();
    shared::<trunkline_codec::EncodedFrame>();
    shared::<Payload>();
}

#[test]
fn a_thread_that_ends_still_reads_frames() {
    /// Reads its frame when the thread's variables go: this one, which was used first, after all others.
    struct Last(bytes::Bytes, std::sync::mpsc::Sender<Vec<u8>>);
    impl Last {
        fn read(&self) -> Vec<u8> {
            Frame::parse(self.0.clone(), &Limits::default()).unwrap().to_vec(0)
        }
    }
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.1.send(self.read());
        }
    }
    thread_local! {
        static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) };
    }
    let text = b"the same words come again and again, ".repeat(100);
    for &stage in STAGES {
        let frame = encoder(stage).encode(&[Payload::from(text.clone())]).unwrap().to_bytes();
        let (sender, receiver) = std::sync::mpsc::channel();
        let ends = std::thread::spawn(move || {
            let last = Last(frame, sender);
            LAST.with_borrow_mut(|kept| kept.insert(last).read())
        });
        assert!(ends.join().unwrap() == text && receiver.recv().unwrap() == text);
    }
}
