//! Replicas that are proxies too, each in one process: two datacenters of two, and one of one. Whoever leads sends the others of a datacenter
//! everything by one of them; it is killed, and nothing is lost.

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use support::addresses::own;
use support::replica::Node;
use support::{exposition, http, poll};

const SOON: Duration = Duration::from_secs(60);
const NODES: [(&str, &str); 5] =
    [("us-1", "us"), ("us-2", "us"), ("eu-1", "eu"), ("eu-2", "eu"), ("ap-1", "ap")];

struct Cluster {
    /// `None` while it does not run.
    nodes: Vec<Option<Node>>,
    apis: Vec<SocketAddr>,
    admins: Vec<SocketAddr>,
    data: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let all = own(3 * NODES.len());
        let (addresses, rest) = all.split_at(NODES.len());
        let (apis, admins) = rest.split_at(NODES.len());
        let mut text = "[cluster]\nid = \"colocated\"\n".to_owned();
        for (index, (id, dc)) in NODES.iter().enumerate() {
            let (address, api, admin) = (addresses[index], apis[index], admins[index]);
            write!(
                text,
                "[[node]]\nid = \"{id}\"\ndc = \"{dc}\"\nroles = [\"origin\", \"member\", \"proxy\"]\n\
                 address = \"{address}\"\nadmin = \"{admin}\"\napi = \"{api}\"\ndata = \"{{node}}\"\n"
            )
            .unwrap();
        }
        std::fs::write(data.path().join("cluster.toml"), text).unwrap();
        let nodes = (0..NODES.len()).map(|_| None).collect();
        let mut cluster = Self { nodes, apis: apis.to_vec(), admins: admins.to_vec(), data };
        (0..NODES.len()).for_each(|index| cluster.run(index));
        cluster.nodes.iter().flatten().for_each(Node::ready);
        cluster
    }

    fn run(&mut self, index: usize) {
        let file = self.data.path().join("cluster.toml");
        let args = ["--config", file.to_str().unwrap(), "--node", NODES[index].0];
        let log = self.data.path().join(format!("{}.log", NODES[index].0));
        self.nodes[index] = Some(Node::start_logged(&args, self.apis[index], &log));
    }

    fn status(&self, index: usize) -> Option<Value> {
        serde_json::from_str(&http::get(self.apis[index], "/v1/status")?.body).ok()
    }

    /// Who leads, as it says itself.
    fn leader(&self) -> usize {
        let leads = |index: &usize| {
            let status = self.status(*index);
            status.is_some_and(|status| status["role"] == "leader" && status["ready"] == true)
        };
        let running = || (0..NODES.len()).filter(|index| self.nodes[*index].is_some());
        poll("a leader", SOON, || running().find(leads))
    }

    /// Whether it was acknowledged.
    fn put(&self, index: usize, key: &str, value: &str) -> bool {
        let request = format!(
            "PUT /v1/kv/{key} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{value}",
            value.len()
        );
        http::exchange(self.apis[index], request.as_bytes()).is_some_and(|answer| answer.code == 200)
    }

    /// A value at each node that runs, under a key of its own, until it is acknowledged.
    fn put_everywhere(&self, value: &str) {
        for index in (0..NODES.len()).filter(|index| self.nodes[*index].is_some()) {
            let key = format!("{value}-{}", NODES[index].0);
            poll("a put", SOON, || self.put(index, &key, value).then_some(()));
        }
    }

    fn metric(&self, index: usize, name: &str, label: &str) -> f64 {
        let Some(page) = http::get(self.admins[index], "/metrics") else { return 0.0 };
        let families = exposition::parse(&page.body).unwrap();
        let rows = &families[name].samples;
        rows.iter().filter(|(row, _)| format!("{row:?}").contains(label)).map(|(_, value)| value).sum()
    }

    /// What goes to another datacenter with two replicas is passed on by one of them.
    fn passes_on(&self, leader: usize) {
        let (_, own) = NODES[leader];
        let beside = |dc: &str| NODES.iter().filter(|(_, other)| *other == dc).count() == 2;
        let far: Vec<usize> =
            (0..NODES.len()).filter(|index| NODES[*index].1 != own && beside(NODES[*index].1)).collect();
        let passed =
            || far.iter().map(|index| self.metric(*index, "trunkline_proxy_runs_forwarded_total", "")).sum();
        let by_proxy = || self.metric(leader, "trunkline_messages_delivered_total", "\"proxy\"");
        let (before, by_proxy_before): (f64, f64) = (passed(), by_proxy());
        poll("entries are passed on", SOON, || {
            self.put(leader, "passed", "on");
            let (passed, by_proxy): (f64, f64) = (passed(), by_proxy());
            (passed > before && by_proxy > by_proxy_before).then_some(())
        });
    }

    /// All have applied the same, and have what was put at these nodes.
    fn agree(&self, value: &str, at: impl Fn(usize) -> bool) {
        let digest = |api: &SocketAddr| http::get(*api, "/v1/digest").map(|answer| answer.body);
        poll("all have applied the same", SOON, || {
            let all: Vec<_> = self.apis.iter().map(digest).collect();
            all.iter().all(|one| one.is_some() && *one == all[0]).then_some(())
        });
        for index in (0..NODES.len()).filter(|index| at(*index)) {
            for api in &self.apis {
                let path = format!("/v1/kv/{value}-{}?read=stale", NODES[index].0);
                let read = http::get(*api, &path).expect("an answer").body;
                let read: Value = serde_json::from_str(&read).unwrap();
                assert_eq!(read["value"]["text"], *value, "{path} at {api}");
            }
        }
    }
}

#[test]
fn replicas_that_are_proxies_too_lose_nothing_when_their_leader_is_killed() {
    let mut cluster = Cluster::start();
    let first = cluster.leader();
    cluster.put_everywhere("before");
    cluster.passes_on(first);
    cluster.agree("before", |_| true);

    // SIGKILL.
    drop(cluster.nodes[first].take());
    let next = cluster.leader();
    assert_ne!(next, first);
    cluster.put_everywhere("meanwhile");
    cluster.run(first);
    cluster.nodes[first].as_ref().expect("it was started").ready();
    let leader = cluster.leader();
    cluster.passes_on(leader);
    cluster.put_everywhere("after");
    cluster.agree("meanwhile", |index| index != first);
    cluster.agree("after", |_| true);
}
