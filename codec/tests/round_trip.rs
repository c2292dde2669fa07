//! What goes in comes out: exactness over the public API.

use bytes::Bytes;
use trunkline_codec::{Encoder, Frame, Limits, Options, Payload};

#[test]
fn messages_survive_the_round_trip() {
    let payloads: Vec<Payload> = vec![
        Payload::from(b"alpha".to_vec()),
        Payload::default(),
        [Bytes::from_static(b"be"), Bytes::from_static(b"ta")].into_iter().collect(),
    ];
    let encoded = Encoder::new(Options::default()).encode(&payloads).unwrap();
    let frame = Frame::parse(encoded.to_bytes(), &Limits::default()).unwrap();
    assert_eq!(frame.message_count(), 3);
    for (index, payload) in payloads.iter().enumerate() {
        assert_eq!(frame.to_vec(index), payload.to_vec());
        assert_eq!(frame.message_len(index), payload.len());
    }
}
