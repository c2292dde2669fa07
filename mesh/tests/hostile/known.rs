//! Defects that hostile peers and crowded frames showed, one test each with the least that shows it, and a near miss. They
//! stay when the defect is mended.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use trunkline_codec::{EncodeError, Options, Payload, Stage};
use trunkline_mesh::id::{Datacenter, Lane, NodeId, Seq};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{FrameError, FrameType, Received, SealedBatch, Token, frame_around};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::run::message_head;
use trunkline_mesh::proto::window::WINDOW_SEQS;
use trunkline_mesh::proto::wire::{
    AckFlow, Envelope, Offer, PASSED, PREAMBLE, REFUSED_RANGES_MAX, Refused, RefusedReason, WIRE_VERSION,
    Welcome, encode, offered_versions,
};
use trunkline_mesh::settings::Settings;

use super::shell::{
    Peer, Shell, ack_frame, batch_around, batch_frame, entry, flow, id, refused, roster_frame, run,
};
use super::{alone, peak_kib};

fn submit(shell: &mut Shell, datacenter: &str, messages: impl IntoIterator<Item = (NodeId, usize)>) {
    let mut batch = Batch::to(Datacenter::new(datacenter).unwrap());
    batch.extend(messages.into_iter().map(|(to, bytes)| Message::new(to, Bytes::from(vec![1; bytes]))));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
}

/// The destinations of the rows that the node announced on a connection, and the runs it sent there.
fn rows_and_runs(shell: &mut Shell, conn: ConnId) -> (Vec<NodeId>, Vec<usize>) {
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    for received in shell.sent(conn) {
        match received {
            Received::Roster(roster) => rows.extend(roster.flows.into_iter().map(|flow| flow.destination)),
            Received::Batch(envelope, _) => runs.push(envelope.runs.len()),
            _ => {}
        }
    }
    (rows, runs)
}

/// 129 destinations, one of them with one gap to fill and 128 with eight: 1,025 runs, and a codec frame takes 1,024.
#[test]
fn a_frame_never_holds_more_runs_than_the_codec_takes() {
    let mut shell = Shell::with("o", 128, Settings::default());
    let proxy = shell.link_out(&Peer::new("p"));
    let others: Vec<NodeId> = (0..128).map(|index| id(&format!("x{index:04}"))).collect();
    let sixteen_each = others.iter().flat_map(|to| std::iter::repeat_n((to.clone(), 3), 16));
    submit(&mut shell, "eu", std::iter::repeat_n((id("m"), 3), 2).chain(sixteen_each));
    let (rows, _) = rows_and_runs(&mut shell, proxy[1]);
    assert_eq!(rows.len(), 129);

    let full = |row: usize| AckFlow {
        held: vec![if rows[row] == id("m") { 0b10 } else { 0xaaaa }],
        refused: vec![refused(1, 16, RefusedReason::Unreachable as u8)],
        ..entry(u32::try_from(row).unwrap(), 100, 0)
    };
    shell.feed(proxy[0], &ack_frame((0..rows.len()).map(full).collect()));
    let (_, runs) = rows_and_runs(&mut shell, proxy[1]);
    assert_eq!(runs.iter().sum::<usize>(), 1025, "every gap is sent again: {runs:?}");
}

/// An origin says that it passes on what another origin sent: only a proxy of the member's datacenter may.
#[test]
fn a_member_hears_an_origin_only_from_itself_or_from_a_proxy_of_its_datacenter() {
    let mut shell = Shell::new("m");
    let [control, bulk] = shell.link_in(&Peer::new("o2"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", u64::MAX, "m")]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"forged"));
    assert!(shell.node.poll_delivery(shell.now).is_none(), "forged");
    let reasons: Vec<u8> =
        shell.acks(control).iter().flat_map(|entry| &entry.refused).map(|range| range.reason).collect();
    assert_eq!(reasons, [RefusedReason::NotServed as u8]);
    // The life that the forger claimed does not lock the true one out.
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"true"));
    assert!(shell.node.poll_delivery(shell.now).is_some());
}

/// A window per origin is only bounded if origins are: by the topology.
#[test]
fn origins_that_are_in_no_topology_cost_a_member_nothing() {
    let mut shell = Shell::new("m");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    let rows = (0..5000).map(|index| flow(&format!("invented-{index}"), 1, "m")).collect();
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, rows));
    for row in 0..5000 {
        shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(row, 2, 1, 1)], b"held"));
    }
    assert_eq!(shell.node.status(shell.now).held_bytes, 0);
}

/// A member's acks are as long as they like, and the proxy puts them together into a frame that its origin refuses.
#[test]
fn a_member_cannot_break_its_proxys_link_to_an_origin() {
    let mut shell = Shell::new("p");
    let [member, _] = shell.link_out(&Peer::new("m"));
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    let rows = vec![flow("o", 100, "m"), flow("o", 101, "m")];
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, rows));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0), run(1, 1, 1, 0)], b"x"));
    for row in 0..2 {
        let wide = AckFlow { held: vec![u64::MAX; 80_000], ..entry(row, 100, 0) };
        shell.feed(member, &ack_frame(vec![wide]));
    }
    shell.advance(Duration::from_millis(2));
    assert!(shell.acks(control).iter().all(|entry| entry.held.len() <= 256), "the window has 16,384 seqs");
}

/// Every second seq is held until nothing more fits, then all of them come in one run: each gap is a range of its own, and
/// whoever reads the ack takes 1,024.
#[test]
fn one_run_never_makes_an_ack_of_more_ranges_than_its_reader_takes() {
    const SEQS: u32 = 4_000;
    let settings = Settings { message_bytes_max: 1, reorder_bytes_max: 300 * 2_000, ..Settings::default() };
    let mut shell = Shell::with("m", 0, settings);
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    let message = Payload::from([&message_head(0, 44)[..], &[0; 44]].concat());
    for first in (3..3 + SEQS).step_by(2) {
        let alone = vec![run(0, u64::from(first), 1, u64::from(first) - 1)];
        shell.feed(bulk, &batch_around(Lane::Bulk, alone, vec![message.clone()]));
    }
    shell.acks(control);
    let all: Payload = (0..SEQS).flat_map(|_| message.segments().to_vec()).collect();
    shell.feed(bulk, &batch_around(Lane::Bulk, vec![run(0, 2, SEQS, 1)], vec![all]));
    let acks = shell.acks(control);
    let [ack] = &acks[..] else { panic!("{} acks", acks.len()) };
    assert_eq!(ack.refused.len(), REFUSED_RANGES_MAX);
}

/// Refusals of one row are limited, and there are many rows: a peer that never reads its acks must not grow them for ever.
#[test]
fn acks_that_nobody_reads_end_their_link() {
    for reads in [true, false] {
        let mut shell = Shell::new("m");
        let [control, bulk] = shell.link_in(&Peer::new("o"));
        if !reads {
            shell.unread.insert(control);
        }
        let rows = (0..1024).map(|life| flow("o", 1_000 + life, "m2")).collect();
        shell.feed(bulk, &roster_frame(Lane::Bulk, 0, rows));
        // Not for this member: a refusal each, and 1,024 of them per row.
        let mut sent = 0;
        while sent < 1024 && !shell.closed.contains_key(&bulk) {
            sent += 1;
            let runs: Vec<_> = (0..1024).map(|_| run(sent - 1, 1, 1, 0)).collect();
            shell.feed(bulk, &batch_around(Lane::Bulk, runs, vec![Payload::default(); 1024]));
        }
        let full = u64::from(!reads);
        assert_eq!(shell.errors("acks_unread"), full, "read: {reads}");
        assert_eq!(shell.closed.contains_key(&control), !reads, "read: {reads}");
        assert_eq!(sent == 1024, reads, "after {sent} batches");
        shell.assert_member_usable();
    }
}

/// Through the handshake, but no link: such connections hold rows and a place, so they count as handshakes and have an end.
#[test]
fn connections_that_never_pair_count_as_handshakes_and_end() {
    let settings = Settings { handshakes_max: 4, ..Settings::default() };
    let timeout = settings.handshake_timeout;
    let mut shell = Shell::with("m", 0, settings);
    let alone: Vec<ConnId> = (0..4)
        .map(|nonce| shell.connect_in(&Peer::new("o"), Lane::ALL[nonce % 2], 900 + nonce as u64))
        .collect();
    assert_eq!(shell.stats().handshakes, 4);
    assert!(shell.try_accept().is_none(), "each has a place of its own");
    shell.advance(timeout);
    for conn in alone {
        assert!(shell.closed.contains_key(&conn));
        assert!(matches!(shell.sent(conn).pop(), Some(Received::Refuse(refuse)) if refuse.code == 13));
    }
    assert_eq!(shell.stats().handshakes_refused["timeout"], 4);
    // The room is back, and links that are up take none of it.
    for peer in ["o", "p", "p2"] {
        shell.link_in(&Peer::new(peer));
    }
    shell.assert_member_usable();
}

/// A peer that says one version on one connection of a link and a later one on the other: what is sealed goes by either.
#[test]
fn the_two_connections_of_a_link_that_a_node_dials_have_one_version() {
    let later = [offered_versions(), vec![(WIRE_VERSION + 1, 0xabcd)]].concat();
    let welcomes = [
        Peer::new("p").welcome(),
        Welcome { versions: later.clone(), version: WIRE_VERSION + 1, ..Peer::new("p").welcome() },
    ];
    for ([first, second], refused) in [([0, 1], true), ([1, 0], true), ([1, 1], false)] {
        let mut shell = Shell::new("o");
        shell.node.set_offer(Offer { versions: later.clone(), ..Offer::default() });
        let answer = |shell: &mut Shell, lane: Lane, welcome: usize| {
            let conn = shell.dialed("p", lane);
            let welcome = frame_around(FrameType::Welcome, lane, &encode(&welcomes[welcome]));
            shell.feed(conn, &[&PREAMBLE[..], &welcome].concat());
            conn
        };
        let conns =
            [(Lane::Control, first), (Lane::Bulk, second)].map(|(lane, of)| answer(&mut shell, lane, of));
        assert_eq!(shell.closed.contains_key(&conns[1]), refused, "{first} {second}");
        assert_eq!(shell.stats().handshakes_refused["malformed"], u64::from(refused), "{first} {second}");
        let up = shell.node.status(shell.now).links.iter().any(|link| link.peer == id("p") && link.up);
        assert_eq!(up, !refused, "{first} {second}");
    }
}

/// Whoever is known and opens one half of a link after the other takes places from itself alone.
#[test]
fn a_peer_whose_links_never_pair_leaves_places_to_others() {
    let settings = Settings { handshakes_max: 16, ..Settings::default() };
    let mut shell = Shell::with("m", 0, settings);
    let halves: Vec<ConnId> =
        (0..40).map(|nonce| shell.connect_in(&Peer::new("o"), Lane::Control, 900 + nonce)).collect();
    let ended = halves.iter().take_while(|conn| shell.closed.contains_key(conn)).count();
    assert_eq!(ended, 32, "the oldest");
    assert_eq!(halves.iter().filter(|conn| shell.closed.contains_key(conn)).count(), ended);
    assert!(matches!(shell.sent(halves[0]).pop(), Some(Received::Refuse(refuse)) if refuse.code == 9));
    assert_eq!(shell.stats().handshakes_refused["too_many_connections"], 32);
    for peer in ["o", "p", "p2"] {
        shell.link_in(&Peer::new(peer));
    }
    assert_eq!(shell.node.status(shell.now).links.iter().filter(|link| link.up).count(), 3);
    shell.assert_member_usable();
}

/// All places are taken by connections that say nothing, and more come as fast as they are accepted.
#[test]
fn strangers_who_say_nothing_keep_nobody_out() {
    let settings = Settings { handshakes_max: 16, ..Settings::default() };
    let mut shell = Shell::with("m", 0, settings);
    let mut strangers = Vec::new();
    let mut flood = |shell: &mut Shell| {
        for _ in 0..40 {
            strangers.extend(shell.try_accept_from(Ipv4Addr::new(10, 0, 0, 9).into()));
        }
    };
    flood(&mut shell);
    // Its words come a round trip after it was accepted, and many strangers meanwhile.
    let nonce = 900;
    let from = Ipv4Addr::new(10, 0, 0, 1).into();
    let conns = Lane::ALL.map(|_| shell.try_accept_from(from).expect("a stranger makes room"));
    flood(&mut shell);
    for (lane, conn) in Lane::ALL.into_iter().zip(conns) {
        shell.shake_hands(conn, &Peer::new("o"), lane, nonce);
        flood(&mut shell);
    }
    assert!(shell.node.status(shell.now).links.iter().all(|link| link.up && link.peer == id("o")));
    let open = |shell: &Shell| strangers.iter().filter(|conn| !shell.closed.contains_key(conn)).count();
    assert_eq!((strangers.len(), open(&shell)), (160, 16));
    let refused = &shell.stats().handshakes_refused;
    assert_eq!((refused["too_many_connections"], refused["timeout"]), (144, 0));
    shell.assert_member_usable();
}

/// A slow link's second connection comes late, and its handshake takes its time as well.
#[test]
fn a_connection_that_pairs_late_is_as_good_as_one_that_pairs_at_once() {
    let settings = Settings { handshakes_max: 2, ..Settings::default() };
    let late = settings.handshake_timeout - Duration::from_millis(1);
    let mut shell = Shell::with("m", 0, settings);
    let control = shell.connect_in(&Peer::new("o"), Lane::Control, 900);
    shell.advance(late);
    let bulk = shell.connect_in(&Peer::new("o"), Lane::Bulk, 900);
    shell.advance(Duration::from_secs(1));
    assert!(!shell.closed.contains_key(&control) && !shell.closed.contains_key(&bulk));
    assert!(shell.node.status(shell.now).links.iter().all(|link| link.up));
    shell.assert_member_usable();
}

/// A defect of this node, not of its peer: one connection's matter, which is counted and said, and not the end of the node.
#[test]
fn a_batch_that_cannot_be_encoded_ends_its_connection() {
    let mut shell = Shell::new("o");
    let conns = shell.link_out(&Peer::new("p"));
    let error = FrameError::Encode(EncodeError::NoDestinations);
    shell.node.handle_bad_frame(conns[1], &error, shell.now);
    shell.drain();
    assert!(conns.iter().all(|conn| shell.closed.contains_key(conn)), "either ends both");
    assert!(matches!(shell.sent(conns[1]).pop(), Some(Received::Close(_))));
    assert_eq!(shell.errors("encode"), 1);
    shell.link_out(&Peer::new("p"));
}

/// One origin uses up the rows of the proxy's connection to a member, with lives that it makes up.
#[test]
fn rows_used_up_by_one_origin_do_not_silence_the_others() {
    let mut shell = Shell::new("p");
    shell.link_out(&Peer::new("m"));
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    let life = |index: u64| flow("o", 1_000 + index, "m");
    for first in (0..65_536_u32).step_by(1024) {
        let rows = (0..1024).map(|index| life(u64::from(first) + index)).collect();
        shell.feed(bulk, &roster_frame(Lane::Bulk, first, rows));
        let runs: Vec<_> = (first..first + 1024).map(|row| run(row, 1, 0, 0)).collect();
        shell.feed(bulk, &batch_around(Lane::Bulk, runs, vec![Payload::default(); 1024]));
    }
    // Whether the connection was replaced or the rows were refused: another origin is served.
    if !shell.node.status(shell.now).links.iter().any(|link| link.peer == id("m") && link.up) {
        shell.link_out(&Peer::new("m"));
    }
    let [control, bulk] = shell.link_in(&Peer::new("o2"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o2", 100, "m")]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"));
    shell.advance(Duration::from_millis(2));
    let refused: Vec<Refused> = shell.acks(control).into_iter().flat_map(|entry| entry.refused).collect();
    assert_eq!(refused, [], "another origin");
}

/// Every range of an ack looks at every seq it names, and nothing says that ranges are apart.
#[test]
fn ranges_that_overlap_cost_no_more_than_ranges_that_do_not() {
    let mut shell = Shell::new("o");
    let [control, _] = shell.link_out(&Peer::new("p"));
    submit(&mut shell, "eu", std::iter::repeat_n((id("m"), 1), 10_000));
    let all = vec![refused(0, u32::MAX, RefusedReason::InboxFull as u8); 2_000];
    let started = Instant::now();
    shell.feed(control, &ack_frame(vec![AckFlow { refused: all, ..entry(0, 100, 0) }]));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "14 KiB kept the origin busy for {took:?}");
}

/// A proxy that accepts only tiny frames is no reason to fail what another one takes.
#[test]
fn a_tiny_frame_limit_of_one_proxy_fails_no_message() {
    let mut shell = Shell::new("o");
    shell.link_out(&Peer { frame_bytes_max: 0, ..Peer::new("p") });
    submit(&mut shell, "eu", [(id("m"), 100)]);
    assert!(shell.outcome().is_none(), "failed for ever by one proxy");
    let next = shell.link_out(&Peer::new("p2"));
    let (_, runs) = rows_and_runs(&mut shell, next[1]);
    assert_eq!(runs, [1]);
}

/// The second message of this run has no seq.
#[test]
fn a_run_past_the_end_of_numbers_is_refused_by_a_member() {
    let mut shell = Shell::new("m");
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, u64::MAX, 2, 0)], b"x"));
    let refused: Vec<Refused> = shell.acks(control).into_iter().flat_map(|entry| entry.refused).collect();
    let malformed = RefusedReason::Malformed as u8;
    assert_eq!(refused, [Refused { first: Seq(u64::MAX), count: 2, reason: malformed }]);
}

/// On a direct link the peer's life is known from the handshake; an ack that names another one is nonsense.
/// Everything below was given up, which the run itself says: it is the next in turn, however far away.
#[test]
fn a_run_far_above_a_gap_that_it_says_is_given_up_is_taken_at_once() {
    let mut shell = Shell::new("m");
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 40_000, 1, 0)], b"y"));
    let last = shell.acks(control).pop().unwrap();
    let passed = vec![refused(2, 39_998, PASSED)];
    assert_eq!((last.decided, last.refused), (40_000, passed), "and it says what it never had");
}

#[test]
fn a_life_of_all_ones_in_an_ack_does_not_silence_its_destination() {
    let mut shell = Shell::new("o");
    let [control, _] = shell.link_out(&Peer::new("um"));
    submit(&mut shell, "us", [(id("um"), 10)]);
    shell.feed(control, &ack_frame(vec![entry(0, u64::MAX, 0)]));
    shell.feed(control, &ack_frame(vec![entry(0, 100, 1)]));
    let outcome = shell.outcome().expect("decided");
    assert!(outcome.is_delivered(), "{outcome:?}");
}

/// Sixteen MiB of empty messages: a window has room for 16,384 of them, so more than that need not be taken apart.
#[test]
fn a_run_of_millions_of_empty_messages_costs_little_memory() {
    if !alone("known::a_run_of_millions_of_empty_messages_costs_little_memory") {
        return;
    }
    let mut shell = Shell::new("m");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    let count = 4 << 20;
    let payload = Payload::from(vec![0; 2 * usize::try_from(count).unwrap()]);
    let frame = batch_around(Lane::Bulk, vec![run(0, 1, count, 0)], vec![payload]);
    let before = peak_kib();
    shell.feed(bulk, &frame);
    match (before, peak_kib()) {
        (Some(before), Some(after)) => {
            let grown = (after - before) / 1024;
            assert!(grown < 64, "an 8 MiB frame made the member grow by {grown} MiB");
        }
        _ => println!("skipped: this system does not tell a process's peak memory"),
    }
}

/// A codec says a thousand equal runs in a few kilobytes; a member must not cut millions of messages out of them.
#[test]
fn a_frame_that_says_one_run_a_thousand_times_is_looked_at_four_times() {
    let mut shell = Shell::new("m");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    let count = u32::try_from(WINDOW_SEQS).unwrap();
    let payload = Payload::from(vec![0; 2 * usize::try_from(count).unwrap()]);
    let runs = (0..1000).map(|_| run(0, 1, count, 0)).collect();
    let frame = batch_around(Lane::Bulk, runs, vec![payload; 1000]);
    assert!(frame.len() < 100_000, "{}", frame.len());
    shell.feed(bulk, &frame);
    let member = shell.node.stats().member;
    assert_eq!(member.duplicates, 3 * u64::from(count));
    assert_eq!(member.refused["inbox_full"], 996);
}

/// Hundreds of thousands of tiny messages fit a frame's bytes, and must fit the codec's other limits too.
#[test]
fn a_frame_of_very_many_tiny_messages_keeps_all_limits_of_the_codec() {
    let settings = Settings {
        datacenter_budget_bytes: 1 << 30,
        process_budget_bytes: 1 << 30,
        destination_budget_bytes: 16 << 20,
        ..Settings::default()
    };
    let mut shell = Shell::with("o", 60, settings);
    let proxy = shell.link_out(&Peer::new("p"));
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    for index in 0..60 {
        let to = id(&format!("x{index:04}"));
        batch.extend((0..7_000_u32).map(|n| {
            Message::new(to.clone(), Bytes::from(((n * 61 + index) % 65_521).to_le_bytes()[..2].to_vec()))
        }));
    }
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
    let (_, runs) = rows_and_runs(&mut shell, proxy[1]);
    assert!(!runs.is_empty());
}

/// A few hundred bytes on the wire may expand to megabytes: a message that waits for the application must not keep them.
#[test]
fn a_message_keeps_nothing_alive_of_what_a_short_frame_expands_to() {
    let mut shell = Shell::new("m");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    let message = |bytes| [message_head(0, bytes), vec![7; bytes].into()];
    let payloads = vec![message(100_000).into_iter().chain(message(500)).collect()];
    let envelope = Envelope { batch: 1, attempt: 1, runs: vec![run(0, 1, 2, 0)] };
    let token = Token::Attempt(0);
    let sealed = SealedBatch { lane: Lane::Bulk, envelope, payloads, stage: Stage::Lz4, token };
    let mut wire = Vec::new();
    sealed.encode(&mut BatchEncoder::new(Options::default(), None), &mut wire);
    assert!(wire.concat().len() < 1000);
    shell.feed(bulk, &wire.concat());
    let long = shell.node.poll_delivery(shell.now).unwrap();
    let short = shell.node.poll_delivery(shell.now).unwrap();
    assert_eq!((long.payload.len(), short.payload.len()), (100_000, 500));
    assert!(short.payload.segments().iter().all(Bytes::is_unique), "a copy of its own");
}
