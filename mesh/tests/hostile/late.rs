//! What is late, given up or gone: it costs others nothing, and nothing waits for it for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trunkline_mesh::id::{Datacenter, Lane};
use trunkline_mesh::message::{Batch, FailReason, Message, Outcome};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, Pong, RefusedReason, Run};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::shell::{
    Peer, Shell, ack_frame, batch_frame, cluster, entry, flow, id, refused, roster_frame, run, topology,
};

/// A leader, and two datacenters with a proxy and a member each.
fn two_datacenters() -> Shell {
    let nodes = [
        ("o", "us", Roles::ORIGIN),
        ("p", "eu", Roles::PROXY),
        ("m", "eu", Roles::MEMBER),
        ("q", "ap", Roles::PROXY),
        ("n", "ap", Roles::MEMBER),
    ];
    Shell::among(cluster(&nodes), "o", impatient(), 1)
}

/// Nothing is late for longer than this; round trips to these peers look long.
fn impatient() -> Settings {
    Settings { attempt_timeout_max: Duration::from_millis(100), ..Settings::default() }
}

fn submit(shell: &mut Shell, datacenter: &str, to: &str, sizes: &[usize]) {
    let mut batch = Batch::to(Datacenter::new(datacenter).unwrap());
    // Noise: what is sent again is charged as it is on the wire.
    let mut rng = fastrand::Rng::with_seed(1);
    batch.extend(sizes.iter().map(|size| {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(*size).collect();
        Message::new(id(to), Bytes::from(bytes)).deadline(Duration::from_secs(60))
    }));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
}

/// Lets time pass in small steps: a node that rings late is lenient.
fn pass(shell: &mut Shell, ms: u64) {
    for _ in 0..ms.div_ceil(10) {
        shell.advance(Duration::from_millis(10));
    }
}

/// Messages that were sent over a connection since the last call.
fn messages(shell: &mut Shell, conn: ConnId) -> u32 {
    let count = |received| match received {
        Received::Batch(envelope, _) => envelope.runs.iter().map(|run| run.count).sum(),
        _ => 0,
    };
    shell.sent(conn).into_iter().map(count).sum()
}

/// What one datacenter must send again is its own affair.
#[test]
fn a_datacenter_that_is_late_leaves_the_others_their_share_of_resends() {
    let mut shell = two_datacenters();
    let [_, to_eu] = shell.link_out(&Peer::new("p"));
    let [_, to_ap] = shell.link_out(&Peer { datacenter: "ap", ..Peer::new("q") });
    submit(&mut shell, "eu", "m", &[1 << 20; 3]);
    assert_eq!(messages(&mut shell, to_eu), 3);
    // Nobody answers: one after the other it goes again, which is far more than the share.
    pass(&mut shell, 1_000);
    assert!(messages(&mut shell, to_eu) > 0, "again");
    submit(&mut shell, "ap", "n", &[1000]);
    assert_eq!(messages(&mut shell, to_ap), 1);
    let mut waited = Duration::ZERO;
    while messages(&mut shell, to_ap) == 0 {
        waited += Duration::from_millis(50);
        assert!(waited < Duration::from_secs(1), "the other datacenter's late messages are in its way");
        pass(&mut shell, 50);
    }
}

/// Both lanes have something late, each of more than the share, and their connections are ready at one time.
#[test]
fn what_one_connection_is_about_to_send_again_another_does_not_count_on() {
    let mut shell = two_datacenters();
    let conns = shell.link_out(&Peer::new("p"));
    for lane in Lane::ALL {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        let bytes = Bytes::from(vec![1; 600 * 1024]);
        batch.push(Message::new(id("m"), bytes).lane(lane).deadline(Duration::from_secs(60)));
        shell.node.submit(batch, shell.now).unwrap();
        shell.drain();
    }
    assert_eq!(conns.map(|conn| messages(&mut shell, conn)), [1, 1]);
    // From now on nothing is written unless it is asked for here.
    shell.unread.extend(conns);
    pass(&mut shell, 1_000);
    let sealed = conns.map(|conn| shell.node.poll_transmit(conn, shell.now).batches.len());
    assert_eq!(sealed.iter().sum::<usize>(), 1, "before any of it was written: {sealed:?}");
}

/// What is under way when a proxy dies times out frame by frame. The first frame has everybody look for another way, and the
/// others no more than those whose messages they had: of thousands a sender would do nothing else for seconds.
#[test]
fn of_all_the_frames_of_a_dead_proxy_one_has_everybody_look_for_another_way() {
    let mut shell = Shell::with("o", 2, impatient());
    let conns = ["p", "p2"].map(|name| shell.link_out(&Peer::new(name)));
    let eu = || Batch::to(Datacenter::new("eu").unwrap());
    let frames = 200;
    for _ in 0..frames {
        let mut batch = eu();
        batch.extend(["x0000", "x0001"].map(|to| Message::new(id(to), vec![1; 10])));
        shell.node.submit(batch, shell.now).unwrap();
        shell.drain();
    }
    // Somebody else waits: its receiver is full for 10 ms.
    shell.advance(Duration::from_millis(96));
    let mut batch = eu();
    batch.push(Message::new(id("m"), vec![1]).lane(Lane::Control));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
    let refused = vec![refused(1, 1, RefusedReason::InboxFull as u8)];
    let full = ack_frame(vec![AckFlow { lane: 0, refused, ..entry(0, 0, 0) }]);
    conns.iter().for_each(|[control, _]| _ = shell.feed(*control, &full));
    let looks = |shell: &Shell| -> u64 {
        let decisions = shell.node.routes(shell.now).datacenters.into_iter().flat_map(|row| row.decisions);
        let waits = decisions.filter(|of| of.destination == id("m") && of.why == "receiver_full");
        waits.map(|of| of.times).sum()
    };
    let before = looks(&shell);
    assert!(before > 0, "it waits");
    shell.advance(Duration::from_millis(5));
    assert_eq!(shell.stats().attempts.timed_out, 2 * frames);
    assert_eq!(shell.stats().verdicts["proxy"], 1);
    let looks = looks(&shell) - before;
    assert!(looks < 5, "{looks} looks");
}

/// A peer takes small frames alone. What is late and small says nothing of the large message behind it.
#[test]
fn no_frame_is_longer_than_its_reader_takes_whatever_is_late() {
    let mut shell = two_datacenters();
    let [_, to_eu] = shell.link_out(&Peer { frame_bytes_max: 700 * 1024, ..Peer::new("p") });
    // Something late, of more than the share, and then small.
    submit(&mut shell, "eu", "m", &[600 * 1024, 10]);
    pass(&mut shell, 400);
    assert!(messages(&mut shell, to_eu) > 2);
    submit(&mut shell, "eu", "m", &[800 * 1024]);
    for _ in 0..100 {
        pass(&mut shell, 50);
        for received in shell.sent(to_eu) {
            if let Received::Batch(_, frame) = received {
                let bytes: usize = frame.message(0).map(|piece| piece.len()).sum();
                assert!(bytes < 700 * 1024, "{bytes} bytes");
            }
        }
    }
}

/// A run that no member ever got is nothing that an ack could wait for.
#[test]
fn a_run_that_expires_at_a_proxy_keeps_neither_acks_nor_its_end_waiting() {
    let mut shell = Shell::new("p");
    let [control, bulk] = shell.link_in(&Peer::new("o"));
    let [_, to_member] = shell.link_out(&Peer::new("m"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.unread.insert(to_member);
    let late = Run { deadline_ms: 5, ..run(0, 1, 1, 0) };
    shell.feed(bulk, &batch_frame(Lane::Bulk, vec![late], b"x"));
    pass(&mut shell, 10);
    shell.unread.clear();
    let transmit = shell.node.poll_transmit(to_member, shell.now);
    assert!(transmit.batches.is_empty(), "expired");
    shell.drain();
    let acks = shell.acks(control);
    assert_eq!(acks.iter().map(|entry| entry.refused.len()).sum::<usize>(), 1, "at once: {acks:?}");
    shell.node.drain(shell.now);
    assert!(shell.node.is_drained());
}

/// The time that a run waits at a proxy is taken off what its origin gave it: nobody further on waits for longer.
#[test]
fn a_run_leaves_a_proxy_with_the_time_that_is_left_of_its_deadline() {
    let mut shell = Shell::new("p");
    let [_, bulk] = shell.link_in(&Peer::new("o"));
    let [_, to_member] = shell.link_out(&Peer::new("m"));
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    shell.unread.insert(to_member);
    for (seq, deadline_ms) in [(1, 1_000), (2, 90)] {
        let run = Run { deadline_ms, ..run(0, seq, 1, seq - 1) };
        shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run], b"x"));
        pass(&mut shell, 40);
    }
    shell.unread.clear();
    let passed_on = shell.node.poll_transmit(to_member, shell.now).batches;
    let left: Vec<u32> = passed_on.iter().map(|batch| batch.envelope.runs[0].deadline_ms).collect();
    assert_eq!(left, [920, 50]);
}

#[test]
fn what_an_origin_that_left_has_behind_a_gap_is_let_go_and_nothing_arrives_twice() {
    let mut shell = Shell::new("m");
    let say = |shell: &mut Shell, first| {
        let [_, bulk] = shell.link_in(&Peer::new("o2"));
        shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o2", 100, "m")]));
        shell.feed(bulk, &batch_frame(Lane::Bulk, vec![run(0, first, 1, first - 1)], b"x"));
    };
    say(&mut shell, 1);
    say(&mut shell, 3);
    assert!(shell.node.status(shell.now).held_bytes > 0);
    let all = topology(0);
    let without = Arc::new(all.without(|spec| spec.id == id("o2")));
    shell.node.set_topology(without, shell.now).unwrap();
    shell.drain();
    assert_eq!(shell.node.status(shell.now).held_bytes, 0);
    shell.node.set_topology(Arc::new(all), shell.now).unwrap();
    shell.drain();
    for first in [1, 2, 3] {
        say(&mut shell, first);
    }
    let mut seqs = Vec::new();
    while let Some(delivery) = shell.node.poll_delivery(shell.now) {
        seqs.push(delivery.seq.0);
    }
    assert_eq!(seqs, [1, 2, 3]);
}

/// What was sent and not answered is kept as well as what waits, and is given up as well.
#[test]
fn a_destination_that_takes_nothing_gives_up_what_was_sent_and_says_that_it_may_have_arrived() {
    let settings = Settings {
        message_bytes_max: 1 << 20,
        destination_budget_bytes: 4 << 20,
        datacenter_budget_bytes: 4 << 20,
        process_budget_bytes: 64 << 20,
        ..Settings::default()
    };
    let nodes = [
        ("o", "us", Roles::ORIGIN),
        ("p", "eu", Roles::PROXY),
        ("m", "eu", Roles::MEMBER),
        ("m2", "eu", Roles::MEMBER),
    ];
    let mut shell = Shell::among(cluster(&nodes), "o", settings, 1);
    let [_, bulk] = shell.link_out(&Peer::new("p"));
    submit(&mut shell, "eu", "m", &[100_000; 36]);
    assert_eq!(messages(&mut shell, bulk), 36, "all have a seq");
    pass(&mut shell, 2_500);
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.push(Message::new(id("m2"), Bytes::from(vec![1; 500_000])));
    assert!(shell.node.submit(batch.clone(), shell.now).is_err(), "no room");
    pass(&mut shell, 200);
    assert!(shell.node.submit(batch, shell.now).is_ok(), "there is room");
    let mut given_up = 0;
    while let Some(outcome) = shell.outcome() {
        if let Outcome::Failed { reason: FailReason::Refused, maybe_delivered } = outcome {
            assert!(maybe_delivered, "it was sent");
            given_up += 1;
        }
    }
    assert!(given_up >= 10, "{given_up} were given up, and told of at once");
    // The rest ends with its deadline, as does what came into the room of the others.
    let mut late = Vec::new();
    for _ in 0..130 {
        pass(&mut shell, 500);
        late.extend(std::iter::from_fn(|| shell.outcome()));
    }
    assert_eq!(given_up + late.len(), 37, "{late:?}");
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed { .. });
    assert!(late.iter().all(failed), "{late:?}");
}

/// A sender that convicted one of two proxies by the silence of a lane: their connections, and which of them it was.
fn convicted(lane: Lane) -> (Shell, [[ConnId; 2]; 2], usize) {
    let mut shell = Shell::with("o", 0, Settings { snooze_min: Duration::from_millis(300), ..impatient() });
    let conns = ["p", "p2"].map(|name| shell.link_out(&Peer::new(name)));
    // Both members are silent by the proxy in use: convicted, and what it had goes by the other one.
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.extend(["m", "m2"].map(|to| Message::new(id(to), Bytes::from_static(b"x")).lane(lane)));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
    let bad = conns.iter().position(|of| messages(&mut shell, of[lane.index()]) == 2).unwrap();
    pass(&mut shell, 150);
    let good = conns[1 - bad];
    assert_eq!(messages(&mut shell, good[lane.index()]), 2, "again, by the other one");
    let acks = [0, 1].map(|row| AckFlow { lane: lane_number(lane), ..entry(row, 100, 1) });
    shell.feed(good[0], &ack_frame(acks.to_vec()));
    (shell, conns, bad)
}

fn lane_number(lane: Lane) -> u8 {
    u8::try_from(lane.index()).unwrap()
}

/// An empty run is a trial as good as a message: what comes back acquits. Of the lane that was silent; of the other one it says nothing.
#[test]
fn a_proxy_on_trial_is_acquitted_by_the_answer_to_a_ping() {
    for (silent, trial) in [(Lane::Control, false), (Lane::Bulk, true)] {
        assert_eq!(trial_after_a_ping(silent), trial, "{silent:?} was silent");
    }
}

fn trial_after_a_ping(silent: Lane) -> bool {
    let (mut shell, conns, bad) = convicted(silent);
    let route = |shell: &Shell| {
        let rows = shell.node.status(shell.now).datacenters;
        rows.into_iter().find(|row| row.name.as_str() == "eu").unwrap().routes.swap_remove(bad)
    };
    assert_eq!(route(&shell).state, "snoozed");
    pass(&mut shell, 400);
    assert!(route(&shell).trial);
    shell.node.ping(&id("m"), shell.now).unwrap();
    shell.drain();
    let asked = shell.sent(conns[bad][0]).iter().any(|frame| matches!(frame, Received::Batch(..)));
    assert!(asked, "the ping is its trial");
    shell.feed(conns[bad][0], &ack_frame(vec![AckFlow { lane: 0, ..entry(0, 100, 0) }]));
    route(&shell).trial
}

/// A trial may cost a timeout: it costs one message that, and not a frame.
#[test]
fn one_message_tries_a_proxy_and_the_others_go_by_the_one_that_delivers() {
    let (mut shell, conns, bad) = convicted(Lane::Bulk);
    pass(&mut shell, 400);
    submit(&mut shell, "eu", "m", &[10; 5]);
    let sent = [bad, 1 - bad].map(|proxy| messages(&mut shell, conns[proxy][1]));
    assert_eq!(sent, [1, 4]);
}

#[test]
fn a_proxy_that_left_and_is_back_is_avoided_by_nobody() {
    let mut shell = Shell::with("o", 0, impatient());
    let [_, bulk] = shell.link_out(&Peer::new("p"));
    submit(&mut shell, "eu", "m", &[10]);
    pass(&mut shell, 150);
    assert_eq!(messages(&mut shell, bulk), 1, "silent alone: its flow leaves the proxy alone for a while");
    let all = topology(0);
    let without = Arc::new(all.without(|spec| spec.id == id("p")));
    shell.node.set_topology(without, shell.now).unwrap();
    shell.drain();
    shell.node.set_topology(Arc::new(all), shell.now).unwrap();
    shell.drain();
    let [_, bulk] = shell.link_out(&Peer::new("p"));
    assert_eq!(messages(&mut shell, bulk), 1, "a clean record");
}

/// What was said while this process was late is forgiven; not that nothing was, each time anew.
#[test]
fn a_process_that_is_late_again_and_again_notices_who_is_silent() {
    let mut shell = Shell::with("o", 0, Settings { ping_interval: Duration::from_millis(1), ..impatient() });
    let silent = shell.link_out(&Peer::new("p"));
    let alive = shell.link_out(&Peer::new("p2"));
    let pong = control_frame(
        FrameType::Pong,
        Lane::Control,
        &Pong { ping_sent_us: 0, ping_received_us: 0, sent_us: 0 },
    );
    for step in 0..10 {
        // A timer is due a millisecond after the last one rang.
        shell.advance(Duration::from_millis(900));
        shell.feed(alive[0], &pong);
        let late_once = step < 2;
        assert!(!late_once || !shell.closed.contains_key(&silent[0]), "3 s, and what it was late by");
    }
    assert!(shell.closed.contains_key(&silent[0]), "silent for 9 s");
    assert!(!shell.closed.contains_key(&alive[0]), "who says something is heard");
}

/// Nothing has to be sent for a lost proxy to be lost.
#[test]
fn the_way_that_is_shown_is_the_one_that_the_next_message_takes() {
    let mut shell = Shell::with("o", 0, impatient());
    let conns = ["p", "p2"].map(|name| shell.link_out(&Peer::new(name)));
    let in_use = |shell: &Shell| {
        let rows = shell.node.status(shell.now).datacenters;
        let row = rows.into_iter().find(|row| row.name.as_str() == "eu").unwrap();
        row.routes.iter().position(|route| route.in_use)
    };
    let before = in_use(&shell).expect("one of them");
    for conn in conns[before] {
        shell.node.handle_closed(conn, shell.now);
    }
    shell.drain();
    assert_eq!(in_use(&shell), Some(1 - before));
    submit(&mut shell, "eu", "m", &[10]);
    assert_eq!(messages(&mut shell, conns[1 - before][1]), 1);
}

/// A leader of 20 datacenters with 50 members and 2 proxies each.
fn large() -> Shell {
    let names: Vec<(String, String, Roles)> = (0..20)
        .flat_map(|site| {
            let of = move |kind: &'static str, count: usize, roles| {
                (0..count).map(move |at| (format!("d{site}-{kind}{at}"), format!("d{site}"), roles))
            };
            of("p", 2, Roles::PROXY).chain(of("m", 50, Roles::MEMBER))
        })
        .collect();
    let mut nodes = vec![("o", "us", Roles::ORIGIN)];
    nodes.extend(names.iter().map(|(id, datacenter, roles)| (id.as_str(), datacenter.as_str(), *roles)));
    let settings = Settings { dials_per_second: 10_000, ..impatient() };
    Shell::among(cluster(&nodes), "o", settings, 1)
}

fn send_to_all(shell: &mut Shell) {
    for site in 0..20 {
        let mut batch = Batch::to(Datacenter::new(&format!("d{site}")).unwrap());
        batch.extend((0..50).map(|at| {
            Message::new(id(&format!("d{site}-m{at}")), Bytes::from_static(b"x"))
                .deadline(Duration::from_secs(60))
        }));
        shell.node.submit(batch, shell.now).unwrap();
    }
    shell.drain();
}

fn dialled(shell: &Shell, kind: &str) -> usize {
    shell.dials.iter().filter(|(_, peer, _)| peer.as_str().contains(kind)).count()
}

#[test]
fn a_sender_that_starts_dials_proxies_and_not_a_thousand_members() {
    let mut shell = large();
    send_to_all(&mut shell);
    pass(&mut shell, 300);
    assert_eq!((dialled(&shell, "-p"), dialled(&shell, "-m")), (80, 0), "two connections to each proxy");
    // One that is there in time takes all of it.
    let [control, bulk] = shell.link_out(&Peer { datacenter: "d5", ..Peer::new("d5-p0") });
    assert_eq!(messages(&mut shell, bulk), 50);
    for row in 0..50 {
        shell.feed(control, &ack_frame(vec![entry(row, 100, 1)]));
    }
    // Whose proxies are down is not waited for: all its members at once, and of no other datacenter.
    let down: Vec<ConnId> = shell
        .dials
        .iter()
        .filter(|(_, peer, _)| peer.as_str().starts_with("d3-p"))
        .map(|(conn, ..)| *conn)
        .collect();
    for conn in down {
        shell.node.handle_dial_failed(conn, shell.now);
    }
    shell.drain();
    pass(&mut shell, 100);
    assert_eq!(dialled(&shell, "-m"), 100);
    // And nobody waits for long for proxies that say nothing at all.
    pass(&mut shell, 1_000);
    assert_eq!((dialled(&shell, "-m"), dialled(&shell, "d5-m")), (1_900, 0));
}
