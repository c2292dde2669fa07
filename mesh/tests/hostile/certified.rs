//! A node that wants certificates, without TLS around it: what the machine does with the names that a shell hands it.

use trunkline_mesh::SpiffeId;
use trunkline_mesh::id::Incarnation;
use trunkline_mesh::id::{ClusterId, Datacenter, Lane};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{Confirm, PREAMBLE, Refuse, RefuseCode};
use trunkline_mesh::settings::Settings;

use super::shell::{Peer, Shell, id};

/// Of a node of `us`.
fn name(node: &str) -> SpiffeId {
    let (cluster, datacenter) = (ClusterId::new("c").unwrap(), Datacenter::new("us").unwrap());
    SpiffeId { cluster, datacenter, node: id(node) }
}

fn say_hello(shell: &mut Shell, conn: ConnId, node: &'static str) {
    let hello = control_frame(FrameType::Hello, Lane::Control, &Peer::new(node).hello(Lane::Control, 9));
    shell.feed(conn, &[&PREAMBLE[..], &hello].concat());
}

fn refused(shell: &Shell, code: RefuseCode) -> u64 {
    shell.node.stats().handshakes_refused[code.label()]
}

#[test]
fn whoever_showed_no_certificate_is_not_linked() {
    let mut shell = Shell::with("m", 0, Settings::default());
    shell.node.require_certificates();
    let conn = shell.accept();
    say_hello(&mut shell, conn, "o");
    assert_eq!(refused(&shell, RefuseCode::OtherCertificate), 1);
    assert!(shell.node.status(shell.now).links.is_empty());
}

#[test]
fn a_hello_under_another_name_than_that_of_the_certificate_is_refused() {
    for (certified, welcome) in [("o", true), ("o2", false)] {
        let mut shell = Shell::with("m", 0, Settings::default());
        shell.node.require_certificates();
        let conn = shell.accept();
        shell.node.handle_certified(conn, name(certified), shell.now);
        say_hello(&mut shell, conn, "o");
        let welcomed = shell.sent(conn).iter().any(|sent| matches!(sent, Received::Welcome(..)));
        assert_eq!((welcomed, refused(&shell, RefuseCode::OtherCertificate)), (welcome, u64::from(!welcome)));
    }
}

#[test]
fn a_dial_without_a_certificate_says_nothing() {
    let mut shell = Shell::with("o", 0, Settings::default());
    shell.node.require_certificates();
    let before = shell.node.stats().dials_failed;
    let conn = shell.dialed("p", Lane::Control);
    assert!(shell.sent(conn).is_empty(), "no Hello");
    assert_eq!(shell.node.stats().dials_failed, before + 1);
}

/// Why `o`, which is to dial this node and does not, is not linked.
fn why(shell: &mut Shell) -> Option<String> {
    let down = shell.node.status(shell.now).down;
    down.into_iter().find(|of| of.peer == id("o") && !of.dialled).expect("it is down").why
}

#[test]
fn what_a_stranger_says_under_the_name_of_a_peer_is_no_news_of_that_peer() {
    let mut shell = Shell::new("p");
    let elsewhere = Peer { datacenter: "eu", ..Peer::new("o") }.hello(Lane::Control, 9);
    let conn = shell.accept();
    let hello = control_frame(FrameType::Hello, Lane::Control, &elsewhere);
    shell.feed(conn, &[&PREAMBLE[..], &hello].concat());
    assert!(shell.closed.contains_key(&conn), "refused");
    assert_eq!(why(&mut shell), None);
    let refuse = Refuse { code: 2, detail: "made up".to_owned(), highest_incarnation: Incarnation(0) };
    let confirm = Confirm { version: 77, transcript: 0 };
    for last in [
        control_frame(FrameType::Refuse, Lane::Control, &refuse),
        control_frame(FrameType::Confirm, Lane::Control, &confirm),
    ] {
        let conn = shell.accept();
        say_hello(&mut shell, conn, "o");
        shell.feed(conn, &last);
        assert!(shell.closed.contains_key(&conn), "its end");
        assert_eq!(why(&mut shell), None);
    }
    let conn = shell.accept();
    say_hello(&mut shell, conn, "o");
    shell.node.handle_closed(conn, shell.now);
    shell.drain();
    assert_eq!(why(&mut shell), None);
}

#[test]
fn who_showed_its_certificate_and_was_refused_is_shown_with_the_reason() {
    let mut shell = Shell::new("p");
    shell.node.require_certificates();
    let conn = shell.accept();
    shell.node.handle_certified(conn, name("o"), shell.now);
    say_hello(&mut shell, conn, "o2");
    let told = why(&mut shell).unwrap();
    assert!(told.starts_with("refused by this node: other_certificate: "), "{told}");
}
