//! Snapshots from the nearest replica: who sends what, whatever becomes of the one that lends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, sleep};
use trunkline_mesh::{Datacenter, Lane};

use super::super::super::key_value::Operation;
use super::super::super::replica_id::ReplicaId;
use super::super::Timing;
use super::super::message::{Body, Lend, Lent};
use super::super::types::EngineVote;
use super::node::{End, Node};
use super::planted::Planted;
use super::scene::{FOUNDERS, Scene, in_virtual_time, places};
use crate::storage::EntryId;

/// Two in Europe: the one is away, the other one is beside it.
const BESIDE: usize = 2;
const AWAY: usize = 3;
/// A third of what a part of a snapshot takes, B.
const VALUE_BYTES: usize = 85_000;

/// Five voters, of whom one in the Americas leads, and one in Europe was away until the log had no more what it lacks.
struct Away {
    scene: Scene,
    leader: usize,
    puts: u32,
}

impl Away {
    /// In a run of [`in_virtual_time`].
    async fn begin(seed: u64, snapshot_entries: u64, planted: Option<Planted>) -> Self {
        let mut scene = Scene::new(seed, Timing { snapshot_entries, ..Timing::default() }, planted);
        scene.links(|_| Duration::from_millis(40));
        let near = Datacenter::new("eu").unwrap();
        scene.around.net.delay(&near, &near, Duration::from_millis(5));
        let leader = scene.begin().await;
        let mut away = Self { scene, leader, puts: 0 };
        away.lead(0).await;
        away.put(5).await;
        away.scene.end(AWAY, End::Kill);
        away
    }

    /// Has a node lead.
    async fn lead(&mut self, next: usize) {
        while self.scene.leader().await != next {
            let (leader, own) = (self.scene.leader().await, self.scene.nodes[next].own);
            // Until that one has acknowledged something.
            drop(self.scene.running(leader).access.engine.transfer(own).await);
            sleep(Duration::from_millis(100)).await;
        }
        self.leader = next;
    }

    /// Each under a key of its own.
    async fn put(&mut self, count: u32) {
        for _ in 0..count {
            let (key, value) = (format!("{:03}", self.puts), vec![b'v'; VALUE_BYTES]);
            let value = [key.as_bytes(), &value].concat().into();
            let put = Operation::Put { key, value, if_index: None }.encode();
            let running = self.scene.running(self.leader);
            running.scope.run(running.access.propose(None, put)).await.unwrap().unwrap().result.unwrap();
            self.puts += 1;
        }
    }

    /// The leader's log begins after what the one that is away has.
    async fn is_purged(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.scene.running(self.leader).access.engine.status().purged.is_none_or(|last| last.index < 10)
        {
            assert!(Instant::now() < deadline, "the log is not purged");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A node has all that there is.
    async fn catches_up(&self, index: usize, within: Duration) {
        let deadline = Instant::now() + within;
        let applied = |index| self.scene.running(index).access.engine.status().applied;
        while applied(index) < applied(self.leader) {
            assert!(Instant::now() < deadline, "it does not catch up: {:?}", self.told(index));
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn told(&self, index: usize) -> Vec<String> {
        let events = self.scene.running(index).access.engine.events(0);
        events.iter().map(ToString::to_string).collect()
    }

    /// Bytes of snapshots that the leader sent, and the one beside.
    fn sent(&self, to: ReplicaId) -> (u64, u64) {
        let sent = |from| self.scene.around.checker.parts_sent(from, to);
        (sent(self.leader), sent(BESIDE))
    }

    /// Who is away comes back, and gets what it lacks.
    async fn returns(&mut self, within: Duration) -> (u64, u64) {
        self.is_purged().await;
        self.scene.start(AWAY).await;
        self.catches_up(AWAY, within).await;
        let told = self.told(AWAY);
        assert!(told.iter().any(|line| line.contains("snapshot_installed")), "{told:?}");
        self.sent(self.scene.nodes[AWAY].own)
    }

    /// Until a part of it was sent by the one beside.
    async fn is_lent(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.sent(self.scene.nodes[AWAY].own).1 == 0 {
            assert!(Instant::now() < deadline, "nothing is lent: {:?}", self.told(BESIDE));
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// What is put from now on comes by the log alone.
    async fn goes_on(&mut self) {
        let before = self.sent(self.scene.nodes[AWAY].own);
        self.put(3).await;
        self.catches_up(AWAY, Duration::from_secs(5)).await;
        assert_eq!(self.sent(self.scene.nodes[AWAY].own), before);
        self.scene.check();
    }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn who_lacks_much_gets_a_snapshot_from_the_replica_beside_it() {
    for seed in 0..8 {
        in_virtual_time(seed, async {
            let mut away = Away::begin(seed, 20, None).await;
            away.put(60).await;
            let (by_leader, lent) = away.returns(SOON).await;
            assert_eq!(by_leader, 0, "nothing crosses: {:?}", away.told(BESIDE));
            assert!(lent > 40 * VALUE_BYTES as u64, "{lent}");
            let status = away.scene.running(BESIDE).access.engine.status();
            assert_eq!((status.sent.snapshots.own, status.sent.snapshots.lent), (0, lent));
            let own = away.scene.nodes[0].own;
            let told = away.told(BESIDE);
            let told = told.iter().filter(|line| line.contains("snapshot_lent"));
            let told: Vec<_> = told.collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(
                told[0].contains(&format!("\"asked_by\":\"{own}\""))
                    && told[0].contains("\"installed\":true")
            );
            away.goes_on().await;
        });
    }
}

/// A new replica, as a learner, and the one beside it has no snapshot that is new enough: it takes one.
#[test]
fn who_lends_takes_a_snapshot_where_its_own_is_older() {
    in_virtual_time(1, async {
        let mut away = Away::begin(1, 50, None).await;
        away.put(35).await;
        away.lead(0).await;
        // Asia has one voter.
        let beside = FOUNDERS - 1;
        away.scene.running(0).access.engine.snapshot().await.unwrap();
        away.is_purged().await;
        assert!(away.scene.running(beside).access.engine.status().snapshot.is_none());
        let place = places()[FOUNDERS].clone();
        let own = ReplicaId(4_711);
        away.scene.nodes.push(Node::new(FOUNDERS, place.clone(), own));
        away.scene.start(FOUNDERS).await;
        let running = away.scene.running(0);
        running.scope.run(running.access.engine.add(place, SOON)).await.unwrap().unwrap();
        away.catches_up(FOUNDERS, SOON).await;
        let sent = |from| away.scene.around.checker.parts_sent(from, own);
        assert_eq!(sent(0), 0);
        assert!(sent(beside) > 30 * VALUE_BYTES as u64);
        assert!(away.told(beside).iter().any(|line| line.contains("snapshot_taken")));
        away.scene.check();
    });
}

/// It has not all entries, or takes no snapshot: the leader sends its own.
#[test]
fn who_has_less_than_the_leader_lends_nothing() {
    type Does = fn(&Scene);
    let lags: Does = |scene| scene.around.net.fill(BESIDE, true);
    let mute: Does = |scene| scene.nodes[BESIDE].mute.store(true, Ordering::Relaxed);
    for (does, refuses) in [(lags, false), (mute, true)] {
        in_virtual_time(1, async {
            let mut away = Away::begin(1, 20, None).await;
            does(&away.scene);
            away.put(60).await;
            let (by_leader, lent) = away.returns(SOON).await;
            assert_eq!(lent, 0);
            assert!(by_leader > 40 * VALUE_BYTES as u64, "{by_leader}");
            let told = away.told(0);
            let sent = |line: &String| line.contains("snapshot_sent") && line.contains("\"installed\":true");
            assert!(told.iter().any(sent), "{told:?}");
            // Who has too little is not asked.
            let refused = |line: &String| {
                let asked = format!("\"asked\":\"{}\"", away.scene.nodes[BESIDE].own);
                line.contains("snapshot_not_lent") && line.contains(&asked)
            };
            assert_eq!(told.iter().any(refused), refuses, "{told:?}");
            away.scene.around.net.fill(BESIDE, false);
            away.goes_on().await;
        });
    }
}

/// What it has not applied, for whom it does not know, or for itself, and for one that it does not follow.
#[test]
fn who_is_asked_for_what_it_does_not_have_says_so_at_once() {
    in_virtual_time(1, async {
        let mut away = Away::begin(1, 20, None).await;
        away.put(3).await;
        away.catches_up(BESIDE, SOON).await;
        let engine = &away.scene.running(0).access.engine;
        let vote = engine.requests.raft.metrics().borrow_watched().vote;
        let applied = away.scene.running(BESIDE).access.engine.status().applied.unwrap();
        let (beside, to) = (&away.scene.nodes[BESIDE], away.scene.nodes[AWAY].own);
        let good = Lend { number: 1, vote, to, last: applied };
        let more = EntryId { index: applied.index + 1, ..applied };
        let later = EngineVote::new_committed(vote.leader_id.term + 1, vote.leader_id.voted_for);
        let another = EngineVote::new_committed(vote.leader_id.term, to);
        for lend in [
            Lend { last: more, ..good.clone() },
            Lend { to: ReplicaId(1), ..good.clone() },
            Lend { to: beside.own, ..good.clone() },
            Lend { vote: later, ..good.clone() },
            Lend { vote: another, ..good.clone() },
        ] {
            let began = Instant::now();
            let scope = &away.scene.running(0).scope;
            let wire = &engine.requests.wire;
            let to = (Some(beside.own), &beside.place);
            let asked = wire.ask(to, Lane::Control, Body::Lend(lend.clone()), SOON);
            let (_, answer) = scope.run(asked).await.unwrap().unwrap();
            assert_eq!(answer, Body::Lent(Lent::No), "{lend:?}");
            assert!(began.elapsed() < Duration::from_millis(100), "{lend:?}");
        }
        away.scene.check();
    });
}

/// A program that writes snapshots itself is not asked for more.
#[test]
fn nobody_takes_a_snapshot_for_another_one_where_the_program_writes_them() {
    in_virtual_time(1, async {
        let mut away = Away::begin(1, u64::MAX, None).await;
        away.put(30).await;
        let running = away.scene.running(0);
        running.access.engine.snapshot().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        running.access.engine.requests.raft.trigger().purge_log(20).await.unwrap();
        let (by_leader, lent) = away.returns(SOON).await;
        assert!(by_leader > 0 && lent == 0, "{by_leader}, {lent}");
        assert!(away.scene.running(BESIDE).access.engine.status().snapshot.is_none());
        away.scene.check();
    });
}

#[test]
fn where_who_lends_dies_or_is_cut_off_in_the_middle_the_leader_sends_its_own() {
    type Does = fn(&mut Scene);
    let dies: Does = |scene| scene.end(BESIDE, End::Kill);
    let is_cut_off: Does = |scene| {
        scene.around.net.cut(BESIDE, AWAY, super::faults::Fault::CutOneWay);
        scene.around.net.cut(AWAY, BESIDE, super::faults::Fault::CutOneWay);
    };
    let is_paused: Does = |scene| scene.running(BESIDE).scope.pause();
    for (seed, does) in [dies, is_cut_off, is_paused].into_iter().enumerate() {
        in_virtual_time(seed as u64, async {
            let mut away = Away::begin(seed as u64, 20, None).await;
            away.put(80).await;
            away.is_purged().await;
            away.scene.start(AWAY).await;
            away.is_lent().await;
            does(&mut away.scene);
            // It is not waited for longer than for the answers to two questions.
            away.catches_up(AWAY, 3 * Timing::default().patience).await;
            let (by_leader, lent) = away.sent(away.scene.nodes[AWAY].own);
            assert!(by_leader > 70 * VALUE_BYTES as u64, "{by_leader}");
            assert!(lent < 70 * VALUE_BYTES as u64, "in the middle: {lent}");
            away.goes_on().await;
        });
    }
}

/// Who lends hears of another leader, and ends it; that one has it lent again.
#[test]
fn what_is_lent_for_a_leader_ends_with_it() {
    in_virtual_time(1, async {
        let mut away = Away::begin(1, 20, None).await;
        away.put(80).await;
        away.is_purged().await;
        away.scene.start(AWAY).await;
        away.is_lent().await;
        away.scene.end(0, End::Kill);
        away.leader = away.scene.leader().await;
        away.put(1).await;
        away.catches_up(AWAY, 3 * Timing::default().patience).await;
        let told = away.told(BESIDE);
        let told: Vec<_> = told.iter().filter(|line| line.contains("snapshot_lent")).collect();
        assert!(told[0].contains("\"installed\":false") || told.len() == 1, "{told:?}");
        away.scene.check();
    });
}

#[test]
fn a_snapshot_that_is_older_than_the_leader_asked_for_is_seen() {
    in_virtual_time(1, async {
        let mut away = Away::begin(1, 20, Some(Planted::LentOlder)).await;
        // The one beside keeps an older one.
        away.put(25).await;
        away.scene.nodes[BESIDE].mute.store(true, Ordering::Relaxed);
        away.put(60).await;
        away.is_purged().await;
        away.scene.start(AWAY).await;
        sleep(SOON).await;
        let violations = away.scene.around.checker.violations();
        let expected = Planted::LentOlder.violation();
        assert!(violations.first().is_some_and(|first| first.contains(expected)), "{violations:?}");
    });
}
