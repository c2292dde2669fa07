//! The members of the cluster, as a proxy follows them: it has nothing of the log, so it asks the nodes of its file that serve clients,
//! and has its mesh know who joined as a replica does.

mod heard;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use trunkline_mesh::{Credentials, Mesh, NodeSpec, SpiffeId, TlsFiles, TopologyChangeError};

use crate::client;
use crate::client::Address;
use crate::config::{Config, Protection};
use crate::consensus::{Joined, Membership, Place};
use crate::metrics::MembersHeard;
use crate::storage::EntryId;
use heard::{Heard, Word};

/// From one question to the next, on average. Whoever joins is sent to directly for that long, which costs bytes and loses nothing; a hundred
/// proxies are 33 short requests per second, and fewer handshakes than one node takes within TLS.
const INTERVAL: Duration = Duration::from_secs(3);

/// What a proxy knows of the members, beside its file. Clones are the same.
#[derive(Clone)]
pub(super) struct Members(Arc<Shared>);

struct Shared {
    own: NodeSpec,
    mesh: Mesh,
    /// What is shown to nodes within TLS.
    files: Option<TlsFiles>,
    joined: Mutex<Joined>,
    asked: Mutex<Arc<[Asked]>>,
    heard: Mutex<Heard>,
}

/// A node that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    name: SpiffeId,
    /// It stands in this proxy's datacenter.
    near: bool,
    address: SocketAddr,
    within_tls: bool,
}

/// Asks until it is dropped.
pub(super) struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Members {
    /// Of a proxy that runs.
    pub(super) fn of(config: &Config, own: &NodeSpec, mesh: Mesh) -> Self {
        Self(Arc::new(Shared {
            own: own.clone(),
            mesh,
            files: config.tls_files(&own.id),
            joined: Mutex::default(),
            asked: Mutex::new(asked(config, own)),
            heard: Mutex::new(Heard::new(Instant::now())),
        }))
    }

    /// Asks from now on, on the current runtime.
    pub(super) fn ask(&self) -> Asking {
        let members = self.clone();
        Asking(tokio::spawn(async move {
            loop {
                members.ask_once().await;
                // Proxies that started at once do not go on asking at once.
                sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
            }
        }))
    }

    /// Goes on with another file, beside whose nodes the mesh knows who joined.
    pub(super) fn set_file(&self, config: &Config) -> Result<(), TopologyChangeError> {
        let mut joined = lock(&self.0.joined);
        let places = joined.committed().map_or_else(Vec::new, |last| last.places.clone());
        joined.set_topology(&self.0.mesh, config.topology(), &places)?;
        *lock(&self.0.asked) = asked(config, &self.0.own);
        Ok(())
    }

    /// For the metrics; `None` while there is nobody to ask.
    pub(super) fn heard(&self) -> Option<MembersHeard> {
        if lock(&self.0.asked).is_empty() {
            return None;
        }
        let (age, failed) = lock(&self.0.heard).at(Instant::now());
        let joined = lock(&self.0.joined);
        let index = joined.committed().map_or(0, |last| last.id.index);
        Some(MembersHeard { age, index, joined: joined.nodes().len(), failed })
    }

    /// Asks one node after the other, until one that is ready tells of no earlier members than are known. Tells the log when nothing was heard for
    /// long, and when something is again.
    async fn ask_once(&self) {
        let nodes = Arc::clone(&lock(&self.0.asked));
        if nodes.is_empty() {
            return;
        }
        let outcome = self.ask_all(&nodes).await;
        let word = lock(&self.0.heard).judge(outcome.is_ok(), Instant::now());
        match (word, outcome) {
            (Some(Word::Silent(long)), Err(why)) => tracing::warn!(
                "no node that is ready tells who is in the cluster, for {long:?}; the last one: {why}. Who joins meanwhile is sent \
                 to directly"
            ),
            (Some(Word::Again(long)), Ok(())) => {
                tracing::info!("hears again who is in the cluster, after {long:?}");
            }
            _ => {}
        }
    }

    async fn ask_all(&self, nodes: &[Asked]) -> Result<(), String> {
        let within_tls = nodes.iter().any(|node| node.within_tls);
        let credentials = match self.0.files.clone().filter(|_| within_tls) {
            Some(files) => Some(load(files).await?),
            None => None,
        };
        let mut last = String::new();
        for at in heard::turns(nodes.len(), |at| nodes[at].near, &mut fastrand::Rng::new()) {
            let node = &nodes[at];
            let said = client::Members::ask(&node.as_seen(credentials.as_ref())).await;
            match said.and_then(|said| self.take(said)) {
                Ok(()) => return Ok(()),
                Err(why) => last = format!("node {} at {}: {why}", node.name.node, node.address),
            }
        }
        Err(last)
    }

    /// Has the mesh know who joined, if that is news. Fails where another node may know more.
    fn take(&self, said: client::Members) -> Result<(), String> {
        let (term, index) = said.entry.ok_or("it knows of no members yet")?;
        let id = EntryId { term, index };
        let place = |client::Member { node, datacenter, address }| Place { node, datacenter, address };
        let places = said.nodes.into_iter().map(place).collect();
        let mut joined = lock(&self.0.joined);
        let known = joined.committed().map(|last| last.id);
        if joined.follow(&self.0.mesh, Membership { id, places }) {
            let beside = joined.nodes().len();
            tracing::info!("members as of entry {index}: {beside} that the file does not name");
        }
        drop(joined);
        if let Some(known) = known.filter(|known| id < *known) {
            return Err(format!("it tells of entry {index}, and {} is known", known.index));
        }
        said.ready.then_some(()).ok_or_else(|| "it is not ready".to_owned())
    }
}

impl Asked {
    fn as_seen(&self, credentials: Option<&Arc<Credentials>>) -> Address {
        let host = self.address.to_string();
        match credentials.filter(|_| self.within_tls) {
            Some(credentials) => Address::within_tls(host, Arc::clone(credentials), Some(self.name.clone())),
            None => Address::plaintext(host),
        }
    }
}

/// Whom a proxy can ask by its file.
fn asked(config: &Config, own: &NodeSpec) -> Arc<[Asked]> {
    let topology = config.topology();
    let others = topology.nodes().filter(|node| node.id != own.id);
    let asked = others.filter_map(|node| {
        Some(Asked {
            name: topology.name(node),
            near: node.datacenter == own.datacenter,
            address: config.api(&node.id)?,
            within_tls: config.api_protection(&node.id) == Protection::Tls,
        })
    });
    asked.collect()
}

/// Read anew each time: a renewed certificate, and a revocation, go for the next question.
async fn load(files: TlsFiles) -> Result<Arc<Credentials>, String> {
    let read = tokio::task::spawn_blocking(move || Credentials::load(&files));
    let read = read.await.map_err(|error| error.to_string())?;
    read.map(Arc::new).map_err(|error| format!("this proxy has nothing to show within TLS: {error}"))
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
