//! What the ends of a connection remember: little is said twice, and what does not follow on the rest ends it.

use bytes::Bytes;
use trunkline_codec::{EchoDecoder, Epochs, Limits, Options, Payload, SessionEncoder, Stage};
use trunkline_mesh::id::{Datacenter, Lane, Seq};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::echo::SharedEcho;
use trunkline_mesh::proto::frame::{Opened, SealedBatch, Token, Written};
use trunkline_mesh::proto::wire::{Envelope, FEATURE_ECHO, FEATURE_HISTORY, FEATURE_ZSTD, Run};
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

/// An origin elsewhere that dials a proxy, and both know of echoes.
fn echoing() -> (Shell, trunkline_mesh::proto::node::ConnId, Opened) {
    let mut shell = Shell::new("p");
    let [_, bulk] = shell.link_in(&Peer { features: FEATURE_HISTORY | FEATURE_ECHO, ..Peer::new("o") });
    let opened = shell.opened(bulk).clone();
    assert!(opened.echo.is_some(), "they are in different datacenters");
    let epochs = opened.epochs.map(Epochs::reversed);
    let echo = epochs.map(|epochs| SharedEcho::new(true, epochs));
    (shell, bulk, Opened { epochs, echo, ..opened })
}

fn sealed(runs: Vec<Run>, payload: Payload) -> SealedBatch {
    SealedBatch {
        lane: Lane::Bulk,
        envelope: Envelope { batch: 1, attempt: 1, runs },
        payloads: vec![payload],
        stage: Stage::None,
        token: Token::Attempt(0),
    }
}

#[test]
fn an_echo_of_what_was_never_sent_ends_its_link_and_is_counted() {
    let (mut shell, bulk, opened) = echoing();
    // It came to the peer, but not from this node.
    let message: Vec<u8> =
        (0..5_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let run = Run { flow: 0, first: Seq(1), count: 1, floor_back: 0, deadline_ms: 1000 };
    let head = trunkline_mesh::proto::run::message_head(0, message.len());
    let payload = || -> Payload { [head.clone(), Bytes::from(message.clone())].into_iter().collect() };
    let epochs = Epochs { incoming: 99, outgoing: 98 };
    let elsewhere = SessionEncoder::new(Options::default(), 99).encode(&[0], &[payload()]).unwrap();
    let mut decoder = EchoDecoder::new(Limits::default(), epochs);
    opened.echo.as_ref().unwrap().parse(&mut decoder, elsewhere.to_bytes(), &[0], &[run]).unwrap();
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    let mut wire = Vec::new();
    let written = sealed(vec![run], payload())
        .encode(&mut BatchEncoder::new(Options::default(), Some(&opened)), &mut wire);
    assert_eq!(usize::try_from(written.echoed_bytes), Ok(message.len()));
    shell.feed(bulk, &wire.concat());
    assert_eq!(shell.errors("history"), 1);
    assert!(shell.closed.contains_key(&bulk));
}

#[test]
fn frames_that_nobody_may_refer_to_are_counted() {
    let (mut shell, bulk, opened) = echoing();
    let mut encoder = BatchEncoder::new(Options::default(), Some(&opened));
    let written = SealedBatch::news(Lane::Bulk).encode(&mut encoder, &mut Vec::new());
    for unremembered in [false, true, true] {
        shell.node.handle_written(bulk, &[Written { unremembered, ..written }], 100, shell.now);
    }
    assert_eq!(shell.stats().unremembered_frames, 2);
}

#[test]
fn a_batch_without_runs_is_for_those_who_echo() {
    let (mut shell, bulk, opened) = echoing();
    let mut encoder = BatchEncoder::new(Options::default(), Some(&opened));
    let mut wire = Vec::new();
    SealedBatch::news(Lane::Bulk).encode(&mut encoder, &mut wire);
    assert!(wire.iter().map(Bytes::len).sum::<usize>() < 40);
    shell.feed(bulk, &wire.concat());
    assert_eq!(shell.stats().protocol_errors.values().sum::<u64>(), 0);
    wire.clear();
    sealed(Vec::new(), Payload::from(vec![1])).encode(&mut encoder, &mut wire);
    shell.feed(bulk, &wire.concat());
    assert_eq!(shell.errors("run_count"), 1, "its message is not empty");
    let mut shell = Shell::new("p");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    wire.clear();
    SealedBatch::news(Lane::Bulk).encode(&mut BatchEncoder::new(Options::default(), None), &mut wire);
    shell.feed(bulk, &wire.concat());
    assert_eq!(shell.errors("run_count"), 1, "nothing was agreed on");
}

/// Both ends have to have it, and what it needs; within a datacenter, and on control, nobody keeps anything.
#[test]
fn echoes_are_used_where_both_ends_have_them() {
    let all = FEATURE_HISTORY | FEATURE_ECHO;
    let on = Settings::default();
    let off = Settings { echo: false, ..Settings::default() };
    for (name, features, settings, expected) in [
        ("o", all, &on, true),
        ("o", FEATURE_HISTORY, &on, false),
        ("o", FEATURE_ECHO, &on, false),
        ("o", all, &off, false),
        ("eo", all, &on, false),
    ] {
        let mut shell = Shell::with("p", 0, settings.clone());
        let [control, bulk] = shell.link_in(&Peer { features, ..Peer::new(name) });
        assert_eq!(shell.opened(bulk).echo.is_some(), expected, "{name} {features} {}", settings.echo);
        assert!(shell.opened(control).echo.is_none());
    }
    // Set anew, it holds for what begins then.
    let mut shell = Shell::with("p", 0, off);
    shell.node.set_settings(&on, shell.now);
    let [_, bulk] = shell.link_in(&Peer { features: all, ..Peer::new("o") });
    assert!(shell.opened(bulk).echo.is_some());
}
