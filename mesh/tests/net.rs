//! Nodes on real sockets: links come up, come back and end, and strangers are turned away in time and with a word.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Cluster, Raw, dc, eventually, id, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trunkline_mesh::proto::frame::{FrameType, HEADER_BYTES, Received};
use trunkline_mesh::proto::wire::{
    CloseCode, Envelope, Hello, PREAMBLE, RefuseCode, Run, WIRE_VERSION, encode,
};
use trunkline_mesh::stats::connection::SocketStatus;
use trunkline_mesh::{
    Batch, ClusterId, Config, Incarnation, JoinError, Lane, Message, Roles, SendError, Seq, Settings,
    TrySendError, join,
};

/// An origin and a member in one datacenter, a proxy and a member in another, and a proxy nobody starts.
fn small() -> Cluster {
    Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("us-m", "us", Roles::MEMBER),
        ("eu-p", "eu", Roles::PROXY),
        ("eu-m", "eu", Roles::MEMBER),
        ("ap-p", "ap", Roles::PROXY),
    ])
}

/// Both connections of a link from `leader` to `eu-m`, which are the test's to use.
async fn link_by_hand(cluster: &Cluster) -> [Raw; 2] {
    let mut control = Raw::connect(cluster.address("eu-m")).await;
    let mut bulk = Raw::connect(cluster.address("eu-m")).await;
    control.shake_hands(&cluster.hello("leader", Lane::Control), Lane::Control).await;
    bulk.shake_hands(&cluster.hello("leader", Lane::Bulk), Lane::Bulk).await;
    [control, bulk]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_come_up_between_origin_proxy_and_member() {
    let cluster = small();
    let member = cluster.start("eu-m").await;
    let proxy = cluster.start("eu-p").await;
    let _neighbour = cluster.start("us-m").await;
    let leader = cluster.start("leader").await;
    eventually("all links", || leader.reaches("eu-p") && leader.reaches("us-m") && proxy.reaches("eu-m"))
        .await;
    assert_eq!(leader.mesh().local_addr(), None);
    assert_eq!(proxy.mesh().local_addr(), Some(cluster.address("eu-p")));
    eventually("both ends count two connections", || member.mesh().stats().handshakes >= 2).await;
    eventually("a round trip was measured", || {
        leader.mesh().status().links.iter().any(|link| link.rtt_us > Some(0))
    })
    .await;
    // Who accepts does not ping: it knows nothing of the way, which is not the same as a way of no length.
    for link in member.mesh().status().links {
        assert!(!link.dialled && link.up, "{link:?}");
        assert_eq!((link.rtt_us, link.rtt_min_us, link.clock_offset_us), (None, None, None));
    }
    let sent = &leader.mesh().stats().datacenters[&dc("eu")];
    assert!(sent.sent.wire > 0 && sent.received_wire > 0, "{sent:?}");
}

/// Whatever protects the link, and whichever side dialled.
#[tokio::test]
async fn every_connection_shows_what_the_kernel_took_for_its_socket() {
    for tls in [false, true] {
        let mut cluster = if tls { small().with_tls() } else { small() };
        cluster.settings.silence_timeout = Duration::from_millis(4_321);
        let member = cluster.start("eu-m").await;
        let proxy = cluster.start("eu-p").await;
        eventually("the link", || proxy.reaches("eu-m") && linked_from(&member, "eu-p")).await;
        let other = Settings { silence_timeout: Duration::from_secs(9), ..cluster.settings.clone() };
        proxy.mesh().set_settings(&other).unwrap();

        let mut conns = Vec::new();
        for (node, peer) in [(&proxy, "eu-m"), (&member, "eu-p")] {
            let links = node.mesh().status().links;
            let link = links.iter().find(|link| link.peer.as_str() == peer).unwrap();
            assert_eq!(link.connections.iter().map(|of| of.lane).collect::<Vec<_>>(), ["control", "bulk"]);
            for connection in &link.connections {
                let socket = connection.socket.as_ref().unwrap_or_else(|| panic!("no socket: {link:?}"));
                check_socket(socket);
                conns.push((node.mesh().local_addr(), connection.conn));
            }
        }
        conns.sort_unstable();
        conns.dedup();
        assert_eq!(conns.len(), 4, "every connection has a number of its own");
    }
}

/// The peer's link to this node is up.
fn linked_from(node: &support::Running, peer: &str) -> bool {
    node.mesh().status().links.iter().any(|link| link.up && link.peer.as_str() == peer)
}

fn check_socket(socket: &SocketStatus) {
    assert_eq!((socket.no_delay, socket.keepalive), (Some(true), Some(true)), "{socket:?}");
    assert!(socket.send_buffer_bytes > Some(0) && socket.receive_buffer_bytes > Some(0), "{socket:?}");
    if cfg!(target_os = "linux") {
        // Twice the silence timeout of when it began, whatever that is by now.
        assert_eq!(socket.user_timeout_ms, Some(8_642));
        assert_eq!(socket.unsent_bytes_max, Some(128 * 1024));
        let keepalive = (socket.keepalive_idle_s, socket.keepalive_interval_s, socket.keepalive_probes);
        assert_eq!(keepalive, (Some(10), Some(3), Some(3)));
        let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        assert_eq!(socket.congestion.as_deref(), Some(default.trim()));
    }
}

#[tokio::test]
async fn links_come_up_whoever_starts_first() {
    let cluster = small();
    let leader = cluster.start("leader").await;
    eventually("a dial in vain", || leader.mesh().stats().dials_failed > 0).await;
    let _proxy = cluster.start("eu-p").await;
    eventually("the link", || leader.reaches("eu-p")).await;
}

#[tokio::test]
async fn what_keeps_a_node_from_starting_is_said() {
    let mut cluster = small();
    let taken = TcpListener::bind(cluster.address("eu-p")).await.unwrap();
    let bind = cluster.try_start("eu-p").await.err().unwrap();
    assert!(
        matches!(&bind, JoinError::Bind { address, .. } if *address == cluster.address("eu-p")),
        "{bind}"
    );
    drop(taken);
    let unknown = join(Config::new((*cluster.topology).clone(), id("nobody"))).await.err().unwrap();
    assert!(matches!(unknown, JoinError::NotInTopology(_)), "{unknown}");
    cluster.settings.frame_bytes_max = 1;
    let settings = cluster.try_start("eu-p").await.err().unwrap();
    assert!(settings.to_string().contains("frame_bytes_max"), "{settings}");
}

#[tokio::test]
async fn a_node_may_listen_elsewhere_than_its_topology_says() {
    let cluster = small();
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let config = Config { listen, ..Config::new(cluster.topology.clone(), id("eu-p")) };
    let (client, _inbox) = join(config).await.unwrap();
    let address = client.mesh().local_addr().unwrap();
    assert_ne!(address.port(), 0);
    Raw::connect(address).await;
}

#[tokio::test]
async fn garbage_is_refused_and_counted_even_over_unread_input() {
    let cluster = small();
    let proxy = cluster.start("eu-p").await;
    let mut raw = Raw::connect(cluster.address("eu-p")).await;
    // Far more than is read before the verdict: closing over it must not destroy the answer.
    raw.write(&b"GET / HTTP/1.1\r\n".repeat(20_000)).await;
    eventually("the verdict", || proxy.mesh().stats().handshakes_refused["malformed"] == 1).await;
    // Nor must it answer what was under way with a reset, which fails the peer's writes before it reads.
    for _ in 0..100 {
        raw.write(b"Host: example\r\n").await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.refusal().await, RefuseCode::Malformed);
    let stats = proxy.mesh().stats();
    assert_eq!(stats.handshakes_refused["malformed"], 1);
    assert_eq!(stats.protocol_errors["preamble"], 1);
}

#[tokio::test]
async fn a_stranger_who_says_nothing_or_dribbles_is_dropped_after_the_handshake_timeout() {
    let mut cluster = small();
    cluster.settings.handshake_timeout = Duration::from_millis(150);
    let proxy = cluster.start("eu-p").await;
    let mut silent = Raw::connect(cluster.address("eu-p")).await;
    let mut dribbling = Raw::connect(cluster.address("eu-p")).await;
    dribbling.write(&PREAMBLE[..5]).await;
    assert_eq!(silent.refusal().await, RefuseCode::Timeout);
    assert_eq!(dribbling.refusal().await, RefuseCode::Timeout);
    assert_eq!(proxy.mesh().stats().handshakes_refused["timeout"], 2);
}

#[tokio::test]
async fn strangers_who_say_nothing_make_room_for_whoever_comes() {
    let mut cluster = small();
    cluster.settings =
        Settings { handshakes_max: 8, handshake_timeout: Duration::from_secs(60), ..cluster.settings };
    let proxy = cluster.start("eu-p").await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(Raw::connect(cluster.address("eu-p")).await);
    }
    let refused = || proxy.mesh().stats().handshakes_refused["too_many_connections"];
    let leader = cluster.start("leader").await;
    eventually("the leader gets in", || leader.reaches("eu-p")).await;
    eventually("two made room", || refused() == 2).await;
    for stranger in &mut strangers[..2] {
        assert_eq!(stranger.refusal().await, RefuseCode::TooManyConnections, "the oldest");
    }
    assert_eq!(proxy.mesh().stats().handshakes_refused["timeout"], 0);
}

#[tokio::test]
async fn where_all_are_known_too_many_handshakes_are_refused_and_room_comes_back() {
    let mut cluster = small();
    cluster.settings.handshakes_max = 4;
    let proxy = cluster.start("eu-p").await;
    let mut halves = Vec::new();
    for link in 0..4 {
        let mut raw = Raw::connect(cluster.address("eu-p")).await;
        let hello = Hello { link, ..cluster.hello("leader", Lane::Control) };
        raw.shake_hands(&hello, Lane::Control).await;
        halves.push(raw);
    }
    let mut fifth = Raw::connect(cluster.address("eu-p")).await;
    eventually("the verdict", || proxy.mesh().stats().handshakes_refused["too_many_connections"] == 1).await;
    // Turned away, but heard out: what it says meanwhile is not answered with a reset.
    for _ in 0..100 {
        fifth.write(&PREAMBLE).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(fifth.refusal().await, RefuseCode::TooManyConnections);
    drop(halves);
    let leader = cluster.start("leader").await;
    eventually("the leader gets in", || leader.reaches("eu-p")).await;
}

#[tokio::test]
async fn a_control_connection_whose_bulk_never_comes_gives_its_place_back() {
    let mut cluster = small();
    cluster.settings.handshake_timeout = Duration::from_millis(150);
    cluster.settings.handshakes_max = 2;
    let member = cluster.start("eu-m").await;
    let hello = |link| Hello { link, ..cluster.hello("leader", Lane::Control) };
    let mut alone = Vec::new();
    for link in 0..2 {
        let mut raw = Raw::connect(cluster.address("eu-m")).await;
        raw.shake_hands(&hello(link), Lane::Control).await;
        alone.push(raw);
    }
    for raw in &mut alone {
        assert_eq!(raw.refusal().await, RefuseCode::Timeout);
    }
    let proxy = cluster.start("eu-p").await;
    eventually("the proxy gets in", || proxy.reaches("eu-m")).await;
    assert_eq!(member.mesh().stats().handshakes_refused["timeout"], 2);
}

#[tokio::test]
async fn every_wrong_hello_gets_its_code() {
    let cluster = small();
    let proxy = cluster.start("eu-p").await;
    let right = cluster.hello("leader", Lane::Control);
    let schema = right.versions[0].1;
    let cases = [
        (Hello { cluster: ClusterId::new("other").unwrap(), ..right.clone() }, RefuseCode::OtherCluster),
        (Hello { node: id("nobody"), ..right.clone() }, RefuseCode::UnknownNode),
        (Hello { datacenter: dc("ap"), ..right.clone() }, RefuseCode::WrongDatacenter),
        (cluster.hello("eu-m", Lane::Control), RefuseCode::WrongRole),
        (cluster.hello("ap-p", Lane::Control), RefuseCode::WrongRole),
        (Hello { versions: vec![(WIRE_VERSION + 1, schema)], ..right.clone() }, RefuseCode::NoCommonVersion),
        (Hello { versions: vec![(WIRE_VERSION, schema ^ 1)], ..right.clone() }, RefuseCode::SchemaMismatch),
        (Hello { incarnation: Incarnation::UNKNOWN, ..right.clone() }, RefuseCode::StaleIncarnation),
        (Hello { lane: 2, ..right.clone() }, RefuseCode::Malformed),
    ];
    for (hello, expected) in cases {
        let before = proxy.mesh().stats().handshakes_refused[expected.label()];
        let mut raw = Raw::connect(cluster.address("eu-p")).await;
        raw.say_hello(&hello).await;
        assert_eq!(raw.refusal().await, expected, "{hello:?}");
        assert_eq!(proxy.mesh().stats().handshakes_refused[expected.label()], before + 1);
    }
    let mut raw = Raw::connect(cluster.address("eu-p")).await;
    raw.shake_hands(&right, Lane::Control).await;
    eventually("the right one is in", || proxy.mesh().stats().handshakes == 1).await;
}

#[tokio::test]
async fn a_stranger_who_claims_a_large_frame_is_refused_at_its_header() {
    let cluster = small();
    let proxy = cluster.start("eu-p").await;
    let mut header = [0; HEADER_BYTES];
    header[0] = FrameType::Batch as u8;
    header[8..12].copy_from_slice(&(16_u32 << 20).to_le_bytes());
    let mut raw = Raw::connect(cluster.address("eu-p")).await;
    raw.write(&[&PREAMBLE[..], &header].concat()).await;
    assert_eq!(raw.refusal().await, RefuseCode::Malformed);
    assert_eq!(proxy.mesh().stats().protocol_errors["too_long"], 1);
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_loses_its_link_and_nobody_elses() {
    let cluster = small();
    let member = cluster.start("eu-m").await;
    let proxy = cluster.start("eu-p").await;
    eventually("the proxy's link", || proxy.reaches("eu-m")).await;
    let [mut control, mut bulk] = link_by_hand(&cluster).await;
    let leader = id("leader");
    eventually("the link by hand", || {
        member.mesh().status().links.iter().any(|link| link.peer == leader && link.up)
    })
    .await;
    control.write(&[0xff; 64]).await;
    assert!(matches!(control.read().await, Some(Received::Close(_))));
    assert!(control.read().await.is_none());
    assert!(bulk.read().await.is_none(), "losing either connection ends both");
    assert_eq!(member.mesh().stats().protocol_errors["unknown_type"], 1);
    assert!(proxy.reaches("eu-m"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_missed_and_dialled_again() {
    let cluster = small();
    let leader = cluster.start("leader").await;
    let proxy = cluster.start("eu-p").await;
    eventually("the link", || leader.reaches("eu-p")).await;
    let before = proxy.mesh().status().incarnation;
    proxy.mesh().kill();
    eventually("its loss", || !leader.reaches("eu-p")).await;
    soon("the end of its sockets", proxy.mesh().closed()).await;
    // The address is free at once.
    let proxy = cluster.start("eu-p").await;
    eventually("the next link", || leader.reaches("eu-p")).await;
    assert!(proxy.mesh().status().incarnation > before);
}

#[tokio::test]
async fn a_killed_node_says_nothing() {
    let cluster = small();
    let member = cluster.start("eu-m").await;
    let [mut control, mut bulk] = link_by_hand(&cluster).await;
    eventually("the link by hand", || member.mesh().status().links.iter().any(|link| link.up)).await;
    member.mesh().kill();
    assert!(control.read().await.is_none(), "no last words");
    assert!(bulk.read().await.is_none());
}

#[tokio::test]
async fn a_silent_death_is_noticed_by_its_silence() {
    let mut cluster = small();
    cluster.settings.ping_interval = Duration::from_millis(50);
    cluster.settings.silence_timeout = Duration::from_millis(300);
    let member = cluster.start("eu-m").await;
    let _open = link_by_hand(&cluster).await;
    // Says nothing from now on, and reads nothing either.
    eventually("its link", || member.mesh().status().links.iter().any(|link| link.up)).await;
    eventually("its end", || member.mesh().status().links.is_empty()).await;
    let ended = member.mesh().stats().links_ended;
    assert!(ended.iter().all(|(reason, count)| *count == u64::from(*reason == "silent")), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_tells_the_peers_and_ends_everything() {
    let cluster = small();
    let leader = cluster.start("leader").await;
    let proxy = cluster.start("eu-p").await;
    let _member = cluster.start("eu-m").await;
    let _neighbour = cluster.start("us-m").await;
    eventually("all links", || leader.reaches("eu-p") && leader.reaches("us-m") && proxy.reaches("eu-m"))
        .await;
    soon("drain", proxy.mesh().drain()).await;
    assert!(TcpStream::connect(cluster.address("eu-p")).await.is_err(), "the listener is gone");
    assert!(proxy.mesh().status().links.is_empty());
    eventually("its loss", || !leader.reaches("eu-p")).await;
    let ended = leader.mesh().stats().links_ended;
    assert!(ended.iter().all(|(reason, count)| *count == u64::from(*reason == "left")), "{ended:?}");
    assert!(leader.reaches("us-m"), "other links live on");
    // Draining twice, and after the close, is harmless.
    soon("drain again", proxy.mesh().drain()).await;
}

#[tokio::test]
async fn a_draining_node_says_so_before_it_closes() {
    let cluster = small();
    let mut member = cluster.start("eu-m").await;
    let mut conns = link_by_hand(&cluster).await;
    eventually("the link by hand", || member.mesh().status().links.iter().any(|link| link.up)).await;
    let by_hand = async {
        let mut codes = [Vec::new(), Vec::new()];
        for (conn, codes) in conns.iter_mut().zip(&mut codes) {
            while let Some(received) = conn.read().await {
                if let Received::Close(close) = received {
                    codes.push(close.code);
                }
            }
        }
        // A peer that closes at once, as a node does.
        drop(conns);
        codes
    };
    let (codes, drained) = soon("drain", async { tokio::join!(by_hand, member.mesh().drain()) }).await;
    let (draining, closing) = (CloseCode::Draining as u16, CloseCode::Closing as u16);
    assert_eq!(codes, [vec![draining, closing], vec![draining]], "whichever ends first");
    assert!(drained, "nothing was left undone");
    assert!(soon("recv", member.inbox.recv()).await.is_none());
    assert!(TcpStream::connect(cluster.address("eu-m")).await.is_err(), "the listener is gone");
}

#[tokio::test]
async fn a_peer_that_ignores_the_end_holds_the_close_up_for_a_moment_only() {
    let cluster = small();
    let member = cluster.start("eu-m").await;
    let mut control = Raw::connect(cluster.address("eu-m")).await;
    control.shake_hands(&cluster.hello("leader", Lane::Control), Lane::Control).await;
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(Raw::connect(cluster.address("eu-m")).await);
    }
    eventually("the handshake", || member.mesh().stats().handshakes == 1).await;
    member.mesh().close();
    soon("closed", member.mesh().closed()).await;
}

#[tokio::test]
async fn a_closed_node_takes_nothing_in_and_a_plain_member_never_does() {
    let cluster = small();
    let batch = || {
        let mut batch = Batch::to(dc("eu"));
        batch.push(Message::new(id("eu-m"), vec![1]));
        batch
    };
    let member = cluster.start("eu-m").await;
    assert_eq!(member.client.send(batch()).await.err(), Some(SendError::NotOrigin));
    assert!(matches!(member.client.try_send(batch()), Err(TrySendError::NotOrigin)));
    let leader = cluster.start("leader").await;
    leader.mesh().close();
    assert_eq!(soon("send", leader.client.send(batch())).await.err(), Some(SendError::Closed));
    assert!(matches!(leader.client.try_send(batch()), Err(TrySendError::Closed)));
}

#[tokio::test]
async fn the_end_of_the_last_handle_is_the_end_of_the_node() {
    let cluster = small();
    let leader = cluster.start("leader").await;
    let proxy = cluster.start("eu-p").await;
    eventually("the link", || leader.reaches("eu-p")).await;
    drop(proxy);
    eventually("its loss", || !leader.reaches("eu-p")).await;
    let address = cluster.address("eu-p");
    soon("the listener's end", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_leaves_live_links_alone() {
    let mut cluster = small();
    cluster.settings = Settings { handshakes_max: 16, ..cluster.settings };
    cluster.settings.silence_timeout = Duration::from_secs(2);
    let leader = cluster.start("leader").await;
    let proxy = cluster.start("eu-p").await;
    eventually("the link", || leader.reaches("eu-p")).await;
    let handshakes = leader.mesh().stats().handshakes;
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(Raw::connect(cluster.address("eu-p")).await);
    }
    eventually("most are turned away", || {
        proxy.mesh().stats().handshakes_refused["too_many_connections"] >= 250
    })
    .await;
    assert!(leader.reaches("eu-p"));
    assert_eq!(leader.mesh().stats().handshakes, handshakes, "the link never broke");
}

/// Sixty strangers at once, one accept per second; then the limit is lifted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_how_many_are_accepted_per_second() {
    let mut cluster = small();
    cluster.settings.accepts_per_second = 1;
    let proxy = cluster.start("eu-p").await;
    let knock = |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, PREAMBLE);
    };
    // The listener has begun, by the limit of before.
    soon("an answer", knock(cluster.address("eu-p"))).await;
    let strangers: Vec<_> = (0..60).map(|_| tokio::spawn(knock(cluster.address("eu-p")))).collect();
    let more = Settings { accepts_per_second: 1_000, ..cluster.settings.clone() };
    proxy.mesh().set_settings(&more).unwrap();
    // One per second would take three times as long as is waited here.
    let answers = async {
        for stranger in strangers {
            stranger.await.unwrap();
        }
    };
    soon("answers", answers).await;
}

#[tokio::test]
async fn a_proxy_reaches_a_member_by_a_link_to_one_of_its_own_datacenter_alone() {
    let cluster = small();
    let proxy = cluster.start("eu-p").await;
    let leader = cluster.start("leader").await;
    eventually("the link", || leader.reaches("eu-p")).await;
    let readiness = || proxy.mesh().readiness();
    assert!(!readiness().reaches_member && !readiness().draining, "of an origin elsewhere");
    let member = cluster.start("eu-m").await;
    eventually("its link", || readiness().reaches_member).await;
    drop(member);
    eventually("its end", || !readiness().reaches_member).await;
    soon("drain", proxy.mesh().drain()).await;
    assert!(readiness().draining);
}

/// It reads nothing and closes nothing: a farewell to it is waited for for a second.
#[tokio::test]
async fn who_takes_no_farewell_does_not_make_a_drain_longer() {
    let mut cluster = small();
    cluster.settings.drain_timeout = Duration::from_millis(100);
    let member = cluster.start("eu-m").await;
    let _open = link_by_hand(&cluster).await;
    eventually("its link", || member.mesh().status().links.iter().any(|link| link.up)).await;
    let drain = tokio::time::timeout(Duration::from_millis(800), member.mesh().drain());
    assert!(drain.await.is_ok(), "longer than it may take");
}

#[tokio::test]
async fn a_drain_says_whether_all_was_finished() {
    let mut cluster = small();
    cluster.settings.drain_timeout = Duration::from_millis(100);
    let (leader, idle) = (cluster.start("leader").await, cluster.start("us-m").await);
    // Nobody is there to take it.
    let mut batch = Batch::to(dc("eu"));
    batch.push(Message::new(id("eu-m"), b"x".to_vec()).deadline(Duration::from_secs(60)));
    let receipt = leader.client.send(batch).await.unwrap();
    assert!(!soon("drain", leader.mesh().drain()).await, "a message is left");
    assert!(!soon("the receipt", receipt).await[0].is_delivered());
    assert!(soon("drain", idle.mesh().drain()).await, "nothing is");
    assert!(soon("drain again", idle.mesh().drain()).await);
}

/// A line that takes longer for a frame than a peer may be silent.
#[tokio::test]
async fn a_frame_that_takes_long_is_heard_part_by_part() {
    for _ in 0..5 {
        if is_heard_part_by_part().await {
            return;
        }
    }
    panic!("this process never ran for three seconds without a pause of half a second");
}

/// False where nothing was seen: this process did not run for so long, now and then, that it was silent itself.
async fn is_heard_part_by_part() -> bool {
    let silence = Duration::from_secs(1);
    let mut cluster = small();
    cluster.settings.ping_interval = Duration::from_millis(50);
    cluster.settings.silence_timeout = silence;
    let member = cluster.start("eu-m").await;
    let [mut control, _bulk] = link_by_hand(&cluster).await;
    let linked = || member.mesh().status().links.iter().any(|link| link.up);
    eventually("its link", linked).await;
    let run = Run { flow: 0, first: Seq(1), count: 1, floor_back: 0, deadline_ms: 60_000 };
    let envelope = encode(&Envelope { batch: 1, attempt: 1, runs: vec![run] });
    let mut header = vec![FrameType::Batch as u8, 0, 0, 0];
    header.extend(u32::try_from(envelope.len()).unwrap().to_le_bytes());
    header.extend((8_u32 << 20).to_le_bytes());
    header.extend(crc32c::crc32c_append(crc32c::crc32c(&header), &envelope).to_le_bytes());
    control.write(&[&header[..], &envelope].concat()).await;
    for _ in 0..60 {
        let said = Instant::now();
        let written = control.try_write(&[7; 64 << 10]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if said.elapsed() > silence / 2 {
            return false;
        }
        written.unwrap();
    }
    assert!(linked(), "after three times as long");
    assert!(matches!(control.read().await, Some(Received::Ack(ack)) if ack.flows.is_empty()));
    eventually("its end, once no more comes", || !linked()).await;
    true
}

/// A replica has its timers on the thread that takes messages.
#[tokio::test]
async fn who_takes_message_after_message_leaves_their_turn_to_other_tasks() {
    const MESSAGES: usize = 2_000;
    let cluster = small();
    let (leader, member) = (cluster.start("leader").await, cluster.start("eu-m").await);
    let mut batch = Batch::to(dc("eu"));
    batch.extend((0..MESSAGES).map(|_| Message::new(id("eu-m"), b"vote".to_vec())));
    let outcomes = soon("the receipt", leader.client.send(batch).await.unwrap()).await;
    assert!(outcomes.iter().all(trunkline_mesh::Outcome::is_delivered), "all of them are in the inbox");
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let mut inbox = member.inbox;
    let application = tokio::spawn(async move {
        while inbox.recv().await.is_some() && count.fetch_add(1, Ordering::SeqCst) + 1 < MESSAGES {}
    });
    let turns = async {
        let mut turns = 0;
        while taken.load(Ordering::SeqCst) < MESSAGES {
            turns += 1;
            tokio::task::yield_now().await;
        }
        turns
    };
    let turns = soon("all of them", turns).await;
    application.await.unwrap();
    assert!(turns > 5, "{turns} turns while {MESSAGES} messages were taken");
}
