//! How long a node waits before it dials a peer again: peers that lost the same link do not come back in step, and one that
//! goes down as soon as it is up is not dialled as if it were well.

use std::time::Duration;

use trunkline_mesh::id::Lane;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::shell::{Peer, Shell, cluster, id, topology};

const REDIAL_MIN: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(20);

/// What is waited for in steps of this.
const STEP: Duration = Duration::from_millis(1);

fn origin(seed: u64) -> Shell {
    let settings = Settings { redial_min: REDIAL_MIN, redial_max: REDIAL_MAX, ..Settings::default() };
    Shell::among(topology(0), "o", settings, seed)
}

/// Its connection is lost; how long it is until that peer is dialled again.
fn pause(shell: &mut Shell, lost: ConnId) -> Duration {
    shell.node.handle_closed(lost, shell.now);
    shell.drain();
    let began = shell.now;
    while !shell.dials.iter().any(|(_, peer, _)| *peer == id("p")) {
        assert!(shell.now.since(began) <= REDIAL_MAX + STEP, "not dialled again");
        shell.advance(STEP);
    }
    shell.now.since(began)
}

/// So many dials in a row that came to nothing.
fn fail(shell: &mut Shell, times: u32) {
    for _ in 0..times {
        let conn = shell.dialed("p", Lane::Control);
        shell.dials.retain(|(_, peer, _)| *peer != id("p"));
        pause(shell, conn);
    }
}

#[test]
fn a_pause_is_drawn_from_all_that_are_allowed_and_grows_with_the_failures() {
    for failures in [0, 3, 12] {
        // The dial that fails next is one more.
        let most = (REDIAL_MIN * (2 << failures)).min(REDIAL_MAX);
        let pauses: Vec<f64> = (0..100)
            .map(|seed| {
                let mut shell = origin(seed);
                fail(&mut shell, failures);
                let conn = shell.dialed("p", Lane::Control);
                shell.dials.retain(|(_, peer, _)| *peer != id("p"));
                pause(&mut shell, conn).as_secs_f64() / most.as_secs_f64()
            })
            .collect();
        let within = |low: f64, high: f64| pauses.iter().filter(|share| (low..high).contains(*share)).count();
        let step = STEP.as_secs_f64() / most.as_secs_f64();
        assert_eq!(within(0.0, 1.0 + 2.0 * step), pauses.len(), "{failures}: {pauses:?}");
        let quarters = [0.0, 0.25, 0.5, 0.75].map(|low| within(low, low + 0.25));
        assert!(quarters.iter().all(|count| *count >= 10), "{failures}: {quarters:?}");
    }
}

#[test]
fn a_link_that_was_up_for_a_while_starts_from_the_shortest_pause_and_no_other_does() {
    let longest = |up: Duration| {
        let pauses = (0..30).map(|seed| {
            let mut shell = origin(seed);
            fail(&mut shell, 5);
            let [control, _] = shell.link_out(&Peer { life: seed + 1_000, ..Peer::new("p") });
            shell.advance(up);
            pause(&mut shell, control)
        });
        pauses.max().expect("some")
    };
    assert!(longest(Duration::from_millis(999)) > 8 * REDIAL_MIN, "it is as good as down");
    assert!(longest(Duration::from_secs(1)) <= REDIAL_MIN + STEP);
}

/// A message waits for it all the time.
#[test]
fn a_member_that_ends_each_link_as_soon_as_it_is_up_is_dialled_with_pauses() {
    let nodes = cluster(&[("o", "us", Roles::ORIGIN), ("m", "eu", Roles::MEMBER)]);
    let mut shell = Shell::among(nodes, "o", Settings::default(), 1);
    shell.submit("eu", &["m"], Duration::from_secs(600));
    let (from, mut links) = (shell.now, 0);
    while shell.now.since(from) < Duration::from_secs(20) {
        if shell.dials.iter().any(|(_, peer, _)| *peer == id("m")) {
            let [control, _] = shell.link_out(&Peer { life: 100 + links, ..Peer::new("m") });
            shell.node.handle_closed(control, shell.now);
            shell.drain();
            links += 1;
        }
        shell.advance(STEP);
    }
    // A second on average, of `redial_max`, after six that are shorter.
    assert!((15..=40).contains(&links), "{links}");
}
