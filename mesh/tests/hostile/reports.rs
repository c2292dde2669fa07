//! Members, and proxies, that report of other proxies what is not true: what one of them says changes little, and what
//! several say changes no more than half.

use std::time::Duration;

use bytes::Bytes;
use trunkline_mesh::id::{Datacenter, Lane, NodeId};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, PASSED, RefusedReason};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::stats::RouteStatus;
use trunkline_mesh::stats::decision::Verdict;
use trunkline_mesh::topology::Roles;

use super::shell::{Peer, Shell, ack_frame, cluster, entry, id, refused};

const PROXIES: [&str; 3] = ["p", "p2", "p3"];
const MEMBERS: [&str; 4] = ["m", "m2", "m3", "m4"];

/// A sender, linked to the three proxies of a datacenter.
struct Sender {
    shell: Shell,
    conns: [[ConnId; 2]; 3],
    /// Per proxy, whose rows its connection has.
    rows: [Vec<NodeId>; 3],
}

impl Sender {
    fn new() -> Self {
        let mut nodes = vec![("o", "us", Roles::ORIGIN)];
        nodes.extend(PROXIES.map(|proxy| (proxy, "eu", Roles::PROXY)));
        nodes.extend(MEMBERS.map(|member| (member, "eu", Roles::MEMBER)));
        let mut shell = Shell::among(cluster(&nodes), "o", Settings::default(), 1);
        let conns = PROXIES.map(|proxy| shell.link_out(&Peer::new(proxy)));
        Self { shell, conns, rows: [const { Vec::new() }; 3] }
    }

    /// Sends one message; the proxy that it went by, or `None` if by none.
    fn send(&mut self, to: &str) -> Option<usize> {
        self.shell.submit("eu", &[to], Duration::from_secs(600));
        let sent: Vec<u32> = (0..3).map(|proxy| self.read(proxy)).collect();
        sent.iter().position(|count| *count > 0)
    }

    /// Messages that went by a proxy since this was asked last.
    fn read(&mut self, proxy: usize) -> u32 {
        let mut messages = 0;
        for received in self.shell.sent(self.conns[proxy][1]) {
            match received {
                Received::Roster(roster) => {
                    self.rows[proxy].extend(roster.flows.into_iter().map(|flow| flow.destination));
                }
                Received::Batch(envelope, _) => {
                    messages += envelope.runs.iter().map(|run| run.count).sum::<u32>()
                }
                _ => {}
            }
        }
        messages
    }

    /// By a proxy comes what a member says, or what the proxy makes of it.
    fn say(&mut self, proxy: usize, member: &str, decided: u64, refusals: &[(u64, u8)]) {
        let row =
            self.rows[proxy].iter().position(|of| *of == id(member)).expect("it was sent to by this way");
        let refused = refusals.iter().map(|(seq, reason)| refused(*seq, 1, *reason)).collect();
        let entry = AckFlow { refused, ..entry(u32::try_from(row).unwrap(), 100, decided) };
        self.shell.feed(self.conns[proxy][0], &ack_frame(vec![entry]));
    }

    /// A member has a message by whatever proxy it goes, and then says by the same one that it never had it. Gives the proxy.
    fn have_and_deny(&mut self, member: &str, seq: u64) -> usize {
        let proxy = self.send(member).expect("by a proxy");
        self.say(proxy, member, seq, &[]);
        self.say(proxy, member, seq, &[(seq, PASSED)]);
        proxy
    }

    fn routes(&self) -> Vec<RouteStatus> {
        let rows = self.shell.node.status(self.shell.now).datacenters;
        rows.into_iter().find(|row| row.name.as_str() == "eu").unwrap().routes
    }

    fn states(&self) -> Vec<&'static str> {
        self.routes().iter().map(|route| route.state).collect()
    }

    fn verdicts(&self, wanted: &str) -> Vec<Verdict> {
        let rows = self.shell.node.routes(self.shell.now).datacenters;
        let row = rows.into_iter().find(|row| row.status.name.as_str() == "eu").unwrap();
        row.verdicts.into_iter().filter(|verdict| verdict.verdict == wanted).collect()
    }

    fn counted(&self, verdict: &str) -> u64 {
        self.shell.stats().verdicts[verdict]
    }

    fn dials(&mut self, name: &str) -> bool {
        self.shell.advance(Duration::from_millis(1));
        self.shell.dials.iter().any(|(_, peer, _)| *peer == id(name))
    }
}

#[test]
fn a_member_that_denies_what_it_had_by_every_proxy_goes_direct_and_the_others_do_not() {
    let mut sender = Sender::new();
    let mut denied: Vec<usize> = (1..=3).map(|seq| sender.have_and_deny("m", seq)).collect();
    assert_eq!((sender.counted("false_ack"), sender.counted("ejected"), sender.counted("capped")), (3, 0, 0));
    assert_eq!(sender.send("m"), None, "by no proxy any more");
    assert!(sender.dials("m"), "directly");
    for member in ["m2", "m3", "m4"] {
        let proxy = sender.send(member).expect("by a proxy");
        sender.say(proxy, member, 1, &[]);
        assert!(!sender.dials(member));
    }
    assert_eq!(sender.states(), ["up"; 3]);
    assert!(sender.routes().iter().all(|route| route.reported_by == [id("m")] && route.failures == 0));
    let told = sender.verdicts("false_ack");
    assert!(told.iter().all(|of| of.destination == Some(id("m")) && of.reported_by == [id("m")]), "{told:?}");
    denied.sort_unstable();
    assert_eq!(denied, [0, 1, 2]);
    assert_eq!(sender.shell.stats().false_acks, 3);
}

/// What it acknowledged long ago it can deny piece by piece: that is counted, and is no news.
#[test]
fn one_denial_after_the_other_says_nothing_new() {
    let mut sender = Sender::new();
    for seq in 1..=20 {
        let proxy = sender.send("m").unwrap();
        sender.say(proxy, "m", seq, &[]);
    }
    // By a way that still counts, for the proxy's own does not.
    let first = sender.send("m").unwrap();
    sender.say(first, "m", 20, &[(21, RefusedReason::NotServed as u8)]);
    let second = (0..3).find(|proxy| sender.read(*proxy) > 0).expect("by the next one");
    for seq in 1..=20 {
        sender.say(second, "m", 20, &[(seq, PASSED)]);
    }
    assert_eq!((sender.counted("false_ack"), sender.shell.stats().false_acks), (1, 20));
    let told = sender.verdicts("false_ack");
    assert_eq!(told[0].proxy, Some(id(PROXIES[first])));
    assert_eq!(told[0].carried_by, Some(id(PROXIES[second])), "who may have made it up");
}

#[test]
fn two_members_eject_a_proxy_and_no_more_than_half_of_them() {
    let mut sender = Sender::new();
    let first = sender.have_and_deny("m", 1);
    assert_eq!(sender.send("m2"), Some(first), "m alone leaves it");
    sender.say(first, "m2", 1, &[]);
    sender.say(first, "m2", 1, &[(1, PASSED)]);
    assert_eq!(sender.states()[first], "ejected");
    let ejected = sender.verdicts("ejected");
    assert_eq!((ejected.len(), ejected[0].proxy.clone()), (1, Some(id(PROXIES[first]))));
    assert_eq!(ejected[0].reported_by, [id("m"), id("m2")]);
    assert_ne!(sender.send("m3"), Some(first), "all leave it");
    // One of three is as many as may be: the other two are left by who reports them, and by nobody else.
    let second = sender.have_and_deny("m", 2);
    assert_eq!(sender.have_and_deny("m2", 2), second);
    let third = sender.have_and_deny("m", 3);
    assert_eq!(sender.have_and_deny("m2", 3), third);
    assert_eq!((sender.counted("ejected"), sender.counted("capped")), (1, 2));
    assert_eq!(sender.states().iter().filter(|state| **state == "up").count(), 2);
    assert!(sender.send("m4").is_some() && !sender.dials("m4") && !sender.dials("m3"));
    // It ends, and takes two again.
    sender.shell.advance(Duration::from_secs(59));
    assert_eq!(sender.states()[first], "ejected");
    sender.shell.advance(Duration::from_secs(2));
    assert_eq!(sender.states()[first], "up");
}

/// A proxy can say whatever it likes in the name of every member. It gets half of the others ejected and is the only one
/// that is left to them; then they are asked directly what it did.
#[test]
fn a_proxy_that_reports_all_others_falsely_is_audited_over_the_links_of_the_members() {
    let mut sender = Sender::new();
    let refusal = |seq| [(seq, RefusedReason::NotServed as u8)];
    // What the one in use delivered is denied by the next one, which is the liar.
    let mut liar = None;
    let mut honest = Vec::new();
    for member in ["m", "m2"] {
        let first = sender.send(member).expect("by a proxy");
        sender.say(first, member, 1, &[]);
        sender.send(member);
        sender.say(first, member, 1, &refusal(2));
        let next = (0..3).find(|proxy| sender.read(*proxy) > 0).expect("by another one");
        assert_eq!(next, *liar.get_or_insert(next));
        sender.say(next, member, 2, &[(1, PASSED)]);
        honest.push(first);
    }
    let (liar, first) = (liar.unwrap(), honest[0]);
    assert_eq!((honest, sender.states()[first]), (vec![first, first], "ejected"));
    // The same of the third.
    let third = 3 - liar - first;
    for member in ["m", "m2"] {
        let mut by = sender.send(member).expect("by a proxy");
        if by == liar {
            sender.say(liar, member, 2, &refusal(3));
            assert!(sender.read(third) > 0);
            by = third;
        }
        assert_eq!(by, third);
        sender.say(third, member, 3, &[]);
        sender.shell.advance(Duration::from_millis(300));
        if sender.send(member) == Some(third) {
            sender.say(third, member, 3, &refusal(4));
            sender.read(liar);
        }
        sender.say(liar, member, 4, &[(3, PASSED)]);
    }
    assert_eq!((sender.counted("ejected"), sender.counted("capped")), (1, 1), "half of three");
    assert_eq!(sender.states()[third], "up");
    // Now it acknowledges what it keeps.
    assert_eq!(sender.send("m"), Some(liar));
    sender.say(liar, "m", 5, &[]);
    assert!(!sender.dials("m"));
    // In one step, or peers that answer no pings would be taken for dead.
    sender.shell.advance(Duration::from_secs(11));
    let [control, bulk] = sender.shell.link_out(&Peer::new("m"));
    let empty = sender.shell.sent(bulk).into_iter().filter_map(|received| match received {
        Received::Batch(envelope, _) => Some(envelope.runs),
        _ => None,
    });
    let empty: Vec<_> = empty.flatten().collect();
    assert!(
        matches!(empty[..], [of] if of.count == 0 && of.floor().is_some_and(|floor| floor.0 == 6)),
        "{empty:?}"
    );
    let told = AckFlow { refused: vec![refused(5, 1, PASSED)], ..entry(0, 100, 5) };
    sender.shell.feed(control, &ack_frame(vec![told]));
    let verdict = sender.verdicts("false_ack").remove(0);
    assert_eq!((verdict.proxy, verdict.carried_by), (Some(id(PROXIES[liar])), None), "by its own word");
    assert_eq!(sender.send("m"), None, "directly");
}

/// Both lanes of a member are one destination.
#[test]
fn two_lanes_of_one_member_are_one_report() {
    let mut sender = Sender::new();
    let proxy = sender.have_and_deny("m", 1);
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.push(Message::new(id("m"), Bytes::from_static(b"x")).lane(Lane::Control));
    sender.shell.node.submit(batch, sender.shell.now).unwrap();
    sender.shell.drain();
    let [control, _] = sender.conns[proxy];
    let batches =
        sender.shell.sent(control).into_iter().filter(|of| matches!(of, Received::Batch(..))).count();
    assert_eq!(batches, 0, "the other lane leaves it as well");
    assert_eq!(sender.counted("ejected"), 0);
}
