//! A shaped WAN inside one process: TCP relays whose bytes wait as long as they would between datacenters.
//!
//! A node reaches a node elsewhere through a relay. What the relay reads first passes the egress of the datacenter it
//! leaves (`egress`: one serialising link for all its connections), then waits the one-way delay, then is written.
//! The end of a stream, an abort and a refused connect take the same path. Nothing is ever early; it is late by the
//! timer's granularity, 1 to 2 ms.
//!
//! Not modelled: loss, TCP's congestion control and slow start, TCP and IP headers, and the handshake's first half
//! (the client's connect succeeds at once, its bytes wait for the target).

mod config;
mod window;

mod egress;

mod pipe;

mod end;

mod relay;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{AbortHandle, JoinSet};

pub use self::config::{OneWay, WanConfig, one_way_ms};
use self::pipe::{Clock, Uplink};
use self::relay::{Relay, Way, listen};
use super::Dc;

/// The WAN. Dropping it ends all its relays and connections; [`Wan::shutdown`] also waits for that.
#[derive(Debug)]
pub struct Wan {
    config: WanConfig,
    clock: Clock,
    uplinks: Vec<Arc<Uplink>>,
    flows: Arc<AtomicU64>,
    tasks: Mutex<JoinSet<()>>,
}

impl Wan {
    /// Starts one link per datacenter.
    ///
    /// # Panics
    /// Outside a tokio runtime with time and IO.
    #[must_use]
    pub fn new(config: WanConfig) -> Self {
        let clock = Clock::start();
        let dcs = config.egress_bytes_per_s.len();
        let uplinks: Vec<_> =
            config.egress_bytes_per_s.iter().map(|rate| Arc::new(Uplink::new(clock, *rate, dcs))).collect();
        let mut tasks = JoinSet::new();
        for uplink in &uplinks {
            tasks.spawn(uplink.clone().run());
        }
        Self { config, clock, uplinks, flows: Arc::default(), tasks: Mutex::new(tasks) }
    }

    /// Accepts on `listen` in datacenter `from`, and carries each connection to `target` in datacenter `to`.
    /// Port 0 takes a free port; [`RelayHandle::local_addr`] tells it.
    ///
    /// # Errors
    /// `InvalidInput` if there is no path between the two; else what bind and listen say.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn relay(
        &self,
        from: Dc,
        to: Dc,
        listen_on: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<RelayHandle> {
        let (out, back) = self.way(from, to).zip(self.way(to, from)).ok_or_else(|| {
            let text = format!("no path between datacenters {} and {}", from.0, to.0);
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let listener = listen(listen_on)?;
        let local_addr = listener.local_addr()?;
        let relay = Relay { clock: self.clock, out, back, target, flows: self.flows.clone() };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let task = tasks.spawn(relay.run(listener));
        Ok(RelayHandle { local_addr, task })
    }

    /// The bytes that have left, by datacenter of origin and destination.
    #[must_use]
    pub fn counters(&self) -> WanCounters {
        let to_all = |uplink: &Arc<Uplink>| (0..self.uplinks.len()).map(|to| uplink.left(Dc(to))).collect();
        WanCounters { left: self.uplinks.iter().map(to_all).collect() }
    }

    /// Ends all relays and connections and waits until their sockets are closed.
    pub async fn shutdown(self) {
        self.tasks.into_inner().unwrap_or_else(PoisonError::into_inner).shutdown().await;
    }

    fn way(&self, from: Dc, to: Dc) -> Option<Way> {
        let delay = self.config.delay(from, to)?;
        let uplink = self.uplinks.get(from.0)?.clone();
        self.uplinks.get(to.0)?;
        Some(Way { uplink, to, delay, limits: self.config.window(from, delay) })
    }
}

/// A relay; dropping it closes its listener and its connections.
#[derive(Debug)]
#[must_use = "a relay ends when its handle is dropped"]
pub struct RelayHandle {
    local_addr: SocketAddr,
    task: AbortHandle,
}

impl RelayHandle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Bytes of TCP streams, without TCP and IP headers, that left each datacenter towards each other; they only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WanCounters {
    left: Vec<Vec<u64>>,
}

impl WanCounters {
    /// Bytes that left `from` towards `to`; 0 if there is no such datacenter.
    #[must_use]
    pub fn bytes(&self, from: Dc, to: Dc) -> u64 {
        self.left.get(from.0).and_then(|row| row.get(to.0)).copied().unwrap_or(0)
    }

    /// Bytes between the two, both directions.
    #[must_use]
    pub fn between(&self, a: Dc, b: Dc) -> u64 {
        self.bytes(a, b) + self.bytes(b, a)
    }

    /// All bytes, all directions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.left.iter().flatten().sum()
    }
}
