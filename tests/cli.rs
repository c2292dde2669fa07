//! Exit codes, and what the command line says when it is used wrongly. No test here needs a second process.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use support::cluster::{Cluster, write};
use support::{finished, run, trunkline};

const EXAMPLE: &str = "deploy/config/example.toml";

/// Exit code and standard error of a command that should fail.
fn fails(args: &[&str]) -> (i32, String) {
    let (code, _, stderr) = run(args);
    (code, stderr)
}

#[test]
fn help_and_version_are_no_failures() {
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for exit in ["   0  ", "   1  ", "   2  ", "  65  ", "  69  ", "  74  ", "  78  "] {
        assert!(stdout.contains(exit), "{stdout}");
    }
    let (code, stdout, _) = run(&["--version"]);
    assert_eq!((code, stdout.as_str()), (0, concat!("trunkline ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["relay"],
        &["proxy"],
        &["member", "--config", EXAMPLE, "--frmat", "json"],
        &["send", "--config", EXAMPLE, "--to", "all", "--deadline", "5"],
        &["send", "--config", EXAMPLE, "--to", "all", "--deadline", "2 h"],
        &["send", "--config", EXAMPLE, "--to", ""],
        &["send", "--config", EXAMPLE, "--to", "eu-m1,"],
        &["--log-level", "verbose", "check-config", EXAMPLE],
        &["--log-level", "a=b=c", "check-config", EXAMPLE],
        &["proxy", "--config", EXAMPLE, "--node", "eu-p1", "--output", "x"],
        &["proxy", "--config", EXAMPLE, "--node", "eu-p1", "--format", "plain"],
    ] {
        let (code, stderr) = fails(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
    let (_, stderr) = fails(&["--log-level", "inof", "check-config", EXAMPLE]);
    assert!(stderr.contains("did you mean info?"), "{stderr}");
}

#[test]
fn a_file_behind_a_flag_is_told_how_to_stand() {
    for args in
        [&["check-config", "--config", EXAMPLE][..], &["check-config", &format!("--config={EXAMPLE}")]]
    {
        let (code, stderr) = fails(args);
        assert_eq!(code, 2, "{stderr}");
        assert!(
            stderr.contains("tip: write the file without a flag: trunkline check-config FILE"),
            "{stderr}"
        );
    }
    let (_, help, _) = run(&["check-config", "--help"]);
    assert!(!help.contains("--config"), "{help}");
}

#[test]
fn unknown_destinations_are_2_and_all_are_told() {
    let (code, stderr) = fails(&["send", "--config", EXAMPLE, "--to", "eu-m9,dc:eur,eu-p1"]);
    assert_eq!(code, 2, "{stderr}");
    for part in ["no node `eu-m9`, did you mean eu-m1?", "did you mean dc:eu?", "`eu-p1` is no member"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn wrong_configurations_are_78() {
    let (code, stderr) = fails(&["check-config", "tests/config/everything.toml"]);
    assert_eq!(code, 78);
    let expected = std::fs::read_to_string("tests/config/everything.txt").unwrap();
    assert_eq!(stderr, format!("trunkline: {expected}"));
    for args in [
        &["check-config", "tests/config/no-such.toml"][..],
        &["check-config", "tests"],
        &["member", "--config", "tests/config/empty.toml"],
    ] {
        assert_eq!(fails(args).0, 78, "{args:?}");
    }
}

#[test]
fn a_node_that_does_not_suit_is_78() {
    for (args, part) in [
        (
            &["proxy", "--config", EXAMPLE][..],
            "6 nodes have the role proxy: say which one this process is with --node",
        ),
        (
            &["proxy", "--config", EXAMPLE, "--node", "eu-pp1"],
            "no node `eu-pp1` is listed: did you mean `eu-p1`?",
        ),
        (&["proxy", "--config", EXAMPLE, "--node", "eu-m1"], "node `eu-m1` has the role member, not proxy"),
        (&["member", "--config", EXAMPLE, "--node", "eu-p1"], "node `eu-p1` has the role proxy, not member"),
        (&["send", "--config", EXAMPLE, "--node", "eu-p1", "--to", "all"], "has the role proxy, not origin"),
    ] {
        let (code, stderr) = fails(args);
        assert_eq!(code, 78, "{args:?}: {stderr}");
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let by_environment =
        trunkline().args(["proxy", "--config", EXAMPLE]).env("TRUNKLINE_NODE", "eu-m2").output();
    let (code, _, stderr) = finished(by_environment.unwrap());
    assert_eq!(code, 78);
    assert!(stderr.contains("node `eu-m2` has the role member"), "{stderr}");
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let with = |args: &[&str], name: &str, value: &str| {
        finished(trunkline().args(args).env(name, value).output().unwrap())
    };
    let proxy = ["proxy", "--config", EXAMPLE];
    let (code, _, stderr) = with(&proxy, "TRUNKLINE_NODE", "");
    assert_eq!(code, 78);
    assert!(stderr.contains("6 nodes have the role proxy"), "{stderr}");
    let (code, _, stderr) = with(&["check-config", EXAMPLE], "TRUNKLINE_LOG", "");
    assert_eq!((code, stderr.as_str()), (0, ""));
    // An empty flag is a mistake all the same.
    assert_eq!(fails(&["--log-level", "", "check-config", EXAMPLE]).0, 2);
    assert_eq!(fails(&["proxy", "--config", EXAMPLE, "--node", ""]).0, 78);
}

#[test]
fn usage_shows_no_flag_that_the_environment_gave() {
    let send = trunkline().arg("send").env("TRUNKLINE_LOG", "warn").env("TRUNKLINE_NODE", "eu-m1").output();
    let (code, _, stderr) = finished(send.unwrap());
    assert_eq!(code, 2);
    assert!(stderr.contains("Usage: trunkline send --config <FILE> --to <DESTINATIONS>\n"), "{stderr}");
}

#[test]
fn a_good_configuration_is_shown() {
    let (code, stdout, stderr) = run(&["check-config", EXAMPLE]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("ok: deploy/config/example.toml\n"), "{stdout}");
    assert!(stdout.contains("eu          eu-m1      member"), "{stdout}");
    assert!(stdout.lines().all(|line| line.trim_end() == line), "trailing blanks");
}

#[test]
fn taken_addresses_are_69() {
    let cluster = Cluster::new(&[]);
    for address in [cluster.mesh("eu-p1"), cluster.admin("eu-p1")] {
        let _taken = TcpListener::bind(address).unwrap();
        let (code, stderr) = fails(&["proxy", "--config", cluster.file(), "--node", "eu-p1"]);
        assert_eq!(code, 69, "{stderr}");
        assert!(stderr.contains(&address.to_string()), "{stderr}");
    }
    let _taken = TcpListener::bind(cluster.admin("us-leader")).unwrap();
    let (code, stderr) = fails(&["send", "--config", cluster.file(), "--to", "eu-m1"]);
    assert_eq!(code, 69, "{stderr}");
    assert!(stderr.contains("cannot serve the admin API on"), "{stderr}");
}

#[test]
fn an_address_of_another_machine_is_69_with_what_to_do() {
    let cluster = Cluster::new(&[("insecure = false", "insecure = true")]);
    let text = std::fs::read_to_string(cluster.file()).unwrap();
    // Of a network that is for documents alone.
    for (ours, remedy) in [
        (cluster.mesh("eu-p1"), "it is not an address of this machine: correct `address`"),
        (cluster.admin("eu-p1"), "it is not an address of this machine: correct `admin`"),
    ] {
        let file = write(&cluster.path("elsewhere.toml"), text.replace(&ours.to_string(), "192.0.2.1:7400"));
        let (code, stderr) = fails(&["proxy", "--config", &file, "--node", "eu-p1"]);
        assert_eq!(code, 69, "{stderr}");
        assert!(stderr.contains("192.0.2.1:7400") && stderr.contains(remedy), "{stderr}");
    }
}

#[test]
fn input_and_output_that_fail_are_74() {
    let cluster = Cluster::new(&[]);
    let (code, stderr) =
        fails(&["send", "--config", cluster.file(), "--to", "eu-m1", "--input", "tests/no-such"]);
    assert_eq!(code, 74, "{stderr}");
    let (code, stderr) = fails(&["send", "--config", cluster.file(), "--to", "eu-m1", "--input", "tests"]);
    assert_eq!(code, 74, "{stderr}");
    let to = ["--node", "eu-m1", "--output", "/no/such/directory"];
    let (code, stderr) = fails(&[&["member", "--config", cluster.file()][..], &to].concat());
    assert_eq!(code, 74, "{stderr}");
    for args in [&["check-config", EXAMPLE][..], &["--help"], &["send", "--help"], &["--version"]] {
        let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { continue };
        let (code, _, stderr) = finished(trunkline().args(args).stdout(full).output().unwrap());
        assert_eq!(code, 74, "{args:?}: {stderr}");
        assert!(stderr.contains("cannot write to standard output"), "{args:?}: {stderr}");
    }
}

#[test]
fn messages_that_nobody_takes_are_1() {
    let cluster = Cluster::new(&[]);
    let input = write(&cluster.path("input"), "a\nb\n");
    let args = [
        "send",
        "--config",
        cluster.file(),
        "--to",
        "eu-m1,eu-m2",
        "--input",
        &input,
        "--deadline",
        "200 ms",
    ];
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stderr.contains("4 messages were not delivered"), "{stderr}");
    assert!(stdout.contains("0 delivered, 4 failed, in "), "{stdout}");
    assert!(
        stdout.contains("eu-m2             2                 0  no route to it before its deadline"),
        "{stdout}"
    );
}

#[test]
fn a_sender_says_again_and_again_whom_nothing_reaches() {
    let cluster = Cluster::new(&[]);
    let input = write(&cluster.path("input"), "a\n");
    let to = ["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "35 s"];
    let (code, stderr) = fails(&to);
    assert_eq!(code, 1, "{stderr}");
    // Every 10 s.
    let told: Vec<&str> = stderr.lines().filter(|line| line.contains("eu-m1: no answer for ")).collect();
    assert!(told.len() >= 2, "{stderr}");
    for line in told {
        assert!(line.contains(" s to 1 message; last tried ") && line.contains(": dial_failed"), "{stderr}");
    }
}

#[test]
fn one_of_anything_is_no_plural() {
    let cluster = Cluster::new(&[]);
    let input = write(&cluster.path("input"), "a\n");
    let to = ["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "200 ms"];
    let (_, stderr) = fails(&to);
    assert!(stderr.contains("1 message was not delivered"), "{stderr}");
    let member = "[cluster]\nid = \"c\"\n[[node]]\nid = \"m\"\ndc = \"eu\"\nroles = [\"member\"]\n\
                  address = \"127.0.0.1:7400\"\n";
    let (_, stdout, _) = run(&["check-config", &write(&cluster.path("one.toml"), member)]);
    assert!(stdout.contains("cluster c: 1 node in 1 datacenter, plaintext"), "{stdout}");
    assert!(stdout.contains(", second stage lz4\n"), "{stdout}");
}

#[test]
fn an_empty_input_is_told_and_is_no_failure() {
    let cluster = Cluster::new(&[]);
    let (code, stdout, stderr) = run(&["send", "--config", cluster.file(), "--to", "eu-m1"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("nothing was sent: the input is empty"), "{stderr}");
    assert!(stdout.contains("0 delivered, 0 failed, in "), "{stdout}");
    let input = write(&cluster.path("input"), "a\n");
    let to = ["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "200 ms"];
    assert!(!fails(&to).1.contains("the input is empty"));
}

#[test]
fn a_line_over_the_limit_is_named() {
    let cluster = Cluster::new(&[]);
    let input = write(&cluster.path("input"), format!("short\n{}\n", "x".repeat((4 << 20) + 1)));
    let args =
        ["send", "--config", cluster.file(), "--to", "eu-m1", "--input", &input, "--deadline", "200 ms"];
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("line 2 is over the limit of 4 MiB (message_bytes_max)"), "{stderr}");
    assert!(stdout.contains("0 delivered, 1 failed"), "the line before was tried: {stdout}");
}

#[test]
fn frames_that_are_cut_off_or_too_long_are_1() {
    let cluster = Cluster::new(&[]);
    for (name, bytes) in [("cut", &[0, 0, 0, 9, b'a'][..]), ("long", &[0, 0x50, 0, 0, b'a'])] {
        let input = write(&cluster.path(name), bytes);
        let to =
            ["send", "--config", cluster.file(), "--to", "eu-m1", "--length-delimited", "--input", &input];
        let (code, stderr) = fails(&to);
        assert_eq!(code, 1, "{name}: {stderr}");
        assert!(stderr.contains("frame 1"), "{name}: {stderr}");
    }
}

#[test]
fn json_logs_are_json_to_the_last_word() {
    let (code, stderr) = fails(&["--log", "json", "proxy", "--config", EXAMPLE]);
    assert_eq!(code, 78);
    for line in stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["exit_code"], 78);
    }
    assert!(!stderr.is_empty());
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = trunkline().args(["check-config", EXAMPLE]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panic"), "{stderr}");
    std::io::stderr().flush().unwrap();
}
