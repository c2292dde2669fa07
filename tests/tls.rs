//! Whole processes within TLS, with a CA and certificates of `trunkline ca`, and what that command says.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::addresses::own;
use support::cluster::{Cluster, SOON, lines, write};
use support::replica::Node;
use support::{exit_code, exposition, finished, http, poll, poll_for, run, signal, trunkline};

/// The example's cluster with certificates in `tls/` beside its file.
fn cluster() -> Cluster {
    let security = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"\ncheck_interval = \"100 ms\"";
    Cluster::new(&[("insecure = false", security)])
}

/// Runs `trunkline ca`, which must work.
fn ca(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&["ca"], args].concat());
    assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
    stdout
}

fn tls(cluster: &Cluster) -> String {
    cluster.path("tls").to_str().unwrap().to_owned()
}

fn issue_all(cluster: &Cluster, more: &[&str]) -> String {
    ca(&[&["issue", "--dir", &tls(cluster), "--config", cluster.file(), "--all"], more].concat())
}

fn with_certificates() -> Cluster {
    let cluster = cluster();
    ca(&["init", "--cluster", "example", "--dir", &tls(&cluster)]);
    issue_all(&cluster, &[]);
    cluster
}

fn send(cluster: &Cluster, text: &str) -> (i32, String, String) {
    let input = write(&cluster.path("input"), text);
    run(&["send", "--config", cluster.file(), "--to", "dc:eu", "--input", &input, "--deadline", "20 s"])
}

fn metric(cluster: &Cluster, node: &str, name: &str, label: &str) -> Option<f64> {
    let families = exposition::parse(&http::get(cluster.admin(node), "/metrics")?.body).ok()?;
    let rows = &families.get(name)?.samples;
    rows.iter().find(|(row, _)| format!("{row:?}").contains(label)).map(|(_, value)| *value)
}

#[test]
fn a_cluster_runs_within_tls_and_goes_on_while_its_certificates_are_renewed() {
    let cluster = with_certificates();
    let nodes = cluster.start_all(&["eu-m1", "eu-m2", "eu-m3", "eu-p1", "eu-p2"]);
    let (code, table, stderr) = send(&cluster, &lines(500));
    assert_eq!(code, 0, "{table}{stderr}");
    for member in ["eu-m1", "eu-m2", "eu-m3"] {
        poll(member, SOON, || (cluster.received(member) == lines(500)).then_some(()));
    }
    let left = metric(&cluster, "eu-p1", "trunkline_certificate_expiry_seconds", "").unwrap();
    assert!((364.0..=365.0).contains(&(left / 86_400.0)), "{left}");

    let linked = |peer: &str| metric(&cluster, "eu-m1", "trunkline_link_up", peer).filter(|up| *up > 0.5);
    poll("both proxies are linked", SOON, || linked("eu-p1").and(linked("eu-p2")));
    let handshakes = || metric(&cluster, "eu-m1", "trunkline_handshakes_total", "").unwrap();
    let before = handshakes();
    issue_all(&cluster, &["--replace", "--days", "30"]);
    for node in &nodes {
        let renewed = || {
            let left = metric(&cluster, &node.id, "trunkline_certificate_expiry_seconds", "")?;
            (left < 31.0 * 86_400.0).then_some(())
        };
        cluster.poll(&node.id, "renews", renewed);
    }
    // The links of the proxies to the members are those of before. The sender comes with new ones, to proxies and, while no
    // proxy is linked, to members.
    assert!((handshakes() - before).abs() < 0.5, "nothing was dropped");
    let (code, table, stderr) = send(&cluster, &lines(100));
    assert_eq!(code, 0, "{table}{stderr}");
    assert!(metric(&cluster, "eu-m1", "trunkline_certificate_reloads_total", "ok") >= Some(1.0));
}

/// Nobody looks at the files within the time of this test unless a signal says so. Nodes that came with another CA, and trust it
/// alone, are then linked by what the running ones show them: one that they dial, and one that dials them.
#[test]
fn a_signal_is_enough_for_new_certificates_and_drops_no_connection() {
    let security = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"\ncheck_interval = \"24 h\"";
    let cluster = Cluster::new(&[("insecure = false", security)]);
    ca(&["init", "--cluster", "example", "--dir", &tls(&cluster)]);
    issue_all(&cluster, &[]);
    let nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    let up =
        |node: &str, peer: &str| metric(&cluster, node, "trunkline_link_up", peer).filter(|up| *up > 0.5);
    poll("they are linked", SOON, || up("eu-m1", "eu-p1").and(up("eu-p1", "eu-m1")));
    let handshakes =
        || nodes.iter().map(|node| metric(&cluster, &node.id, "trunkline_handshakes_total", "").unwrap());
    let before: Vec<f64> = handshakes().collect();
    assert!(before.iter().all(|count| *count > 1.5), "each end counts both connections: {before:?}");

    let next = cluster.path("next");
    std::fs::create_dir(&next).unwrap();
    let file = write(&next.join("cluster.toml"), std::fs::read(cluster.file()).unwrap());
    let directory = next.join("tls").to_str().unwrap().to_owned();
    ca(&["init", "--cluster", "example", "--dir", &directory]);
    ca(&["issue", "--dir", &directory, "--config", &file, "--all", "--days", "30"]);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let (old, new) = (cluster.path("tls"), next.join("tls"));
    let both = [read(&old.join("ca.crt")), read(&new.join("ca.crt"))].concat();
    for node in &nodes {
        for ending in ["crt", "key"] {
            let name = format!("{}.{ending}", node.id);
            std::fs::copy(new.join(&name), old.join(&name)).unwrap();
        }
    }
    write(&old.join("ca.crt"), both);
    for node in &nodes {
        signal(&node.child, "HUP");
        let renewed = || {
            let left = metric(&cluster, &node.id, "trunkline_certificate_expiry_seconds", "")?;
            (left < 31.0 * 86_400.0).then_some(())
        };
        cluster.poll(&node.id, "shows the new certificate's end", renewed);
    }
    assert_eq!(handshakes().collect::<Vec<f64>>(), before, "nothing was dropped");
    assert!(up("eu-m1", "eu-p1").and(up("eu-p1", "eu-m1")).is_some());

    let _newcomers = ["eu-m2", "eu-p2"].map(|node| cluster.start_from(&file, node));
    poll("the running proxy dials in with it", SOON, || up("eu-p1", "eu-m2"));
    poll("the running member shows it to who dials", SOON, || up("eu-p2", "eu-m1"));
}

#[test]
fn a_stranger_with_a_ca_of_its_own_gets_nothing_through() {
    let cluster = with_certificates();
    let _nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    // The same file, another CA: what somebody would have who knows every name.
    let own = cluster.path("own");
    std::fs::create_dir(&own).unwrap();
    let file = write(&own.join("cluster.toml"), std::fs::read(cluster.file()).unwrap());
    let directory = own.join("tls");
    ca(&["init", "--cluster", "example", "--dir", directory.to_str().unwrap()]);
    ca(&["issue", "--dir", directory.to_str().unwrap(), "--config", &file, "--node", "us-leader"]);
    let input = write(&own.join("input"), lines(10));
    let (code, table, stderr) =
        run(&["send", "--config", &file, "--to", "eu-m1", "--input", &input, "--deadline", "1 s"]);
    assert_eq!(code, 1, "{table}{stderr}");
    assert!(stderr.contains("another's certificate") || stderr.contains("unknown_issuer"), "{stderr}");
    assert_eq!(cluster.received("eu-m1"), "");

    // Nor does one without certificates.
    let text = std::fs::read_to_string(cluster.file()).unwrap();
    let plain: Vec<&str> = text.lines().filter(|line| !line.contains("tls/")).collect();
    let file = write(&own.join("plain.toml"), plain.join("\n").replace("check_interval = \"100 ms\"\n", ""));
    let (code, table, stderr) =
        run(&["send", "--config", &file, "--to", "eu-m1", "--input", &input, "--deadline", "1 s"]);
    assert_eq!(code, 1, "{table}{stderr}");
    assert_eq!(cluster.received("eu-m1"), "");
    let refused = || metric(&cluster, "eu-p1", "trunkline_tls_handshakes_failed_total", "not_tls");
    assert!(refused() >= Some(1.0), "{:?}", refused());
    // Each end says what is the matter, and the one that anybody can reach says it once.
    assert!(stderr.contains("the peer wants TLS, and this node has no certificates"), "{stderr}");
    let log = cluster.log("eu-p1");
    assert_eq!(log.lines().filter(|line| line.contains("not_tls")).count(), 1, "{log}");
}

#[test]
fn a_node_without_a_good_certificate_does_not_start_and_check_config_says_why() {
    let cluster = with_certificates();
    let directory = cluster.path("tls");
    let check = |args: &[&str]| run(&[&["check-config", cluster.file()], args].concat());
    let (code, stdout, _) = check(&[]);
    assert_eq!(code, 0);
    assert!(stdout.contains("links within TLS") && stdout.contains("CN=Trunkline CA of example"), "{stdout}");
    let (code, stdout, _) = check(&["--node", "eu-m1"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("eu-m1.crt") && !stdout.contains("eu-m2.crt"), "{stdout}");
    let (code, _, stderr) = check(&["--node", "eu-m"]);
    assert_eq!(code, 78);
    assert!(stderr.contains("did you mean `eu-m1`?"), "{stderr}");

    let fails = |node: &str, says: &str| {
        for args in [
            &["check-config", cluster.file(), "--node", node][..],
            &["member", "--config", cluster.file(), "--node", node],
        ] {
            let (code, _, stderr) = run(args);
            assert_eq!(code, 78, "{args:?}: {stderr}");
            assert!(stderr.contains(says), "{args:?}: {stderr}");
        }
    };
    let copy = |from: &str, to: &str| std::fs::copy(directory.join(from), directory.join(to)).unwrap();
    copy("eu-m2.crt", "eu-m1.crt");
    fails("eu-m1", "is not that of the certificate");
    copy("eu-m2.key", "eu-m1.key");
    fails("eu-m1", "and this node is spiffe://example/dc/eu/node/eu-m1");
    std::fs::remove_file(directory.join("eu-m1.key")).unwrap();
    fails("eu-m1", "cannot read");
    std::fs::write(directory.join("eu-m1.key"), "nothing").unwrap();
    fails("eu-m1", "no private key in PEM");
    let (code, _, stderr) = check(&[]);
    assert_eq!((code, stderr.matches("certificate of").count()), (78, 1), "{stderr}");

    // Where the files of other nodes are not, as on the machine of one node, that is no failure.
    for file in ["eu-m1.crt", "eu-m1.key"] {
        std::fs::remove_file(directory.join(file)).unwrap();
    }
    let (code, stdout, _) = check(&[]);
    assert_eq!(code, 0);
    assert!(stdout.contains("not here, and not checked: eu-m1"), "{stdout}");
}

#[test]
fn keys_are_their_owners_alone_and_never_shown_and_nothing_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join("ca").join(name);
    let dir = at("").to_str().unwrap().to_owned();
    let mut said = ca(&["init", "--cluster", "example", "--dir", &dir]);
    let issue = ["issue", "--dir", &dir, "--cluster", "example", "--dc", "eu", "--node", "eu-p1,eu-m1"];
    said += &ca(&issue);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&at("")), 0o700);
    for key in ["ca.key", "eu-p1.key", "eu-m1.key"] {
        assert_eq!(mode(&at(key)), 0o600, "{key}");
        let text = std::fs::read_to_string(at(key)).unwrap();
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"), "{key}");
        assert!(text.lines().nth(1).is_some_and(|line| !said.contains(line)), "{key} was shown");
    }

    let read = |name: &str| std::fs::read(at(name)).unwrap();
    let before = ["ca.crt", "ca.key", "eu-p1.crt", "eu-p1.key"].map(read);
    let (code, _, stderr) = run(&["ca", "init", "--cluster", "example", "--dir", &dir]);
    assert_eq!(code, 1);
    assert!(stderr.contains("ca.crt is there already: nothing is overwritten"), "{stderr}");
    // One of two is there: the other one is not made either.
    let (code, _, stderr) =
        run(&["ca", "issue", "--dir", &dir, "--cluster", "example", "--dc", "eu", "--node", "eu-m9,eu-p1"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("eu-p1.crt is there already"), "{stderr}");
    assert!(!at("eu-m9.crt").exists() && !at("eu-m9.key").exists());
    assert_eq!(["ca.crt", "ca.key", "eu-p1.crt", "eu-p1.key"].map(read), before);
    // A node may be called as the CA's files are.
    let (code, _, stderr) = run(&[
        "ca",
        "issue",
        "--dir",
        &dir,
        "--cluster",
        "example",
        "--dc",
        "eu",
        "--node",
        "ca",
        "--replace",
    ]);
    assert_eq!(code, 1);
    assert!(stderr.contains("ca.crt is the CA's own: give another directory with --out"), "{stderr}");
    assert_eq!(["ca.crt", "ca.key", "eu-p1.crt", "eu-p1.key"].map(read), before);
    ca(&[&issue[..], &["--replace"]].concat());
    assert_ne!(read("eu-p1.crt"), before[2]);
    assert_eq!(mode(&at("eu-p1.key")), 0o600);
    let files: Vec<_> = std::fs::read_dir(at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 8, "nothing half made is left, and copies are: {files:?}");
}

/// What nodes say while they start, link, renew their certificates, are given files that do not fit, and end.
#[test]
fn no_private_key_is_in_a_log_or_an_answer() {
    let security = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"\ncheck_interval = \"24 h\"";
    let level = ("# level = \"info\"", "level = \"debug\"");
    let cluster = Cluster::new(&[("insecure = false", security), level]);
    ca(&["init", "--cluster", "example", "--dir", &tls(&cluster)]);
    issue_all(&cluster, &[]);
    let mut keys = Vec::new();
    let mut note_keys = || {
        for entry in std::fs::read_dir(cluster.path("tls")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "key") {
                let text = std::fs::read_to_string(path).unwrap();
                keys.extend(text.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
            }
        }
    };
    note_keys();
    let mut nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    let input = write(&cluster.path("input"), lines(10));
    let to_one =
        ["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "20 s"];
    let (code, table, stderr) = run(&to_one);
    assert_eq!(code, 0, "{table}{stderr}");
    let mut said = table + &stderr;

    issue_all(&cluster, &["--replace"]);
    note_keys();
    let reloads = |node: &str| metric(&cluster, node, "trunkline_certificate_reloads_total", "ok");
    for node in &nodes {
        signal(&node.child, "HUP");
        cluster.poll(&node.id, "renews", || reloads(&node.id).filter(|count| *count > 0.5));
    }
    let file = |name: &str| cluster.path("tls").join(name);
    std::fs::copy(file("eu-p1.key"), file("eu-m1.key")).unwrap();
    write(&file("eu-p1.crt"), std::fs::read(file("eu-p1.key")).unwrap());
    for node in &nodes {
        signal(&node.child, "HUP");
        let refused = || cluster.log(&node.id).contains("certificates refused").then_some(());
        cluster.poll(&node.id, "refuses", refused);
    }
    let (code, table, stderr) = run(&["check-config", cluster.file()]);
    assert_eq!(code, 78);
    said += &(table + &stderr);
    for node in &nodes {
        for path in ["/metrics", "/livez", "/readyz", "/v1/status", "/v1/stats", "/v1/routes"] {
            said += &http::get(cluster.admin(&node.id), path).unwrap().body;
        }
    }
    for node in &mut nodes {
        signal(&node.child, "TERM");
        assert_eq!(exit_code(&mut node.child, SOON), 0, "{}", cluster.log(&node.id));
        said += &cluster.log(&node.id);
    }
    assert!(said.contains("DEBUG"), "{said}");
    // The CA's, and two of each node: each takes more than one line.
    assert!(keys.len() > 2 * 33, "{}", keys.len());
    for line in keys {
        assert!(line.len() >= 16 && !said.contains(&line), "a line of a private key was shown");
    }
}

#[test]
fn what_the_ca_cannot_do_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (one, two, none) = (at("one"), at("two"), at("none"));
    ca(&["init", "--cluster", "example", "--dir", &one, "--days", "100"]);
    ca(&["init", "--cluster", "other", "--dir", &two]);
    let fails = |code: i32, args: &[&str], says: &str| {
        let (found, stdout, stderr) = run(&[&["ca"], args].concat());
        assert_eq!((found, stdout.as_str()), (code, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    };
    let to = ["--dc", "eu", "--node", "m"];
    let issue = |dir, cluster| [&["issue", "--dir", dir, "--cluster", cluster], &to[..]].concat();
    fails(1, &issue(&one, "other"), "is the CA of spiffe://example, not of cluster `other`");
    fails(1, &[&issue(&one, "example")[..], &["--days", "365"]].concat(), "ask for fewer, or make a new CA");
    fails(74, &issue(&none, "example"), "cannot read");
    fails(2, &["issue", "--dir", &one, "--node", "m"], "--cluster");
    fails(2, &["issue", "--dir", &one, "--cluster", "example", "--dc", "eu"], "--node");
    fails(2, &["issue", "--dir", &one, "--cluster", "example", "--dc", "eu", "--node", "../m"], "a-z, 0-9");
    fails(2, &["issue", "--dir", &one, "--cluster", "example", "--dc", "eu", "--all"], "cannot be used with");
    fails(2, &["init", "--dir", &at("three")], "--cluster");
    fails(2, &["init", "--cluster", "x", "--days", "0"], "1..=36500");
    let example = "deploy/config/example.toml";
    fails(2, &["issue", "--dir", &one, "--config", example, "--node", "eu-m9"], "did you mean `eu-m1`?");
    fails(78, &["issue", "--dir", &one, "--config", "tests/config/empty.toml", "--all"], "remedy:");

    ca(&[&issue(&one, "example")[..], &["--days", "10"]].concat());
    std::fs::copy(Path::new(&two).join("ca.key"), Path::new(&one).join("ca.key")).unwrap();
    fails(1, &[&issue(&one, "example")[..], &["--days", "10", "--replace"]].concat(), "is not the key of");
    std::fs::write(Path::new(&one).join("ca.key"), "junk").unwrap();
    fails(1, &[&issue(&one, "example")[..], &["--days", "10", "--replace"]].concat(), "no private key");
    std::fs::copy(Path::new(&one).join("m.crt"), Path::new(&one).join("ca.crt")).unwrap();
    fails(1, &[&issue(&one, "example")[..], &["--replace"]].concat(), "is not the certificate of a CA");
    fails(1, &["show", &at("one/m.key")], "no certificate in PEM");
    fails(74, &["show", &at("one/none")], "cannot read");
    fails(2, &["show"], "FILE");
    fails(1, &["show", "/dev/zero"], "goes on after 1 MiB");
}

#[test]
fn show_says_who_by_whom_and_for_how_long() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("ca").to_str().unwrap().to_owned();
    ca(&["init", "--cluster", "example", "--dir", &dir]);
    ca(&["issue", "--dir", &dir, "--cluster", "example", "--dc", "eu", "--node", "eu-p1", "--days", "30"]);
    let shown = ca(&["show", &format!("{dir}/eu-p1.crt"), &format!("{dir}/ca.crt")]);
    for part in [
        "eu-p1.crt\n",
        "identity     node eu-p1 of datacenter eu, cluster example",
        "subject      CN=eu-p1",
        "issuer       CN=Trunkline CA of example",
        " UTC (30 days left)",
        "names        spiffe://example/dc/eu/node/eu-p1",
        "fingerprint  SHA-256 ",
        "serial       ",
        "identity     a CA",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
}

#[test]
fn the_log_and_the_snapshot_are_for_those_with_a_certificate_of_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [mesh, api] = own(2)[..] else { unreachable!("two were asked for") };
    let text = |more: &str| {
        format!(
            "[cluster]\nid = \"one\"\n[security]\ncertificate = \"tls/{{node}}.crt\"\nkey = \"tls/{{node}}.key\"\n\
             ca = \"tls/ca.crt\"\n{more}[[node]]\nid = \"n\"\ndc = \"eu\"\nroles = [\"origin\", \"member\"]\n\
             address = \"{mesh}\"\napi = \"{api}\"\ndata = \"data\"\n"
        )
    };
    let plain = write(&directory.path().join("plain.toml"), text(""));
    let file = write(&directory.path().join("cluster.toml"), text("admin_tls = true\n"));
    let issue = |directory: &str, name: &str| {
        ca(&["issue", "--dir", directory, "--cluster", "one", "--dc", "eu", "--node", name]);
        [format!("{directory}/{name}.crt"), format!("{directory}/{name}.key"), format!("{directory}/ca.crt")]
    };
    let (own, other) = (at("tls"), at("other"));
    for authority in [&own, &other] {
        ca(&["init", "--cluster", "one", "--dir", authority]);
    }
    issue(&own, "n");
    {
        // What is told later is put there in plaintext, which is for this machine alone.
        let mut node = Node::start(&["--config", &plain, "--node", "n"], api);
        node.ready();
        let put =
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 3\r\n\r\none";
        assert_eq!(http::exchange(api, put.as_bytes()).unwrap().code, 200);
        signal(&node.child, "TERM");
        assert_eq!(exit_code(&mut node.child, SOON), 0);
    }

    let _node = Node::start(&["--config", &file, "--node", "n"], api);
    let with = |wanted: &[&str], files: &[String; 3]| {
        let [certificate, key, ca] = files;
        let shown = ["--certificate", certificate, "--key", key, "--ca", ca, "--patience", "1 s"];
        run(&[&["tail", "--api", &api.to_string()], wanted, &shown].concat())
    };
    let (log, snapshot) = (["--from", "0", "--prefix", "a", "--count", "1"], ["--snapshot", "--until", "0"]);
    let told = |wanted: &[&str]| run(&[&["tail", "--config", &file], wanted].concat());
    let (code, shown, stderr) = told(&log);
    assert_eq!((code, shown.contains("  put        a = one\n")), (0, true), "{shown}{stderr}");
    // A watcher is no node: it needs no more than a certificate.
    let watcher = issue(&own, "watcher");
    for wanted in [&log[..], &snapshot] {
        let (code, shown, stderr) = with(wanted, &watcher);
        assert_eq!((code, shown.contains("  a = one\n")), (0, true), "{shown}{stderr}");
    }

    // One of another CA that trusts this one is refused by the node, and one without any is told nothing.
    let mut stranger = issue(&other, "watcher");
    let both: Vec<u8> =
        [&own, &other].iter().flat_map(|dir| std::fs::read(format!("{dir}/ca.crt")).unwrap()).collect();
    stranger[2] = write(&directory.path().join("both.crt"), both);
    for wanted in [&log[..], &snapshot] {
        let (code, shown, stderr) = with(wanted, &stranger);
        assert_eq!((code, shown.as_str()), (69, ""), "{stderr}");
        let plaintext = ["--api", &api.to_string(), "--patience", "1 s"];
        let (code, shown, stderr) = run(&[&["tail"], wanted, &plaintext].concat());
        assert_eq!((code, shown.as_str()), (69, ""), "{stderr}");
    }
    for path in ["/v1/log?from=0", "/v1/snapshot"] {
        let told = http::get(api, path).unwrap();
        let within_tls =
            "this address is within TLS: ask with https://, and show a certificate of the cluster\n";
        assert_eq!((told.code, told.body.as_str()), (400, within_tls), "{path}");
    }
    assert_eq!(with(&log, &watcher).0, 0, "it goes on");
}

#[test]
fn a_proxy_within_tls_asks_for_the_members_with_its_own_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [mesh, proxy, api] = own(3)[..] else { unreachable!("three were asked for") };
    let text = format!(
        "[cluster]\nid = \"one\"\n[security]\ncertificate = \"tls/{{node}}.crt\"\nkey = \"tls/{{node}}.key\"\n\
         ca = \"tls/ca.crt\"\nadmin_tls = true\n[[node]]\nid = \"n\"\ndc = \"eu\"\nroles = [\"origin\", \"member\"]\n\
         address = \"{mesh}\"\napi = \"{api}\"\ndata = \"data\"\n\
         [[node]]\nid = \"p\"\ndc = \"eu\"\nroles = [\"proxy\"]\naddress = \"{proxy}\"\n"
    );
    let file = write(&directory.path().join("cluster.toml"), text);
    ca(&["init", "--cluster", "one", "--dir", &at("tls")]);
    ca(&["issue", "--dir", &at("tls"), "--config", &file, "--all"]);
    let _node = Node::start(&["--config", &file, "--node", "n"], api);
    let told = directory.path().join("log");
    let log = std::fs::File::create(&told).unwrap();
    let mut proxy =
        trunkline().args(["proxy", "--config", &file, "--node", "p"]).stderr(log).spawn().unwrap();
    let said = || std::fs::read_to_string(&told).unwrap_or_default();
    let heard = poll_for(SOON, || said().contains("members as of entry ").then_some(()));
    signal(&proxy, "TERM");
    assert_eq!((exit_code(&mut proxy, SOON), heard), (0, Some(())), "{}", said());
}

/// Reading a certificate may take for ever, as of a pipe or a file system that is gone: a node ends when it is told to.
#[test]
fn a_node_whose_certificate_cannot_be_read_to_its_end_still_obeys() {
    let cluster = with_certificates();
    let mut nodes = cluster.start_all(&["eu-m1"]);
    let certificate = cluster.path("tls").join("eu-m1.crt");
    std::fs::remove_file(&certificate).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&certificate).status().unwrap().success());
    signal(&nodes[0].child, "HUP");
    poll("the configuration is read again", SOON, || cluster.log("eu-m1").contains("reload: ").then_some(()));
    // Not one that hangs either.
    signal(&nodes[0].child, "HUP");
    for path in ["/readyz", "/v1/status"] {
        assert!(http::get(cluster.admin("eu-m1"), path).is_some_and(|answer| answer.code == 200), "{path}");
    }
    signal(&nodes[0].child, "TERM");
    assert_eq!(exit_code(&mut nodes[0].child, SOON), 0, "{}", cluster.log("eu-m1"));
}

#[test]
fn a_full_disk_leaves_no_half_of_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let path = path.to_str().unwrap();
    // A file may have no byte, and that is an error rather than the end of the process.
    let script = r#"trap '' XFSZ; ulimit -f 0; exec "$0" "$@""#;
    let full = |args: &[&str]| {
        let shell = std::process::Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_trunkline")])
            .args(args)
            .output()
            .unwrap();
        finished(shell)
    };
    let listed = || {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    };
    let init = ["ca", "init", "--cluster", "example", "--dir", path];
    let (code, _, stderr) = full(&init);
    assert_eq!(code, 74, "{stderr}");
    assert!(stderr.contains("cannot write"), "{stderr}");
    assert_eq!(listed(), Vec::<String>::new());
    assert_eq!(run(&init).0, 0);
    let issue = ["ca", "issue", "--dir", path, "--cluster", "example", "--dc", "eu", "--node", "eu-m1"];
    assert_eq!(full(&issue).0, 74);
    assert_eq!(listed(), ["ca.crl", "ca.crt", "ca.key", "issued"]);
    let issued = || std::fs::read_dir(directory.path().join("ca/issued")).unwrap().count();
    assert_eq!(issued(), 0);
    assert_eq!(run(&issue).0, 0);
    let before = std::fs::read(directory.path().join("ca/eu-m1.crt")).unwrap();
    assert_eq!(full(&[&issue[..], &["--replace"]].concat()).0, 74);
    assert_eq!(listed(), ["ca.crl", "ca.crt", "ca.key", "eu-m1.crt", "eu-m1.key", "issued"]);
    assert_eq!(issued(), 1);
    assert_eq!(std::fs::read(directory.path().join("ca/eu-m1.crt")).unwrap(), before);
}

/// A certificate of long ago.
fn expired() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn what_was_issued_before_it_was_renewed_can_be_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let dir = directory.path().to_str().unwrap();
    ca(&["init", "--cluster", "example", "--dir", dir]);
    let serial_of = |file: &str| {
        let shown = ca(&["show", &at(file)]);
        shown.lines().find_map(|line| line.strip_prefix("serial")).unwrap().trim().to_owned()
    };
    let issue = |node: &str, more: &[&str]| {
        let args = ["issue", "--dir", dir, "--cluster", "example", "--dc", "eu", "--node", node];
        ca(&[&args[..], more].concat());
        serial_of(&format!("{node}.crt"))
    };
    // Of what has expired no copy is kept.
    let issued = || std::fs::read_dir(directory.path().join("issued")).unwrap().count();
    std::fs::create_dir(directory.path().join("issued")).unwrap();
    write(&directory.path().join("issued/01.crt"), expired());
    let (first, other) = (issue("eu-m1", &[]), issue("eu-m2", &[]));
    assert_eq!(issued(), 2);
    let revoke = |args: &[&str]| ca(&[&["revoke", "--dir", dir], args].concat());
    let in_use = at("eu-m1.crt");
    let alone = revoke(&["--node", "eu-m1", "--keep", &in_use]);
    assert_eq!(alone, "took back nothing: eu-m1 has no other certificate that is valid\n");
    let second = issue("eu-m1", &["--replace"]);
    assert!(revoke(&["--node", "eu-m1", "--keep", &in_use]).contains("took back 1 certificate"));
    let on_list = || ca(&["show", &at("ca.crl")]);
    assert!(on_list().contains(&first) && !on_list().contains(&second) && !on_list().contains(&other));
    let shown = run(&["ca", "show", &at("ca.crl"), &at("eu-m1.crt"), &at("eu-m2.crt")]);
    assert_eq!((shown.0, shown.1.contains("\nrevoked")), (0, false), "{shown:?}");
    // A copy that is damaged keeps no other from being taken back, and what is named twice is taken back once.
    write(&directory.path().join("issued/02.crt"), "no certificate");
    let args = ["ca", "revoke", "--dir", dir, "--node", "eu-m1", "--serial", &second, &in_use];
    let (code, taken, stderr) = run(&args);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("02.crt") && stderr.contains("if that is of eu-m1"), "{stderr}");
    assert!(taken.contains("took back 1 certificate, 2 in all"), "{taken}");
    let only_once = taken.matches("taken back already").count();
    assert!(only_once == 1 && taken.contains(&format!("{first}.crt").replace(':', "")), "of before: {taken}");
    let (code, shown, stderr) = run(&["ca", "show", &at("ca.crl"), &at("eu-m1.crt"), &at("eu-m2.crt")]);
    assert!(code == 1 && shown.contains("\nrevoked") && stderr.contains("revoked: "), "{shown}{stderr}");
    assert!(revoke(&["--serial", &other]).contains("took back 1 certificate"));
    assert!(revoke(&["--serial", &other]).contains(&format!("{other} was taken back already")));
    let never = "01:02";
    let (code, taken, stderr) = run(&["ca", "revoke", "--dir", dir, "--serial", never]);
    assert!(code == 0 && taken.contains("took back 1 certificate"), "{taken}{stderr}");
    assert!(stderr.contains("01:02 is taken back, and no certificate in "), "{stderr}");
    for (args, says) in [
        (&["--node", "eu-m9"][..], "has no certificate of `eu-m9`"),
        (
            &["--node", "eu-m1", "--keep", &at("eu-m2.crt")],
            "is no certificate that this CA issued to `eu-m1`",
        ),
        (&["--node", "eu-m1", "--keep", &at("ca.crt")], "is no certificate that this CA issued to `eu-m1`"),
        (&["--serial", "xyz"], "`xyz` is no serial number"),
        (&["--serial", &serial_of("ca.crt")], "is this CA's own certificate"),
    ] {
        let (code, _, stderr) = run(&[&["ca", "revoke", "--dir", dir], args].concat());
        assert!(code == 1 && stderr.contains(says), "{stderr}");
    }
}

#[test]
fn a_certificate_that_is_taken_back_is_refused_by_a_running_cluster() {
    let security = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"\n\
                    crl = \"tls/ca.crl\"\ncheck_interval = \"100 ms\"";
    let cluster = Cluster::new(&[("insecure = false", security)]);
    let directory = tls(&cluster);
    ca(&["init", "--cluster", "example", "--dir", &directory]);
    issue_all(&cluster, &[]);
    let file = |name: &str| cluster.path("tls").join(name).to_str().unwrap().to_owned();
    let revoke = |node: &str| ca(&["revoke", "--dir", &directory, &file(&format!("{node}.crt"))]);
    // The list of `ca init`, which takes nothing back.
    let _nodes = cluster.start_all(&["eu-m1", "eu-p1", "eu-p2"]);
    let linked = |peer: &str| metric(&cluster, "eu-m1", "trunkline_link_up", peer).filter(|up| *up > 0.5);
    poll("both proxies are linked", SOON, || linked("eu-p1").and(linked("eu-p2")));
    assert!(ca(&["revoke", "--dir", &directory]).contains("which takes back 0 certificates"));
    assert!(revoke("eu-p1").contains("took back 1 certificate, 1 in all"));
    let twice = revoke("eu-p1");
    assert!(twice.contains("eu-p1.crt was taken back already\ntook back nothing new, 1 in all"), "{twice}");
    let renewed = ca(&["revoke", "--dir", &directory]);
    assert!(
        renewed.contains("renewed ") && renewed.contains("which takes back 1 certificate\n"),
        "{renewed}"
    );
    let (serial, shown) = (ca(&["show", &file("eu-p1.crt")]), ca(&["show", &file("ca.crl")]));
    let serial = serial.lines().find_map(|line| line.strip_prefix("serial")).unwrap().trim();
    for part in ["a revocation list, which takes back 1 certificate", "Trunkline CA of example", serial] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (code, _, stderr) = run(&["check-config", cluster.file(), "--node", "eu-p1"]);
    assert_eq!(code, 78, "{stderr}");
    assert!(
        stderr.contains("eu-p1.crt was revoked by the list in ") && !stderr.contains("does not follow"),
        "{stderr}"
    );
    poll("one is no longer", SOON, || linked("eu-p1").is_none().then_some(()));
    let refused = || metric(&cluster, "eu-m1", "trunkline_tls_handshakes_failed_total", "revoked");
    poll("and is refused", SOON, || refused().filter(|count| *count >= 1.0));
    let log = cluster.log("eu-m1");
    for part in ["revocation list reloaded", "revoked is refused", "spiffe://example/dc/eu/node/eu-p1"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("certificate reloaded"), "{log}");
    // The one that is refused says by whom, and what of its own files it did not take.
    let names = |line: &str| line.contains("revocation list of the peer") && line.contains("peer=eu-m1");
    let told = || cluster.log("eu-p1").lines().any(names).then_some(());
    cluster.poll("eu-p1", "it says who refuses it", told);
    // It may learn that from its peers before its own look at the files.
    let says_why = || {
        let (_, status, _) = run(&["status", "--config", cluster.file(), "--node", "eu-p1"]);
        let told = status.contains("certificate files not taken")
            && status.contains("revoked by the list")
            && status.contains("not ready: its certificate was revoked");
        told.then_some(())
    };
    cluster.poll("eu-p1", "its status says what it did not take", says_why);
    assert!(linked("eu-p2").is_some());
    let input = write(&cluster.path("input"), lines(10));
    let (code, table, stderr) =
        run(&["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "20 s"]);
    assert_eq!(code, 0, "{table}{stderr}");

    // Only what this CA issued, and nothing is changed where that is not so.
    let before = std::fs::read(file("ca.crl")).unwrap();
    let other = cluster.path("other").to_str().unwrap().to_owned();
    ca(&["init", "--cluster", "another", "--dir", &other]);
    // One of the same name, as after the loss of a key.
    let same = cluster.path("same").to_str().unwrap().to_owned();
    ca(&["init", "--cluster", "example", "--dir", &same]);
    ca(&["issue", "--dir", &same, "--cluster", "example", "--dc", "eu", "--node", "eu-m1"]);
    for (wrong, says) in [
        (format!("{other}/ca.crt"), "not by this CA"),
        (format!("{same}/eu-m1.crt"), "another CA of that name, not by this CA"),
        (format!("{same}/ca.crt"), "another CA of that name, not by this CA"),
        (file("ca.crt"), "is this CA's own certificate"),
        (file("eu-m1.key"), "no certificate"),
    ] {
        let (code, _, stderr) = run(&["ca", "revoke", "--dir", &directory, &file("eu-m2.crt"), &wrong]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
    assert_eq!(std::fs::read(file("ca.crl")).unwrap(), before);
}
