//! The way back under hostile peers: a proxy speaks for its own datacenter only, where it is asked, and passes on only what its
//! own members say of themselves.

use std::time::Duration;

use trunkline_mesh::id::{Datacenter, Lane};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, FEATURE_BACK, Ping, RefusedReason, Run};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::shell::{
    FRAME_BYTES_MAX, Peer, Shell, ack_frame, batch_frame, cluster, entry, flow, id, refused, roster_frame,
    run,
};

const VOTER: Roles = Roles { origin: true, member: true, proxy: false };
const ORIGIN_PROXY: Roles = Roles { origin: true, member: false, proxy: true };

fn shell(name: &str) -> Shell {
    let nodes = [
        ("leader", "us", VOTER),
        ("u2", "us", VOTER),
        ("u3", "us", VOTER),
        ("up", "us", Roles::PROXY),
        ("up2", "us", Roles::PROXY),
        ("p", "eu", Roles::PROXY),
        ("eop", "eu", ORIGIN_PROXY),
        ("e1", "eu", VOTER),
        ("e2", "eu", VOTER),
        ("a1", "ap", VOTER),
    ];
    Shell::among(cluster(&nodes), name, Settings::default(), 1)
}

fn peer(name: &'static str, datacenter: &'static str) -> Peer {
    Peer { datacenter, features: FEATURE_BACK, ..Peer::new(name) }
}

/// A link over which something comes: control and bulk, rows announced so far.
struct Says([ConnId; 2], u32);

/// Says one message of a flow, each in a row of its own; gives the reasons of refusals.
fn say(shell: &mut Shell, Says(conns, rows): &mut Says, origin: &str, to: &str) -> Vec<u8> {
    let [control, bulk] = *conns;
    shell.feed(bulk, &roster_frame(Lane::Bulk, *rows, vec![flow(origin, 100, to)]));
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(*rows, 1, 1, 0)], b"said"));
    *rows += 1;
    shell.advance(Duration::from_millis(2));
    shell.acks(control).iter().flat_map(|entry| &entry.refused).map(|range| range.reason).collect()
}

/// A message to each of these voters elsewhere.
fn submit(shell: &mut Shell, to: &[&str]) {
    shell.submit("us", to, Duration::from_secs(600));
}

/// The runs that went over a connection since it was asked last.
fn runs(shell: &mut Shell, conn: ConnId) -> Vec<Run> {
    let runs = |received| match received {
        Received::Batch(envelope, _) => envelope.runs,
        _ => Vec::new(),
    };
    shell.sent(conn).into_iter().flat_map(runs).collect()
}

/// Refuses a run.
fn refuse(shell: &mut Shell, control: ConnId, run: &Run, reason: RefusedReason) {
    let refused = vec![refused(run.first.0, run.count, reason as u8)];
    shell.feed(control, &ack_frame(vec![AckFlow { refused, ..entry(run.flow, 0, 0) }]));
}

/// Lets time pass, in which nobody can be dialled and those who are linked live.
fn pass(shell: &mut Shell, ms: u64, links: &[[ConnId; 2]]) {
    shell.advance(Duration::from_millis(ms));
    for (conn, ..) in std::mem::take(&mut shell.dials) {
        shell.node.handle_dial_failed(conn, shell.now);
    }
    shell.drain();
    for [control, _] in links {
        shell.feed(*control, &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 9 }));
    }
}

const NOT_SERVED: u8 = RefusedReason::NotServed as u8;
const TOO_LARGE: u8 = RefusedReason::TooLarge as u8;

#[test]
fn a_proxy_speaks_for_nobody_outside_of_its_datacenter_and_only_where_it_is_asked() {
    let mut leader = shell("leader");
    let mut asked = Says(leader.link_out(&peer("p", "eu")), 0);
    assert_eq!(say(&mut leader, &mut asked, "a1", "leader"), [NOT_SERVED], "of another datacenter");
    assert_eq!(say(&mut leader, &mut asked, "u2", "leader"), [NOT_SERVED], "of the leader's own");
    assert_eq!(say(&mut leader, &mut asked, "leader", "leader"), [NOT_SERVED], "of itself");
    assert_eq!(say(&mut leader, &mut asked, "p", "leader"), [NOT_SERVED], "a proxy that is no origin");
    assert_eq!(say(&mut leader, &mut asked, "e1", "u2"), [NOT_SERVED], "to somebody else");
    assert!(leader.node.poll_delivery(leader.now).is_none(), "none of it was taken");
    assert_eq!(say(&mut leader, &mut asked, "e1", "leader"), [], "of its own datacenter");
    let said = leader.node.poll_delivery(leader.now).expect("taken");
    assert_eq!(said.origin, id("e1"));

    // Nobody asked this one: it dialled.
    let mut unasked = Says(leader.link_in(&peer("eop", "eu")), 0);
    assert_eq!(say(&mut leader, &mut unasked, "e2", "leader"), [NOT_SERVED]);
    assert_eq!(say(&mut leader, &mut unasked, "eop", "leader"), [], "what it sends itself is its own affair");
    // This one was asked, and the feature was not agreed on.
    let mut old = Says(leader.link_out(&Peer { features: 0, ..peer("eop", "eu") }), 0);
    assert_eq!(say(&mut leader, &mut old, "e2", "leader"), [NOT_SERVED]);
}

#[test]
fn a_proxy_passes_back_only_what_its_own_members_say_of_themselves() {
    let mut proxy = shell("p");
    let mut e1 = Says(proxy.link_out(&peer("e1", "eu")), 0);
    assert_eq!(say(&mut proxy, &mut e1, "e1", "leader"), [NOT_SERVED], "the leader did not dial");
    let [control, bulk] = proxy.link_in(&peer("leader", "us"));
    let mut a1 = Says(proxy.link_in(&peer("a1", "ap")), 0);
    assert_eq!(say(&mut proxy, &mut e1, "e2", "leader"), [NOT_SERVED], "as another member");
    assert_eq!(say(&mut proxy, &mut e1, "e1", "u2"), [NOT_SERVED], "to one that did not dial");
    assert_eq!(say(&mut proxy, &mut a1, "a1", "leader"), [NOT_SERVED], "from a third datacenter: one hop");
    let batches = |shell: &mut Shell| {
        let batch = |frame| match frame {
            Received::Batch(envelope, _) => Some(envelope.runs.len()),
            _ => None,
        };
        shell.sent(bulk).into_iter().filter_map(batch).collect::<Vec<_>>()
    };
    assert_eq!(batches(&mut proxy), [] as [usize; 0]);
    assert_eq!(say(&mut proxy, &mut e1, "e1", "leader"), []);
    assert_eq!(batches(&mut proxy), [1], "its own");
    // The leader's word comes back to whom it is about.
    proxy.feed(control, &ack_frame(vec![entry(0, 100, 1)]));
    proxy.advance(Duration::from_millis(2));
    let acks = proxy.acks(e1.0[0]);
    assert_eq!(acks.iter().map(|entry| (entry.flow, entry.decided)).collect::<Vec<_>>(), [(3, 1)]);
    // A leader that does not know of answers gets none.
    proxy.link_in(&Peer { features: 0, life: 101, ..peer("leader", "us") });
    assert_eq!(say(&mut proxy, &mut e1, "e1", "leader"), [NOT_SERVED]);
}

/// An origin that becomes a member restarts, and who linked it already hears of that later: from then on answers go there.
#[test]
fn an_origin_that_becomes_a_member_while_it_is_linked_is_given_the_way_back() {
    let nodes = |leader| [("leader", "us", leader), ("p", "eu", Roles::PROXY), ("e1", "eu", VOTER)];
    let mut proxy = Shell::among(cluster(&nodes(Roles::ORIGIN)), "p", Settings::default(), 1);
    let mut e1 = Says(proxy.link_out(&peer("e1", "eu")), 0);
    let [_, bulk] = proxy.link_in(&peer("leader", "us"));
    assert_eq!(say(&mut proxy, &mut e1, "e1", "leader"), [NOT_SERVED], "it is no member");
    proxy.node.set_topology(cluster(&nodes(VOTER)).into(), proxy.now).unwrap();
    proxy.drain();
    assert_eq!(say(&mut proxy, &mut e1, "e1", "leader"), []);
    let batches = proxy.sent(bulk).into_iter().filter(|one| matches!(one, Received::Batch(..))).count();
    assert_eq!(batches, 1);
}

/// The proxy is full, or knows no way, and the destination is not at fault: nothing waits for it.
#[test]
fn what_is_refused_on_the_way_back_goes_another_way_at_once() {
    for reason in [RefusedReason::QueueFull, RefusedReason::Unreachable, RefusedReason::NotServed] {
        let mut member = shell("e1");
        let [_, straight] = member.link_out(&peer("up", "us"));
        let [control, bulk] = member.link_in(&peer("p", "eu"));
        member.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("leader", 100, "e1")]));
        member.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"asks"));
        let mut batch = Batch::to(Datacenter::new("us").unwrap());
        batch.push(Message::new(id("leader"), b"answers".to_vec()));
        member.node.submit(batch, member.now).unwrap();
        member.drain();
        let batches = |shell: &mut Shell, conn| {
            shell.sent(conn).into_iter().filter(|one| matches!(one, Received::Batch(..))).count()
        };
        assert_eq!((batches(&mut member, bulk), batches(&mut member, straight)), (1, 0), "{reason:?}");
        let refused = vec![refused(1, 1, reason as u8)];
        member.feed(control, &ack_frame(vec![AckFlow { refused, ..entry(0, 0, 0) }]));
        assert_eq!((batches(&mut member, bulk), batches(&mut member, straight)), (0, 1), "{reason:?}");
    }
}

/// Bytes for an origin that reads nothing are as bounded as those for a member.
#[test]
fn answers_for_an_origin_that_reads_nothing_are_bounded_and_refused() {
    let mut proxy = shell("p");
    let [control, bulk] = proxy.link_out(&peer("e1", "eu"));
    let [_, leader] = proxy.link_in(&peer("leader", "us"));
    proxy.unread.insert(leader);
    proxy.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("e1", 100, "leader")]));
    static LONG: [u8; 100 << 10] = [7; 100 << 10];
    for seq in 1..=10 {
        proxy.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], &LONG));
    }
    let part = u64::try_from(Settings::default().member_queue_bytes_max).unwrap() / 8;
    let held = proxy.node.status(proxy.now).proxy_queue_bytes;
    assert!(held > part / 2 && held <= part, "{held} bytes");
    proxy.advance(Duration::from_millis(2));
    let refused = |proxy: &mut Shell, control| -> Vec<u8> {
        proxy.acks(control).iter().flat_map(|entry| &entry.refused).map(|range| range.reason).collect()
    };
    assert_eq!(refused(&mut proxy, control), [RefusedReason::QueueFull as u8; 5]);
    // What one member poured in keeps no other one out.
    let [control_2, bulk_2] = proxy.link_out(&peer("e2", "eu"));
    proxy.feed(bulk_2, &roster_frame(Lane::Bulk, 0, vec![flow("e2", 100, "leader")]));
    proxy.feed(bulk_2, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], &LONG));
    proxy.advance(Duration::from_millis(2));
    assert_eq!(refused(&mut proxy, control_2), []);
    // All of it is given back when the origin is gone.
    proxy.node.handle_closed(leader, proxy.now);
    proxy.advance(Duration::from_millis(20));
    assert_eq!(proxy.node.status(proxy.now).proxy_queue_bytes, 0);
    let back: u32 =
        proxy.acks(control).iter().flat_map(|entry| &entry.refused).map(|range| range.count).sum();
    assert!(back >= 3, "{back} given back");
}

/// What is too late leaves the queue without making room for what follows it: that may be too long for the same frame.
#[test]
fn a_late_answer_before_a_long_one_makes_no_frame_too_long() {
    let mut proxy = shell("p");
    let [_, bulk] = proxy.link_out(&peer("e1", "eu"));
    let frame_bytes_max = 400 << 10;
    let [_, leader] = proxy.link_in(&Peer { frame_bytes_max, ..peer("leader", "us") });
    proxy.unread.insert(leader);
    proxy.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("e1", 100, "leader")]));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut noise = |bytes: usize| -> &'static [u8] {
        Vec::leak(std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect())
    };
    let runs = [(run(0, 1, 1, 0), noise(200 << 10)), (run(0, 3, 1, 0), noise(250 << 10))];
    let late = trunkline_mesh::proto::wire::Run { deadline_ms: 1, ..run(0, 2, 1, 0) };
    proxy.feed(bulk, &batch_frame(Lane::Bulk, vec![runs[0].0], runs[0].1));
    proxy.feed(bulk, &batch_frame(Lane::Bulk, vec![late], b"."));
    proxy.feed(bulk, &batch_frame(Lane::Bulk, vec![runs[1].0], runs[1].1));
    proxy.advance(Duration::from_millis(5));
    proxy.unread.remove(&leader);
    proxy.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 4, 1, 0)], b"last"));
    proxy.advance(Duration::from_millis(5));
    let brought: Vec<usize> = proxy
        .sent(leader)
        .into_iter()
        .filter_map(|received| match received {
            Received::Batch(envelope, _) => Some(envelope.runs.len()),
            _ => None,
        })
        .collect();
    assert_eq!(brought, [1, 2]);
    assert!(!proxy.closed.contains_key(&leader));
}

/// What it takes it says once per connection, and may say two things.
#[test]
fn an_origin_that_names_a_limit_per_lane_is_held_to_the_smaller_one() {
    let (small, large) = (64 * 1024 + 500, FRAME_BYTES_MAX);
    for limits in [[small, large], [large, small]] {
        let mut proxy = shell("p");
        let e1 = proxy.link_out(&peer("e1", "eu"));
        let named = |lane: Lane| Peer { frame_bytes_max: limits[lane.index()], ..peer("leader", "us") };
        let leader = Lane::ALL.map(|lane| proxy.connect_in(&named(lane), lane, 7));
        for (lane, conn) in Lane::ALL.into_iter().zip(e1) {
            proxy.feed(conn, &roster_frame(lane, 0, vec![flow("e1", 100, "leader")]));
            proxy.feed(conn, &batch_frame(lane, vec![run(0, 1, 1, 0)], &[7; 501]));
            proxy.advance(Duration::from_millis(5));
            let refused: Vec<_> = proxy.acks(e1[0]).into_iter().flat_map(|entry| entry.refused).collect();
            assert_eq!(refused.iter().map(|range| range.reason).collect::<Vec<_>>(), [TOO_LARGE]);
        }
        assert!(leader.iter().all(|conn| !proxy.closed.contains_key(conn)));
    }
}

/// A member has no way to the leader but the way back, and that was down for a minute.
#[test]
fn the_only_way_back_is_taken_soon_after_an_outage() {
    let mut member = shell("e1");
    let link @ [control, bulk] = member.link_in(&peer("p", "eu"));
    member.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("leader", 100, "e1")]));
    member.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"asks"));
    submit(&mut member, &["leader"]);
    for _ in 0..600 {
        for run in runs(&mut member, bulk) {
            refuse(&mut member, control, &run, RefusedReason::Unreachable);
        }
        pass(&mut member, 100, &[link]);
    }
    // It works again. The longest pause of a way that is needed is 2 s.
    let mut waited = 0;
    while runs(&mut member, bulk).is_empty() {
        pass(&mut member, 100, &[link]);
        waited += 100;
        assert!(waited <= 2_000, "longer than 2 s");
    }
}

/// A proxy whose trial is under way is nobody's way meanwhile: what the other one refuses goes back.
#[test]
fn a_proxy_on_trial_keeps_nothing_from_the_last_way() {
    let mut e1 = shell("e1");
    let ups = ["up", "up2"].map(|name| e1.link_out(&peer(name, "us")));
    let [p, leader] = [peer("p", "eu"), peer("leader", "us")].map(|peer| e1.link_in(&peer));
    let all = [ups[0], ups[1], p, leader];
    // By the proxy first, and by itself last.
    for (seq, conns) in (1..).zip([p, leader]) {
        e1.feed(conns[1], &roster_frame(Lane::Bulk, 0, vec![flow("leader", 100, "e1")]));
        e1.feed(conns[1], &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], b"asks"));
    }
    submit(&mut e1, &["u2", "u3"]);
    let silent = usize::from(runs(&mut e1, ups[0][1]).is_empty());
    let other = ups[1 - silent];
    while e1.stats().verdicts["proxy"] == 0 || e1.outcome().is_none() {
        pass(&mut e1, 20, &all);
        for run in runs(&mut e1, other[1]) {
            let decided = run.first.0 + u64::from(run.count) - 1;
            e1.feed(other[0], &ack_frame(vec![entry(run.flow, 100, decided)]));
        }
    }
    // Its snooze takes 1 s.
    (0..60).for_each(|_| pass(&mut e1, 20, &all));
    runs(&mut e1, ups[silent][1]);
    submit(&mut e1, &["u2"]);
    assert_eq!(runs(&mut e1, ups[silent][1]).len(), 1, "its trial");
    submit(&mut e1, &["leader"]);
    let refused = runs(&mut e1, other[1]);
    assert_eq!(refused.len(), 1);
    refuse(&mut e1, other[0], &refused[0], RefusedReason::Unreachable);
    assert_eq!(runs(&mut e1, p[1]).len(), 1, "at once");
}

/// The proxy of the way back says so of all that it is given, as if it were the destination's word.
#[test]
fn a_proxy_of_the_way_back_that_calls_a_destination_full_for_ever_is_passed_by() {
    let mut member = shell("e1");
    let up = member.link_out(&peer("up", "us"));
    let back = member.link_in(&peer("p", "eu"));
    member.feed(back[1], &roster_frame(Lane::Bulk, 0, vec![flow("leader", 100, "e1")]));
    member.feed(back[1], &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0)], b"asks"));
    submit(&mut member, &["leader"]);
    // It is doubted after 1 s, and asked every half a second at least.
    let mut waited = 0;
    while runs(&mut member, up[1]).is_empty() {
        for run in runs(&mut member, back[1]) {
            refuse(&mut member, back[0], &run, RefusedReason::InboxFull);
        }
        pass(&mut member, 100, &[up, back]);
        waited += 100;
        assert!(waited <= 2_000, "nobody else is asked");
    }
}
