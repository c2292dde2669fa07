//! What is heard of whom.
//!
//! Whoever may send on this mesh gets to a replica, whether it is one itself or not, and calls itself by any number. A message that
//! does not come is nothing new to the engine, so none that is dropped here harms what was agreed on; the question is what one
//! that is taken can do, and whether a cluster goes on without one that is dropped.
//!
//! A replica that is in a membership which holds it too hears those who are in that one, and whom a leader of them named to lead
//! next, or who leads it already, as one does for a while that took itself out. Anybody else is a stranger to it: somebody who is
//! no replica, or was taken out; or one that was added while this one was away, whose membership is an old one. Such a newcomer may
//! lead by now, or need this one's vote. So strangers are not shut out for good: they are heard once nobody who is known here has led, with
//! a majority behind him, for [`STRANGERS_AFTER`] election timeouts. As long as there is such a leader nobody lacks another
//! one; where he died, those who are known elect the next one sooner than that; where nothing of it happens, this node's membership
//! may be out of date, and a cluster whose majority is well may need it all the same.
//!
//! What a stranger says is bounded then too: its vote frees nobody of what was promised a leader, and its term is not
//! far ahead. Whoever is in no membership that it knows hears everybody, as it has to be founded, or told its log: its answers tell
//! others of no term that is far ahead of theirs.
//!
//! Who is a member is trusted to follow the rules. One that does not can take the lead whenever it likes, as in any cluster
//! of this kind.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use trunkline_mesh::NodeId;

use super::super::replica_id::ReplicaId;
use super::super::time::Instant;
use super::message::{Append, Appended, Body, Envelope, Lend, Lent, Part};
use super::network::Wire;
use super::requests::Requests;
use super::types::*;
use crate::storage::Disk;

/// Election timeouts. Of a hundred dead leaders 99 are replaced within half of that, and four round trips.
const STRANGERS_AFTER: u32 = 6;
/// Nobody is so many elections behind: with one a second that is half a year.
const TERMS_AHEAD_MAX: u64 = 1 << 24;
/// Whoever is not heard goes on, and the log is no place for all of it.
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Strangers<D: Disk> {
    requests: Arc<Requests<D>>,
    wire: Arc<Wire>,
    /// Whom the leader named last to lead next.
    named: Option<ReplicaId>,
    told: Option<Instant>,
}

impl<D: Disk> Strangers<D> {
    pub(super) fn new(requests: Arc<Requests<D>>, wire: Arc<Wire>) -> Self {
        Self { requests, wire, named: None, told: None }
    }

    /// Whether a message is taken, and as what.
    ///
    /// # Errors
    ///
    /// Why it is as if it had not come.
    pub(super) fn hears(&mut self, envelope: &mut Envelope) -> Result<(), &'static str> {
        let (from, body) = (envelope.from, &mut envelope.body);
        let Some((vote, of)) = vote_in(body) else { return Ok(()) };
        let (own_vote, stranger) = {
            let metrics = self.requests.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let is_in = |replica: ReplicaId| membership.get_node(&replica).is_some();
            let vote = metrics.vote;
            let follows = vote.committed && vote.leader_id.voted_for == from;
            (vote, is_in(self.wire.own) && !is_in(from) && !follows && self.named != Some(from))
        };
        let far_ahead = vote.leader_id.term > own_vote.leader_id.term.saturating_add(TERMS_AHEAD_MAX);
        match of {
            Of::Anybody if far_ahead => return Err("the term that it tells of is too far ahead"),
            Of::Anybody => return Ok(()),
            Of::Sender if vote.leader_id.voted_for != from => return Err("it is in another replica's name"),
            Of::Sender | Of::Leader => {}
        }
        if !stranger {
            if let Body::Transfer { vote, next, .. } = body
                && *vote == own_vote
            {
                self.named = Some(*next);
            }
            return Ok(());
        }
        if !self.wire.heard.is_leaderless_for(STRANGERS_AFTER) {
            return Err("the sender is in no membership that is known here");
        }
        if far_ahead {
            return Err("the sender is in no membership that is known here, and its term is too far ahead");
        }
        if let Body::Vote { transfer, .. } = body {
            *transfer = false;
        }
        Ok(())
    }

    /// Logs that it was not.
    pub(super) fn tell(&mut self, origin: &NodeId, envelope: &Envelope, why: &'static str) {
        let (replica, what) = (envelope.from, &envelope.body);
        if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return tracing::debug!(%origin, %replica, %what, "dropped: {why}");
        }
        self.told = Some(Instant::now());
        tracing::warn!(%origin, %replica, %what, "dropped: {why}; further ones are told in a minute");
    }
}

/// Whose vote a message has.
enum Of {
    Sender,
    /// Who leads, for whom another one sends a snapshot; whoever is asked to looks at it himself.
    Leader,
    /// An answer tells of whoever is ahead.
    Anybody,
}

fn vote_in(body: &Body) -> Option<(EngineVote, Of)> {
    Some(match body {
        Body::Append(Append { vote, .. }) | Body::Vote { vote, .. } | Body::Transfer { vote, .. } => {
            (*vote, Of::Sender)
        }
        Body::Snapshot(Part { vote, .. }) | Body::Lend(Lend { vote, .. }) => (*vote, Of::Leader),
        Body::Appended(Appended::HigherVote(vote))
        | Body::Voted { vote, .. }
        | Body::Got { vote, .. }
        | Body::Proposed { committed: Some((vote, _)), .. }
        | Body::Lent(Lent::Installed { vote, .. }) => (*vote, Of::Anybody),
        _ => return None,
    })
}
