//! Messages that are too large for some way: they take another one at once, or fail at once where there is none.

use std::time::Duration;

use bytes::Bytes;
use trunkline_mesh::id::{Datacenter, Lane};
use trunkline_mesh::message::{Batch, FailReason, Message, Outcome};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, RefusedReason, Run};

use super::shell::{FRAME_BYTES_MAX, Peer, Shell, ack_frame, entry, id, refused};

const TOO_LARGE: u8 = RefusedReason::TooLarge as u8;

fn submit(shell: &mut Shell, sizes: &[usize]) {
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    let message = |size: &usize| Message::new(id("m"), Bytes::from(vec![0; *size]));
    batch.extend(sizes.iter().map(|size| message(size).deadline(Duration::from_secs(60))));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
}

/// The runs that a connection carried since the last call.
fn runs(shell: &mut Shell, conn: ConnId) -> Vec<Run> {
    let runs = shell.sent(conn).into_iter().filter_map(|received| match received {
        Received::Batch(envelope, _) => Some(envelope.runs),
        _ => None,
    });
    runs.flatten().collect()
}

/// Seqs, lowest and highest.
fn seqs(shell: &mut Shell, conn: ConnId) -> Vec<(u64, u64)> {
    runs(shell, conn).iter().map(|run| (run.first.0, run.first.0 + u64::from(run.count) - 1)).collect()
}

fn refuse(shell: &mut Shell, conn: ConnId, first: u64, count: u32) {
    let refused = vec![refused(first, count, TOO_LARGE)];
    shell.feed(conn, &ack_frame(vec![AckFlow { refused, ..entry(0, 100, first - 1) }]));
}

#[test]
fn what_no_proxy_takes_goes_directly_at_once_and_what_is_smaller_does_not() {
    let mut shell = Shell::new("o");
    let conns = ["p", "p2"].map(|name| shell.link_out(&Peer::new(name)));
    submit(&mut shell, &[1000]);
    let first = usize::from(runs(&mut shell, conns[0][1]).is_empty());
    refuse(&mut shell, conns[first][0], 1, 1);
    assert_eq!(seqs(&mut shell, conns[1 - first][1]), [(1, 1)], "by the next one at once");
    refuse(&mut shell, conns[1 - first][0], 1, 1);
    // Neither is asked again, however long the direct link takes.
    for _ in 0..30 {
        shell.advance(Duration::from_millis(50));
    }
    assert!(conns.iter().all(|conns| runs(&mut shell, conns[1]).is_empty()));
    let [_, straight] = shell.link_out(&Peer::new("m"));
    assert_eq!(seqs(&mut shell, straight), [(1, 1)]);
    submit(&mut shell, &[999, 1000]);
    assert_eq!(seqs(&mut shell, conns[first][1]), [(2, 2)], "what is smaller goes by proxy");
    assert_eq!(seqs(&mut shell, straight), [(3, 3)]);
    let mut why = shell.node.routes(shell.now).datacenters.into_iter().flat_map(|row| row.decisions);
    let direct = why.find(|decision| decision.way == "direct").unwrap();
    assert!(
        direct.passed.iter().all(|passed| passed.why == "too_large") && direct.passed.len() == 2,
        "{direct:?}"
    );
}

#[test]
fn what_its_member_has_no_room_for_fails_at_once_and_for_certain() {
    let small = |name| Peer { frame_bytes_max: 64 * 1024 + 500, ..Peer::new(name) };
    let mut shell = Shell::new("o");
    let [control, bulk] = shell.link_out(&small("p"));
    submit(&mut shell, &[501, 500]);
    assert_eq!(runs(&mut shell, bulk), [], "too large for the proxy, and first");
    shell.advance(Duration::from_millis(1));
    let [_, straight] = shell.link_out(&small("m"));
    assert_eq!(runs(&mut shell, straight), []);
    assert_eq!(seqs(&mut shell, bulk), [(1, 1)], "the other one goes on");
    shell.feed(control, &ack_frame(vec![entry(0, 100, 1)]));
    let failed = Some(Outcome::Failed { reason: FailReason::TooLarge, maybe_delivered: false });
    assert_eq!(shell.outcome(), failed, "long before the deadline");
    assert!(shell.outcome().expect("decided").is_delivered());
    // What a proxy said of it makes no difference.
    let mut shell = Shell::new("o");
    let [control, bulk] = shell.link_out(&Peer { frame_bytes_max: FRAME_BYTES_MAX, ..Peer::new("p") });
    submit(&mut shell, &[501]);
    assert_eq!(seqs(&mut shell, bulk), [(1, 1)]);
    refuse(&mut shell, control, 1, 1);
    shell.advance(Duration::from_millis(1));
    shell.link_out(&small("m"));
    assert_eq!(shell.outcome(), failed, "at once");
}

/// The member takes each of them, and not as many in one run.
#[test]
fn a_run_that_was_too_large_is_made_shorter() {
    let mut shell = Shell::new("o");
    let [control, bulk] = shell.link_out(&Peer::new("p"));
    submit(&mut shell, &[1000; 8]);
    assert_eq!(seqs(&mut shell, bulk), [(1, 8)]);
    refuse(&mut shell, control, 1, 8);
    let sent = seqs(&mut shell, bulk);
    assert!(sent.len() > 1 && sent[0].0 == 1 && sent.last().unwrap().1 == 8, "{sent:?}");
    assert!(sent.iter().all(|(first, last)| last - first < 7), "{sent:?}");
    assert_eq!(shell.dials.iter().filter(|(_, peer, _)| *peer == id("m")).count(), 0);
}

/// Beyond the member's own link there is no way: it is tried again, and not as often as it refuses.
#[test]
fn a_member_that_says_that_everything_is_too_large_is_not_asked_for_ever() {
    let mut shell = Shell::new("o");
    submit(&mut shell, &[1000]);
    // Until then it waits for a proxy.
    for _ in 0..30 {
        shell.advance(Duration::from_millis(50));
    }
    let [control, bulk] = shell.link_out(&Peer::new("m"));
    let mut asked = 0;
    for _ in 0..1000 {
        if !seqs(&mut shell, bulk).is_empty() {
            asked += 1;
            refuse(&mut shell, control, 1, 1);
        }
        shell.advance(Duration::from_millis(10));
    }
    assert!((2..12).contains(&asked), "asked {asked} times in ten seconds");
}

/// It says so twice, once per connection, and may say two things: what is encoded for one knows nothing of the other.
#[test]
fn a_proxy_that_names_a_limit_per_lane_is_held_to_the_smaller_one() {
    let (small, large) = (64 * 1024 + 500, FRAME_BYTES_MAX);
    for limits in [[small, large], [large, small]] {
        let mut shell = Shell::new("o");
        let named = |lane: Lane| Peer { frame_bytes_max: limits[lane.index()], ..Peer::new("p") };
        let conns = Lane::ALL.map(|lane| shell.connect_out(&named(lane), lane));
        for lane in Lane::ALL {
            let mut batch = Batch::to(Datacenter::new("eu").unwrap());
            let message = |size| Message::new(id("m"), Bytes::from(vec![0; size])).lane(lane);
            batch.extend([501, 100_000].map(message));
            shell.node.submit(batch, shell.now).unwrap();
            shell.drain();
        }
        assert!(shell.outcome().is_none(), "nothing fails for what a proxy says");
        assert!(conns.iter().all(|conn| runs(&mut shell, *conn).is_empty()));
        for conn in shell.link_out(&Peer::new("p2")) {
            assert_eq!(seqs(&mut shell, conn), [(1, 1), (2, 2)], "another one takes them");
        }
        assert!(shell.closed.is_empty());
    }
}
