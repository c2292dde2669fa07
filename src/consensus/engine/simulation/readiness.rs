//! What a node says of itself while it hears of nobody, or its leader does not: that clients do better to go elsewhere.

use std::time::Duration;

use tokio::time::sleep;

use super::super::super::replica_id::ReplicaId;
use super::super::super::status::{NotReady, Role};
use super::super::Timing;
use super::faults::Fault;
use super::node::{End, Node};
use super::scene::{FOUNDERS, Scene, in_virtual_time, places};

const LINK: Duration = Duration::from_millis(20);

/// Of each node: what stands against it, and whether it names a leader.
fn looks(scene: &Scene) -> Vec<(Option<NotReady>, bool)> {
    let look = |index| {
        let status = scene.running(index).access.engine.status();
        (status.not_ready, status.leader.is_some())
    };
    (0..scene.nodes.len()).map(look).collect()
}

/// A leader and one that follows it are cut off from the three others.
#[test]
fn whoever_hears_of_no_majority_is_not_ready_and_names_no_leader() {
    in_virtual_time(1, async {
        let timing = Timing::default();
        let within = timing.election;
        let mut scene = Scene::new(1, timing, None);
        scene.links(|_| LINK);
        let leader = scene.begin().await;
        sleep(Duration::from_secs(1)).await;
        let fine = vec![(None, true); scene.nodes.len()];
        assert_eq!(looks(&scene), fine);
        let beside = (leader + 1) % scene.nodes.len();
        let is_cut = |index: usize| [leader, beside].contains(&index);
        for one in 0..scene.nodes.len() {
            for other in (0..scene.nodes.len()).filter(|other| is_cut(one) != is_cut(*other)) {
                scene.around.net.cut(one, other, Fault::CutNode);
            }
        }
        // Nobody can know yet.
        sleep(within / 4).await;
        assert_eq!(looks(&scene), fine);
        // By then the last answer of a majority is too old, and the word of that has come.
        sleep(within * 3 / 4 + timing.heartbeat + 2 * LINK).await;
        let told = looks(&scene);
        for index in [leader, beside] {
            assert_eq!(told[index], (Some(NotReady::NoMajority { within }), false), "{index} of {leader}");
        }
        assert_eq!(scene.running(leader).access.engine.status().role, Role::Leader, "of its own term");
        sleep(within).await;
        let told = looks(&scene);
        assert!(
            (0..scene.nodes.len()).filter(|index| !is_cut(*index)).all(|index| told[index] == (None, true)),
            "{told:?}"
        );
        scene.around.net.heal();
        sleep(within).await;
        assert_eq!(looks(&scene), fine);

        // One alone hears of nobody; when it comes back from a restart it does not either.
        let alone = (scene.leader().await + 1) % scene.nodes.len();
        let cut = |scene: &Scene| {
            for other in (0..scene.nodes.len()).filter(|other| *other != alone) {
                scene.around.net.cut(alone, other, Fault::CutNode);
                scene.around.net.cut(other, alone, Fault::CutNode);
            }
        };
        cut(&scene);
        sleep(within + LINK).await;
        let none = (Some(NotReady::NoLeader { within }), false);
        assert_eq!(looks(&scene)[alone], none);
        scene.end(alone, End::Kill);
        scene.start(alone).await;
        sleep(LINK).await;
        assert_eq!(looks(&scene)[alone], none);
        scene.around.net.heal();
        sleep(within).await;
        assert_eq!(looks(&scene), fine);
        scene.check();
    });
}

/// It is sent everything from the beginning, over a line that takes long for it.
#[test]
fn whoever_has_much_to_apply_is_not_ready() {
    in_virtual_time(1, async {
        let mut scene = Scene::new(1, Timing::default(), None);
        scene.links(|_| LINK);
        let leader = scene.begin().await;
        let behind = (leader + 1) % scene.nodes.len();
        sleep(Duration::from_secs(1)).await;
        scene.end(behind, End::Kill);
        for round in 0..25 {
            let values: Vec<String> = (0..50).map(|count| format!("{round} {count}")).collect();
            let puts =
                futures_util::future::join_all(values.iter().map(|value| scene.put(leader, value))).await;
            assert!(puts.iter().all(Result::is_ok));
        }
        // It hears of what is committed, and gets none of it.
        scene.around.net.fill(behind, true);
        scene.start(behind).await;
        sleep(Duration::from_secs(1)).await;
        let told = scene.running(behind).access.engine.status().not_ready;
        assert!(matches!(told, Some(NotReady::Behind { lacks: 1_200.. })), "{told:?}");
        scene.around.net.fill(behind, false);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(scene.running(behind).access.engine.status().not_ready, None);
        scene.check();
    });
}

/// A learner that hears of whoever leads, and gets no entry of the few that there are.
#[test]
fn whoever_has_no_entry_is_not_ready_although_it_hears_of_a_leader() {
    in_virtual_time(1, async {
        let timing = Timing::default();
        let mut scene = Scene::new(1, timing, None);
        scene.links(|_| LINK);
        let leader = scene.begin().await;
        let place = places()[FOUNDERS].clone();
        scene.nodes.push(Node::new(FOUNDERS, place.clone(), ReplicaId(4_711)));
        scene.start(FOUNDERS).await;
        scene.around.net.fill(FOUNDERS, true);
        sleep(Duration::from_secs(1)).await;
        let running = scene.running(leader);
        let added = running.access.engine.add(place, Duration::from_secs(5));
        running.scope.run(added).await.unwrap().unwrap();
        sleep(timing.election).await;
        let status = scene.running(FOUNDERS).access.engine.status();
        // Few enough not to matter, were they not all that there are.
        assert!(
            matches!(status.not_ready, Some(NotReady::Behind { lacks: 1..10 })),
            "{:?}",
            status.not_ready
        );
        assert_eq!(status.applied, None);
        scene.around.net.fill(FOUNDERS, false);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(scene.running(FOUNDERS).access.engine.status().not_ready, None);
        scene.check();
    });
}
