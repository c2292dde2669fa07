//! Proxies that tell members of floors which their origins never said: what was passed over for that is waited for again as soon as
//! the origin says so itself.

use std::time::Duration;

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, Ping, RefusedReason, Run};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::lives::Sender;
use super::log::lines_of;
use super::shell::{Peer, Shell, ack_frame, batch_frame, cluster, entry, flow, roster_frame, run};

/// No origin ever gets there.
const FAR_UP: u64 = 1 << 60;

/// A member; what comes is brought over links of `p`, `p2` and, once it dialled, `o`.
struct Receiver {
    shell: Shell,
    p: [ConnId; 2],
    p2: [ConnId; 2],
}

impl Receiver {
    fn new() -> Self {
        let mut shell = Shell::new("m");
        let [p, p2] = ["p", "p2"].map(|proxy| link(&mut shell, proxy));
        Self { shell, p, p2 }
    }

    /// It had 1 and 2, holds 4, and then `p` says that there is nothing below a number far up.
    fn led_astray() -> Self {
        let mut receiver = Self::new();
        for seq in [1, 2, 4] {
            receiver.bring(receiver.p2, run(0, seq, 1, 0));
        }
        let told = receiver.bring(receiver.p, run(0, FAR_UP, 0, 0));
        assert_eq!((told.decided, receiver.taken()), (FAR_UP - 1, vec![1, 2, 4]));
        receiver
    }

    /// A run of row 0; what the member answers.
    fn bring(&mut self, [control, bulk]: [ConnId; 2], run: Run) -> AckFlow {
        self.shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run], b"x"));
        self.shell.acks(control).pop().expect("an answer")
    }

    fn taken(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.shell.node.poll_delivery(self.shell.now)).map(|of| of.seq.0).collect()
    }

    fn found(&self) -> u64 {
        self.shell.stats().member.false_floors
    }
}

/// A link of a peer; row 0 of it is what `o` sends to `m`, and row 1 what `o2` does.
fn link(shell: &mut Shell, name: &'static str) -> [ConnId; 2] {
    let conns = shell.link_in(&Peer::new(name));
    let flows = vec![flow("o", 100, "m"), flow("o2", 100, "m")];
    shell.feed(conns[1], &roster_frame(Lane::Bulk, 0, flows));
    conns
}

/// The origin dials, and says itself how far it is, by an empty run or by any. From then on the proxy brings nothing of it.
#[test]
fn a_floor_that_a_proxy_forges_lasts_until_the_origin_says_its_own() {
    for asks_first in [false, true] {
        let mut receiver = Receiver::led_astray();
        // By the other proxy its messages are duplicates still.
        let told = receiver.bring(receiver.p2, run(0, 5, 1, 0));
        assert_eq!((told.decided, receiver.taken()), (FAR_UP - 1, vec![]));
        let o = link(&mut receiver.shell, "o");
        let mut lines = Vec::new();
        if asks_first {
            let mut told = None;
            lines = lines_of(|| told = Some(receiver.bring(o, run(0, 6, 0, 1))));
            assert_eq!(told.map(|told| (told.decided, told.held)), Some((4, vec![])));
        }
        lines.extend(lines_of(|| {
            receiver.bring(o, run(0, 5, 1, 0));
        }));
        assert_eq!((receiver.taken(), receiver.found()), (vec![5], 1));
        assert!(
            matches!(&lines[..], [line] if line.contains("proxy=p ") && line.contains("origin=o")),
            "{lines:?}"
        );
        // What is handed over is not handed over again, and 3 would come out of turn.
        for seq in 1..=5 {
            assert_eq!(receiver.bring(o, run(0, seq, 1, 0)).decided, 5);
        }
        assert_eq!(receiver.taken(), []);
        let refused = receiver.bring(receiver.p, run(0, FAR_UP, 0, 0)).refused;
        assert!(matches!(refused[..], [of] if of.reason == RefusedReason::NotServed as u8), "{refused:?}");
        receiver.bring(receiver.p, run(0, 6, 1, 0));
        assert_eq!(receiver.taken(), [], "not by that proxy");
        assert_eq!(receiver.bring(receiver.p2, run(0, 6, 1, 0)).decided, 6);
        assert_eq!(receiver.taken(), [6]);
        // It may be the origin that lies: others are served as before.
        assert_eq!(receiver.bring(receiver.p, run(1, 1, 1, 0)).decided, 1);
        assert_eq!(receiver.taken(), [1]);
        for [control, _] in [receiver.p, receiver.p2, o] {
            receiver.shell.sent(control);
        }
        // Until it was left long enough.
        receiver.shell.advance(Duration::from_secs(2));
        receiver.p = link(&mut receiver.shell, "p");
        assert_eq!(receiver.bring(receiver.p, run(0, 7, 1, 0)).refused.len(), 1);
        receiver.shell.advance(Duration::from_secs(59));
        receiver.p = link(&mut receiver.shell, "p");
        assert_eq!(receiver.bring(receiver.p, run(0, 7, 1, 0)).decided, 7);
    }
}

/// Of a link from before nobody knows which word was first: what the origin says over it counts, and nobody is blamed.
#[test]
fn over_a_link_from_before_an_origin_is_heard_and_nobody_is_blamed() {
    let mut receiver = Receiver::new();
    let o = link(&mut receiver.shell, "o");
    receiver.bring(o, run(0, 1, 1, 0));
    // Given up, as the origin had a proxy say; what it sent before that comes later.
    assert_eq!(receiver.bring(receiver.p, run(0, 5, 0, 0)).decided, 4);
    let told = receiver.bring(o, run(0, 3, 1, 1));
    assert_eq!((told.decided, told.held), (1, vec![0b10]));
    assert_eq!(receiver.bring(receiver.p, run(0, 5, 1, 0)).decided, 5);
    assert_eq!((receiver.taken(), receiver.found()), (vec![1, 3, 5], 0));
    // And so it is with one that is none.
    assert_eq!(receiver.bring(receiver.p, run(0, FAR_UP, 0, 0)).decided, FAR_UP - 1);
    assert_eq!(receiver.bring(o, run(0, 6, 1, 0)).decided, 6);
    assert_eq!((receiver.taken(), receiver.found()), (vec![6], 0));
}

/// And a message of its own on top, or another floor: numbers that the origin had not reached are none of its.
#[test]
fn messages_that_a_proxy_makes_up_far_above_an_origin_keep_that_out_no_longer_than_a_floor() {
    let mut receiver = Receiver::led_astray();
    receiver.bring(receiver.p, run(0, FAR_UP, 1, 0));
    receiver.bring(receiver.p, run(0, FAR_UP + 99, 1, 0));
    assert_eq!(receiver.taken(), [FAR_UP, FAR_UP + 99], "a proxy can make messages up");
    let o = link(&mut receiver.shell, "o");
    assert_eq!(receiver.bring(o, run(0, 5, 1, 0)).decided, 5);
    assert_eq!((receiver.taken(), receiver.found()), (vec![5], 1));
}

/// Also where each makes one up while the origin's new link is begun: what came since then may be the origin's, so it has to say it
/// over one more, and by then it is known who brought it.
#[test]
fn messages_that_proxies_make_up_while_the_origin_dials_keep_it_out_for_a_link_each() {
    let mut receiver = Receiver::led_astray();
    for (up, proxy) in (0..).zip([receiver.p, receiver.p2, receiver.p2]) {
        let o = link(&mut receiver.shell, "o");
        receiver.bring(proxy, run(0, FAR_UP + up, 1, 0));
        assert_eq!(receiver.taken(), [FAR_UP + up], "it passes for a message of the origin");
        receiver.shell.feed(o[1], &batch_frame(Lane::Bulk, vec![run(0, 5, 1, 0)], b"x"));
        assert_eq!(receiver.taken(), []);
        assert!(o.iter().all(|conn| receiver.shell.closed.contains_key(conn)), "{up}");
    }
    assert_eq!(receiver.found(), 2, "each once");
    let o = link(&mut receiver.shell, "o");
    for proxy in [receiver.p, receiver.p2] {
        let refused = receiver.bring(proxy, run(0, FAR_UP + 9, 1, 0)).refused;
        assert!(matches!(refused[..], [of] if of.reason == RefusedReason::NotServed as u8), "{refused:?}");
    }
    assert_eq!(receiver.bring(o, run(0, 5, 1, 0)).decided, 5);
    assert_eq!((receiver.taken(), receiver.found()), (vec![5], 2));
}

/// All proxies bring the same nonsense, for it is the member's own word by now. The sender ignores it, gets no answer, and dials the member.
#[test]
fn a_sender_to_whom_every_proxy_brings_nonsense_asks_the_member_itself() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (_, _, seq) = sender.send();
    let mut rows = [0, 0];
    let direct = (0..50).find_map(|_| {
        let sent = sender.sent();
        sent.iter().filter(|sent| sent.0 < 2).for_each(|sent| rows[sent.0] = sent.1);
        if sent.iter().any(|sent| (sent.0, sent.2, sent.3) == (2, seq, 1)) {
            return Some(sent);
        }
        for (at, row) in rows.into_iter().enumerate() {
            sender.say(at, entry(row, 100, FAR_UP - 1));
        }
        sender.pass(100);
        if sender.conns.len() == 2 && sender.shell.dials.iter().any(|(_, peer, _)| peer.as_str() == "m") {
            sender.link_member();
        }
        None
    });
    assert!(direct.is_some(), "not directly");
    // That link may be older than what it was told. It believes a new one.
    sender.say(2, entry(0, 100, FAR_UP - 1));
    let old = sender.conns.pop().unwrap();
    assert!(old.iter().all(|conn| sender.shell.closed.contains_key(conn)), "the link is kept");
    sender.pass(1000);
    sender.link_member();
    let again = (0..50).find_map(|_| {
        sender.pass(100);
        sender.sent().into_iter().find(|sent| (sent.0, sent.2, sent.3) == (2, seq, 1))
    });
    sender.say(2, entry(again.expect("not directly again").1, 100, seq));
    assert_eq!(sender.delivered(), 1);
    assert!(sender.shell.stats().acks_ignored > 1 && sender.shell.stats().verdicts["member"] > 0);
    // The member mended, and what goes by proxies is believed again.
    for _ in 0..30 {
        sender.pass(100);
        let (at, row, seq) = sender.send();
        sender.say(at, entry(row, 100, seq));
        assert_eq!(sender.delivered(), 1);
        if at < 2 {
            return;
        }
    }
    panic!("by no proxy any more");
}

/// What was made up in turn is not mended by a new link, and here it is that of a proxy, which others need.
#[test]
fn a_destination_that_says_nonsense_over_every_link_loses_one_a_minute_and_then_fewer() {
    const BOTH: Roles = Roles { origin: false, member: true, proxy: true };
    let nodes = cluster(&[("o", "us", Roles::ORIGIN), ("pm", "eu", BOTH)]);
    let mut shell = Shell::among(nodes, "o", Settings::default(), 1);
    let mut conns = shell.link_out(&Peer::new("pm"));
    shell.submit("eu", &["pm"], Duration::from_secs(600));
    let (from, mut ended) = (shell.now, Vec::new());
    while shell.now.since(from) < Duration::from_secs(150) {
        for received in shell.sent(conns[1]) {
            let Received::Batch(envelope, _) = received else { continue };
            for run in envelope.runs {
                shell.feed(conns[0], &ack_frame(vec![entry(run.flow, 100, run.first.0 + 1)]));
            }
        }
        if shell.closed.contains_key(&conns[0]) {
            ended.push(shell.now.since(from).as_secs());
            conns = shell.link_out(&Peer::new("pm"));
        }
        shell.advance(Duration::from_millis(100));
        shell.feed(conns[0], &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 9 }));
    }
    // It asks again every 2 s at the latest.
    assert!(matches!(ended[..], [0..5, 60..70]), "{ended:?}");
}
