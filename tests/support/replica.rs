//! `trunkline node` as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::{http, poll, trunkline};

const SOON: Duration = Duration::from_secs(60);

/// A running replica; killed when dropped.
pub(crate) struct Node {
    pub(crate) child: Child,
    /// Where it serves clients.
    pub(crate) api: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    pub(crate) fn start(args: &[&str], api: SocketAddr) -> Self {
        let child = trunkline().arg("node").args(args).stderr(Stdio::null()).spawn().unwrap();
        Self { child, api }
    }

    /// The same, whose log is appended to a file.
    pub(crate) fn start_logged(args: &[&str], api: SocketAddr, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = trunkline().arg("node").args(args).stderr(log).spawn().unwrap();
        Self { child, api }
    }

    /// A cluster of its own, which serves already.
    pub(crate) fn dev(data: &Path) -> Self {
        let api = free(1)[0];
        let node = Self::start(&["--dev", "--data", data.to_str().unwrap(), "--api", &api.to_string()], api);
        node.ready();
        node
    }

    pub(crate) fn ready(&self) {
        poll("ready", SOON, || http::get(self.api, "/readyz").filter(|answer| answer.code == 200));
    }
}

/// Addresses that nobody listens on.
pub(crate) fn free(count: usize) -> Vec<SocketAddr> {
    // All are held until each has one of its own.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap()).collect()
}
