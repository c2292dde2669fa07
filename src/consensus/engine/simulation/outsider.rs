//! A node of the topology that is no replica, and says what it likes; and a replica that others do not know yet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use trunkline_mesh::Lane;

use super::super::super::carrier::{Carrier, Outgoing};
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::super::status::{Role, Status};
use super::super::super::tasks::scope::Scope;
use super::super::Timing;
use super::super::message::{Append, Body, Envelope, Lend, Part, TERM_MAX};
use super::super::types::EngineVote;
use super::node::{End, Node};
use super::scene::{FOUNDERS, Scene, in_virtual_time, places};
use crate::storage::{Entry, EntryId, INDEX_MAX};

const NOBODY: ReplicaId = ReplicaId(666);
const NEW: ReplicaId = ReplicaId(4_711);
const LAST: Option<EntryId> = Some(EntryId { term: TERM_MAX, index: INDEX_MAX });
/// For a change of members.
const SOON: Duration = Duration::from_secs(10);

/// Where nobody is a replica.
struct Outsider {
    carrier: Arc<dyn Carrier>,
    to: Vec<Place>,
    call: u64,
}

impl Outsider {
    fn join(scene: &Scene) -> Self {
        let scope = Scope::new(Duration::ZERO, scene.around.trace.began());
        let carrier = scene.around.net.join_as_outsider(FOUNDERS, &scope);
        Self { carrier, to: scene.nodes.iter().map(|node| node.place.clone()).collect(), call: 0 }
    }

    /// To all replicas.
    async fn say(&mut self, from: ReplicaId, lane: Lane, body: Body) {
        self.call += 1;
        for to in &self.to {
            let payload = Envelope { from, to: None, call: self.call, seq: 0, body: body.clone() }.encode();
            let patience = Duration::from_secs(5);
            let message = Outgoing { to: to.node.clone(), payload, patience, turned_down: None };
            self.carrier.send(&to.datacenter, lane, vec![message]).await.unwrap();
        }
    }

    async fn asks_for_votes(&mut self, term: u64) {
        let vote = EngineVote::new(term, NOBODY);
        for (only_asked, transfer) in [(true, false), (false, false), (false, true)] {
            self.say(NOBODY, Lane::Control, Body::Vote { vote, last: LAST, only_asked, transfer }).await;
        }
    }

    /// In its own name or another's.
    async fn leads(&mut self, vote: EngineVote) {
        let append = Append { vote, previous: None, committed: None, backed: true, entries: Vec::new() };
        self.say(NOBODY, Lane::Control, Body::Append(append)).await;
    }

    /// All that a leader says, as who leads and as itself.
    async fn says_all(&mut self, status: &Status, term: u64) {
        self.asks_for_votes(term).await;
        let leads = status.leader.as_ref().map(|(leader, _)| EngineVote::new_committed(status.term, *leader));
        for vote in [Some(EngineVote::new_committed(term, NOBODY)), leads].into_iter().flatten() {
            self.leads(vote).await;
            let last = status.committed.expect("something is");
            let next = EntryId { term: vote.leader_id.term, index: last.index + 1 };
            let entries = vec![Entry { id: next, payload: Bytes::from_static(b"?") }];
            let append = Append { vote, previous: Some(last), committed: Some(next), backed: true, entries };
            self.say(NOBODY, Lane::Bulk, Body::Append(append)).await;
            let bytes = Bytes::from_static(b"no snapshot");
            let (total, membership) = (bytes.len() as u64, None);
            let part = Part { vote, last: Some(next), membership, total, offset: 0, bytes };
            self.say(NOBODY, Lane::Bulk, Body::Snapshot(part)).await;
            let next = status.voters.last().expect("there are some").0;
            self.say(NOBODY, Lane::Control, Body::Transfer { vote, next, last: Some(last) }).await;
            let lend = Lend { number: 1, vote, to: next, last };
            self.say(NOBODY, Lane::Control, Body::Lend(lend)).await;
        }
    }
}

async fn begin() -> (Scene, usize) {
    let mut scene = Scene::new(1, Timing::default(), None);
    scene.links(|_| Duration::from_millis(10));
    let leader = scene.begin().await;
    scene.put(leader, "before").await.unwrap();
    // The last follower has it too.
    sleep(Duration::from_secs(1)).await;
    (scene, leader)
}

fn status(scene: &Scene, index: usize) -> Status {
    scene.running(index).access.engine.status()
}

/// A sixth replica gets a vote.
async fn join(scene: &mut Scene, leader: usize) {
    let place = places()[FOUNDERS].clone();
    scene.nodes.push(Node::new(FOUNDERS, place.clone(), NEW));
    scene.start(FOUNDERS).await;
    let running = scene.running(leader);
    running.scope.run(running.access.engine.add(place, SOON)).await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
    running.scope.run(running.access.engine.promote(NEW)).await.unwrap().unwrap();
}

/// All know who leads, in this term, and serve.
fn all_follow(scene: &Scene, leader: usize, term: u64) {
    for index in 0..scene.nodes.len() {
        let status = status(scene, index);
        let of = status.leader.map(|(leader, _)| leader);
        assert_eq!(
            (of, status.term),
            (Some(scene.nodes[leader].own), term),
            "{index}: {:?}",
            status.not_ready
        );
        assert_eq!((status.not_ready, status.stopped), (None, None), "{index}");
    }
}

#[test]
fn one_message_of_a_node_that_is_no_replica_changes_nothing() {
    for term in [u64::MAX, TERM_MAX + 1, TERM_MAX, 1_000] {
        in_virtual_time(1, async {
            let (mut scene, leader) = begin().await;
            let before = status(&scene, leader).term;
            let mut outsider = Outsider::join(&scene);
            outsider.asks_for_votes(term).await;
            outsider.leads(EngineVote::new_committed(term, NOBODY)).await;
            sleep(Duration::from_secs(30)).await;
            all_follow(&scene, leader, before);
            (0..FOUNDERS).for_each(|index| scene.end(index, End::Kill));
            let next = scene.begin().await;
            assert!(status(&scene, next).term < before + 10, "{term}");
            scene.put(next, "after").await.unwrap();
            scene.check();
        });
    }
}

/// Whatever it says, every half second: while a leader lives, while it is replaced, and after all were restarted.
#[test]
fn a_node_that_is_no_replica_keeps_nobody_from_leading() {
    in_virtual_time(1, async {
        let (mut scene, leader) = begin().await;
        let before = status(&scene, leader);
        let mut outsider = Outsider::join(&scene);
        for count in 0..60 {
            outsider.says_all(&status(&scene, leader), before.term + 1_000 * (1 + count)).await;
            sleep(Duration::from_millis(500)).await;
            scene.put(leader, &format!("{count}")).await.unwrap();
        }
        all_follow(&scene, leader, before.term);
        // It is never silent from now on.
        let seen = before.clone();
        let talks = tokio::spawn(async move {
            for count in 0.. {
                outsider.says_all(&seen, seen.term + 1_000 * (1 + count % 1_000)).await;
                sleep(Duration::from_millis(500)).await;
            }
        });
        scene.end(leader, End::Kill);
        let next = scene.leader().await;
        scene.put(next, "another one").await.unwrap();
        (0..FOUNDERS).filter(|index| *index != leader).for_each(|index| scene.end(index, End::Kill));
        let next = scene.begin().await;
        scene.put(next, "after").await.unwrap();
        assert!(status(&scene, next).term < before.term + 10);
        talks.abort();
        scene.check();
    });
}

/// A term at the very end, told by whoever is asked: a new replica that somebody lied to before it was added.
#[test]
fn a_replica_that_was_lied_to_before_it_was_added_ends_no_leadership() {
    in_virtual_time(1, async {
        let (mut scene, leader) = begin().await;
        let before = status(&scene, leader).term;
        let place = places()[FOUNDERS].clone();
        scene.nodes.push(Node::new(FOUNDERS, place.clone(), NEW));
        scene.start(FOUNDERS).await;
        let engine = &scene.running(FOUNDERS).access.engine;
        let vote = EngineVote::new_committed(TERM_MAX, NOBODY);
        let append = openraft::raft::AppendEntriesRequest {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        scene
            .running(FOUNDERS)
            .scope
            .run(engine.requests.raft.append_entries(append))
            .await
            .unwrap()
            .unwrap();
        let running = scene.running(leader);
        running.scope.run(running.access.engine.add(place, SOON)).await.unwrap().unwrap();
        sleep(Duration::from_secs(30)).await;
        assert_eq!(status(&scene, FOUNDERS).term, TERM_MAX);
        let status = status(&scene, leader);
        assert_eq!((status.role, status.term, status.not_ready), (Role::Leader, before, None));
        scene.put(leader, "goes on").await.unwrap();
    });
}

/// One voter was away until all others were replaced but one, and those that are left need it: it hears those that it does not know.
#[test]
fn a_replica_whose_membership_is_old_hears_those_that_came_since() {
    in_virtual_time(1, async {
        let (mut scene, mut leader) = begin().await;
        let away = FOUNDERS - 1;
        if leader == away {
            let (running, own) = (scene.running(leader), scene.nodes[0].own);
            running.scope.run(running.access.engine.transfer(own)).await.unwrap().unwrap();
            sleep(Duration::from_secs(1)).await;
            leader = scene.leader().await;
        }
        scene.end(away, End::Kill);
        join(&mut scene, leader).await;
        let others: Vec<usize> = (0..away).filter(|index| *index != leader).collect();
        // Of five voters and one there are three: the leader, who came, and who is away.
        for index in others {
            let own = scene.nodes[index].own;
            let running = scene.running(leader);
            running.scope.run(running.access.engine.remove(own)).await.unwrap().unwrap();
            scene.end(index, End::Kill);
        }
        scene.put(leader, "without it").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        scene.end(leader, End::Kill);
        scene.start(away).await;
        assert_eq!(scene.leader().await, FOUNDERS);
        scene.put(FOUNDERS, "with it").await.unwrap();
        scene.check();
    });
}

/// A follower that takes no entries has not heard of a new voter, and follows it at once where the leader hands over to it.
#[test]
fn whoever_the_leader_names_to_lead_next_is_no_stranger() {
    in_virtual_time(1, async {
        let (mut scene, leader) = begin().await;
        let behind = (leader + 1) % FOUNDERS;
        scene.around.net.fill(behind, true);
        join(&mut scene, leader).await;
        let running = scene.running(leader);
        running.scope.run(running.access.engine.transfer(NEW)).await.unwrap().unwrap();
        sleep(Timing::default().election).await;
        let led = status(&scene, FOUNDERS);
        assert_eq!(led.role, Role::Leader);
        let follows = status(&scene, behind);
        assert!(follows.voters.iter().all(|(voter, _)| *voter != NEW), "it has heard of it");
        assert_eq!(follows.term, led.term);
        scene.around.net.fill(behind, false);
        sleep(SOON).await;
        all_follow(&scene, FOUNDERS, led.term);
        scene.check();
    });
}

/// A replica that is alone for long hears it. It makes that one no leader, and no election after it impossible.
#[test]
fn what_a_stranger_says_who_is_heard_is_bounded() {
    in_virtual_time(1, async {
        let (mut scene, leader) = begin().await;
        let before = status(&scene, leader).term;
        let alone = (leader + 1) % FOUNDERS;
        let others = || (0..FOUNDERS).filter(|index| *index != alone);
        others().for_each(|index| scene.end(index, End::Kill));
        sleep(Timing::default().election * 7).await;
        let mut outsider = Outsider::join(&scene);
        outsider.leads(EngineVote::new_committed(before + 1, scene.nodes[alone].own)).await;
        outsider.asks_for_votes(TERM_MAX).await;
        outsider.leads(EngineVote::new_committed(TERM_MAX, NOBODY)).await;
        sleep(Duration::from_secs(1)).await;
        assert_ne!(status(&scene, alone).role, Role::Leader);
        assert_eq!(status(&scene, alone).term, before);
        // It is heard all the same.
        outsider.leads(EngineVote::new_committed(before + 1_000, NOBODY)).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(status(&scene, alone).term, before + 1_000);
        for index in others() {
            scene.start(index).await;
        }
        let next = scene.leader().await;
        scene.put(next, "after").await.unwrap();
        scene.check();
    });
}
