//! Whole clusters in one process: real sockets on loopback, real disks, no fault but those that a test makes.

mod support;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use support::addresses::own;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use trunkline::consensus::command::Request;
use trunkline::consensus::key_value::{KeyValue, Operation};
use trunkline::consensus::{Consistency, MemberError, Replica, ReplicaConfig, Role, Timing};
use trunkline_mesh::{Client, ClusterId, Config, Datacenter, NodeId, NodeSpec, Roles, Topology, join};

/// Nothing here takes long; what hangs shall say so.
const SOON: Duration = Duration::from_secs(60);

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// Voters called dc-1, dc-2 … in each datacenter, and a proxy dc-p.
fn topology(datacenters: &[(&str, usize)], proxies: bool) -> Arc<Topology> {
    let node = |name: String, dc: &str, roles: Roles| {
        let address = Some(own(1)[0]);
        NodeSpec { id: id(&name), datacenter: Datacenter::new(dc).unwrap(), roles, address }
    };
    let mut nodes = Vec::new();
    for (dc, voters) in datacenters {
        let both = Roles { origin: true, member: true, proxy: false };
        nodes.extend((1..=*voters).map(|index| node(format!("{dc}-{index}"), dc, both)));
        nodes.extend(proxies.then(|| node(format!("{dc}-p"), dc, Roles::PROXY)));
    }
    Arc::new(Topology::new(ClusterId::new("cluster").unwrap(), nodes).unwrap())
}

fn timing() -> Timing {
    Timing {
        snapshot_entries: 100,
        heartbeat: Duration::from_millis(100),
        election: Duration::from_millis(500),
        ..Timing::default()
    }
}

struct Node {
    replica: Replica<KeyValue>,
    client: Client,
}

impl Node {
    async fn start(topology: &Arc<Topology>, name: &str, data: &Path, founders: &[NodeId]) -> Self {
        Self::start_with(topology, name, data, founders, timing()).await
    }

    async fn start_with(
        topology: &Arc<Topology>,
        name: &str,
        data: &Path,
        founders: &[NodeId],
        timing: Timing,
    ) -> Self {
        let (client, inbox) = join(Config::new(Arc::clone(topology), id(name))).await.unwrap();
        let config = ReplicaConfig { data: data.join(name), founders: founders.to_vec(), timing };
        let name = id(name);
        let started = Replica::start(config, KeyValue::default(), client.clone(), inbox, &name);
        Self { replica: started.await.unwrap(), client }
    }

    async fn put(&self, key: &str, value: &str) -> u64 {
        let operation =
            Operation::Put { key: key.to_owned(), value: value.to_owned().into(), if_index: None };
        let answer = timeout(SOON, self.replica.propose(None, operation.encode())).await.unwrap().unwrap();
        assert_eq!(answer.result.unwrap(), r#""done""#);
        answer.id.index
    }

    async fn get(&self, key: &'static str, consistency: Consistency) -> Option<Bytes> {
        let look = move |machine: &KeyValue| machine.get(key).map(|value| value.bytes);
        timeout(SOON, self.replica.read(consistency, look)).await.unwrap().unwrap().value
    }

    async fn stop(self) {
        self.replica.stop().await;
        self.client.mesh().close();
        self.client.mesh().closed().await;
    }
}

/// One voter in each of three datacenters, a proxy in each, all started at once.
struct Cluster {
    topology: Arc<Topology>,
    data: TempDir,
    nodes: Vec<Node>,
    proxies: Vec<Client>,
    founders: Vec<NodeId>,
}

impl Cluster {
    async fn start(datacenters: &[(&str, usize)], proxies: bool) -> Self {
        Self::start_with(datacenters, proxies, timing()).await
    }

    async fn start_with(datacenters: &[(&str, usize)], proxies: bool, timing: Timing) -> Self {
        let topology = topology(datacenters, proxies);
        let data = tempfile::tempdir().unwrap();
        let founders: Vec<NodeId> =
            topology.nodes().filter(|node| node.roles.member).map(|node| node.id.clone()).collect();
        let mut running = Vec::new();
        for node in topology.nodes().filter(|node| node.roles.proxy) {
            running.push(join(Config::new(Arc::clone(&topology), node.id.clone())).await.unwrap().0);
        }
        let starts = founders
            .iter()
            .map(|name| Node::start_with(&topology, name.as_str(), data.path(), &founders, timing));
        let nodes = futures_util::future::join_all(starts).await;
        Self { topology, data, nodes, proxies: running, founders }
    }

    async fn leader(&self) -> usize {
        let deadline = Instant::now() + SOON;
        loop {
            let leads = |node: &Node| node.replica.status().role == Role::Leader;
            if let Some(leader) = self.nodes.iter().position(leads) {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody was elected");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_commits_at_once_and_has_it_after_a_restart() {
    let topology = topology(&[("us", 1)], false);
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&topology, "us-1", data.path(), &[id("us-1")]).await;
    let index = node.put("a", "one").await;
    assert_eq!(node.get("a", Consistency::Linearizable).await.unwrap(), "one");
    assert_eq!(node.get("a", Consistency::Lease).await.unwrap(), "one");
    let digest = node.replica.digest().await.unwrap();
    let replica = node.replica.status().replica;
    node.stop().await;

    let node = Node::start(&topology, "us-1", data.path(), &[id("us-1")]).await;
    assert_eq!(node.get("a", Consistency::Linearizable).await.unwrap(), "one");
    assert_eq!(node.replica.status().replica, replica);
    assert!(node.put("a", "two").await > index);
    assert_ne!(node.replica.digest().await.unwrap(), digest);
    node.stop().await;
}

/// After it was asked once.
async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_pending())).await
}

/// As an HTTP client does that closes its connection: nobody waits for the answer any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_node_to_join_and_goes_away_leaves_it_in_no_topology() {
    let all = topology(&[("us", 1), ("eu", 1)], false);
    let of_one = Arc::new(Topology::new(all.cluster().clone(), all.node(&id("us-1")).cloned()).unwrap());
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&of_one, "us-1", data.path(), &[id("us-1")]).await;
    node.put("a", "one").await;
    // It does not run: it says nothing for as long as anybody would wait.
    let newcomer = all.node(&id("eu-1")).unwrap().clone();
    let add =
        || node.replica.add_at(newcomer.id.clone(), newcomer.datacenter.clone(), newcomer.address.unwrap());
    let known = || node.client.mesh().topology().node(&newcomer.id).is_some();
    let mut first = Box::pin(add());
    assert!(is_pending(&mut first).await && known(), "it is being asked");
    let mut second = Box::pin(add());
    assert!(is_pending(&mut second).await);
    drop(first);
    assert!(known(), "somebody asks it still");
    drop(second);
    assert!(!known(), "nobody does");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_datacenters_found_a_cluster_and_agree() {
    let cluster = Cluster::start(&[("us", 1), ("eu", 1), ("ap", 1)], true).await;
    cluster.leader().await;
    // From every node, whoever leads, and read at every other.
    for (index, node) in cluster.nodes.iter().enumerate() {
        node.put("key", &format!("from {index}")).await;
        for other in &cluster.nodes {
            let read = other.get("key", Consistency::Linearizable).await.unwrap();
            assert_eq!(read, format!("from {index}"));
        }
    }
    let session = cluster.nodes[0].replica.open_session().await.unwrap();
    let request = Some(Request { client: session, seq: 1 });
    let put = Operation::Put { key: "once".to_owned(), value: "x".into(), if_index: Some(0) }.encode();
    // At every node: applied by the first one alone, else the condition would not hold.
    for node in &cluster.nodes {
        let answer = node.replica.propose(request, put.clone()).await.unwrap();
        assert_eq!(answer.result.unwrap(), r#""done""#);
    }
    let mut digests = Vec::new();
    for node in &cluster.nodes {
        node.replica.barrier(Consistency::Linearizable).await.unwrap();
        digests.push(node.replica.digest().await.unwrap());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let entries = cluster.nodes[2].replica.follow(0, usize::MAX).await.unwrap();
    assert!(entries.windows(2).all(|pair| pair[0].id.index + 1 == pair[1].id.index));
    for node in cluster.nodes {
        node.stop().await;
    }
    drop(cluster.proxies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_a_leader_goes_and_returns() {
    let mut cluster = Cluster::start(&[("us", 1), ("eu", 1), ("ap", 1)], false).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].put("before", "yes").await;
    let gone = cluster.nodes.remove(leader);
    let name = cluster.founders[leader].clone();
    gone.stop().await;
    cluster.leader().await;
    cluster.nodes[0].put("meanwhile", "yes").await;
    for node in &cluster.nodes {
        assert_eq!(node.get("before", Consistency::Linearizable).await.unwrap(), "yes");
    }
    let back = Node::start(&cluster.topology, name.as_str(), cluster.data.path(), &cluster.founders).await;
    assert_eq!(back.get("before", Consistency::Linearizable).await.unwrap(), "yes");
    assert_eq!(back.get("meanwhile", Consistency::Linearizable).await.unwrap(), "yes");
    cluster.nodes.push(back);
    for node in cluster.nodes {
        node.stop().await;
    }
}

/// What a leader was asked that is gone is not waited for until patience ends, but until somebody else leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_leader_that_was_replaced() {
    let patience = 10 * SOON;
    let mut cluster =
        Cluster::start_with(&[("us", 1), ("eu", 1), ("ap", 1)], false, Timing { patience, ..timing() }).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].put("before", "yes").await;
    for node in &cluster.nodes {
        assert_eq!(node.get("before", Consistency::Linearizable).await.unwrap(), "yes");
    }
    cluster.nodes.remove(leader).stop().await;
    let other = &cluster.nodes[0];
    let operation = Operation::Put { key: "after".to_owned(), value: "yes".into(), if_index: None };
    // The leader is asked, as nobody knows yet that it is gone. Both end within `SOON`.
    let (proposed, read) = tokio::join!(
        timeout(SOON, other.replica.propose(None, operation.encode())),
        other.get("before", Consistency::Linearizable),
    );
    match proposed.expect("it is over long before patience is") {
        Ok(answer) => assert_eq!(answer.result.unwrap(), r#""done""#),
        Err(error) => assert!(!error.is_definite(), "{error}"),
    }
    assert_eq!(read.unwrap(), "yes");
    for node in cluster.nodes {
        node.stop().await;
    }
}

/// Nine voters in three datacenters: an entry leaves for each datacenter in one batch, for all of its replicas, whether entries
/// come one by one or many at once. What a batch is on the wire, the tests of the mesh say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_leaves_once_for_each_datacenter() {
    const ENTRIES: u64 = 400;
    let cluster = Cluster::start(&[("us", 3), ("eu", 3), ("ap", 3)], true).await;
    let leader = &cluster.nodes[cluster.leader().await];
    leader.put("warm", "up").await;
    let everywhere = || async {
        for other in &cluster.nodes {
            other.replica.barrier(Consistency::Linearizable).await.unwrap();
        }
    };
    everywhere().await;
    let before = leader.replica.status();
    for number in 0..ENTRIES / 2 {
        leader.put("one by one", &number.to_string()).await;
    }
    futures_util::future::join_all((0..ENTRIES / 2).map(|_| leader.put("at once", "x"))).await;
    everywhere().await;
    let after = leader.replica.status();
    assert_eq!((after.term, after.role), (before.term, before.role), "one leader all along");
    for datacenter in ["us", "eu", "ap"] {
        let datacenter = Datacenter::new(datacenter).unwrap();
        let left = after.sent.entries[&datacenter] - before.sent.entries[&datacenter];
        assert!(
            (ENTRIES * 100..=ENTRIES * 102).contains(&(left * 100)),
            "{left} of {ENTRIES} entries to {datacenter}"
        );
    }
    for node in cluster.nodes {
        node.stop().await;
    }
}

/// The log goes on without it, and is cut in front of where it stopped: only a snapshot helps. It is larger than what is under
/// way at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_while_the_log_was_purged_gets_a_snapshot() {
    let mut cluster = Cluster::start(&[("us", 1), ("eu", 1), ("ap", 1)], true).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.nodes[away].replica.barrier(Consistency::Linearizable).await.unwrap();
    let last = cluster.nodes[away].replica.status().last.unwrap();
    let name = cluster.founders[away].clone();
    let gone = cluster.nodes.remove(away);
    gone.stop().await;
    let leader = &cluster.nodes[cluster.leader().await];
    let large = "x".repeat(60_000);
    for number in 0..250 {
        let operation = Operation::Put {
            key: format!("key {number}"),
            value: format!("{number} {large}").into(),
            if_index: None,
        };
        leader.replica.propose(None, operation.encode()).await.unwrap().result.unwrap();
    }
    let deadline = Instant::now() + SOON;
    while leader.replica.first_index() <= last + 1 {
        assert!(Instant::now() < deadline, "the log is not purged: {:?}", leader.replica.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = Node::start(&cluster.topology, name.as_str(), cluster.data.path(), &cluster.founders).await;
    // The leader first waits for what the follower of before owes it.
    let deadline = Instant::now() + SOON;
    while back.replica.barrier(Consistency::Linearizable).await.is_err() {
        assert!(Instant::now() < deadline, "it does not catch up: {:?}", back.replica.status());
    }
    let read = back.get("key 0", Consistency::Linearizable).await.unwrap();
    assert!(read.starts_with(b"0 x"));
    assert!(back.replica.status().snapshot.is_some_and(|snapshot| snapshot.index > last));
    assert!(back.replica.first_index() > last, "it has no entries of before the snapshot");
    let digest = back.replica.digest().await.unwrap();
    leader.replica.barrier(Consistency::Linearizable).await.unwrap();
    assert_eq!(leader.replica.digest().await.unwrap(), digest);
    // What it was given is on its own disk.
    back.stop().await;
    let again = Node::start(&cluster.topology, name.as_str(), cluster.data.path(), &cluster.founders).await;
    assert!(again.get("key 249", Consistency::Linearizable).await.unwrap().starts_with(b"249 x"));
    cluster.nodes.push(again);
    for node in cluster.nodes {
        node.stop().await;
    }
}

/// A node whose directory was wiped comes back as another replica: it has no vote, whatever it had before, until somebody takes
/// the old one out and the new one in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_returns_without_a_vote_and_is_put_in_the_place_of_what_it_was() {
    let mut cluster = Cluster::start(&[("us", 1), ("eu", 1), ("ap", 1)], false).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].put("before", "yes").await;
    let wiped = (leader + 1) % 3;
    let name = cluster.founders[wiped].clone();
    let gone = cluster.nodes.remove(wiped);
    let old = gone.replica.status().replica;
    gone.stop().await;
    std::fs::remove_dir_all(cluster.data.path().join(name.as_str())).unwrap();

    let back = Node::start(&cluster.topology, name.as_str(), cluster.data.path(), &cluster.founders).await;
    let leader = &cluster.nodes[cluster.leader().await];
    let voters = |node: &Node| {
        node.replica.status().voters.into_iter().map(|(replica, _)| replica).collect::<Vec<_>>()
    };
    let new = back.replica.status().replica;
    assert_ne!(new, old);
    assert!(!voters(leader).contains(&new) && voters(leader).contains(&old));
    assert_eq!(back.replica.status().role, Role::Learner);
    assert_eq!(back.replica.add(&name).await, Err(MemberError::NotLeader));
    assert_eq!(leader.replica.promote(new).await, Err(MemberError::Unknown { replica: new }));

    assert_eq!(leader.replica.add(&name).await, Ok(new));
    leader.replica.remove(old).await.unwrap();
    let deadline = Instant::now() + SOON;
    while leader.replica.promote(new).await.is_err() {
        assert!(Instant::now() < deadline, "it does not catch up: {:?}", leader.replica.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(back.get("before", Consistency::Linearizable).await.unwrap(), "yes");
    let now = voters(leader);
    assert!(now.contains(&new) && !now.contains(&old) && now.len() == 3, "{now:?}");

    // It can lead, and nothing is lost on the way there.
    let deadline = Instant::now() + SOON;
    while back.replica.status().role != Role::Leader {
        let leads = cluster.nodes.iter().find(|node| node.replica.status().role == Role::Leader);
        if let Some(leads) = leads {
            leads.replica.transfer(new).await.unwrap();
        }
        assert!(Instant::now() < deadline, "it does not lead: {:?}", back.replica.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    back.put("after", "yes").await;
    for node in &cluster.nodes {
        assert_eq!(node.get("after", Consistency::Linearizable).await.unwrap(), "yes");
    }
    cluster.nodes.push(back);
    for node in cluster.nodes {
        node.stop().await;
    }
}

/// The last record of a stopped follower is damaged, which it had acknowledged: it is sent it again by the same leader, and does
/// not vote as long as that one leads, for it could vote for somebody who does not have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_what_it_acknowledged_is_sent_it_again_and_stays_in_doubt() {
    let mut cluster = Cluster::start(&[("us", 1), ("eu", 1), ("ap", 1)], false).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].put("key", "the last entry").await;
    let damaged = (leader + 1) % 3;
    let name = cluster.founders[damaged].clone();
    cluster.nodes[damaged].replica.barrier(Consistency::Linearizable).await.unwrap();
    let digest = cluster.nodes[damaged].replica.digest().await.unwrap();
    cluster.nodes.remove(damaged).stop().await;
    let log = cluster.data.path().join(name.as_str()).join("log");
    let segment = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|kind| kind == "log")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let back = Node::start(&cluster.topology, name.as_str(), cluster.data.path(), &cluster.founders).await;
    let leader = &cluster.nodes[cluster.leader().await];
    let term = leader.replica.status().term;
    let deadline = Instant::now() + SOON;
    while back.replica.barrier(Consistency::Linearizable).await.is_err() {
        assert!(Instant::now() < deadline, "it does not catch up: {:?}", back.replica.status());
    }
    assert_eq!(back.replica.digest().await.unwrap(), digest);
    assert_eq!(leader.replica.status().term, term, "the leader goes on");
    assert!(back.replica.status().in_doubt, "its leader may have been elected by its own vote");

    cluster.nodes.push(back);
    for node in cluster.nodes {
        node.stop().await;
    }
}
