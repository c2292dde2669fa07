//! A running node as its operator meets it: commands that ask it, signals, and what a service manager is told.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::cluster::{Cluster, Node, SOON, lines, write};
use support::{exit_code, http, poll, run, signal, trunkline};

fn start_send(cluster: &Cluster, to: &str) -> (Node, ChildStdin) {
    let mut command = trunkline();
    command
        .args(["send", "--config", cluster.file(), "--to", to])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (Node { id: "us-leader".to_owned(), child }, stdin)
}

fn rewrite(cluster: &Cluster, change: impl Fn(String) -> String) {
    let text = std::fs::read_to_string(cluster.file()).unwrap();
    std::fs::write(cluster.file(), change(text)).unwrap();
}

/// The file without one node.
fn without(text: &str, node: &str) -> String {
    let id = format!("id = \"{node}\"\n");
    let parts = text.split("[[node]]\n").filter(|part| !part.starts_with(&id));
    parts.collect::<Vec<_>>().join("[[node]]\n")
}

fn await_log(cluster: &Cluster, node: &str, part: &str) {
    poll(&format!("`{part}` in the log of {node}"), SOON, || cluster.log(node).contains(part).then_some(()));
}

fn json(args: &[&str]) -> Value {
    let (code, stdout, stderr) = run(args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

fn shown(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    stdout
}

#[test]
fn status_routes_and_top_show_a_running_sender() {
    let cluster = Cluster::new(&[
        ("# congestion_control = \"\"", "congestion_control = \"reno\""),
        ("# socket_buffer_bytes = 0", "socket_buffer_bytes = \"128 KiB\""),
    ]);
    let _nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    let (_sender, mut stdin) = start_send(&cluster, "eu-m1");
    let file = ["--config", cluster.file(), "--node", "us-leader"];
    let ask = |command: &str, more: &[&str]| [&[command][..], &file, more].concat().join("\n");
    let ask = |command: &str, more: &[&str]| -> Vec<String> {
        ask(command, more).split('\n').map(str::to_owned).collect()
    };
    let of = |args: Vec<String>| json(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let text = |args: Vec<String>| shown(&args.iter().map(String::as_str).collect::<Vec<_>>());

    // Until something went by the proxy.
    let mut by_proxy = || {
        stdin.write_all(lines(20).as_bytes()).unwrap();
        let body = http::get(cluster.admin("us-leader"), "/v1/routes")?.body;
        let routes: Value = serde_json::from_str(&body).ok()?;
        let eu = routes["datacenters"].as_array()?.iter().find(|of| of["name"] == "eu")?.clone();
        let decisions = eu["decisions"].as_array()?;
        decisions.iter().any(|of| of["way"] == "proxy" && of["proxy"] == "eu-p1").then_some(())
    };
    poll("a way by eu-p1", SOON, &mut by_proxy);

    let status = of(ask("status", &["--json"]));
    assert_eq!((&status["node"], &status["ready"]), (&"us-leader".into(), &true.into()));
    let link = status["links"].as_array().unwrap().iter().find(|of| of["peer"] == "eu-p1").unwrap();
    for (lane, connection) in ["control", "bulk"].iter().zip(link["connections"].as_array().unwrap()) {
        assert_eq!((&connection["lane"], &connection["socket"]["no_delay"]), (&(*lane).into(), &true.into()));
        if cfg!(target_os = "linux") {
            // All that the kernel was asked for: by this program always, by default, and by the file.
            let asked = serde_json::json!({
                "no_delay": true,
                "unsent_bytes_max": 131_072,
                "user_timeout_ms": 6_000,
                "keepalive": true,
                "keepalive_idle_s": 10,
                "keepalive_interval_s": 3,
                "keepalive_probes": 3,
                "congestion": "reno",
                // Linux doubles them.
                "send_buffer_bytes": 2 * 131_072,
                "receive_buffer_bytes": 2 * 131_072,
            });
            assert_eq!(connection["socket"], asked);
        }
    }
    let table = text(ask("status", &[]));
    assert!(table.starts_with("us-leader: origin of datacenter us, cluster example, version "), "{table}");
    let row = table.lines().find(|line| line.starts_with("eu-p1 ")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("this node") && (row.contains(" us ") || row.contains(" ms ")), "units: {row}");
    let head = table.lines().find(|line| line.contains("opened by")).unwrap();
    assert_eq!(head.find("opened by"), row.find("this node"), "aligned:\n{table}");

    let routes = of(ask("routes", &["--json"]));
    assert_eq!(routes["origin"], true);
    let of_one = of(ask("routes", &["--json", "--dc", "eu"]));
    let names = |routes: &Value| -> Vec<String> {
        let all = routes["datacenters"].as_array().unwrap().iter();
        all.map(|of| of["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&of_one), ["eu"]);
    assert!(names(&routes).len() > 1);
    let table = text(ask("routes", &["--dc", "eu"]));
    for part in ["eu-p1  in use", "eu-p2  down", "\neu: by eu-p1", "by eu-p1   in use, eu-p2 not linked"] {
        let spaces = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(spaces(&table).contains(&spaces(part)), "{part}: {table}");
    }
    assert_eq!(run(&["routes", "--dc", "xx", "--config", cluster.file(), "--node", "us-leader"]).0, 2);

    let top = of(ask("top", &["--once", "--json", "--interval", "50 ms"]));
    assert_eq!(top["datacenters"][1]["datacenter"], "eu");
    assert!(top["interval_s"].as_f64() > Some(0.04), "{top}");
    let picture = text(ask("top", &["--once", "--interval", "50 ms"]));
    for part in ["us-leader: origin", "messages/s", "ack p99", "eu-p1", "links"] {
        assert!(picture.contains(part), "{part}: {picture}");
    }
    assert!(!picture.contains('\u{1b}'), "no terminal, no control codes");

    // Round trips by the way that messages take, of the link to a proxy, and to whom nobody reaches.
    let pinged = of(ask("ping", &["eu-m1", "--count", "3", "--interval", "1 ms", "--json"]));
    assert_eq!(
        (&pinged["answered"], &pinged["way"], &pinged["proxy"]),
        (&3.into(), &"proxy".into(), &"eu-p1".into())
    );
    let rtts = ["rtt_min_us", "rtt_avg_us", "rtt_max_us"].map(|key| pinged[key].as_u64().unwrap());
    assert!(rtts[0] > 0 && rtts.is_sorted(), "{pinged}");
    let told = text(ask("ping", &["eu-p1", "--count", "1"]));
    assert!(told.contains(", link, clock offset ") && told.contains("1 sent, 1 answered, min "), "{told}");
    let (code, _, stderr) = run(&["ping", "eu-p9", "--config", cluster.file(), "--node", "us-leader"]);
    assert_eq!((code, stderr.contains("node `eu-p9` is not in the topology")), (2, true), "{stderr}");

    let (code, stdout, stderr) =
        run(&["ping", "eu-p2", "--count", "1", "--config", cluster.file(), "--node", "us-leader"]);
    assert_eq!(code, 1, "away, and no fault of the command line: {stderr}");
    assert!(
        stdout.starts_with("`eu-p2` is down: no link to it for ") && stdout.contains("refused"),
        "{stdout}"
    );

    // Whom it is to be linked with and is not.
    let status = of(ask("status", &["--json"]));
    let down = status["down"].as_array().unwrap();
    let proxy = down.iter().find(|of| of["peer"] == "eu-p2").unwrap_or_else(|| panic!("{status}"));
    assert_eq!((&proxy["dialled"], &proxy["roles"]), (&true.into(), &serde_json::json!(["proxy"])));
    assert!(proxy["why"].as_str().unwrap().contains(&cluster.mesh("eu-p2").to_string()), "{proxy}");
    assert!(down.iter().all(|of| of["peer"] != "eu-p1"), "{status}");
    let table = text(ask("status", &[]));
    assert_eq!(table.lines().nth(1), Some("tls: off, plaintext (loopback)"));
    assert!(
        table.lines().any(|line| line.starts_with("eu-p2 ") && line.contains("down, dialling")),
        "{table}"
    );

    // Who reads no further is no failure of this command.
    for command in [&["status"][..], &["routes"], &["top", "--interval", "10 ms"], &["ping", "eu-m1"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let asked = trunkline().args(command).args(file).stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert_eq!((asked.status.code(), stderr.as_str()), (Some(0), ""), "{command:?}");
    }
    let nowhere: Value =
        serde_json::from_str(&http::get(cluster.admin("us-leader"), "/v1").unwrap().body).unwrap();
    assert!(nowhere["paths"].as_array().unwrap().contains(&"/v1/ping/NODE".into()), "{nowhere}");

    // The same process by its address, and others in their roles.
    let admin = cluster.admin("us-leader").to_string();
    assert_eq!(json(&["status", "--at", &admin, "--json"])["node"], "us-leader");
    let proxy = cluster.admin("eu-p1").to_string();
    assert_eq!(
        shown(&["routes", "--at", &proxy]),
        "eu-p1 is no origin: it sends no batches and has no routes\n"
    );
    assert!(shown(&["top", "--at", &proxy, "--once", "--interval", "50 ms"]).contains("runs passed on"));
}

#[test]
fn links_that_come_and_go_and_the_loss_of_the_last_proxy_are_logged() {
    let cluster = Cluster::new(&[]);
    let mut nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    let log = cluster.path("leader.log");
    let mut sender = trunkline()
        .args(["send", "--config", cluster.file(), "--to", "eu-m1"])
        .stdin(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .map(|child| Node { id: "us-leader".to_owned(), child })
        .unwrap();
    let sender_says = |part: &str| {
        let told = || std::fs::read_to_string(&log).unwrap_or_default().contains(part).then_some(());
        poll(&format!("`{part}` in the log of the sender"), SOON, told);
    };
    sender_says("link up peer=eu-p1 datacenter=eu dialled_by=\"this node\"");
    await_log(&cluster, "eu-m1", "link up peer=eu-p1 datacenter=eu dialled_by=\"the peer\"");
    signal(&nodes[1].child, "KILL");
    nodes[1].child.wait().unwrap();
    sender_says("link down: a connection of it ended peer=eu-p1 datacenter=eu");
    sender_says("no usable proxy: what is sent there goes directly, one copy per member");
    await_log(&cluster, "eu-m1", "link down: a connection of it ended peer=eu-p1");
    nodes.extend(cluster.start_all(&["eu-p1"]));
    sender_says("a proxy is usable again datacenter=eu");
    // One that drains says so.
    let Some(proxy) = nodes.last_mut() else { unreachable!("it was started just now") };
    signal(&proxy.child, "TERM");
    assert_eq!(exit_code(&mut proxy.child, SOON), 0);
    sender_says("link down: the peer took its leave peer=eu-p1 datacenter=eu");
    drop(sender.child.stdin.take());
    assert_eq!(exit_code(&mut sender.child, SOON), 0);
}

/// Its standard output is a pipe that nobody reads, and its inbox has room for a third of what is sent.
#[test]
fn a_member_whose_output_takes_nothing_says_so_and_its_sender_names_it() {
    let cluster = Cluster::new(&[("# inbox_bytes_max = \"16 MiB\"", "inbox_bytes_max = \"4 MiB\"")]);
    let _nodes = cluster.start_all(&["eu-p1", "eu-m2"]);
    let mut command = trunkline();
    command.args(["member", "--config", cluster.file(), "--node", "eu-m1"]);
    command.stderr(std::fs::File::create(cluster.path("eu-m1.log")).unwrap());
    let _member = Node { id: "eu-m1".to_owned(), child: command.spawn().unwrap() };
    cluster.await_ready("eu-m1");
    let input = write(&cluster.path("input"), lines(40_000));
    let mut command = trunkline();
    command.args(["send", "--config", cluster.file(), "--to", "eu-m1,eu-m2", "--input", &input]);
    command.args(["--deadline", "60 s"]).stdout(Stdio::null());
    command.stderr(std::fs::File::create(cluster.path("us-leader.log")).unwrap());
    let _sender = Node { id: "us-leader".to_owned(), child: command.spawn().unwrap() };

    let status = |node: &str| run(&["status", "--config", cluster.file(), "--node", node]).1;
    let table = cluster.poll("us-leader", "names who takes nothing", || {
        Some(status("us-leader")).filter(|table| table.contains("destination full, taking nothing"))
    });
    assert!(table.contains("1 destination full, taking nothing\ndestination "), "{table}");
    let row = table.lines().find(|line| line.starts_with("eu-m1 ")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.ends_with(" messages"), "{row}");
    await_log(&cluster, "us-leader", "eu-m1: full, and its application has taken nothing for ");
    await_log(&cluster, "eu-m1", "the application has taken nothing of what arrived");
    let own = status("eu-m1");
    assert!(own.contains(" of 4 MiB, of which the application has taken nothing for "), "{own}");
    let metric = |node: &str, name: &str| -> f64 {
        let text = http::get(cluster.admin(node), "/metrics").unwrap().body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}"));
        line.trim().parse().unwrap()
    };
    assert!(metric("us-leader", "trunkline_destinations_untaken{datacenter=\"eu\"}") > 0.0);
    assert!(metric("eu-m1", "trunkline_inbox_untaken_seconds ") >= 10.0);
    assert!(metric("eu-m2", "trunkline_inbox_untaken_seconds ") < 1.0);
}

#[test]
fn a_process_that_is_not_there_is_told_with_69() {
    let cluster = Cluster::new(&[]);
    let nobody = cluster.admin("eu-p1").to_string();
    for command in ["status", "routes", "top"] {
        let (code, _, stderr) = run(&[command, "--at", "127.1.0.1"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("`--at` needs HOST:PORT, such as 127.1.0.1:9400"), "{stderr}");
        let (code, _, stderr) = run(&[command, "--at", &nobody]);
        assert_eq!(code, 69, "{stderr}");
        assert!(stderr.contains(&format!("the admin API at {nobody} cannot be reached")), "{stderr}");
        let (code, _, stderr) = run(&[command]);
        assert_eq!(code, 2, "it must be said whom to ask");
        assert!(stderr.contains("<--at <HOST:PORT>|--config <FILE>>"), "{stderr}");
        let (code, _, stderr) = run(&[command, "--config", cluster.file()]);
        assert_eq!((code, stderr.contains("say which one with --node")), (78, true), "{stderr}");
        assert_eq!(run(&[command, "--config", cluster.file(), "--node", "xx"]).0, 78);
    }
}

#[test]
fn sighup_takes_a_changed_file_on_and_refuses_a_wrong_one_whole() {
    let cluster = Cluster::new(&[]);
    let whole = std::fs::read_to_string(cluster.file()).unwrap();
    rewrite(&cluster, |text| without(&text, "eu-m2"));
    let mut nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    let hangup = |nodes: &[Node]| signal(&nodes[1].child, "HUP");

    // A member is new, a limit another one, and more is logged.
    let changed = whole
        .replace("# dials_per_second = 200", "dials_per_second = 100")
        .replace("# level = \"info\"", "level = \"debug\"");
    std::fs::write(cluster.file(), &changed).unwrap();
    hangup(&nodes);
    await_log(&cluster, "eu-p1", "reloaded");
    for line in [
        format!("reload: node eu-m2 added: member of datacenter eu, {}", cluster.mesh("eu-m2")),
        "reload: limits.dials_per_second 200 -> 100".to_owned(),
        "reload: log.level default -> debug".to_owned(),
    ] {
        assert!(cluster.log("eu-p1").contains(&line), "{line}: {}", cluster.log("eu-p1"));
    }
    await_log(&cluster, "eu-p1", "DEBUG");
    nodes.extend(cluster.start_all(&["eu-m2"]));
    let linked = || {
        let status: Value =
            serde_json::from_str(&http::get(cluster.admin("eu-p1"), "/v1/status")?.body).ok()?;
        status["links"].as_array()?.iter().any(|of| of["peer"] == "eu-m2" && of["up"] == true).then_some(())
    };
    poll("a link to the new member", SOON, linked);

    // Twice the same is no change; what is wrong is refused whole.
    let as_it_was = write(&cluster.path("as_it_was.toml"), &changed);
    hangup(&nodes);
    await_log(&cluster, "eu-p1", "reload: the file says what it said");
    std::fs::write(cluster.file(), changed.replace("dials_per_second = 100", "dials_per_second = 0\nx = 1"))
        .unwrap();
    hangup(&nodes);
    await_log(&cluster, "eu-p1", "reload refused, the old configuration stays");
    await_log(&cluster, "eu-p1", "limits.x");
    let status = || shown(&["status", "--config", &as_it_was, "--node", "eu-p1"]);
    let refused = || http::get(cluster.admin("eu-p1"), "/metrics").unwrap().body;
    let table = status();
    assert!(table.contains("\nconfiguration file refused, that of before stays in use: "), "{table}");
    assert!(table.contains("limits.x") && refused().contains("\ntrunkline_config_refused 1\n"), "{table}");
    std::fs::write(cluster.file(), changed.replace("\"eu-p1\"", "\"eu-p9\"")).unwrap();
    hangup(&nodes);
    await_log(
        &cluster,
        "eu-p1",
        "node eu-p1, which this process is, is not in the file: put it back, or stop the process",
    );
    let admin = cluster.admin("eu-p1");
    let elsewhere = changed
        .replace(&admin.to_string(), "127.0.0.1:9")
        .replace("dials_per_second = 100", "dials_per_second = 7");
    std::fs::write(cluster.file(), without(&elsewhere, "eu-m2")).unwrap();
    hangup(&nodes);
    await_log(
        &cluster,
        "eu-p1",
        &format!("only a restart changes admin of node eu-p1 ({admin} -> 127.0.0.1:9)"),
    );
    assert!(!cluster.log("eu-p1").contains("100 -> 7"), "nothing of it was taken on");
    poll("still linked", SOON, linked);

    // And the member goes when a sound file says so.
    std::fs::write(cluster.file(), without(&changed, "eu-m2")).unwrap();
    hangup(&nodes);
    await_log(&cluster, "eu-p1", "reload: node eu-m2 removed, was member of datacenter eu");
    poll("the link ends", SOON, || linked().is_none().then_some(()));
    assert!(
        !status().contains("configuration file refused")
            && refused().contains("\ntrunkline_config_refused 0\n")
    );
    signal(&nodes[1].child, "TERM");
    assert_eq!(exit_code(&mut nodes[1].child, Duration::from_secs(3)), 0);
}

#[test]
fn a_level_of_the_command_line_stays_whatever_the_file_says() {
    let cluster = Cluster::new(&[]);
    let mut command = trunkline();
    let log = std::fs::File::create(cluster.path("eu-p1.log")).unwrap();
    command.args([
        "--log-level",
        "info",
        "--log",
        "json",
        "proxy",
        "--config",
        cluster.file(),
        "--node",
        "eu-p1",
    ]);
    let node = Node { id: "eu-p1".to_owned(), child: command.stderr(log).spawn().unwrap() };
    await_log(&cluster, "eu-p1", "listens on");
    rewrite(&cluster, |text| text.replace("# level = \"info\"", "level = \"error\""));
    signal(&node.child, "HUP");
    await_log(&cluster, "eu-p1", "reload: log.level default -> error");
    await_log(&cluster, "eu-p1", "\"reloaded\"");
    for line in cluster.log("eu-p1").lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_service_manager_is_told_what_happens() {
    let cluster = Cluster::new(&[]);
    let path = cluster.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut watchdogs = 0;
    let mut told = |wanted: &str| loop {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).unwrap();
        let text = String::from_utf8(bytes[..count].to_vec()).unwrap();
        watchdogs += usize::from(text == "WATCHDOG=1\n");
        if text.starts_with(wanted) {
            return (text, watchdogs);
        }
        assert_eq!(text, "WATCHDOG=1\n", "waiting for {wanted}");
    };
    let mut command = trunkline();
    command.args(["member", "--config", cluster.file(), "--node", "eu-m1", "--output"]);
    command.arg(cluster.path("eu-m1")).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut node = Node { id: "eu-m1".to_owned(), child: command.spawn().unwrap() };
    let (ready, _) = told("READY=1\nSTATUS=member eu-m1 of datacenter eu");
    assert!(ready.contains(&cluster.admin("eu-m1").to_string()), "{ready}");
    assert_eq!(http::get(cluster.admin("eu-m1"), "/livez").unwrap().code, 200, "told when it is so");
    let before = told("WATCHDOG=1").1;
    assert!(told("WATCHDOG=1").1 > before);
    signal(&node.child, "HUP");
    let (reloading, _) = told("RELOADING=1\n");
    let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(at.parse::<u64>().unwrap() > 0);
    let (again, _) = told("READY=1\n");
    assert_eq!(again, ready);
    rewrite(&cluster, |text| text + "[limits]\nx = 1\ny = 2\n");
    signal(&node.child, "HUP");
    told("RELOADING=1\n");
    let (refused, _) = told("READY=1\nSTATUS=reload refused, the old configuration stays: ");
    let line = ready.strip_prefix("READY=1\nSTATUS=").unwrap();
    assert!(refused.ends_with(&format!("; {line}")) && refused.lines().count() == 2, "{refused}");
    signal(&node.child, "TERM");
    told("STOPPING=1\n");
    assert_eq!(exit_code(&mut node.child, Duration::from_secs(3)), 0);
}

#[test]
fn units_start_what_the_command_line_knows() {
    for role in ["proxy", "member", "node"] {
        let unit = std::fs::read_to_string(format!("deploy/systemd/trunkline-{role}@.service")).unwrap();
        let value = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("{role}: no {key}")).to_owned()
        };
        let command = value("ExecStart").replace("%i", "eu-m1");
        let args: Vec<&str> = command.split(' ').skip(1).chain(["--help"]).collect();
        let (code, help, stderr) = run(&args);
        assert_eq!(code, 0, "{stderr}");
        assert!(help.contains(&format!("trunkline {role} ")), "{help}");
        assert_eq!(value("Type"), "notify-reload");
        assert_eq!(value("RestartPreventExitStatus"), "2 65 78");
        for hardened in ["DynamicUser", "NoNewPrivileges", "PrivateDevices", "MemoryDenyWriteExecute"] {
            assert_eq!(value(hardened), "yes");
        }
        // Each instance is a user of its own, whom all in its directory is given to.
        if role != "proxy" {
            assert_eq!(value("StateDirectory"), "trunkline/%i");
        }
    }
}

/// A sender that cannot end draining: a member took its connection and says nothing.
fn stuck(cluster: &Cluster) -> (Child, ChildStdin, TcpListener) {
    let mute = TcpListener::bind(cluster.mesh("eu-m1")).unwrap();
    mute.set_nonblocking(true).unwrap();
    let mut command = trunkline();
    command
        .args(["send", "--config", cluster.file(), "--to", "eu-m1"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut sender = command.spawn().unwrap();
    let mut stdin = sender.stdin.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    poll("the message is pending", SOON, || mute.accept().ok());
    (sender, stdin, mute)
}

#[test]
fn readiness_ends_first_and_health_last_when_a_node_drains() {
    let cluster = Cluster::new(&[("# drain_timeout = \"2 s\"", "drain_timeout = \"1 min\"")]);
    let (mut sender, _stdin, _mute) = stuck(&cluster);
    let admin = cluster.admin("us-leader");
    let ready = || http::get(admin, "/readyz").map(|answer| answer.code);
    poll("ready", SOON, || ready().filter(|code| *code == 200));
    signal(&sender, "TERM");
    poll("not ready any more", SOON, || ready().filter(|code| *code == 503));
    assert_eq!(http::get(admin, "/livez").unwrap().code, 200);
    let status: Value = serde_json::from_str(&http::get(admin, "/v1/status").unwrap().body).unwrap();
    assert_eq!((&status["ready"], &status["draining"]), (&false.into(), &true.into()));
    let (code, shown, _) = run(&["status", "--at", &admin.to_string()]);
    assert_eq!(code, 0);
    assert!(
        shown.contains(", draining, up ") && shown.contains("not ready: the node is draining"),
        "{shown}"
    );
    assert_eq!(sender.try_wait().unwrap(), None, "still draining");
    signal(&sender, "TERM");
    assert_eq!(exit_code(&mut sender, Duration::from_secs(3)), 1);
}

#[test]
fn a_drain_that_cannot_end_is_cut_short_by_its_timeout() {
    let short = ("# drain_timeout = \"2 s\"", "drain_timeout = \"300 ms\"");
    // The other one by default.
    for (more, timeout) in [(&[short][..], Duration::from_millis(300)), (&[], Duration::from_secs(2))] {
        let cluster = Cluster::new(more);
        let (mut sender, _stdin, _mute) = stuck(&cluster);
        let started = std::time::Instant::now();
        signal(&sender, "TERM");
        assert_eq!(exit_code(&mut sender, Duration::from_secs(5)), 1, "something was not delivered");
        let took = started.elapsed();
        // What is left of it is for farewells.
        assert!(took >= timeout / 4 * 3 && took < timeout + Duration::from_millis(700), "{took:?}");
    }
}
