//! Whole processes over loopback: what was sent against what members wrote, while proxies die, stop and come back; hostile
//! bytes at every listener; signals.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use support::cluster::{Cluster, Node, SOON, lines, write};
use support::{exit_code, exposition, finished, http, poll, poll_for, run, signal, trunkline};

/// A node that is told to stop is gone by then.
const STOPPED_WITHIN: Duration = Duration::from_secs(3);

/// `send` reads its lines from the test.
fn start_send(cluster: &Cluster, to: &str) -> (Child, ChildStdin) {
    let mut command = trunkline();
    command.args(["send", "--config", cluster.file(), "--to", to]).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// Sends a file of lines; the table it printed.
fn send(cluster: &Cluster, to: &str, lines: &str) -> String {
    let input = write(&cluster.path("input"), lines);
    let (code, stdout, stderr) = run(&["send", "--config", cluster.file(), "--to", to, "--input", &input]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    stdout
}

/// Waits until the members have written exactly this, and no byte more.
fn expect_received(cluster: &Cluster, members: &[&str], expected: &str) {
    for member in members {
        let whole = || (cluster.received(member).len() >= expected.len()).then_some(());
        let _ = poll_for(SOON, whole);
        let received = cluster.received(member);
        assert!(received == expected, "{member}: {}", first_difference(&received, expected));
    }
}

fn first_difference(received: &str, expected: &str) -> String {
    let differing = received.lines().zip(expected.lines()).enumerate().find(|(_, (a, b))| a != b);
    match differing {
        Some((at, (a, b))) => format!("line {}: `{a}` where `{b}` was sent", at + 1),
        None => format!("{} lines where {} were sent", received.lines().count(), expected.lines().count()),
    }
}

/// The columns delivered, failed and by proxy of a destination.
fn counts(table: &str, destination: &str) -> (u64, u64, u64) {
    let row = table.lines().find(|line| line.starts_with(&format!("{destination} "))).expect(table);
    let cells: Vec<&str> = row.split_whitespace().collect();
    let cell = |at: usize| cells[at].parse().unwrap();
    (cell(2), cell(3), cell(4))
}

#[test]
fn every_line_reaches_every_member_once_and_in_order() {
    let cluster = Cluster::new(&[]);
    let members = ["eu-m1", "eu-m2", "eu-m3", "us-m1"];
    let _nodes = cluster.start_all(&["eu-m1", "eu-m2", "eu-m3", "us-m1", "eu-p1", "eu-p2"]);
    let sent = lines(2_000) + "\nlast line without an end";
    let table = send(&cluster, "dc:eu,us-m1", &sent);
    for member in members {
        // Which route is the fastest at the start is not for this test to say; `flow` sees to it that proxies are used.
        let (delivered, failed, by_proxy) = counts(&table, member);
        assert_eq!((delivered, failed), (2_002, 0), "{table}");
        assert!(member != "us-m1" || by_proxy == 0, "its own datacenter is reached directly: {table}");
    }
    expect_received(&cluster, &members, &(sent + "\n"));
}

#[test]
fn a_member_that_is_down_is_told_apart_from_one_that_is_slow() {
    let cluster = Cluster::new(&[]);
    let nodes = cluster.start_all(&["eu-p1", "eu-m1", "eu-m2"]);
    let linked = || {
        let status = http::get(cluster.admin("eu-p1"), "/v1/status")?;
        let status: serde_json::Value = serde_json::from_str(&status.body).ok()?;
        status["links"]
            .as_array()?
            .iter()
            .find(|link| link["peer"] == "eu-m2" && link["up"] == true)
            .map(drop)
    };
    poll("a link from eu-p1 to eu-m2", SOON, linked);
    signal(&nodes[2].child, "STOP");
    let input = write(&cluster.path("input"), lines(3));
    let to = ["send", "--config", cluster.file(), "--to", "dc:eu", "--input", &input, "--deadline", "2 s"];
    let (code, table, stderr) = run(&to);
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(counts(&table, "eu-m1").0, 3, "{table}");
    assert!(table.contains("\neu-m2             3                 3  its deadline passed\n"), "{table}");
    assert!(
        table.contains("\neu-m3             3                 0  no route to it before its deadline\n"),
        "{table}"
    );
}

#[test]
fn frames_arrive_as_they_are_and_json_says_where_from() {
    let cluster = Cluster::new(&[]);
    let proxy = cluster.start("eu-p1");
    let mut command = trunkline();
    command.args([
        "member",
        "--config",
        cluster.file(),
        "--node",
        "eu-m1",
        "--output",
        "-",
        "--format",
        "json",
    ]);
    let mut member = Node { id: "eu-m1".to_owned(), child: command.spawn().unwrap() };
    cluster.await_ready("eu-m1");
    let frames: [&[u8]; 4] = [b"text\nin two lines", b"", &[0xff, 0x00], &[b'x'; 100_000]];
    let mut input = Vec::new();
    for frame in frames {
        input.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        input.extend(frame);
    }
    let input = write(&cluster.path("input"), input);
    let args = ["send", "--config", cluster.file(), "--to", "eu-m1", "--length-delimited", "--input", &input];
    let (code, stdout, stderr) = run(&[&args[..], &["--lane", "control", "--deadline", "20 s"]].concat());
    assert_eq!(code, 0, "{stdout}{stderr}");
    signal(&member.child, "TERM");
    let mut stdout = String::new();
    member.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), frames.len());
    for (seq, (line, frame)) in (1..).zip(lines.iter().zip(frames)) {
        assert_eq!(line["origin"], "us-leader");
        assert_eq!((&line["lane"], &line["kind"], &line["seq"]), (&"control".into(), &0.into(), &seq.into()));
        assert_eq!(line["bytes"], frame.len());
        assert!(line["incarnation"].as_u64().unwrap() > 0);
        match std::str::from_utf8(frame) {
            Ok(text) => assert_eq!(line["payload"], text),
            Err(_) => assert_eq!(line["payload_base64"], "/wA="),
        }
    }
    drop(proxy);
}

#[test]
fn health_metrics_and_status_are_served() {
    let cluster = Cluster::new(&[]);
    let proxy = cluster.start("eu-p1");
    let admin = cluster.admin("eu-p1");
    let alive = || http::get(admin, "/livez").filter(|answer| answer.code == 200);
    poll("alive", SOON, alive);
    let alone = http::get(admin, "/readyz").unwrap();
    assert_eq!(alone.code, 503);
    assert!(alone.body.contains("no member of this datacenter is linked"), "{alone:?}");
    let _member = cluster.start("eu-m1");
    cluster.await_ready("eu-p1");
    cluster.await_ready("eu-m1");
    send(&cluster, "eu-m1", &lines(500));

    for (node, handed_over) in [("eu-p1", 0.0), ("eu-m1", 500.0)] {
        let scraped = http::get(cluster.admin(node), "/metrics").unwrap();
        assert!(scraped.head.contains("content-type: text/plain; version=0.0.4"), "{}", scraped.head);
        let families = exposition::parse(&scraped.body).unwrap();
        let value = |name: &str| families[name].samples.values().sum::<f64>();
        assert!((value("trunkline_member_messages_handed_over_total") - handed_over).abs() < 0.5, "{node}");
        assert!(value("trunkline_link_up") >= 1.0, "{node}");
        assert!(value("trunkline_handshakes_total") >= 1.0, "{node}");
    }
    let status: serde_json::Value =
        serde_json::from_str(&http::get(admin, "/v1/status").unwrap().body).unwrap();
    assert_eq!((&status["node"], &status["version"]), (&"eu-p1".into(), &env!("CARGO_PKG_VERSION").into()));
    let links = |node: &str| {
        let body = http::get(cluster.admin(node), "/v1/status").unwrap().body;
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["links"].as_array().unwrap().clone()
    };
    let to_member = links("eu-p1").into_iter().find(|link| link["peer"] == "eu-m1").unwrap();
    assert!(to_member["rtt_us"].as_u64() > Some(0), "{to_member}");
    for accepted in links("eu-m1") {
        for unknown in ["rtt_us", "rtt_min_us", "clock_offset_us"] {
            assert!(accepted[unknown].is_null(), "nobody measures there: {accepted}");
        }
    }
    assert_eq!(http::get(admin, "/nope").unwrap().code, 404);
    let posted =
        http::exchange(admin, b"POST /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc")
            .unwrap();
    assert_eq!(posted.code, 405);
    assert!(posted.head.contains("allow: GET, HEAD"), "{posted:?}");
    let bodied =
        http::exchange(admin, b"GET /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc")
            .unwrap();
    assert_eq!(bodied.code, 413);
    drop(proxy);
}

#[test]
fn a_sender_serves_health_and_metrics_while_it_runs() {
    let cluster = Cluster::new(&[]);
    let _nodes = cluster.start_all(&["eu-p1", "eu-m1"]);
    let (sender, mut stdin) = start_send(&cluster, "eu-m1");
    stdin.write_all(lines(20).as_bytes()).unwrap();
    let admin = cluster.admin("us-leader");
    let delivered = || {
        let families = exposition::parse(&http::get(admin, "/metrics")?.body).ok()?;
        let values = families["trunkline_messages_delivered_total"].samples.values();
        (values.sum::<f64>() > 19.5).then_some(())
    };
    poll("20 messages delivered, says the sender", SOON, delivered);
    assert_eq!(http::get(admin, "/readyz").unwrap().code, 200);
    drop(stdin);
    let (code, table, stderr) = finished(sender.wait_with_output().unwrap());
    assert_eq!((code, counts(&table, "eu-m1").0), (0, 20), "{table}{stderr}");
    assert!(http::get(admin, "/livez").is_none(), "nobody is there any more");
}

#[test]
fn sigterm_and_sigint_end_a_node_in_good_order() {
    let cluster = Cluster::new(&[]);
    let mut nodes = cluster.start_all(&["eu-m1", "eu-m2", "eu-p1", "eu-p2"]);
    send(&cluster, "eu-m1,eu-m2", &lines(100));
    for (node, name) in nodes.iter_mut().zip(["TERM", "INT", "TERM", "INT"]) {
        signal(&node.child, name);
        assert_eq!(exit_code(&mut node.child, STOPPED_WITHIN), 0, "{}\n{}", node.id, cluster.log(&node.id));
    }
    expect_received(&cluster, &["eu-m1", "eu-m2"], &lines(100));
}

/// Sends without end, until the sender takes no more; `stop` is told to stop in the middle of it. The table of the sender then.
fn stop_in_mid_stream(cluster: &Cluster, stop: impl FnOnce(&Child)) -> String {
    let (sender, mut stdin) = start_send(cluster, "dc:eu");
    let flood = std::thread::spawn(move || {
        for line in 1.. {
            if stdin.write_all(format!("line {line} of very many\n").as_bytes()).is_err() {
                return;
            }
        }
    });
    poll("lines flow", SOON, || (cluster.received("eu-m1").len() > 10_000).then_some(()));
    stop(&sender);
    let (_, table, _) = finished(sender.wait_with_output().unwrap());
    flood.join().unwrap();
    table
}

/// Stops members: what is in their inboxes is delivered, and in their files once they have ended.
fn stop(cluster: &Cluster, members: &mut [Node]) {
    for node in members {
        signal(&node.child, "TERM");
        assert_eq!(exit_code(&mut node.child, SOON), 0, "{}", cluster.log(&node.id));
    }
}

/// What a member wrote until it ended are the first lines, each once. How many.
fn first_lines(cluster: &Cluster, member: &str) -> u64 {
    let received = cluster.received(member);
    for (at, line) in received.lines().enumerate() {
        assert_eq!(line, format!("line {} of very many", at + 1), "{member}");
    }
    u64::try_from(received.lines().count()).unwrap()
}

#[test]
fn a_sender_that_is_told_to_stop_in_mid_stream_loses_nothing() {
    const MEMBERS: [&str; 3] = ["eu-m1", "eu-m2", "eu-m3"];
    // A busy machine takes its time.
    let cluster = Cluster::new(&[
        ("# message_deadline = \"10 s\"", "message_deadline = \"1 min\""),
        ("# drain_timeout = \"2 s\"", "drain_timeout = \"1 min\""),
    ]);
    let mut nodes = cluster.start_all(&["eu-m1", "eu-m2", "eu-m3", "eu-p1", "eu-p2"]);
    let table = stop_in_mid_stream(&cluster, |sender| signal(sender, "TERM"));
    stop(&cluster, &mut nodes[..3]);
    for member in MEMBERS {
        let (delivered, failed, _) = counts(&table, member);
        assert_eq!((first_lines(&cluster, member), failed), (delivered, 0), "{member}\n{table}");
    }
}

#[test]
fn a_member_that_is_told_to_stop_in_mid_stream_writes_all_that_it_acked() {
    let cluster = Cluster::new(&[("# message_deadline = \"10 s\"", "message_deadline = \"1 s\"")]);
    let mut nodes = cluster.start_all(&["eu-m1", "eu-m2", "eu-m3", "eu-p1", "eu-p2"]);
    let table = stop_in_mid_stream(&cluster, |sender| {
        stop(&cluster, &mut nodes[..1]);
        // The others go on.
        let before = cluster.received("eu-m2").len();
        poll("lines flow", SOON, || (cluster.received("eu-m2").len() > before).then_some(()));
        signal(sender, "TERM");
    });
    stop(&cluster, &mut nodes[1..3]);
    let (delivered, failed, _) = counts(&table, "eu-m1");
    assert!(delivered > 0 && failed > 0, "{table}");
    // Of what it wrote last, the sender may not have heard.
    assert!(first_lines(&cluster, "eu-m1") >= delivered, "{table}");
    for member in ["eu-m2", "eu-m3"] {
        // On a busy machine a second is short.
        let (delivered, failed, _) = counts(&table, member);
        let lines = first_lines(&cluster, member);
        assert!((delivered..=delivered + failed).contains(&lines), "{member}: {lines} lines\n{table}");
    }
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let cluster = Cluster::new(&[("# drain_timeout = \"2 s\"", "drain_timeout = \"1 min\"")]);
    // A member that accepts and says nothing: it is dialled once there is a message for it, and draining would last
    // until that message's deadline.
    let mute = TcpListener::bind(cluster.mesh("eu-m1")).unwrap();
    mute.set_nonblocking(true).unwrap();
    let (mut sender, mut stdin) = start_send(&cluster, "eu-m1");
    stdin.write_all(b"a\n").unwrap();
    let log = sender.stderr.take().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::BufRead;
        for line in std::io::BufReader::new(log).lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    let _dialled = poll("the message is pending", SOON, || mute.accept().ok());
    signal(&sender, "TERM");
    poll("draining", SOON, || told.try_recv().ok().filter(|line| line.contains("draining")));
    assert_eq!(sender.try_wait().unwrap(), None, "still draining");
    signal(&sender, "TERM");
    assert_eq!(exit_code(&mut sender, STOPPED_WITHIN), 1);
    drop(stdin);
}

/// Lines flow while `disturb` is done to the proxies; then every receipt is held against what the members wrote.
fn flow(disturb: impl FnOnce(&Cluster, &mut Vec<Node>, &mut dyn FnMut(usize))) {
    const MEMBERS: [&str; 3] = ["eu-m1", "eu-m2", "eu-m3"];
    let cluster = Cluster::new(&[]);
    let _members = cluster.start_all(&MEMBERS);
    let mut proxies = cluster.start_all(&["eu-p1", "eu-p2"]);
    let (sender, mut stdin) = start_send(&cluster, "dc:eu");
    let mut sent = String::new();
    let mut next = 0;
    // Hands over some lines, one write each, and waits until a member has begun to write them.
    let mut more = |count: usize| {
        let before = sent.len();
        for _ in 0..count {
            next += 1;
            let line = format!("line {next} of a message that several members share\n");
            stdin.write_all(line.as_bytes()).unwrap();
            sent.push_str(&line);
        }
        poll("lines flow", SOON, || (cluster.received("eu-m1").len() > before).then_some(()));
    };
    more(200);
    disturb(&cluster, &mut proxies, &mut more);
    more(200);
    drop(stdin);
    let (code, table, stderr) = finished(sender.wait_with_output().unwrap());
    assert_eq!(code, 0, "{table}{stderr}");
    let count = u64::try_from(sent.lines().count()).unwrap();
    for member in MEMBERS {
        let (delivered, failed, by_proxy) = counts(&table, member);
        assert_eq!((delivered, failed), (count, 0), "{table}");
        assert!(by_proxy > 0 || proxies.is_empty(), "a proxy that lives is used: {table}");
    }
    expect_received(&cluster, &MEMBERS, &sent);
}

#[test]
fn a_killed_proxy_costs_nothing() {
    flow(|_, proxies, more| {
        more(50);
        // Dropping kills.
        drop(proxies.remove(0));
        more(200);
    });
}

#[test]
fn all_proxies_killed_cost_nothing() {
    flow(|_, proxies, more| {
        proxies.clear();
        more(200);
    });
}

#[test]
fn a_stopped_proxy_costs_nothing() {
    flow(|_, proxies, more| {
        for stopped in proxies.iter() {
            signal(&stopped.child, "STOP");
            more(200);
            signal(&stopped.child, "CONT");
            more(50);
        }
    });
}

#[test]
fn a_restarted_proxy_costs_nothing() {
    flow(|cluster, proxies, more| {
        for _ in 0..2 {
            // Once in good order, once not, and the other one next time.
            let mut proxy = proxies.remove(0);
            signal(&proxy.child, "TERM");
            more(50);
            assert_eq!(exit_code(&mut proxy.child, STOPPED_WITHIN), 0);
            let killed = cluster.start_all(&[proxy.id.as_str()]);
            more(50);
            drop(killed);
            more(50);
            proxies.extend(cluster.start_all(&[proxy.id.as_str()]));
            more(50);
        }
    });
}

/// Sends a message to `eu-m1`, which ends as soon as it has it: the ack makes it out all the same.
fn send_to_the_dying(cluster: &Cluster) {
    let input = write(&cluster.path("input"), "a\n");
    let args = ["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "2 s"];
    let (code, table, stderr) = run(&args);
    assert_eq!(code, 0, "handed over before it went, so delivered: {table}{stderr}");
}

#[test]
fn a_failing_output_ends_a_member_with_74() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full here");
        return;
    }
    let cluster = Cluster::new(&[]);
    let _proxy = cluster.start("eu-p1");
    let mut command = trunkline();
    command.args(["member", "--config", cluster.file(), "--node", "eu-m1", "--output", "/dev/full"]);
    let mut member = Node { id: "eu-m1".to_owned(), child: command.spawn().unwrap() };
    cluster.await_ready("eu-m1");
    send_to_the_dying(&cluster);
    assert_eq!(exit_code(&mut member.child, SOON), 74);
    let mut stderr = String::new();
    member.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("cannot write to /dev/full: No space left on device"), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_ends_a_member_with_74() {
    let cluster = Cluster::new(&[]);
    let _proxy = cluster.start("eu-p1");
    let mut command = trunkline();
    command.args(["member", "--config", cluster.file(), "--node", "eu-m1"]);
    let mut member = Node { id: "eu-m1".to_owned(), child: command.spawn().unwrap() };
    drop(member.child.stdout.take());
    cluster.await_ready("eu-m1");
    send_to_the_dying(&cluster);
    assert_eq!(exit_code(&mut member.child, SOON), 74);
}

#[test]
fn an_output_that_takes_nothing_does_not_keep_a_member() {
    let cluster = Cluster::new(&[]);
    let _proxy = cluster.start("eu-p1");
    let mut command = trunkline();
    command.args(["member", "--config", cluster.file(), "--node", "eu-m1"]);
    // Its standard output is a pipe that nobody reads.
    let mut member = Node { id: "eu-m1".to_owned(), child: command.spawn().unwrap() };
    cluster.await_ready("eu-m1");
    send(&cluster, "eu-m1", &lines(20_000));
    signal(&member.child, "TERM");
    assert_eq!(exit_code(&mut member.child, STOPPED_WITHIN), 74);
}

#[test]
fn a_node_with_both_roles_takes_both() {
    let both = (
        "id = \"eu-p1\"\ndc = \"eu\"\nroles = [\"proxy\"]",
        "id = \"eu-p1\"\ndc = \"eu\"\nroles = [\"proxy\", \"member\"]",
    );
    for command in ["proxy", "member"] {
        let cluster = Cluster::new(&[both]);
        let _member = cluster.start("eu-m1");
        let mut start = trunkline();
        start
            .args([command, "--config", cluster.file(), "--node", "eu-p1", "--output"])
            .arg(cluster.path("eu-p1"));
        let mut node = Node { id: "eu-p1".to_owned(), child: start.spawn().unwrap() };
        cluster.await_ready("eu-p1");
        cluster.await_ready("eu-m1");
        let table = send(&cluster, "eu-m1,eu-p1", &lines(300));
        for member in ["eu-m1", "eu-p1"] {
            let (delivered, failed, _) = counts(&table, member);
            assert_eq!((delivered, failed), (300, 0), "{table}");
        }
        expect_received(&cluster, &["eu-m1", "eu-p1"], &lines(300));
        signal(&node.child, "TERM");
        assert_eq!(exit_code(&mut node.child, STOPPED_WITHIN), 0);
    }
}

#[test]
fn hostile_bytes_are_refused_and_change_nothing() {
    // Whoever says nothing that ends is cut off after this time.
    let cluster = Cluster::new(&[("# handshake_timeout = \"5 s\"", "handshake_timeout = \"500 ms\"")]);
    let mut nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    std::thread::scope(|scope| {
        for node in ["eu-m1", "eu-p1"] {
            let cluster = &cluster;
            scope.spawn(move || refuses(cluster, node));
        }
    });
    // Silent and slow callers up to the limit, and one more: the rest is turned away, and those are cut off.
    let admin = cluster.admin("eu-p1");
    let slow: Vec<_> = (0..80).filter_map(|_| http::connect(admin)).collect();
    let started = Instant::now();
    let alive = || http::get(admin, "/livez").filter(|answer| answer.code == 200);
    poll("alive again", SOON, alive);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    drop(slow);
    for node in &mut nodes {
        assert_eq!(node.child.try_wait().unwrap(), None, "{}\n{}", node.id, cluster.log(&node.id));
    }
    send(&cluster, "eu-m1", &lines(100));
    expect_received(&cluster, &["eu-m1"], &lines(100));
}

/// Every listener of a node is told what it must refuse.
fn refuses(cluster: &Cluster, node: &str) {
    let noise: Vec<u8> = (0..1_u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let hostile: [&[u8]; 8] = [
        b"",
        b"\0",
        &[0xff; 64],
        &[0; 4096],
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        &noise[..100],
        &noise,
    ];
    for bytes in hostile {
        assert!(closes(cluster.mesh(node), bytes), "{node}: {} bytes at the mesh", bytes.len());
    }
    let admin = cluster.admin(node);
    for bytes in &hostile[1..] {
        // A wrong request is answered or cut off; either way it ends.
        let answer = http::exchange(admin, bytes);
        assert!(answer.is_none_or(|answer| answer.code >= 400), "{} bytes at the admin API", bytes.len());
    }
    let header = [b"GET /livez HTTP/1.1\r\nx: ", &[b'a'; 100_000][..], b"\r\n\r\n"].concat();
    assert!(http::exchange(admin, &header).is_none_or(|answer| answer.code == 431));
    let headers = [b"GET /livez HTTP/1.1\r\n", "x: y\r\n".repeat(1_000).as_bytes(), b"\r\n"].concat();
    assert!(http::exchange(admin, &headers).is_none_or(|answer| answer.code == 431));
    let path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(60_000));
    assert!(http::exchange(admin, path.as_bytes()).is_none_or(|answer| answer.code >= 400));
}

/// Whether the other side ends a connection that says this.
fn closes(address: std::net::SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = http::connect(address).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}
