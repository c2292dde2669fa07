//! Puts to a replicated key-value store whose nodes are in several datacenters, beside etcd where `etcd` is installed.
//!
//! Every node runs in a network namespace of its own; something else has joined them by lines with delay and rate. A namespace
//! is called after the datacenter, `us-1`, and has one global address. The bench runs in one of them, as the clients do, and
//! puts the leader there first. It needs root, as it enters the others.
//!
//! ```text
//! ip netns exec us-1 cargo bench --bench wan -- --nodes us-1,us-2,us-3,eu-1,eu-2,eu-3,ap-1,ap-2,ap-3 \
//!     --uplinks us-lan/wan0,eu-lan/wan0,ap-lan/wan0          # namespace/interface: where bytes between datacenters are counted
//! ```
//!
//! `--rounds 3 --seconds 10` are what is taken where nothing else is said.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use http_body_util::Full;
use load::{Figures, measure, median};
use store::{Host, Kind, Store, ask, get};

#[path = "stores/load.rs"]
mod load;
#[path = "stores/store.rs"]
mod store;

/// Bytes of a value, and clients, each of which waits for its answer: 64 of them wait for round trips, 256 fill lines of 100 Mbit/s.
const LOADS: [(usize, usize); 3] = [(4096, 64), (4096, 256), (256, 128)];
const LEADER_WITHIN: Duration = Duration::from_secs(30);
/// After a load lines are to be idle: what a follower lacks yet is part of this one, and not of the next.
const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// So much in a second is heartbeats, B.
const IDLE_BYTES: u64 = 200_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // What this runs itself as, in the namespace of another node.
    if let Some((host, path)) = after("--post-to").zip(after("--path")) {
        let admin = store::admin(host.parse().expect("a number"));
        runtime.block_on(async { println!("{}", post(admin, path, "").await.unwrap_or_default()) });
        return;
    }
    let Some(nodes) = after("--nodes") else {
        return println!("nothing was measured: this needs network namespaces, `--nodes us-1,eu-1,...`");
    };
    let hosts: Vec<Host> = nodes.split(',').map(host).collect();
    let uplinks: Vec<&str> = after("--uplinks").map_or(Vec::new(), |list| list.split(',').collect());
    let number = |flag, otherwise| after(flag).map_or(otherwise, |text| text.parse().expect("a number"));
    let (rounds, span) = (number("--rounds", 3), Duration::from_secs(number("--seconds", 10)));
    runtime.block_on(run(&hosts, &uplinks, rounds, span));
}

async fn run(hosts: &[Host], uplinks: &[&str], rounds: u64, span: Duration) {
    println!(
        "{} voters, the leader and all clients in {}; medians of {rounds} rounds of {span:?}, in turns",
        hosts.len(),
        hosts[0].dc
    );
    println!();
    println!(
        "                                                                       values between datacenters"
    );
    println!(
        "value B  clients  store          puts/s   p50 ms   p99 ms  CPU us/put    in packets  in frames  of etcd"
    );
    let kinds = [Kind::Trunkline, Kind::Etcd];
    let mut seen: Vec<Vec<(Figures, Crossed)>> = vec![Vec::new(); LOADS.len() * kinds.len()];
    for _ in 0..rounds {
        for (which, kind) in kinds.into_iter().enumerate() {
            let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
            let store = match kind {
                Kind::Trunkline => Some(Store::trunkline(temp.path(), hosts, true)),
                Kind::Etcd => Store::etcd(temp.path(), hosts),
            };
            let Some(mut store) = store else { continue };
            lead_from_the_first(&mut store, hosts).await;
            idle(uplinks).await;
            for (load, (value_bytes, clients)) in LOADS.into_iter().enumerate() {
                let (packets, frames) = (bytes_between(uplinks), frames_between(&store, &hosts[0].dc).await);
                let figures = measure(&store, clients, value_bytes, span).await;
                // The last of it gets everywhere after the answers.
                idle(uplinks).await;
                let payload = figures.puts * value_bytes as f64;
                let after = frames_between(&store, &hosts[0].dc).await;
                let crossed = Crossed {
                    packets: (bytes_between(uplinks) - packets) as f64 / payload,
                    frames: after.zip(frames).map(|(after, before)| (after - before) / payload),
                };
                seen[load * kinds.len() + which].push((figures, crossed));
            }
        }
    }
    for (load, (value_bytes, clients)) in LOADS.into_iter().enumerate() {
        let of = |which: usize| &seen[load * kinds.len() + which];
        let figures = |which: usize| {
            let rounds: Vec<Figures> = of(which).iter().map(|(figures, _)| *figures).collect();
            (!rounds.is_empty()).then(|| Figures::median(&rounds))
        };
        for (which, kind) in kinds.into_iter().enumerate() {
            let Some(figure) = figures(which) else { continue };
            let packets = median(of(which).iter().map(|(_, crossed)| crossed.packets));
            let frames = median(of(which).iter().filter_map(|(_, crossed)| crossed.frames));
            let copies =
                |copies: Option<f64>| copies.map_or(String::new(), |copies| format!("{copies:.2} x"));
            let ratio = match (kind, figures(1)) {
                (Kind::Trunkline, Some(peer)) => format!("  {:>5.2} x", figure.per_second / peer.per_second),
                _ => String::new(),
            };
            println!(
                "{value_bytes:>7}  {clients:>7}  {:<11}  {:>8.0}  {:>7.1}  {:>7.1}  {:>10.0}  {:>12}  {:>9}{ratio}",
                kind.name(),
                figure.per_second,
                figure.p50_ms,
                figure.p99_ms,
                figure.cpu_us,
                copies(packets),
                copies(frames),
            );
        }
    }
}

/// Until the first host leads.
async fn lead_from_the_first(store: &mut Store, hosts: &[Host]) {
    let deadline = Instant::now() + LEADER_WITHIN;
    store.find_leader().await;
    while store.leader != 0 {
        assert!(Instant::now() < deadline, "{} did not move its leader", store.kind.name());
        match store.kind {
            Kind::Trunkline => {
                let status = get(store.clients[0], "/v1/status").await.expect("an answer");
                let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
                let path = format!(
                    "/v1/leader/transfer?replica={}",
                    status["replica"].as_str().expect("its number")
                );
                let this = std::env::current_exe().expect("its path");
                let mut command = hosts[store.leader].command(this);
                let said = command.args(["--post-to", &store.leader.to_string(), "--path", &path]).output();
                assert!(said.expect("it runs").status.success(), "the leader cannot be asked");
            }
            Kind::Etcd => {
                let status = post(store.clients[0], "/v3/maintenance/status", "{}").await.expect("an answer");
                let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
                let body = format!("{{\"targetID\":{}}}", status["header"]["member_id"]);
                post(store.leader(), "/v3/maintenance/transfer-leadership", &body).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.find_leader().await;
    }
}

async fn post(address: SocketAddr, path: &str, body: &str) -> Option<String> {
    let request = hyper::Request::post(path).header("host", "localhost");
    ask(address, request.body(Full::from(body.to_owned())).ok()?).await
}

fn host(name: &str) -> Host {
    let said = ip(&["-n", name, "-j", "-4", "addr", "show", "scope", "global"]);
    let address =
        said[0]["addr_info"][0]["local"].as_str().unwrap_or_else(|| panic!("{name} has no address"));
    Host {
        name: name.to_owned(),
        dc: name.rsplit_once('-').map_or(name, |(dc, _)| dc).to_owned(),
        ip: address.parse::<IpAddr>().expect("an address"),
        namespace: Some(name.to_owned()),
    }
}

/// What crossed between datacenters, over the values.
#[derive(Clone, Copy)]
struct Crossed {
    /// Packets of IP.
    packets: f64,
    /// Of the mesh alone.
    frames: Option<f64>,
}

/// Until next to nothing is on the lines any longer.
async fn idle(uplinks: &[&str]) {
    let deadline = Instant::now() + IDLE_WITHIN;
    while Instant::now() < deadline {
        let before = bytes_between(uplinks);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if bytes_between(uplinks) - before < IDLE_BYTES {
            return;
        }
    }
    eprintln!(
        "the lines are not idle after {IDLE_WITHIN:?}: bytes of one load are counted with the next one"
    );
}

/// That the leader's frames to other datacenters had so far, and those to it.
async fn frames_between(store: &Store, own: &str) -> Option<f64> {
    if store.kind != Kind::Trunkline {
        return None;
    }
    let metrics = get(store::admin(store.leader), "/metrics").await?;
    let remote = |line: &&str| {
        let sent = line.starts_with("trunkline_sent_bytes_total") && line.contains("stage=\"wire\"");
        (sent || line.starts_with("trunkline_received_bytes_total"))
            && !line.contains(&format!("datacenter=\"{own}\""))
    };
    let bytes = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    Some(metrics.lines().filter(remote).filter_map(bytes).sum())
}

/// That left all datacenters so far, in packets of IP.
fn bytes_between(uplinks: &[&str]) -> u64 {
    let bytes = |uplink: &&str| {
        let (namespace, interface) = uplink.split_once('/').expect("namespace/interface");
        let said = ip(&["-n", namespace, "-s", "-j", "link", "show", "dev", interface]);
        said[0]["stats64"]["tx"]["bytes"].as_u64().expect("a counter")
    };
    uplinks.iter().map(bytes).sum()
}

fn ip(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new("ip").args(arguments).output().expect("iproute2");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}
