//! The nodes: processes of this program, every one on loopback addresses of its own. A node reaches nodes of other datacenters only
//! through relays of the shaped WAN, so each datacenter has a file of its own, which says where others are seen from there.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use crate::demo::Dc;
use crate::demo::cluster::{Shape, block, dc_name, free_address, held_address};
use crate::demo::wan::{RelayHandle, Wan};
use crate::scratch::Scratch;

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// A socket, a file or a process.
    #[error("cannot start the nodes: {0}")]
    Io(#[from] io::Error),
    /// They took too long.
    #[error("{what} within {SOON:?}: is this machine overloaded? Last said by a node: {said}")]
    Late {
        /// What did not come about.
        what: String,
        /// The last line of the log of the node that is waited for, or of any.
        said: String,
    },
}

const SOON: Duration = Duration::from_secs(30);
/// A node that does not say who leads by then is stopped, or busy: another one is asked.
const ASK: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(50);

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// SIGKILL.
    Kill,
    /// SIGSTOP: its connections stay, and nobody answers.
    Stop,
}

/// All nodes. Dropped, their processes are killed and their data removed.
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    dcs: usize,
    program: PathBuf,
    _relays: Vec<RelayHandle>,
    // Last: removed when no process writes to it any more.
    directory: Scratch,
}

#[derive(Debug)]
struct Node {
    name: String,
    dc: Dc,
    address: SocketAddr,
    admin: SocketAddr,
    /// Of a voter; a proxy has none.
    api: Option<SocketAddr>,
    process: Option<Child>,
}

impl Node {
    /// Sends a signal to its process, if there is one.
    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // One that ended meanwhile cannot be told anything.
            let _ = kill_process(Pid::from_child(process), signal);
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It has ended, or does now.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Nodes {
    /// Starts all of them, each as a process of `program`, which is Trunkline, and waits until there is a leader.
    /// `shape.members` are voters.
    ///
    /// # Errors
    /// [`NodesError`].
    pub async fn start(program: PathBuf, shape: Shape, wan: &Wan) -> Result<Self, NodesError> {
        let (mut nodes, mut relays, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for dc in 0..shape.dcs {
            let kinds = (1..=shape.proxies)
                .map(|number| ("p", number))
                .chain((1..=shape.members).map(|number| ("", number)));
            for (at, (kind, number)) in kinds.enumerate() {
                let mut address = || -> io::Result<SocketAddr> {
                    let listener = held_address(block(100, dc)?, at)?;
                    let address = listener.local_addr();
                    held.push(listener);
                    address
                };
                nodes.push(Node {
                    name: format!("{}-{kind}{number}", dc_name(dc)),
                    dc: Dc(dc),
                    address: address()?,
                    admin: address()?,
                    api: kind.is_empty().then(address).transpose()?,
                    process: None,
                });
            }
        }
        let directory = Scratch::new()?;
        for from in 0..shape.dcs {
            let mut file = "[cluster]\nid = \"demo\"\n\n[log]\nlevel = \"warn\"\n".to_owned();
            for (at, node) in nodes.iter().enumerate() {
                let mut seen = node.address;
                if node.dc != Dc(from) {
                    let near = SocketAddr::new(free_address(block(200, node.dc.0)?, at)?.ip(), 0);
                    let relay = wan.relay(Dc(from), node.dc, near, node.address)?;
                    seen = relay.local_addr();
                    relays.push(relay);
                }
                file += &section(node, seen);
            }
            std::fs::write(directory.path().join(file_name(Dc(from))), file)?;
        }
        drop(held);
        let mut nodes = Self { nodes, dcs: shape.dcs, program, _relays: relays, directory };
        for at in 0..nodes.nodes.len() {
            nodes.spawn(at)?;
        }
        for at in 0..nodes.nodes.len() {
            nodes.await_ready(at).await?;
        }
        Ok(nodes)
    }

    fn spawn(&mut self, at: usize) -> io::Result<()> {
        let node = &mut self.nodes[at];
        let log = self.directory.path().join(format!("{}.log", node.name));
        let log = File::options().create(true).append(true).open(log)?;
        let process = Command::new(&self.program)
            .arg(if node.api.is_some() { "node" } else { "proxy" })
            .arg("--config")
            .arg(self.directory.path().join(file_name(node.dc)))
            .args(["--node", &node.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        node.process = Some(process);
        Ok(())
    }

    async fn await_ready(&self, at: usize) -> Result<(), NodesError> {
        let node = &self.nodes[at];
        let mut client = Client::new(node.api.unwrap_or(node.admin));
        let deadline = Instant::now() + SOON;
        while !client.get("/readyz").await.is_ok_and(|(code, _)| code == hyper::StatusCode::OK) {
            if Instant::now() > deadline {
                return Err(NodesError::Late {
                    what: format!("{} was not ready", node.name),
                    said: self.said(node),
                });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn said(&self, node: &Node) -> String {
        let log = std::fs::read_to_string(self.directory.path().join(format!("{}.log", node.name)));
        log.unwrap_or_default().lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned()
    }

    /// Names of the datacenters.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        (0..self.dcs).map(dc_name).collect()
    }

    /// The APIs of the voters of a datacenter.
    pub fn apis_in(&self, dc: Dc) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().filter(move |node| node.dc == dc).filter_map(|node| node.api)
    }

    /// The APIs of all voters.
    pub fn apis(&self) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().filter_map(|node| node.api)
    }

    /// Does harm to a node.
    pub fn harm(&mut self, name: &str, harm: Harm) {
        for node in self.nodes.iter_mut().filter(|node| node.name == name) {
            match harm {
                Harm::Kill => node.kill(),
                Harm::Stop => node.signal(Signal::STOP),
            }
        }
    }

    /// Undoes it: a killed node starts with what it has on disk, a stopped one goes on.
    ///
    /// # Errors
    /// [`NodesError`].
    pub fn heal(&mut self, name: &str) -> Result<(), NodesError> {
        for at in 0..self.nodes.len() {
            match &self.nodes[at] {
                node if node.name != name => {}
                node if node.process.is_some() => node.signal(Signal::CONT),
                _ => self.spawn(at)?,
            }
        }
        Ok(())
    }

    /// Names of all proxies.
    #[must_use]
    pub fn proxies(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.api.is_none()).map(|node| node.name.clone()).collect()
    }

    /// Who leads, and in which term, as whoever answers first says.
    pub async fn leader(&self) -> Option<(String, u64)> {
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let Some(api) = node.api else { continue };
            let Ok(Ok((_, status))) = timeout(ASK, Client::new(api).get("/v1/status")).await else {
                continue;
            };
            if let (Some(leader), Some(term)) = (status["leader"]["node"].as_str(), status["term"].as_u64()) {
                return Some((leader.to_owned(), term));
            }
        }
        None
    }

    /// The proxy that a node uses towards a datacenter now.
    pub async fn proxy_in_use(&self, from: &str, dc: Dc) -> Option<String> {
        let node = self.nodes.iter().find(|node| node.name == from)?;
        let (_, status) = Client::new(node.admin).get("/v1/status").await.ok()?;
        let site = status["datacenters"].as_array()?.iter().find(|site| site["name"] == dc_name(dc.0))?;
        let route = site["routes"].as_array()?.iter().find(|route| route["in_use"] == Value::Bool(true))?;
        Some(route["proxy"].as_str()?.to_owned())
    }

    /// Waits until all voters have applied the same, and gives the index and the digest. None, if they have applied as much and
    /// not the same.
    ///
    /// # Errors
    /// [`NodesError`].
    pub async fn digest(&self) -> Result<Option<(u64, String)>, NodesError> {
        let deadline = Instant::now() + SOON;
        loop {
            let mut digests = Vec::new();
            for api in self.apis() {
                let answer = Client::new(api).get("/v1/digest").await.ok();
                digests.push(answer.and_then(|(_, answer)| {
                    Some((answer["index"].as_u64()?, answer["digest"].as_str()?.to_owned()))
                }));
            }
            if let Some(all) = digests.into_iter().collect::<Option<Vec<_>>>()
                && let Some(first) = all.first()
                && all.iter().all(|(index, _)| *index == first.0)
            {
                return Ok(all.iter().all(|digest| digest == first).then(|| first.clone()));
            }
            if Instant::now() > deadline {
                let said = self.nodes.first().map_or(String::new(), |node| self.said(node));
                return Err(NodesError::Late { what: "not all voters had applied as much".to_owned(), said });
            }
            sleep(POLL).await;
        }
    }
}

fn file_name(dc: Dc) -> String {
    format!("{}.toml", dc_name(dc.0))
}

/// A node as it is seen from a datacenter.
fn section(node: &Node, seen: SocketAddr) -> String {
    let Node { name, dc, admin, api, .. } = node;
    let mut text = format!(
        "\n[[node]]\nid = \"{name}\"\ndc = \"{}\"\naddress = \"{seen}\"\nadmin = \"{admin}\"\n",
        dc_name(dc.0)
    );
    let roles = match api {
        Some(api) => {
            let _ = write!(text, "api = \"{api}\"\ndata = \"{{node}}\"\n");
            "\"origin\", \"member\""
        }
        None => "\"proxy\"",
    };
    let _ = writeln!(text, "roles = [{roles}]");
    text
}
