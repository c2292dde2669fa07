//! Acks as a proxy writes them: merged, and with whatever else goes.

use std::time::Duration;

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::wire::Ping;

use super::shell::{Peer, Shell, ack_frame, batch_frame, entry, flow, roster_frame, run};

#[test]
fn an_ack_that_waits_for_company_rides_on_the_next_frame() {
    let mut shell = Shell::new("p");
    let origin = shell.link_in(&Peer::new("o"));
    let [m, _m2] = ["m", "m2"].map(|name| shell.link_out(&Peer::new(name)));
    let flows = vec![flow("o", 100, "m"), flow("o", 100, "m2")];
    shell.feed(origin[1], &roster_frame(Lane::Bulk, 0, flows));
    shell.feed(origin[1], &batch_frame(Lane::Bulk, vec![run(0, 1, 1, 0), run(1, 1, 1, 0)], b"x"));
    shell.sent(origin[0]);
    shell.feed(m[0], &ack_frame(vec![entry(0, 100, 1)]));
    assert!(shell.sent(origin[0]).is_empty(), "the other member has not answered yet");
    shell.feed(origin[0], &control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 9 }));
    let sent = shell.sent(origin[0]);
    assert!(matches!(&sent[..], [Received::Pong(_), Received::Ack(_)]), "{sent:?}");
    shell.advance(Duration::from_millis(10));
    assert!(shell.sent(origin[0]).is_empty(), "it was said once");
}
