//! Whole meshes under virtual time, many seeds. `SIM_SEEDS=1000 SIM_FROM=5000 cargo test -p trunkline-mesh --test sim`
//! runs others; a failure prints the seed.

use trunkline_mesh::sim::{Planted, Swarm, run, run_planted, run_with};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_seed_breaks_the_contract() {
    let (from, seeds) = (number("SIM_FROM", 0), number("SIM_SEEDS", 100));
    let (mut delivered, mut failed) = (0, 0);
    for seed in from..from + seeds {
        let report = run(seed);
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {:#?}\nSIM_FROM={seed} SIM_SEEDS=1 SIM_TRACE=1 cargo test -p trunkline-mesh --test sim",
            report.violations
        );
        delivered += report.delivered;
        failed += report.failed.values().sum::<u64>();
    }
    println!(
        "{seeds} seeds from {from}: {delivered} messages delivered, {failed} given up, each as its sender was told"
    );
    assert!(delivered > seeds * 100, "the runs must carry load");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 14] {
        let (one, two) = (run(seed), run(seed));
        assert_eq!((one.trace, one.events), (two.trace, two.events), "seed {seed}");
    }
    assert_ne!(run(3).trace, run(4).trace);
}

#[test]
fn without_faults_everything_is_delivered_once_and_nothing_is_tried_twice() {
    let report = run_with(1, Some(Swarm::calm()));
    assert_eq!(report.violations, Vec::<String>::new());

    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(
        report.leader.attempts.timed_out + report.leader.attempts.lost + report.leader.attempts.refused,
        0
    );
}

/// Seeds within which every planted bug must show.
const SEEDS_TO_A_BUG: u64 = 120;

#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for planted in Planted::ALL {
        let caught = (0..SEEDS_TO_A_BUG)
            .find_map(|seed| Some((seed, run_planted(seed, planted).violations.into_iter().next()?)));
        match caught {
            Some((seed, violation)) => println!("{planted:?}: seed {seed}: {violation}"),
            None => missed.push(planted),
        }
    }
    assert_eq!(missed, [], "bugs that {SEEDS_TO_A_BUG} seeds do not show");
}
