//! Text of a peer in the log: whoever reads it sees one line, and a terminal obeys nothing of it.

use trunkline_mesh::id::{Incarnation, Lane};
use trunkline_mesh::proto::frame::{FrameType, control_frame};
use trunkline_mesh::proto::handshake::Refusal;
use trunkline_mesh::proto::wire::{Hello, PREAMBLE, REFUSE_DETAIL_BYTES_MAX, Refuse, RefuseCode};

use super::log::lines_of;
use super::shell::{Peer, Shell, flow, id, roster_frame, sum_again};

/// Bytes, as they are written: a line is as long as is promised, whatever alphabet a peer writes in.
#[test]
fn of_a_refusal_as_many_bytes_are_logged_as_are_written() {
    let detail = "x".to_owned() + &"\u{e9}".repeat(300);
    let written = Refusal::new(RefuseCode::Malformed, detail.clone()).body().detail;
    assert_eq!(written, detail[..REFUSE_DETAIL_BYTES_MAX - 1], "whole characters");
    let refuse = Refuse { code: 2, detail, highest_incarnation: Incarnation(0) };
    let refuse = control_frame(FrameType::Refuse, Lane::Control, &refuse);
    let mut shell = Shell::new("o");
    let [control, _] = shell.link_out(&Peer::new("p"));
    let lines = lines_of(|| _ = shell.feed(control, &refuse));
    // That the link ends is a line of its own.
    let logged: Vec<_> =
        lines.iter().map(|line| line.matches('\u{e9}').count()).filter(|of| *of > 0).collect();
    assert_eq!(logged, [(written.len() - 1) / 2], "{lines:?}");
}

/// What breaks lines, colours them, turns their direction, or ends a string.
const HOSTILE: &str = "\u{1b}[2J\r\n2026 ERROR forged\0\u{7f}\u{9b}31m\u{202e}\u{2028}é`";

fn assert_harmless(lines: &[String]) {
    let harmless = |c: char| !c.is_control() && !matches!(c, '\u{202e}' | '\u{2028}');
    assert!(lines.iter().all(|line| line.chars().all(harmless)), "{lines:?}");
    // That a link is down comes behind it, and repeats nothing.
    let lines: Vec<_> = lines.iter().filter(|line| !line.starts_with("link down: ")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR forged"), "it is there: {lines:?}");
}

/// A name that is none, in place of one of as many bytes.
fn with_a_hostile_name(frame: &[u8], name: &str) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let at = bytes.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
    bytes[at..at + name.len()].copy_from_slice(&HOSTILE.as_bytes()[..name.len()]);
    sum_again(bytes)
}

#[test]
fn nothing_that_a_peer_says_breaks_a_line_of_the_log() {
    // As long as the hostile text is in ASCII.
    let name = &"a-name-of-thirty-two-bytes-in-al"[..HOSTILE.find('\u{9b}').unwrap()];
    let hello = Hello { node: id(name), ..Peer::new("o").hello(Lane::Control, 1) };
    let hello = with_a_hostile_name(&control_frame(FrameType::Hello, Lane::Control, &hello), name);
    let mut shell = Shell::new("m");
    let conn = shell.accept();
    assert_harmless(&lines_of(|| _ = shell.feed(conn, &[&PREAMBLE[..], &hello].concat())));
    // What the other end is told is for its log, and not for this one.
    assert!(shell.closed.contains_key(&conn));

    let [_, bulk] = shell.link_in(&Peer::new("o"));
    let roster = roster_frame(Lane::Bulk, 0, vec![flow(name, 1, "m")]);
    assert_harmless(&lines_of(|| _ = shell.feed(bulk, &with_a_hostile_name(&roster, name))));

    let refuse = Refuse { code: 2, detail: HOSTILE.to_owned(), highest_incarnation: Incarnation(0) };
    let refuse = control_frame(FrameType::Refuse, Lane::Control, &refuse);
    let mut shell = Shell::new("o");
    let control = shell.dialed("p", Lane::Control);
    assert_harmless(&lines_of(|| _ = shell.feed(control, &[&PREAMBLE[..], &refuse].concat())));
    let [control, _] = shell.link_out(&Peer::new("p"));
    assert_harmless(&lines_of(|| _ = shell.feed(control, &refuse)));
}
