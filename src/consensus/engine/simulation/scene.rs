//! A cluster to which nothing happens but what a test does: five voters in three datacenters, on links that the test chooses.

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};
use trunkline_mesh::{Datacenter, NodeId};

use super::super::super::key_value::Operation;
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::super::status::Role;
use super::super::Timing;
use super::checker::Checker;
use super::clients::Cluster;
use super::faults::Counts;
use super::net::Net;
use super::node::{End, Node, Running, Surroundings};
use super::planted::Planted;
use super::trace::Trace;

/// The last one founds nothing.
const NODES: [(&str, &str); 6] =
    [("us-1", "us"), ("us-2", "us"), ("eu-1", "eu"), ("eu-2", "eu"), ("ap-1", "ap"), ("ap-2", "ap")];
/// Voters of the beginning.
pub(super) const FOUNDERS: usize = 5;
/// What a disk takes for a sync.
const DISK: Duration = Duration::from_millis(2);

/// Where the simulated nodes are.
pub(super) fn places() -> Vec<Place> {
    let place = |(node, datacenter): &(&str, &str)| {
        let node = NodeId::new(node).expect("it is a name");
        Place::known(node, Datacenter::new(datacenter).expect("it is a name"))
    };
    NODES.iter().map(place).collect()
}

/// Runs a future from one seed, in virtual time.
pub(super) fn in_virtual_time<F: Future>(seed: u64, future: F) -> F::Output {
    // The engine draws from it.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(future)
}

pub(super) struct Scene {
    pub(super) luck: fastrand::Rng,
    pub(super) around: Surroundings,
    pub(super) nodes: Vec<Node>,
    pub(super) cluster: Cluster,
}

impl Scene {
    /// Nodes that do not run yet. In a run of [`in_virtual_time`].
    pub(super) fn new(seed: u64, timing: Timing, planted: Option<Planted>) -> Self {
        let mut luck = fastrand::Rng::with_seed(seed);
        let trace = Trace::new();
        let checker = Checker::new(trace.clone());
        let net =
            Net::new(places(), luck.fork(), planted, (checker.clone(), trace.clone(), Counts::default()));
        let founders = places()[..FOUNDERS].to_vec();
        let nodes = founders.iter().cloned().enumerate();
        let nodes = nodes.map(|(index, place)| Node::new(index, place, ReplicaId(luck.u64(1..)))).collect();
        let counts = Counts::default();
        let around = Surroundings { net, checker, trace, counts, planted, timing, founders };
        Self { luck, around, nodes, cluster: Cluster::default() }
    }

    /// So long are the links between datacenters, one way: what is drawn for each two of them.
    pub(super) fn links(&mut self, draw: impl Fn(&mut fastrand::Rng) -> Duration) {
        let datacenters = ["ap", "eu", "us"].map(|name| Datacenter::new(name).expect("it is a name"));
        for (at, one) in datacenters.iter().enumerate() {
            for other in &datacenters[at + 1..] {
                self.around.net.delay(one, other, draw(&mut self.luck));
            }
        }
    }

    /// All of them run, and one leads.
    pub(super) async fn begin(&mut self) -> usize {
        for index in 0..self.nodes.len() {
            self.start(index).await;
        }
        self.leader().await
    }

    pub(super) async fn start(&mut self, index: usize) {
        let seed = self.luck.u64(..);
        self.nodes[index].start(&self.around, false, (DISK, seed)).await;
        self.publish();
    }

    pub(super) fn end(&mut self, index: usize, end: End) {
        self.nodes[index].end(&self.around, end, &mut self.luck);
        self.publish();
    }

    /// The end of a stopped node's log is torn, as by a loss of power in its last write.
    pub(super) fn tear(&self, index: usize) {
        let log = &self.nodes[index].log;
        let newest =
            log.names().into_iter().filter(|name| name.ends_with(".log")).max().expect("there is a log");
        log.damage(&newest, |bytes| bytes.truncate(bytes.len() - 5));
        // What it had acknowledged of it is lost.
        self.around.checker.doubts(index);
    }

    fn publish(&self) {
        self.cluster.set(self.nodes.iter().map(|node| node.running.clone()).collect());
    }

    pub(super) fn running(&self, index: usize) -> &Running {
        self.nodes[index].running.as_ref().expect("it runs")
    }

    /// Waits until somebody leads, of whom all that run have heard. A minute is too long.
    pub(super) async fn leader(&self) -> usize {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let running = || self.nodes.iter().filter_map(|node| Some((node.index, node.running.as_ref()?)));
            let leads =
                |(_, running): &(usize, &Running)| running.access.engine.status().role == Role::Leader;
            if let Some((leader, _)) = running().find(leads) {
                let own = self.nodes[leader].own;
                // Whatever a node's own clock, which is not this one, says of how long ago that was.
                let follows = |(_, running): (usize, &Running)| {
                    let metrics = running.access.engine.requests.raft.server_metrics();
                    metrics.borrow_watched().current_leader == Some(own)
                };
                if running().all(follows) {
                    return leader;
                }
            }
            assert!(Instant::now() < end, "nobody leads");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Puts a value at a node.
    pub(super) async fn put(&self, index: usize, value: &str) -> Result<u64, String> {
        put(self.running(index), value).await
    }

    /// Nothing contradicts anything.
    pub(super) fn check(&self) {
        assert_eq!(self.around.checker.violations(), Vec::<String>::new());
    }
}

/// Puts a value at a node; the index of its entry.
pub(super) async fn put(running: &Running, value: &str) -> Result<u64, String> {
    let value = Bytes::from(value.to_owned());
    let operation = Operation::Put { key: "key".to_owned(), value, if_index: None }.encode();
    match running.scope.run(running.access.propose(None, operation)).await {
        Some(Ok(answer)) => Ok(answer.id.index),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("it was killed".to_owned()),
    }
}
