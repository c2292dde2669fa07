//! The admin API off loopback: within TLS, for callers with a certificate of the cluster. Nodes listen on all addresses, which
//! counts as off loopback, and are asked over loopback.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use support::addresses::own_port;
use support::cluster::{Cluster, Node, SOON, write};
use support::{http, poll, poll_for, run, signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trunkline_mesh::{CHECK_INTERVAL, Credentials, NodeId, Secured, TlsFiles};

const SECURITY: &str = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"\n\
                        crl = \"tls/ca.crl\"\ncheck_interval = \"100 ms\"";

/// The example with certificates, all admin APIs off loopback.
fn cluster(security: &str) -> Cluster {
    let cluster = Cluster::new(&[("insecure = false", security)]);
    let text = std::fs::read_to_string(cluster.file()).unwrap();
    let open = |line: &str| match line.starts_with("admin = ") {
        true => format!("admin = \"0.0.0.0:{}\"\n", own_port()),
        false => format!("{line}\n"),
    };
    let text: String = text.lines().map(open).collect();
    std::fs::write(cluster.file(), text).unwrap();
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &tls]).0, 0);
    assert_eq!(run(&["ca", "issue", "--dir", &tls, "--config", cluster.file(), "--all"]).0, 0);
    cluster
}

/// Issues certificate and key to somebody who is no node.
fn issue(cluster: &Cluster, directory: &str, name: &str) -> [String; 3] {
    let path = |file: &str| cluster.path(directory).join(file).to_str().unwrap().to_owned();
    let dir = cluster.path(directory).to_str().unwrap().to_owned();
    let args = ["ca", "issue", "--dir", &dir, "--cluster", "example", "--dc", "ops", "--node", name];
    let (code, _, stderr) = run(&args);
    assert_eq!(code, 0, "{stderr}");
    [path(&format!("{name}.crt")), path(&format!("{name}.key")), path("ca.crt")]
}

/// Where a node's admin API is asked.
fn admin(cluster: &Cluster, node: &str) -> SocketAddr {
    let config = trunkline::config::Config::load(cluster.file().as_ref()).unwrap();
    (Ipv4Addr::LOCALHOST, config.admin(&NodeId::new(node).unwrap()).unwrap().port()).into()
}

fn status(cluster: &Cluster, node: &str, [certificate, key, ca]: &[String; 3]) -> (i32, String, String) {
    let at = admin(cluster, node).to_string();
    run(&["status", "--at", &at, "--json", "--certificate", certificate, "--key", key, "--ca", ca])
}

/// Starts a node and waits until it answers about itself.
fn start(cluster: &Cluster, node: &str) -> Node {
    let started = cluster.start(node);
    cluster.poll(node, "answers", || {
        (run(&["status", "--config", cluster.file(), "--node", node]).0 == 0).then_some(())
    });
    started
}

#[test]
fn off_loopback_the_admin_api_is_for_those_with_a_certificate_of_the_cluster() {
    let cluster = cluster(SECURITY);
    let (code, stdout, stderr) = run(&["check-config", cluster.file()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(" within TLS\n") && !stdout.contains("plaintext"), "{stdout}");
    let _node = start(&cluster, "eu-m1");
    assert!(cluster.log("eu-m1").contains("admin API on https://0.0.0.0:"), "{}", cluster.log("eu-m1"));

    // A watcher is no node: it needs no more than a certificate.
    let watcher = issue(&cluster, "tls", "prometheus");
    let (code, stdout, stderr) = status(&cluster, "eu-m1", &watcher);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\"node\":\"eu-m1\""), "{stdout}");
    let at = admin(&cluster, "eu-m1").to_string();
    let [certificate, key, ca] = &watcher;
    let with = ["--at", &at, "--certificate", certificate, "--key", key, "--ca", ca];
    for command in [&["routes"][..], &["top", "--once", "--json", "--interval", "10 ms"]] {
        let (code, _, stderr) = run(&[command, &with].concat());
        assert_eq!(code, 0, "{command:?}: {stderr}");
    }
    let (code, _, stderr) = run(&[&["ping", "eu-m2", "--count", "1"][..], &with].concat());
    assert_eq!(code, 2, "it is asked, and reaches no other member: {stderr}");
    assert!(stderr.contains("nor holds a link to it"), "{stderr}");

    for (args, ready) in [(&["--ready"][..], 0), (&["--ready", "--json"], 2)] {
        assert_eq!(run(&[&["status"], args, &with].concat()).0, ready, "{args:?}");
    }
    let _proxy = start(&cluster, "ap-p1");
    let (code, stdout, stderr) = run(&["status", "--config", cluster.file(), "--node", "ap-p1", "--ready"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "a proxy without members: {stderr}");
    assert!(stderr.contains("not ready: "), "{stderr}");

    // In plaintext nobody is told more than how to ask.
    let told = http::get(admin(&cluster, "eu-m1"), "/livez").unwrap();
    assert_eq!(
        (told.code, told.body.starts_with("this address is within TLS: ask with https://")),
        (400, true)
    );
    assert_eq!(
        told.body,
        http::get(admin(&cluster, "eu-m1"), "/v1/status").unwrap().body,
        "whatever is asked"
    );
    let refused = "a caller was refused: it spoke no TLS, as with http://: ask with https://";
    poll("it is logged", SOON, || cluster.log("eu-m1").contains(refused).then_some(()));
    assert_eq!(cluster.log("eu-m1").matches(refused).count(), 1, "once for an address");
    let (code, _, stderr) = run(&["status", "--at", &at]);
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("within TLS it is asked with --config"), "{stderr}");

    // Another CA's certificate is refused, on both sides.
    let other = cluster.path("other").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &other]).0, 0);
    let [certificate, key, ca] = issue(&cluster, "other", "prometheus");
    let (code, _, stderr) = status(&cluster, "eu-m1", &[certificate, key, ca]);
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("shows a wrong certificate"), "{stderr}");
    let refused =
        "a caller refused this node: the caller does not trust the CA that issued this node's certificate";
    poll("who refused is logged", SOON, || cluster.log("eu-m1").contains(refused).then_some(()));
    assert!(!cluster.log("eu-m1").contains("the log of the peer says"), "a caller has none");
}

#[test]
fn status_says_whose_certificate_it_is_and_for_how_long() {
    let cluster = cluster(SECURITY);
    let _node = start(&cluster, "eu-m1");
    let (code, stdout, stderr) = run(&["status", "--config", cluster.file(), "--node", "eu-m1"]);
    assert_eq!(code, 0, "{stderr}");
    let line = "tls: on, certificate of spiffe://example/dc/eu/node/eu-m1 expires in 365 d, CA CN=Trunkline CA of \
                example expires in 3650 d";
    assert!(stdout.lines().any(|of| of == line), "{stdout}");
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    let renew =
        ["ca", "issue", "--dir", &tls, "--config", cluster.file(), "--all", "--replace", "--days", "1"];
    assert_eq!(run(&renew).0, 0);
    poll("a renewed one is shown", SOON, || {
        let (_, stdout, _) = run(&["status", "--config", cluster.file(), "--node", "eu-m1"]);
        (stdout.contains("expires in 24 h") || stdout.contains("expires in 23 h")).then_some(())
    });
}

#[test]
fn a_file_says_who_answers_and_with_what_to_ask() {
    let cluster = cluster(SECURITY);
    let _nodes = [start(&cluster, "eu-m1"), start(&cluster, "eu-m2")];
    // Somebody else at that address, as behind a wrong port: told, not shown.
    let (one, two) = (admin(&cluster, "eu-m1").port(), admin(&cluster, "eu-m2").port());
    let text = std::fs::read_to_string(cluster.file()).unwrap();
    let text = text.replace(&format!("0.0.0.0:{one}"), "0.0.0.0:1");
    let swapped = text.replace(&format!("0.0.0.0:{two}"), &format!("0.0.0.0:{one}"));
    let file = write(&cluster.path("swapped.toml"), swapped);
    let (code, _, stderr) = run(&["status", "--config", &file, "--node", "eu-m2"]);
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("is that of spiffe://example/dc/eu/node/eu-m1, not of"), "{stderr}");
    // What is asked with is not here.
    std::fs::remove_file(cluster.path("tls").join("eu-m2.key")).unwrap();
    let (code, _, stderr) = run(&["status", "--config", cluster.file(), "--node", "eu-m2"]);
    assert_eq!(code, 78, "{stderr}");
    assert!(
        stderr.contains("takes a certificate of the cluster") && stderr.contains("eu-m2.key"),
        "{stderr}"
    );
    let [certificate, key, ca] = issue(&cluster, "tls", "me");
    let file = ["--config", cluster.file(), "--node", "eu-m2"];
    let with = ["--certificate", &certificate, "--key", &key, "--ca", &ca];
    assert_eq!(run(&[&["status"][..], &file, &with].concat()).0, 0);
    assert_eq!(run(&[&["status"][..], &file, &with[..2]].concat()).0, 2, "all three or none");
}

#[test]
fn certificates_of_callers_are_revoked_and_renewed_while_the_node_runs() {
    let cluster = cluster(SECURITY);
    let node = start(&cluster, "eu-m1");
    let watcher = issue(&cluster, "tls", "prometheus");
    assert_eq!(status(&cluster, "eu-m1", &watcher).0, 0);
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "revoke", "--dir", &tls, &watcher[0]]).0, 0);
    // One that is answered just then loses its connection; the next one does not get any.
    poll("it is refused", SOON, || {
        let (code, log) = (status(&cluster, "eu-m1", &watcher).0, cluster.log("eu-m1"));
        (code == 69 && log.contains("a caller was refused") && log.contains("revoked")).then_some(())
    });
    let renew = ["ca", "issue", "--dir", &tls, "--cluster", "example", "--dc", "ops", "--node", "prometheus"];
    assert_eq!(run(&[&renew[..], &["--replace"]].concat()).0, 0);
    assert_eq!(status(&cluster, "eu-m1", &watcher).0, 0, "another certificate of its is as good");

    // Of another CA, until the node trusts that too.
    let other = cluster.path("other").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &other]).0, 0);
    let [certificate, key, _] = issue(&cluster, "other", "prometheus");
    let both = cluster.path("both.crt");
    let read = |ca: &str| std::fs::read_to_string(cluster.path(ca)).unwrap();
    let both = write(&both, read("tls/ca.crt") + &read("other/ca.crt"));
    let stranger = [certificate, key, both];
    let (code, _, stderr) = status(&cluster, "eu-m1", &stranger);
    assert_eq!(code, 69, "{stderr}");
    std::fs::rename(&stranger[2], cluster.path("tls").join("ca.crt")).unwrap();
    let stranger =
        [stranger[0].clone(), stranger[1].clone(), cluster.path("tls/ca.crt").to_str().unwrap().to_owned()];
    signal(&node.child, "HUP");
    poll("it is taken", SOON, || (status(&cluster, "eu-m1", &stranger).0 == 0).then_some(()));
}

#[test]
fn half_open_handshakes_keep_nobody_out() {
    let cluster = cluster(SECURITY);
    let _node = start(&cluster, "eu-m1");
    let address = admin(&cluster, "eu-m1");
    // The head of a ClientHello that never comes, on more connections than there may be handshakes.
    let half_open = || {
        let mut stream = http::connect(address).unwrap();
        stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01]).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..200).map(|_| half_open()).collect();
    for _ in 0..3 {
        let (code, _, stderr) = run(&["status", "--config", cluster.file(), "--node", "eu-m1"]);
        assert_eq!(code, 0, "{stderr}");
    }
    // The oldest were given up for others, the last ones after their time.
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut rest = Vec::new();
        let ended = poll_for(SOON, || match stream.read_to_end(&mut rest) {
            Ok(_) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Some(()),
            Err(_) => None,
        });
        assert!(ended.is_some(), "connection {index}");
    }
    let (code, _, stderr) = run(&["status", "--config", cluster.file(), "--node", "eu-m1"]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn plaintext_off_loopback_is_asked_for_and_tls_on_loopback_may_be() {
    let insecure = cluster(&format!("insecure = true\n{SECURITY}"));
    let (_, stdout, _) = run(&["check-config", insecure.file()]);
    assert!(stdout.contains("admin API in plaintext on every address (insecure = true)"), "{stdout}");
    let _node = start(&insecure, "eu-m1");
    assert_eq!(http::get(admin(&insecure, "eu-m1"), "/livez").map(|answer| answer.code), Some(200));
    let told = |cluster: &Cluster, what| cluster.log("eu-m1").matches(what).count();
    let [links, api] = ["links are plaintext", "the admin API is plaintext and unauthenticated"];
    assert_eq!((told(&insecure, links), told(&insecure, api)), (0, 1));
    let plain = Cluster::new(&[("insecure = false", "insecure = true")]);
    let _plain = start(&plain, "eu-m1");
    assert_eq!(http::get(plain.admin("eu-m1"), "/livez").map(|answer| answer.code), Some(200));
    assert_eq!((told(&plain, links), told(&plain, api)), (1, 1), "{}", plain.log("eu-m1"));

    let cluster = Cluster::new(&[("insecure = false", &format!("admin_tls = true\n{SECURITY}"))]);
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &tls]).0, 0);
    assert_eq!(run(&["ca", "issue", "--dir", &tls, "--config", cluster.file(), "--all"]).0, 0);
    let _node = start(&cluster, "eu-m1");
    let told = http::get(cluster.admin("eu-m1"), "/livez").unwrap();
    let within_tls = "this address is within TLS: ask with https://, and show a certificate of the cluster\n";
    assert_eq!((told.code, told.body.as_str()), (400, within_tls), "and not that it lives");
    let shown = run(&["ca", "show", cluster.path("tls/eu-m1.crt").to_str().unwrap()]).1;
    let ip = cluster.admin("eu-m1").ip().to_string();
    assert!(shown.contains(&ip), "{ip} for those who compare addresses: {shown}");
}

/// At the next look at the files, and not when its time is over, which is a minute.
#[test]
fn a_caller_whose_certificate_is_taken_back_loses_its_connection() {
    let security = &format!("admin_tls = true\n{SECURITY}");
    let cluster = Cluster::new(&[("insecure = false", security)]);
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &tls]).0, 0);
    assert_eq!(run(&["ca", "issue", "--dir", &tls, "--config", cluster.file(), "--all"]).0, 0);
    let _node = start(&cluster, "eu-m1");
    let file = |name: &str| cluster.path("tls").join(name);
    let dial = async |name: &str| {
        let [certificate, key] = ["crt", "key"].map(|kind| file(&format!("{name}.{kind}")));
        let files =
            TlsFiles { certificate, key, ca: file("ca.crt"), crl: None, check_interval: CHECK_INTERVAL };
        let stream = tokio::net::TcpStream::connect(cluster.admin("eu-m1")).await.unwrap();
        Arc::new(Credentials::load(&files).unwrap()).dial(stream).await.unwrap()
    };
    // True while it is answered.
    let ask = async |caller: &mut Secured<tokio::net::TcpStream>| {
        let mut room = [0; 4096];
        let asked = caller.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok();
        asked && caller.read(&mut room).await.is_ok_and(|bytes| bytes > 0)
    };
    let calls = async {
        let (mut taken_back, mut other) = (dial("eu-m2").await, dial("eu-p1").await);
        assert!(ask(&mut taken_back).await && ask(&mut other).await);
        let revoked = run(&["ca", "revoke", "--dir", &tls, file("eu-m2.crt").to_str().unwrap()]);
        assert_eq!(revoked.0, 0, "{}", revoked.2);
        // It never rests, so that nothing else ends it.
        while ask(&mut taken_back).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(ask(&mut other).await, "it is good");
        }
        assert!(ask(&mut other).await, "it is good");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let soon = async { tokio::time::timeout(Duration::from_secs(30), calls).await };
    runtime.block_on(soon).expect("it ends soon");
    assert!(cluster.log("eu-m1").contains("a caller of the admin API lost its connection: "));
}
