//! An origin with a good name that sends small messages as fast as they are taken: it stands in front of nobody else.

use bytes::Bytes;
use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::run::message_head;

use super::shell::{Peer, Shell, batch_around, batch_frame, flow, id, roster_frame, run};

/// Messages of a frame.
const MESSAGES: u32 = 300;

/// What `o` sends on a lane, frame by frame.
struct Flood {
    conn: ConnId,
    lane: Lane,
    next: u64,
}

impl Flood {
    fn begin(shell: &mut Shell, lane: Lane) -> Self {
        let conn = shell.link_in(&Peer::new("o"))[lane.index()];
        shell.feed(conn, &roster_frame(lane, 0, vec![flow("o", 100, "m")]));
        let mut flood = Self { conn, lane, next: 1 };
        // The inbox is full, and some wait for room in it.
        while shell.node.status(shell.now).held_bytes < 1_000_000 {
            flood.send(shell);
        }
        flood
    }

    fn send(&mut self, shell: &mut Shell) {
        shell.feed(self.conn, &batch_frame(self.lane, vec![run(0, self.next, MESSAGES, 0)], b"v"));
        self.next += u64::from(MESSAGES);
    }
}

/// One message of `o2` on this lane.
fn send_one(shell: &mut Shell, lane: Lane) {
    let conn = shell.link_in(&Peer::new("o2"))[lane.index()];
    shell.feed(conn, &roster_frame(lane, 0, vec![flow("o2", 100, "m")]));
    shell.feed(conn, &batch_frame(lane, vec![run(0, 1, 1, 0)], b"one"));
}

/// How many messages of `o` an application takes, while that one goes on, before the one of `o2`; nothing if it is more than there
/// is room for in the inbox.
fn taken_before(flooded: Lane, lane: Lane) -> Option<u32> {
    let mut shell = Shell::new("m");
    let mut flood = Flood::begin(&mut shell, flooded);
    send_one(&mut shell, lane);
    (0..100_000).find(|taken| {
        if taken % MESSAGES == MESSAGES - 1 {
            flood.send(&mut shell);
        }
        shell.node.poll_delivery(shell.now).expect("there is something").origin == id("o2")
    })
}

#[test]
fn who_floods_a_member_is_not_in_front_of_what_another_origin_sends() {
    for flooded in Lane::ALL {
        // It enters when its turn comes to wait for room, and leaves when its turn comes to be taken.
        let control = taken_before(flooded, Lane::Control);
        assert!(control.is_some_and(|taken| taken <= 2), "{flooded}: {control:?}");
        let bulk = taken_before(flooded, Lane::Bulk);
        assert!(bulk.is_some_and(|taken| taken <= 40), "{flooded}: {bulk:?}");
    }
}

/// It waits for as much room as thousands of the flood take.
#[test]
fn large_bulk_that_waits_for_room_and_control_do_not_keep_each_other_waiting() {
    const LARGE: usize = 1 << 20;
    let mut shell = Shell::new("m");
    let mut flood = Flood::begin(&mut shell, Lane::Control);
    let bulk = shell.link_in(&Peer::new("o2"))[Lane::Bulk.index()];
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, vec![flow("o2", 100, "m")]));
    let large = [message_head(7, LARGE), Bytes::from(vec![7; LARGE])].into_iter().collect();
    shell.feed(bulk, &batch_around(Lane::Bulk, vec![run(0, 1, 1, 0)], vec![large]));
    let mut take = |shell: &mut Shell, origin: &str| {
        (0..100_000).find(|taken| {
            if taken % MESSAGES == MESSAGES - 1 {
                flood.send(shell);
            }
            shell.node.poll_delivery(shell.now).expect("there is something").origin == id(origin)
        })
    };
    let conn = shell.link_in(&Peer::new("eo"))[Lane::Control.index()];
    shell.feed(conn, &roster_frame(Lane::Control, 0, vec![flow("eo", 100, "m")]));
    shell.feed(conn, &batch_frame(Lane::Control, vec![run(0, 1, 1, 0)], b"vote"));
    let control = take(&mut shell, "eo");
    assert!(control.is_some_and(|taken| taken <= 8), "{control:?}");
    // Of what is read half is set aside, and 257 bytes are charged for each that is.
    let bulk = take(&mut shell, "o2");
    assert!(bulk.is_some_and(|taken| usize::try_from(taken).unwrap() <= 2 * LARGE / 257 + 50), "{bulk:?}");
}
