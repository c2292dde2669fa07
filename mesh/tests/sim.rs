//! Whole meshes under virtual time, many seeds. `SIM_SEEDS=1000 SIM_FROM=5000 cargo test -p trunkline-mesh --test sim`
//! runs others; a failure prints the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use mimalloc::MiMalloc;
use trunkline_mesh::message::FailReason;
use trunkline_mesh::sim::{Planted, Report, Swarm, run, run_planted, run_with};

/// A tenth of the time of a seed is making and giving up small things.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Looks at each of these numbers once, on all processors. None knows of the others.
fn each<T: Send>(from: u64, count: u64, look: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(from);
    let work = || {
        let mut seen = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= from + count {
                return seen;
            }
            seen.push(look(number));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a seed that panicked said why")).collect()
    })
}

#[test]
fn no_seed_breaks_the_contract() {
    let (from, seeds) = (number("SIM_FROM", 0), number("SIM_SEEDS", 100));
    let began = Instant::now();
    let reports = each(from, seeds, |seed| {
        let report = run(seed);
        for violation in &report.violations {
            println!("seed {seed}: {violation}");
        }
        if !report.violations.is_empty() {
            println!("seed {seed}: {:?}", report.swarm);
        }
        let broken = (!report.violations.is_empty()).then_some(seed);
        (broken, report)
    });
    let mut broken: Vec<u64> = reports.iter().filter_map(|(broken, _)| *broken).collect();
    broken.sort_unstable();
    if let Some(seed) = broken.first() {
        panic!(
            "seeds {broken:?} break the contract\n\
             SIM_FROM={seed} SIM_SEEDS=1 SIM_TRACE=1 cargo test -p trunkline-mesh --test sim no_seed"
        );
    }
    let (mut delivered, mut failed, mut effects) = (0, BTreeMap::new(), BTreeMap::new());
    for (_, report) in reports {
        delivered += report.delivered;
        let reasons = report.failed.into_iter().map(|(reason, times)| (reason.label(), times));
        reasons.for_each(|(reason, times)| *failed.entry(reason).or_insert(0) += times);
        for (name, times) in report.effects {
            let (all, in_seeds) = effects.entry(name).or_insert((0_u64, 0_u64));
            (*all, *in_seeds) = (*all + times, *in_seeds + u64::from(times > 0));
        }
    }
    println!(
        "{seeds} seeds from {from} in {:.1} s: {delivered} messages delivered, {} given up, each as its sender was told\n\
         given up: {failed:?}\nhappened, and in how many seeds: {effects:?}",
        began.elapsed().as_secs_f64(),
        failed.values().sum::<u64>()
    );
    assert!(delivered > seeds * 100, "the runs must carry load");
    let never: Vec<&String> =
        effects.iter().filter(|(_, (times, _))| *times == 0).map(|(name, _)| name).collect();
    let enough =
        seeds >= if std::env::var_os("SIM_FROM").is_some() { SEEDS_OF_ANY } else { SEEDS_TO_EVERY_EFFECT };
    assert!(!enough || never.is_empty(), "no run had {never:?}");
    let reasons = FailReason::ALL.map(FailReason::label);
    let never: Vec<_> = reasons.iter().filter(|reason| !failed.contains_key(*reason)).collect();
    assert!(!enough || never.is_empty(), "nothing failed for {never:?}");
}

/// Seeds within which every fault takes effect, every way is taken and messages fail for every reason.
const SEEDS_TO_EVERY_EFFECT: u64 = 100;

/// The same of seeds that nobody looked at: what one in thirty has is missing in a hundred now and then.
const SEEDS_OF_ANY: u64 = 1_000;

/// Seeds within which one has what a kept seed is kept for. The rarest is in one of thirty.
const SEEDS_TO_A_CASE: u64 = 200;

/// A seed that once broke the contract breaks it no more. What it is kept for, as far as that shows in what is counted, happens in it; or in
/// one of those behind it, none of which breaks it either: whatever changes the order of events makes another run of each.
fn kept_for(seed: u64, case: &str, happens: impl Fn(&Report) -> bool) {
    let found = (seed..seed + SEEDS_TO_A_CASE).find(|seed| {
        let report = run(*seed);
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        happens(&report)
    });
    let found = found.unwrap_or_else(|| panic!("no seed of {SEEDS_TO_A_CASE} from {seed} on has {case}"));
    println!("seed {found} has {case}");
}

fn times(report: &Report, effect: &str) -> u64 {
    *report.effects.get(effect).unwrap_or_else(|| panic!("no effect is called {effect}"))
}

fn failed(report: &Report, reason: FailReason) -> u64 {
    report.failed.get(&reason).copied().unwrap_or_default()
}

/// Two flows to one datacenter, each over its member's own link, wait for the share of resends: their links once woke each
/// other for it without an end. That there are resends, and straight to members, shows; not that the share was used up.
#[test]
fn links_that_wait_for_the_share_of_resends_do_not_wake_each_other() {
    kept_for(179_586_256_486, "resends straight to members", |report| {
        report.leader.resent_bytes > 0 && report.leader.verdicts["member"] > 1 && times(report, "Direct") > 0
    });
}

/// A member whose clock had gone back when it started lives a lower life, of which its sender heard when it dialled it.
#[test]
fn a_lower_life_that_nobody_knew_of_is_a_restart_as_any_other() {
    kept_for(1_795_979_830_556, "nodes that move, and a restart that senders are told of", |report| {
        times(report, "Fault(Leave)") > 0 && failed(report, FailReason::PeerRestarted) > 0
    });
}

/// All that stood in a datacenter left or moved: what is sent there is turned away for that, also once all is healed.
#[test]
fn a_datacenter_in_which_nobody_stands_any_more_takes_nothing() {
    kept_for(1_795_980_540_234, "nodes that leave, and messages to nobody", |report| {
        times(report, "Fault(Leave)") > 0 && failed(report, FailReason::UnknownNode) > 0
    });
}

/// Two flows of one datacenter had no proxy there and no link of their own: each left the way back alone for the other's sake. That
/// there are answers and cuts shows; not that there was no other way.
#[test]
fn several_flows_take_the_way_back_where_there_is_no_other() {
    kept_for(1_795_989_546_823, "answers that go back while something is cut", |report| {
        times(report, "Back") > 0 && times(report, "Fault(Cut)") > 0
    });
}

/// One proxy was left by control, and the other one by bulk. That connections were left shows, not of which lane.
#[test]
fn a_proxy_that_one_lane_leaves_counts_among_those_that_are_left() {
    kept_for(179_586_256_830, "connections that a sender left, lane by lane", |report| {
        report.leader.verdicts["connection"] > 1
    });
}

/// All that a full proxy refused came to the leader after lines that had fallen silent were back, and ended no attempt: those had timed
/// out. That was once taken for refusals that nobody heard of.
#[test]
fn refusals_that_come_late_are_not_lost() {
    kept_for(1_796_008_743_444, "refusals of a full proxy, none in time", |report| {
        times(report, "ProxyFull") > 20 && report.leader.attempts.refused == 0
    });
}

/// Of what a line held up the proxy behind it refused most, and the leader had left that connection: it was said that somebody was to
/// hear of that.
#[test]
fn refusals_over_a_connection_that_was_left_are_for_nobody() {
    kept_for(1_796_033_949_317, "refusals that nobody can hear of, and none in time", |report| {
        report.refused_unheard > 20 && report.leader.attempts.refused == 0
    });
}

/// Two messages waited in a trial for the answer to one that a flow sent first, as flows do that had failed: nothing had been sent on it
/// since all was healed. Of that it shows that messages expired while lines were cut.
#[test]
fn a_flow_that_had_failed_sends_one_message_first_whenever_that_is() {
    kept_for(1_796_034_591_642, "messages that expire while lines are cut", |report| {
        failed(report, FailReason::Expired) > 0 && times(report, "Fault(Cut)") > 0
    });
}

/// What a member held behind a gap that had been given up, and did not hear of, was said to have been refused by it.
#[test]
fn what_waits_for_a_gap_is_not_refused() {
    kept_for(182, "gaps that were given up", |report| {
        times(report, "Gap") > 0 && times(report, "Skipped") > 0
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    // Such as have two senders, answers, echoes, clocks that drift and little bandwidth.
    let mut traces = BTreeSet::new();
    for seed in 10..20 {
        let (one, two) = (run(seed), run(seed));
        assert_eq!((one.trace, one.events), (two.trace, two.events), "seed {seed}");
        traces.insert(one.trace);
    }
    assert_eq!(traces.len(), 10);
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

#[test]
fn without_faults_every_answer_arrives_and_most_go_back_by_the_proxy_that_brought_what_they_answer() {
    let report = run_with(1, Some(Swarm::calm_with_answers()));
    assert_eq!(report.violations, Vec::<String>::new());
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.answers.0 > 500, "{:?}", report.answers);
    assert!(4 * report.answers.1 < 3 * report.answers.0, "several in one frame: {:?}", report.answers);
}

#[test]
fn without_faults_every_answer_arrives_and_what_comes_back_is_named() {
    let reports: Vec<Report> = (1..6).map(|seed| run_with(seed, Some(Swarm::calm_with_echoes()))).collect();
    for report in &reports {
        assert_eq!(report.violations, Vec::<String>::new());
        // Some deadlines are shorter than the way.
        assert!(report.failed.keys().all(|reason| *reason == FailReason::Expired), "{:?}", report.failed);
        let errors = &report.leader.protocol_errors;
        assert_eq!(errors.values().sum::<u64>(), 0, "{errors:?}");
    }
    let echoed: u64 =
        reports.iter().flat_map(|report| report.leader.datacenters.values()).map(|of| of.echoed).sum();
    assert!(echoed > 1 << 20, "{echoed}");
}

/// A sender that takes what came over an earlier connection for what came over this one names other bytes than its peer knows
/// by that name. The peer notices before it takes one: links end for a history, and nobody gets what was not sent.
#[test]
fn an_echo_out_of_step_ends_a_link_and_is_never_read() {
    let mut histories = 0;
    for seed in 0..60 {
        let report = run_planted(seed, Planted::EchoesStale);
        histories += report.bad_frames.get("history").copied().unwrap_or_default();
        for violation in &report.violations {
            assert!(!violation.contains("got other bytes"), "seed {seed}: {violation}");
        }
    }
    assert!(histories > 20, "{histories} links ended");
}

/// Seeds within which every planted bug must show.
const SEEDS_TO_A_BUG: u64 = 120;

#[test]
fn every_planted_bug_is_caught() {
    let tried = each(0, Planted::ALL.len() as u64, |index| {
        let planted = Planted::ALL[usize::try_from(index).expect("it is small")];
        // Few runs have little room and lose nothing of what is refused; of the first ones none has.
        let from = if planted == Planted::RefusalsLost { 340 } else { 0 };
        let caught = (from..from + SEEDS_TO_A_BUG).find_map(|seed| {
            // The first violation is what it was planted for: what follows may be of anything.
            let first = run_planted(seed, planted).violations.into_iter().next()?;
            first.contains(planted.violation()).then_some((seed, first))
        });
        if let Some((seed, violation)) = &caught {
            println!("{planted:?}: seed {seed}: {violation}");
            assert_eq!(run(*seed).violations, Vec::<String>::new(), "seed {seed} without {planted:?}");
        }
        caught.is_none().then_some(planted)
    });
    let missed: Vec<Planted> = tried.into_iter().flatten().collect();
    assert_eq!(missed, [], "bugs that {SEEDS_TO_A_BUG} seeds do not show");
}
