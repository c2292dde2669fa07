//! Puts to a replicated key-value store of one, three and five nodes, beside etcd where `etcd` is installed.
//!
//! Both run as processes of their own on loopback, with their data on the same file system, and each makes a put durable on a
//! majority before it answers. In turns, in one run: so many clients, each with a connection of its own to the leader, put
//! random values under random keys of 10,000, one at a time. Ours speaks HTTP/1.1, etcd gRPC, as its own client does.
//!
//! ```text
//! cargo bench --bench commit                            # two minutes
//! cargo bench --bench commit -- --quick                 # some seconds, rough
//! cargo bench --bench commit -- --nodes 1 --clients 64  # one of the cells
//! ```
//!
//! CPU is that of all processes of a store, from `/proc`: Linux only. The bench itself takes its share of the same cores.

use std::fmt::Write as _;
use std::time::Duration;

use load::{Figures, measure};
use store::{Host, Kind, Store};

#[path = "stores/load.rs"]
mod load;
#[path = "stores/store.rs"]
mod store;

const NODES: [usize; 3] = [1, 3, 5];
const CLIENTS: [usize; 4] = [1, 16, 64, 256];
const VALUE_BYTES: usize = 256;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.parse::<usize>().ok()
    };
    let (rounds, span) =
        if quick { (1, Duration::from_millis(500)) } else { (5, Duration::from_millis(1_500)) };
    let nodes = only("--nodes").map_or(NODES.to_vec(), |nodes| vec![nodes]);
    let clients = only("--clients").map_or(CLIENTS.to_vec(), |clients| vec![clients]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&nodes, &clients, rounds, span));
}

async fn run(nodes: &[usize], clients: &[usize], rounds: usize, span: Duration) {
    println!("puts of {VALUE_BYTES} B; medians of {rounds} rounds of {span:?}, in turns");
    println!();
    println!("nodes  clients  store          puts/s  p50 ms  p99 ms  CPU us/put  of etcd");
    for &nodes in nodes {
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
        let hosts = on_loopback(nodes);
        let mut stores = vec![Store::trunkline(temp.path(), &hosts, false)];
        match Store::etcd(temp.path(), &hosts) {
            Some(etcd) => stores.push(etcd),
            None => println!("etcd is not installed: there is nothing to compare with (Debian: etcd-server)"),
        }
        for store in &mut stores {
            store.find_leader().await;
        }
        for &clients in clients {
            let mut figures = vec![Vec::new(); stores.len()];
            for _ in 0..rounds {
                for (store, figures) in stores.iter().zip(&mut figures) {
                    figures.push(measure(store, clients, VALUE_BYTES, span).await);
                }
            }
            let medians: Vec<Figures> = figures.iter().map(|figures| Figures::median(figures)).collect();
            for (store, figure) in stores.iter().zip(&medians) {
                let mut line = format!(
                    "{nodes:>5}  {clients:>7}  {:<11}  {:>8.0}  {:>6.2}  {:>6.2}  {:>10.0}",
                    store.kind.name(),
                    figure.per_second,
                    figure.p50_ms,
                    figure.p99_ms,
                    figure.cpu_us,
                );
                if let (Kind::Trunkline, Some(peer)) = (store.kind, medians.get(1)) {
                    let _ = write!(line, "  {:>5.2} x", figure.per_second / peer.per_second);
                }
                println!("{line}");
            }
        }
    }
}

/// A datacenter for each node.
fn on_loopback(count: usize) -> Vec<Host> {
    let host = |number| Host {
        name: format!("n{number}"),
        dc: format!("d{number}"),
        ip: [127, 0, 0, 1].into(),
        namespace: None,
    };
    (0..count).map(host).collect()
}
