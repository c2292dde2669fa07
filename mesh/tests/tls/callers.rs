//! Callers of a service that a program runs beside the mesh, with the node's certificates: who comes through, and who does not.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trunkline_mesh::{Credentials, Mesh, Reloaded, Roles};

use super::support::pki::{Pki, Special};
use super::support::{Cluster, eventually, files, soon};
use super::{Stranger, all_failed, cluster, failed, pki};

/// Answers whoever comes through with the node that its certificate names, for as long as it lives.
struct Service {
    listener: TcpListener,
    mesh: Mesh,
}

impl Service {
    async fn of(mesh: &Mesh) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), mesh: mesh.clone() }
    }

    /// What a caller is answered, if it comes through.
    async fn answers(&self, stranger: &Stranger) -> Option<String> {
        let address = self.listener.local_addr().unwrap();
        let serve = async {
            let (stream, peer) = self.listener.accept().await.unwrap();
            let mut caller = self.mesh.accept_caller(stream, &peer.to_string()).await?;
            let name = caller.peer().node.to_string();
            caller.write_all(name.as_bytes()).await.unwrap();
            caller.shutdown().await.unwrap();
            Some(name)
        };
        let call = async {
            let mut said = String::new();
            stranger.connect(address).await.ok()?.read_to_string(&mut said).await.ok()?;
            Some(said)
        };
        let (served, said) = soon("a call", async { tokio::join!(serve, call) }).await;
        assert_eq!(served, said);
        said
    }
}

#[tokio::test]
async fn a_caller_shows_a_certificate_of_the_cluster_or_is_refused_and_counted() {
    let cluster = cluster();
    pki(&cluster).revoke(&[]);
    let node = cluster.start("eu-p").await;
    let service = Service::of(node.mesh()).await;
    let of = |certificate| Stranger { certificate, ..Stranger::of(&cluster, "leader") };
    let make = |special: Special| pki(&cluster).make("prometheus", "ops", &special);
    // No node of the topology: it may ask, and it may not link.
    let good = make(Special::default());
    assert_eq!(service.answers(&of(Some(good.clone()))).await.as_deref(), Some("prometheus"));
    assert_eq!(service.answers(&Stranger::of(&cluster, "eu-m")).await.as_deref(), Some("eu-m"));

    let uris = |uri: &str| Special { uris: Some(vec![uri.to_owned()]), ..Special::default() };
    let cases = [
        ("no_certificate", None),
        ("unknown_issuer", Some(Pki::new().make("prometheus", "ops", &Special::default()))),
        ("expired", Some(make(Special { expired: true, ..Special::default() }))),
        ("not_yet_valid", Some(make(Special { early: true, ..Special::default() }))),
        ("bad_certificate", Some(make(Special { server_only: true, ..Special::default() }))),
        ("no_name", Some(make(uris("https://prometheus")))),
        ("other_cluster", Some(make(uris("spiffe://elsewhere/dc/ops/node/prometheus")))),
    ];
    let count = u64::try_from(cases.len()).unwrap();
    for (reason, certificate) in cases {
        assert_eq!(service.answers(&of(certificate)).await, None, "{reason}");
        assert_eq!(failed(&node, reason), 1, "{reason}");
    }
    assert_eq!(all_failed(&node), count);

    // What the node reads anew goes for the next caller.
    pki(&cluster).revoke(&[&good.0]);
    assert_eq!(node.mesh().reload().await.unwrap(), Reloaded::Changed);
    assert_eq!(service.answers(&of(Some(good))).await, None);
    assert_eq!(failed(&node, "revoked"), 1);
    assert_eq!(service.answers(&Stranger::of(&cluster, "leader")).await.as_deref(), Some("leader"));
    let renewed = Pki::new();
    pki(&cluster).write("ca.crt", &(pki(&cluster).ca_pem() + &renewed.ca_pem()));
    assert_eq!(node.mesh().reload().await.unwrap(), Reloaded::Changed);
    let certificate = Some(renewed.make("grafana", "ops", &Special::default()));
    assert_eq!(service.answers(&of(certificate)).await.as_deref(), Some("grafana"));
}

#[tokio::test]
async fn a_handshake_with_a_caller_that_is_given_up_is_counted_and_plaintext_has_none() {
    let cluster = cluster();
    let node = cluster.start("eu-p").await;
    assert!(node.mesh().is_within_tls());
    let (silent, stream) = pair().await;
    let mut handshake = Box::pin(node.mesh().accept_caller(stream, "silent"));
    assert!(waits(&mut handshake).await);
    drop(handshake);
    assert_eq!(failed(&node, "unfinished"), 1);
    drop(silent);

    let (silent, stream) = pair().await;
    drop(silent);
    assert!(soon("its end", node.mesh().accept_caller(stream, "gone")).await.is_none());
    eventually("counted", || failed(&node, "closed") == 1).await;

    let (mut loud, stream) = pair().await;
    loud.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(soon("its end", node.mesh().accept_caller(stream, "plain")).await.is_none());
    assert_eq!(failed(&node, "not_tls"), 1);

    let plain = Cluster::new(&[("eu-m", "eu", Roles::MEMBER)]);
    let plain = Cluster { pki: None, ..plain };
    let node = plain.start("eu-m").await;
    assert!(!node.mesh().is_within_tls());
    let (_other, stream) = pair().await;
    assert!(node.mesh().accept_caller(stream, "x").await.is_none());
}

/// Whose certificate is taken back after it came through, and whose CA is taken out. Nobody else's connection ends.
#[tokio::test]
async fn it_is_told_when_a_caller_is_trusted_no_more() {
    let cluster = cluster();
    let pki = pki(&cluster);
    pki.revoke(&[]);
    let node = cluster.start("eu-p").await;
    let mesh = node.mesh();
    let mut standings = Vec::new();
    for name in ["eu-m", "leader"] {
        let (here, there) = pair().await;
        let credentials = Arc::new(Credentials::load(&files(pki.path(), name)).unwrap());
        let (caller, accepted) = tokio::join!(credentials.dial(here), mesh.accept_caller(there, name));
        caller.unwrap();
        standings.push(accepted.unwrap().standing());
    }
    let [mut one, mut other] = [0, 1].map(|index| Box::pin(mesh.until_distrusted(&standings[index])));
    assert!(waits(&mut one).await && waits(&mut other).await);
    assert_eq!(mesh.reload().await.unwrap(), Reloaded::Unchanged);
    assert!(waits(&mut one).await && waits(&mut other).await);
    let stolen = std::fs::read_to_string(pki.path().join("eu-m.crt")).unwrap();
    pki.revoke(&[&stolen]);
    assert_eq!(mesh.reload().await.unwrap(), Reloaded::Changed);
    let why = soon("its end", one).await;
    assert!(why.contains("evoked"), "{why}");
    assert!(waits(&mut other).await, "it is good");
    // And who began to look only then.
    soon("its end", mesh.until_distrusted(&standings[0])).await;
}

/// The dialling side that programs have.
#[tokio::test]
async fn who_dials_a_service_learns_who_it_is_and_takes_no_other_cluster() {
    let cluster = cluster();
    let node = cluster.start("eu-p").await;
    let own = |name: &str| Arc::new(Credentials::load(&files(pki(&cluster).path(), name)).unwrap());
    let (here, there) = pair().await;
    let mesh = node.mesh();
    let credentials = own("leader");
    let (dialled, accepted) = tokio::join!(credentials.dial(here), mesh.accept_caller(there, "leader"));
    assert_eq!(dialled.unwrap().peer().to_string(), "spiffe://test/dc/eu/node/eu-p");
    assert_eq!(accepted.unwrap().peer().to_string(), "spiffe://test/dc/us/node/leader");

    let uris = Some(vec!["spiffe://elsewhere/dc/eu/node/eu-p".to_owned()]);
    let certificate = Some(pki(&cluster).make("eu-p", "eu", &Special { uris, ..Special::default() }));
    let stranger = Stranger { certificate, ..Stranger::of(&cluster, "eu-p") };
    let (here, there) = pair().await;
    let (dialled, _) = tokio::join!(credentials.dial(here), stranger.accept(there));
    assert!(dialled.unwrap_err().to_string().contains("of cluster `elsewhere`"));
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// It was polled once and waits.
async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending()))
        .await
}
