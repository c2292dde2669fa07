//! Whether this node hears of whoever leads, and that one of a majority: whether a client does well to come here.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;

use super::super::replica_id::ReplicaId;
use super::super::status::NotReady;
use super::super::time::Instant;
use super::quorum::Quorum;
use super::requests::NEAR_ENTRIES;
use super::types::*;

type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, ReplicaId>;
type Metrics = openraft::RaftMetrics<Types>;

pub(super) struct Heard {
    own: ReplicaId,
    /// So long ago a word is good: `election`.
    within: Duration,
    quorum: Arc<Quorum>,
    last: Mutex<Option<Word>>,
    /// When it was sure last of somebody who leads, whom it knows and whom a majority backs; at first when it was started.
    led_at: Mutex<Instant>,
    /// Set once the engine is there.
    metrics: OnceLock<WatchReceiverOf<Types, Metrics>>,
}

/// Somebody says that it leads.
#[derive(Clone, Copy)]
struct Word {
    leader: LeaderId,
    at: Instant,
    /// A majority answers it.
    backed: bool,
}

impl Heard {
    pub(super) fn new(own: ReplicaId, within: Duration, quorum: Arc<Quorum>) -> Self {
        let led_at = Mutex::new(Instant::now());
        Self { own, within, quorum, last: Mutex::new(None), led_at, metrics: OnceLock::new() }
    }

    /// The engine's, from which a leader takes who votes.
    pub(super) fn look_at(&self, metrics: WatchReceiverOf<Types, Metrics>) {
        // There is one engine.
        let _ = self.metrics.set(metrics);
    }

    /// The engine's, once it is there.
    pub(super) fn metrics(&self) -> Option<&WatchReceiverOf<Types, Metrics>> {
        self.metrics.get()
    }

    /// So long ago somebody was still heard of lately.
    pub(super) fn is_recent(&self, ago: Duration) -> bool {
        ago < self.within
    }

    /// Word of one that leads came, and the engine is told of it, or this node was elected. One of an earlier term leads no longer; where
    /// nothing more comes of the later term, nobody leads in that.
    pub(super) fn of(&self, leader: LeaderId, backed: bool) {
        let is_here = |metrics: &WatchReceiverOf<Types, Metrics>| {
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_node(&leader.voted_for).is_some()
        };
        if backed && self.metrics.get().is_some_and(is_here) {
            self.is_led();
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |before: Word| before.leader.term <= leader.term || before.at.elapsed() >= self.within;
        if last.is_none_or(over) {
            *last = Some(Word { leader, at: Instant::now(), backed });
        }
    }

    fn is_led(&self) {
        *self.led_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For so many election timeouts it has been sure of nobody who leads, whom it knows and whom a majority backs.
    pub(super) fn is_leaderless_for(&self, elections: u32) -> bool {
        let leads = |metrics: &WatchReceiverOf<Types, Metrics>| {
            metrics.borrow_watched().current_leader == Some(self.own)
        };
        if self.metrics.get().is_some_and(leads) {
            self.is_backed();
        }
        self.led_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= self.within * elections
    }

    fn word(&self, leader: LeaderId) -> Option<Word> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|word| word.leader == leader && word.at.elapsed() < self.within)
    }

    /// For those that this node leads: a majority answered or elected it lately.
    pub(super) fn is_backed(&self) -> bool {
        let backed = self.metrics.get().is_none_or(|metrics| self.backs(&metrics.borrow_watched()));
        if backed {
            self.is_led();
        }
        backed
    }

    fn backs(&self, metrics: &Metrics) -> bool {
        let leader = metrics.vote.leader_id;
        let answered = self.quorum.majority(leader.term, metrics.membership_config.membership());
        answered.is_some_and(|sent| sent.at.elapsed() < self.within) || self.word(leader).is_some()
    }

    /// What stands against this node's serving clients.
    pub(super) fn not_ready(&self, metrics: &Metrics) -> Option<NotReady> {
        let within = self.within;
        if metrics.running_state.is_err() {
            return Some(NotReady::Stopped);
        }
        let backed = match metrics.current_leader {
            Some(leader) if leader == self.own => Some(self.backs(metrics)),
            Some(_) => self.word(metrics.vote.leader_id).map(|word| word.backed),
            None => None,
        };
        match backed {
            None => return Some(NotReady::NoLeader { within }),
            Some(false) => return Some(NotReady::NoMajority { within }),
            Some(true) => {}
        }
        let next = |last: Option<&LogId>| last.map_or(0, |last| last.index + 1);
        let (committed, applied) = (metrics.cluster_committed.as_ref(), metrics.last_applied.as_ref());
        let lacks = next(committed).saturating_sub(next(applied));
        // Whoever has none at all lacks all there is, however few, and may not have been told of them.
        let lacks_all = applied.is_none();
        (lacks_all || lacks > NEAR_ENTRIES).then_some(NotReady::Behind { lacks: lacks.max(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_later_term_of_which_nothing_more_comes_hides_no_leader() {
        let (own, within) = (ReplicaId(1), Duration::from_secs(2));
        let heard = Heard::new(own, within, Arc::new(Quorum::new(own)));
        let leader = |term| LeaderId { term, voted_for: ReplicaId(2) };
        heard.of(leader(9), true);
        heard.of(leader(3), true);
        assert!(heard.word(leader(9)).is_some() && heard.word(leader(3)).is_none());
        tokio::time::sleep(within).await;
        heard.of(leader(3), true);
        assert!(heard.word(leader(3)).is_some());
    }
}
