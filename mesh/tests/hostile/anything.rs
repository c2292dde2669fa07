//! Anything at all: random bytes, random bodies with a fitting checksum, mutated frames and random numbers, said by a peer
//! to a member, a proxy and an origin.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use trunkline_mesh::id::{Datacenter, Lane};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::frame::FrameReader;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::window::WINDOW_SEQS;
use trunkline_mesh::proto::wire::{AckFlow, PREAMBLE};

use super::open_reader;
use super::shell::{
    Peer, Shell, ack_frame, batch_frame, entry, every_frame, flow, frame_of, id, refused, roster_frame, run,
    sum_again,
};

/// What a fuzzed peer says next.
#[derive(Clone, Debug)]
enum Word {
    /// Any bytes.
    Noise(Vec<u8>),
    /// A frame with a valid header and checksum around any body.
    Body(u8, bool, Vec<u8>),
    /// A valid frame, some of its bytes changed and summed again.
    Mutated(usize, Vec<(usize, u8)>),
    /// A batch of row 0 with any numbers.
    Run(u64, u32, u64),
    /// An ack of row 0 with any numbers.
    Ack(u64, u64, Vec<u64>, Vec<(u64, u32, u8)>),
    /// Time passes, ms.
    Time(u16),
}

fn word() -> impl Strategy<Value = Word> {
    let number = || {
        prop_oneof![
            Just(0_u64),
            Just(1),
            Just(u64::MAX),
            Just(u64::MAX - 1),
            0..40_u64,
            0..WINDOW_SEQS * 2,
            any::<u64>()
        ]
    };
    let count = || prop_oneof![Just(0_u32), Just(1), Just(2), Just(u32::MAX), 0..20_u32, any::<u32>()];
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Word::Noise),
        2 => (1..=10_u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..48)).prop_map(|(kind, bulk, body)| Word::Body(kind, bulk, body)),
        3 => (0..18_usize, prop::collection::vec((0..80_usize, any::<u8>()), 0..4)).prop_map(|(frame, changes)| Word::Mutated(frame, changes)),
        3 => (number(), count(), number()).prop_map(|(first, count, back)| Word::Run(first, count, back)),
        3 => (number(), number(), prop::collection::vec(any::<u64>(), 0..5), prop::collection::vec((number(), count(), 0..13_u8), 0..4))
            .prop_map(|(life, decided, held, ranges)| Word::Ack(life, decided, held, ranges)),
        1 => any::<u16>().prop_map(Word::Time),
    ]
}

fn say(word: Word, row: u32) -> (Option<Lane>, Vec<u8>) {
    match word {
        Word::Noise(bytes) => (None, bytes),
        Word::Body(kind, bulk, body) => {
            let lane = Lane::ALL[usize::from(bulk)];
            (Some(lane), frame_of(kind, lane, &body))
        }
        Word::Mutated(frame, changes) => {
            let lane = Lane::ALL[frame % 2];
            let mut bytes = every_frame(lane).swap_remove(frame / 2).1;
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            (Some(lane), sum_again(bytes))
        }
        Word::Run(first, count, back) => {
            (Some(Lane::Bulk), batch_frame(Lane::Bulk, vec![run(row, first, count, back)], b"x"))
        }
        Word::Ack(life, decided, held, ranges) => {
            let refused =
                ranges.into_iter().map(|(first, count, reason)| refused(first, count, reason)).collect();
            (
                Some(Lane::Control),
                ack_frame(vec![AckFlow { held, refused, ..entry(row, life, decided) }]).to_vec(),
            )
        }
        Word::Time(_) => (None, Vec::new()),
    }
}

/// Lets a peer say all of this over its link, and over a new one whenever that was closed.
fn talk(shell: &mut Shell, words: Vec<Word>, mut link: impl FnMut(&mut Shell) -> [ConnId; 2]) {
    let mut conns = link(shell);
    let started = Instant::now();
    for word in words {
        if let Word::Time(ms) = &word {
            shell.advance(Duration::from_millis(u64::from(*ms)));
        }
        if conns.iter().any(|conn| shell.closed.contains_key(conn)) {
            conns = link(shell);
        }
        let (lane, bytes) = say(word, 0);
        shell.feed(conns[lane.unwrap_or(Lane::Control).index()], &bytes);
        for conn in conns {
            shell.sent(conn);
        }
        while shell.outcome().is_some() {}
    }
    assert!(started.elapsed() < Duration::from_secs(20), "a peer's few bytes keep the node busy");
    let status = shell.node.status(shell.now);
    assert!(status.held_bytes <= 64 << 20 && status.inbox_bytes <= 32 << 20, "{status:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_takes_any_bytes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8), open in any::<bool>()) {
        let mut reader = if open { open_reader(Lane::Bulk) } else { FrameReader::new() };
        let mut buffer = BytesMut::new();
        for chunk in chunks {
            buffer.extend_from_slice(&chunk);
            while let Ok(Some(_)) = reader.read(&mut buffer) {}
            prop_assert!(reader.missing(&buffer) >= 1);
        }
    }

    #[test]
    fn a_node_that_accepts_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), preamble in any::<bool>()) {
        let mut shell = Shell::new("m");
        let conn = shell.accept();
        let start = if preamble { &PREAMBLE[..] } else { &[] };
        shell.feed(conn, &[start, &bytes].concat());
        shell.advance(Duration::from_secs(6));
        prop_assert!(shell.closed.contains_key(&conn), "the handshake has a deadline");
        shell.assert_member_usable();
    }

    #[test]
    fn a_member_survives_any_peer(words in prop::collection::vec(word(), 1..40)) {
        let mut shell = Shell::new("m");
        talk(&mut shell, words, |shell| {
            let conns = shell.link_in(&Peer::new("o"));
            shell.feed(conns[1], &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
            conns
        });
        shell.assert_member_usable();
    }

    #[test]
    fn a_proxy_survives_any_origin(words in prop::collection::vec(word(), 1..40)) {
        let mut shell = Shell::new("p");
        shell.link_out(&Peer::new("m"));
        talk(&mut shell, words, |shell| {
            let conns = shell.link_in(&Peer::new("o"));
            shell.feed(conns[1], &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
            conns
        });
    }

    #[test]
    fn a_proxy_survives_any_member(words in prop::collection::vec(word(), 1..40)) {
        let mut shell = Shell::new("p");
        let mut life = 100;
        talk(&mut shell, words, |shell| {
            life += 1;
            let member = shell.link_out(&Peer { life, ..Peer::new("m") });
            let [_, bulk] = shell.link_in(&Peer { life, ..Peer::new("o") });
            shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", life, "m")]));
            shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 20, 0)], b"x"));
            member
        });
    }

    #[test]
    fn an_origin_survives_any_proxy_and_every_receipt_resolves(words in prop::collection::vec(word(), 1..40)) {
        let mut shell = Shell::new("o");
        let mut tickets = 0_u32;
        talk(&mut shell, words, |shell| {
            let conns = shell.link_out(&Peer::new("p"));
            let mut batch = Batch::to(Datacenter::new("eu").unwrap());
            for index in 0..20_u8 {
                batch.push(Message::new(id("m"), Bytes::from(vec![index; 30])));
            }
            tickets += u32::from(shell.node.submit(batch, shell.now).is_ok());
            shell.drain();
            conns
        });
        prop_assert!(tickets > 0);
        for _ in 0..12 {
            shell.advance(Duration::from_secs(1));
            while shell.outcome().is_some() {}
        }
        let status = shell.node.status(shell.now);
        prop_assert_eq!(status.datacenters.iter().map(|row| row.pending_messages).sum::<u64>(), 0, "past its deadline");
        prop_assert_eq!(status.datacenters.iter().map(|row| row.queued_bytes).sum::<u64>(), 0);
    }
}
