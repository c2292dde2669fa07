//! Real processes within TLS in network namespaces, and a network that loses packets without a word: a datacenter behind a black
//! hole, and one whose answers alone are lost. Where no namespaces can be made the tests say so and look at nothing.

mod support;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::cluster::{Node, SOON, write};
use support::wan::Wan;
use support::{exit_code, finished, poll, poll_for, run};

const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");

/// Of each line: longer than anything is cut here.
const DEADLINE: Duration = Duration::from_secs(120);

/// Of one datacenter each: what runs there, and in which role.
const NODES: [(&str, &str, &str); 7] = [
    ("us-to-eu", "us", "origin"),
    ("us-to-ap", "us", "origin"),
    ("eu-p1", "eu", "proxy"),
    ("eu-p2", "eu", "proxy"),
    ("eu-m1", "eu", "member"),
    ("ap-p1", "ap", "proxy"),
    ("ap-m1", "ap", "member"),
];

/// A sender to each of two datacenters, with lines that do not end until they are told to.
struct Cluster {
    // Ended before their network is.
    _nodes: Vec<Node>,
    wan: Wan,
    dir: tempfile::TempDir,
    file: String,
}

/// Lines that go out, and what became of them.
struct Sending {
    sender: Node,
    enough: Arc<AtomicBool>,
    feeding: std::thread::JoinHandle<u64>,
}

impl Cluster {
    fn new() -> Option<Self> {
        let wan = Wan::new(&["us", "eu", "ap"])?;
        let dir = tempfile::tempdir().unwrap();
        let mut text = "[cluster]\nid = \"wan\"\n[security]\ncertificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\n\
            ca = \"tls/ca.crt\"\n"
            .to_owned();
        for (at, (id, site, role)) in NODES.into_iter().enumerate() {
            text += &format!(
                "[[node]]\nid = \"{id}\"\ndc = \"{site}\"\nroles = [\"{role}\"]\nadmin = \"127.0.0.1:{}\"\n",
                7480 + at
            );
            if role != "origin" {
                text += &format!("address = \"{}:{}\"\n", wan.address(site), 7400 + at);
            }
        }
        let file = write(&dir.path().join("cluster.toml"), text);
        let tls = dir.path().join("tls");
        let tls = tls.to_str().unwrap();
        for arguments in [
            &["ca", "init", "--cluster", "wan", "--dir", tls][..],
            &["ca", "issue", "--dir", tls, "--config", &file, "--all"],
        ] {
            let (code, stdout, stderr) = run(arguments);
            assert_eq!(code, 0, "{stdout}{stderr}");
        }
        let mut cluster = Self { _nodes: Vec::new(), wan, dir, file };
        cluster._nodes =
            NODES.iter().filter(|(.., role)| *role != "origin").map(|of| cluster.start(of)).collect();
        for (id, ..) in NODES.iter().filter(|(.., role)| *role != "origin") {
            poll(&format!("{id} is ready"), SOON, || cluster.status(id, &["--ready"]));
        }
        Some(cluster)
    }

    fn command(&self, id: &str, command: &str) -> Command {
        let (_, site, _) = NODES.iter().find(|(name, ..)| *name == id).expect("a node");
        let mut trunkline = self.wan.command(site, BINARY);
        trunkline.args([command, "--config", &self.file, "--node", id]);
        trunkline.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        trunkline
    }

    fn start(&self, (id, _, role): &(&str, &str, &str)) -> Node {
        let mut command = self.command(id, role);
        if *role == "member" {
            command.arg("--output").arg(self.path(id));
        }
        let log = File::create(self.path(&format!("{id}.log"))).unwrap();
        Node { id: (*id).to_owned(), child: command.stdout(Stdio::null()).stderr(log).spawn().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a node shows, if it runs and all is well with what it is asked.
    fn status(&self, id: &str, arguments: &[&str]) -> Option<String> {
        let (code, stdout, _) = finished(self.command(id, "status").args(arguments).output().unwrap());
        (code == 0).then_some(stdout)
    }

    fn unreached(&self, id: &str) -> Option<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.status(id, &["--json"])?).unwrap();
        let of = status["datacenters"].as_array()?.iter();
        Some(of.filter_map(|datacenter| datacenter["unreached_destinations"].as_u64()).sum())
    }

    /// Lines to a datacenter, as many as it takes.
    fn send(&self, id: &str, to: &str) -> Sending {
        let mut command = self.command(id, "send");
        let [table, log] =
            ["table", "log"].map(|what| File::create(self.path(&format!("{id}.{what}"))).unwrap());
        command
            .args(["--to", to, "--deadline", &format!("{} s", DEADLINE.as_secs())])
            .stdin(Stdio::piped())
            .stdout(table)
            .stderr(log);
        let mut sender = Node { id: id.to_owned(), child: command.spawn().unwrap() };
        let stdin = sender.child.stdin.take().unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let feeding = std::thread::spawn({
            let enough = Arc::clone(&enough);
            move || feed(stdin, &enough)
        });
        Sending { sender, enough, feeding }
    }

    /// Bytes that a member has got.
    fn got(&self, member: &str) -> u64 {
        std::fs::metadata(self.path(member)).map_or(0, |file| file.len())
    }

    /// A member gets more than it has.
    fn await_more(&self, member: &str) {
        let before = self.got(member);
        poll(&format!("more at {member}"), SOON, || (self.got(member) > before).then_some(()));
    }

    /// Enough was sent: all of it arrives at these members, once and in order.
    fn finish(&self, mut sending: Sending, members: &[&str]) {
        sending.enough.store(true, Ordering::Relaxed);
        let sent = sending.feeding.join().unwrap();
        let code = exit_code(&mut sending.sender.child, DEADLINE);
        let table = std::fs::read_to_string(self.path(&format!("{}.table", sending.sender.id))).unwrap();
        assert_eq!(code, 0, "{table}");
        for member in members {
            let of = |number| line_of(number).len() as u64 + 1;
            let bytes: u64 = (1..=sent).map(of).sum();
            poll(&format!("all of it at {member}"), SOON, || (self.got(member) >= bytes).then_some(()));
            let text = std::fs::read_to_string(self.path(member)).unwrap();
            let wrong = text.lines().zip(1..).find(|(line, number)| *line != line_of(*number));
            assert_eq!((text.lines().count() as u64, wrong), (sent, None), "{member}\n{table}");
        }
    }
}

fn line_of(number: u64) -> String {
    format!("line {number} of very many")
}

/// Lines, a hundred in a few milliseconds, as long as somebody takes them. How many.
fn feed(mut stdin: ChildStdin, enough: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !enough.load(Ordering::Relaxed) && writeln!(stdin, "{}", line_of(sent + 1)).is_ok() {
        sent += 1;
        if sent % 100 == 0 {
            let _ = poll_for(Duration::from_millis(1), || enough.load(Ordering::Relaxed).then_some(()));
        }
    }
    sent
}

/// While packets are lost `eu` gets nothing that its sender hears of, which is told; `ap` goes on; and once they pass again all is there.
fn loses(cut: impl FnOnce(&Wan)) {
    let Some(cluster) = Cluster::new() else { return };
    let (to_eu, to_ap) = (cluster.send("us-to-eu", "dc:eu"), cluster.send("us-to-ap", "dc:ap"));
    cluster.await_more("eu-m1");
    cluster.await_more("ap-m1");
    cut(&cluster.wan);
    let unreached = || cluster.unreached("us-to-eu").filter(|unreached| *unreached == 1);
    poll("eu is told to be out of reach", SOON, unreached);
    cluster.await_more("ap-m1");
    assert_eq!(cluster.unreached("us-to-ap"), Some(0));
    let before = cluster.got("eu-m1");
    cluster.wan.mend();
    poll("more at eu-m1", SOON, || (cluster.got("eu-m1") > before).then_some(()));
    poll("eu is in reach", SOON, || cluster.unreached("us-to-eu").filter(|unreached| *unreached == 0));
    cluster.finish(to_eu, &["eu-m1"]);
    cluster.finish(to_ap, &["ap-m1"]);
}

#[test]
fn a_datacenter_behind_a_black_hole_is_told_of_and_gets_all_of_it() {
    loses(|wan| {
        wan.cut_from("eu");
        wan.cut_to("eu");
    });
}

#[test]
fn answers_that_are_lost_alone_lose_no_message_and_double_none() {
    loses(|wan| wan.cut_from("eu"));
}

#[test]
fn messages_that_are_lost_alone_are_sent_until_they_arrive() {
    loses(|wan| wan.cut_to("eu"));
}
