//! Connections as the encoder with seed 7 writes them.

use std::collections::VecDeque;

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{Epochs, Frame, Options, Payload, Session, Stage};

use super::common::random;
use super::connections::{Connection, Sent};

/// Name, what it is about, and the frames. An earlier encoder let frames that must not be remembered refer to earlier ones:
/// its vectors `noref`, `lz4` and `zstd` are read like all others, and written by nobody any more.
pub(crate) fn connections() -> Vec<(&'static str, &'static str, Connection)> {
    let mut all = vec![
        ("v1-connection-heartbeats-5", "heartbeats with fields of their own", heartbeats(5, 6)),
        ("v1-connection-heartbeats-70", "as many destinations as need long numbers", heartbeats(70, 4)),
        ("v1-connection-kinds", "messages of three kinds in turn", kinds()),
        ("v1-connection-openings", "openings of 256 bytes, and shorter and longer messages", openings()),
        ("v1-connection-unremembered", "what must not be remembered refers to nothing", unremembered()),
        ("v1-connection-echoes", "what was sent comes back, both ways", echoes()),
        ("v1-connection-staged-lz4", "a second stage", staged(Stage::Lz4)),
    ];
    if cfg!(feature = "zstd") {
        all.push(("v1-connection-staged-zstd", "a second stage", staged(Stage::Zstd)));
    }
    all
}

/// Two ends that talk, and what is under way to each.
struct Talk {
    ends: [Session; 2],
    under_way: [VecDeque<(Bytes, Vec<u32>)>; 2],
    connection: Connection,
}

impl Talk {
    fn new() -> Self {
        let epochs = [0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210];
        let options = Options { seed: Some(7), ..Options::default() };
        let ends = [epochs, [epochs[1], epochs[0]]]
            .map(|[outgoing, incoming]| Session::new(options, Epochs { incoming, outgoing }));
        Self { ends, under_way: Default::default(), connection: Connection { epochs, frames: Vec::new() } }
    }

    fn say(&mut self, from: usize, remember: bool, streams: &[u32], messages: &[Payload]) {
        let end = &mut self.ends[from];
        let frame = match remember {
            true => end.encode(streams, messages),
            false => end.encode_unremembered(streams, messages),
        };
        let bytes = frame.unwrap().to_bytes();
        self.under_way[1 - from].push_back((bytes.clone(), streams.to_vec()));
        let messages = Some(messages.iter().map(Payload::to_vec).collect());
        self.connection.frames.push(Sent { from, streams: streams.to_vec(), bytes, messages });
    }

    /// The oldest frame that is under way to this end arrives.
    fn arrive(&mut self, to: usize) -> Frame {
        let (bytes, streams) = self.under_way[to].pop_front().unwrap();
        self.ends[to].parse(bytes, &streams).unwrap()
    }
}

fn heartbeats(destinations: u32, rounds: u32) -> Connection {
    let mut talk = Talk::new();
    let mut rng = Rng::with_seed(destinations.into());
    let streams: Vec<u32> = (1..=destinations).collect();
    for round in 0..rounds {
        let message = |to: &u32| {
            let mut message = vec![8, 8, 16, to.to_le_bytes()[0], 24, 1];
            message.extend_from_slice(&u64::from(1000 + round / 3).to_le_bytes());
            message.extend_from_slice(&u64::from(70_000 + round).to_le_bytes());
            message.extend_from_slice(&[0x5A; 12]);
            // What each has acknowledged.
            message.extend_from_slice(&(rng.u32(..300) * to).to_le_bytes());
            message.extend_from_slice(&[0xA5; 6]);
            // A few are told more.
            if to % 33 == round {
                message.splice(6..6, *b"elected");
            }
            Payload::from(message)
        };
        let messages: Vec<Payload> = streams.iter().map(message).collect();
        talk.say(0, true, &streams, &messages);
    }
    talk.connection
}

fn kinds() -> Connection {
    let mut talk = Talk::new();
    let mut rng = Rng::with_seed(3);
    let kinds = [90, 120, 60].map(|len| random(&mut rng, len));
    for round in 0..9 {
        let message =
            |to: u8| Payload::from([&[1, 2, 3, 4, to, round], &kinds[usize::from(round % 3)][..]].concat());
        talk.say(0, true, &[30, 20, 10], &[message(1), message(2), message(3)]);
    }
    talk.connection
}

fn openings() -> Connection {
    let mut talk = Talk::new();
    let text = random(&mut Rng::with_seed(4), 700);
    for (round, len) in [255, 256, 257, 300, 256, 0, 255, 700, 300, 256].into_iter().enumerate() {
        let mut message = text[..len].to_vec();
        if let Some(changes) = message.get_mut(128) {
            *changes ^= 1 + u8::try_from(round).unwrap();
        }
        talk.say(0, true, &[5], &[message.into()]);
    }
    // Two messages of a stream in one frame, and the same stream in the next.
    let two = [Payload::from(text[..40].to_vec()), Payload::from(text[300..400].to_vec())];
    talk.say(0, true, &[6, 6], &two);
    talk.say(0, true, &[6, 5], &two);
    talk.say(0, true, &[6, 6], &[two[1].clone(), two[0].clone()]);
    talk.connection
}

fn unremembered() -> Connection {
    let mut talk = Talk::new();
    let mut rng = Rng::with_seed(5);
    let texts = [(); 2].map(|()| Payload::from(random(&mut rng, 100)));
    let secret = Payload::from(random(&mut rng, 60));
    talk.say(0, true, &[1, 2], &texts);
    talk.say(0, false, &[1, 2], &[texts[0].clone(), secret.clone()]);
    talk.say(0, true, &[1, 2], &texts);
    talk.say(0, true, &[1, 2], &[secret.clone(), secret.clone()]);
    talk.say(0, true, &[1, 2], &[secret.clone(), texts[1].clone()]);
    talk.connection
}

fn echoes() -> Connection {
    let mut talk = Talk::new();
    let mut rng = Rng::with_seed(6);
    let members = [1, 2, 3];
    for round in 0..6 {
        // A proposal goes up; in one round as what must not be remembered, in some behind another that is under way.
        let own = |rng: &mut Rng| Payload::from(random(rng, 150));
        let count = 1 + round % 2;
        for _ in 0..count {
            let proposal = own(&mut rng);
            talk.say(0, round != 3, &[9], &[proposal]);
        }
        let got = talk.arrive(1);
        let entry = |to: u8| -> Payload {
            let head = Bytes::from(vec![to, 1, 2, u8::try_from(round).unwrap()]);
            std::iter::once(head).chain(got.message(0)).collect()
        };
        talk.say(1, true, &members, &[entry(1), entry(2), entry(3)]);
        // And what is said about it returns.
        talk.say(1, true, &[4], &[[b"a remark about it, ".repeat(3), random(&mut rng, 20)].concat().into()]);
        if count == 2 {
            talk.arrive(1);
        }
        talk.arrive(0);
        let got = talk.arrive(0);
        let answer = std::iter::once(Bytes::from_static(b"re")).chain(got.message(0));
        talk.say(0, true, &[8], &[answer.collect()]);
        talk.arrive(1);
    }
    talk.connection
}

fn staged(stage: Stage) -> Connection {
    let mut talk = Talk::new();
    talk.ends[0].set_stage(stage);
    for round in 0..5u8 {
        let text = format!("entry {round}: the same words come again and again, ").repeat(8);
        let message = |to: u8| Payload::from([&[to, round][..], text.as_bytes()].concat());
        talk.say(0, round != 2, &[1, 2, 3], &[message(1), message(2), message(3)]);
    }
    talk.connection
}
