//! What one frame makes a proxy send.

use trunkline_mesh::id::Lane;
use trunkline_mesh::settings::Settings;

use super::shell::{Peer, Shell, batch_frame, flow, roster_frame, run};

/// The least, and members for more than fits.
const FRAME_BYTES_MAX: usize = 128 * 1024;
const MESSAGE_BYTES: usize = 60 * 1024;
const MEMBERS: usize = 40;

/// What the proxy sent to its members for one frame to so many of them, bytes, and how long the frame was.
fn passed_on(runs: usize) -> (Shell, usize, usize) {
    let settings =
        Settings { frame_bytes_max: FRAME_BYTES_MAX, message_bytes_max: 64 * 1024, ..Settings::default() };
    let mut shell = Shell::with("p", MEMBERS, settings);
    let names: Vec<&'static str> = (0..MEMBERS).map(|n| &*format!("x{n:04}").leak()).collect();
    let members: Vec<_> = names.iter().map(|name| shell.link_out(&Peer::new(name))).collect();
    let origin = Peer::new("o");
    let [_, bulk] = shell.link_in(&origin);
    let flows = names.iter().map(|name| flow("o", origin.life, name)).collect();
    shell.feed(bulk, &roster_frame(Lane::Bulk, 0, flows));
    members.iter().flatten().for_each(|conn| drop(shell.outward(*conn)));
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(MESSAGE_BYTES).collect();
    let rows = 0..u32::try_from(runs).unwrap();
    let frame = batch_frame(Lane::Bulk, rows.map(|row| run(row, 1, 1, 0)).collect(), noise.leak());
    shell.feed(bulk, &frame);
    let out = members.iter().flatten().map(|conn| shell.outward(*conn).len()).sum();
    (shell, frame.len(), out)
}

/// However short it is: what it has once may go to each of its runs. So it is the frame's limit that counts, and not its length.
#[test]
fn a_frame_makes_a_proxy_send_no_more_than_sixteen_times_the_longest_one() {
    let most = 16 * FRAME_BYTES_MAX;
    let fit = most / (MESSAGE_BYTES + 4);
    let (shell, bytes, out) = passed_on(fit);
    assert_eq!(shell.stats().proxy.forwarded, u64::try_from(fit).unwrap());
    println!("{bytes} B in, {out} B out, at most {most} B");
    assert!(
        bytes < MESSAGE_BYTES * 11 / 10 && out > most * 9 / 10 && out <= most,
        "{bytes} B in, {out} B out"
    );
    // One more is refused before any of it is passed on.
    let (shell, _, out) = passed_on(fit + 1);
    assert_eq!((shell.stats().proxy.forwarded, out, shell.errors("codec")), (0, 0, 1));
}
