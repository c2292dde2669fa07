//! `trunkline node` as a process.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use super::addresses::own;
use super::{http, poll, trunkline};

const SOON: Duration = Duration::from_secs(60);

/// A running replica; killed when dropped.
pub(crate) struct Node {
    pub(crate) child: Child,
    /// What it says, unless that goes to a file of the test's.
    told: Option<File>,
    /// Where it serves clients.
    pub(crate) api: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Of a test that fails, whoever reads its output wants to know more than that something did not come.
        if let Some(told) = self.told.as_mut().filter(|_| std::thread::panicking()) {
            let mut text = String::new();
            let _ = told.rewind().and_then(|()| told.read_to_string(&mut text));
            eprintln!("the node at {} said:\n{text}", self.api);
        }
    }
}

impl Node {
    pub(crate) fn start(args: &[&str], api: SocketAddr) -> Self {
        let told = tempfile::tempfile().unwrap();
        let child = trunkline().arg("node").args(args).stderr(told.try_clone().unwrap()).spawn().unwrap();
        Self { child, told: Some(told), api }
    }

    /// The same, whose log is appended to a file.
    pub(crate) fn start_logged(args: &[&str], api: SocketAddr, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = trunkline().arg("node").args(args).stderr(log).spawn().unwrap();
        Self { child, told: None, api }
    }

    /// A cluster of its own, which serves already.
    pub(crate) fn dev(data: &Path) -> Self {
        let api = own(1)[0];
        let node = Self::start(&["--dev", "--data", data.to_str().unwrap(), "--api", &api.to_string()], api);
        node.ready();
        node
    }

    pub(crate) fn ready(&self) {
        poll("ready", SOON, || http::get(self.api, "/readyz").filter(|answer| answer.code == 200));
    }
}
