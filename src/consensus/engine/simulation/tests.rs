//! Seeds. `SIM_SEEDS=1000 SIM_FROM=5000 cargo test --lib no_seed_breaks_the_log` runs others; a failure prints the seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

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
    let (terms, faults) = (
        sum(|outcome| outcome.terms),
        outcomes.iter().map(|(_, outcome)| outcome.faults.values().sum::<u64>()).sum::<u64>(),
    );
    println!(
        "{seeds} seeds from {from}: {answered} operations answered, {followed} entries followed, {terms} terms led, \
         {faults} faults"
    );
    assert!(answered as u64 > seeds * 50, "the runs must carry load");
}

#[test]
fn without_faults_a_cluster_serves_and_its_replicas_agree() {
    let outcome = run(1, None, Some(Swarm::calm()));
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert!(outcome.answered > 100 && outcome.terms == 1, "{outcome:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 14] {
        let (one, two) = (run(seed, None, None), run(seed, None, None));
        assert_eq!(one.trace, two.trace, "seed {seed}");
    }
    assert_ne!(run(3, None, None).trace, run(4, None, None).trace);
}

/// Seeds within which every planted bug must show.
const SEEDS_TO_A_BUG: u64 = 60;

#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for planted in Planted::ALL {
        let caught = (0..SEEDS_TO_A_BUG).find_map(|seed| {
            let outcome = run(seed, Some(planted), None);
            Some((seed, outcome.violations.into_iter().next()?))
        });
        match caught {
            Some((seed, violation)) => println!("{planted:?}: seed {seed}: {violation}"),
            None => missed.push(planted),
        }
    }
    assert_eq!(missed, [], "bugs that {SEEDS_TO_A_BUG} seeds do not show");
}
