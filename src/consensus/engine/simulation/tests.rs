//! Seeds. `SIM_SEEDS=1000 SIM_FROM=5000 cargo test --lib no_seed_breaks_the_log` runs others; a failure prints the seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::faults::Swarm;
use super::planted::Planted;
use super::world::{Outcome, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs every seed once, on all processors. A seed knows nothing of the others.
fn each_seed<T: Send>(from: u64, seeds: u64, look: impl Fn(u64) -> T + Sync) -> Vec<T> {
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
    let rare = ["snapshot_installed", "caught_up", "clock_fault", "Wipe", "Damage", "PowerLossAtCall"];
    let never: Vec<_> = rare.iter().filter(|kind| !kinds.contains_key(**kind)).collect();
    assert!(seeds < 16 || never.is_empty(), "no run had {never:?}");
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

/// Seeds within which every planted bug must show.
const SEEDS_TO_A_BUG: u64 = 60;

#[test]
fn every_planted_bug_is_caught() {
    let tried = each_seed(0, Planted::ALL.len() as u64, |index| {
        let planted = Planted::ALL[usize::try_from(index).expect("it is small")];
        let caught = (0..SEEDS_TO_A_BUG).find_map(|seed| {
            let outcome = run(seed, Some(planted), planted.swarm());
            Some((seed, outcome.violations.into_iter().next()?))
        });
        if let Some((seed, violation)) = &caught {
            println!("{planted:?}: seed {seed}: {violation}");
        }
        caught.is_none().then_some(planted)
    });
    let missed: Vec<Planted> = tried.into_iter().flatten().collect();
    assert_eq!(missed, [], "bugs that {SEEDS_TO_A_BUG} seeds do not show");
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
