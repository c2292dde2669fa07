//! The relay over real sockets. Lower bounds are exact; upper bounds only say "it happens".

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

const ONE_WAY: Duration = Duration::from_millis(30);
const SOON: Duration = Duration::from_secs(30);
const HERE: Dc = Dc(0);
const THERE: Dc = Dc(1);

fn wan(bytes_per_s: u64) -> Wan {
    Wan::new(WanConfig {
        egress_bytes_per_s: vec![NonZeroU64::new(bytes_per_s).unwrap(); 3],
        one_way: vec![OneWay { between: (HERE, THERE), delay: ONE_WAY }],
        buffer_bytes: 64 * 1024,
    })
}

fn free(host: &str) -> SocketAddr {
    format!("{host}:0").parse().unwrap()
}

struct Path {
    wan: Wan,
    relay: RelayHandle,
    target: TcpListener,
}

impl Path {
    async fn new(bytes_per_s: u64) -> Self {
        let wan = wan(bytes_per_s);
        let target = TcpListener::bind(free("127.77.2.1")).await.unwrap();
        let relay = wan.relay(HERE, THERE, free("127.77.1.1"), target.local_addr().unwrap()).unwrap();
        Self { wan, relay, target }
    }

    async fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.relay.local_addr()).await.unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.client().await;
        let (server, _) = timeout(SOON, self.target.accept()).await.unwrap().unwrap();
        (client, server)
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    fastrand::Rng::with_seed(seed).fill(&mut noise);
    noise
}

fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What ends the stream, after discarding what comes before.
async fn end(socket: &mut TcpStream) -> io::Result<()> {
    let mut sink = Vec::new();
    timeout(SOON, socket.read_to_end(&mut sink)).await.expect("the stream ends").map(|_| ())
}

#[tokio::test]
async fn a_byte_takes_the_one_way_delay_in_each_direction() {
    let path = Path::new(100_000_000).await;
    let begun = Instant::now();
    let (mut client, mut server) = path.pair().await;
    assert!(begun.elapsed() >= ONE_WAY, "the target was connected early");
    for _ in 0..5 {
        let begun = Instant::now();
        client.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        server.read_exact(&mut got).await.unwrap();
        assert!(begun.elapsed() >= ONE_WAY, "early by {:?}", ONE_WAY - begun.elapsed());
        assert_eq!(&got, b"ping");
        let begun = Instant::now();
        server.write_all(b"pong!").await.unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert!(begun.elapsed() >= ONE_WAY);
        assert_eq!(&got, b"pong!");
    }
    let counters = path.wan.counters();
    assert_eq!((counters.bytes(HERE, THERE), counters.bytes(THERE, HERE)), (20, 25));
    assert_eq!((counters.between(THERE, HERE), counters.total(), counters.bytes(HERE, Dc(9))), (45, 45, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_arrive_exactly_both_ways_and_are_counted() {
    const BYTES: usize = 4_000_000;
    let path = Path::new(100_000_000).await;
    let (client, server) = path.pair().await;
    let both = [(client, 1, 2), (server, 2, 1)].map(|(socket, sends, gets)| {
        tokio::spawn(async move {
            let (mut read, mut write) = socket.into_split();
            let sending = tokio::spawn(async move {
                write.write_all(&noise(sends, BYTES)).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            sending.await.unwrap();
            assert!(got == noise(gets, BYTES), "bytes were changed, lost or reordered");
        })
    });
    for one in both {
        timeout(SOON, one).await.expect("the stream flows").unwrap();
    }
    let counters = path.wan.counters();
    assert_eq!((counters.bytes(HERE, THERE), counters.bytes(THERE, HERE)), (BYTES as u64, BYTES as u64));
}

#[tokio::test]
async fn the_rate_is_shared_by_all_connections_of_a_datacenter() {
    const RATE: u64 = 5_000_000;
    const EACH: usize = 500_000;
    let path = Path::new(RATE).await;
    let mut pairs = vec![path.pair().await, path.pair().await];
    let begun = Instant::now();
    let mut done = JoinSet::new();
    for (mut client, mut server) in pairs.drain(..) {
        done.spawn(async move {
            client.write_all(&noise(7, EACH)).await.unwrap();
            client
        });
        done.spawn(async move {
            server.read_exact(&mut vec![0; EACH]).await.unwrap();
            server
        });
    }
    timeout(SOON, done.join_all()).await.expect("the streams flow");
    let least = ONE_WAY + Duration::from_millis(2 * EACH as u64 * 1_000 / RATE);
    assert!(begun.elapsed() >= least, "faster than the egress: {:?} < {least:?}", begun.elapsed());
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stops_the_sender() {
    let path = Path::new(10_000_000).await;
    let (client, _server) = path.pair().await;
    let block = noise(3, 64 * 1024);
    let mut taken = 0;
    // The sender stands still when a second brings no progress.
    while timeout(Duration::from_secs(1), client.writable()).await.is_ok() {
        match client.try_write(&block) {
            Ok(bytes) => taken += bytes,
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(taken < 64 * 1024 * 1024, "the WAN swallows without limit");
    }
    let left = path.wan.counters().bytes(HERE, THERE);
    // Bandwidth × delay is 300 kB and the buffer 64 KiB; the rest is in the kernel buffers of relay and target.
    assert!(
        left <= taken as u64 && left < 4 * 1024 * 1024,
        "{left} bytes left for a receiver that does not read"
    );
}

#[tokio::test]
async fn fin_is_delayed_and_leaves_the_other_direction_open() {
    let path = Path::new(100_000_000).await;
    let (mut client, mut server) = path.pair().await;
    let begun = Instant::now();
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(SOON, server.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(begun.elapsed() >= ONE_WAY);
    assert_eq!(got, b"last words");
    let begun = Instant::now();
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut got = Vec::new();
    timeout(SOON, client.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(begun.elapsed() >= ONE_WAY);
    assert_eq!(got, b"answer");
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_behind_the_bytes_and_not_early() {
    let path = Path::new(100_000_000).await;
    for client_aborts in [true, false] {
        let (client, server) = path.pair().await;
        let (mut aborts, mut stays) = if client_aborts { (client, server) } else { (server, client) };
        let left = path.wan.counters().total();
        aborts.write_all(b"before").await.unwrap();
        // The relay must have read it: an abort discards what the sender's kernel still holds.
        while path.wan.counters().total() < left + 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begun = Instant::now();
        reset(aborts);
        timeout(SOON, stays.read_exact(&mut [0; 6])).await.unwrap().expect("first the bytes on their way");
        let error = end(&mut stays).await.expect_err("a reset must not look like an orderly end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(begun.elapsed() >= ONE_WAY);
    }
}

#[tokio::test]
async fn a_reset_is_seen_while_back_pressure_stops_reading() {
    let path = Path::new(100_000_000).await;
    let (client, mut server) = path.pair().await;
    let block = noise(4, 64 * 1024);
    while timeout(Duration::from_millis(300), client.writable()).await.is_ok() {
        let _ = client.try_write(&block);
    }
    let begun = Instant::now();
    reset(client);
    // The server has read nothing, so it is the error that must come, not the end of the bytes.
    while server.take_error().unwrap().is_none() {
        assert!(begun.elapsed() < SOON, "the reset never arrived");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() >= ONE_WAY);
    let _ = end(&mut server).await;
}

#[tokio::test]
async fn writing_to_a_closed_peer_is_answered_with_a_reset_after_a_round_trip() {
    let path = Path::new(100_000_000).await;
    // A few bytes meet the RST by its readiness, many by a failed write.
    for bytes in [8, 200_000] {
        let (mut client, server) = path.pair().await;
        drop(server);
        end(&mut client).await.expect("first its FIN");
        let begun = Instant::now();
        let _ = client.write_all(&noise(5, bytes)).await;
        while client.write_all(b"?").await.is_ok() {
            assert!(begun.elapsed() < SOON, "no reset came back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(begun.elapsed() >= 2 * ONE_WAY);
    }
}

#[tokio::test]
async fn a_refused_target_closes_the_client_after_a_round_trip() {
    let path = Path::new(100_000_000).await;
    let Path { wan, relay, target } = path;
    drop(target);
    let begun = Instant::now();
    let mut client = TcpStream::connect(relay.local_addr()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    end(&mut client).await.expect_err("refused");
    assert!(begun.elapsed() >= 2 * ONE_WAY);
    assert_eq!(wan.counters().bytes(THERE, HERE), 0);
}

/// Waits until only so many tasks are alive.
async fn tasks_alive(count: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    let begun = Instant::now();
    while metrics.num_alive_tasks() > count {
        assert!(begun.elapsed() < SOON, "{} tasks are alive, not {count}", metrics.num_alive_tasks());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_leaves_nothing_behind_however_it_ends() {
    let path = Path::new(100_000_000).await;
    let idle = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (client, server) = path.pair().await;
    drop((client, server));
    tasks_alive(idle).await;
    let (mut client, mut server) = path.pair().await;
    client.shutdown().await.unwrap();
    end(&mut server).await.unwrap();
    drop(server);
    end(&mut client).await.unwrap();
    tasks_alive(idle).await;
    let (client, mut server) = path.pair().await;
    reset(client);
    end(&mut server).await.unwrap_err();
    tasks_alive(idle).await;
}

#[tokio::test]
async fn no_path_is_refused() {
    let wan = wan(1_000);
    for (from, to) in [(HERE, HERE), (HERE, Dc(2)), (Dc(7), HERE)] {
        let refused = wan.relay(from, to, free("127.77.1.1"), free("127.77.1.2")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn nothing_is_left_after_shutdown_or_after_a_dropped_relay() {
    let path = Path::new(100_000_000).await;
    let (mut client, mut server) = path.pair().await;
    let Path { wan, relay, target } = path;
    let address = relay.local_addr();
    drop(relay);
    let _ = end(&mut client).await;
    let _ = end(&mut server).await;
    TcpStream::connect(address).await.expect_err("the listener is closed");

    let relay = wan.relay(HERE, THERE, free("127.77.1.1"), target.local_addr().unwrap()).unwrap();
    let mut client = TcpStream::connect(relay.local_addr()).await.unwrap();
    let (mut server, _) = target.accept().await.unwrap();
    wan.shutdown().await;
    let _ = end(&mut client).await;
    let _ = end(&mut server).await;
    tasks_alive(0).await;
}
