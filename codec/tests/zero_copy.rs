//! Bytes stay where they are: decoded pieces lie in the received buffer, encoded slices are the sender's segments.

mod common;

use bytes::Bytes;
use common::{assert_exact, encoder, random};
use fastrand::Rng;
use trunkline_codec::{Frame, Limits, Payload, Stage};

fn inside(part: &Bytes, whole: &Bytes) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

fn entries(rng: &mut Rng, count: usize) -> Vec<Bytes> {
    (0..count).map(|_| Bytes::from(random(rng, 1024))).collect()
}

#[test]
fn pieces_lie_in_the_received_buffer() {
    let mut rng = Rng::with_seed(1);
    let base = random(&mut rng, 4000);
    let messages: Vec<Payload> =
        (0..9usize).map(|to| Payload::from([&[7; 9], &base[to * 100..], &[3]].concat())).collect();
    let unrelated: Vec<Payload> = (0..3).map(|_| Payload::from(random(&mut rng, 500))).collect();
    for messages in [messages, unrelated] {
        let received = encoder(Stage::None).encode(&messages).unwrap().to_bytes();
        let frame = Frame::parse(received.clone(), &Limits::default()).unwrap();
        for index in 0..messages.len() {
            assert!(frame.message(index).len() > 0);
            assert!(frame.message(index).all(|piece| inside(&piece, &received)));
        }
    }
}

#[test]
fn long_segments_are_sent_from_where_they_are() {
    let mut rng = Rng::with_seed(2);
    let log = entries(&mut rng, 8);
    let message = |to: u8| {
        let header = Bytes::from(vec![to, 1, 2, 3, 4, 5, 6, 7, to, to]);
        let sent = if to == 2 { &log[..] } else { &log[4..] };
        std::iter::once(header).chain(sent.iter().cloned()).collect::<Payload>()
    };
    let messages: Vec<Payload> = (0..5).map(message).collect();
    let encoded = encoder(Stage::Lz4).encode(&messages).unwrap();
    assert_exact(&messages, &encoded);
    for entry in &log {
        let sent = encoded.slices().iter().filter(|slice| slice.as_ptr() == entry.as_ptr()).count();
        assert_eq!(sent, 1, "an entry is sent once, from its own memory");
    }
    assert!(encoded.len() < 8 * 1024 + 60, "{}", encoded.len());
}

#[test]
fn a_slice_of_a_known_segment_is_found_by_its_address() {
    let mut rng = Rng::with_seed(3);
    let whole = Bytes::from(random(&mut rng, 8192));
    let cut = |from: usize, to: usize| whole.slice(from..to);
    let messages: Vec<Payload> = vec![
        Payload::from(whole.clone()),
        [cut(1000, 3000), cut(3000, 5000), cut(6000, 8192)].into_iter().collect(),
        [Bytes::from_static(b"own"), cut(500, 8000)].into_iter().collect(),
        // The same bytes twice, and out of order: the second time they are found in another way or sent again.
        [cut(4000, 5000), cut(1000, 2000), cut(4000, 5000)].into_iter().collect(),
    ];
    let encoded = encoder(Stage::None).encode(&messages).unwrap();
    assert_exact(&messages, &encoded);
    assert!(encoded.len() < 8192 + 2000 + 100, "{}", encoded.len());
}

#[test]
fn an_outsider_does_not_hide_what_the_others_share() {
    let mut rng = Rng::with_seed(4);
    let log = entries(&mut rng, 4);
    let mut messages: Vec<Payload> = (0..4u8)
        .map(|to| std::iter::once(Bytes::from(vec![9, 9, 9, to])).chain(log.iter().cloned()).collect())
        .collect();
    messages.push(Payload::from(random(&mut rng, 100_000)));
    let encoded = encoder(Stage::None).encode(&messages).unwrap();
    assert_exact(&messages, &encoded);
    assert!(encoded.len() < 104_096 + 80, "{}", encoded.len());
}

#[test]
fn the_encoder_keeps_no_segment() {
    struct Counted {
        bytes: Vec<u8>,
        _alive: std::sync::Arc<()>,
    }
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    let alive = std::sync::Arc::new(());
    let segment = Bytes::from_owner(Counted { bytes: vec![5; 3000], _alive: alive.clone() });
    let messages = vec![Payload::from(segment); 3];
    let mut used = encoder(Stage::None);
    let encoded = used.encode(&messages).unwrap();
    drop(messages);
    assert_eq!(std::sync::Arc::strong_count(&alive), 2, "the frame still needs it");
    drop(encoded);
    assert_eq!(std::sync::Arc::strong_count(&alive), 1, "nobody needs it");
}

/// Arrays of numbers are read in place: what lies well is given as it is, what does not is copied once.
#[test]
fn a_message_in_one_piece_begins_where_its_reader_needs_it() {
    let mut rng = Rng::with_seed(5);
    let shared = random(&mut rng, 3000);
    let messages: Vec<Payload> = (0..4u8).map(|to| Payload::from([&[to][..], &shared].concat())).collect();
    let alone = vec![Payload::from(random(&mut rng, 1000)), Payload::default()];
    let mut copied = 0;
    for messages in [messages, alone] {
        // The same bytes at every place that a buffer may begin at.
        let sent = encoder(Stage::None).encode(&messages).unwrap().to_bytes();
        for offset in 0..8 {
            let received = Bytes::from([&vec![0; offset][..], &sent].concat()).slice(offset..);
            let frame = Frame::parse(received.clone(), &Limits::default()).unwrap();
            for (index, message) in messages.iter().enumerate() {
                for align in [1, 2, 8, 64, 4096] {
                    let whole = frame.to_aligned(index, align);
                    assert_eq!(whole.as_ptr().addr() % align, 0);
                    assert_eq!(whole, message.to_vec());
                    let in_place = inside(&whole, &received);
                    copied += usize::from(!in_place);
                    let mut pieces = frame.message(index);
                    let lies_well =
                        pieces.len() == 1 && pieces.next().unwrap().as_ptr().addr().is_multiple_of(align);
                    assert!(in_place == lies_well || whole.is_empty(), "{index} at {offset} by {align}");
                }
            }
        }
    }
    assert!(copied > 100);
}
