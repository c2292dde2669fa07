//! Reads at a leader whose process stood still while others replaced it, and goes on with answers of before in its buffers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::sleep;

use super::super::super::replica::Consistency;
use super::super::super::time;
use super::super::Timing;
use super::faults::Fault;
use super::node::Watched;
use super::planted::Planted;
use super::scene::{Scene, in_virtual_time, put};
use super::tests::each_seed;

const SEEDS: u64 = 6;
/// One way.
const LINK: Duration = Duration::from_millis(40);
/// What is answered by lease comes within so long.
const AT_ONCE: Duration = Duration::from_millis(2);
/// Entries that are under way when the leader stops: one every 5 ms, within a round trip.
const UNDER_WAY: u64 = 16;

/// What reads saw that were begun when the old leader went on, and ended.
type Seen = Arc<Mutex<Vec<String>>>;

/// A leader stops with appends under way, whose answers come into its buffers. Others elect another one and put a value there, of
/// which the old one hears nothing. It goes on, and is read at once. The stale reads.
fn stopped(seed: u64, consistency: Consistency, planted: Option<Planted>) -> usize {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed, Timing::default(), planted);
        scene.links(|_| LINK);
        let leader = scene.begin().await;
        scene.put(leader, "old").await.unwrap();
        // Until leases are given.
        sleep(Duration::from_micros(scene.luck.u64(8_000_000..10_000_000))).await;
        assert_eq!(scene.leader().await, leader, "it leads still");
        let old = scene.running(leader).clone();
        for count in 0..2 * UNDER_WAY {
            let running = old.clone();
            tokio::spawn(async move { drop(put(&running, &format!("old {count}")).await) });
            sleep(2 * LINK / u32::try_from(UNDER_WAY).expect("it is small")).await;
        }
        old.scope.pause();
        // The answers arrive, and nothing after them.
        sleep(3 * LINK).await;
        let others: Vec<usize> = (0..scene.nodes.len()).filter(|index| *index != leader).collect();
        others.iter().for_each(|other| scene.around.net.cut(*other, leader, Fault::CutOneWay));
        let writes = others.iter().map(|index| {
            let running = scene.running(*index).clone();
            Box::pin(async move {
                let mut tries = 0..;
                while let Some(count) = tries.next()
                    && put(&running, &format!("new {count}, at {index}")).await.is_err()
                {}
            })
        });
        select_all(writes).await;
        let seen = Seen::default();
        let patience = if consistency == Consistency::Lease { AT_ONCE } else { 4 * LINK };
        for _ in 0..20 {
            let (seen, running) = (Arc::clone(&seen), old.clone());
            tokio::spawn(old.scope.run_for_ever(async move {
                loop {
                    let look = |machine: &Watched| machine.machine.get("key").map(|value| value.bytes);
                    // One that waits longer asks again whether there is a lease.
                    let read = time::timeout(patience, running.access.read(consistency, look));
                    if let Ok(Ok(read)) = read.await {
                        let value = read.value.unwrap_or_default();
                        seen.lock().unwrap().push(String::from_utf8_lossy(&value).into_owned());
                    }
                    time::sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        old.scope.resume();
        sleep(Duration::from_secs(1)).await;
        scene.check();
        let seen = seen.lock().unwrap();
        seen.iter().filter(|value| !value.starts_with("new")).count()
    })
}

#[test]
fn a_leader_that_was_stopped_confirms_no_read_by_answers_of_before() {
    for consistency in [Consistency::Linearizable, Consistency::Lease] {
        let stale = |planted| each_seed(0, SEEDS, |seed| stopped(seed, consistency, planted));
        assert_eq!(stale(None), vec![0; usize::try_from(SEEDS).expect("it is small")], "{consistency:?}");
        let by_engine = stale(Some(Planted::TimesOfEngine));
        println!("by the engine's times stale reads of each seed, {consistency:?}: {by_engine:?}");
        assert!(by_engine.iter().sum::<usize>() > 0, "{consistency:?}");
    }
}
