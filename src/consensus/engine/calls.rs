//! Questions that wait for answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use trunkline_mesh::{Incarnation, NodeId};

use super::super::replica_id::ReplicaId;
use super::message::{Body, Envelope};

/// Where answers go. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Calls {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Of each node the life that was heard of last, and its replica.
    lives: BTreeMap<NodeId, (Incarnation, ReplicaId)>,
}

struct Waiting {
    /// Who is asked; `None` where the asker does not know which replica is there.
    of: Option<ReplicaId>,
    answers: mpsc::Sender<(ReplicaId, u64, Body)>,
}

/// A question. Its answers are dropped once this is.
pub(super) struct Call {
    pub(super) number: u64,
    calls: Calls,
    answers: mpsc::Receiver<(ReplicaId, u64, Body)>,
}

impl Calls {
    /// With numbers that begin here: another start of the node must not take this one's answers for its own.
    pub(super) fn new(first: u64) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { last: first, ..Inner::default() })) }
    }

    /// Asks a replica. So many answers are kept until they are taken; more are dropped.
    pub(super) fn open(&self, of: Option<ReplicaId>, answers_max: usize) -> Call {
        let (tell, answers) = mpsc::channel(answers_max);
        let mut inner = self.lock();
        inner.last = inner.last.wrapping_add(1);
        let number = inner.last;
        inner.waiting.insert(number, Waiting { of, answers: tell });
        Call { number, calls: self.clone(), answers }
    }

    /// A number that no call of this start has.
    pub(super) fn number(&self) -> u64 {
        let mut inner = self.lock();
        inner.last = inner.last.wrapping_add(1);
        inner.last
    }

    /// An answer came. It is dropped where nobody waits for it, or somebody else was asked.
    pub(super) fn answer(&self, envelope: Envelope) {
        let inner = self.lock();
        let Some(waiting) = inner.waiting.get(&envelope.call) else { return };
        if waiting.of.is_none_or(|of| of == envelope.from) {
            // A peer that answers more often than it was asked loses answers.
            let _ = waiting.answers.try_send((envelope.from, envelope.seq, envelope.body));
        }
    }

    /// Something of a replica came from a node. If the node was restarted, what it was asked before is not answered any longer: whoever waits
    /// for it is told, and asks again.
    pub(super) fn heard(&self, node: &NodeId, of: ReplicaId, life: Incarnation) {
        let mut inner = self.lock();
        if inner.lives.get(node) == Some(&(life, of)) {
            return;
        }
        let before = inner.lives.insert(node.clone(), (life, of));
        if let Some((_, gone)) = before.filter(|(before, _)| *before < life) {
            inner.waiting.retain(|_, waiting| waiting.of != Some(gone) && waiting.of != Some(of));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// The next answer: who gives it, its place in the stream, and what it says. `None`: there will be none, for the other end
    /// was restarted.
    pub(super) async fn answer(&mut self) -> Option<(ReplicaId, u64, Body)> {
        self.answers.recv().await
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.lock().waiting.remove(&self.number);
    }
}
