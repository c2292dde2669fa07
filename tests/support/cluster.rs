//! The example cluster on addresses of its own or in network namespaces, and processes that end with the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use trunkline::config::Config;
use trunkline_mesh::{NodeId, NodeSpec};

use super::addresses::own;
use super::wan::Wan;
use super::{BINARY, finished, poll_for, unattended};

/// Time for anything that should happen at once, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A configuration file in a directory of its own, and where its nodes run.
pub(crate) struct Cluster {
    /// Nothing on loopback. Ends whoever runs there before their files are removed.
    pub(crate) wan: Option<Wan>,
    dir: tempfile::TempDir,
    pub(crate) config: Config,
}

/// A running node; killed when dropped.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) child: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// The example on addresses of its own, with `changes` made to its text.
    pub(crate) fn new(changes: &[(&str, &str)]) -> Self {
        Self::addressed(changes, own_address)
    }

    /// The same in namespaces: a node has the address of its datacenter, and its admin API is asked from there.
    pub(crate) fn within(wan: Wan, changes: &[(&str, &str)]) -> Self {
        let (mut site, mut port) = (String::new(), 7400);
        let cluster = Self::addressed(changes, |line| match line.split_once(" = \"") {
            Some(("dc", name)) => {
                site = name.trim_end_matches('"').to_owned();
                line.to_owned()
            }
            Some((key @ ("address" | "admin" | "api"), _)) => {
                port += 1;
                let host = if key == "address" { wan.address(&site) } else { "127.0.0.1".to_owned() };
                format!("{key} = \"{host}:{port}\"")
            }
            _ => line.to_owned(),
        });
        Self { wan: Some(wan), ..cluster }
    }

    fn addressed(changes: &[(&str, &str)], mut address: impl FnMut(&str) -> String) -> Self {
        let mut text = std::fs::read_to_string("deploy/config/example.toml").unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let text: String = text.lines().map(|line| address(line) + "\n").collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.toml");
        std::fs::write(&path, &text).unwrap();
        let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        Self { wan: None, dir, config }
    }

    /// The path of the configuration file.
    pub(crate) fn file(&self) -> &str {
        self.config.path().to_str().unwrap()
    }

    /// A path in the cluster's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn admin(&self, node: &str) -> SocketAddr {
        self.config.admin(&NodeId::new(node).unwrap()).unwrap()
    }

    pub(crate) fn api(&self, node: &str) -> SocketAddr {
        self.config.api(&NodeId::new(node).unwrap()).unwrap()
    }

    pub(crate) fn mesh(&self, node: &str) -> SocketAddr {
        self.node(node).address.unwrap()
    }

    fn node(&self, node: &str) -> &NodeSpec {
        self.config.topology().node(&NodeId::new(node).unwrap()).unwrap()
    }

    /// A program where a node is.
    pub(crate) fn command(&self, node: &str, program: &str) -> Command {
        let within = |wan: &Wan| wan.command(self.node(node).datacenter.as_str(), program);
        self.wan.as_ref().map_or_else(|| Command::new(program), within)
    }

    fn trunkline(&self, node: &str, command: &str, file: &str) -> Command {
        let mut trunkline = unattended(self.command(node, BINARY));
        trunkline.args([command, "--config", file, "--node", node]);
        trunkline
    }

    /// What a node shows, if it runs and all is well with what it is asked.
    pub(crate) fn status(&self, node: &str, arguments: &[&str]) -> Option<String> {
        let mut status = self.trunkline(node, "status", self.file());
        let (code, stdout, _) = finished(status.args(arguments).output().unwrap());
        (code == 0).then_some(stdout)
    }

    /// Starts a node; members write to a file of their name.
    pub(crate) fn start(&self, node: &str) -> Node {
        self.start_from(self.file(), node)
    }

    /// The same by another file of the same nodes.
    pub(crate) fn start_from(&self, file: &str, node: &str) -> Node {
        self.spawn(file, node, &self.path(node))
    }

    /// The same, and what members get is kept nowhere.
    pub(crate) fn start_for_nobody(&self, node: &str) -> Node {
        self.spawn(self.file(), node, Path::new("/dev/null"))
    }

    fn spawn(&self, file: &str, node: &str, output: &Path) -> Node {
        let proxy = self.node(node).roles.proxy;
        let mut command = self.trunkline(node, if proxy { "proxy" } else { "member" }, file);
        if !proxy {
            command.arg("--output").arg(output);
        }
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{node}.log")));
        command.stdout(Stdio::null()).stderr(log.unwrap());
        Node { id: node.to_owned(), child: command.spawn().unwrap() }
    }

    /// Starts nodes and waits until all of them are ready.
    pub(crate) fn start_all(&self, nodes: &[&str]) -> Vec<Node> {
        let nodes: Vec<Node> = nodes.iter().map(|node| self.start(node)).collect();
        for node in &nodes {
            self.await_ready(&node.id);
        }
        nodes
    }

    pub(crate) fn await_ready(&self, node: &str) {
        self.poll(node, "ready", || self.status(node, &["--ready"]));
    }

    /// Looks until there is something; when there is nothing in time, the node's log says why.
    pub(crate) fn poll<T>(&self, node: &str, what: &str, look: impl FnMut() -> Option<T>) -> T {
        poll_for(SOON, look)
            .unwrap_or_else(|| panic!("{node} {what}: not within {SOON:?}\n{}", self.log(node)))
    }

    pub(crate) fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{node}.log"))).unwrap_or_default()
    }

    /// What a member has written so far.
    pub(crate) fn received(&self, member: &str) -> String {
        std::fs::read_to_string(self.path(member)).unwrap_or_default()
    }
}

/// Puts an address of this process's own in place of one of the example.
fn own_address(line: &str) -> String {
    match line.split_once(" = \"") {
        Some((key @ ("address" | "admin" | "api"), _)) => format!("{key} = \"{}\"", own(1)[0]),
        _ => line.to_owned(),
    }
}

/// Numbered lines, from 1.
pub(crate) fn lines(count: usize) -> String {
    (1..=count).map(|index| format!("line {index} of a message that several members share\n")).collect()
}

/// Writes a file and gives its path as text.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> String {
    std::fs::write(path, content).unwrap();
    path.to_str().unwrap().to_owned()
}
