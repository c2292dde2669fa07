//! Processes with logs on disk, and clients of their own in every datacenter: leaders and proxies are killed or stopped under load.
//! Nothing acknowledged is lost or done twice, and the cluster goes on committing.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use trunkline::demo::cluster::Shape;
use trunkline::demo::replicas::nodes::Harm;
use trunkline::demo::replicas::report::Report;
use trunkline::demo::replicas::run::{Act, Options, Target, run};
use trunkline::demo::run::Progress;

/// Three datacenters; each act begins at its share of the run, and is undone a sixth of the run later.
fn under(plan: Vec<(f64, Act)>, seconds: u64) -> Report {
    let options = Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_trunkline")),
        shape: Shape { dcs: 3, members: 1, proxies: 2 },
        delay_scale: 0.1,
        egress_bytes_per_s: NonZeroU64::new(5_000_000).unwrap(),
        duration: Duration::from_secs(seconds),
        plan,
        seed: 1,
        progress: Progress::None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(run(options)).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.is_clean(), "{}", report.summary());
    report
}

#[test]
fn commits_go_on_while_proxies_are_killed_stopped_or_all_gone() {
    let act = |harm, to| Act { harm, to };
    let report = under(
        vec![
            (0.05, act(Harm::Kill, Target::ProxyInUse)),
            (0.3, act(Harm::Stop, Target::ProxyInUse)),
            (0.55, act(Harm::Kill, Target::Proxies)),
            (0.78, act(Harm::Stop, Target::Proxies)),
        ],
        24,
    );
    assert_eq!(report.outages.len(), 4, "{}", report.summary());
    for outage in &report.outages {
        assert!(outage.writes > 0, "nothing was committed with {}: {}", outage.what, report.summary());
    }
}

#[test]
fn a_leader_that_is_killed_or_stopped_under_load_costs_nothing_that_was_acknowledged() {
    let act = |harm| Act { harm, to: Target::Leader };
    let report = under(vec![(0.1, act(Harm::Kill)), (0.4, act(Harm::Stop)), (0.7, act(Harm::Kill))], 30);
    assert_eq!(report.outages.len(), 3, "{}", report.summary());
    assert!(report.term > 3, "others were elected: {}", report.summary());
}
