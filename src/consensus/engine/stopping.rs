//! Who said that it was told to stop: nobody hands over to it, and where all others said so, nobody waits for one of them to lead.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::replica_id::ReplicaId;
use super::super::time::Instant;
use super::super::watch;

type Said = BTreeMap<ReplicaId, Instant>;

pub(super) struct Stopping {
    /// So long it counts. After that it may have been started again.
    lasts: Duration,
    tell: watch::Sender<Said>,
    said: watch::Receiver<Said>,
}

impl Stopping {
    pub(super) fn new(lasts: Duration) -> Self {
        let (tell, said) = watch::channel(Said::new());
        Self { lasts, tell, said }
    }

    /// One that is known to be a member says it: they are as many as there are members.
    pub(super) fn says(&self, replica: ReplicaId) {
        self.tell.send_modify(|said| {
            said.retain(|_, at| at.elapsed() < self.lasts);
            said.insert(replica, Instant::now());
        });
    }

    pub(super) fn contains(&self, replica: ReplicaId) -> bool {
        self.has(&self.said.borrow(), replica)
    }

    /// Resolves once all of them said it.
    pub(super) async fn all_of(&self, replicas: &[ReplicaId]) {
        let all = |said: &Said| replicas.iter().all(|replica| self.has(said, *replica));
        // The sender is here.
        let _ = self.said.clone().wait_for(all).await;
    }

    fn has(&self, said: &Said, replica: ReplicaId) -> bool {
        said.get(&replica).is_some_and(|at| at.elapsed() < self.lasts)
    }
}
