//! Reads by lease at a leader that others replaced, with clocks that run apart: none is stale, and each bug that would make one so is
//! seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::sleep;

use super::super::super::replica::Consistency;
use super::super::super::tasks::scope::Scope;
use super::super::super::time;
use super::super::Timing;
use super::faults::Fault;
use super::node::{End, Running, Watched};
use super::planted::Planted;
use super::scene::{Scene, in_virtual_time, put};
use super::tests::each_seed;

const SEEDS: u64 = 24;
/// A quarter of the speed: beyond what leases hold for by themselves, and enough to go on leading.
const SLOW: u32 = 250;
const HALF: u32 = 500;

/// What a run gave.
#[derive(Debug)]
struct Raced {
    violations: Vec<String>,
    /// Reads by lease that were answered after the leader was cut off.
    served: usize,
}

/// When a read began, and what it saw; µs.
type Reads = Arc<Mutex<Vec<(u64, String)>>>;

/// Reads by lease at a node, one after the other. One that is not answered at once is given up: it asks a quorum.
fn read_on(scene: &Scene, running: &Running) -> Reads {
    let reads = Reads::default();
    let (noted, trace, node) = (Arc::clone(&reads), scene.around.trace.clone(), running.clone());
    tokio::spawn(running.scope.run_for_ever(async move {
        loop {
            let began = trace.now();
            let look = |machine: &Watched| machine.machine.get("key").map(|value| value.bytes);
            let read = time::timeout(Duration::from_millis(2), node.access.read(Consistency::Lease, look));
            if let Ok(Ok(read)) = read.await {
                let value = read.value.map(|value| String::from_utf8_lossy(&value).into_owned());
                noted.lock().unwrap().push((began, value.unwrap_or_default()));
            }
            time::sleep(Duration::from_millis(5)).await;
        }
    }));
    reads
}

/// Whoever is cut off hears nobody, and nobody hears it.
fn cut_off(scene: &Scene, node: usize) {
    for other in 0..scene.nodes.len() {
        scene.around.net.cut(node, other, Fault::CutNode);
        scene.around.net.cut(other, node, Fault::CutNode);
    }
}

/// A leader is cut off, the others elect another one, and a value is put there, while the old one is read.
async fn replaced(scene: &Scene, leader: usize, writers: &[usize], resumes: Option<Duration>) -> Raced {
    let cut = scene.around.trace.now();
    let reads = read_on(scene, scene.running(leader));
    let writes = writers.iter().map(|index| {
        let running = scene.running(*index).clone();
        Box::pin(async move { while put(&running, &format!("new, at {index}")).await.is_err() {} })
    });
    select_all(writes).await;
    let written = scene.around.trace.now();
    if let Some(after) = resumes {
        sleep(after).await;
        scene.running(leader).scope.resume();
    }
    sleep(Duration::from_secs(3)).await;
    let reads = reads.lock().unwrap();
    for (began, value) in reads.iter().filter(|(began, value)| *began > written && !value.starts_with("new"))
    {
        let checker = &scene.around.checker;
        checker.violated(format!(
            "a lease read is stale: begun at {began}, it sees {value:?} of before {written}"
        ));
    }
    let served = reads.iter().filter(|(began, _)| *began > cut).count();
    Raced { violations: scene.around.checker.violations(), served }
}

/// A leader on a LAN that has led for a while, `before` that; then what `meanwhile` does happens to it, and it is cut off.
fn race(
    seed: u64,
    planted: Option<Planted>,
    before: fn(&Scope),
    meanwhile: fn(&Scope),
    resumes: Option<Duration>,
) -> Raced {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed, Timing::default(), planted);
        scene.links(|_| Duration::from_micros(500));
        let leader = scene.begin().await;
        scene.put(leader, "old").await.unwrap();
        before(&scene.running(leader).scope);
        sleep(Duration::from_micros(scene.luck.u64(8_000_000..10_000_000))).await;
        assert_eq!(scene.leader().await, leader, "it leads still");
        cut_off(&scene, leader);
        meanwhile(&scene.running(leader).scope);
        let others: Vec<usize> = (0..scene.nodes.len()).filter(|index| *index != leader).collect();
        replaced(&scene, leader, &others, resumes).await
    })
}

fn nothing(_: &Scope) {}

/// How many runs had a stale read, and what was served in all of them. Whatever else goes wrong ends the test.
fn count(raced: &[Raced]) -> (usize, usize) {
    let stale = Planted::LeaseWithoutGuard.violation();
    let other = raced.iter().flat_map(|raced| &raced.violations).find(|violation| !violation.contains(stale));
    assert_eq!(other, None);
    let stale = raced.iter().filter(|raced| !raced.violations.is_empty()).count();
    (stale, raced.iter().map(|raced| raced.served).sum())
}

#[test]
fn a_leader_whose_clock_is_slow_gives_no_lease() {
    let slow = |planted| {
        each_seed(0, SEEDS, |seed| race(seed, planted, |scope| scope.run_clock(SLOW), nothing, None))
    };
    assert_eq!(count(&slow(None)), (0, 0), "stale, served");
    let (stale, served) = count(&slow(Some(Planted::LeaseWithoutGuard)));
    println!("without the guard: {stale} of {SEEDS} runs have stale reads, {served} were served");
    assert!(stale > 0);
}

/// No guard can see it: its next look comes too late.
#[test]
fn a_clock_that_becomes_half_as_fast_in_the_middle_of_a_lease_breaks_nothing() {
    let half = |seed| race(seed, None, nothing, |scope| scope.run_clock(HALF), None);
    let (stale, served) = count(&each_seed(0, SEEDS, half));
    assert_eq!(stale, 0);
    assert!(served > 0, "there were leases");
}

#[test]
fn a_machine_that_was_suspended_gives_no_lease_when_it_goes_on() {
    let suspended = |planted| {
        each_seed(0, SEEDS, |seed| {
            let suspend: fn(&Scope) = |scope| scope.suspend(Duration::from_secs(60));
            race(seed, planted, nothing, suspend, Some(Duration::from_millis(100)))
        })
    };
    assert_eq!(count(&suspended(None)), (0, 0), "stale, served");
    let (stale, served) = count(&suspended(Some(Planted::LeaseWithoutGuard)));
    println!("without the guard: {stale} of {SEEDS} runs have stale reads, {served} were served");
    assert!(stale > 0);
}

/// Shorter than a lease, and than what it takes to be seen at once or at the next look.
#[test]
fn a_machine_that_was_suspended_for_less_than_a_lease_gives_none_that_is_stale() {
    for long in [90, 250, 530] {
        let long = Duration::from_millis(long);
        assert!(long < Timing::default().lease());
        let short = |seed| {
            in_virtual_time(seed, async {
                let mut scene = Scene::new(seed, Timing::default(), None);
                scene.links(|_| Duration::from_micros(500));
                let leader = scene.begin().await;
                scene.put(leader, "old").await.unwrap();
                sleep(Duration::from_micros(scene.luck.u64(8_000_000..10_000_000))).await;
                cut_off(&scene, leader);
                let scope = scene.running(leader).scope.clone();
                let after = Duration::from_micros(scene.luck.u64(0..500_000));
                tokio::spawn(async move {
                    sleep(after).await;
                    scope.suspend(long);
                    sleep(long).await;
                    scope.resume();
                });
                let others: Vec<usize> = (0..scene.nodes.len()).filter(|index| *index != leader).collect();
                replaced(&scene, leader, &others, None).await
            })
        };
        let (stale, served) = count(&each_seed(0, SEEDS / 2, short));
        assert_eq!(stale, 0, "{long:?}");
        assert!(served > 0, "there were leases");
    }
}

/// Each time for less than a lease, and one lease lasts over several of them.
#[test]
fn a_machine_that_is_suspended_again_and_again_gives_no_lease_that_is_stale() {
    fn again_and_again(scope: &Scope) {
        let scope = scope.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                scope.suspend(Duration::from_millis(500));
                sleep(Duration::from_millis(500)).await;
                scope.resume();
                sleep(Duration::from_millis(60)).await;
            }
        });
    }
    let suspended = |planted| each_seed(0, SEEDS, |seed| race(seed, planted, nothing, again_and_again, None));
    assert_eq!(count(&suspended(None)).0, 0, "stale");
    let (stale, served) = count(&suspended(Some(Planted::LeaseWithoutGuard)));
    println!("without the guard: {stale} of {SEEDS} runs have stale reads, {served} were served");
    assert!(stale > 0);
}

/// A leader has itself and two others, one of which is restarted: that one promised not to elect itself either.
fn restarted(seed: u64, planted: Option<Planted>) -> Raced {
    in_virtual_time(seed, async {
        let mut scene = Scene::new(seed, Timing::default(), planted);
        scene.links(|_| Duration::from_micros(500));
        let leader = scene.begin().await;
        scene.put(leader, "old").await.unwrap();
        let others: Vec<usize> = (0..scene.nodes.len()).filter(|index| *index != leader).collect();
        // Two have promised nothing any longer: they hear nothing of it.
        for deaf in &others[2..] {
            scene.around.net.cut(leader, *deaf, Fault::CutOneWay);
        }
        sleep(Duration::from_micros(scene.luck.u64(8_000_000..10_000_000))).await;
        assert_eq!(
            scene.running(leader).access.engine.status().role,
            super::super::super::status::Role::Leader
        );
        scene.end(others[0], End::Kill);
        cut_off(&scene, leader);
        scene.start(others[0]).await;
        replaced(&scene, leader, &others, None).await
    })
}

#[test]
fn whoever_is_restarted_keeps_its_promise_not_to_elect_itself() {
    let (stale, served) = count(&each_seed(0, SEEDS, |seed| restarted(seed, None)));
    assert_eq!(stale, 0);
    assert!(served > 0, "there were leases");
    let (stale, _) = count(&each_seed(0, SEEDS, |seed| restarted(seed, Some(Planted::OwnCandidacy))));
    println!("with a candidacy inside of the promise: {stale} of {SEEDS} runs have stale reads");
    assert!(stale > 0);
}
