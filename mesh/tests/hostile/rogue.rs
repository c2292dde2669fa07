//! A peer that is who it says it is and breaks one rule: what it is answered, row by row, and that the node's other peers
//! notice nothing. Rules whose breach has a test of its own in the files beside this one are not repeated.

use std::time::Duration;

use bytes::Bytes;
use trunkline_codec::Payload;
use trunkline_mesh::id::{Datacenter, Incarnation, Lane, NodeId};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, Close, Flow, PREAMBLE, Ping, Refuse, RefusedReason, Run};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::honest::{Origin, Server, text};
use super::log::lines_of;
use super::shell::{
    Peer, Shell, ack_frame, batch_around, batch_frame, cluster, entry, every_frame, flow, frame_of, id,
    refused, roster_frame, run,
};

/// What a node does about it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    /// The link ends with a Close, counted under this label.
    Ends(&'static str),
    /// The run is refused, the link lives.
    Refuses(RefusedReason),
    /// The flow stands where it stood, the link lives.
    Decided(u64),
    /// Counted as an ack that makes no sense; the link lives.
    Ignores,
    /// Nothing at all, and the link lives.
    Nothing,
    /// The link ends, as the peer asked.
    Obeys,
}

use Answer::{Decided, Ends, Ignores, Nothing, Obeys, Refuses};

/// Which node, who its rogue peer is and whether the node dialled it, what is said over which lane, the answer.
struct Row {
    name: &'static str,
    node: &'static str,
    peer: &'static str,
    dialled: bool,
    said: Vec<(Lane, Vec<u8>)>,
    answer: Answer,
}

/// Announces a flow and sends runs of it.
fn runs(flow: Flow, runs: &[Run]) -> Vec<(Lane, Vec<u8>)> {
    let roster = (Lane::Bulk, roster_frame(Lane::Bulk, 0, vec![flow]).to_vec());
    let batch = |run: &Run| (Lane::Bulk, batch_frame(Lane::Bulk, vec![*run], b"x"));
    std::iter::once(roster).chain(runs.iter().map(batch)).collect()
}

fn one(of: Flow) -> Vec<(Lane, Vec<u8>)> {
    runs(of, &[run(0, 1, 1, 0)])
}

fn to_life(of: Flow, life: u64) -> Flow {
    Flow { destination_incarnation: Incarnation(life), ..of }
}

fn control(kind: FrameType, body: &impl serde::Serialize) -> Vec<(Lane, Vec<u8>)> {
    vec![(Lane::Control, control_frame(kind, Lane::Control, body).to_vec())]
}

/// A header that promises so much, with nothing behind it.
fn header(kind: FrameType, lane: Lane, body: u32, payload: u32) -> Vec<(Lane, Vec<u8>)> {
    let mut bytes = frame_of(kind as u8, lane, &[]);
    bytes[4..8].copy_from_slice(&body.to_le_bytes());
    bytes[8..12].copy_from_slice(&payload.to_le_bytes());
    vec![(lane, bytes)]
}

fn rows_for_a_member() -> Vec<Row> {
    let row = |name, peer, said, answer| Row { name, node: "m", peer, dialled: false, said, answer };
    let from_o = |name, said, answer| row(name, "o", said, answer);
    let mine = || flow("o", 100, "m");
    let not_served = Refuses(RefusedReason::NotServed);
    let both_lives = vec![flow("o", 100, "m"), flow("o", 99, "m")];
    let older_life = vec![
        (Lane::Bulk, roster_frame(Lane::Bulk, 0, both_lives).to_vec()),
        (Lane::Bulk, batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0), run(1, 1, 1, 0)], b"x")),
    ];
    let closing = control(FrameType::Close, &Close { code: 2 }).remove(0).1;
    let behind_close = [closing, control(FrameType::Ping, &Ping { sent_us: 1 }).remove(0).1].concat();
    let refuse = Refuse { code: 5, detail: String::new(), highest_incarnation: Incarnation(0) };
    let mut damaged = batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x");
    damaged[17] ^= 1;
    vec![
        from_o(
            "a batch before its roster",
            vec![(Lane::Bulk, batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"))],
            Ends("unknown_row"),
        ),
        from_o(
            "a row of the other lane's roster",
            [one(mine()), vec![(Lane::Control, batch_frame(Lane::Control, vec![run(0, 2, 1, 0)], b"x"))]]
                .concat(),
            Ends("unknown_row"),
        ),
        from_o("a floor that goes back", runs(mine(), &[run(0, 5, 1, 0), run(0, 3, 1, 2)]), Decided(5)),
        from_o(
            "an empty run whose floor goes back",
            runs(mine(), &[run(0, 5, 1, 0), run(0, 6, 0, 5)]),
            Decided(5),
        ),
        from_o("the same seq again", runs(mine(), &[run(0, 1, 1, 0), run(0, 1, 1, 0)]), Decided(1)),
        from_o(
            "a seq beyond the window",
            runs(mine(), &[run(0, 1, 1, 0), run(0, 2 + 16_384, 1, 16_384)]),
            Refuses(RefusedReason::InboxFull),
        ),
        from_o(
            "the last seq of the window is none",
            runs(mine(), &[run(0, 1, 1, 0), run(0, 1 + 16_384, 1, 16_383)]),
            Decided(1),
        ),
        from_o(
            "more messages than a window has",
            runs(mine(), &[run(0, 1, 16_385, 0)]),
            Refuses(RefusedReason::Malformed),
        ),
        from_o("what is for another member", one(flow("o", 100, "m2")), not_served),
        from_o("what is for another datacenter", one(flow("o", 100, "um")), not_served),
        from_o("its own words of another life", one(flow("o", 99, "m")), not_served),
        from_o("an origin's words from another origin", one(flow("o2", 100, "m")), not_served),
        row("words of a proxy of elsewhere for another", "op", one(flow("o2", 100, "m")), not_served),
        row("words of nobody, from a proxy", "p", one(flow("nobody", 100, "m")), not_served),
        row("words of a node that is no origin", "p", one(flow("um", 100, "m")), not_served),
        row(
            "a life that no clock shows",
            "p",
            one(flow("o", u64::MAX, "m")),
            Refuses(RefusedReason::Malformed),
        ),
        row("an older life of an origin", "p", older_life, Refuses(RefusedReason::StaleOrigin)),
        from_o(
            "another life of the member",
            one(to_life(mine(), 49)),
            Refuses(RefusedReason::StaleDestination),
        ),
        from_o(
            "a later life of the member",
            one(to_life(mine(), 51)),
            Refuses(RefusedReason::StaleDestination),
        ),
        from_o(
            "an ack for one that sends nothing",
            vec![(Lane::Control, ack_frame(vec![entry(0, 100, 1)]).to_vec())],
            Ignores,
        ),
        from_o(
            "a ping on bulk",
            vec![(Lane::Bulk, control_frame(FrameType::Ping, Lane::Bulk, &Ping { sent_us: 1 }).to_vec())],
            Ends("unexpected_frame"),
        ),
        from_o("a second Hello", vec![every_hello()], Ends("unexpected_frame")),
        from_o(
            "a body over its limit",
            header(FrameType::Roster, Lane::Bulk, (1 << 20) + 1, 0),
            Ends("too_long"),
        ),
        from_o(
            "a payload over what was agreed on",
            header(FrameType::Batch, Lane::Bulk, 0, (16 << 20) + 1),
            Ends("too_long"),
        ),
        from_o("a payload behind a ping", header(FrameType::Ping, Lane::Control, 1, 1), Ends("too_long")),
        from_o("a damaged envelope", vec![(Lane::Bulk, damaged)], Ends("checksum")),
        from_o("words behind its Close", vec![(Lane::Control, behind_close)], Obeys),
        from_o("a Close of no code", control(FrameType::Close, &Close { code: 999 }), Obeys),
        from_o("a refusal long after the handshake", control(FrameType::Refuse, &refuse), Obeys),
    ]
}

fn every_hello() -> (Lane, Vec<u8>) {
    (Lane::Bulk, every_frame(Lane::Bulk).swap_remove(0).1)
}

fn rows_for_a_proxy() -> Vec<Row> {
    let row = |name, peer, said, answer| Row { name, node: "p", peer, dialled: false, said, answer };
    let not_served = Refuses(RefusedReason::NotServed);
    let late = Run { deadline_ms: 0, ..run(0, 1, 1, 0) };
    let long = vec![
        (Lane::Bulk, roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]).to_vec()),
        (
            Lane::Bulk,
            batch_around(
                Lane::Bulk,
                vec![run(0, 1, 1, 0)],
                vec![Payload::from(vec![0; (16 << 20) - (64 << 10) + 1])],
            ),
        ),
    ];
    let held = AckFlow { held: vec![1], refused: vec![refused(1, 1, 1)], ..entry(7, 100, 9) };
    vec![
        row("a second hop, from another proxy", "p2", one(flow("o", 100, "m")), not_served),
        row("a proxy's own words", "p2", one(flow("p2", 100, "m")), not_served),
        row("what another origin sent", "o", one(flow("o2", 100, "m")), not_served),
        row("its own words of another life", "o", one(flow("o", 101, "m")), not_served),
        row("what is for another datacenter", "o", one(flow("o", 100, "um")), not_served),
        row("what is for a proxy", "o", one(flow("o", 100, "p2")), not_served),
        row("what is for this proxy", "o", one(flow("o", 100, "p")), not_served),
        row("what is for nobody", "o", one(flow("o", 100, "nobody")), not_served),
        row(
            "what is for a member that is away",
            "o",
            one(flow("o", 100, "m2")),
            Refuses(RefusedReason::Unreachable),
        ),
        row(
            "an older life of the member",
            "o",
            one(to_life(flow("o", 100, "m"), 99)),
            Refuses(RefusedReason::StaleDestination),
        ),
        row(
            "a later life of the member",
            "o",
            one(to_life(flow("o", 100, "m"), 101)),
            Refuses(RefusedReason::Unreachable),
        ),
        row(
            "what nobody wants any more",
            "o",
            runs(flow("o", 100, "m"), &[late]),
            Refuses(RefusedReason::Expired),
        ),
        row("more than the member's link takes", "o", long, Refuses(RefusedReason::TooLarge)),
        row(
            "more messages than a window has",
            "o",
            runs(flow("o", 100, "m"), &[run(0, 1, 16_385, 0)]),
            Refuses(RefusedReason::Malformed),
        ),
        row(
            "an ack from an origin",
            "o",
            vec![(Lane::Control, ack_frame(vec![entry(0, 100, 1)]).to_vec())],
            Ignores,
        ),
        Row {
            name: "a member's ack of a row that is none",
            node: "p",
            peer: "m2",
            dialled: true,
            said: vec![(Lane::Control, ack_frame(vec![held]).to_vec())],
            answer: Ignores,
        },
        Row {
            name: "a member that sends to its proxy",
            node: "p",
            peer: "m2",
            dialled: true,
            said: one(flow("o", 100, "m")),
            answer: not_served,
        },
    ]
}

fn rows_for_an_origin() -> Vec<Row> {
    let row = |name, said, answer| Row { name, node: "o", peer: "p", dialled: true, said, answer };
    let ack = |entry| vec![(Lane::Control, ack_frame(vec![entry]).to_vec())];
    let welcome = every_frame(Lane::Control).swap_remove(1).1;
    vec![
        row("an ack of what was never sent", ack(entry(0, 100, 1)), Ignores),
        row("an ack over a lane that is none", ack(AckFlow { lane: 9, ..entry(0, 100, 0) }), Ignores),
        row(
            "an ack on bulk",
            vec![(
                Lane::Bulk,
                control_frame(FrameType::Ack, Lane::Bulk, &trunkline_mesh::proto::wire::Ack::default())
                    .to_vec(),
            )],
            Ends("unexpected_frame"),
        ),
        row("a second Welcome", vec![(Lane::Control, welcome)], Ends("unexpected_frame")),
        row(
            "a batch for one that is no member",
            one(flow("o2", 100, "o")),
            Refuses(RefusedReason::NotServed),
        ),
        row(
            "a pong that nobody asked for",
            control(
                FrameType::Pong,
                &trunkline_mesh::proto::wire::Pong {
                    ping_sent_us: u64::MAX,
                    ping_received_us: 0,
                    sent_us: u64::MAX,
                },
            ),
            Nothing,
        ),
        row(
            "a drain, again and again",
            [control(FrameType::Close, &Close { code: 1 }), control(FrameType::Close, &Close { code: 1 })]
                .concat(),
            Nothing,
        ),
    ]
}

/// Who is there beside the rogue peer.
enum Honest {
    Origin(Origin, Option<Server>),
    Member(Server),
}

impl Honest {
    fn beside(node: &str, shell: &mut Shell) -> Self {
        match node {
            "m" => Self::Origin(Origin::link(shell, "m"), None),
            "p" => {
                let server = Server::link(shell, "m");
                Self::Origin(Origin::link(shell, "m"), Some(server))
            }
            _ => Self::Member(Server::link(shell, "um")),
        }
    }

    /// Its links live, and a message gets through.
    fn assert_served(&mut self, shell: &mut Shell, name: &str) {
        match self {
            Self::Origin(origin, server) => {
                assert!(origin.conns.iter().all(|conn| !shell.closed.contains_key(conn)), "{name}");
                origin.send(shell);
                if let Some(server) = server {
                    server.serve(shell, &id("o2"));
                    let arrived = &server.arrived[&(id("m"), Lane::Bulk.index())].messages;
                    assert_eq!(arrived[&origin.sent()], text(origin.sent()), "{name}");
                    shell.advance(Duration::from_millis(2));
                }
                origin.finish(shell, |_| {});
            }
            Self::Member(server) => {
                assert!(server.conns.iter().all(|conn| !shell.closed.contains_key(conn)), "{name}");
                let mut batch = Batch::to(Datacenter::new("us").unwrap());
                batch.push(Message::new(id("um"), Bytes::from_static(b"x")));
                shell.node.submit(batch, shell.now).unwrap();
                shell.drain();
                server.serve(shell, &id("o"));
                let outcome = shell.outcome().expect("decided");
                assert!(outcome.is_delivered(), "{name}: {outcome:?}");
            }
        }
    }
}

#[test]
fn every_rule_that_a_peer_breaks_has_its_answer_and_no_other_peer_notices() {
    let rows = [rows_for_a_member(), rows_for_a_proxy(), rows_for_an_origin()];
    for row in rows.into_iter().flatten() {
        let name = format!("{}, {} of {}", row.name, row.peer, row.node);
        let mut shell = Shell::with(row.node, 0, Settings::default());
        let mut honest = Honest::beside(row.node, &mut shell);
        let peer = Peer::new(row.peer);
        let conns = if row.dialled { shell.link_out(&peer) } else { shell.link_in(&peer) };
        let lines = lines_of(|| {
            for (lane, bytes) in row.said {
                shell.feed(conns[lane.index()], &bytes);
            }
            shell.advance(Duration::from_millis(2));
        });
        let said = conns.map(|conn| shell.sent(conn));
        assert_answered(&shell, conns, &said, row.answer, &name);
        assert_told(&lines, row.peer, row.answer, &name);
        honest.assert_served(&mut shell, &name);
    }
}

/// Whoever reads the log learns once who it was, and what. What a peer may do, and what is nobody's fault, is no line.
fn assert_told(lines: &[String], peer: &str, answer: Answer, name: &str) {
    let illegal = match answer {
        Ends(_) | Ignores => true,
        Refuses(reason) => matches!(reason, RefusedReason::NotServed | RefusedReason::Malformed),
        Decided(_) | Nothing => false,
        // A Close is no line, and a refusal is one.
        Obeys => name.starts_with("a refusal"),
    };
    // That its link is down is another line, for who looks at links.
    let (ends, lines): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("link down: "));
    assert!(ends.iter().all(|line| line.contains(&format!(" peer={peer} "))), "{name}: {ends:?}");
    assert_eq!(ends.len(), usize::from(matches!(answer, Ends(_) | Obeys)), "{name}: {ends:?}");
    let told = lines.iter().filter(|line| line.contains(&format!(" peer={peer} "))).count();
    assert_eq!((told, lines.len()), (usize::from(illegal), usize::from(illegal)), "{name}: {lines:?}");
}

/// However often it does so, and anew over another link.
#[test]
fn what_ends_no_link_is_told_once_per_link_and_kind() {
    let mut shell = Shell::new("m");
    for link in 0..2 {
        let [control, bulk] = shell.link_in(&Peer::new("o"));
        let lines = lines_of(|| {
            for (lane, bytes) in one(flow("o", 100, "m2")) {
                shell.feed([control, bulk][lane.index()], &bytes);
            }
            for _ in 0..100 {
                shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 2, 1, 0)], b"x"));
                shell.feed(control, &ack_frame(vec![entry(0, 100, 1)]));
            }
        });
        let told = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(
            (told("peer=o error=a run"), told("peer=o error=an ack"), lines.len()),
            (1, 1, 2),
            "{link}: {lines:?}"
        );
        // The first may be nobody's fault.
        assert_eq!(told("breaks the protocol"), 1, "{lines:?}");
    }
}

fn assert_answered(
    shell: &Shell,
    conns: [trunkline_mesh::proto::node::ConnId; 2],
    said: &[Vec<Received>; 2],
    answer: Answer,
    name: &str,
) {
    let errors: u64 = shell.stats().protocol_errors.values().sum();
    let ended = conns.iter().filter(|conn| shell.closed.contains_key(conn)).count();
    let ends = matches!(answer, Ends(_) | Obeys);
    assert_eq!(ended, if ends { 2 } else { 0 }, "{name}: either ends both, or none ends");
    assert_eq!(errors, u64::from(matches!(answer, Ends(_))), "{name}: {:?}", shell.stats().protocol_errors);
    assert_eq!(shell.stats().acks_ignored, u64::from(answer == Ignores), "{name}");
    let acks: Vec<&AckFlow> = said[0]
        .iter()
        .filter_map(|frame| if let Received::Ack(ack) = frame { Some(&ack.flows) } else { None })
        .flatten()
        .collect();
    let reasons: Vec<u8> = acks.iter().flat_map(|ack| &ack.refused).map(|range| range.reason).collect();
    match answer {
        Ends(label) => {
            assert_eq!(shell.errors(label), 1, "{name}: {:?}", shell.stats().protocol_errors);
            let closing = |frame: &Received| matches!(frame, Received::Close(close) if close.code == 2);
            assert!(said.iter().any(|frames| frames.last().is_some_and(closing)), "{name}: no last words");
        }
        Refuses(reason) => {
            assert_eq!(reasons, [reason as u8], "{name}");
            let stats = shell.stats();
            let counted = [&stats.member.refused, &stats.proxy.refused]
                .map(|refused| refused.get(reason.label()).copied());
            // A node that is nothing but an origin counts no runs.
            if counted.iter().any(Option::is_some) {
                assert_eq!(counted.iter().flatten().sum::<u64>(), 1, "{name}: {stats:?}");
            }
        }
        Decided(seq) => {
            assert_eq!((acks.last().map(|ack| ack.decided), &reasons[..]), (Some(seq), &[][..]), "{name}");
        }
        Ignores | Nothing | Obeys => assert_eq!(acks, Vec::<&AckFlow>::new(), "{name}"),
    }
}

/// Links that are opened and ended at once, by either word, again and again.
#[test]
fn a_storm_of_closes_leaves_nothing_behind_and_harms_nobody() {
    let settings = Settings { handshakes_max: 2, connections_max: 8, ..Settings::default() };
    let mut shell = Shell::with("m", 0, settings);
    let mut honest = Honest::beside("m", &mut shell);
    for round in 0..500_u64 {
        let conns = shell.link_in(&Peer::new("o"));
        let lane = Lane::ALL[usize::try_from(round % 2).unwrap()];
        let words = match round % 3 {
            0 => control_frame(FrameType::Close, lane, &Close { code: 2 }),
            1 => {
                let refuse = Refuse { code: 9, detail: String::new(), highest_incarnation: Incarnation(0) };
                control_frame(FrameType::Refuse, lane, &refuse)
            }
            // Not even that: the next link takes this one's place.
            _ => continue,
        };
        shell.feed(conns[lane.index()], &words);
        assert!(conns.iter().all(|conn| shell.closed.contains_key(conn)), "round {round}");
        honest.assert_served(&mut shell, "between closes");
    }
    assert!(shell.node.status(shell.now).links.len() <= 2);
    assert_eq!(shell.stats().protocol_errors.values().sum::<u64>(), 0, "rude, but legal");
}

/// Lines of one kind are limited in the log, and so is what one of them says.
#[test]
fn a_refusal_that_goes_on_and_on_is_a_short_line() {
    let mut shell = Shell::new("m");
    let [control, _] = shell.link_in(&Peer::new("o"));
    let refuse = Refuse { code: 5, detail: "\x01".repeat(1 << 19), highest_incarnation: Incarnation(0) };
    let lines =
        lines_of(|| _ = shell.feed(control, &control_frame(FrameType::Refuse, Lane::Control, &refuse)));
    let [line, end] = &lines[..] else { panic!("{} lines", lines.len()) };
    assert!(end.starts_with("link down: ") && end.len() < 200, "{end}");
    assert!(line.starts_with("peer refuses the link peer=o code=wrong_role"), "{line}");
    assert!(line.len() < 2_000, "{} bytes", line.len());
}

fn refusal_of_life(life: Incarnation) -> Bytes {
    let refuse = Refuse { code: 8, detail: String::new(), highest_incarnation: life };
    control_frame(FrameType::Refuse, Lane::Control, &refuse)
}

/// Answers the node's Hello with a later life of its own.
fn refuse_life(shell: &mut Shell, conn: ConnId, life: Incarnation) {
    shell.feed(conn, &[&PREAMBLE[..], &refusal_of_life(life)].concat());
    assert!(shell.closed.contains_key(&conn));
}

/// While nobody is linked, one that tells a node of a later life of its own is believed, and no handshake survives it: but
/// not time and again.
#[test]
fn a_peer_moves_a_node_past_its_life_once_in_a_while_and_not_time_and_again() {
    let mut shell = Shell::new("o");
    let mut lives = vec![shell.node.incarnation()];
    for _ in 0..6 {
        let control = shell.dialed("p", Lane::Control);
        let claimed = Incarnation(shell.node.incarnation().0 + 1);
        refuse_life(&mut shell, control, claimed);
        lives.push(shell.node.incarnation());
    }
    lives.dedup();
    assert_eq!(lives.len(), 2, "moved once: {lives:?}");
    // Another peer is not disbelieved for it, and this one is believed again later; but either may have it from others, and says it once then.
    for (name, wait) in [("p2", 0), ("p", 30)] {
        shell.advance(Duration::from_secs(wait));
        let before = shell.node.incarnation();
        for (above, moves) in [(7, false), (9, false), (9, true)] {
            shell.dials.clear();
            shell.advance(Duration::from_secs(6));
            let control = shell.dialed(name, Lane::Control);
            refuse_life(&mut shell, control, Incarnation(before.0 + above));
            assert_eq!(shell.node.incarnation() > before, moves, "{name}");
        }
    }
}

/// However far a peer that lies leads a node while nobody is linked, an honest one believes what the node says it is.
#[test]
fn a_node_that_was_led_as_far_as_it_goes_is_linked_by_others_all_the_same() {
    const SPAN: u64 = 200 * 365 * 24 * 3600 * 1_000_000;
    let mut shell = Shell::new("o");
    let born = shell.node.incarnation().0;
    // In leaps, and in the end by as little as it takes. What is more than that is not believed.
    let leaps = [u64::MAX / 2, SPAN / 4, SPAN / 2, SPAN, SPAN - 10_000_001, SPAN - 10_000_001, 2 * SPAN];
    for ahead in leaps.into_iter().flat_map(|ahead| [ahead; 2]) {
        shell.advance(Duration::from_secs(31));
        shell.dials.clear();
        let control = shell.dialed("p", Lane::Control);
        let claimed = Incarnation((born + ahead).max(shell.node.incarnation().0));
        refuse_life(&mut shell, control, claimed);
    }
    let life = shell.node.incarnation().0;
    assert!(
        (born + SPAN - 10_000_001..born + SPAN).contains(&life),
        "{} behind the span",
        born + SPAN - life
    );
    // Nodes that started when this one did, and never heard of it.
    for to in ["p2", "m", "um"] {
        let mut honest = Shell::new(to);
        honest.link_in(&Peer { life, ..Peer::new("o") });
    }
    let mut server = Server::link(&mut shell, "p2");
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.push(Message::new(id("m"), Bytes::from_static(b"x")));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
    server.serve(&mut shell, &id("o"));
    let outcome = shell.outcome().expect("decided");
    assert!(outcome.is_delivered(), "{outcome:?}");
}

/// Lets time pass, in which an honest member says that it lives, until the node dials a peer's control.
fn until_dialled(shell: &mut Shell, honest: &Honest, name: &str) -> ConnId {
    let Honest::Member(server) = honest else { panic!("a member") };
    // Those that were not taken are given up by now.
    shell.dials.clear();
    for _ in 0..1000 {
        shell.advance(Duration::from_millis(100));
        shell.feed(server.conns[0], &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 1 }));
        let dialled = |(_, peer, lane): &(ConnId, NodeId, Lane)| *peer == id(name) && *lane == Lane::Control;
        if let Some((conn, ..)) = shell.dials.iter().find(|dial| dialled(dial)) {
            return *conn;
        }
    }
    panic!("the node does not dial `{name}`");
}

/// One that refuses again and again, with rising lives, in the handshake and over a link that is up, is believed once, as it
/// may be the only one that remembers. From then on who is linked stays so.
#[test]
fn a_peer_that_tells_of_ever_later_lives_ends_the_links_of_others_once() {
    let mut shell = Shell::new("o");
    let honest = Honest::beside("o", &mut shell);
    let born = shell.node.incarnation();
    let [control, _] = shell.link_out(&Peer::new("p"));
    shell.feed(control, &refusal_of_life(Incarnation(born.0 + 1)));
    assert_eq!(shell.node.incarnation(), born, "over a link that is up nothing of the kind is believed");
    let conn = until_dialled(&mut shell, &honest, "p");
    shell.dial_succeeds(conn);
    refuse_life(&mut shell, conn, Incarnation(born.0 + 1));
    let life = shell.node.incarnation();
    assert!(life > born);
    let mut honest = Honest::beside("o", &mut shell);
    for round in 1..200_u64 {
        let conn = until_dialled(&mut shell, &honest, "p");
        let claimed = Incarnation(life.0 + round * 1_000_000);
        if round % 3 == 0 {
            let [control, _] = shell.link_out(&Peer::new("p"));
            shell.feed(control, &refusal_of_life(claimed));
            assert!(shell.closed.contains_key(&control));
        } else {
            shell.dial_succeeds(conn);
            refuse_life(&mut shell, conn, claimed);
        }
        honest.assert_served(&mut shell, "beside one that refuses");
        assert_eq!(shell.node.incarnation(), life, "round {round}");
    }
    // Where more say so than have links up, it is this node that is wrong.
    shell.advance(Duration::from_secs(31));
    let honest = Honest::beside("o", &mut shell);
    for name in ["p", "p", "p2", "p2"] {
        assert_eq!(shell.node.incarnation(), life);
        let conn = until_dialled(&mut shell, &honest, name);
        shell.dial_succeeds(conn);
        refuse_life(&mut shell, conn, Incarnation(life.0 + 5));
    }
    assert!(shell.node.incarnation().0 > life.0 + 5, "two know better than one");
}

/// A proxy that lies can have all members of its datacenter say so once.
#[test]
fn what_was_said_once_is_no_word_beside_that_of_who_moved_a_node_before() {
    const SAID_ONCE: [&str; 5] = ["e1", "e2", "e3", "e4", "e5"];
    let mut nodes = vec![("o", "us", Roles::ORIGIN)];
    nodes.extend(["p", "p2", "p3"].into_iter().chain(SAID_ONCE).map(|name| (name, "eu", Roles::PROXY)));
    // Nobody pings here.
    let settings = Settings { silence_timeout: Duration::from_secs(600), ..Settings::default() };
    let mut shell = Shell::among(cluster(&nodes), "o", settings, 1);
    let born = shell.node.incarnation();
    let conn = shell.dialed("p", Lane::Control);
    refuse_life(&mut shell, conn, Incarnation(born.0 + 1));
    let life = shell.node.incarnation();
    assert!(life > born);
    shell.dials.clear();
    for name in ["p2", "p3"] {
        shell.link_out(&Peer::new(name));
    }
    shell.advance(Duration::from_secs(31));
    for name in SAID_ONCE.into_iter().chain(["p"; 2]) {
        // Those that were not taken are given up by now, or will be.
        shell.dials.clear();
        let conn = shell.dialed(name, Lane::Control);
        refuse_life(&mut shell, conn, Incarnation(life.0 + 5));
        assert_eq!(shell.node.incarnation(), life, "{name}");
    }
    assert_eq!(shell.node.status(shell.now).links.iter().filter(|link| link.up).count(), 2);
}
