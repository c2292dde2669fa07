//! Acks as a proxy writes them: merged, and with whatever else goes.

use std::sync::Arc;
use std::time::Duration;

use trunkline_mesh::id::{Datacenter, Lane};
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, Ping, ROOM_UNKNOWN};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::log::lines_of;
use super::shell::{Peer, Shell, ack_frame, batch_frame, cluster, entry, flow, id, roster_frame, run};

/// A proxy that passed one message on to each of two members, its link to the origin and that to the first member.
fn proxy_of_two() -> (Shell, [ConnId; 2], [ConnId; 2]) {
    let mut shell = Shell::new("p");
    let origin = shell.link_in(&Peer::new("o"));
    let [m, _m2] = ["m", "m2"].map(|name| shell.link_out(&Peer::new(name)));
    let flows = vec![flow("o", 100, "m"), flow("o", 100, "m2")];
    shell.feed(origin[1], &roster_frame(Lane::Bulk, 0, flows));
    shell.feed(origin[1], &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0), run(1, 1, 1, 0)], b"x"));
    (shell, origin, m)
}

#[test]
fn an_ack_that_waits_for_company_rides_on_the_next_frame() {
    let (mut shell, origin, m) = proxy_of_two();
    shell.sent(origin[0]);
    shell.feed(m[0], &ack_frame(vec![entry(0, 100, 1)]));
    assert!(shell.sent(origin[0]).is_empty(), "the other member has not answered yet");
    shell.feed(origin[0], &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 9 }));
    let sent = shell.sent(origin[0]);
    assert!(matches!(&sent[..], [Received::Pong(_), Received::Ack(_)]), "{sent:?}");
    shell.advance(Duration::from_millis(10));
    assert!(shell.sent(origin[0]).is_empty(), "it was said once");
}

/// A member without a word of its room is not one with as much of it as its proxy; and what a proxy refuses itself says
/// nothing of the member.
#[test]
fn a_proxy_neither_makes_up_a_members_room_nor_forgets_it() {
    for told in [64, ROOM_UNKNOWN] {
        let (mut shell, origin, m) = proxy_of_two();
        shell.feed(m[0], &ack_frame(vec![AckFlow { room_kib: told, ..entry(0, 100, 1) }]));
        // The ack waits for the other member; meanwhile a run that cannot be is refused here.
        shell.feed(origin[1], &batch_frame(Lane::Bulk, vec![run(0, 5, 1, 6)], b"x"));
        shell.advance(Duration::from_millis(10));
        let acks = shell.acks(origin[0]);
        let said: Vec<_> = acks.iter().map(|ack| (ack.decided, ack.room_kib, ack.refused.len())).collect();
        assert_eq!(said, [(1, told, 1)]);
    }
}

/// A member's window goes back when the origin says a lower floor than a proxy did: the word of before must not outlive that, or the
/// origin takes for decided what is waited for.
#[test]
fn a_member_that_takes_its_word_back_is_passed_on_as_it_says() {
    let (mut shell, origin, m) = proxy_of_two();
    shell.sent(origin[0]);
    for decided in [1 << 60, 2] {
        shell.feed(m[0], &ack_frame(vec![AckFlow { room_kib: 64, ..entry(0, 100, decided) }]));
    }
    // What a proxy refuses itself, and what the member said in an earlier life, is none of that.
    shell.feed(origin[1], &batch_frame(Lane::Bulk, vec![run(0, 5, 1, 6)], b"x"));
    shell.feed(m[0], &ack_frame(vec![AckFlow { room_kib: 64, ..entry(0, 99, 7) }]));
    shell.advance(Duration::from_millis(10));
    let said: Vec<_> = shell.acks(origin[0]).iter().map(|ack| (ack.incarnation.0, ack.decided)).collect();
    assert_eq!(said, [(100, 2)]);
}

/// The member takes nothing from its connection, and one origin sends it all that the proxy takes. Another one finds room, and is told
/// of as much as it has.
#[test]
fn one_origin_leaves_room_for_others_in_a_members_queue() {
    static LONG: [u8; 100 << 10] = [7; 100 << 10];
    let mut shell = Shell::new("p");
    let [one, other] = ["o", "o2"].map(|name| shell.link_in(&Peer::new(name)));
    let m = shell.link_out(&Peer::new("m"));
    shell.unread.insert(m[1]);
    shell.feed(one[1], &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.feed(other[1], &roster_frame(Lane::Bulk, 0, vec![flow("o2", 100, "m")]));
    for seq in 1..=60 {
        shell.feed(one[1], &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], &LONG));
    }
    let max = u64::try_from(Settings::default().member_queue_bytes_max).unwrap();
    let queued = shell.node.status(shell.now).proxy_queue_bytes;
    assert!(queued > max * 3 / 4 && queued <= max * 7 / 8, "{queued} bytes");
    let refused = |shell: &mut Shell, control| -> usize {
        shell.advance(Duration::from_millis(2));
        shell.acks(control).iter().map(|ack| ack.refused.len()).sum()
    };
    assert!(refused(&mut shell, one[0]) > 0);
    for seq in 1..=3 {
        shell.feed(other[1], &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], &LONG));
    }
    assert_eq!(refused(&mut shell, other[0]), 0);
}

/// Members that take nothing fill what a proxy has for all. Each of the others has its equal part of that; one run finds room in any
/// case, and so does what is urgent.
#[test]
fn what_full_queues_leave_of_a_proxys_memory_is_an_equal_part_for_each() {
    static LONG: [u8; 100 << 10] = [7; 100 << 10];
    static HUGE: [u8; 800 << 10] = [7; 800 << 10];
    let max = 2 << 20;
    let settings =
        Settings { member_queue_bytes_max: max, proxy_queue_bytes_max: max, ..Settings::default() };
    let mut shell = Shell::with("p", 1, settings);
    let origins = ["o", "o2"].map(|name| shell.link_in(&Peer::new(name)));
    let names = ["m", "m2", "x0000"];
    let members = names.map(|name| shell.link_out(&Peer::new(name)));
    for (origin, name) in origins.iter().zip(["o", "o2"]) {
        for lane in Lane::ALL {
            let flows = names.map(|member| flow(name, 100, member)).to_vec();
            shell.feed(origin[lane.index()], &roster_frame(lane, 0, flows));
        }
    }
    shell.unread.extend(members.map(|member| member[1]));
    let queued = |shell: &Shell| usize::try_from(shell.node.status(shell.now).proxy_queue_bytes).unwrap();
    let fill = |shell: &mut Shell, row: u32| {
        for (origin, seq) in origins.iter().flat_map(|origin| (1..=40).map(move |seq| (origin, seq))) {
            shell.feed(origin[1], &batch_frame(Lane::Bulk, vec![run(row, seq, 1, 0)], &LONG));
        }
        queued(shell)
    };
    let of_one = fill(&mut shell, 0);
    assert!(of_one > max * 3 / 4 && of_one <= max, "{of_one}");
    // A lane of three members, and nobody who is answered. The second origin has one run, whatever the first one filled.
    let part = max / 6;
    let of_two = fill(&mut shell, 1);
    assert_eq!((of_two - of_one) / LONG.len(), part / LONG.len() + 1);
    // More than a part of it is, to somebody for whom nothing waits.
    shell.feed(origins[0][1], &batch_frame(Lane::Bulk, vec![run(2, 1, 1, 0)], &HUGE));
    assert!(queued(&shell) > of_two + HUGE.len());
    // Bulk is in nobody's way on the other lane.
    shell.sent(members[0][0]);
    shell.feed(origins[0][0], &batch_frame(Lane::Control, vec![run(0, 1, 1, 0)], b"a heartbeat"));
    assert!(shell.sent(members[0][0]).iter().any(|frame| matches!(frame, Received::Batch(..))));
    // What is told of room is what there is of it here: the member says that it has eight MiB.
    shell.advance(Duration::from_millis(10));
    shell.acks(origins[0][0]);
    shell.feed(members[0][0], &ack_frame(vec![AckFlow { lane: 0, room_kib: 8 << 10, ..entry(0, 100, 1) }]));
    shell.advance(Duration::from_millis(10));
    let told: Vec<u32> = shell.acks(origins[0][0]).iter().map(|ack| ack.room_kib).collect();
    assert!(!told.is_empty() && told.iter().all(|room| *room as usize * 1024 <= part), "{told:?}");
    // What was given back makes room.
    let left = queued(&shell) - of_one;
    shell.node.handle_closed(members[0][0], shell.now);
    shell.drain();
    assert_eq!(queued(&shell), left);
}

/// What came over a link that is gone still waits for the member, and is of the same flow as what comes over the next
/// one: who comes back has no other run beyond what all queues may have together.
#[test]
fn a_new_link_is_no_new_room_at_a_full_proxy() {
    static LONG: [u8; 100 << 10] = [7; 100 << 10];
    let max = 2 << 20;
    let settings =
        Settings { member_queue_bytes_max: max, proxy_queue_bytes_max: max, ..Settings::default() };
    let mut shell = Shell::with("p", 0, settings);
    let names = ["m", "m2"];
    for name in names {
        let member = shell.link_out(&Peer::new(name));
        shell.unread.insert(member[1]);
    }
    let come = |shell: &mut Shell, name: &'static str| {
        let origin = shell.link_in(&Peer::new(name));
        let flows = names.map(|member| flow(name, 100, member)).to_vec();
        shell.feed(origin[1], &roster_frame(Lane::Bulk, 0, flows));
        origin
    };
    let queued = |shell: &Shell| usize::try_from(shell.node.status(shell.now).proxy_queue_bytes).unwrap();
    let one = come(&mut shell, "o");
    for (row, seq) in [0, 1].into_iter().flat_map(|row| (1..=40).map(move |seq| (row, seq))) {
        shell.feed(one[1], &batch_frame(Lane::Bulk, vec![run(row, seq, 1, 0)], &LONG));
    }
    let full = queued(&shell);
    assert!(full > max, "{full}");
    for seq in 1..=6 {
        let other = come(&mut shell, "o2");
        shell.feed(other[1], &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], &LONG));
        shell.node.handle_closed(other[1], shell.now);
        shell.drain();
    }
    let more = queued(&shell) - full;
    assert_eq!(more / LONG.len(), 1, "the first of its flow, and no other: {more} bytes");
}

/// The link to it is still there, and the row that stood for the member on it.
#[test]
fn a_proxy_of_where_a_member_stood_before_says_nothing_of_it_any_more() {
    let nodes = |m: &'static str| {
        let (proxy, member) = (Roles::PROXY, Roles::MEMBER);
        cluster(&[
            ("o", "us", Roles::ORIGIN),
            ("p", "eu", proxy),
            ("m2", "eu", member),
            ("q", "ap", proxy),
            ("m3", "ap", member),
            ("m", m, member),
        ])
    };
    let mut shell = Shell::among(nodes("eu"), "o", Settings::default(), 1);
    let [p, _] = shell.link_out(&Peer::new("p"));
    let [q, _] = shell.link_out(&Peer { datacenter: "ap", ..Peer::new("q") });
    let send = |shell: &mut Shell, datacenter: &str| {
        let mut batch = Batch::to(Datacenter::new(datacenter).unwrap());
        batch.push(Message::new(id("m"), vec![7; 10]));
        shell.node.submit(batch, shell.now).unwrap();
        shell.drain();
    };
    let delivered = |shell: &mut Shell| Some(shell.outcome()?.is_delivered());
    send(&mut shell, "eu");
    shell.feed(p, &ack_frame(vec![entry(0, 100, 1)]));
    assert_eq!(delivered(&mut shell), Some(true), "the row is there");

    shell.node.set_topology(Arc::new(nodes("ap")), shell.now).unwrap();
    shell.drain();
    send(&mut shell, "ap");
    let ignored = shell.stats().acks_ignored;
    let lines = lines_of(|| {
        shell.feed(p, &ack_frame(vec![entry(0, 100, 2)]));
    });
    assert_eq!(delivered(&mut shell), None, "it is not the destination's own word");
    assert_eq!(
        (shell.stats().acks_ignored, lines),
        (ignored + 1, Vec::new()),
        "and nobody is to blame for it"
    );
    shell.feed(q, &ack_frame(vec![entry(0, 100, 2)]));
    assert_eq!(delivered(&mut shell), Some(true), "by a proxy of where it stands");
}

/// Whatever a member says that it has room for, more than the queue to it takes is no use to an origin: it would cross for nothing.
#[test]
fn a_member_with_much_room_behind_a_full_queue_has_as_much_as_the_queue() {
    static LONG: [u8; 100 << 10] = [7; 100 << 10];
    let mut shell = Shell::new("p");
    let [one, other] = ["o", "o2"].map(|name| shell.link_in(&Peer::new(name)));
    let m = shell.link_out(&Peer::new("m"));
    shell.feed(one[1], &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.feed(other[1], &roster_frame(Lane::Bulk, 0, vec![flow("o2", 100, "m")]));
    let told = |shell: &mut Shell, decided: u64| {
        let seq = decided;
        shell.feed(one[1], &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], b"x"));
        shell.feed(m[0], &ack_frame(vec![AckFlow { room_kib: 8 << 10, ..entry(0, 100, decided) }]));
        shell.advance(Duration::from_millis(2));
        let acks = shell.acks(one[0]);
        let last = acks.last().expect("passed back");
        assert_eq!(last.decided, decided);
        usize::try_from(last.room_kib).unwrap() << 10
    };
    let max = Settings::default().member_queue_bytes_max;
    let empty = told(&mut shell, 1);
    assert!(empty > max / 2 && empty <= max, "{empty} bytes where nothing waits");

    shell.unread.insert(m[1]);
    for seq in 1..=60 {
        shell.feed(other[1], &batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], &LONG));
    }
    let queued = usize::try_from(shell.node.status(shell.now).proxy_queue_bytes).unwrap();
    assert!(queued > max * 3 / 4, "{queued} bytes");
    let left = told(&mut shell, 1);
    assert!(left <= max - queued, "{left} bytes, and {queued} of {max} are taken");
}
