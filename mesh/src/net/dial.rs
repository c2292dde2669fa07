//! Opens a connection that the machine asked for. Its deadline is the machine's: a dial that takes too long is closed.

use std::net::SocketAddr;
use std::sync::Arc;

use super::port::Port;
use super::reader::Ended;
use super::secure::{Side, secure};
use super::shared::Shared;
use super::{reader, socket, writer};

pub(super) fn start(shared: &Arc<Shared>, port: Arc<Port>, address: SocketAddr) {
    // Before the task first runs: even a runtime that shuts down tells the machine.
    let ended = Ended::new(shared, port);
    shared.spawn(async move {
        let (shared, port) = (ended.shared(), ended.port());
        let options = shared.socket_options();
        let connected = tokio::select! {
            biased;
            _ = port.closing() => return,
            connected = socket::connect(address, &options) => connected,
        };
        match connected {
            Err(error) => {
                tracing::debug!(%address, %error, "dial failed");
                let why = format!("{address}: {error}");
                let _ = shared.with(|core, now| {
                    core.node.note_trouble(port.id, &why, now);
                    core.node.handle_dial_failed(port.id, now);
                });
            }
            Ok(stream) => {
                port.set_up(socket::took(&stream));
                let Some((input, output)) = secure(shared, port, stream, Side::Dials).await else {
                    let _ = shared.with(|core, now| core.node.handle_dial_failed(port.id, now));
                    return;
                };
                if shared.with(|core, now| core.node.handle_dialed(port.id, now)).is_ok() {
                    writer::start(shared, Arc::clone(port), output);
                    reader::run(shared, port, input).await;
                }
            }
        }
    });
}
