//! Takes connections in. Never dies of an error: what is wrong with one connection, or for a while with the process,
//! passes.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::port::{self, FAREWELL_TIMEOUT, Port};
use super::reader::Ended;
use super::secure::{Side, secure};
use super::shared::{Lingering, Shared};
use super::socket::{TcpListener, TcpStream};
use super::{reader, socket, writer};
use crate::proto::rtt::TokenBucket;

/// Pauses while the process is out of descriptors or memory: the queue of the listener keeps the callers meanwhile.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(super) fn start(shared: &Arc<Shared>, listener: TcpListener) {
    let node = Arc::clone(shared);
    shared.spawn(async move {
        tokio::select! {
            biased;
            () = node.closing() => {}
            () = run(&node, &listener) => {}
        }
    });
}

async fn run(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut pause = PAUSE_MIN;
    let rate = || shared.settings(|settings| settings.accepts_per_second);
    let mut tokens = TokenBucket::new(rate());
    loop {
        // Whoever comes faster waits in the listener's queue, at the kernel's cost and not at that of the live links.
        loop {
            // A reload may have changed it.
            tokens.set_rate(rate());
            let Err(later) = tokens.take(shared.now()) else { break };
            match shared.instant(later) {
                Some(later) => tokio::time::sleep_until(later).await,
                None => break,
            }
        }
        match listener.accept().await {
            Ok((stream, from)) => {
                pause = PAUSE_MIN;
                take(shared, stream, from.ip());
            }
            Err(error) => {
                shared.accept_errors.fetch_add(1, Ordering::Relaxed);
                if is_of_one_connection(&error) {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                } else {
                    tracing::warn!(%error, ?pause, "cannot accept connections, pausing");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// Errors that say nothing about the next connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

enum Verdict {
    Taken(Arc<Port>),
    TurnedAway(Bytes),
    Closed,
}

fn take(shared: &Arc<Shared>, stream: TcpStream, from: IpAddr) {
    let verdict = shared.with(|core, now| {
        if core.closed {
            return Verdict::Closed;
        }
        match core.node.handle_accepted(from, now) {
            Ok(conn) => Verdict::Taken(core.insert(conn)),
            Err(last_words) => Verdict::TurnedAway(last_words),
        }
    });
    match verdict {
        Ok(Verdict::Taken(port)) => {
            socket::tune_accepted(&stream, &shared.socket_options());
            port.set_up(socket::took(&stream));
            start_connection(shared, port, stream);
        }
        // A stranger within TLS would have to be shaken hands with first.
        Ok(Verdict::TurnedAway(_)) if shared.tls.is_some() => {}
        Ok(Verdict::TurnedAway(last_words)) => {
            // Beyond the limit there is not even an answer: that too says "try again later".
            if let Some(leave) = shared.may_linger() {
                shared.spawn(turn_away(stream, last_words, leave));
            }
        }
        Ok(Verdict::Closed) | Err(_) => {}
    }
}

fn start_connection(shared: &Arc<Shared>, port: Arc<Port>, stream: TcpStream) {
    // Before the task first runs: even a runtime that shuts down tells the machine.
    let ended = Ended::new(shared, port);
    shared.spawn(async move {
        let (shared, port) = (ended.shared(), ended.port());
        if let Some((input, output)) = secure(shared, port, stream, Side::Accepts).await {
            writer::start(shared, Arc::clone(port), output);
            reader::run(shared, port, input).await;
        }
    });
}

async fn turn_away(stream: TcpStream, last_words: Bytes, _leave: Lingering) {
    let (mut input, mut output) = stream.into_split();
    let say = async {
        output.write_all(&last_words).await?;
        output.shutdown().await
    };
    if matches!(tokio::time::timeout(FAREWELL_TIMEOUT, say).await, Ok(Ok(()))) {
        port::linger(&mut input).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_is_not_the_fault_of_one_connection() {
        const EMFILE: i32 = 24;
        const ECONNABORTED: i32 = 103;
        assert!(!is_of_one_connection(&io::Error::from_raw_os_error(EMFILE)));
        if cfg!(target_os = "linux") {
            assert!(is_of_one_connection(&io::Error::from_raw_os_error(ECONNABORTED)));
        }
    }
}
