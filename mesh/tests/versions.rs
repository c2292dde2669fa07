//! Steps from one wire version to the next, and features that one end lacks. Version 2 is a number and another hash here: its
//! frames are those of version 1, so that what is tried is who talks to whom, and how.

mod lab;
mod support;

use std::time::Duration;

use lab::{Lab, dc, id};
use support::{Cluster, Raw, Running, eventually, soon};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::wire::{FEATURES, Offer, RefuseCode, offered_versions};
use trunkline_mesh::{Batch, Lane, Message, Outcome, Roles, Route, Settings};

/// Speaks what this build speaks.
fn old() -> Offer {
    Offer::default()
}

/// One version further, and the one before.
fn new() -> Offer {
    Offer { versions: [offered_versions(), vec![(2, 0xabcd)]].concat(), ..old() }
}

/// One version further and nothing else.
fn newest() -> Offer {
    Offer { versions: vec![(2, 0xabcd)], ..old() }
}

/// A leader, and a datacenter with a proxy and two members, each with what it offers.
fn three(leader: Offer, proxy: Offer, members: Offer) -> Lab {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, Some(leader)),
        ("eu-p", "eu", Roles::PROXY, Some(proxy)),
        ("eu-1", "eu", Roles::MEMBER, Some(members.clone())),
        ("eu-2", "eu", Roles::MEMBER, Some(members)),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(10));
    lab.run_for(Duration::from_secs(1));
    lab
}

/// Sends the same to both members three times; the routes of the last time, all being delivered.
fn routes(lab: &mut Lab) -> Vec<Route> {
    let mut routes = Vec::new();
    for _ in 0..3 {
        let mut batch = Batch::to(dc("eu"));
        for lane in Lane::ALL {
            let message = |to| Message::new(id(to), vec![7; 3000]).lane(lane);
            batch.extend([message("eu-1"), message("eu-2")]);
        }
        let ticket = lab.submit("leader", batch).unwrap();
        let key = (lab.index("leader"), ticket);
        lab.run_until("the outcomes", Duration::from_secs(5), |lab| lab.outcomes.contains_key(&key));
        let of = |outcome: &Outcome| match outcome {
            Outcome::Delivered { route, .. } => route.clone(),
            failed => panic!("{failed:?}"),
        };
        routes = lab.outcomes[&key].1.iter().map(of).collect();
        lab.run_for(Duration::from_millis(200));
    }
    routes
}

/// The versions of the links that a node dialled, by peer.
fn versions(lab: &mut Lab, node: &str) -> Vec<(String, u16)> {
    let now = lab.now;
    let links = lab.node(node).status(now).links.into_iter().filter(|link| link.dialled && link.up);
    links.map(|link| (link.peer.to_string(), link.version)).collect()
}

fn by_proxy() -> Vec<Route> {
    vec![Route::Proxy(id("eu-p")); 4]
}

/// Whoever is one version ahead speaks the older one with whoever is not, dialling and being dialled.
#[test]
fn a_peer_one_version_apart_negotiates_down_whichever_side_it_is() {
    for ahead in 0..8 {
        let offer = |bit: u8| if ahead & bit == 0 { old() } else { new() };
        let mut lab = three(offer(1), offer(2), offer(4));
        assert_eq!(routes(&mut lab), by_proxy(), "{ahead:03b}");
        let both = |a: u8, b: u8| if ahead & a != 0 && ahead & b != 0 { 2 } else { 1 };
        assert_eq!(versions(&mut lab, "leader"), [("eu-p".to_owned(), both(1, 2))], "{ahead:03b}");
        let members = ["eu-1", "eu-2"].map(|name| (name.to_owned(), both(2, 4)));
        assert_eq!(versions(&mut lab, "eu-p"), members, "{ahead:03b}");
    }
}

/// No version in common ends in a refusal that is counted at both ends, and the way around it is the direct one.
#[test]
fn who_has_no_version_in_common_with_the_proxy_is_served_directly() {
    let code = RefuseCode::NoCommonVersion.label();
    // The members are too old for their proxy, the leader speaks with both.
    let mut lab = three(new(), newest(), old());
    assert_eq!(routes(&mut lab), vec![Route::Direct; 4]);
    assert_eq!(versions(&mut lab, "eu-p"), []);
    assert!(lab.stats("eu-1").handshakes_refused[code] > 0, "the acceptor refuses");
    assert!(lab.stats("eu-p").handshakes_refused_by_peer[code] > 0, "the dialler is told");
    // The leader is too old for the proxy, the members are not.
    let mut lab = three(old(), newest(), new());
    assert_eq!(routes(&mut lab), vec![Route::Direct; 4]);
    assert!(lab.stats("leader").handshakes_refused_by_peer[code] > 0);
    assert!(versions(&mut lab, "leader").iter().all(|(_, version)| *version == 1));
    // The other way round: an old proxy between new ones.
    let mut lab = three(new(), old(), newest());
    assert_eq!(routes(&mut lab), vec![Route::Direct; 4]);
    assert!(versions(&mut lab, "leader").contains(&("eu-1".to_owned(), 2)));
}

/// A feature is used where both ends of a connection have it. Whoever lacks one costs bytes and no way.
#[test]
fn a_feature_that_one_end_lacks_is_not_used_and_nothing_else_changes() {
    let mut bytes = Vec::new();
    for without in 0..8_u8 {
        let offer = |bit: u8| Offer { features: if without & bit == 0 { FEATURES } else { 0 }, ..old() };
        let mut lab = three(offer(1), offer(2), offer(4));
        assert_eq!(routes(&mut lab), by_proxy(), "{without:03b}");
        bytes.push(lab.received[&(id("eu-p"), id("leader"))].bytes);
    }
    // The history of a connection saves the openings of the second batch and the third.
    assert!(bytes[0] + 200 < bytes[1] && bytes[1] == bytes[2], "{bytes:?}");
    assert_eq!(bytes[0], bytes[4], "{bytes:?}: what members have is nothing to the leader");
}

// ---- over sockets ----------------------------------------------------------------------------------------------------

async fn deliver(leader: &Running) -> Vec<Outcome> {
    let mut batch = Batch::to(dc("eu"));
    batch.extend(["eu-1", "eu-2"].map(|to| Message::new(id(to), b"x".to_vec())));
    let receipt = leader.client.send(batch).await.unwrap();
    let outcomes = soon("outcomes", receipt).await;
    assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
    outcomes
}

fn speaks(node: &Running, peer: &str, version: u16) -> bool {
    let links = node.mesh().status().links;
    links.iter().any(|link| link.dialled && link.up && link.peer == id(peer) && link.version == version)
}

/// A cluster goes from one version to the next node by node, and every message arrives meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_steps_to_the_next_version_node_by_node() {
    let cluster = Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("eu-p", "eu", Roles::PROXY),
        ("eu-1", "eu", Roles::MEMBER),
        ("eu-2", "eu", Roles::MEMBER),
    ]);
    let leader = cluster.start("leader").await;
    let mut nodes = Vec::new();
    for name in ["eu-p", "eu-1", "eu-2"] {
        nodes.push((name, cluster.start(name).await));
    }
    eventually("the first version", || speaks(&leader, "eu-p", 1) && speaks(&nodes[0].1, "eu-2", 1)).await;
    deliver(&leader).await;
    for (name, running) in &mut nodes {
        soon("the drain", running.mesh().drain()).await;
        *running = cluster.start_offering(name, new()).await;
        deliver(&leader).await;
    }
    eventually("the old one with the leader, the new one inside", || {
        speaks(&leader, "eu-p", 1) && speaks(&nodes[0].1, "eu-1", 2) && speaks(&nodes[0].1, "eu-2", 2)
    })
    .await;
    deliver(&leader).await;
    soon("the drain", leader.mesh().drain()).await;
    let leader = cluster.start_offering("leader", newest()).await;
    eventually("the new one everywhere", || speaks(&leader, "eu-p", 2)).await;
    deliver(&leader).await;
}

/// The words of a refusal name both lists: an operator sees which node is behind.
#[tokio::test]
async fn a_refused_version_is_told_with_both_lists() {
    let cluster = Cluster::new(&[("leader", "us", Roles::ORIGIN), ("eu-p", "eu", Roles::PROXY)]);
    let _proxy = cluster.start("eu-p").await;
    let mut raw = Raw::connect(cluster.address("eu-p")).await;
    let mut hello = cluster.hello("leader", Lane::Control);
    hello.versions = vec![(2, 0xabcd), (3, 0xef)];
    raw.say_hello(&hello).await;
    let Some(Received::Refuse(refuse)) = raw.read().await else { panic!("a refusal") };
    assert_eq!(RefuseCode::from_wire(refuse.code), Some(RefuseCode::NoCommonVersion));
    assert_eq!(refuse.detail, "no common wire version: [1] here, [2, 3] there");
}

/// Both connections of a link speak the same version, whatever their Hellos say.
#[tokio::test]
async fn the_two_connections_of_a_link_have_one_version() {
    let cluster = Cluster::new(&[("leader", "us", Roles::ORIGIN), ("eu-p", "eu", Roles::PROXY)]);
    let _proxy = cluster.start_offering("eu-p", new()).await;
    let mut control = Raw::connect(cluster.address("eu-p")).await;
    let first = cluster.hello("leader", Lane::Control);
    assert_eq!(control.shake_hands(&first, Lane::Control).await.version, 1);
    let mut bulk = Raw::connect(cluster.address("eu-p")).await;
    let mut second = cluster.hello("leader", Lane::Bulk);
    second.versions.push((2, 0xabcd));
    bulk.say_hello(&second).await;
    assert_eq!(bulk.refusal().await, RefuseCode::Malformed);
}
