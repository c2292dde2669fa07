//! What somebody recorded of a link is played again: as it was, and behind a handshake of its own. Nothing is delivered twice.

use std::time::Duration;

use trunkline_mesh::id::{Incarnation, Lane};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{Flow, RefuseCode, RefusedReason};
use trunkline_mesh::settings::Settings;

use super::shell::{Peer, Shell, ack_frame, batch_frame, entry, flow, roster_frame, run, topology};

/// The life of the node that was recorded, which the flow names, as an origin does that knows it.
const FIRST: u64 = 50;
const MESSAGES: u32 = 3;

/// What one peer sent to the node: its Hello, Confirm, rows and batches, on both connections.
struct Recording {
    node: &'static str,
    peer: Peer,
    bytes: [Vec<u8>; 2],
    /// Rows and batches alone.
    batches: Vec<u8>,
}

fn living(node: &str, life: u64) -> Shell {
    Shell::living(Incarnation(life), topology(0), node, Settings::default(), 1)
}

/// `o` links the node and has messages for `m` handed over by it.
fn recorded(node: &'static str) -> (Shell, [ConnId; 2], Recording) {
    let mut shell = living(node, FIRST);
    let member = (node == "p").then(|| shell.link_out(&Peer { life: FIRST, ..Peer::new("m") }));
    let peer = Peer::new("o");
    let conns = Lane::ALL.map(|lane| {
        let conn = shell.accept();
        shell.record(conn);
        shell.shake_hands(conn, &peer, lane, 7);
        conn
    });
    let flow = Flow { destination_incarnation: Incarnation(FIRST), ..flow("o", 100, "m") };
    let mut batches = roster_frame(Lane::Bulk, 0, vec![flow]).to_vec();
    for seq in 1..=u64::from(MESSAGES) {
        batches.extend(batch_frame(Lane::Bulk, vec![run(0, seq, 1, 0)], b"once"));
    }
    shell.feed(conns[1], &batches);
    if let Some(member) = member {
        shell.feed(member[0], &ack_frame(vec![entry(0, FIRST, u64::from(MESSAGES))]));
        shell.advance(Duration::from_millis(2));
    }
    assert_eq!(shell.acks(conns[0]).last().map(|entry| entry.decided), Some(u64::from(MESSAGES)));
    assert_eq!(passed(&mut shell, node), u64::from(MESSAGES));
    let bytes = conns.map(|conn| shell.recorded(conn));
    assert!(bytes[1].ends_with(&batches), "all that was said");
    (shell, conns, Recording { node, peer, bytes, batches })
}

/// Messages that the node handed over, or runs that it passed on, so far.
fn passed(shell: &mut Shell, node: &str) -> u64 {
    while shell.node.poll_delivery(shell.now).is_some() {}
    if node == "p" { shell.stats().proxy.forwarded } else { shell.stats().member.handed_over }
}

impl Recording {
    /// Plays both connections as they were. Each is refused under this code, which is counted, and nothing of it is taken.
    fn is_refused(&self, shell: &mut Shell, code: RefuseCode, when: &str) {
        shell.advance(Duration::from_micros(1));
        let (before, linked) = (passed(shell, self.node), shell.stats().handshakes);
        for (bytes, count) in self.bytes.iter().zip(1..) {
            let conn = shell.accept();
            shell.feed(conn, bytes);
            assert!(shell.closed.contains_key(&conn), "{} {when}: taken", self.node);
            let said = shell.sent(conn);
            let Some(Received::Refuse(refuse)) = said.last() else {
                panic!("{} {when}: {said:?}", self.node)
            };
            assert_eq!(RefuseCode::from_wire(refuse.code), Some(code), "{} {when}", self.node);
            assert_eq!(shell.stats().handshakes_refused[code.label()], count, "{} {when}", self.node);
        }
        assert_eq!(
            (passed(shell, self.node), shell.stats().handshakes),
            (before, linked),
            "{} {when}",
            self.node
        );
    }
}

#[test]
fn a_recorded_link_is_refused_on_a_new_connection_and_after_a_restart() {
    for node in ["m", "p"] {
        let (mut shell, conns, recording) = recorded(node);
        recording.is_refused(&mut shell, RefuseCode::Malformed, "while it is up");
        assert!(
            conns.iter().all(|conn| !shell.closed.contains_key(conn)),
            "whose link it is notices nothing"
        );
        for conn in conns {
            shell.node.handle_closed(conn, shell.now);
        }
        shell.drain();
        // There is a place for it now, and the answer is another one than that which was confirmed then.
        recording.is_refused(&mut shell, RefuseCode::VersionsStripped, "once it is over");

        let mut shell = living(node, FIRST + 10);
        recording.is_refused(&mut shell, RefuseCode::VersionsStripped, "after a restart");
    }
}

/// As only the peer itself can, which has a certificate. Its old numbers are decided; those for an old life are for nobody.
#[test]
fn recorded_batches_are_not_delivered_again_behind_a_new_handshake() {
    for node in ["m", "p"] {
        let (mut shell, _, recording) = recorded(node);
        if node == "m" {
            let [control, bulk] = shell.link_in(&recording.peer);
            shell.feed(bulk, &recording.batches);
            assert_eq!(passed(&mut shell, node), u64::from(MESSAGES), "nothing more");
            assert_eq!(shell.stats().member.duplicates, u64::from(MESSAGES));
            assert_eq!(shell.acks(control).last().map(|entry| entry.decided), Some(u64::from(MESSAGES)));
        }
        let mut shell = living(node, FIRST + 10);
        if node == "p" {
            shell.link_out(&Peer { life: FIRST + 10, ..Peer::new("m") });
        }
        let [control, bulk] = shell.link_in(&recording.peer);
        shell.feed(bulk, &recording.batches);
        shell.advance(Duration::from_millis(2));
        assert_eq!(passed(&mut shell, node), 0, "{node}");
        let stale = RefusedReason::StaleDestination;
        let acks = shell.acks(control);
        let reasons = acks.iter().flat_map(|ack| &ack.refused).map(|range| (range.count, range.reason));
        assert_eq!(reasons.collect::<Vec<_>>(), [(1, stale as u8); MESSAGES as usize], "{node}");
        let counted = if node == "p" { shell.stats().proxy.refused } else { shell.stats().member.refused };
        assert_eq!(counted[stale.label()], u64::from(MESSAGES), "{node}");
    }
}
