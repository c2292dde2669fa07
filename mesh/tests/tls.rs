//! Links within TLS: who gets in, who does not and is counted as what, and certificates that change while links live.
//!
//! Nodes are real; strangers are rustls by hand with certificates of every kind.

#[path = "tls/callers.rs"]
mod callers;
#[path = "tls/leaving.rs"]
mod leaving;
#[path = "hostile/log.rs"]
mod log;
#[path = "tls/rogue.rs"]
mod rogue;
#[expect(dead_code, reason = "its frames are sent over sockets here")]
#[path = "hostile/shell.rs"]
mod shell;
#[path = "tls/stranger.rs"]
mod stranger;
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use stranger::{Stranger, Version, answers};
use support::pki::{Pki, Special};
use support::{Cluster, Raw, Running, dc, eventually, files, id, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::wire::{Hello, PREAMBLE, RefuseCode};
use trunkline_mesh::{
    Batch, ClusterId, Config, JoinError, Lane, Message, NodeSpec, Outcome, Reloaded, Roles, Security,
    Topology, join,
};

/// An origin, and a proxy and two members in another datacenter, all with certificates.
fn cluster() -> Cluster {
    Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("eu-p", "eu", Roles::PROXY),
        ("eu-m", "eu", Roles::MEMBER),
        ("eu-n", "eu", Roles::MEMBER),
    ])
    .with_tls()
}

fn pki(cluster: &Cluster) -> &Pki {
    cluster.pki.as_ref().unwrap()
}

fn failed(node: &Running, reason: &str) -> u64 {
    node.mesh().stats().tls.handshakes_failed[reason]
}

fn all_failed(node: &Running) -> u64 {
    node.mesh().stats().tls.handshakes_failed.values().sum()
}

fn refused(node: &Running, code: &str) -> u64 {
    node.mesh().stats().handshakes_refused[code]
}

/// Sends to both members, by proxy and direct, and sees everything arrive.
async fn send_some(leader: &Running, members: &mut [Running], rounds: u32) {
    for round in 0..rounds {
        let shared = Bytes::from(vec![u8::try_from(round % 251).unwrap(); 300_000]);
        let mut batch = Batch::to(dc("eu"));
        for member in ["eu-m", "eu-n"] {
            batch.push(Message::new(id(member), shared.clone()));
        }
        let receipt = soon("taken", leader.client.send(batch)).await.unwrap();
        for member in members.iter_mut() {
            let delivery = soon("a delivery", member.inbox.recv()).await.unwrap();
            assert_eq!(delivery.payload.to_vec(), shared);
        }
        for outcome in soon("outcomes", receipt).await {
            assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_travel_within_tls_by_proxy_and_direct() {
    let cluster = cluster();
    let mut members = [cluster.start("eu-m").await, cluster.start("eu-n").await];
    let proxy = cluster.start("eu-p").await;
    let leader = cluster.start("leader").await;
    eventually("all links", || leader.reaches("eu-p") && proxy.reaches("eu-m") && proxy.reaches("eu-n"))
        .await;
    send_some(&leader, &mut members, 30).await;
    for node in members.iter().chain([&proxy, &leader]) {
        let tls = node.mesh().stats().tls;
        assert_eq!(tls.handshakes_failed.values().sum::<u64>(), 0, "{tls:?}");
        let days = tls.expires_in_s.unwrap() / (24 * 3600);
        assert!((28..=30).contains(&days), "{days} days");
    }
    // Without its proxy the leader goes direct, through handshakes of its own.
    proxy.mesh().kill();
    send_some(&leader, &mut members, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_away_says_so_within_tls_and_all_sockets_close() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let leader = cluster.start("leader").await;
    eventually("the link", || leader.reaches("eu-p")).await;
    let mut stranger = Stranger::of(&cluster, "leader").dial(cluster.address("eu-p")).await.unwrap();
    stranger
        .shake_hands(
            &Hello { incarnation: next_life(), ..cluster.hello("leader", Lane::Control) },
            Lane::Control,
        )
        .await;
    soon("the drain", proxy.mesh().drain()).await;
    // Half a link gets no last words, so TLS has none either: the end comes all the same.
    while let Ok(Some(_)) = stranger.try_read().await {}
    eventually("the leader knows", || !leader.reaches("eu-p")).await;
}

/// An incarnation above that of every node of this test.
fn next_life() -> trunkline_mesh::Incarnation {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    trunkline_mesh::Incarnation(u64::try_from(since.as_micros()).unwrap() + 3_600_000_000)
}

#[tokio::test]
async fn every_kind_of_wrong_certificate_is_refused_and_counted_as_what_it_is() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let other = Pki::new();
    let special = |special: Special| pki(&cluster).make("leader", "us", &special);
    let uris = |uris: &[&str]| Special {
        uris: Some(uris.iter().map(|uri| (*uri).to_owned()).collect()),
        ..Special::default()
    };
    let own = "spiffe://test/dc/us/node/leader";
    let cases = [
        ("unknown_issuer", Some(other.make("leader", "us", &Special::default()))),
        ("expired", Some(special(Special { expired: true, ..Special::default() }))),
        ("not_yet_valid", Some(special(Special { early: true, ..Special::default() }))),
        ("bad_certificate", Some(special(Special { server_only: true, ..Special::default() }))),
        ("no_certificate", None),
        ("no_name", Some(special(uris(&[])))),
        ("no_name", Some(special(uris(&[own, own])))),
        ("no_name", Some(special(uris(&["spiffe://test/dc/us/node/"])))),
        ("no_name", Some(special(uris(&["https://test/dc/us/node/leader"])))),
    ];
    for (index, (reason, certificate)) in cases.into_iter().enumerate() {
        let before = failed(&proxy, reason);
        let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
        // The dialler is through before the acceptor has looked at its certificate: it learns of it later.
        if let Ok(mut dialled) = stranger.dial(cluster.address("eu-p")).await {
            assert!(!dialled.gets_an_answer(&cluster.hello("leader", Lane::Control)).await, "case {index}");
        }
        eventually(reason, || failed(&proxy, reason) == before + 1).await;
    }
    assert_eq!(all_failed(&proxy), 9);
    assert_eq!(proxy.mesh().stats().handshakes, 0);
    // It dials members that are not there, all the time.
    assert!(proxy.mesh().status().links.iter().all(|link| link.dialled && !link.up));
}

#[tokio::test]
async fn a_certificate_of_a_node_that_may_not_dial_is_refused_before_it_says_a_word() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let cases = [
        ("who", "us", RefuseCode::UnknownNode),
        ("eu-m", "eu", RefuseCode::WrongRole),
        ("leader", "eu", RefuseCode::WrongDatacenter),
    ];
    for (node, datacenter, code) in cases {
        let certificate = Some(pki(&cluster).make(node, datacenter, &Special::default()));
        let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
        let mut raw = stranger.dial(cluster.address("eu-p")).await.unwrap();
        assert_eq!(raw.refusal().await, code);
        assert_eq!(refused(&proxy, code.label()), 1);
    }
    let uris = Some(vec!["spiffe://elsewhere/dc/us/node/leader".to_owned()]);
    let certificate = Some(pki(&cluster).make("leader", "us", &Special { uris, ..Special::default() }));
    let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
    let mut raw = stranger.dial(cluster.address("eu-p")).await.unwrap();
    assert_eq!(raw.refusal().await, RefuseCode::OtherCluster);
    assert_eq!(all_failed(&proxy), 0, "all of them hold what their certificate says");
}

#[tokio::test]
async fn a_valid_certificate_is_good_for_no_other_node() {
    let mut cluster = cluster();
    let specs = cluster.topology.nodes().cloned().chain([NodeSpec {
        id: id("second"),
        datacenter: dc("us"),
        roles: Roles::ORIGIN,
        address: None,
    }]);
    cluster.topology = Topology::new(ClusterId::new("test").unwrap(), specs).unwrap().into();
    pki(&cluster).issue("second", "us", &Special::default());
    let member = cluster.start("eu-m").await;
    // Both may dial here, and each has its own certificate.
    for (certificate, claim) in [("second", "leader"), ("leader", "second")] {
        let mut raw = Stranger::of(&cluster, certificate).dial(cluster.address("eu-m")).await.unwrap();
        raw.say_hello(&cluster.hello(claim, Lane::Control)).await;
        assert_eq!(raw.refusal().await, RefuseCode::OtherCertificate);
    }
    let moved = Hello { datacenter: dc("eu"), ..cluster.hello("second", Lane::Control) };
    let mut raw = Stranger::of(&cluster, "second").dial(cluster.address("eu-m")).await.unwrap();
    raw.say_hello(&moved).await;
    assert_eq!(raw.refusal().await, RefuseCode::OtherCertificate);
    assert_eq!(refused(&member, "other_certificate"), 3);
    let mut raw = Stranger::of(&cluster, "second").dial(cluster.address("eu-m")).await.unwrap();
    raw.shake_hands(&cluster.hello("second", Lane::Control), Lane::Control).await;
}

#[tokio::test]
async fn a_dialler_says_nothing_to_whoever_is_not_the_node_it_dialled() {
    let cluster = cluster();
    let leader = cluster.start("leader").await;
    let other = Pki::new();
    let special = |special: Special| pki(&cluster).make("eu-p", "eu", &special);
    let cases = [
        ("unknown_issuer", other.make("eu-p", "eu", &Special::default())),
        ("expired", special(Special { expired: true, ..Special::default() })),
        ("not_yet_valid", special(Special { early: true, ..Special::default() })),
        ("bad_certificate", special(Special { client_only: true, ..Special::default() })),
        ("no_name", special(Special { uris: Some(vec![]), ..Special::default() })),
        ("", pki(&cluster).make("eu-m", "eu", &Special::default())),
    ];
    for (reason, certificate) in cases {
        let count =
            || if reason.is_empty() { refused(&leader, "other_node") } else { failed(&leader, reason) };
        let before = count();
        let acceptor = Stranger { certificate: Some(certificate), ..Stranger::of(&cluster, "eu-p") };
        let listener = TcpListener::bind(cluster.address("eu-p")).await.unwrap();
        let told = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut said = Vec::new();
                    let _ = stream.read_to_end(&mut said).await;
                    assert!(said.is_empty(), "{reason}: {said:?}");
                }
            }
        };
        tokio::select! {
            () = told => {}
            () = eventually(reason, || count() > before) => {}
        }
    }
    assert_eq!(leader.mesh().stats().handshakes, 0);
    assert!(leader.mesh().stats().dials_failed > 0);
}

#[tokio::test]
async fn older_versions_and_plaintext_get_nowhere() {
    let mut cluster = cluster();
    cluster.settings.handshake_timeout = Duration::from_millis(500);
    let proxy = cluster.start("eu-p").await;
    let address = cluster.address("eu-p");

    let old = Stranger { version: Version::Tls12, ..Stranger::of(&cluster, "leader") };
    assert!(old.dial(address).await.is_err(), "TLS 1.2 alone");
    eventually("counted", || failed(&proxy, "incompatible") == 1).await;

    let mut plain = Raw::connect(address).await;
    plain.say_hello(&cluster.hello("leader", Lane::Control)).await;
    eventually("plaintext is counted", || failed(&proxy, "not_tls") == 1).await;

    // Whoever offers both gets 1.3.
    let both = Stranger { version: Version::Both, ..Stranger::of(&cluster, "leader") };
    let stream = both.connect(address).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));

    // A node without certificates answers in plaintext, which a node with them does not take for an answer.
    let leader = cluster.start("leader").await;
    drop(proxy);
    let plain = Cluster { pki: None, topology: cluster.topology.clone(), settings: cluster.settings.clone() };
    let open = plain.start_anew("eu-p").await;
    eventually("it is no TLS", || failed(&leader, "not_tls") > 0).await;
    eventually("nor is it a Hello", || open.mesh().stats().protocol_errors["preamble"] > 0).await;
    assert!(!leader.reaches("eu-p"));
    drop(open);
    // The other way round: a plaintext node dials one that has certificates.
    let proxy = cluster.start_anew("eu-p").await;
    drop(leader);
    let open = plain.start("leader").await;
    eventually("it is no TLS", || failed(&proxy, "not_tls") > 0).await;
    assert!(!open.reaches("eu-p"));
}

#[tokio::test]
async fn an_old_acceptor_is_not_dialled_into() {
    let cluster = cluster();
    let leader = cluster.start("leader").await;
    let acceptor = Stranger { version: Version::Tls12, ..Stranger::of(&cluster, "eu-p") };
    let listener = TcpListener::bind(cluster.address("eu-p")).await.unwrap();
    let old = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(acceptor.accept(stream).await.is_err());
        }
    };
    tokio::select! {
        () = old => {}
        () = eventually("a refused dial", || all_failed(&leader) > 0) => {}
    }
    assert_eq!(leader.mesh().stats().handshakes, 0);
}

#[tokio::test]
async fn nothing_is_resumed_and_nothing_is_said_early() {
    let cluster = cluster();
    let _proxy = cluster.start("eu-p").await;
    let stranger = Stranger::of(&cluster, "leader");
    let config = stranger.client();
    for _ in 0..3 {
        let mut stream = stranger.connect_with(cluster.address("eu-p"), config.clone()).await.unwrap();
        // A ticket would come with the first bytes.
        let hello = cluster.hello("leader", Lane::Control);
        let mut raw = Raw::over(&mut stream);
        raw.say_hello(&hello).await;
        assert!(matches!(raw.read().await, Some(Received::Welcome(..))));
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(!session.is_early_data_accepted());
    }
}

#[tokio::test]
async fn a_stalled_handshake_is_cut_off_and_its_place_is_free_again() {
    let mut cluster = cluster();
    cluster.settings.handshake_timeout = Duration::from_millis(500);
    cluster.settings.handshakes_max = 2;
    let proxy = cluster.start("eu-p").await;
    let address = cluster.address("eu-p");
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    // The head of a record that never comes.
    slow.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    let mut rest = Vec::new();
    soon("the silent one ends", silent.read_to_end(&mut rest)).await.ok();
    soon("the slow one ends", slow.read_to_end(&mut rest)).await.ok();
    assert!(rest.is_empty(), "a stranger is told nothing: {rest:?}");
    eventually("both counted", || failed(&proxy, "unfinished") == 2).await;
    assert_eq!((refused(&proxy, "timeout"), refused(&proxy, "too_many_connections")), (2, 0));
    let hello = cluster.hello("leader", Lane::Control);
    let deadline = Instant::now() + support::SOON;
    loop {
        if let Ok(mut raw) = Stranger::of(&cluster, "leader").dial(address).await
            && raw.gets_an_answer(&hello).await
        {
            break;
        }
        assert!(Instant::now() < deadline, "a good one gets in again");
    }
}

#[tokio::test]
async fn whoever_shows_no_certificate_makes_room_for_who_does() {
    let mut cluster = cluster();
    cluster.settings.handshake_timeout = Duration::from_secs(60);
    cluster.settings.handshakes_max = 8;
    let proxy = cluster.start("eu-p").await;
    let address = cluster.address("eu-p");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let leader = cluster.start("leader").await;
    eventually("it gets in", || leader.reaches("eu-p")).await;
    eventually("those who made room are counted", || refused(&proxy, "too_many_connections") == 14).await;
    assert_eq!(failed(&proxy, "unfinished"), 14);
    let mut rest = Vec::new();
    soon("the oldest ends", silent[0].read_to_end(&mut rest)).await.ok();
    assert!(rest.is_empty(), "a stranger is told nothing: {rest:?}");
}

#[tokio::test]
async fn a_handshake_that_goes_on_and_on_is_ended() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    // A ClientHello of 60,000 bytes, as TLS allows, in records of 16,000 that are all as they should be.
    let mut stream = TcpStream::connect(cluster.address("eu-p")).await.unwrap();
    let mut body = vec![0x01, 0x00, 0xea, 0x60];
    body.resize(60_004, 0);
    for part in body.chunks(16_000) {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        let record = [&[0x16, 0x03, 0x01][..], &length, part].concat();
        if stream.write_all(&record).await.is_err() {
            break;
        }
    }
    answers(&mut stream).await;
    eventually("counted", || failed(&proxy, "too_long") == 1).await;
    // Nor is more looked at than a chain of a few certificates, each of which leads to the next.
    let (leaf, key) = pki(&cluster).make("leader", "us", &Special::default());
    let hello = cluster.hello("leader", Lane::Control);
    for (between, refusals) in
        [(pki(&cluster).ca_pem(), 1), (leaf.clone(), 1), (leaf.repeat(2), 2), (leaf.repeat(20), 3)]
    {
        let certificate = Some((leaf.clone() + &between, key.clone()));
        let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
        let answered = match stranger.dial(cluster.address("eu-p")).await {
            Ok(mut raw) => raw.gets_an_answer(&hello).await,
            Err(_) => false,
        };
        assert_eq!(answered, refusals == 1);
        eventually("counted", || failed(&proxy, "too_long") == refusals).await;
    }
}

#[tokio::test]
async fn a_peer_that_leaves_in_the_middle_of_its_handshake_is_counted() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    drop(TcpStream::connect(cluster.address("eu-p")).await.unwrap());
    eventually("counted", || failed(&proxy, "closed") == 1).await;
}

#[tokio::test]
async fn a_stalled_acceptor_is_given_up_by_its_dialler() {
    let mut cluster = cluster();
    cluster.settings.handshake_timeout = Duration::from_millis(200);
    let _mute = TcpListener::bind(cluster.address("eu-p")).await.unwrap();
    let leader = cluster.start("leader").await;
    eventually("given up, and dialled again", || failed(&leader, "unfinished") >= 4).await;
}

#[tokio::test]
async fn connections_beyond_the_rate_wait_in_the_kernel() {
    let mut cluster = cluster();
    cluster.settings.accepts_per_second = 20;
    let proxy = cluster.start("eu-p").await;
    let started = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..30 {
        let mut caller = TcpStream::connect(cluster.address("eu-p")).await.unwrap();
        caller.write_all(&PREAMBLE).await.unwrap();
        callers.push(caller);
    }
    eventually("all are heard in the end", || failed(&proxy, "not_tls") == 30).await;
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_new_connections_on_both_sides_and_no_old_one() {
    let cluster = cluster();
    let mut members = [cluster.start("eu-m").await, cluster.start("eu-n").await];
    let proxy = cluster.start("eu-p").await;
    let leader = cluster.start("leader").await;
    eventually("all links", || leader.reaches("eu-p") && proxy.reaches("eu-m") && proxy.reaches("eu-n"))
        .await;
    let handshakes = leader.mesh().stats().handshakes;
    let shown = async || {
        let stream = Stranger::of(&cluster, "leader").connect(cluster.address("eu-p")).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let old = shown().await;
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Unchanged);

    pki(&cluster).issue("eu-p", "eu", &Special::default());
    pki(&cluster).issue("leader", "us", &Special::default());
    assert_eq!(shown().await, old, "not before the reload");
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
    assert_eq!(leader.mesh().reload().await.unwrap(), Reloaded::Changed);
    assert_ne!(shown().await, old, "the accepting side");
    assert_eq!(proxy.mesh().stats().tls.reloads, 1);

    send_some(&leader, &mut members, 2).await;
    assert_eq!(leader.mesh().stats().handshakes, handshakes, "over the connections that were there");

    // The dialling side: whoever is dialled next sees the new one.
    let expected = pem_der(&pki(&cluster).path().join("leader.crt"));
    drop(proxy);
    let listener = loop {
        match TcpListener::bind(cluster.address("eu-p")).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let acceptor = Stranger::of(&cluster, "eu-p");
    let (stream, _) = soon("a dial", listener.accept()).await.unwrap();
    let stream = soon("a handshake", acceptor.accept(stream)).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(), expected);
}

fn pem_der(path: &std::path::Path) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[tokio::test]
async fn a_changed_file_is_noticed_without_a_word_and_a_bad_one_changes_nothing() {
    let cluster = cluster();
    let mut tls = files(pki(&cluster).path(), "eu-p");
    tls.check_interval = Duration::from_millis(10);
    let security = Security::Tls(tls);
    let config = Config { security, ..Config::new(cluster.topology.clone(), id("eu-p")) };
    let (client, inbox) = join(config).await.unwrap();
    let proxy = Running { client, inbox };
    let stats = || proxy.mesh().stats().tls;

    // Certificate first, key later: in between they do not fit, and the old ones stay.
    let (certificate, key) = pki(&cluster).make("eu-p", "eu", &Special::default());
    pki(&cluster).write("eu-p.crt", &certificate);
    eventually("the halves do not fit", || stats().reloads_failed == 1).await;
    assert_eq!(stats().reloads, 0);
    assert!(
        Stranger::of(&cluster, "leader").dial(cluster.address("eu-p")).await.is_ok(),
        "the old one is shown"
    );
    pki(&cluster).write("eu-p.key", &key);
    eventually("the new one is used", || stats().reloads == 1).await;

    // What is wrong is told once, not at every look.
    let failed = stats().reloads_failed;
    for (bad, error) in [
        ("", "has no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no X.509 certificate"),
        (&pki(&cluster).make("eu-m", "eu", &Special::default()).0, "is not that of the certificate"),
    ] {
        pki(&cluster).write("eu-p.crt", bad);
        let told = proxy.mesh().reload().await.unwrap_err().to_string();
        assert!(told.contains(error), "{told}");
        assert!(proxy.mesh().reload().await.is_err());
    }
    assert_eq!(stats().reloads_failed, failed + 3);
    pki(&cluster).issue("eu-p", "eu", &Special { expired: true, ..Special::default() });
    let told = proxy.mesh().reload().await.unwrap_err().to_string();
    assert!(told.contains("expired on") || told.contains("is not that of"), "{told}");
    assert!(
        Stranger::of(&cluster, "leader").dial(cluster.address("eu-p")).await.is_ok(),
        "still the last good one"
    );
    assert_eq!(stats().reloads, 1);
}

#[tokio::test]
async fn one_ca_takes_the_place_of_another_while_both_are_trusted() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let next = Pki::new();
    let certificate = Some(next.make("leader", "us", &Special::default()));
    let stranger = Stranger { certificate, ..Stranger::of(&cluster, "leader") };
    let hello = cluster.hello("leader", Lane::Control);
    let gets_in = async || match stranger.dial(cluster.address("eu-p")).await {
        Ok(mut raw) => raw.gets_an_answer(&hello).await,
        Err(_) => false,
    };
    assert!(!gets_in().await);
    pki(&cluster).write("ca.crt", &[pki(&cluster).ca_pem(), next.ca_pem()].concat());
    assert_eq!(proxy.mesh().reload().await.unwrap(), Reloaded::Changed);
    assert!(gets_in().await);
}

#[tokio::test]
async fn files_that_cannot_be_used_keep_a_node_from_starting_and_are_named() {
    let cluster = cluster();
    let other = Pki::new();
    let pki = pki(&cluster);
    let good = pki.make("eu-p", "eu", &Special::default());
    let special = |special: Special| pki.make("eu-p", "eu", &special);
    let cases: [(&str, &str, &str, &str); 9] = [
        ("", &good.1, "eu-p.crt", "no certificate in PEM"),
        (&good.0, "", "eu-p.key", "no private key in PEM"),
        (
            &good.0,
            &pki.make("eu-p", "eu", &Special::default()).1,
            "eu-p.key",
            "is not that of the certificate",
        ),
        (&pki.make("eu-m", "eu", &Special::default()).0, "", "eu-p.key", "no private key"),
        ("", "", "eu-p.crt", "no certificate"),
        (&good.1, &good.1, "eu-p.crt", "no certificate"),
        (&good.0, &good.0, "eu-p.key", "no private key"),
        ("\0\u{1b}[31m", &good.1, "eu-p.crt", "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n",
            &good.1,
            "eu-p.crt",
            "no certificate",
        ),
    ];
    let attempt = async |certificate: &str, key: &str, file: &str, says: &str| {
        pki.write("eu-p.crt", certificate);
        pki.write("eu-p.key", key);
        let error = cluster.try_start("eu-p").await.err().expect("it does not start");
        let text = error.to_string();
        assert!(matches!(error, JoinError::Tls(_)) && text.contains(file) && text.contains(says), "{text}");
        let secret = key.lines().nth(1).filter(|line| line.len() > 8);
        assert!(secret.is_none_or(|secret| !format!("{text}{error:?}").contains(secret)), "{text}");
    };
    for (certificate, key, file, says) in cases {
        attempt(certificate, key, file, says).await;
    }
    for ((certificate, key), says) in [
        (special(Special { expired: true, ..Special::default() }), "expired on"),
        (special(Special { early: true, ..Special::default() }), "is valid from"),
        (special(Special { uris: Some(vec![]), ..Special::default() }), "names no node"),
        (special(Special { client_only: true, ..Special::default() }), "does not follow from the CA"),
        (pki.make("eu-m", "eu", &Special::default()), "this node is spiffe://test/dc/eu/node/eu-p"),
        (pki.make("eu-p", "us", &Special::default()), "this node is spiffe://test/dc/eu/node/eu-p"),
        (other.make("eu-p", "eu", &Special::default()), "another CA issued it"),
    ] {
        attempt(&certificate, &key, "eu-p.crt", says).await;
    }
    // Who is trusted as a CA can name anybody.
    let trusted = std::fs::read_to_string(pki.path().join("ca.crt")).unwrap();
    pki.write("ca.crt", &(trusted.clone() + &good.0));
    attempt(&good.0, &good.1, "ca.crt", "one of them is no CA's").await;
    pki.write("ca.crt", &trusted);
    std::fs::remove_file(pki.path().join("eu-p.crt")).unwrap();
    let gone = cluster.try_start("eu-p").await.err().unwrap().to_string();
    assert!(gone.contains("cannot read") && gone.contains("eu-p.crt"), "{gone}");
}

#[tokio::test]
async fn plaintext_stays_on_loopback_unless_it_is_asked_for() {
    let cluster = Cluster::new(&[("leader", "us", Roles::ORIGIN), ("eu-p", "eu", Roles::PROXY)]);
    let mut specs: Vec<NodeSpec> = cluster.topology.nodes().cloned().collect();
    let far = specs.iter_mut().find(|node| node.id == id("eu-p")).unwrap();
    far.address = Some("192.0.2.1:7400".parse().unwrap());
    let topology = Topology::new(ClusterId::new("test").unwrap(), specs).unwrap();
    let config = Config::new(topology, id("leader"));
    let error = join(config.clone()).await.err().unwrap();
    assert!(
        matches!(&error, JoinError::Unprotected(address) if address.to_string() == "192.0.2.1:7400"),
        "{error}"
    );
    let listen = Some("0.0.0.0:0".parse().unwrap());
    let open =
        Config { listen, security: Security::Loopback, ..Config::new(cluster.topology.clone(), id("eu-p")) };
    assert!(matches!(join(open.clone()).await, Err(JoinError::Unprotected(_))));
    let log = log::Listening::new();
    let told = || log.lines().iter().filter(|line| line.starts_with("links are plaintext and unaut")).count();
    assert!(join(Config { security: Security::Insecure, ..open }).await.is_ok());
    assert_eq!(told(), 1, "{:?}", log.lines());
    assert!(join(Config { security: Security::Insecure, ..config }).await.is_ok());
    assert_eq!(told(), 2, "{:?}", log.lines());
}

#[tokio::test]
async fn noise_within_and_instead_of_tls_ends_the_connection_and_nothing_else() {
    let cluster = cluster();
    let proxy = cluster.start("eu-p").await;
    let address = cluster.address("eu-p");
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        let mut noise = vec![0; rng.usize(1..20_000)];
        rng.fill(&mut noise);
        if rng.bool() {
            // A handshake record, so that it is read further.
            noise.splice(..0, [0x16, 0x03, 0x01, 0x20, 0x00, 0x01, 0x00, 0x1f, 0xfc]);
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(&noise).await;
        let _ = stream.shutdown().await;
        answers(&mut stream).await;
    }
    // One who is certified and then speaks no frames.
    let mut stream = Stranger::of(&cluster, "leader").connect(address).await.unwrap();
    stream.write_all(&[0xff; 5000]).await.unwrap();
    stream.flush().await.unwrap();
    let mut raw = Raw::over(stream);
    assert_eq!(raw.refusal().await, RefuseCode::Malformed);
    let leader = cluster.start("leader").await;
    eventually("a node gets in all the same", || leader.reaches("eu-p")).await;
    assert!(all_failed(&proxy) >= 40, "{:?}", proxy.mesh().stats().tls);
}
