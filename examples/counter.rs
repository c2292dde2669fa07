//! A state machine of one's own: a counter, replicated. Here by one node, which founds a cluster of itself.
//!
//! `cargo run --example counter -- DIRECTORY`, twice: the second run goes on from where the first one ended.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use trunkline::consensus::{Consistency, Replica, ReplicaConfig, StateMachine, Timing};
use trunkline_mesh::{ClusterId, Config, Datacenter, NodeId, NodeSpec, Roles, Topology, join};

#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, _id: u64, operation: Bytes) -> Bytes {
        // The same on every replica: what an operation says, and nothing else, decides.
        self.0 += operation.len() as u64;
        Bytes::from(self.0.to_string())
    }

    fn snapshot(&self) -> io::Result<impl Read + Send + 'static> {
        Ok(io::Cursor::new(self.0.to_le_bytes()))
    }

    fn restore(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = std::env::args_os().nth(1).map(PathBuf::from).ok_or("give it a directory for the log")?;
    let id = NodeId::new("counter")?;
    // More of them, on every node the same list, make a cluster of several.
    let node = NodeSpec {
        id: id.clone(),
        datacenter: Datacenter::new("here")?,
        roles: Roles { origin: true, member: true, proxy: false },
        address: Some("127.5.0.1:7400".parse()?),
    };
    let topology = Arc::new(Topology::new(ClusterId::new("counter")?, [node])?);
    let (client, inbox) = join(Config::new(topology, id.clone())).await?;

    let config = ReplicaConfig { data, founders: vec![id.clone()], timing: Timing::default() };
    let replica = Replica::start(config, Counter::default(), client, inbox, &id).await?;

    for _ in 0..3 {
        let answer = replica.propose(None, Bytes::from_static(b"one more")).await?;
        println!("entry {}: {:?}", answer.id.index, answer.result?);
    }
    let read = replica.read(Consistency::Linearizable, |counter: &Counter| counter.0).await?;
    println!("the counter is at {}, after entry {:?}", read.value, read.applied.map(|id| id.index));
    replica.stop().await;
    Ok(())
}
