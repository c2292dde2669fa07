//! A node that was stopped for a while: what its peers said meanwhile waits to be read, and nobody is taken for silent.

use std::time::Duration;

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::frame::{FrameType, control_frame};
use trunkline_mesh::proto::wire::Ping;
use trunkline_mesh::settings::Settings;

use super::shell::{Peer, Shell};

/// Nodes that dial nobody: the timers of an origin are not theirs.
#[test]
fn a_node_without_links_of_its_own_that_was_stopped_hears_its_peers_out() {
    let silence = Settings::default().silence_timeout;
    for stop in [silence, 4 * silence] {
        for name in ["p", "m"] {
            let mut shell = Shell::new(name);
            let [control, _] = shell.link_in(&Peer::new("o"));
            let ping = control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us: 1 });
            for _ in 0..10 {
                shell.advance(Settings::default().ping_interval);
                shell.feed(control, &ping);
            }
            // Of a frame that is on its way, half is there.
            shell.feed(control, &ping[..ping.len() - 1]);
            shell.advance(stop);
            assert!(!shell.closed.contains_key(&control), "{name}, stopped for {stop:?}");
            shell.feed(control, &ping[ping.len() - 1..]);
            shell.advance(silence - Duration::from_millis(1));
            assert!(!shell.closed.contains_key(&control), "{name}, stopped for {stop:?}");
            // In small steps it is the peer that says nothing.
            for _ in 0..2 * silence.as_millis() / 100 {
                shell.advance(Duration::from_millis(100));
            }
            assert!(shell.closed.contains_key(&control), "{name} waits for ever");
        }
    }
}
