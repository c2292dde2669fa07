//! Hostile bytes and hostile peers against the frame reader and the machines of a node, without sockets: every answer is
//! an error that is counted, or nothing; the node stays usable and small.

use std::process::Command;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use trunkline_codec::Payload;
use trunkline_mesh::id::{Datacenter, Incarnation, Lane, Seq};
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::proto::frame::{
    FrameError, FrameReader, FrameType, HANDSHAKE_BYTES_MAX, Opened, Received, control_frame,
};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{
    Ack, AckFlow, Envelope, Hello, PREAMBLE, Ping, Pong, Refuse, RefuseCode, Refused, RefusedReason, Roster,
    Welcome, decode,
};

#[path = "hostile/acks.rs"]
mod acks;
#[path = "hostile/anything.rs"]
mod anything;
#[path = "hostile/back.rs"]
mod back;
#[path = "hostile/budgets.rs"]
mod budgets;
#[path = "hostile/certified.rs"]
mod certified;
#[path = "hostile/doors.rs"]
mod doors;
#[path = "hostile/fanout.rs"]
mod fanout;
#[path = "hostile/flood.rs"]
mod flood;
#[path = "hostile/floors.rs"]
mod floors;
#[path = "hostile/full.rs"]
mod full;
#[path = "hostile/history.rs"]
mod history;
#[path = "hostile/holds.rs"]
mod holds;
#[path = "bodies/honest.rs"]
mod honest;
#[path = "hostile/known.rs"]
mod known;
#[path = "hostile/large.rs"]
mod large;
#[path = "hostile/late.rs"]
mod late;
#[path = "hostile/lives.rs"]
mod lives;
#[path = "hostile/log.rs"]
mod log;
#[path = "hostile/redials.rs"]
mod redials;
#[path = "hostile/replay.rs"]
mod replay;
#[path = "hostile/reports.rs"]
mod reports;
#[path = "hostile/rogue.rs"]
mod rogue;
#[path = "hostile/selfish.rs"]
mod selfish;
#[path = "hostile/sender.rs"]
mod sender;
#[path = "hostile/shell.rs"]
mod shell;
#[path = "hostile/stalls.rs"]
mod stalls;
#[path = "hostile/text.rs"]
mod text;
#[path = "hostile/upstream.rs"]
mod upstream;

use shell::{
    Peer, Shell, ack_frame, batch_around, batch_frame, entry, every_frame, flow, id, refused, roster_frame,
    run, sum_again,
};

// ---- the frame reader ------------------------------------------------------------------------------------------------

/// A reader that is through the handshake.
fn open_reader(lane: Lane) -> FrameReader {
    let mut reader = FrameReader::new();
    assert!(reader.read(&mut BytesMut::from(&PREAMBLE[..])).unwrap().is_none());
    reader.open(&Opened { lane, frame_bytes_max: 1 << 20, epochs: None, echo: None });
    reader
}

fn valid_frames() -> Vec<(&'static str, Lane, Vec<u8>)> {
    let peer = Peer::new("o");
    let refused = vec![Refused { first: Seq(9), count: 3, reason: 1 }];
    let entry = AckFlow { held: vec![5, 1 << 63], refused, ..entry(1, 100, 300) };
    let runs = vec![run(0, 1, 2, 0), run(1, 300, 1, 200)];
    vec![
        (
            "hello",
            Lane::Bulk,
            control_frame(FrameType::Hello, Lane::Bulk, &peer.hello(Lane::Bulk, 7)).to_vec(),
        ),
        ("welcome", Lane::Bulk, control_frame(FrameType::Welcome, Lane::Bulk, &peer.welcome()).to_vec()),
        ("ack", Lane::Control, ack_frame(vec![entry.clone(), entry]).to_vec()),
        ("roster", Lane::Bulk, roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m"); 2]).to_vec()),
        ("batch", Lane::Bulk, batch_frame(Lane::Bulk, runs, b"message")),
    ]
}

#[test]
fn every_truncation_waits_and_every_flipped_bit_is_an_error_or_waits() {
    for (name, lane, bytes) in valid_frames() {
        for length in 0..bytes.len() {
            let mut cut = BytesMut::from(&bytes[..length]);
            let read = open_reader(lane).read(&mut cut);
            assert!(matches!(read, Ok(None)), "{name} cut at {length}: {read:?}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = BytesMut::from(&bytes[..]);
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = open_reader(lane).read(&mut damaged);
            assert!(!matches!(read, Ok(Some(_))), "{name}, bit {bit}: {read:?}");
        }
    }
}

/// A damaged body with a fitting checksum: what is left to say is said by the decoder.
#[test]
fn every_flipped_bit_of_a_body_that_was_summed_again_is_read_or_refused() {
    let frames = valid_frames().into_iter().filter(|(name, ..)| *name != "batch");
    for (_, lane, bytes) in frames {
        for bit in 16 * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = open_reader(lane).read(&mut BytesMut::from(&sum_again(damaged)[..]));
        }
        for length in 16..bytes.len() {
            let mut cut = bytes[..length].to_vec();
            cut[4..8].copy_from_slice(&u32::try_from(length - 16).unwrap().to_le_bytes());
            let read = open_reader(lane).read(&mut BytesMut::from(&sum_again(cut)[..]));
            assert!(matches!(read, Err(FrameError::Body(..))), "{length}: {read:?}");
        }
    }
}

#[test]
fn claims_of_4_gib_are_refused_at_the_header() {
    let huge = u32::MAX.to_le_bytes();
    for kind in 1..=10 {
        for (at, what) in [(4, "control body"), (8, "payload")] {
            let mut header = [0; 16];
            header[0] = kind;
            header[at..at + 4].copy_from_slice(&huge);
            let fresh = [&PREAMBLE[..], &header].concat();
            let early = FrameReader::new().read(&mut BytesMut::from(&fresh[..]));
            let open = open_reader(Lane::Control).read(&mut BytesMut::from(&header[..]));
            for read in [early, open] {
                let Err(FrameError::TooLong { what: found, bytes: u32::MAX, .. }) = read else {
                    panic!("type {kind}: {read:?}")
                };
                assert_eq!(found, what);
            }
        }
    }
    let limit = u32::try_from(HANDSHAKE_BYTES_MAX + 1).unwrap().to_le_bytes();
    let header = [&PREAMBLE[..], &[1, 0, 0, 0], &limit, &[0; 8]].concat();
    assert!(FrameReader::new().read(&mut BytesMut::from(&header[..])).is_err(), "one above the limit");
}

#[test]
fn unknown_types_lanes_and_reserved_bits_are_errors() {
    for kind in (0..=u8::MAX).filter(|kind| !(1..=10).contains(kind)) {
        let mut header = BytesMut::from(&[0; 16][..]);
        header[0] = kind;
        assert_eq!(open_reader(Lane::Control).read(&mut header).unwrap_err(), FrameError::UnknownType(kind));
    }
    for lane in 1..=u8::MAX {
        let mut header = BytesMut::from(&[0; 16][..]);
        (header[0], header[1]) = (6, lane);
        assert_eq!(open_reader(Lane::Control).read(&mut header).unwrap_err(), FrameError::Lane(lane));
    }
    for bit in 0..16 {
        let mut header = BytesMut::from(&[0; 16][..]);
        header[0] = 6;
        header[2 + bit / 8] = 1 << (bit % 8);
        assert_eq!(open_reader(Lane::Control).read(&mut header).unwrap_err(), FrameError::Reserved);
    }
}

/// Twelve bytes that ask for 2^60 elements, for every count and length of every body.
fn length_bombs() -> Vec<Result<(), String>> {
    fn verdict<T: serde::de::DeserializeOwned>(head: &[u8]) -> Result<(), String> {
        let bomb = [head, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0x10], &[0; 2]].concat();
        decode::<T>(&bomb).map(|_| ()).map_err(|error| error.to_string())
    }
    vec![
        verdict::<Hello>(&[]),
        verdict::<Hello>(b"\x01c\x01n\x01d\x01\x05"),
        verdict::<Welcome>(&[]),
        verdict::<Welcome>(b"\x01c\x01n\x01d\x01\x05"),
        verdict::<Refuse>(&[1]),
        verdict::<Roster>(&[0]),
        verdict::<Roster>(&[0, 1]),
        verdict::<Envelope>(&[1, 1]),
        verdict::<Ack>(&[]),
        verdict::<Ack>(&[1, 0, 0, 0, 0]),
        verdict::<Ack>(&[1, 0, 0, 0, 0, 0]),
    ]
}

/// The most memory this process ever held, KiB. `None` where the system does not say.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs one test of this file in a process of its own, so that its memory is its own. True in that process.
fn alone(test: &str) -> bool {
    if std::env::var_os("HOSTILE_ALONE").is_some() {
        return true;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("HOSTILE_ALONE", "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "`{test}` names no test");
    false
}

#[test]
fn length_bombs_are_refused_and_cost_nothing() {
    if !alone("length_bombs_are_refused_and_cost_nothing") {
        return;
    }
    let before = peak_kib();
    for (index, verdict) in length_bombs().into_iter().enumerate() {
        assert!(verdict.is_err(), "bomb {index}");
    }
    match (before, peak_kib()) {
        (Some(before), Some(after)) => assert!(after - before < 8 * 1024, "{before} KiB, then {after} KiB"),
        _ => println!("skipped: this system does not tell a process's peak memory"),
    }
}

// ---- frames in the wrong place ---------------------------------------------------------------------------------------

#[test]
fn before_its_hello_a_peer_may_say_nothing_else() {
    let mut shell = Shell::new("m");
    let mut refused = 0;
    for (name, frame) in every_frame(Lane::Control).into_iter().filter(|(name, _)| *name != "hello") {
        let conn = shell.accept();
        shell.feed(conn, &[&PREAMBLE[..], &frame].concat());
        let words = shell.closed.get(&conn).unwrap_or_else(|| panic!("{name} is taken"));
        assert!(words.as_ref().is_some_and(|words| words.starts_with(&PREAMBLE)), "{name}");
        let Some(Received::Refuse(refuse)) = shell.sent(conn).pop() else { panic!("{name}: no refusal") };
        assert_eq!(refuse.code, RefuseCode::Malformed as u16, "{name}");
        refused += 1;
        assert_eq!(shell.stats().handshakes_refused["malformed"], refused, "{name}");
    }
    assert_eq!(shell.errors("unexpected_frame") + shell.errors("too_long"), refused);
    shell.assert_member_usable();
}

#[test]
fn a_stranger_is_known_by_its_first_byte() {
    let mut shell = Shell::new("m");
    for (index, first) in [&b"G"[..], b"\x16\x03\x01", b"TRUNKLN\x02", b"\0"].into_iter().enumerate() {
        let conn = shell.accept();
        shell.feed(conn, first);
        assert!(shell.closed.contains_key(&conn), "{first:?}");
        assert_eq!(shell.errors("preamble"), u64::try_from(index + 1).unwrap());
    }
    shell.assert_member_usable();
}

#[test]
fn between_hello_and_confirm_only_a_confirm_is_taken_and_only_the_right_one() {
    for (name, frame) in every_frame(Lane::Bulk) {
        let mut shell = Shell::new("m");
        let conn = shell.accept();
        let hello = control_frame(FrameType::Hello, Lane::Bulk, &Peer::new("o").hello(Lane::Bulk, 1));
        shell.feed(conn, &[&PREAMBLE[..], &hello].concat());
        assert!(matches!(shell.sent(conn)[..], [Received::Welcome(..)]));
        shell.feed(conn, &frame);
        assert!(shell.closed.contains_key(&conn), "{name} is taken");
        let code = if name == "confirm" { "versions_stripped" } else { "malformed" };
        assert_eq!(shell.stats().handshakes_refused[code], 1, "{name}");
        assert_eq!(shell.stats().handshakes, 0);
        shell.assert_member_usable();
    }
}

#[test]
fn a_lane_that_is_taken_or_is_none_is_refused() {
    let mut shell = Shell::new("m");
    let first = shell.accept();
    let hello = shell_hello(Lane::Bulk, 9);
    shell.feed(first, &hello);
    let second = shell.accept();
    shell.feed(second, &hello);
    assert!(!shell.closed.contains_key(&first) && shell.closed.contains_key(&second));
    let none = shell.accept();
    let hello = Hello { lane: 2, ..Peer::new("o").hello(Lane::Bulk, 10) };
    shell.feed(none, &[&PREAMBLE[..], &control_frame(FrameType::Hello, Lane::Bulk, &hello)].concat());
    assert!(shell.closed.contains_key(&none));
    assert_eq!(shell.stats().handshakes_refused["malformed"], 2);
    shell.assert_member_usable();
}

fn shell_hello(lane: Lane, link: u64) -> Vec<u8> {
    let hello = control_frame(FrameType::Hello, lane, &Peer::new("o").hello(lane, link));
    [&PREAMBLE[..], &hello].concat()
}

#[test]
fn what_is_not_legal_on_an_open_connection_ends_its_link_and_is_counted() {
    let (control, bulk) = (Lane::Control, Lane::Bulk);
    let on = |lane| every_frame(lane).into_iter();
    let handshake = |name: &str| ["hello", "welcome", "confirm"].contains(&name);
    let mut cases: Vec<(String, Lane, &str, Vec<u8>)> = Vec::new();
    cases.extend(
        on(control)
            .filter(|(name, _)| handshake(name))
            .map(|(name, frame)| (name.to_owned(), control, "unexpected_frame", frame)),
    );
    let not_on_bulk = |name: &str| handshake(name) || ["ack", "ping", "pong"].contains(&name);
    cases.extend(
        on(bulk)
            .filter(|(name, _)| not_on_bulk(name))
            .map(|(name, frame)| (name.to_owned(), bulk, "unexpected_frame", frame)),
    );
    let mut case =
        |name: &str, lane, label, frame: Vec<u8>| cases.push((name.to_owned(), lane, label, frame));
    let rows = |first, count| roster_frame(bulk, first, vec![flow("o", 100, "m"); count]).to_vec();
    case("roster gap", bulk, "roster", rows(1, 1));
    case("roster again", bulk, "roster", [rows(0, 1), rows(0, 1)].concat());
    case("roster at the end of numbers", bulk, "roster", rows(u32::MAX, 0));
    case("unknown row", bulk, "unknown_row", batch_frame(bulk, vec![run(0, 1, 1, 0)], b"x"));
    case(
        "last row",
        bulk,
        "unknown_row",
        [rows(0, 1), batch_frame(bulk, vec![run(u32::MAX, 1, 1, 0)], b"x")].concat(),
    );
    case("other lane", bulk, "lane", on(control).next().map(|(_, frame)| frame).unwrap_or_default());
    let two = batch_around(bulk, vec![run(0, 1, 1, 0)], vec![Payload::default(), Payload::default()]);
    case("run count", bulk, "run_count", two);
    case("name with a slash", bulk, "body", name_with_a_slash());
    for (name, lane, label, frame) in cases {
        let mut shell = Shell::new("m");
        let conns = shell.link_in(&Peer::new("o"));
        shell.feed(conns[lane.index()], &frame);
        assert_eq!(shell.errors(label), 1, "{name}: {:?}", shell.stats().protocol_errors);
        assert!(conns.iter().all(|conn| shell.closed.contains_key(conn)), "{name}: either ends both");
        let Some(Received::Close(close)) = shell.sent(conns[lane.index()]).pop() else { panic!("{name}") };
        assert_eq!(close.code, 2, "{name}");
        assert_eq!(shell.stats().member.handed_over, 0, "{name}");
        shell.assert_member_usable();
    }
}

/// A roster whose origin is `../x`.
fn name_with_a_slash() -> Vec<u8> {
    let mut bytes = roster_frame(Lane::Bulk, 0, vec![flow("aaaa", 1, "m")]).to_vec();
    let at = bytes.windows(4).position(|bytes| bytes == b"aaaa").unwrap();
    bytes[at..at + 4].copy_from_slice(b"../x");
    sum_again(bytes)
}

#[test]
fn a_roster_takes_no_more_than_its_rows() {
    let mut shell = Shell::new("m");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    for first in (0..65_536).step_by(8192) {
        shell.feed(bulk, &roster_frame(Lane::Bulk, first, vec![flow("o", 100, "m"); 8192]));
        assert!(!shell.closed.contains_key(&bulk), "{first}");
    }
    shell.feed(bulk, &roster_frame(Lane::Bulk, 65_536, vec![flow("o", 100, "m")]));
    assert_eq!((shell.errors("roster"), shell.closed.contains_key(&bulk)), (1, true));
    shell.assert_member_usable();
}

#[test]
fn floods_of_pings_do_not_pile_up_answers() {
    let mut shell = Shell::new("m");
    let [control, _] = shell.link_in(&Peer::new("o"));
    let ping = control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: u64::MAX });
    shell.feed(control, &ping.repeat(10_000));
    let pongs = shell.sent(control).into_iter().filter(|frame| matches!(frame, Received::Pong(_))).count();
    assert!((1..=64).contains(&pongs), "{pongs}");
    let pong = Pong { ping_sent_us: u64::MAX, ping_received_us: 0, sent_us: u64::MAX };
    shell.feed(control, &control_frame(FrameType::Pong, Lane::Control, &pong));
    shell.assert_member_usable();
}

// ---- numbers that cannot be ------------------------------------------------------------------------------------------

/// Runs that make no sense, with a payload that fits their count as far as one can.
fn impossible_runs() -> Vec<(&'static str, Vec<u8>)> {
    let bulk = Lane::Bulk;
    let one = || vec![Payload::from(Bytes::from_static(&[7, 1, b'x']))];
    let mut all = vec![
        ("count without messages", batch_around(bulk, vec![run(0, 1, u32::MAX, 0)], one())),
        ("past the end, many", batch_around(bulk, vec![run(0, u64::MAX, u32::MAX, 0)], one())),
        ("floor above first", batch_frame(bulk, vec![run(0, 5, 1, 6)], b"x")),
        ("floor of zero", batch_frame(bulk, vec![run(0, 5, 1, 5)], b"x")),
        ("seq zero", batch_frame(bulk, vec![run(0, 0, 1, 0)], b"x")),
        ("floor far above", batch_frame(bulk, vec![run(0, 5, 1, u64::MAX)], b"x")),
    ];
    for (name, payload) in [
        ("no bytes", &b""[..]),
        ("half a head", b"\x07"),
        ("overlong kind", b"\x87\x00\x01x"),
        ("kind 256", b"\x80\x02\x01x"),
        ("overlong length", b"\x07\x81\x00x"),
        ("length of 2^64 - 1", b"\x07\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("eleven bytes", b"\x07\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("bytes left over", b"\x07\x01xy"),
    ] {
        let payload = Payload::from(Bytes::from_static(payload));
        all.push((name, batch_around(bulk, vec![run(0, 1, 1, 0)], vec![payload])));
    }
    all
}

#[test]
fn a_member_refuses_runs_that_cannot_be_and_keeps_its_window() {
    let mut shell = Shell::new("m");
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    for (index, (name, frame)) in impossible_runs().into_iter().enumerate() {
        shell.feed(bulk, &frame);
        assert!(!shell.closed.contains_key(&bulk), "{name}");
        let acks = shell.acks(control);
        let [entry] = &acks[..] else { panic!("{name}: {acks:?}") };
        assert_eq!((entry.decided, entry.held.len()), (0, 0), "{name}");
        assert_eq!(entry.refused[0].reason, RefusedReason::Malformed as u8, "{name}");
        assert_eq!(shell.stats().member.refused["malformed"], u64::try_from(index + 1).unwrap(), "{name}");
    }
    assert_eq!(shell.stats().member.handed_over, 0);
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"));
    assert_eq!(shell.acks(control).pop().map(|entry| entry.decided), Some(1));
    shell.assert_member_usable();
}

#[test]
fn a_proxy_refuses_numbers_that_cannot_be_and_passes_on_what_can() {
    let mut shell = Shell::new("p");
    let member = shell.link_out(&Peer::new("m"));
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    shell.feed(
        bulk,
        &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m"), flow("o2", 1, "m"), flow("o", 100, "um")]),
    );
    let one = || vec![Payload::from(Bytes::from_static(&[7, 1, b'x']))];
    let cases = [
        (run(0, u64::MAX, u32::MAX, 0), RefusedReason::Malformed),
        (run(0, u64::MAX, 1, 0), RefusedReason::Malformed),
        (run(0, 5, 1, 6), RefusedReason::Malformed),
        (run(0, 0, 0, 0), RefusedReason::Malformed),
        (run(1, 1, 1, 0), RefusedReason::NotServed),
        (run(2, 1, 1, 0), RefusedReason::NotServed),
    ];
    for (run, reason) in cases {
        shell.feed(bulk, &batch_around(Lane::Bulk, vec![run], one()));
        let acks = shell.acks(control);
        assert_eq!(
            acks.last().and_then(|entry| entry.refused.first()).map(|refused| refused.reason),
            Some(reason as u8),
            "{run:?}"
        );
    }
    // Nothing but the end of numbers itself: a floor that says that everything is decided.
    shell.feed(bulk, &batch_around(Lane::Bulk, vec![run(0, u64::MAX, 0, 0)], vec![Payload::default()]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, u64::MAX - 1, 1, 0)], b"x"));
    let sent = shell.sent(member[1]);
    let batches = sent.iter().filter(|frame| matches!(frame, Received::Batch(..))).count();
    assert_eq!((batches, shell.stats().proxy.forwarded), (2, 2));
    for conn in member {
        shell.node.handle_closed(conn, shell.now);
    }
    shell.drain();
    assert!(!shell.acks(control).is_empty(), "what was passed on is given back");
}

/// An origin with one message under way to `m` through `p`.
fn origin_with_a_message() -> (Shell, [ConnId; 2]) {
    let mut shell = Shell::new("o");
    let proxy = shell.link_out(&Peer::new("p"));
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.push(Message::new(id("m"), Bytes::from_static(b"hello")));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
    assert!(shell.sent(proxy[1]).iter().any(|frame| matches!(frame, Received::Batch(..))));
    (shell, proxy)
}

#[test]
fn acks_that_make_no_sense_are_ignored_and_counted() {
    let (mut shell, [control, _]) = origin_with_a_message();
    let nonsense = [
        ("unknown row", entry(1, 100, 1)),
        ("last row", entry(u32::MAX, 100, 1)),
        ("unknown lane", AckFlow { lane: 2, ..entry(0, 100, 1) }),
        ("a lane without rows", AckFlow { lane: 0, ..entry(0, 100, 1) }),
        ("seqs never sent", entry(0, 100, 2)),
        ("the end of numbers", entry(0, 100, u64::MAX)),
    ];
    for (index, (name, entry)) in nonsense.into_iter().enumerate() {
        shell.feed(control, &ack_frame(vec![entry]));
        assert_eq!(shell.stats().acks_ignored, u64::try_from(index + 1).unwrap(), "{name}");
        assert!(shell.outcome().is_none() && !shell.closed.contains_key(&control), "{name}");
    }
    assert_delivered_by(&mut shell, control);
}

/// The right ack still resolves the receipt.
fn assert_delivered_by(shell: &mut Shell, control: ConnId) {
    shell.feed(control, &ack_frame(vec![entry(0, 100, 1)]));
    let outcome = shell.outcome().expect("decided");
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    assert_eq!(shell.node.status(shell.now).datacenters.iter().map(|row| row.queued_bytes).sum::<u64>(), 0);
}

#[test]
fn bitmaps_and_ranges_beyond_what_was_sent_mean_nothing() {
    let (mut shell, [control, _]) = origin_with_a_message();
    let wide = vec![1 << 63; 256];
    shell.feed(control, &ack_frame(vec![AckFlow { held: wide, ..entry(0, 100, 0) }]));
    let far = vec![refused(2, u32::MAX, 1), refused(u64::MAX, u32::MAX, 4), refused(u64::MAX, 0, 1)];
    shell.feed(control, &ack_frame(vec![AckFlow { refused: far, ..entry(0, 100, 0) }]));
    assert_eq!(shell.stats().attempts.refused, 0);
    assert!(shell.outcome().is_none());
    assert_delivered_by(&mut shell, control);
}

#[test]
fn acks_beyond_their_limits_close_the_connection() {
    let rules = [
        ("bitmap", vec![AckFlow { held: vec![1; 257], ..entry(0, 100, 0) }]),
        ("ranges", vec![AckFlow { refused: vec![refused(1, 1, 1); 1025], ..entry(0, 100, 0) }]),
        ("the same row twice", vec![entry(0, 100, 0), entry(0, 100, 0)]),
        ("falling rows", vec![entry(1, 100, 0), entry(0, 100, 0)]),
    ];
    for (name, entries) in rules {
        let (mut shell, [control, _]) = origin_with_a_message();
        shell.feed(control, &ack_frame(entries));
        assert!(shell.closed.contains_key(&control), "{name}");
        assert_eq!(shell.stats().protocol_errors["body"], 1, "{name}");
    }
}

#[test]
fn a_refusal_of_all_numbers_ends_the_attempt_and_nothing_else() {
    for reason in [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 255] {
        let (mut shell, [control, bulk]) = origin_with_a_message();
        let all = vec![refused(0, u32::MAX, reason), refused(0, u32::MAX, reason), refused(0, 0, reason)];
        shell.feed(control, &ack_frame(vec![AckFlow { refused: all, ..entry(0, 100, 0) }]));
        assert_eq!(shell.stats().attempts.refused, 1, "{reason}");
        assert!(shell.outcome().is_none() && !shell.closed.contains_key(&bulk), "{reason}");
        assert_delivered_by(&mut shell, control);
    }
}

/// A proxy that refuses everything at once, always: the sender leaves it alone, and does not wait past the deadline.
#[test]
fn a_proxy_that_refuses_everything_costs_little_and_the_deadline_holds() {
    for reason in (0..=12).chain([255]) {
        let (mut shell, [control, bulk]) = origin_with_a_message();
        let (mut frames, mut outcome) = (1, None);
        for _ in 0..1100 {
            shell.feed(
                control,
                &ack_frame(vec![AckFlow { refused: vec![refused(1, 9, reason)], ..entry(0, 100, 0) }]),
            );
            frames += shell.sent(bulk).iter().filter(|frame| matches!(frame, Received::Batch(..))).count();
            outcome = outcome.or_else(|| shell.outcome());
            shell.advance(Duration::from_millis(10));
            shell.dials.clear();
            let ping = control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 1 });
            shell.feed(control, &ping);
        }
        let outcome = outcome.unwrap_or_else(|| panic!("reason {reason}: pending past its deadline"));
        assert!(matches!(outcome, Outcome::Failed { .. }), "reason {reason}: {outcome:?}");
        assert!(frames <= 50, "reason {reason}: {frames} frames");
    }
}

#[test]
fn a_life_of_all_ones_does_not_end_the_origin() {
    let mut shell = Shell::new("o");
    let control = shell.dialed("p", Lane::Control);
    let refuse = Refuse { code: 8, detail: String::new(), highest_incarnation: Incarnation(u64::MAX) };
    let refuse = control_frame(FrameType::Refuse, Lane::Control, &refuse);
    shell.feed(control, &[&PREAMBLE[..], &refuse].concat());
    assert_eq!(shell.node.incarnation(), Incarnation(50), "no clock shows that");
    let again = shell.link_out(&Peer::new("p"));
    assert!(!shell.closed.contains_key(&again[0]));
}

/// Whoever reads the log of either end sees why by name, and with whom.
#[test]
fn both_ends_log_a_refused_link_by_the_name_of_its_code() {
    let mut shell = Shell::new("o");
    let control = shell.dialed("p", Lane::Control);
    let refuse = |code| {
        let refuse = Refuse { code, detail: "elsewhere\n".to_owned(), highest_incarnation: Incarnation(0) };
        [&PREAMBLE[..], &control_frame(FrameType::Refuse, Lane::Control, &refuse)].concat()
    };
    let lines = log::lines_of(|| _ = shell.feed(control, &refuse(2)));
    assert_eq!(lines, [r"peer refuses the link peer=p code=other_cluster number=2 detail=elsewhere\n"]);
    let control = shell.dialed("p", Lane::Control);
    let lines = log::lines_of(|| _ = shell.feed(control, &refuse(999)));
    assert_eq!(lines, [r"peer refuses the link peer=p code=unknown number=999 detail=elsewhere\n"]);

    let control = shell.dialed("p", Lane::Control);
    let other = Welcome { node: id("p2"), ..Peer::new("p").welcome() };
    let welcome = control_frame(FrameType::Welcome, Lane::Control, &other);
    let lines = log::lines_of(|| _ = shell.feed(control, &[&PREAMBLE[..], &welcome].concat()));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("link refused peer=p code=other_node detail=dialled `p`"), "{line}");

    let mut shell = Shell::new("m");
    let conn = shell.accept();
    let hello = Hello { versions: vec![(99, 1)], ..Peer::new("o").hello(Lane::Control, 1) };
    let hello = control_frame(FrameType::Hello, Lane::Control, &hello);
    let lines = log::lines_of(|| _ = shell.feed(conn, &[&PREAMBLE[..], &hello].concat()));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(
        line.starts_with("link refused peer=o code=no_common_version detail=no common wire version"),
        "{line}"
    );

    let conn = shell.accept();
    let lines = log::lines_of(|| _ = shell.feed(conn, b"GET"));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(
        line.starts_with("link refused peer=127.0.0.1 code=malformed detail=the peer does not speak"),
        "{line}"
    );
    // What a node with certificates says to one without, and the other way round.
    for (record, says) in
        [(b"\x15\x03\x03\0\x02\x02\x0a\0", "wants"), (b"\x16\x03\x01\0\x80\x01\0\0", "speaks")]
    {
        let conn = shell.accept();
        let lines = log::lines_of(|| _ = shell.feed(conn, record));
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let told = format!("detail=the peer {says} TLS, and this node has no certificates: ");
        assert!(line.contains(&told), "{line}");
    }
}

#[test]
fn a_message_that_was_held_before_it_was_decided_is_one_answered_attempt() {
    let (mut shell, [control, _]) = origin_with_a_message();
    shell.feed(control, &ack_frame(vec![AckFlow { held: vec![1], ..entry(0, 100, 0) }]));
    assert_eq!(shell.stats().attempts.acked, 1);
    assert!(shell.outcome().is_none());
    assert_delivered_by(&mut shell, control);
    assert_eq!(shell.stats().attempts.acked, 1);
}

#[test]
fn a_peer_that_takes_frames_of_no_length_gets_none() {
    for frame_bytes_max in [0, 1, 64 * 1024] {
        let mut shell = Shell::new("o");
        let [_, bulk] = shell.link_out(&Peer { frame_bytes_max, ..Peer::new("p") });
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.push(Message::new(id("m"), Bytes::new()));
        shell.node.submit(batch, shell.now).unwrap();
        shell.drain();
        let sent = shell.sent(bulk);
        assert!(
            !sent.iter().any(|frame| matches!(frame, Received::Batch(..))),
            "{frame_bytes_max}: {sent:?}"
        );
        shell.advance(Duration::from_secs(11));
        let outcome = shell.outcome().expect("not past its deadline");
        assert!(matches!(outcome, Outcome::Failed { maybe_delivered: false, .. }), "{outcome:?}");
    }
}
