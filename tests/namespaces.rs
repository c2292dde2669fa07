//! Real processes within TLS in network namespaces, and a network that loses packets without a word: a datacenter behind a black
//! hole, one whose answers alone are lost, and one that alone hears nothing, while the same sender sends to another one. Where no
//! namespaces can be made the tests say so and look at nothing.

mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::cluster::{Cluster, Node};
use support::wan::Wan;
use support::{poll, run};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use trunkline::config::Role;
use trunkline_mesh::{Batch, Client, Datacenter, Inbox, Message, NodeId, join};

/// Within TLS, and with budgets of the sender that are full soon.
const CHANGES: [(&str, &str); 4] = [
    ("insecure = false", "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\""),
    ("# message_bytes_max = \"4 MiB\"", "message_bytes_max = \"16 KiB\""),
    ("# destination_budget_bytes = \"4 MiB\"", "destination_budget_bytes = \"64 KiB\""),
    ("# datacenter_budget_bytes = \"16 MiB\"", "datacenter_budget_bytes = \"69 KiB\""),
];
const NODES: [&str; 5] = ["eu-p1", "eu-p2", "eu-m1", "ap-p1", "ap-m1"];

const LINE_BYTES: usize = 1 << 10;
/// Lines under way to a member at once, of 256 B more each: all that it may have, and all that its datacenter has room for. One more is
/// refused, or has to wait; so that a datacenter that is waited for would stop another one that had no room of its own.
const WINDOW: usize = 51;
/// Between two lines: files of a slow machine have to be read, too.
const PAUSE: Duration = Duration::from_millis(5);
/// For whatever must happen at last, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of each line: longer than anything is cut here.
const DEADLINE: Duration = Duration::from_secs(1800);

/// A sender in `us`, and members in `eu` and `ap` with their proxies.
struct Sender {
    client: Client,
    _inbox: Inbox,
    runtime: Runtime,
    _nodes: Vec<Node>,
    cluster: Cluster,
}

/// Numbered lines to a member, as long as they are wanted.
struct Sending {
    to: &'static str,
    wanted: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
    /// How many were sent: all of them are delivered.
    sent: JoinHandle<u64>,
}

impl Sender {
    fn new() -> Option<Self> {
        let cluster = Cluster::within(Wan::new(&["us", "eu", "ap"])?, &CHANGES);
        let tls = cluster.path("tls");
        let tls = tls.to_str().unwrap();
        for arguments in [
            &["ca", "init", "--cluster", "example", "--dir", tls][..],
            &["ca", "issue", "--dir", tls, "--config", cluster.file(), "--all"],
        ] {
            let (code, stdout, stderr) = run(arguments);
            assert_eq!(code, 0, "{stdout}{stderr}");
        }
        let nodes = cluster.start_all(&NODES);
        let runtime = cluster.wan.as_ref()?.runtime("us");
        let config = &cluster.config;
        let config = config.mesh(config.choose(Some("us-leader"), Role::Origin).unwrap());
        let joined = runtime.spawn(join(config));
        let (client, inbox) = runtime.block_on(joined).unwrap().unwrap();
        Some(Self { client, _inbox: inbox, runtime, _nodes: nodes, cluster })
    }

    fn send(&self, to: &'static str) -> Sending {
        let (wanted, delivered) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let sent = send(self.client.clone(), to, Arc::clone(&wanted), Arc::clone(&delivered));
        Sending { to, wanted, delivered, sent: self.runtime.spawn(sent) }
    }

    /// Waits until so many destinations of a datacenter are told to be out of reach.
    fn await_unreached(&self, site: &str, count: u64) {
        let status =
            || self.client.mesh().status().datacenters.into_iter().find(|of| of.name.as_str() == site);
        let unreached = || status().filter(|of| of.unreached_destinations == count);
        poll(&format!("{count} out of reach in {site}"), PATIENCE, unreached);
    }

    /// No more is wanted: all of it arrives, once and in order.
    fn finish(&self, sending: Sending) {
        sending.wanted.store(false, Ordering::Relaxed);
        let sent = self.runtime.block_on(sending.sent).unwrap();
        let bytes = sent * (LINE_BYTES as u64 + 1);
        let file = self.cluster.path(sending.to);
        let whole = || std::fs::metadata(&file).is_ok_and(|file| file.len() >= bytes).then_some(());
        poll(&format!("all of it at {}", sending.to), PATIENCE, whole);
        let text = self.cluster.received(sending.to);
        let wrong = text.lines().zip(1..).find(|(line, number)| *line != line_of(*number));
        assert_eq!((text.lines().count() as u64, wrong), (sent, None), "{}", sending.to);
    }
}

impl Sending {
    /// Much more is delivered than was, and than was under way.
    fn await_more(&self) {
        let enough = self.delivered.load(Ordering::Relaxed) + 3 * WINDOW as u64;
        let more = || (self.delivered.load(Ordering::Relaxed) > enough).then_some(());
        poll(&format!("more at {}", self.to), PATIENCE, more);
    }
}

async fn send(client: Client, to: &str, wanted: Arc<AtomicBool>, delivered: Arc<AtomicU64>) -> u64 {
    let (id, site) = (NodeId::new(to).unwrap(), Datacenter::new(&to[..2]).unwrap());
    let (mut under_way, mut sent) = (VecDeque::new(), 0);
    loop {
        let more = wanted.load(Ordering::Relaxed);
        if more && under_way.len() < WINDOW {
            sent += 1;
            let mut batch = Batch::to(site.clone());
            batch.push(Message::new(id.clone(), line_of(sent).into_bytes()).deadline(DEADLINE));
            under_way.push_back(client.send(batch).await.unwrap());
            tokio::time::sleep(PAUSE).await;
        } else if let Some(receipt) = under_way.pop_front() {
            let outcomes = receipt.await;
            assert!(outcomes[0].is_delivered(), "{to}: {outcomes:?}");
            delivered.fetch_add(1, Ordering::Relaxed);
        } else if !more {
            return sent;
        }
    }
}

fn line_of(number: u64) -> String {
    format!("{number:0LINE_BYTES$}")
}

/// While packets are lost `eu` gets nothing that the sender hears of, which is told; `ap` goes on; and once they pass again all is there.
fn loses(cut: impl FnOnce(&Wan)) {
    let Some(sender) = Sender::new() else { return };
    let wan = sender.cluster.wan.as_ref().unwrap();
    let [eu, ap] = ["eu-m1", "ap-m1"].map(|to| sender.send(to));
    eu.await_more();
    ap.await_more();
    cut(wan);
    sender.await_unreached("eu", 1);
    ap.await_more();
    sender.await_unreached("ap", 0);
    wan.mend();
    sender.await_unreached("eu", 0);
    eu.await_more();
    sender.finish(eu);
    sender.finish(ap);
}

#[test]
fn a_datacenter_behind_a_black_hole_is_told_of_holds_up_no_other_and_gets_all_of_it() {
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
