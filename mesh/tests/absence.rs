//! Peers that are to be linked and are not: what a node says of them.

mod lab;

use std::time::Duration;

use lab::{Lab, id};
use trunkline_mesh::PingError;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::stats::DownPeer;
use trunkline_mesh::topology::Roles;

fn lab() -> Lab {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("p1", "eu", Roles::PROXY, None),
        ("p2", "eu", Roles::PROXY, None),
        ("m1", "eu", Roles::MEMBER, None),
        ("elsewhere", "ap", Roles::MEMBER, None),
    ];
    Lab::new(&nodes, &Settings::default(), Duration::from_millis(10))
}

/// Of whom a node says that they are down, and whether it dials them itself.
fn down(lab: &mut Lab, name: &str) -> Vec<(String, bool)> {
    let now = lab.now;
    let all = lab.node(name).status(now).down;
    all.iter().map(|of| (of.peer.to_string(), of.dialled)).collect()
}

#[test]
fn a_peer_that_is_down_is_shown_until_it_is_back_by_both_ends() {
    let mut lab = lab();
    for name in ["leader", "p1", "m1"] {
        assert!(!down(&mut lab, name).is_empty(), "{name} is linked with nobody yet");
    }
    lab.run_for(Duration::from_secs(2));
    for name in ["leader", "p1", "p2", "m1", "elsewhere"] {
        assert_eq!(
            down(&mut lab, name),
            [],
            "{name} is linked with all; others it dials when there is something"
        );
    }

    lab.kill("p2");
    lab.run_for(Duration::from_secs(20));
    assert_eq!(down(&mut lab, "leader"), [("p2".to_owned(), true)]);
    assert_eq!(down(&mut lab, "m1"), [("p2".to_owned(), false)], "which is to dial it");
    assert_eq!(down(&mut lab, "p1"), [], "proxies have nothing to do with each other");
    let now = lab.now;
    let DownPeer { peer, down_ms, failures, why, roles, .. } = lab.node("leader").status(now).down.remove(0);
    assert_eq!((peer, roles), (id("p2"), vec!["proxy"]));
    assert!((19_000..=20_000).contains(&down_ms), "{down_ms}");
    assert!(failures > 3 && why.is_some(), "{failures} {why:?}");

    lab.kill("leader");
    lab.run_for(Duration::from_secs(1));
    assert_eq!(down(&mut lab, "p1"), [("leader".to_owned(), false)]);
    lab.restart("leader", 2);
    lab.restart("p2", 2);
    lab.run_for(Duration::from_secs(5));
    for name in ["leader", "p1", "p2", "m1"] {
        assert_eq!(down(&mut lab, name), [], "{name}");
    }
}

#[test]
fn a_ping_of_a_peer_that_is_down_says_so_and_of_one_that_is_none_as_before() {
    let mut lab = lab();
    lab.run_for(Duration::from_secs(2));
    lab.kill("p2");
    lab.run_for(Duration::from_secs(4));
    let now = lab.now;
    let refused = lab.node("leader").ping(&id("p2"), now).unwrap_err();
    let PingError::Down { node, down, why } = &refused else { panic!("{refused}") };
    assert_eq!(*node, id("p2"));
    assert!(*down >= Duration::from_secs(3) && why.is_some(), "{refused}");
    let refused = lab.node("p1").ping(&id("elsewhere"), now).unwrap_err();
    assert_eq!(refused, PingError::NotLinked(id("elsewhere")));
    let refused = lab.node("p1").ping(&id("p1"), now).unwrap_err();
    assert_eq!(refused, PingError::Itself(id("p1")));
    let [second, part] = [1000, 1500]
        .map(|ms| PingError::TimedOut { patience: Duration::from_millis(ms), last: None }.to_string());
    assert_eq!([second, part], ["no answer within 1 s", "no answer within 1500 ms"]);
}
