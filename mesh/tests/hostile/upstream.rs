//! To whom a proxy says what became of a run, and of which: to the link that it came over, and of what was passed on.

use std::time::Duration;

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{RefusedReason, Run};

use super::shell::{Peer, Shell, batch_frame, flow, roster_frame, run};

/// Links to a member, and from an origin that announced its flow to that.
fn proxy() -> (Shell, [ConnId; 2], [ConnId; 2]) {
    let mut proxy = Shell::new("p");
    let member = proxy.link_out(&Peer::new("m"));
    let origin = linked(&mut proxy);
    (proxy, member, origin)
}

fn linked(proxy: &mut Shell) -> [ConnId; 2] {
    let origin = proxy.link_in(&Peer::new("o"));
    proxy.feed(origin[1], &roster_frame(Lane::Bulk, 0, vec![flow("o", 100, "m")]));
    origin
}

fn say(proxy: &mut Shell, [_, bulk]: [ConnId; 2], run: Run) {
    proxy.feed(bulk, &batch_frame(Lane::Bulk, vec![run], b"said"));
}

/// What was refused: first seq, how many, why.
fn refusals(proxy: &mut Shell, [control, _]: [ConnId; 2]) -> Vec<(u64, u32, u8)> {
    proxy.advance(Duration::from_millis(20));
    let acks = proxy.acks(control);
    acks.iter().flat_map(|entry| &entry.refused).map(|of| (of.first.0, of.count, of.reason)).collect()
}

fn passed_on(proxy: &mut Shell, [_, bulk]: [ConnId; 2]) -> Vec<u64> {
    let sent = proxy.sent(bulk).into_iter();
    let seqs = sent.filter_map(|received| match received {
        Received::Batch(envelope, _) => Some(envelope.runs[0].first.0),
        _ => None,
    });
    seqs.collect()
}

/// It never heard of the flow before, which is older than 32 bits can count.
#[test]
fn a_link_that_is_lost_before_the_first_ack_gives_back_what_was_passed_on() {
    let (mut proxy, member, origin) = proxy();
    let first = (1 << 32) + 5;
    say(&mut proxy, origin, run(0, first, 3, 0));
    assert_eq!(passed_on(&mut proxy, member), [first]);
    proxy.node.handle_closed(member[0], proxy.now);
    assert_eq!(refusals(&mut proxy, origin), [(first, 3, RefusedReason::LinkLost as u8)]);
}

/// The origin links anew and sends the same seq again: that the first copy was too late, and its second one waits, is no contradiction.
#[test]
fn what_came_over_a_link_that_is_gone_is_refused_to_nobody_when_it_is_too_late() {
    let (mut proxy, member, before) = proxy();
    proxy.unread.insert(member[1]);
    say(&mut proxy, before, Run { deadline_ms: 50, ..run(0, 1, 1, 0) });
    proxy.node.handle_closed(before[0], proxy.now);
    proxy.drain();
    let origin = linked(&mut proxy);
    say(&mut proxy, origin, run(0, 1, 1, 0));
    proxy.advance(Duration::from_millis(100));
    proxy.unread.remove(&member[1]);
    say(&mut proxy, origin, run(0, 2, 1, 1));
    assert_eq!(passed_on(&mut proxy, member), [1, 2]);
    assert_eq!(refusals(&mut proxy, origin), []);
    assert_eq!(proxy.stats().proxy.refused["expired"], 1);
}

/// The same where the member is gone before it was passed on.
#[test]
fn what_came_over_a_link_that_is_gone_is_given_back_to_nobody() {
    let (mut proxy, member, before) = proxy();
    proxy.unread.insert(member[1]);
    say(&mut proxy, before, run(0, 1, 1, 0));
    proxy.node.handle_closed(before[0], proxy.now);
    proxy.drain();
    let origin = linked(&mut proxy);
    say(&mut proxy, origin, run(0, 2, 1, 1));
    proxy.node.handle_closed(member[0], proxy.now);
    assert_eq!(refusals(&mut proxy, origin), [(2, 1, RefusedReason::Unreachable as u8)]);
}
