//! Proxies that say of members and of origins that they live lives which these do not live: what a node says of itself counts for
//! more, so that nobody is kept out for what others say of it.

use std::time::Duration;

use trunkline_mesh::id::{Incarnation, Lane};
use trunkline_mesh::message::Outcome;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame, frame_around};
use trunkline_mesh::proto::handshake::transcript;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{
    AckFlow, Confirm, PREAMBLE, Ping, Refuse, RefuseCode, RefusedReason, WIRE_VERSION, encode,
};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::shell::{
    Peer, Shell, ack_frame, batch_frame, cluster, entry, flow, id, refused, roster_frame, run, topology,
};

/// Later than what the member lives, and no nonsense.
const FALSE: u64 = 10_000;

/// A sender, and its links to two proxies and, once that was dialled, to the member.
pub(super) struct Sender {
    pub(super) shell: Shell,
    pub(super) conns: Vec<[ConnId; 2]>,
    /// Per link the lives of the member in the rows of its bulk connection.
    rows: Vec<Vec<u64>>,
}

impl Sender {
    fn new() -> Self {
        Self::by(&["p", "p2"])
    }

    pub(super) fn by(proxies: &[&'static str]) -> Self {
        Self::with(proxies, Settings::default())
    }

    fn with(proxies: &[&'static str], settings: Settings) -> Self {
        let mut nodes = vec![("o", "us", Roles::ORIGIN)];
        nodes.extend(proxies.iter().map(|proxy| (*proxy, "eu", Roles::PROXY)));
        nodes.push(("m", "eu", Roles { origin: true, ..Roles::MEMBER }));
        let mut shell = Shell::among(cluster(&nodes), "o", settings, 1);
        let conns = proxies.iter().map(|proxy| shell.link_out(&Peer::new(proxy))).collect();
        Self { shell, conns, rows: vec![Vec::new(); 3] }
    }

    pub(super) fn submit(&mut self) {
        self.shell.submit("eu", &["m"], Duration::from_secs(600));
    }

    /// Runs that went over any link since this was asked last: the link, the row, the first seq, how many messages.
    pub(super) fn sent(&mut self) -> Vec<(usize, u32, u64, u32)> {
        let mut sent = Vec::new();
        for (at, [_, bulk]) in self.conns.clone().into_iter().enumerate() {
            for received in self.shell.sent(bulk) {
                match received {
                    Received::Roster(roster) => {
                        self.rows[at].extend(roster.flows.iter().map(|flow| flow.destination_incarnation.0));
                    }
                    Received::Batch(envelope, _) => {
                        sent.extend(envelope.runs.iter().map(|run| (at, run.flow, run.first.0, run.count)));
                    }
                    _ => {}
                }
            }
        }
        sent
    }

    /// One message; the link that it goes by, its row there, its seq.
    pub(super) fn send(&mut self) -> (usize, u32, u64) {
        self.submit();
        match self.sent()[..] {
            [(at, row, seq, 1)] => (at, row, seq),
            ref other => panic!("not one message: {other:?}"),
        }
    }

    /// The same, which whoever carries it says to be delivered.
    pub(super) fn deliver(&mut self) -> (usize, u32, u64) {
        let (at, row, seq) = self.send();
        self.say(at, entry(row, 100, seq));
        assert_eq!(self.delivered(), 1);
        (at, row, seq)
    }

    pub(super) fn say(&mut self, at: usize, entry: AckFlow) {
        self.shell.feed(self.conns[at][0], &ack_frame(vec![entry]));
    }

    fn refuse(&mut self, at: usize, row: u32, (first, count): (u64, u32), reason: RefusedReason) {
        self.say(at, AckFlow { refused: vec![refused(first, count, reason as u8)], ..entry(row, 0, 0) });
    }

    /// The member is dialled, and lives the life that it always did.
    pub(super) fn link_member(&mut self) {
        let conns = self.shell.link_out(&Peer::new("m"));
        self.conns.push(conns);
        assert!(
            conns.iter().all(|conn| !self.shell.closed.contains_key(conn)),
            "refused for what others say"
        );
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        std::iter::from_fn(|| self.shell.outcome()).collect()
    }

    /// Lets time pass; whoever is linked lives.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.shell.advance(Duration::from_millis(100));
            let open = self
                .conns
                .clone()
                .into_iter()
                .filter(|[control, _]| !self.shell.closed.contains_key(control));
            for [control, _] in open.collect::<Vec<_>>() {
                self.shell
                    .feed(control, &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 9 }));
            }
        }
    }

    pub(super) fn delivered(&mut self) -> usize {
        let outcomes = self.outcomes();
        assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
        outcomes.len()
    }
}

/// The other proxy knows no such life and refuses; the member itself, once dialled, says which one it lives, and takes all that waits.
#[test]
fn a_false_life_of_a_member_is_refuted_by_the_member_and_costs_no_message() {
    let mut sender = Sender::new();
    let (liar, row, _) = sender.deliver();
    sender.say(liar, entry(row, FALSE, 0));
    let (by, row, seq) = sender.send();
    assert_eq!((by, sender.rows[liar][row as usize]), (liar, FALSE), "it is believed for what is sent next");
    sender.refuse(liar, row, (seq, 1), RefusedReason::Unreachable);
    let other = 1 - liar;
    assert!(matches!(sender.sent()[..], [(at, ..)] if at == other));
    sender.refuse(other, 0, (seq, 1), RefusedReason::Unreachable);
    sender.link_member();
    let [(direct, row, again, 1)] = sender.sent()[..] else { panic!("not sent directly") };
    assert_eq!(
        (direct, sender.rows[2][row as usize], again),
        (2, 100, seq),
        "for the life that it says itself"
    );
    sender.say(direct, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
    assert_eq!(sender.shell.stats().verdicts["false_life"], 2, "of each lane");
    // And what the liar says of it counts no more.
    sender.say(liar, entry(0, FALSE + 1, 0));
    let (by, row, seq) = sender.send();
    assert_ne!(by, liar);
    assert_eq!(sender.rows[by][row as usize], 100);
    sender.say(by, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
}

/// All is acknowledged, for a life that is none: no report of the member would count. The audit by the other proxy is refused, and
/// that asks the member itself.
#[test]
fn a_proxy_that_hides_behind_a_false_life_is_found_by_an_audit() {
    let mut sender = Sender::new();
    let (liar, row, seq) = sender.send();
    sender.say(liar, entry(row, 100, seq));
    sender.say(liar, entry(row, FALSE, 0));
    let (by, row, seq) = sender.send();
    assert_eq!(by, liar);
    sender.say(liar, entry(row, FALSE, seq));
    assert_eq!(sender.delivered(), 2, "says the liar");
    // In one step, or peers that answer no pings would be taken for dead.
    sender.shell.advance(Duration::from_secs(11));
    let [(other, row, first, 0)] = sender.sent()[..] else { panic!("no audit") };
    assert_ne!(other, liar);
    assert!(!sender.shell.dials.iter().any(|(_, peer, _)| *peer == id("m")));
    sender.refuse(other, row, (first, 0), RefusedReason::Unreachable);
    sender.link_member();
    assert_eq!(sender.shell.stats().verdicts["false_life"], 2, "of each lane");
    assert_ne!(sender.send().0, liar);
}

/// One message at a time goes to a member that was full. Nobody answers the audit that is under way: what waits behind it goes when
/// the time of that is over.
#[test]
fn an_audit_that_nobody_answers_keeps_no_message_waiting_until_its_deadline() {
    let soon = Duration::from_millis(500);
    let settings = Settings { attempt_timeout_max: soon, ..Settings::default() };
    let mut sender = Sender::with(&["p", "p2"], settings);
    let (by, row, seq) = sender.send();
    sender.say(by, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
    sender.shell.advance(Duration::from_secs(11));
    let [(other, _, _, 0)] = sender.sent()[..] else { panic!("no audit") };
    let (by, row, seq) = sender.send();
    assert_ne!(by, other);
    sender.refuse(by, row, (seq, 1), RefusedReason::InboxFull);
    let mut again = sender.sent();
    // Not so long that peers which answer no pings are taken for dead.
    for _ in 0..20 {
        sender.shell.advance(Duration::from_millis(100));
        again.extend(sender.sent());
    }
    assert!(again.iter().any(|(_, _, first, count)| (*first, *count) == (seq, 1)), "not again: {again:?}");
}

/// What was under way for the life that it lives all the time is not given up when that turns out, nor what was sent meanwhile.
#[test]
fn what_is_under_way_when_a_false_life_is_refuted_is_sent_again() {
    let mut sender = Sender::new();
    let (liar, row, seq) = sender.send();
    sender.say(liar, entry(row, 100, seq));
    let (_, row, seq) = sender.send();
    sender.say(liar, entry(row, FALSE, 0));
    sender.refuse(liar, row, (seq, 1), RefusedReason::Unreachable);
    // And an empty run, for the floor is news to that life.
    let Some((other, row, ..)) = sender.sent().into_iter().find(|sent| sent.3 > 0) else {
        panic!("not again")
    };
    assert_ne!(other, liar);
    sender.refuse(other, row, (seq, 1), RefusedReason::LinkLost);
    sender.link_member();
    assert_eq!(sender.delivered(), 1, "and nothing failed");
    // The empty run is answered by nobody: one message at a time, until its time is over.
    sender.shell.advance(Duration::from_secs(1));
    let again = sender.sent();
    let Some((by, row, ..)) = again.iter().find(|sent| sent.2 == seq && sent.3 == 1).copied() else {
        panic!("not again: {again:?}")
    };
    assert_ne!(by, liar);
    sender.say(by, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
}

/// A member that restarted is believed by what a proxy says, as ever, and its own word confirms it.
#[test]
fn a_life_that_is_true_stays_when_the_member_says_it_too() {
    let mut sender = Sender::new();
    let (by, row, seq) = sender.send();
    sender.say(by, entry(row, 100, seq));
    sender.say(by, entry(row, 200, 0));
    let (by, row, seq) = sender.send();
    sender.refuse(by, row, (seq, 1), RefusedReason::Unreachable);
    let [(by, row, ..)] = sender.sent()[..] else { panic!("not by the other one") };
    sender.refuse(by, row, (seq, 1), RefusedReason::Unreachable);
    let conns = sender.shell.link_out(&Peer { life: 200, ..Peer::new("m") });
    sender.conns.push(conns);
    assert!(matches!(sender.sent()[..], [(2, 0, again, 1)] if again == seq));
    assert_eq!((sender.rows[2][0], sender.shell.stats().verdicts["false_life"]), (200, 0));
    sender.say(2, entry(0, 200, seq));
    assert_eq!(sender.delivered(), 2);
}

/// It may be the leader: its own Hello counts, whatever proxies said of it, and its link lives.
#[test]
fn nobody_is_refused_for_a_life_that_others_say_it_lives() {
    let mut sender = Sender::new();
    let (liar, row, seq) = sender.send();
    sender.say(liar, entry(row, 100, seq));
    sender.say(liar, entry(row, FALSE, 0));
    let conns = sender.shell.link_in(&Peer::new("m"));
    assert!(conns.iter().all(|conn| !sender.shell.closed.contains_key(conn)));
    // A link that was there when it was said ends: it may be to a process that is gone. The next one is as good.
    sender.say(liar, entry(row, FALSE + 1, 0));
    assert!(conns.iter().all(|conn| sender.shell.closed.contains_key(conn)));
    let conns = sender.shell.link_in(&Peer::new("m"));
    assert!(conns.iter().all(|conn| !sender.shell.closed.contains_key(conn)));
}

/// Whoever says it: neither a proxy nor the member, which may have believed a proxy, ends a message by that.
#[test]
fn a_message_of_an_origin_that_is_called_stale_goes_on_until_the_member_takes_it() {
    let mut sender = Sender::new();
    let (first, row, seq) = sender.send();
    sender.refuse(first, row, (seq, 1), RefusedReason::StaleOrigin);
    let [(second, row, again, 1)] = sender.sent()[..] else { panic!("not by the other one") };
    assert_eq!((second, again), (1 - first, seq));
    sender.refuse(second, row, (seq, 1), RefusedReason::StaleOrigin);
    sender.link_member();
    let [(2, row, again, 1)] = sender.sent()[..] else { panic!("not directly") };
    assert_eq!(again, seq);
    // Over a link from before it heard of that life: a new handshake tells it which one this is.
    sender.refuse(2, row, (seq, 1), RefusedReason::StaleOrigin);
    let old = sender.conns.pop().unwrap();
    assert!(old.iter().all(|conn| sender.shell.closed.contains_key(conn)));
    assert_eq!(sender.shell.stats().links_ended["peer_life"], 1);
    assert!(sender.outcomes().is_empty(), "nothing fails");
    sender.link_member();
    sender.shell.advance(Duration::from_secs(1));
    let sent = sender.sent();
    let Some((by, row, ..)) = sent.iter().find(|sent| sent.2 == seq).copied() else { panic!("{sent:?}") };
    sender.say(by, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
}

/// The other proxy delivers: one that calls the origin stale costs a round trip.
#[test]
fn a_proxy_that_calls_an_origin_stale_is_passed_by() {
    let mut sender = Sender::new();
    let (first, row, seq) = sender.send();
    sender.refuse(first, row, (seq, 1), RefusedReason::StaleOrigin);
    let [(second, row, ..)] = sender.sent()[..] else { panic!("not by the other one") };
    sender.say(second, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
    assert_eq!(sender.send().0, second);
}

/// A member, a link to it, rows announced there so far.
struct Receiver {
    shell: Shell,
    rows: u32,
}

impl Receiver {
    fn new() -> Self {
        Self { shell: Shell::new("m"), rows: 0 }
    }

    /// `o` dials, and is told of the life that it is said to live: its clock may have stepped back.
    fn tell_o(&mut self, life: u64) {
        let conn = self.shell.accept();
        let hello = control_frame(FrameType::Hello, Lane::Control, &Peer::new("o").hello(Lane::Control, 77));
        self.shell.feed(conn, &[&PREAMBLE[..], &hello].concat());
        let told = self.shell.sent(conn);
        assert!(
            matches!(&told[..], [Received::Refuse(of)] if of.code == RefuseCode::StaleIncarnation as u16 && of.highest_incarnation.0 == life),
            "{told:?}"
        );
    }

    /// One message of `o` in a life, in a row of its own; the reason of its refusal, or what was handed over.
    fn bring(&mut self, [control, bulk]: [ConnId; 2], life: u64, seq: u64, row: u32) -> Result<u64, u8> {
        self.rows += 1;
        self.shell.feed(bulk, &roster_frame(Lane::Bulk, row, vec![flow("o", life, "m")]));
        self.shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(row, seq, 1, 0)], b"x"));
        let last = self.shell.acks(control).pop().expect("an answer");
        if let [refused] = last.refused[..] {
            return Err(refused.reason);
        }
        let delivery = self.shell.node.poll_delivery(self.shell.now).expect("handed over");
        assert_eq!(delivery.origin_incarnation.0, life);
        Ok(delivery.seq.0)
    }
}

/// A proxy brings what an origin never sent, of a life that it does not live. The origin is told so once, and refused until it says again
/// which one it lives; from then on its own word counts alone, and it may restart all the same.
#[test]
fn a_false_life_of_an_origin_keeps_it_out_no_longer_than_until_it_dials() {
    let stale = Err(RefusedReason::StaleOrigin as u8);
    let mut receiver = Receiver::new();
    let [p, p2] = ["p", "p2"].map(|proxy| receiver.shell.link_in(&Peer::new(proxy)));
    assert_eq!(receiver.bring(p2, 100, 1, 0), Ok(1));
    assert_eq!(receiver.bring(p, FALSE, 1, 0), Ok(1));
    assert_eq!(receiver.bring(p2, 100, 2, 1), stale);
    receiver.tell_o(FALSE);
    let o = receiver.shell.link_in(&Peer::new("o"));
    assert!(o.iter().all(|conn| !receiver.shell.closed.contains_key(conn)), "refused for what a proxy says");
    assert_eq!(receiver.bring(o, 100, 2, 0), Ok(2));
    assert_eq!(receiver.bring(p2, 100, 3, 2), Ok(3), "by proxies as well");
    for life in [FALSE, FALSE + 1] {
        assert_eq!(receiver.bring(p, life, 2, u32::try_from(life - FALSE + 1).unwrap()), stale);
    }
    assert_eq!(receiver.bring(p2, 100, 4, 3), Ok(4));
    // It restarts: proxies are not believed until it said so itself.
    assert_eq!(receiver.bring(p2, 300, 1, 4), stale);
    let o = receiver.shell.link_in(&Peer { life: 300, ..Peer::new("o") });
    assert_eq!(receiver.bring(p2, 300, 1, 5), Ok(1));
    assert_eq!(receiver.bring(p2, 100, 5, 6), stale, "the old one is over");
    assert_eq!(receiver.bring(o, 300, 2, 0), Ok(2));
}

/// Its acks were lost with its link, so it sends again what was delivered, and fills the gap in front of what is held.
#[test]
fn a_false_life_of_an_origin_has_nothing_delivered_twice_and_loses_nothing() {
    let mut receiver = Receiver::new();
    let [p, p2] = ["p", "p2"].map(|proxy| receiver.shell.link_in(&Peer::new(proxy)));
    assert_eq!(receiver.bring(p2, 100, 1, 0), Ok(1));
    receiver.shell.feed(p2[1], &batch_frame(Lane::Bulk, vec![run(0, 3, 1, 2)], b"x"));
    assert_eq!(receiver.shell.acks(p2[0]).pop().expect("an answer").held, [0b10]);
    for life in [FALSE, FALSE + 1] {
        assert_eq!(receiver.bring(p, life, 1, u32::try_from(life - FALSE).unwrap()), Ok(1));
    }
    receiver.tell_o(FALSE + 1);
    let [control, bulk] = receiver.shell.link_in(&Peer::new("o"));
    receiver.shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    receiver.shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"));
    let last = receiver.shell.acks(control).pop().expect("an answer");
    assert_eq!((last.decided, &last.held[..]), (1, &[0b10][..]));
    assert!(receiver.shell.node.poll_delivery(receiver.shell.now).is_none(), "it had that");
    receiver.shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 2, 1, 1)], b"x"));
    let seqs = std::iter::from_fn(|| receiver.shell.node.poll_delivery(receiver.shell.now));
    assert_eq!(seqs.map(|delivery| delivery.seq.0).collect::<Vec<_>>(), [2, 3]);
}

/// It restarted before, which only a proxy said: the life that it lives now is not the first one.
#[test]
fn a_false_life_after_a_true_one_has_nothing_delivered_twice() {
    let mut receiver = Receiver::new();
    let [p, p2] = ["p", "p2"].map(|proxy| receiver.shell.link_in(&Peer::new(proxy)));
    assert_eq!(receiver.bring(p2, 50, 1, 0), Ok(1));
    assert_eq!(receiver.bring(p2, 100, 1, 1), Ok(1));
    assert_eq!(receiver.bring(p, FALSE, 1, 0), Ok(1));
    receiver.tell_o(FALSE);
    let [control, bulk] = receiver.shell.link_in(&Peer::new("o"));
    receiver.shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    receiver.shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"));
    assert_eq!(receiver.shell.acks(control).pop().expect("an answer").decided, 1);
    assert!(receiver.shell.node.poll_delivery(receiver.shell.now).is_none(), "it had that");
}

/// More than are kept. The true one was said by the origin, by another proxy, or by the same one before.
#[test]
fn however_many_false_lives_one_proxy_says_nothing_is_delivered_twice() {
    for (by, linked) in [("o", false), ("p2", false), ("p", true), ("p", false)] {
        let mut receiver = Receiver::new();
        let p = receiver.shell.link_in(&Peer::new("p"));
        let true_one = if by == "p" { p } else { receiver.shell.link_in(&Peer::new(by)) };
        assert_eq!(receiver.bring(true_one, 100, 1, 0), Ok(1));
        if linked {
            receiver.shell.link_in(&Peer::new("o"));
        }
        for (life, row) in (FALSE..FALSE + 6).zip(u32::from(by == "p")..) {
            assert_eq!(receiver.bring(p, life, 1, row), Ok(1));
        }
        receiver.tell_o(FALSE + 5);
        let [control, bulk] = receiver.shell.link_in(&Peer::new("o"));
        receiver.shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
        receiver.shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"x"));
        assert_eq!(receiver.shell.acks(control).pop().expect("an answer").decided, 1);
        assert!(receiver.shell.node.poll_delivery(receiver.shell.now).is_none(), "it had that, by {by}");
    }
}

/// It says a later one whenever the origin dials, and between its connections.
#[test]
fn a_proxy_that_says_ever_later_lives_of_an_origin_keeps_it_out_for_two_dials() {
    let stale = Err(RefusedReason::StaleOrigin as u8);
    let mut receiver = Receiver::new();
    let p = receiver.shell.link_in(&Peer::new("p"));
    assert_eq!(receiver.bring(p, 100, 1, 0), Ok(1));
    for (life, row) in [(FALSE, 1), (FALSE + 1, 2)] {
        assert_eq!(receiver.bring(p, life, 1, row), Ok(1));
    }
    receiver.tell_o(FALSE + 1);
    // It may live that one, and be beyond it by now.
    assert_eq!(receiver.bring(p, FALSE + 2, 1, 3), Ok(1));
    receiver.tell_o(FALSE + 2);
    assert_eq!(receiver.bring(p, FALSE + 3, 1, 4), stale, "it is to say itself which one it lives");
    let control = receiver.shell.connect_in(&Peer::new("o"), Lane::Control, 500);
    assert_eq!(receiver.bring(p, FALSE + 4, 1, 5), stale);
    let bulk = receiver.shell.connect_in(&Peer::new("o"), Lane::Bulk, 500);
    assert_eq!(receiver.bring([control, bulk], 100, 2, 0), Ok(2));
    assert_eq!(receiver.shell.stats().member.false_lives, 1);
}

/// The same of a member, while it is dialled.
#[test]
fn a_proxy_that_says_ever_later_lives_of_a_member_keeps_it_out_for_two_dials() {
    let mut sender = Sender::new();
    let (liar, row, _) = sender.deliver();
    sender.say(liar, entry(row, FALSE, 0));
    sender.submit();
    for _ in 0..2 {
        let (at, row, seq, _) = sender.sent().pop().expect("by a proxy");
        sender.refuse(at, row, (seq, 1), RefusedReason::Unreachable);
    }
    let mut dial = |life| {
        let conns = Lane::ALL.map(|lane| sender.shell.dialed("m", lane));
        sender.say(liar, entry(row, life, 0));
        let welcome = encode(&Peer::new("m").welcome());
        for (conn, lane) in conns.into_iter().zip(Lane::ALL) {
            sender.shell.open_peer(conn, lane);
            let welcome = frame_around(FrameType::Welcome, lane, &welcome);
            sender.shell.feed(conn, &[&PREAMBLE[..], &welcome].concat());
        }
        conns.iter().all(|conn| !sender.shell.closed.contains_key(conn))
    };
    assert!(!dial(FALSE + 1), "it may be the last word of a process that is gone");
    assert!(dial(FALSE + 2), "it was asked again");
    assert_eq!(sender.shell.stats().verdicts["false_life"], 2);
}

/// A link of the origin that is up when a later life is said may be to a process that is gone, and ends; if it is not, it comes back.
#[test]
fn a_link_of_an_origin_ends_when_a_later_life_is_said_and_a_new_one_is_believed() {
    let mut receiver = Receiver::new();
    let p = receiver.shell.link_in(&Peer::new("p"));
    let o = receiver.shell.link_in(&Peer::new("o"));
    assert_eq!(receiver.bring(o, 100, 1, 0), Ok(1));
    assert_eq!(receiver.bring(p, FALSE, 1, 0), Ok(1));
    assert!(o.iter().all(|conn| receiver.shell.closed.contains_key(conn)));
    assert_eq!(receiver.shell.stats().links_ended["peer_life"], 1);
    assert_eq!(receiver.shell.stats().member.false_lives, 0, "nobody knows yet");
    receiver.tell_o(FALSE);
    let o = receiver.shell.link_in(&Peer::new("o"));
    assert_eq!(receiver.bring(o, 100, 2, 0), Ok(2));
    assert_eq!(receiver.rows, 3);
    assert_eq!(receiver.shell.stats().member.false_lives, 1);
}

/// What a node said of itself before a later life was said may be the last word of a process that is gone. It is asked again.
#[test]
fn a_handshake_that_began_before_a_later_life_was_said_refutes_nothing() {
    let mut sender = Sender::new();
    let (liar, row, seq) = sender.send();
    sender.say(liar, entry(row, 100, seq));
    for at in [liar, 1 - liar] {
        if at == liar {
            sender.submit();
        }
        let (at, row, seq, _) = sender.sent().pop().expect("by a proxy");
        sender.refuse(at, row, (seq, 1), RefusedReason::Unreachable);
    }
    let welcome = |lane| frame_around(FrameType::Welcome, lane, &encode(&Peer::new("m").welcome()));
    let conns = Lane::ALL.map(|lane| sender.shell.dialed("m", lane));
    sender.say(liar, entry(0, FALSE, 0));
    for (conn, lane) in conns.into_iter().zip(Lane::ALL) {
        sender.shell.open_peer(conn, lane);
        sender.shell.feed(conn, &[&PREAMBLE[..], &welcome(lane)].concat());
    }
    assert!(conns.iter().all(|conn| sender.shell.closed.contains_key(conn)));
    assert_eq!(sender.shell.stats().verdicts["false_life"], 0);
    sender.link_member();
    assert_eq!(sender.shell.stats().verdicts["false_life"], 2);

    let mut receiver = Receiver::new();
    let p = receiver.shell.link_in(&Peer::new("p"));
    assert_eq!(receiver.bring(p, 100, 1, 0), Ok(1));
    let o = Lane::ALL.map(|lane| {
        let (conn, hello) = (receiver.shell.accept(), encode(&Peer::new("o").hello(lane, 77)));
        receiver.shell.feed(conn, &[&PREAMBLE[..], &frame_around(FrameType::Hello, lane, &hello)].concat());
        let welcomed = receiver.shell.sent(conn);
        let [Received::Welcome(_, welcome)] = &welcomed[..] else { panic!("{welcomed:?}") };
        receiver.shell.open_peer(conn, lane);
        (conn, lane, Confirm { version: WIRE_VERSION, transcript: transcript(&hello, welcome) })
    });
    assert_eq!(receiver.bring(p, FALSE, 1, 1), Ok(1));
    for (conn, lane, confirm) in &o {
        receiver.shell.feed(*conn, &control_frame(FrameType::Confirm, *lane, confirm));
    }
    assert!(o.iter().all(|(conn, ..)| receiver.shell.closed.contains_key(conn)));
    assert_eq!(receiver.bring(p, FALSE, 2, 2), Ok(2), "nothing began anew");
}

/// It refuses whatever it is given as for an earlier life than the one that it names then. The other one would deliver.
#[test]
fn a_proxy_that_names_a_later_life_for_all_that_it_is_sent_is_passed_by() {
    let mut sender = Sender::new();
    let (liar, ..) = sender.deliver();
    sender.submit();
    for life in FALSE..FALSE + 2 {
        let [(at, row, seq, 1)] = sender.sent()[..] else { panic!("one message") };
        assert_eq!(at, liar);
        let refused = vec![refused(seq, 1, RefusedReason::StaleDestination as u8)];
        sender.say(liar, AckFlow { refused, ..entry(row, life, 0) });
    }
    let sent = sender.sent();
    assert!(matches!(sent[..], [(at, _, _, 1)] if at != liar), "{sent:?}");
    sender.pass(100);
    let dials = sender.shell.dials.iter().filter(|(_, peer, _)| *peer == id("m")).count();
    assert_eq!(dials, Lane::ALL.len(), "the member is to say itself");
}

/// The second one may be told by a peer that never heard of the first.
#[test]
fn two_starts_that_are_told_of_the_same_life_take_different_ones() {
    let adopted = [1, 2].map(|seed| {
        let mut shell = Shell::among(topology(0), "o", Settings::default(), seed);
        let control = shell.dialed("p", Lane::Control);
        let refuse = Refuse { code: 8, detail: String::new(), highest_incarnation: Incarnation(1000) };
        let refuse = control_frame(FrameType::Refuse, Lane::Control, &refuse);
        shell.feed(control, &[&PREAMBLE[..], &refuse].concat());
        shell.node.incarnation()
    });
    assert!(adopted.iter().all(|life| life.0 > 1000), "{adopted:?}");
    assert_ne!(adopted[0], adopted[1]);
}
