//! The parts together, with direct sends in the place of the mesh: what the demo compares against.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ledger::Ledger;
use super::wan::{Wan, WanConfig};
use super::workload::{EntrySource, Offer, Outgoing, Pacer, Workload, WorkloadConfig, offered_rate};
use super::{Dc, Member};

/// Half a second of the offered rate, direct to four members in the second datacenter, each over its own connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_sends_are_clean_but_need_twice_the_time() {
    const LOAD: Duration = Duration::from_millis(500);
    const MEMBERS: usize = 4;
    let egress = NonZeroU64::new(2_000_000).unwrap();
    let wan = Wan::new(WanConfig::demo(2, egress, 0.5));
    let dcs = vec![Dc(1); MEMBERS];
    let source = EntrySource::generated(1_024);
    let offer =
        Offer { egress_bytes_per_s: egress, remote_members: MEMBERS, entry_bytes: source.entry_bytes() };
    let mut pacer = Pacer::new(offered_rate(offer));
    let mut leader = Workload::new(WorkloadConfig { seed: 1, leader: 0, members: dcs.clone() }, source);

    let mut ledger = Ledger::new(&dcs);
    let mut queues: Vec<Vec<Outgoing>> = vec![Vec::new(); MEMBERS];
    for at in (0..=500).step_by(10).map(Duration::from_millis) {
        for message in leader.tick(pacer.take(at, 1_000)).unwrap() {
            ledger.sent(&message, Duration::ZERO);
            queues[message.member.0].push(message);
        }
    }
    for message in leader.finish() {
        ledger.sent(&message, Duration::ZERO);
        queues[message.member.0].push(message);
    }

    let (mut relays, mut members, mut senders) = (Vec::new(), JoinSet::new(), JoinSet::new());
    let begun = Instant::now();
    for (at, queue) in queues.into_iter().enumerate() {
        let target = TcpListener::bind("127.77.12.1:0").await.unwrap();
        let listen = "127.77.11.1:0".parse().unwrap();
        let relay = wan.relay(Dc(0), Dc(1), listen, target.local_addr().unwrap()).unwrap();
        let mut to_member = TcpStream::connect(relay.local_addr()).await.unwrap();
        relays.push(relay);
        senders.spawn(async move {
            for message in queue {
                to_member.write_u32(u32::try_from(message.payload_bytes()).unwrap()).await.unwrap();
                to_member.write_all(&message.segments.concat()).await.unwrap();
            }
        });
        members.spawn(async move {
            let (mut socket, _) = target.accept().await.unwrap();
            let mut got = Vec::new();
            while let Ok(bytes) = socket.read_u32().await {
                let mut payload = vec![0; bytes as usize];
                socket.read_exact(&mut payload).await.unwrap();
                got.push((payload, begun.elapsed()));
            }
            (Member(at), got)
        });
    }
    senders.join_all().await;
    for (member, got) in members.join_all().await {
        for (payload, at) in got {
            ledger.received(member, &payload, at).unwrap();
        }
    }

    let tally = ledger.tally(None);
    assert!(tally.is_clean() && tally.delivered == tally.messages, "{tally:?}");
    assert_eq!(wan.counters().bytes(Dc(0), Dc(1)), tally.payload_bytes + 4 * tally.messages);
    let took = ledger.latency(Some(Dc(1)), Duration::ZERO..LOAD).unwrap().max;
    assert!(took >= 2 * LOAD, "the rate is one that direct sends hold: {took:?}");
    wan.shutdown().await;
}
