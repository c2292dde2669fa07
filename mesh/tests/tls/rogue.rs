//! A node with a good certificate breaks one rule after the other, within real TLS: what it is answered, what is counted, and
//! that the log names it. What else such a node may try is in `hostile/rogue.rs`, without TLS around it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use trunkline_codec::Payload;
use trunkline_mesh::Lane;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::wire::{
    AckFlow, Confirm, Hello, PREAMBLE, Ping, RefuseCode, RefusedReason, WIRE_VERSION,
};

use super::log::Listening;
use super::shell::{
    ack_frame, batch_around, batch_frame, entry, every_frame, flow, frame_of, roster_frame, run, sum_again,
};
use super::stranger::answers;
use super::support::{Cluster, Raw, Running, eventually, id, soon};
use super::{Stranger, all_failed, cluster, failed, refused};

/// What a member does about it.
#[derive(Clone, Copy)]
enum Answer {
    /// The link ends with a Close, counted under this label.
    Ends(&'static str),
    /// The run is refused, the link lives.
    Refuses(RefusedReason),
    /// Counted as an ack that makes no sense; the link lives.
    Ignores,
}

use Answer::{Ends, Ignores, Refuses};

/// What the origin `leader` says to the member `eu-m`, over one connection of its link, and the answer.
fn cases() -> Vec<(&'static str, Lane, Vec<u8>, Answer)> {
    let (control, bulk) = (Lane::Control, Lane::Bulk);
    let rows = |first, to| roster_frame(bulk, first, vec![flow("leader", 5, to)]).to_vec();
    let one = |row| batch_frame(bulk, vec![run(row, 1, 1, 0)], b"x");
    let ping = |lane| control_frame(FrameType::Ping, lane, &Ping { sent_us: 1 }).to_vec();
    let header = |kind: FrameType, lane, body: u32, payload: u32| {
        let mut bytes = frame_of(kind as u8, lane, &[]);
        bytes[4..8].copy_from_slice(&body.to_le_bytes());
        bytes[8..12].copy_from_slice(&payload.to_le_bytes());
        bytes
    };
    let changed = |mut bytes: Vec<u8>, at: usize, by: u8| {
        bytes[at] ^= by;
        bytes
    };
    let two = batch_around(bulk, vec![run(0, 1, 1, 0)], vec![Payload::default(), Payload::default()]);
    let whole = one(0).len();
    let elsewhere = roster_frame(bulk, 0, vec![flow("leader", 4, "eu-m")]).to_vec();
    let name = {
        let mut bytes = rows(0, "aaaa");
        let at = bytes.windows(4).position(|bytes| bytes == b"aaaa").unwrap();
        bytes[at..at + 4].copy_from_slice(b"../x");
        sum_again(bytes)
    };
    let not_served = Refuses(RefusedReason::NotServed);
    vec![
        ("a batch before its roster", bulk, one(0), Ends("unknown_row")),
        ("a gap in the roster", bulk, rows(1, "eu-m"), Ends("roster")),
        ("a name with a slash", bulk, name, Ends("body")),
        ("a ping on bulk", bulk, ping(bulk), Ends("unexpected_frame")),
        ("a second Hello", control, every_frame(control).swap_remove(0).1, Ends("unexpected_frame")),
        ("a frame of the other lane", control, ping(bulk), Ends("lane")),
        ("a type that is none", control, frame_of(99, control, &[]), Ends("unknown_type")),
        ("a reserved bit", control, changed(ping(control), 2, 1), Ends("reserved")),
        ("a body over its limit", bulk, header(FrameType::Roster, bulk, (1 << 20) + 1, 0), Ends("too_long")),
        ("a payload of 4 GiB", bulk, header(FrameType::Batch, bulk, 0, u32::MAX), Ends("too_long")),
        ("a damaged envelope", bulk, changed(one(0), 17, 1), Ends("checksum")),
        ("a damaged payload", bulk, changed(one(0), whole - 1, 1), Ends("codec")),
        ("more messages than runs", bulk, two, Ends("run_count")),
        ("what is for another member", bulk, [rows(0, "eu-n"), one(0)].concat(), not_served),
        ("its words of another life", bulk, [elsewhere, one(0)].concat(), not_served),
        (
            "numbers that cannot be",
            bulk,
            [rows(0, "eu-m"), batch_frame(bulk, vec![run(0, 5, 1, 6)], b"x")].concat(),
            Refuses(RefusedReason::Malformed),
        ),
        ("an ack of nothing", control, ack_frame(vec![entry(0, 5, 1)]).to_vec(), Ignores),
    ]
}

type Link = [Raw<tokio_rustls::client::TlsStream<TcpStream>>; 2];

/// A link of the node that the certificate names, to the member.
async fn link(cluster: &Cluster, number: u64) -> Link {
    let stranger = Stranger::of(cluster, "leader");
    let one = async |lane| {
        let mut raw = stranger.dial(cluster.address("eu-m")).await.unwrap();
        raw.shake_hands(&Hello { link: number, ..cluster.hello("leader", lane) }, lane).await;
        raw
    };
    [one(Lane::Control).await, one(Lane::Bulk).await]
}

fn counted(node: &Running, answer: Answer) -> u64 {
    let stats = node.mesh().stats();
    match answer {
        Ends(label) => stats.protocol_errors[label],
        Refuses(reason) => stats.member.refused[reason.label()],
        Ignores => stats.acks_ignored,
    }
}

/// Of the lines behind those that were looked at, one names a peer, and it is this one. Gives how many there are.
fn assert_named_once(log: &Listening, looked_at: usize, name: &str) -> usize {
    let lines = log.lines();
    let named = lines[looked_at..].iter().filter(|line| line.contains(" peer="));
    // That links come up and go down is told of every peer.
    let of_links = |line: &&String| line.starts_with("link up ") || line.starts_with("link down: ");
    let (links, named): (Vec<_>, Vec<_>) = named.partition(of_links);
    assert!(links.iter().all(|line| line.contains(" peer=leader ")), "{name}: {links:?}");
    assert!(matches!(named[..], [line] if line.contains(" peer=leader ")), "{name}: {named:?}");
    lines.len()
}

/// On the one thread of this test, where its log is.
#[tokio::test]
async fn every_rule_that_a_certified_peer_breaks_has_its_answer_and_a_line_that_names_it() {
    let cluster = cluster();
    let mut member = cluster.start("eu-m").await;
    let log = Listening::new();
    let mut told = 0;
    for ((name, lane, bytes, answer), number) in cases().into_iter().zip(1..) {
        let before = counted(&member, answer);
        let mut raws = link(&cluster, number).await;
        let linked = || member.mesh().status().links.iter().any(|link| link.up);
        eventually("the link is up", linked).await;
        raws[lane.index()].write(&bytes).await;
        match answer {
            Ends(_) => {
                let mut last = None;
                while let Some(received) = raws[lane.index()].read().await {
                    last = Some(received);
                }
                assert!(matches!(&last, Some(Received::Close(close)) if close.code == 2), "{name}: {last:?}");
                // The other connection ends without last words.
                while let Ok(Some(_)) = raws[1 - lane.index()].try_read().await {}
            }
            Refuses(reason) => {
                let acks: Vec<AckFlow> = loop {
                    match raws[0].read().await {
                        Some(Received::Ack(ack)) => break ack.flows,
                        Some(_) => {}
                        None => panic!("{name}: the link ends"),
                    }
                };
                let reasons = acks.iter().flat_map(|ack| &ack.refused).map(|range| range.reason);
                assert_eq!(reasons.collect::<Vec<_>>(), [reason as u8], "{name}");
            }
            Ignores => {}
        }
        eventually(name, || counted(&member, answer) == before + 1).await;
        told = assert_named_once(&log, told, name);
        // The next case must not take this link for its own.
        drop(raws);
        eventually("the link is over", || !linked()).await;
    }
    // A well-behaved peer is served as before.
    let proxy = cluster.start("eu-p").await;
    eventually("it is linked", || proxy.reaches("eu-m")).await;
    assert_eq!(member.mesh().stats().member.handed_over, 0);
    assert!(member.inbox.try_recv().is_none());
}

/// Before its link is up: a refusal, and who it was is known from the certificate.
#[tokio::test]
async fn a_certified_peer_that_breaks_the_handshake_is_refused_and_named() {
    let cluster = cluster();
    let member = cluster.start("eu-m").await;
    let log = Listening::new();
    let control = Lane::Control;
    let confirm =
        control_frame(FrameType::Confirm, control, &Confirm { version: WIRE_VERSION, transcript: 0 });
    let hello = control_frame(FrameType::Hello, control, &cluster.hello("leader", control));
    let other_lane = control_frame(
        FrameType::Hello,
        control,
        &Hello { lane: 7, link: 8, ..cluster.hello("leader", control) },
    );
    let another = control_frame(FrameType::Hello, control, &cluster.hello("eu-p", control));
    let version = Hello { versions: vec![(99, 1)], link: 9, ..cluster.hello("leader", control) };
    let version = control_frame(FrameType::Hello, control, &version);
    let preamble = &PREAMBLE[..];
    let cases = [
        ("noise", vec![0xff; 5000], RefuseCode::Malformed),
        ("a Confirm before a Hello", [preamble, &confirm].concat(), RefuseCode::Malformed),
        (
            "a batch before a Hello",
            [preamble, &every_frame(control).pop().unwrap().1].concat(),
            RefuseCode::Malformed,
        ),
        ("a Hello twice", [preamble, &hello, &hello].concat(), RefuseCode::Malformed),
        ("a Confirm of something else", [preamble, &hello, &confirm].concat(), RefuseCode::VersionsStripped),
        ("a lane that is none", [preamble, &other_lane].concat(), RefuseCode::Malformed),
        ("another's name", [preamble, &another].concat(), RefuseCode::OtherCertificate),
        ("a version that nobody speaks", [preamble, &version].concat(), RefuseCode::NoCommonVersion),
    ];
    let mut told = 0;
    for (name, bytes, code) in cases {
        let before = refused(&member, code.label());
        let mut raw = Stranger::of(&cluster, "leader").dial(cluster.address("eu-m")).await.unwrap();
        raw.write(&bytes).await;
        let mut last = None;
        while let Some(received) = raw.read().await {
            last = Some(received);
        }
        let Some(Received::Refuse(refuse)) = last else { panic!("{name}: {last:?}") };
        assert_eq!(RefuseCode::from_wire(refuse.code), Some(code), "{name}");
        assert_eq!(refused(&member, code.label()), before + 1, "{name}");
        told = assert_named_once(&log, told, name);
    }
    assert_eq!(member.mesh().stats().handshakes, 0);
}

/// Passes one connection on to the node, and keeps what the caller says.
async fn recorder(cluster: &Cluster) -> (std::net::SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (here, there) = (listener.local_addr().unwrap(), cluster.address("eu-m"));
    let tape = tokio::spawn(async move {
        let (mut caller, mut back) = listener.accept().await.unwrap().0.into_split();
        let (mut answers, mut node) = TcpStream::connect(there).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let (mut tape, mut from) = (Vec::new(), 0);
        while caller.read_buf(&mut tape).await.unwrap() > 0 {
            node.write_all(&tape[from..]).await.unwrap();
            from = tape.len();
        }
        tape
    });
    (here, tape)
}

/// Every byte of a link, from its TLS handshake to its batch, as somebody on the network sees it.
#[tokio::test]
async fn what_was_recorded_on_the_network_is_refused_on_a_new_connection_and_after_a_restart() {
    let cluster = cluster();
    let mut member = cluster.start("eu-m").await;
    let stranger = Stranger::of(&cluster, "leader");
    let (mut raws, mut tapes) = (Vec::new(), Vec::new());
    for lane in Lane::ALL {
        let (address, tape) = recorder(&cluster).await;
        let mut raw = stranger.dial(address).await.unwrap();
        raw.shake_hands(&cluster.hello("leader", lane), lane).await;
        raws.push(raw);
        tapes.push(tape);
    }
    raws[1].write(&roster_frame(Lane::Bulk, 0, vec![flow("leader", 5, "eu-m")])).await;
    raws[1].write(&batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"once")).await;
    assert_eq!(soon("the message", member.inbox.recv()).await.unwrap().payload.to_vec(), b"once");
    drop(raws);
    let mut recorded = Vec::new();
    for tape in tapes {
        recorded.push(soon("the tape", tape).await.unwrap());
    }

    let handshakes = member.mesh().stats().handshakes;
    assert_eq!((handshakes, all_failed(&member)), (2, 0));
    for restarted in [false, true] {
        if restarted {
            drop(member);
            member = cluster.start_anew("eu-m").await;
        }
        let handshakes = member.mesh().stats().handshakes;
        for (tape, failures) in recorded.iter().zip(1..) {
            let mut stream = TcpStream::connect(cluster.address("eu-m")).await.unwrap();
            // It may be turned away in the middle.
            let _ = stream.write_all(tape).await;
            answers(&mut stream).await;
            eventually("it is counted", || failed(&member, "other") == failures).await;
        }
        let stats = member.mesh().stats();
        assert_eq!((stats.handshakes, stats.member.handed_over), (handshakes, u64::from(!restarted)));
        assert!(member.mesh().status().links.iter().all(|link| link.peer != id("leader") || !link.up));
    }
}
