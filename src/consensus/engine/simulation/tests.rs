//! Seeds. `SIM_SEEDS=1000 SIM_FROM=5000 cargo test --lib no_seed_breaks_the_log` runs others; a failure prints the seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

use super::super::Timing;
use super::faults::{Fault, Swarm};
use super::node::End;
use super::planted::Planted;
use super::scene::{Scene, in_virtual_time};
use super::world::{Outcome, run};

pub(super) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs every seed once, on all processors. A seed knows nothing of the others.
pub(super) fn each_seed<T: Send>(from: u64, seeds: u64, look: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(from);
    let work = || {
        let mut seen = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return seen;
            }
            seen.push(look(seed));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a seed that panicked said why")).collect()
    })
}

#[test]
fn no_seed_breaks_the_log() {
    let (from, seeds) = (number("SIM_FROM", 0), number("SIM_SEEDS", 16));
    let outcomes: Vec<(u64, Outcome)> = each_seed(from, seeds, |seed| {
        let outcome = run(seed, None, None);
        for violation in &outcome.violations {
            println!("seed {seed}: {violation}");
        }
        if !outcome.violations.is_empty() {
            println!("seed {seed}: {:?}", outcome.swarm);
        }
        (seed, outcome)
    });
    let broken = |(seed, outcome): &(u64, Outcome)| (!outcome.violations.is_empty()).then_some(*seed);
    let mut broken: Vec<u64> = outcomes.iter().filter_map(broken).collect();
    broken.sort_unstable();
    if let Some(seed) = broken.first() {
        panic!(
            "seeds {broken:?} break it\n\
             SIM_FROM={seed} SIM_SEEDS=1 SIM_TRACE=1 cargo test --lib no_seed_breaks_the_log -- --nocapture"
        );
    }
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<usize>();
    let (answered, followed) = (sum(|outcome| outcome.answered), sum(|outcome| outcome.followed));
    let mut kinds = BTreeMap::new();
    for (kind, count) in outcomes.iter().flat_map(|(_, outcome)| &outcome.seen) {
        *kinds.entry(kind.as_str()).or_insert(0) += count;
    }
    let terms = sum(|outcome| outcome.terms);
    println!(
        "{seeds} seeds from {from}: {answered} operations answered, {followed} entries followed, {terms} terms led, \
         {kinds:?}"
    );
    assert!(answered as u64 > seeds * 50, "the runs must carry load");
    // What hardly any run has, many runs must have.
    let rare = [
        "snapshot_installed",
        "snapshot_lent",
        "caught_up",
        "clock_fault",
        "Wipe",
        "Damage",
        "PowerLossAtCall",
    ];
    let never: Vec<_> = rare.iter().filter(|kind| !kinds.contains_key(**kind)).collect();
    assert!(seeds < 16 || never.is_empty(), "no run had {never:?}");
    // And of many more each kind of fault must have taken effect.
    let all = Fault::ALL.map(|fault| format!("{fault:?}"));
    let never: Vec<_> = all.iter().filter(|kind| !kinds.contains_key(kind.as_str())).collect();
    assert!(seeds < SEEDS_TO_EVERY_FAULT || never.is_empty(), "no run had {never:?}");
}

#[test]
fn without_faults_a_cluster_serves_and_its_replicas_agree() {
    let outcome = run(1, None, Some(Swarm::calm()));
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert!(outcome.answered > 50 && outcome.terms == 1, "{outcome:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 14] {
        let (one, two) = (run(seed, None, None), run(seed, None, None));
        assert_eq!(one.trace, two.trace, "seed {seed}");
    }
    assert_ne!(run(3, None, None).trace, run(4, None, None).trace);
}

/// A leader that handed over was asked by itself, and told itself as a follower what is committed.
#[test]
fn a_leader_that_hands_over_does_not_follow_itself() {
    assert_eq!(run(4, None, None).violations, Vec::<String>::new());
}

/// Seeds among which every kind of fault takes effect; `.ci/run` has more.
const SEEDS_TO_EVERY_FAULT: u64 = 100;
/// Seeds within which every planted bug must show.
const SEEDS_TO_A_BUG: u64 = 60;

#[test]
fn every_planted_bug_is_caught() {
    let tried = each_seed(0, Planted::ALL.len() as u64, |index| {
        let planted = Planted::ALL[usize::try_from(index).expect("it is small")];
        let caught = (0..SEEDS_TO_A_BUG).find_map(|seed| {
            let outcome = run(seed, Some(planted), planted.swarm());
            let expected = |violation: &String| violation.contains(planted.violation());
            // Others would be seen without it: the first one is what it was planted for.
            outcome.violations.into_iter().next().filter(expected).map(|violation| (seed, violation))
        });
        if let Some((seed, violation)) = &caught {
            println!("{planted:?}: seed {seed}: {violation}");
        }
        caught.is_none().then_some(planted)
    });
    let missed: Vec<Planted> = tried.into_iter().flatten().collect();
    assert_eq!(missed, [], "bugs that {SEEDS_TO_A_BUG} seeds do not show");
}

/// A node acknowledges entries, hears of another leader, which sends it none, and is started again.
fn restarted_after_a_change_of_leaders(planted: Option<Planted>) -> Vec<String> {
    in_virtual_time(1, async {
        let mut scene = Scene::new(1, Timing::default(), planted);
        scene.links(|_| Duration::from_millis(10));
        let leader = scene.begin().await;
        for count in 0..20 {
            scene.put(leader, &count.to_string()).await.unwrap();
        }
        let (next, node) = ((leader + 1) % scene.nodes.len(), (leader + 2) % scene.nodes.len());
        scene.around.net.fill(node, true);
        let engine = &scene.running(leader).access.engine;
        engine.transfer(scene.nodes[next].own).await.unwrap();
        while scene.leader().await != next {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_secs(1)).await;
        assert!(scene.around.checker.heard_of_another_leader(node));
        scene.end(node, End::Kill);
        scene.start(node).await;
        scene.around.checker.violations()
    })
}

/// What a leader of before was told stays true until a later one sends something else, and not until it is heard of.
#[test]
fn an_acknowledgement_outlives_the_heartbeat_of_another_leader() {
    assert_eq!(restarted_after_a_change_of_leaders(None), Vec::<String>::new());
    let caught = restarted_after_a_change_of_leaders(Some(Planted::TailLost));
    assert!(caught.first().is_some_and(|first| first.contains(Planted::TailLost.violation())), "{caught:?}");
}

/// To found a cluster takes three syncs, one after the other: of its first entry, of a vote for oneself, of others' votes. A
/// change takes the rest of one that is under way, wherever a majority is.
#[test]
fn votes_and_acknowledgements_wait_for_the_disk() {
    let of = |disk| {
        let outcome = run(1, None, Some(Swarm { disk: Duration::from_millis(disk), ..Swarm::calm() }));
        assert_eq!(outcome.violations, Vec::<String>::new());
        (outcome.first_led.expect("somebody led"), outcome.mean_put)
    };
    let ((fast_led, fast_put), (slow_led, slow_put)) = (of(1), of(301));
    assert!(slow_led >= fast_led + 890_000, "{fast_led}, {slow_led}");
    assert!(slow_put >= fast_put + 100_000, "{fast_put}, {slow_put}");
}
