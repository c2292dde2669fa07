//! The demo as a user runs it, short: two proxies fail, or a leader and a proxy, nothing is lost, and the report is one JSON object.

use std::process::Command;

#[test]
fn a_short_demo_loses_nothing_and_reports_it_as_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args([
            "demo",
            "--json",
            "--duration",
            "6",
            "--delay-scale",
            "0.2",
            "--egress-mbit",
            "8",
            "--seed",
            "7",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).expect("one JSON object and nothing else");
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {text}"));
    for name in ["lost", "duplicated", "out_of_order", "corrupted", "misreported", "failed"] {
        assert!(number(name).abs() < f64::EPSILON, "{name} in {text}");
    }
    assert!(
        number("messages") > 1_000.0 && (number("delivered") - number("messages")).abs() < f64::EPSILON,
        "{text}"
    );
    assert!(number("saved_ratio") > 0.6, "five members share every entry: {text}");
    assert!(
        number("wan_bytes") < number("direct_bytes") && number("diff_bytes") <= number("wan_bytes"),
        "{text}"
    );
    for name in
        ["failover_rtt_ms", "failover_clean_ms_max", "failover_silent_ms_max", "hop_us_p50", "hop_us_p99"]
    {
        assert!(number(name) >= 0.0, "{name} in {text}");
    }
}

#[test]
fn a_short_cluster_loses_its_leader_and_a_proxy_and_nothing_else() {
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(["demo", "--cluster", "--json", "--members", "1", "--duration", "12", "--delay-scale", "0.2"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).expect("one JSON object and nothing else");
    for name in ["lost", "twice", "misreported", "gaps"] {
        assert_eq!(report[name], 0, "{name} in {text}");
    }
    assert_eq!((&report["linearizable"], &report["digests_equal"]), (&true.into(), &true.into()), "{text}");
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} in {text}"));
    assert!(number("writes") > 100.0 && number("reads") > 100.0, "{text}");
    assert!(number("term") > 1.0, "another leader was elected: {text}");
    for name in ["write_ms_p50", "read_ms_p99", "wan_bytes"] {
        assert!(number(name) > 0.0, "{name} in {text}");
    }
    let outages: Vec<&str> =
        report["outages"].as_array().unwrap().iter().filter_map(|outage| outage["what"].as_str()).collect();
    assert_eq!(outages, ["leader killed", "proxy killed"], "{text}");
}

#[test]
fn flags_out_of_range_are_usage_errors() {
    for (flag, value) in
        [("--dcs", "1"), ("--delay-scale", "-1"), ("--duration", "0"), ("--egress-mbit", "x")]
    {
        let output =
            Command::new(env!("CARGO_BIN_EXE_trunkline")).args(["demo", flag, value]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag} {value}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(flag), "{flag} {value}");
    }
    for duration in ["abc", "", "5 hours", "2 s", "61 min", "99999999999999999999"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_trunkline")).args(["demo", "--duration", duration]).output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{duration}");
        assert!(told.contains("such as \"18 s\" or \"2 min\", or a number of seconds, such as 18"), "{told}");
    }
    let missing = ["demo", "--input", "/no/such/file", "--duration", "3 s"];
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline")).args(missing).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/file"));
}
