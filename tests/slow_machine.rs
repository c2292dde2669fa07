//! A state machine that applies nothing for a while: what the node goes on doing, and what it refuses.

mod support;

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use support::addresses::own;
use tokio::time::{Instant, timeout};
use trunkline::consensus::{ProposeError, Replica, ReplicaConfig, StateMachine, Timing};
use trunkline_mesh::{ClusterId, Config, Datacenter, NodeId, NodeSpec, Roles, Topology, join};

/// Nothing here takes long; what hangs shall say so.
const SOON: Duration = Duration::from_secs(120);

/// Of the leader, as docs/consensus.md has it, and proposals at once.
const UNAPPLIED_MAX: u64 = 65_536;
const VOLLEY: u64 = 8_192;

/// Applies as long as it is open.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// A test that fails ends, too.
impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.open();
        }
    }
}

impl StateMachine for Gate {
    fn apply(&mut self, _id: u64, operation: Bytes) -> Bytes {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
        operation
    }

    fn snapshot(&self) -> io::Result<impl Read + Send + 'static> {
        Ok(io::empty())
    }

    fn restore(&mut self, _from: impl Read) -> io::Result<()> {
        Ok(())
    }
}

/// The engine goes on while nothing is applied, takes what it has room for and refuses the rest; then all of it is applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_stands_still_holds_up_nothing_but_proposals() {
    let name = NodeId::new("one").unwrap();
    let spec = NodeSpec {
        id: name.clone(),
        datacenter: Datacenter::new("dc").unwrap(),
        roles: Roles { origin: true, member: true, proxy: false },
        address: Some(own(1)[0]),
    };
    let topology = Arc::new(Topology::new(ClusterId::new("cluster").unwrap(), [spec]).unwrap());
    let (client, inbox) = join(Config::new(topology, name.clone())).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let timing =
        Timing { snapshot_entries: 1 << 40, patience: Duration::from_millis(500), ..Timing::default() };
    let config = ReplicaConfig { data: data.path().join("one"), founders: vec![name.clone()], timing };
    let gate = Gate::default();
    let replica = Replica::start(config, gate.clone(), client.clone(), inbox, &name).await.unwrap();

    let propose = |number: u64| {
        let replica = replica.clone();
        tokio::spawn(
            async move { replica.propose(None, Bytes::copy_from_slice(&number.to_le_bytes())).await },
        )
    };
    let committed = || replica.status().committed.map(|last| last.index);
    // One after the other, so that each is committed by itself.
    let began = Instant::now();
    for number in 0..1_500 {
        let before = committed();
        drop(propose(number));
        while committed() == before {
            assert!(began.elapsed() < SOON, "the engine stands still after {number} entries");
            tokio::task::yield_now().await;
        }
    }
    // Then many at once, until there is no room. Whoever proposes gives up after a while, and what was proposed stays.
    let mut refused = 0;
    while refused == 0 {
        let last = replica.status().last.unwrap();
        assert!(last < UNAPPLIED_MAX + VOLLEY, "{last} and none refused");
        for answer in join_all((0..VOLLEY).map(propose)).await {
            match answer.unwrap() {
                Err(ProposeError::Unknown { .. }) => {}
                Err(ProposeError::Busy) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(began.elapsed() < SOON, "the engine stands still at {last}");
    }
    gate.open();
    let last = replica.status().last;
    let mut progress = replica.progress();
    let all_applied = progress.wait_for(|progress| progress.applied.map(|applied| applied.index) == last);
    drop(timeout(SOON, all_applied).await.unwrap().unwrap());
    timeout(SOON, replica.propose(None, Bytes::from_static(b"again"))).await.unwrap().unwrap();
    replica.stop().await;
    client.mesh().close();
    client.mesh().closed().await;
}
