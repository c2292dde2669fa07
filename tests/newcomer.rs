//! A node that joins behind proxies whose file does not name it: they learn of it from the members, and what is sent to it, and by it,
//! goes through them.

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use support::addresses::own;
use support::http::{exchange, get};
use support::replica::Node;
use support::{exposition, poll, poll_for, signal, trunkline};

const SOON: Duration = Duration::from_secs(60);
const DATACENTERS: [&str; 3] = ["a", "b", "c"];
/// The newcomer's place in the lists.
const NEWCOMER: usize = 3;

/// Three datacenters with a replica and a proxy each, and a newcomer in one of them.
struct Cluster<'a> {
    directory: &'a Path,
    /// Of the replicas.
    mesh: Vec<SocketAddr>,
    admin: Vec<SocketAddr>,
    api: Vec<SocketAddr>,
    /// Of the proxies.
    proxy_mesh: Vec<SocketAddr>,
    proxy_admin: Vec<SocketAddr>,
}

/// A running proxy; killed when dropped.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster<'_> {
    /// The file of all, or the newcomer's own, with the newcomer in a datacenter.
    fn write_file(&self, newcomer: Option<usize>) -> String {
        let mut text = "[cluster]\nid = \"newcomer\"\n".to_owned();
        let places = (0..3).map(|at| (at, DATACENTERS[at], format!("{}-1", DATACENTERS[at])));
        for (at, dc, name) in places.chain(newcomer.map(|dc| (NEWCOMER, DATACENTERS[dc], "new".to_owned()))) {
            let _ = write!(
                text,
                "[[node]]\nid = \"{name}\"\ndc = \"{dc}\"\nroles = [\"origin\", \"member\"]\naddress = \"{}\"\nadmin = \"{}\"\n\
                 api = \"{}\"\ndata = \"{{node}}\"\n",
                self.mesh[at], self.admin[at], self.api[at]
            );
        }
        for (at, dc) in DATACENTERS.iter().enumerate() {
            let _ = write!(
                text,
                "[[node]]\nid = \"{dc}-p\"\ndc = \"{dc}\"\nroles = [\"proxy\"]\naddress = \"{}\"\nadmin = \"{}\"\n",
                self.proxy_mesh[at], self.proxy_admin[at]
            );
        }
        let path = self.directory.join(if newcomer.is_some() { "new.toml" } else { "all.toml" });
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn start_proxy(&self, file: &str, at: usize) -> Proxy {
        let node = format!("{}-p", DATACENTERS[at]);
        let log = self.directory.join(format!("{node}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        Proxy(trunkline().args(["proxy", "--config", file, "--node", &node]).stderr(log).spawn().unwrap())
    }

    fn ask(&self, address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let answer = exchange(address, request.as_bytes())?;
        Some((answer.code, serde_json::from_str(&answer.body).unwrap_or_default()))
    }

    fn status(&self, at: usize) -> Option<Value> {
        Some(self.ask(self.api[at], "GET", "/v1/status", "")?.1)
    }

    /// Which of all leads.
    fn leader(&self) -> usize {
        let leads = |at: &usize| self.status(*at).is_some_and(|status| status["role"] == "leader");
        poll("a leader", SOON, || (0..=NEWCOMER).find(leads))
    }

    /// Asks the leader for a change until it is made.
    fn change(&self, path: &str) -> Value {
        poll(path, SOON, || {
            let answer = self.ask(self.admin[self.leader()], "POST", path, "");
            answer.filter(|(code, _)| *code == 200).map(|(_, body)| body)
        })
    }

    /// Has one lead, whoever does now.
    fn lead(&self, at: usize) {
        let replica = self.status(at).unwrap()["replica"].as_str().unwrap().to_owned();
        poll("it leads", SOON, || {
            let leader = self.leader();
            if leader == at {
                return Some(());
            }
            self.ask(self.admin[leader], "POST", &format!("/v1/leader/transfer?replica={replica}"), "");
            None
        });
    }

    /// Of a node's metrics, one row.
    fn metric(&self, admin: SocketAddr, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let families = exposition::parse(&get(admin, "/metrics")?.body).unwrap();
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        families.get(name)?.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// What a node delivered to a datacenter by a route.
    fn delivered(&self, at: usize, datacenter: &str, route: &str) -> f64 {
        let labels = [("datacenter", datacenter), ("route", route)];
        self.metric(self.admin[at], "trunkline_messages_delivered_total", &labels).unwrap_or(0.0)
    }

    /// Until entries of a leader have come to a node elsewhere, and nothing that the leader sent to its datacenter meanwhile went directly:
    /// by the proxy there, or back by one here, as after a moment in which the one there was late. What goes directly in a moment of this
    /// machine's is looked over; the next entries are looked at.
    fn goes_through_proxies(&self, leader: usize, to: usize, datacenter: &str) {
        let sent = || ["direct", "proxy", "back"].map(|route| self.delivered(leader, datacenter, route));
        let mut seen = [0.0; 3];
        let alone = poll_for(SOON, || {
            let before = sent();
            let mut last = 0;
            for _ in 0..20 {
                let (code, put) = self.ask(self.api[leader], "PUT", "/v1/kv/key", "value")?;
                last = Some(put["index"].as_u64()?).filter(|_| code == 200)?;
            }
            poll("they come", SOON, || (self.status(to)?["applied_index"].as_u64()? >= last).then_some(()));
            let after = sent();
            seen = [0, 1, 2].map(|at| after[at] - before[at]);
            let [direct, proxy, back] = seen;
            (direct < 0.5 && proxy + back > 0.5).then_some(())
        });
        assert_eq!(alone, Some(()), "of the last 20 entries directly, by its proxy, and back: {seen:?}");
    }

    /// Until the proxies, of whatever datacenter, know so many nodes that their file does not name.
    fn proxies_know(&self, joined: f64) {
        for (admin, dc) in self.proxy_admin.iter().zip(DATACENTERS) {
            poll(&format!("the proxy of {dc} knows {joined} that joined"), SOON, || {
                let known = self.metric(*admin, "trunkline_proxy_members_joined", &[])?;
                ((known - joined).abs() < 0.5).then_some(())
            });
        }
    }

    /// Whether the proxy of a datacenter is linked with the newcomer.
    fn is_linked(&self, proxy: usize) -> bool {
        let status = self.ask(self.proxy_admin[proxy], "GET", "/v1/status", "").unwrap().1;
        let links = status["links"].as_array().unwrap().clone();
        links.iter().any(|link| link["peer"] == "new" && link["up"] == true)
    }
}

#[test]
fn proxies_follow_the_members_and_carry_what_a_newcomer_gets_and_sends() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(4));
    let [proxy_mesh, proxy_admin] = [(); 2].map(|()| own(3));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api, proxy_mesh, proxy_admin };
    let file = cluster.write_file(None);
    let _nodes: Vec<Node> = (0..3)
        .map(|at| {
            let node = format!("{}-1", DATACENTERS[at]);
            Node::start(&["--config", &file, "--node", &node], cluster.api[at])
        })
        .collect();
    let mut proxies: Vec<Proxy> = (0..3).map(|at| cluster.start_proxy(&file, at)).collect();
    let leader = cluster.leader();
    let there = (leader + 1) % 3;
    let datacenter = DATACENTERS[there];
    cluster.proxies_know(0.0);
    cluster.goes_through_proxies(leader, there, datacenter);

    let its_own = cluster.write_file(Some(there));
    let _newcomer = Node::start(&["--config", &its_own, "--node", "new"], cluster.api[NEWCOMER]);
    let address = cluster.mesh[NEWCOMER];
    let path = format!("/v1/members/add?node=new&datacenter={datacenter}&address={address}");
    let replica = cluster.change(&path)["replica"].as_str().unwrap().to_owned();
    let through = |leader: usize| {
        cluster.lead(leader);
        poll("its proxy is linked with it", SOON, || cluster.is_linked(there).then_some(()));
        cluster.goes_through_proxies(leader, NEWCOMER, datacenter);
    };
    cluster.proxies_know(1.0);
    let (_, told) = cluster.ask(cluster.api[leader], "GET", "/v1/members", "").unwrap();
    let its_place =
        serde_json::json!({ "node": "new", "datacenter": datacenter, "address": address.to_string() });
    assert!(told["members"].as_array().unwrap().contains(&its_place), "{told}");
    assert_eq!((told["members"].as_array().unwrap().len(), &told["ready"]), (4, &true.into()), "{told}");
    through(leader);

    // A file that is read again takes nobody away who joined.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "[log]\nlevel = \"info\"\n").unwrap();
    for (proxy, dc) in proxies.iter().zip(DATACENTERS) {
        signal(&proxy.0, "HUP");
        let told = || std::fs::read_to_string(cluster.directory.join(format!("{dc}-p.log"))).unwrap();
        poll("it is read again", SOON, || told().contains("reload: log.level").then_some(()));
    }
    through(leader);

    // It keeps nothing, and learns of it again.
    proxies.remove(there);
    proxies.insert(there, cluster.start_proxy(&file, there));
    cluster.proxies_know(1.0);
    through(leader);

    // What it sends goes through proxies elsewhere, which link with nobody that they do not know.
    cluster.change(&format!("/v1/members/promote?replica={replica}"));
    cluster.lead(NEWCOMER);
    cluster.goes_through_proxies(NEWCOMER, leader, DATACENTERS[leader]);
    for at in 0..3 {
        poll("a proxy is linked with it", SOON, || cluster.is_linked(at).then_some(()));
    }

    cluster.lead(leader);
    cluster.change(&format!("/v1/members/remove?replica={replica}"));
    cluster.proxies_know(0.0);
    for at in 0..3 {
        poll("its links are gone", SOON, || (!cluster.is_linked(at)).then_some(()));
    }
}
