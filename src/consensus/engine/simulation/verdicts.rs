//! What is told and what ends it: a proposal that nobody took, a snapshot that a machine did not give, a majority in doubt.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::super::error::{MemberError, ProposeError};
use super::super::super::key_value::Operation;
use super::super::super::status::Role;
use super::super::Timing;
use super::node::End;
use super::scene::{Scene, in_virtual_time};
use crate::storage::end_doubt;

#[test]
fn a_proposal_that_the_mesh_turns_down_is_answered_after_a_round_trip() {
    in_virtual_time(1, async {
        let mut scene = Scene::new(1, Timing::default(), None);
        let link = Duration::from_millis(75);
        scene.links(|_| link);
        let leader = scene.begin().await;
        let far = (0..scene.nodes.len())
            .find(|index| scene.nodes[*index].place.datacenter != scene.nodes[leader].place.datacenter)
            .unwrap();
        scene.put(far, "before").await.unwrap();
        scene.around.net.fill(leader, true);
        let value = Bytes::from_static(b"refused");
        let put = Operation::Put { key: "key".to_owned(), value: value.clone(), if_index: None }.encode();
        let began = Instant::now();
        let running = scene.running(far);
        let told = running.scope.run(running.access.propose(None, put)).await.unwrap();
        let took = began.elapsed();
        assert_eq!(told, Err(ProposeError::Busy));
        assert!(took <= 2 * link + Duration::from_millis(20), "{took:?}");
        scene.around.net.fill(leader, false);
        // The stream of appends that broke off begins again.
        sleep(Duration::from_secs(10)).await;
        scene.put(far, "after").await.unwrap();
        assert_eq!(scene.around.checker.applied_at(&value), None, "it was certain");
        scene.check();
    });
}

#[test]
fn a_machine_that_gives_no_snapshot_ends_no_node_and_is_asked_again() {
    in_virtual_time(1, async {
        let timing = Timing { snapshot_entries: 20, ..Timing::default() };
        let mut scene = Scene::new(1, timing, None);
        scene.links(|_| Duration::from_millis(1));
        let leader = scene.begin().await;
        let (mute, others) = (leader, (leader + 1) % scene.nodes.len());
        scene.nodes[mute].mute.store(true, Ordering::Relaxed);
        for count in 0..100 {
            scene.put(leader, &count.to_string()).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        let status = scene.running(mute).access.engine.status();
        assert_eq!((status.stopped, status.snapshot), (None, None));
        // Once in so many entries, and not at each.
        assert!((2..=5).contains(&status.snapshots_failed), "{}", status.snapshots_failed);
        let events = scene.running(mute).access.engine.events(0);
        let told =
            events.iter().filter(|line| line.contains("snapshot_failed") && line.contains("told to fail"));
        assert_eq!(told.count() as u64, status.snapshots_failed);
        let status = scene.running(others).access.engine.status();
        assert!(status.snapshot.is_some() && status.snapshots_failed == 0);
        scene.nodes[mute].mute.store(false, Ordering::Relaxed);
        for count in 100..130 {
            scene.put(leader, &count.to_string()).await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        assert!(scene.running(mute).access.engine.status().snapshot.is_some());
        scene.check();
    });
}

/// It leads on until it steps down, and calls itself the leader: a change by a membership in which it has no vote would end its engine.
#[test]
fn a_leader_that_took_itself_out_changes_no_members_any_longer() {
    in_virtual_time(1, async {
        let mut scene = Scene::new(1, Timing::default(), None);
        scene.links(|_| Duration::from_millis(10));
        let leader = scene.begin().await;
        let (own, other) = (scene.nodes[leader].own, scene.nodes[(leader + 1) % scene.nodes.len()].own);
        scene.put(leader, "before").await.unwrap();
        let running = scene.running(leader);
        running.scope.run(running.access.engine.remove(own)).await.unwrap().unwrap();
        for _ in 0..40 {
            let told = running.scope.run(running.access.engine.remove(other)).await.unwrap();
            assert_eq!(told, Err(MemberError::NotLeader));
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(running.scope.take_panics(), Vec::<String>::new());
        assert_eq!(running.access.engine.status().stopped, None);
    });
}

/// The power went in all nodes' last writes: nobody votes, until an operator takes the best of them at its word.
#[test]
fn a_majority_in_doubt_is_led_again_once_the_best_of_them_is_trusted() {
    for seed in 0..8 {
        in_virtual_time(seed, async {
            let mut scene = Scene::new(seed, Timing::default(), None);
            scene.links(|_| Duration::from_millis(1));
            let leader = scene.begin().await;
            for count in 0..20 {
                scene.put(leader, &count.to_string()).await.unwrap();
            }
            sleep(Duration::from_secs(1)).await;
            (0..scene.nodes.len()).for_each(|index| scene.end(index, End::Kill));
            let doubted: Vec<usize> = (0..3).map(|at| (leader + at) % scene.nodes.len()).collect();
            for index in &doubted {
                scene.tear(*index);
            }
            for index in 0..scene.nodes.len() {
                scene.start(index).await;
            }
            sleep(Duration::from_secs(60)).await;
            let statuses = |scene: &Scene| {
                let status = |index| scene.running(index).access.engine.status();
                (0..scene.nodes.len()).map(status).collect::<Vec<_>>()
            };
            let all = statuses(&scene);
            assert_eq!(all.iter().filter(|status| status.in_doubt).count(), doubted.len());
            assert!(all.iter().all(|status| status.role == Role::Follower), "nobody leads");

            let best = *doubted.iter().max_by_key(|index| all[**index].last).unwrap();
            scene.end(best, End::Kill);
            let ended = end_doubt(scene.nodes[best].log.clone()).unwrap();
            assert_eq!(ended.from.map(|from| from - 1), ended.last.map(|last| last.index));
            scene.start(best).await;
            let led = scene.leader().await;
            let last = all.iter().map(|status| status.last).max().unwrap();
            assert!(
                scene.running(led).access.engine.status().last > last,
                "nothing that a voter had is lost"
            );
            scene.put(led, "again").await.unwrap();
            sleep(Duration::from_secs(2)).await;
            assert!(statuses(&scene).iter().all(|status| !status.in_doubt), "the others caught up");
            scene.check();
        });
    }
}
