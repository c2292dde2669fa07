//! Who is trusted no more: nodes out of the topology, CAs whose time is over.

use trunkline_mesh::proto::wire::{Hello, RefuseCode};
use trunkline_mesh::{Lane, NodeSpec, Reloaded, Roles};

use super::support::pki::{Pki, Special};
use super::support::{dc, eventually, id};
use super::{Stranger, all_failed, cluster, failed, pki, refused, send_some};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_linked_within_tls_while_the_topology_lists_it_and_no_longer() {
    let mut cluster = cluster();
    let mut members = [cluster.start("eu-m").await, cluster.start("eu-n").await];
    let leader = cluster.start("leader").await;
    // Its certificate is good, and nobody knows it yet.
    pki(&cluster).issue("eu-q", "eu", &Special::default());
    let mut raw = Stranger::of(&cluster, "eu-q").dial(cluster.address("eu-m")).await.unwrap();
    assert_eq!(raw.refusal().await, RefuseCode::UnknownNode);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spec = NodeSpec { id: id("eu-q"), datacenter: dc("eu"), roles: Roles::PROXY, address: Some(free) };
    for node in members.iter().chain([&leader]) {
        node.mesh().add_node(spec.clone()).unwrap();
    }
    cluster.topology = leader.mesh().topology();
    let added = cluster.start("eu-q").await;
    eventually("all links", || leader.reaches("eu-q") && added.reaches("eu-m") && added.reaches("eu-n"))
        .await;
    send_some(&leader, &mut members, 3).await;

    // Taken out by two of them: these end the links it has there, and there are no others.
    leader.mesh().remove_node(&id("eu-q")).unwrap();
    members[0].mesh().remove_node(&id("eu-q")).unwrap();
    eventually("its links end", || !added.reaches("eu-m") && added.mesh().status().links.len() == 1).await;
    assert!(!leader.reaches("eu-q") && added.reaches("eu-n"));
    let before = refused(&members[0], "unknown_node");
    eventually("it is refused again and again", || refused(&members[0], "unknown_node") > before + 2).await;
    let mut raw = Stranger::of(&cluster, "eu-q").dial(cluster.address("eu-m")).await.unwrap();
    assert_eq!(raw.refusal().await, RefuseCode::UnknownNode);
    assert!(!added.reaches("eu-m"));
    assert_eq!(all_failed(&members[0]), 0, "its certificate is as good as before");
    // Without it the leader goes direct.
    send_some(&leader, &mut members, 3).await;
}

#[tokio::test]
async fn a_ca_whose_time_is_over_is_not_trusted_beside_another() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let old = Pki::expired();
    pki(&cluster).write("ca.crt", &[old.ca_pem(), pki(&cluster).ca_pem()].concat());
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Unchanged, "nobody new is trusted");
    let hello = cluster.hello("leader", Lane::Control);
    let certificate = Some(old.make("leader", "us", &Special::default()));
    let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
    if let Ok(mut raw) = stranger.dial(cluster.address("eu-p")).await {
        assert!(!raw.gets_an_answer(&hello).await);
    }
    eventually("counted", || failed(&proxy, "unknown_issuer") == 1).await;
    let mut raw = Stranger::of(&cluster, "leader").dial(cluster.address("eu-p")).await.unwrap();
    assert!(raw.gets_an_answer(&hello).await, "the other one is");
    // Alone it is told as what it is.
    pki(&cluster).write("ca.crt", &old.ca_pem());
    let told = proxy.mesh().reload().await.unwrap_err().to_string();
    assert!(told.contains("expired on"), "{told}");
    let mut raw = Stranger::of(&cluster, "leader").dial(cluster.address("eu-p")).await.unwrap();
    assert!(raw.gets_an_answer(&Hello { link: 78, ..hello }).await, "and what was trusted stays so");
}
