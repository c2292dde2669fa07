//! Who is in the cluster, changed while it runs. At the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::MutexGuard;
use trunkline_mesh::Lane;

use super::super::error::MemberError;
use super::super::replica_id::{Place, ReplicaId};
use super::super::time::timeout;
use super::message::Body;
use super::requests::{NEAR_ENTRIES, Requests};
use super::types::Types;
use super::words;
use crate::storage::Disk;

/// So long whoever stops waits at most until others noted it.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

type Changed = Result<openraft::raft::ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>;

impl<D: Disk> Requests<D> {
    /// Makes the replica that runs on a node a learner, under the number that it says is its own now.
    pub(super) async fn add(&self, place: Place, patience: Duration) -> Result<ReplicaId, MemberError> {
        self.check_leads()?;
        let asked = self.wire.ask((None, &place), Lane::Control, Body::Who, patience);
        let (replica, answer) = asked.await.map_err(|none| MemberError::Silent { why: none.why })?;
        let Body::IAm { members, .. } = answer else {
            return Err(MemberError::Silent { why: "it did not say who it is".to_owned() });
        };
        self.check_is_of_this_cluster(&place, replica, &members)?;
        let _alone = self.changes_members().await?;
        changed(self.raft.add_learner(replica, place, false).await)?;
        Ok(replica)
    }

    /// Gives a learner a vote, once it has nearly everything.
    pub(super) async fn promote(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.check_known(replica)?;
        if !self.is_near(replica) {
            return Err(MemberError::Behind { replica });
        }
        let _alone = self.changes_members().await?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([replica]));
        changed(self.raft.change_membership(voters, true).await)
    }

    /// Takes a replica out, voter or learner.
    pub(super) async fn remove(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.check_known(replica)?;
        let _alone = self.changes_members().await?;
        let set = BTreeSet::from([replica]);
        if self.is_voter(replica) {
            // One that is no voter any longer is no member any longer either.
            return changed(self.raft.change_membership(ChangeMembers::RemoveVoters(set), false).await);
        }
        changed(self.raft.change_membership(ChangeMembers::RemoveNodes(set), false).await)
    }

    /// Has a voter lead, without an election timeout. The engine asks nothing: it lets go of its leadership whoever is named, so only one that
    /// can lead at once is.
    pub(super) async fn transfer(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.check_known(replica)?;
        if replica == self.wire.own {
            return Err(MemberError::Refused { why: "this replica leads already".to_owned() });
        }
        if !self.is_voter(replica) {
            return Err(MemberError::Refused { why: "a learner cannot lead: promote it first".to_owned() });
        }
        if !self.is_heard(replica) {
            let why =
                format!("replica {replica} has not acknowledged anything for {:?}", self.drained_within);
            return Err(MemberError::Silent { why });
        }
        if !self.is_near(replica) {
            return Err(MemberError::Behind { replica });
        }
        self.hand_over(replica).await
    }

    /// Has the voter lead that has most of the log, as before this replica stops, and waits until it does and everybody had time to hear of
    /// it; twice an election timeout at most, and no longer once all others were told to stop too. `None` where this one does not lead, or nobody else votes.
    pub(super) async fn hand_over_to_any(&self) -> Result<Option<ReplicaId>, MemberError> {
        let told = self.say_that_it_stops();
        let Some(others) = self.voters_led().filter(|others| !others.is_empty()) else {
            told.await;
            return Ok(None);
        };
        let heard = others.into_iter().map(|(replica, _)| replica).filter(|replica| self.is_heard(*replica));
        let heard: Vec<ReplicaId> = heard.collect();
        let (handed, ()) = tokio::join!(self.hand_over_to_one_of(&heard), told);
        handed
    }

    async fn hand_over_to_one_of(&self, heard: &[ReplicaId]) -> Result<Option<ReplicaId>, MemberError> {
        let stopping = &self.wire.stopping;
        let able = heard.iter().copied();
        let able = able.filter(|replica| self.is_near(*replica) && !stopping.contains(*replica));
        let Some(next) = able.max_by_key(|replica| self.has(*replica)) else {
            let why = "no other voter is there, and goes on, that has nearly everything".to_owned();
            return Err(MemberError::Silent { why });
        };
        let handed = async {
            self.hand_over(next).await?;
            self.another_leads(self.wire.own).await;
            Ok(Some(next))
        };
        let late =
            |_| Err(MemberError::Outcome { why: format!("replica {next} did not take the lead in time") });
        tokio::select! {
            biased;
            handed = timeout(2 * self.drained_within, handed) => handed.unwrap_or_else(late),
            () = stopping.all_of(heard) => {
                Err(MemberError::Outcome { why: "all others that are there were told to stop too".to_owned() })
            }
        }
    }

    /// To all other voters; waits until they noted it, or had the time to. Who does not hear of it takes this one for gone after a while.
    async fn say_that_it_stops(&self) {
        let (membership, wire) = (self.membership(), &self.wire);
        let voters = membership.voter_ids().filter(|voter| *voter != wire.own);
        let places = voters.filter_map(|voter| Some((voter, membership.get_node(&voter)?)));
        let told = places.map(|(voter, place)| {
            wire.ask((Some(voter), place), Lane::Control, Body::Stops, self.last_word.min(NOTED_WITHIN))
        });
        join_all(told).await;
    }

    fn is_voter(&self, replica: ReplicaId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|voter| voter == replica)
    }

    /// It acknowledged something within an election timeout.
    fn is_heard(&self, replica: ReplicaId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.heartbeat.as_ref().and_then(|all| *all.get(&replica)?);
        last.is_some_and(|last| openraft::Instant::elapsed(&*last) < self.drained_within)
    }

    /// A log that others wrote is replaced by nobody's: what was committed there would be lost. One of this cluster, as of a replica that
    /// was taken out, or was asked by a leader before this one, has somebody in it who is here.
    fn check_is_of_this_cluster(
        &self,
        place: &Place,
        replica: ReplicaId,
        members: &[ReplicaId],
    ) -> Result<(), MemberError> {
        let here = self.membership();
        let is_here = |replica: &ReplicaId| here.get_node(replica).is_some();
        if members.is_empty() || is_here(&replica) || members.iter().any(is_here) {
            return Ok(());
        }
        Err(MemberError::OfAnotherCluster { node: place.node.clone(), replica, members: members.len() })
    }

    fn check_leads(&self) -> Result<(), MemberError> {
        self.raft.is_leader().then_some(()).ok_or(MemberError::NotLeader)
    }

    /// One change after the other, at a leader that is a voter still: one that was taken out leads on for a while, and changes nothing
    /// any longer.
    async fn changes_members(&self) -> Result<MutexGuard<'_, ()>, MemberError> {
        let under_way = |_| MemberError::Refused { why: "another change is under way".to_owned() };
        let alone = self.changing.try_lock().map_err(under_way)?;
        let own = self.wire.own;
        // The engine calls itself the leader for some time after the membership without it.
        let leads = self.raft.with_raft_state(move |state| {
            let votes = state.membership_state.effective().voter_ids().any(|voter| voter == own);
            votes && state.server_state == openraft::ServerState::Leader
        });
        match leads.await {
            Ok(true) => Ok(alone),
            Ok(false) => Err(MemberError::NotLeader),
            Err(error) => Err(MemberError::Stopped { why: words::stopped(&error) }),
        }
    }

    fn check_known(&self, replica: ReplicaId) -> Result<(), MemberError> {
        self.check_leads()?;
        self.place_of(replica).map(drop).ok_or(MemberError::Unknown { replica })
    }

    /// It lacks no more than a leader sends it in a moment.
    fn is_near(&self, replica: ReplicaId) -> bool {
        let (has, last) = (self.has(replica), self.raft.metrics().borrow_watched().last_log_index);
        has > 0 && has + NEAR_ENTRIES > last.unwrap_or(0)
    }

    /// How many entries it acknowledged.
    fn has(&self, replica: ReplicaId) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication: Option<&BTreeMap<_, _>> = metrics.replication.as_ref();
        replication.and_then(|all| all.get(&replica)?.as_ref()).map_or(0, |log_id| log_id.index + 1)
    }
}

fn changed(result: Changed) -> Result<(), MemberError> {
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(MemberError::NotLeader),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            Err(MemberError::Refused { why: words::refused(&error) })
        }
        Err(RaftError::APIError(error)) => Err(MemberError::Outcome { why: words::unknown(&error) }),
        Err(RaftError::Fatal(error)) => Err(MemberError::Stopped { why: words::stopped(&error) }),
    }
}
