//! What a heartbeat on control takes while bulk fills the line: leader → shaped WAN → proxy → member and back, with and
//! without bulk, in turns in one run.
//!
//! The nodes are real ones on loopback; between the datacenters lies the demo's WAN: 20 ms each way, 50 Mbit/s that all
//! connections share fairly. Bulk is random bytes, different for every member, from senders that always have more, so that
//! budgets, queues and the line are full. Beside the heartbeats a bare TCP connection echoes as many bytes, one echo after the other, over the same
//! line: what that takes with the same bulk is the line's and the machine's, and the rest is the mesh's.
//!
//! ```text
//! cargo bench --bench lanes               # about 30 s
//! cargo bench --bench lanes -- --quick    # about 6 s
//!
//! # Over a network of its own, on two machines or in two network namespaces:
//! cargo bench --bench lanes -- --serve 10.77.2.11
//! cargo bench --bench lanes -- --to 10.77.2.11 --rtt-ms 40 --mbit 50
//! ```

use std::num::NonZeroU64;
use std::time::Duration;

use far::Far;
use tokio::net::{TcpListener, TcpStream};
use traffic::Line;
use trunkline::demo::Dc;
use trunkline::demo::cluster::{Cluster, Shape};
use trunkline::demo::wan::{OneWay, Wan, WanConfig};
use trunkline_mesh::NodeId;

#[path = "lanes/far.rs"]
mod far;
#[path = "lanes/traffic.rs"]
mod traffic;

const MEMBERS: usize = 5;
const ONE_WAY: Duration = Duration::from_millis(20);
/// 50 Mbit/s.
const BYTES_PER_S: u64 = 6_250_000;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { (1, 100) } else { (3, 400) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        match Far::from_args() {
            Some(far) => far.run(rounds).await,
            None => over_the_demos_wan(rounds).await,
        }
    });
}

async fn over_the_demos_wan(rounds: (usize, usize)) {
    let wan = Wan::new(WanConfig {
        egress_bytes_per_s: vec![NonZeroU64::new(BYTES_PER_S).expect("a rate"); 2],
        one_way: vec![OneWay { between: (Dc(0), Dc(1)), delay: ONE_WAY }],
        // 20 ms of the line, as the demo has.
        buffer_bytes: usize::try_from(BYTES_PER_S / 50).expect("small"),
    });
    let shape = Shape { dcs: 2, members: MEMBERS, proxies: 2 };
    let (cluster, inboxes) = Cluster::start(shape, &wan, 1).await.expect("it starts");
    for mut inbox in inboxes {
        tokio::spawn(async move { while inbox.recv().await.is_some() {} });
    }
    let members: Vec<NodeId> =
        (1..=MEMBERS).map(|number| NodeId::new(&format!("eu-member-{number}")).expect("legal")).collect();
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = echo.local_addr().expect("an address");
    let relay = wan.relay(Dc(0), Dc(1), "127.0.0.1:0".parse().expect("legal"), target).expect("a way");
    tokio::spawn(traffic::echo_all(echo));
    let mut bare = TcpStream::connect(relay.local_addr()).await.expect("a connection");
    bare.set_nodelay(true).expect("an option");
    let line = Line { rtt: 2 * ONE_WAY, bytes_per_s: BYTES_PER_S };
    traffic::measure(&cluster.leader, &members, &mut bare, line, rounds).await;
    cluster.leader.mesh().close();
    wan.shutdown().await;
}
