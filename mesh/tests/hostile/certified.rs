//! A node that wants certificates, without TLS around it: what the machine does with the names that a shell hands it.

use trunkline_mesh::SpiffeId;
use trunkline_mesh::id::{ClusterId, Datacenter, Lane};
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{PREAMBLE, RefuseCode};
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
