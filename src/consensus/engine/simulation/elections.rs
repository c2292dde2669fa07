//! How long a cluster is without a leader, in virtual time: after one died, and while one hands over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::super::status::Role;
use super::super::Timing;
use super::node::End;
use super::scene::{Scene, in_virtual_time, put};
use super::tests::{each_seed, number};

/// Seeds of each kind of links.
const SEEDS: u64 = 200;
const HANDED_OVER: u64 = 20;
const LOSING: u64 = 8;

/// What a run gave.
#[derive(Clone, Copy, Debug)]
struct Gap {
    took: Duration,
    /// Between the two datacenters that are farthest apart.
    rtt: Duration,
}

/// The longest link, and each of them drawn.
fn lan(scene: &mut Scene) -> Duration {
    scene.links(|_| Duration::from_micros(250));
    Duration::from_micros(500)
}

fn wan(scene: &mut Scene) -> Duration {
    let longest = std::cell::Cell::new(Duration::ZERO);
    scene.links(|luck| {
        let delay = Duration::from_micros(luck.u64(40_000..=110_000));
        longest.set(longest.get().max(delay));
        delay
    });
    longest.get() * 2
}

/// From the last word of a leader that is killed until somebody's write is answered, at whichever node.
fn after_a_kill(seed: u64, links: fn(&mut Scene) -> Duration) -> Gap {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed, Timing::default(), None);
        let rtt = links(&mut scene);
        let leader = scene.begin().await;
        // At any moment between two heartbeats.
        sleep(Duration::from_micros(scene.luck.u64(1_000_000..3_000_000))).await;
        scene.end(leader, End::Kill);
        let last = scene.around.checker.last_led();
        let others = (0..scene.nodes.len()).filter(|index| *index != leader);
        let writes = others.map(|index| {
            let running = scene.running(index).clone();
            Box::pin(async move { while put(&running, &index.to_string()).await.is_err() {} })
        });
        select_all(writes).await;
        let took = Duration::from_micros(scene.around.trace.now() - last);
        scene.check();
        Gap { took, rtt }
    })
}

/// Of some, the one that so many of a hundred do not exceed.
fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// What the design promises of a leader that dies: half of all times a write is taken after one and a half election timeouts,
/// 99 of a hundred times after three of them and four round trips.
#[test]
fn a_dead_leader_is_replaced_within_the_time_that_is_promised() {
    let election = Timing::default().election;
    for (name, links) in [("LAN", lan as fn(&mut Scene) -> Duration), ("WAN", wan)] {
        let (from, seeds) = (number("SIM_FROM", 0), SEEDS);
        let gaps = each_seed(from, seeds, |seed| after_a_kill(seed, links));
        let mut took: Vec<_> = gaps.iter().map(|gap| gap.took).collect();
        let mut beside: Vec<_> = gaps.iter().map(|gap| gap.took.saturating_sub(4 * gap.rtt)).collect();
        let (half, most) = (percentile(&mut took, 50), percentile(&mut beside, 99));
        println!(
            "{name}, {seeds} seeds: election {election:?}, p50 {half:?}, p99 {:?}, less four round trips {most:?}",
            percentile(&mut took, 99)
        );
        assert!(half <= election * 3 / 2, "{name}: p50 {half:?}");
        assert!(most <= 3 * election, "{name}: p99 {most:?}");
    }
}

/// Clients that put one value after the other, each at its node, until they are told to stop. Whoever was told an error notes it.
fn write_on(scene: &Scene, pause: Duration) -> (Arc<Mutex<Vec<String>>>, Vec<JoinHandle<()>>) {
    let failed = Arc::new(Mutex::new(Vec::new()));
    let clients = (0..scene.nodes.len()).map(|index| {
        let (running, failed) = (scene.running(index).clone(), Arc::clone(&failed));
        tokio::spawn(async move {
            for count in 0.. {
                sleep(pause).await;
                if let Err(why) = put(&running, &format!("{count} at {index}")).await {
                    failed.lock().unwrap().push(format!("{count} at {index}: {why}"));
                }
            }
        })
    });
    let clients = clients.collect();
    (failed, clients)
}

/// From the request that another voter shall lead until that one takes proposals.
fn while_handing_over(seed: u64, links: fn(&mut Scene) -> Duration) -> Gap {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed, Timing::default(), None);
        let rtt = links(&mut scene);
        let leader = scene.begin().await;
        let (failed, clients) = write_on(&scene, Duration::from_millis(10));
        sleep(Duration::from_micros(scene.luck.u64(300_000..900_000))).await;
        let target = (leader + scene.luck.usize(1..scene.nodes.len())) % scene.nodes.len();
        let (asked, began) = (scene.running(leader).clone(), Instant::now());
        let own = scene.nodes[target].own;
        asked.scope.run(asked.access.engine.transfer(own)).await.unwrap().unwrap();
        let next = scene.running(target).clone();
        // Its first entry is committed: it takes proposals.
        let takes = || {
            let status = next.access.engine.status();
            status.role == Role::Leader && status.committed.is_some_and(|last| last.term == status.term)
        };
        while !takes() {
            sleep(Duration::from_millis(1)).await;
        }
        let took = began.elapsed();
        sleep(Duration::from_secs(1)).await;
        clients.iter().for_each(JoinHandle::abort);
        assert_eq!(*failed.lock().unwrap(), Vec::<String>::new(), "seed {seed}");
        assert_eq!(scene.leader().await, target, "seed {seed}");
        scene.check();
        Gap { took, rtt }
    })
}

/// For what disks take, where one sync is waited for after the other.
const BESIDE_TRIPS: Duration = Duration::from_millis(50);

#[test]
fn a_leader_that_hands_over_fails_nobody_and_takes_four_round_trips() {
    for (name, links) in [("LAN", lan as fn(&mut Scene) -> Duration), ("WAN", wan)] {
        let (from, seeds) = (number("SIM_FROM", 0), HANDED_OVER);
        let mut gaps = each_seed(from, seeds, |seed| while_handing_over(seed, links));
        gaps.sort_unstable_by_key(|gap| gap.took.saturating_sub(4 * gap.rtt));
        let slowest = gaps.last().expect("there is a seed");
        println!("{name}, {seeds} seeds: slowest {slowest:?}");
        assert!(slowest.took <= 4 * slowest.rtt + BESIDE_TRIPS, "{name}: {slowest:?}");
    }
}

/// Whoever is named to lead next can, or nothing happens: the engine would let go of its leadership for a dead one, and for itself.
#[test]
fn nobody_is_handed_the_leadership_who_cannot_take_it() {
    each_seed(number("SIM_FROM", 0), 4, |seed| {
        in_virtual_time(seed, async {
            let mut scene = Scene::new(seed, Timing::default(), None);
            wan(&mut scene);
            let leader = scene.begin().await;
            let dead = (leader + 1) % scene.nodes.len();
            scene.end(dead, End::Kill);
            sleep(Timing::default().election * 2).await;
            let asked = scene.running(leader).clone();
            let own = |index: usize| scene.nodes[index].own;
            for (target, why) in
                [(leader, "this replica leads already"), (dead, "has not acknowledged anything for")]
            {
                let answer = asked.scope.run(asked.access.engine.transfer(own(target))).await.unwrap();
                let refused = answer.expect_err("it is refused").to_string();
                assert!(refused.contains(why), "seed {seed}: {refused}");
            }
            assert!(scene.put(leader, "at once").await.is_ok(), "seed {seed}: it leads on");
            assert_eq!(scene.leader().await, leader, "seed {seed}");
            scene.check();
        });
    });
}

/// Terms that somebody led in within minutes on lines that lose, with clients that write.
fn terms_on_bad_lines(seed: u64) -> (usize, usize) {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed, Timing::default(), None);
        wan(&mut scene);
        scene.around.net.lose(50);
        scene.begin().await;
        let (failed, clients) = write_on(&scene, Duration::from_millis(100));
        sleep(Duration::from_secs(30)).await;
        clients.iter().for_each(JoinHandle::abort);
        sleep(Duration::from_secs(90)).await;
        scene.check();
        let failed = failed.lock().unwrap().len();
        (scene.around.checker.terms(), failed)
    })
}

/// A line that loses one message in twenty, and brings it half a second late, is no reason to elect anybody.
#[test]
fn lines_that_lose_messages_change_no_leader() {
    let (from, seeds) = (number("SIM_FROM", 0), LOSING);
    let terms = each_seed(from, seeds, terms_on_bad_lines);
    let led: usize = terms.iter().map(|(terms, _)| terms).sum();
    println!("{seeds} seeds: {led} terms, {} failed", terms.iter().map(|(_, failed)| failed).sum::<usize>());
    assert_eq!(led, terms.len());
}
