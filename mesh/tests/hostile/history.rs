//! What the ends of a connection remember: little is said twice, and what does not follow on the rest ends it.

use bytes::Bytes;
use trunkline_codec::{Epochs, Options, Payload, Stage};
use trunkline_mesh::id::{Datacenter, Lane, Seq};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{Opened, SealedBatch, Token};
use trunkline_mesh::proto::wire::{Envelope, FEATURE_HISTORY, FEATURE_ZSTD, Run};
use trunkline_mesh::settings::Settings;

use super::shell::{Peer, Shell, flow, id, roster_frame};

fn peer(name: &'static str) -> Peer {
    Peer { features: FEATURE_HISTORY, ..Peer::new(name) }
}

/// What a leader says to one of five followers in a round: own header fields, shared entries, mostly none.
fn append(to: u8, round: u64, entries: &[Bytes]) -> Payload {
    let mut header = vec![8, 8, 16, to, 24, 1, 32, 9];
    let commit = 1_000 + round / 3;
    for field in [commit, commit + 7, 70_000 + round] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header.extend_from_slice(&[to; 4]);
    std::iter::once(Bytes::from(header)).chain(entries.iter().cloned()).collect()
}

#[test]
fn two_hundred_frames_of_a_running_leader_are_no_longer_than_a_zstd_stream() {
    let members = ["m", "m2", "x0000", "x0001", "x0002"];
    let mut shell = Shell::with("o", 3, Settings::default());
    shell.link_out(&peer("p"));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut said = Vec::new();
    for round in 0..200 {
        let count = [0, 0, 0, 1, 0, 2, 0, 0][usize::try_from(round % 8).unwrap()];
        let entry = |_| Bytes::from(std::iter::repeat_with(|| rng.u8(..)).take(1024).collect::<Vec<u8>>());
        let entries: Vec<Bytes> = (0..count).map(entry).collect();
        let messages: Vec<Payload> = (0..5).map(|to| append(to, round, &entries)).collect();
        said.push(messages.iter().flat_map(Payload::to_vec).collect::<Vec<u8>>());
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.extend(members.iter().zip(messages).map(|(to, payload)| Message::new(id(to), payload)));
        shell.node.submit(batch, shell.now).unwrap();
        shell.drain();
    }
    let row = &shell.stats().datacenters[&Datacenter::new("eu").unwrap()];
    assert_eq!(row.frames, 200);
    let stream = zstd_stream(&said);
    let new: usize = 75 * 1024;
    println!("{} bytes in frames, {stream} in a zstd stream, {new} of them new", row.sent.diff);
    assert!(row.sent.diff <= u64::try_from(stream).unwrap(), "{} bytes, zstd takes {stream}", row.sent.diff);
}

/// Bytes of one zstd stream of level -1 over these texts, flushed after each.
fn zstd_stream(texts: &[Vec<u8>]) -> usize {
    let mut context = zstd_safe::CCtx::create();
    context.set_parameter(zstd_safe::CParameter::CompressionLevel(-1)).unwrap();
    let mut bytes = 0;
    for text in texts {
        let mut room = vec![0; zstd_safe::compress_bound(text.len()) + 64];
        let mut out = zstd_safe::OutBuffer::around(&mut room);
        let mut input = zstd_safe::InBuffer::around(text);
        while context
            .compress_stream2(&mut out, &mut input, zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_flush)
            .unwrap()
            > 0
        {}
        bytes += out.pos();
    }
    bytes
}

#[test]
fn zstd_is_sent_to_those_who_have_it_and_a_stage_only_to_other_datacenters() {
    for (wanted, features, expected) in [
        (Stage::Zstd, FEATURE_HISTORY | FEATURE_ZSTD, Stage::Zstd),
        (Stage::Zstd, FEATURE_HISTORY, Stage::Lz4),
        (Stage::Zstd, 0, Stage::Lz4),
        (Stage::Lz4, FEATURE_HISTORY | FEATURE_ZSTD, Stage::Lz4),
        (Stage::None, FEATURE_HISTORY | FEATURE_ZSTD, Stage::None),
    ] {
        if wanted == Stage::Zstd && !cfg!(feature = "zstd") {
            continue;
        }
        let settings = Settings { second_stage: wanted, ..Settings::default() };
        let mut shell = Shell::with("o", 3, settings);
        let [_, far] = shell.link_out(&Peer { features, ..Peer::new("p") });
        let [_, near] = shell.link_out(&Peer { features, ..Peer::new("um") });
        for (datacenter, to) in [("eu", "m"), ("us", "um")] {
            let mut batch = Batch::to(Datacenter::new(datacenter).unwrap());
            batch.push(Message::new(id(to), Bytes::from_static(&[b'a'; 4000])));
            shell.node.submit(batch, shell.now).unwrap();
        }
        shell.drain();
        assert_eq!(shell.stages(far), [expected], "{wanted:?} wanted, features {features}");
        assert_eq!(shell.stages(near), [Stage::None]);
    }
}

#[test]
fn a_batch_out_of_step_ends_its_link_and_is_counted() {
    let batch = |row| SealedBatch {
        lane: Lane::Bulk,
        envelope: Envelope {
            batch: 1,
            attempt: 1,
            runs: vec![Run { flow: row, first: Seq(1), count: 0, floor_back: 0, deadline_ms: 1000 }],
        },
        payloads: vec![Payload::default()],
        stage: Stage::None,
        token: Token::Attempt(0),
    };
    for (epochs, label) in [(Some(Epochs { incoming: 1, outgoing: 1 }), "history"), (None, "codec")] {
        let mut shell = Shell::new("m");
        let [_, bulk] = shell.link_in(&peer("o"));
        shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
        let mut wire = Vec::new();
        let opened = Opened { lane: Lane::Bulk, frame_bytes_max: 1 << 20, epochs, echo: None };
        batch(0).encode(&mut BatchEncoder::new(Options::default(), Some(&opened)), &mut wire);
        shell.feed(bulk, &wire.concat());
        assert_eq!(shell.errors(label), 1, "{label}");
        assert!(shell.closed.contains_key(&bulk));
        shell.assert_member_usable();
    }
}
