//! Who is trusted no more: nodes out of the topology, CAs whose time is over.

use std::time::Duration;

use trunkline_mesh::proto::wire::{Hello, RefuseCode};
use trunkline_mesh::stats::CertificateFault;
use trunkline_mesh::{Lane, NodeSpec, Reloaded, Roles};

use super::support::pki::{Pki, Special};
use super::support::{dc, eventually, id};
use super::{Stranger, cluster, failed, log, pki, refused, send_some};

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
    // Its dials of one lane end while that of the other is refused, which says nothing of its certificate.
    for reason in ["unknown_issuer", "expired", "revoked", "no_name", "bad_certificate"] {
        assert_eq!(failed(&members[0], reason), 0, "its certificate is as good as before: {reason}");
    }
    // Without it the leader goes direct.
    send_some(&leader, &mut members, 3).await;
}

/// Both sides of every link, and those that are up already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_taken_back_ends_its_links_and_gets_no_new_one() {
    let cluster = cluster();
    pki(&cluster).revoke(&[]);
    let mut members = [cluster.start("eu-m").await, cluster.start("eu-n").await];
    let proxy = cluster.start("eu-p").await;
    let leader = cluster.start("leader").await;
    eventually("all links", || leader.reaches("eu-p") && proxy.reaches("eu-m") && proxy.reaches("eu-n"))
        .await;
    let stolen = std::fs::read_to_string(pki(&cluster).path().join("eu-p.crt")).unwrap();
    let thief = Stranger::of(&cluster, "eu-p");
    pki(&cluster).revoke(&[&stolen]);
    for node in members.iter().chain([&leader]) {
        assert_eq!(node.mesh().reload().await.unwrap(), Reloaded::Changed);
        assert_eq!(node.mesh().reload().await.unwrap(), Reloaded::Unchanged);
    }
    eventually("its links end", || {
        !leader.reaches("eu-p") && !proxy.reaches("eu-m") && !proxy.reaches("eu-n")
    })
    .await;
    eventually("and are refused by who dials it and whom it dials", || {
        failed(&leader, "revoked") > 1
            && failed(&members[0], "revoked") > 1
            && failed(&members[1], "revoked") > 1
    })
    .await;
    send_some(&leader, &mut members, 2).await;
    // It is told, and does not start anew with it. With another one it is back.
    let told = proxy.mesh().reload().await.unwrap_err().to_string();
    assert!(
        told.contains("eu-p.crt was revoked by the list in ") && told.contains("ca.crl: issue"),
        "{told}"
    );
    pki(&cluster).issue("eu-p", "eu", &Special::default());
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
    eventually("it is back", || leader.reaches("eu-p") && proxy.reaches("eu-m") && proxy.reaches("eu-n"))
        .await;
    let before = failed(&members[0], "revoked");
    if let Ok(mut raw) = thief.dial(cluster.address("eu-m")).await {
        assert!(!raw.gets_an_answer(&cluster.hello("eu-p", Lane::Control)).await);
    }
    eventually("who holds the old one is not", || failed(&members[0], "revoked") > before).await;
}

#[tokio::test]
async fn a_list_that_takes_nothing_back_is_refused_and_the_last_one_holds() {
    let cluster = cluster();
    let (certificate, key) = pki(&cluster).make("leader", "us", &Special::default());
    pki(&cluster).revoke(&[&certificate]);
    let proxy = cluster.start("eu-p").await;
    let own = pki(&cluster).list(&[&certificate]);
    let mut damaged = own.clone();
    damaged.replace_range(60..64, "AAAA");
    for (list, says) in [
        (Pki::new().list(&[&certificate]), "no CA of the `ca` file signed"),
        (damaged, "revocation list"),
        (String::new(), "there is none"),
        (pki(&cluster).ca_pem(), "there is none"),
    ] {
        pki(&cluster).write("ca.crl", &list);
        let told = proxy.mesh().reload().await.unwrap_err().to_string();
        assert!(told.contains(says) && told.contains("ca.crl"), "{told}");
    }
    let stranger = Stranger { certificate: Some((certificate, key)), ..Stranger::of(&cluster, "leader") };
    if let Ok(mut raw) = stranger.dial(cluster.address("eu-p")).await {
        assert!(!raw.gets_an_answer(&cluster.hello("leader", Lane::Control)).await);
    }
    eventually("counted", || failed(&proxy, "revoked") == 1).await;
}

/// A copy from a backup, or by who has the key that was stolen.
#[tokio::test]
async fn a_list_that_is_older_than_the_one_in_use_gives_nothing_back() {
    let cluster = cluster();
    let stolen = pki(&cluster).make("leader", "us", &Special::default());
    pki(&cluster).revoke(&[&stolen.0]);
    let proxy = cluster.start("eu-p").await;
    pki(&cluster).write("ca.crl", &pki(&cluster).list_of(Duration::from_secs(3600), &[]));
    for _ in 0..2 {
        let told = proxy.mesh().reload().await.unwrap_err().to_string();
        assert!(told.contains("ca.crl was made on ") && told.contains("before the list in use"), "{told}");
    }
    let thief = Stranger { certificate: Some(stolen), ..Stranger::of(&cluster, "leader") };
    if let Ok(mut raw) = thief.dial(cluster.address("eu-p")).await {
        assert!(!raw.gets_an_answer(&cluster.hello("leader", Lane::Control)).await);
    }
    eventually("counted", || failed(&proxy, "revoked") == 1).await;
    // The one in use, or a later one, is sound again.
    pki(&cluster).revoke(&[]);
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
}

/// All CAs of a cluster go by one name.
#[tokio::test]
async fn the_age_of_a_list_is_compared_with_that_of_its_own_ca() {
    let cluster = cluster();
    let (old, next) = (pki(&cluster), Pki::new());
    let (hour, both_cas) = (Duration::from_secs(3600), [old.ca_pem(), next.ca_pem()].concat());
    let stolen = old.make("leader", "us", &Special::default());
    old.write("ca.crt", &both_cas);
    old.write("ca.crl", &[old.list(&[&stolen.0]), next.list_of(hour, &[])].concat());
    let proxy = cluster.start("eu-p").await;
    for (lists, says) in [
        (next.list(&[]), "has no list of a CA"),
        ([old.list_of(hour, &[]), next.list(&[])].concat(), "before the list in use"),
    ] {
        old.write("ca.crl", &lists);
        let told = proxy.mesh().reload().await.unwrap_err().to_string();
        assert!(told.contains(says) && told.contains("ca.crl"), "{told}");
        let certificate = Some((stolen.0.clone(), stolen.1.clone()));
        let thief = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
        if let Ok(mut raw) = thief.dial(cluster.address("eu-p")).await {
            assert!(!raw.gets_an_answer(&cluster.hello("leader", Lane::Control)).await, "{told}");
        }
    }
    // With the new CA alone the list of the old one is gone for good, though it was the later one.
    let (certificate, key) = next.make("eu-p", "eu", &Special::default());
    for (name, text) in [
        ("eu-p.crt", certificate),
        ("eu-p.key", key),
        ("ca.crt", next.ca_pem()),
        ("ca.crl", next.list_of(hour, &[])),
    ] {
        old.write(name, &text);
    }
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
}

/// Else a stolen key would be good for as long as nobody mended a node that was not stolen from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_own_certificate_is_refused_takes_new_lists_all_the_same() {
    let cluster = cluster();
    pki(&cluster).revoke(&[]);
    let member = cluster.start("eu-m").await;
    let proxy = cluster.start("eu-p").await;
    eventually("a link", || proxy.reaches("eu-m")).await;
    pki(&cluster).issue("eu-m", "eu", &Special { expired: true, ..Special::default() });
    let expired = async || {
        let told = member.mesh().reload().await.unwrap_err().to_string();
        assert!(told.contains("eu-m.crt expired on"), "{told}");
    };
    expired().await;
    assert!(proxy.reaches("eu-m"), "what it began with it goes on with");
    let stolen = std::fs::read_to_string(pki(&cluster).path().join("eu-p.crt")).unwrap();
    pki(&cluster).revoke(&[&stolen]);
    expired().await;
    eventually("the link is gone", || !proxy.reaches("eu-m")).await;
    eventually("for good", || failed(&member, "revoked") > 1).await;
    // Its own certificate is as it was, and the one that was refused is told of once.
    let hello = cluster.hello("leader", Lane::Control);
    let mut raw = Stranger::of(&cluster, "leader").dial(cluster.address("eu-m")).await.unwrap();
    assert!(raw.gets_an_answer(&hello).await);
    let stats = member.mesh().stats().tls;
    assert_eq!((stats.reloads, stats.reloads_failed), (0, 1));
    // Also where it is the node's own that was taken back.
    pki(&cluster).issue("eu-m", "eu", &Special::default());
    assert_eq!(member.mesh().reload().await.unwrap(), Reloaded::Changed);
    let own = std::fs::read_to_string(pki(&cluster).path().join("eu-m.crt")).unwrap();
    let leaders = std::fs::read_to_string(pki(&cluster).path().join("leader.crt")).unwrap();
    pki(&cluster).revoke(&[&own, &leaders]);
    let told = member.mesh().reload().await.unwrap_err().to_string();
    assert!(told.contains("eu-m.crt was revoked"), "{told}");
    // Whoever asks how it is hears so, and the log says nothing each time.
    let fault = Some(CertificateFault::Revoked);
    let said = log::lines_of(|| {
        assert_eq!(member.mesh().readiness().certificate_fault, fault);
        assert_eq!(member.mesh().status().security.certificate_fault, fault);
    });
    assert_eq!(said, Vec::<String>::new());
    let before = failed(&member, "revoked");
    if let Ok(mut raw) = Stranger::of(&cluster, "leader").dial(cluster.address("eu-m")).await {
        assert!(!raw.gets_an_answer(&Hello { link: 78, ..hello }).await);
    }
    eventually("counted", || failed(&member, "revoked") > before).await;
}

/// A file that was put in the wrong place ends no link.
#[tokio::test]
async fn a_ca_that_did_not_issue_the_certificate_in_use_changes_nothing() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let other = Pki::new();
    let own_ca = pki(&cluster).ca_pem();
    pki(&cluster).issue("eu-p", "eu", &Special { expired: true, ..Special::default() });
    pki(&cluster).write("ca.crt", &other.ca_pem());
    let told = proxy.mesh().reload().await.unwrap_err().to_string();
    assert!(told.contains("expired on"), "{told}");
    let gets_in = async |pki: &Pki, link: u64| {
        let certificate = Some(pki.make("leader", "us", &Special::default()));
        let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
        match stranger.dial(cluster.address("eu-p")).await {
            Ok(mut raw) => {
                raw.gets_an_answer(&Hello { link, ..cluster.hello("leader", Lane::Control) }).await
            }
            Err(_) => false,
        }
    };
    assert!(gets_in(pki(&cluster), 1).await && !gets_in(&other, 2).await);
    // Beside the one that did, it is taken.
    pki(&cluster).write("ca.crt", &[own_ca, other.ca_pem()].concat());
    assert!(proxy.mesh().reload().await.is_err());
    assert!(gets_in(pki(&cluster), 3).await && gets_in(&other, 4).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_is_taken_out_takes_its_links_with_it() {
    let cluster = cluster();
    let next = Pki::new();
    pki(&cluster).write("ca.crt", &[pki(&cluster).ca_pem(), next.ca_pem()].concat());
    let proxy = cluster.start("eu-p").await;
    let leader = cluster.start("leader").await;
    eventually("a link", || leader.reaches("eu-p")).await;
    // The dialler is through a moment earlier.
    eventually("both lanes", || proxy.mesh().stats().handshakes == 2).await;
    let handshakes = 2;
    // The proxy has moved to the next CA and trusts no other; the leader has not.
    let (certificate, key) = next.make("eu-p", "eu", &Special::default());
    pki(&cluster).write("eu-p.crt", &certificate);
    pki(&cluster).write("eu-p.key", &key);
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
    assert!(leader.reaches("eu-p") && proxy.mesh().stats().handshakes == handshakes, "both are trusted");
    pki(&cluster).write("ca.crt", &next.ca_pem());
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
    eventually("the link is gone", || !leader.reaches("eu-p")).await;
    eventually("for good", || failed(&proxy, "unknown_issuer") > 1).await;
    assert_eq!(proxy.mesh().stats().handshakes, handshakes);
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
