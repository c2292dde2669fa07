//! From a socket to the two halves of a connection: at once in plaintext, after a handshake with TLS. How long that may take
//! is the machine's to say: it closes what is not through in time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::port::Port;
use super::shared::Shared;
use super::socket::TcpStream;
use super::stream::{self, Input, Output};
use super::tls::{Certified, Door};

/// Which side of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Accepts,
    Dials,
}

/// The halves of a connection whose peer the machine knows, if there is a certificate to know it by. `None`: the connection
/// is over, and why was counted.
pub(super) async fn secure(
    shared: &Arc<Shared>,
    port: &Port,
    stream: TcpStream,
    side: Side,
) -> Option<(Input, Output)> {
    let Some(tls) = &shared.tls else { return Some(stream::plain(stream)) };
    let address = stream.peer_addr().ok();
    let shaken = async {
        match side {
            Side::Accepts => tls.accept(stream).await,
            Side::Dials => tls.connect(stream).await,
        }
    };
    let shaken = tokio::select! {
        biased;
        // Last words are for those who got this far.
        _ = port.closing() => {
            tls.count_unfinished();
            tracing::debug!(conn = port.id.0, peer = shown(address), "TLS handshake ended before it was complete");
            return None;
        }
        shaken = shaken => shaken,
    };
    match shaken {
        Ok(Certified { stream, name, shown }) => {
            port.certify(shown);
            shared.with(|core, now| core.node.handle_certified(port.id, name, now)).ok()?;
            // Who is trusted may have changed during the handshake, and a look at all connections would not have seen it.
            shared.end_if_distrusted(port);
            Some(stream::tls(stream))
        }
        Err(error) => {
            tell(shared, port, &error, address, side);
            None
        }
    }
}

/// Counts and logs a handshake that failed.
fn tell(shared: &Arc<Shared>, port: &Port, error: &io::Error, address: Option<SocketAddr>, side: Side) {
    let Some(tls) = &shared.tls else { return };
    let failure = tls.count_failure(error);
    let remedy = failure.map_or("the peer left in the middle of it", |failure| failure.remedy_for(error));
    // Whom this node dials is known, whoever answers.
    let dialled = match side {
        Side::Dials => note(shared, port, &format!("{}: no TLS handshake: {remedy}", shown(address))),
        Side::Accepts => None,
    };
    let peer = dialled.unwrap_or_else(|| shown(address));
    let Some(failure) = failure else {
        tls.count_closed();
        return tracing::debug!(%peer, %error, "the peer left in the middle of the TLS handshake");
    };
    let reason = failure.label();
    // Whoever can reach the listener can cause these; whom this node dials is the operator's choice.
    // A node that lacks its certificates, or does not take those of this node, is worth a line, once; strangers who knock again
    // and again are not.
    let is_new = || address.is_some_and(|address| tls.is_new(address.ip(), Door::Links, failure));
    let is_told = if failure.is_of_anybody() { is_new() } else { failure.is_of_certificate() };
    if side == Side::Dials || is_told {
        tracing::warn!(%peer, reason, %error, "TLS handshake failed: {remedy}");
    } else {
        tracing::debug!(%peer, reason, %error, "TLS handshake failed: {remedy}");
    }
}

/// A connection that was through ended with this error. In TLS 1.3 the dialler is through before the acceptor has looked at its
/// certificate: here it learns that it was refused.
pub(super) fn tell_ended(shared: &Arc<Shared>, port: &Port, error: &io::Error) {
    let failure = shared.tls.as_ref().and_then(|tls| tls.count_failure(error));
    match failure {
        Some(failure) if port.opened().is_none() => {
            let (reason, remedy) = (failure.label(), failure.remedy_for(error));
            let peer = note(shared, port, &format!("TLS ended the connection: {remedy}"));
            let peer = peer.as_deref().unwrap_or("not known");
            tracing::warn!(%peer, reason, %error, "TLS ended the connection: {remedy}");
        }
        _ => tracing::debug!(conn = port.id.0, %error, "read failed"),
    }
}

/// Keeps for people what went wrong with the peer. Gives its id, if it is known.
fn note(shared: &Arc<Shared>, port: &Port, why: &str) -> Option<String> {
    let noted = shared.with(|core, now| core.node.note_trouble(port.id, why, now).map(ToString::to_string));
    noted.ok().flatten()
}

fn shown(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "gone".to_owned(), |address| address.to_string())
}
