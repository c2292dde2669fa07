//! Batches on real sockets, from `send` to receipt: by proxy, past a dead proxy, direct, and against full queues.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use support::{Cluster, Running, SOON, dc, eventually, id, soon};
use tokio::time::Instant;
use trunkline_mesh::{
    Batch, Client, Delivery, FailReason, Lane, Message, Outcome, Receipt, Roles, Route, SendError, Stage,
    TrySendError,
};

const MEMBERS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

fn nodes() -> Cluster {
    Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("eu-pa", "eu", Roles::PROXY),
        ("eu-pb", "eu", Roles::PROXY),
        ("eu-1", "eu", Roles::MEMBER),
        ("eu-2", "eu", Roles::MEMBER),
        ("eu-3", "eu", Roles::MEMBER),
    ])
}

/// Everything but the proxies runs; those that are named do, too, and every link is up.
struct Mesh {
    cluster: Cluster,
    leader: Running,
    members: Vec<Running>,
    proxies: BTreeMap<&'static str, Running>,
}

impl Mesh {
    async fn start(proxies: &[&'static str]) -> Self {
        Self::start_with(nodes(), proxies).await
    }

    async fn start_with(cluster: Cluster, names: &[&'static str]) -> Self {
        let mut members = Vec::new();
        for name in MEMBERS {
            members.push(cluster.start(name).await);
        }
        let mut proxies = BTreeMap::new();
        for &name in names {
            let proxy = cluster.start(name).await;
            eventually("the proxy's links", || MEMBERS.iter().all(|member| proxy.reaches(member))).await;
            proxies.insert(name, proxy);
        }
        let leader = cluster.start("leader").await;
        eventually("the leader's links", || names.iter().all(|proxy| leader.reaches(proxy))).await;
        Self { cluster, leader, members, proxies }
    }
}

/// One message with the same bytes for every member.
fn to_all(bytes: &Bytes) -> Batch {
    let mut batch = Batch::to(dc("eu"));
    batch.extend(MEMBERS.map(|member| Message::new(id(member), bytes.clone())));
    batch
}

fn to_one(member: &str, bytes: impl Into<Bytes>) -> Batch {
    let mut batch = Batch::to(dc("eu"));
    batch.push(Message::new(id(member), bytes.into()));
    batch
}

fn failed(reason: FailReason) -> Outcome {
    Outcome::Failed { reason, maybe_delivered: false }
}

fn route(outcome: &Outcome) -> &Route {
    match outcome {
        Outcome::Delivered { route, .. } => route,
        Outcome::Failed { .. } => panic!("not delivered: {outcome:?}"),
    }
}

async fn recv(node: &mut Running) -> Delivery {
    soon("a delivery", node.inbox.recv()).await.expect("open")
}

/// The numbers that `count` deliveries carry.
async fn numbers(node: &mut Running, count: u32) -> Vec<u32> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let bytes = recv(node).await.payload.to_vec();
        numbers.push(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
    }
    numbers
}

/// Sends numbered batches to all members, one after the other is accepted.
async fn send_numbers(client: &Client, numbers: std::ops::Range<u32>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        let bytes = Bytes::from([&number.to_le_bytes()[..], &[7; 500]].concat());
        receipts.push(soon("send", client.send(to_all(&bytes))).await.unwrap());
    }
    receipts
}

async fn all_delivered(receipts: Vec<Receipt>) -> Vec<Outcome> {
    let mut all = Vec::new();
    for receipt in receipts {
        let outcomes = soon("a receipt", receipt).await;
        assert_eq!(outcomes.len(), MEMBERS.len());
        assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
        all.extend(outcomes);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_goes_through_the_proxy_to_every_member() {
    let mut mesh = Mesh::start(&["eu-pa"]).await;
    let shared = Bytes::from(vec![42; 10_000]);
    let mut batch = Batch::to(dc("eu"));
    for (member, kind) in MEMBERS.iter().zip(1..) {
        let own = Bytes::from(vec![kind; 10]);
        let payload: trunkline_mesh::Payload = [own, shared.clone()].into_iter().collect();
        batch.push(Message::new(id(member), payload).kind(kind).lane(Lane::Control));
    }
    let receipt = soon("send", mesh.leader.client.send(batch)).await.unwrap();
    for (member, kind) in mesh.members.iter_mut().zip(1..) {
        let delivery = recv(member).await;
        assert_eq!((delivery.origin.as_str(), delivery.kind, delivery.lane), ("leader", kind, Lane::Control));
        assert_eq!(delivery.payload.to_vec(), [&[kind; 10][..], &shared].concat());
    }
    for outcome in soon("the receipt", receipt).await {
        let Outcome::Delivered { route, attempts, rtt } = outcome else { panic!("{outcome:?}") };
        assert_eq!((route, attempts), (Route::Proxy(id("eu-pa")), 1));
        assert!(rtt > Duration::ZERO && rtt < SOON);
    }
    let stats = mesh.leader.mesh().stats();
    assert_eq!(stats.datacenters[&dc("eu")].delivered_by_proxy, 3);
    let proxy = || mesh.proxies["eu-pa"].mesh().stats().proxy;
    assert_eq!(proxy().forwarded, 3);
    // A hop ends when the write returns, and the member's answer may be back before that.
    eventually("three hops", || proxy().hop_latency.count() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_second_stage_carries_messages() {
    let text = Bytes::from("the same words come again and again, ".repeat(300));
    for stage in [Stage::None, Stage::Lz4, Stage::Zstd] {
        if stage == Stage::Zstd && !cfg!(feature = "zstd") {
            continue;
        }
        let mut cluster = nodes();
        cluster.settings.second_stage = stage;
        let mut mesh = Mesh::start_with(cluster, &["eu-pa"]).await;
        let receipt = soon("send", mesh.leader.client.send(to_all(&text))).await.unwrap();
        for member in &mut mesh.members {
            assert_eq!(recv(member).await.payload.to_vec(), text, "{stage:?}");
        }
        all_delivered(vec![receipt]).await;
        // A frame is counted when its write returns, and the answers may be back before that.
        let sent = || mesh.leader.mesh().stats().datacenters[&dc("eu")].sent.clone();
        eventually("the frame is counted", || sent().diff > 11_000).await;
        let sent = sent();
        let compressed = sent.second_stage * 8 < sent.diff;
        assert_eq!(compressed, stage != Stage::None, "{stage:?}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_sizes_arrive_in_order_and_once() {
    let mut mesh = Mesh::start(&["eu-pa"]).await;
    let sizes = [0_usize, 1, 200, 5_000, 70_000, 1 << 20, 2 << 20];
    for round in 0_u32..10 {
        // A round fits into the destination's budget, so all of it is under way at once.
        let mut receipts = Vec::new();
        for (number, size) in (0_u32..).zip(sizes) {
            let bytes = Bytes::from([&(7 * round + number).to_le_bytes()[..], &vec![9; size]].concat());
            receipts.push(soon("send", mesh.leader.client.send(to_one("eu-1", bytes))).await.unwrap());
        }
        assert_eq!(numbers(&mut mesh.members[0], 7).await, (7 * round..7 * round + 7).collect::<Vec<_>>());
        for receipt in receipts {
            let outcomes = soon("a receipt", receipt).await;
            assert!(outcomes[0].is_delivered(), "{outcomes:?}");
        }
    }
    assert!(mesh.members[0].inbox.try_recv().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_costs_nothing_while_another_lives() {
    let mut mesh = Mesh::start(&["eu-pa", "eu-pb"]).await;
    let first = send_numbers(&mesh.leader.client, 0..20).await;
    let outcomes = all_delivered(first).await;
    let Route::Proxy(used) = route(&outcomes[0]).clone() else { panic!("{outcomes:?}") };
    let client = mesh.leader.client.clone();
    let sender = tokio::spawn(async move {
        // A few at a time, so that there is a middle to be killed in.
        let mut outcomes = Vec::new();
        for first in (20..1_000).step_by(20) {
            outcomes.extend(all_delivered(send_numbers(&client, first..first + 20).await).await);
        }
        outcomes
    });
    eventually("some of them arrived", || mesh.members[0].mesh().stats().member.handed_over > 100).await;
    mesh.proxies[used.as_str()].mesh().kill();
    assert!(!sender.is_finished());
    let outcomes = soon("the rest", sender).await.unwrap();
    assert_ne!(*route(outcomes.last().unwrap()), Route::Proxy(used));
    for member in &mut mesh.members {
        assert_eq!(
            numbers(member, 1_000).await,
            (0..1_000).collect::<Vec<_>>(),
            "nothing lost, nothing twice"
        );
        assert!(member.inbox.try_recv().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_proxy_is_left_for_another_one() {
    let mut mesh = Mesh::start(&["eu-pa", "eu-pb"]).await;
    let outcomes = all_delivered(send_numbers(&mesh.leader.client, 0..5).await).await;
    let Route::Proxy(used) = route(&outcomes[0]).clone() else { panic!("{outcomes:?}") };
    mesh.proxies[used.as_str()].mesh().set_frozen(true);
    let outcomes = all_delivered(send_numbers(&mesh.leader.client, 5..50).await).await;
    assert_ne!(*route(outcomes.last().unwrap()), Route::Proxy(used));
    for member in &mut mesh.members {
        assert_eq!(numbers(member, 50).await, (0..50).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_proxy_messages_go_direct_and_come_back_to_the_next_one() {
    let mut mesh = Mesh::start(&["eu-pa", "eu-pb"]).await;
    all_delivered(send_numbers(&mesh.leader.client, 0..10).await).await;
    for proxy in mesh.proxies.values() {
        proxy.mesh().kill();
    }
    let outcomes = all_delivered(send_numbers(&mesh.leader.client, 10..20).await).await;
    assert_eq!(*route(outcomes.last().unwrap()), Route::Direct);
    for member in &mut mesh.members {
        assert_eq!(numbers(member, 20).await, (0..20).collect::<Vec<_>>());
    }
    assert!(mesh.leader.mesh().stats().datacenters[&dc("eu")].delivered_direct >= 30);
    let proxy = mesh.cluster.start("eu-pb").await;
    eventually("the proxy is back", || {
        mesh.leader.reaches("eu-pb") && MEMBERS.iter().all(|member| proxy.reaches(member))
    })
    .await;
    let deadline = Instant::now() + SOON;
    loop {
        let outcomes = all_delivered(send_numbers(&mesh.leader.client, 0..1).await).await;
        if matches!(route(&outcomes[0]), Route::Proxy(_)) {
            break;
        }
        assert!(Instant::now() < deadline, "not in time: back to the proxy");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_proxy_finishes_what_it_has_and_is_left() {
    let mut mesh = Mesh::start(&["eu-pa", "eu-pb"]).await;
    let outcomes = all_delivered(send_numbers(&mesh.leader.client, 0..5).await).await;
    let Route::Proxy(used) = route(&outcomes[0]).clone() else { panic!("{outcomes:?}") };
    let client = mesh.leader.client.clone();
    let sender = tokio::spawn(async move { send_numbers(&client, 5..500).await });
    soon("drain", mesh.proxies[used.as_str()].mesh().drain()).await;
    // All of these may have gone out before the leader was told; what is sent afterwards may not.
    all_delivered(sender.await.unwrap()).await;
    let outcomes = all_delivered(send_numbers(&mesh.leader.client, 500..505).await).await;
    assert_ne!(*route(&outcomes[0]), Route::Proxy(used));
    for member in &mut mesh.members {
        assert_eq!(numbers(member, 505).await, (0..505).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_budget_holds_senders_back_in_order_and_lets_them_go_on() {
    let mut cluster = nodes();
    cluster.settings.message_bytes_max = 64 * 1024;
    cluster.settings.destination_budget_bytes = 256 * 1024;
    cluster.settings.datacenter_budget_bytes = 280 * 1024;
    let mut mesh = Mesh::start_with(cluster, &["eu-pa"]).await;
    // Nobody answers, so nothing leaves the budget.
    mesh.proxies["eu-pa"].mesh().kill();
    for member in &mesh.members {
        member.mesh().kill();
    }
    let block = Bytes::from(vec![1; 60 * 1024]);
    let client = mesh.leader.client.clone();
    let mut kept = Vec::new();
    let busy = loop {
        let member = MEMBERS[kept.len() % MEMBERS.len()];
        match client.try_send(to_one(member, block.clone())) {
            Ok(receipt) => kept.push(receipt),
            Err(error) => break error,
        }
        assert!(kept.len() < 100, "the budget has an end");
    };
    let TrySendError::Busy { datacenter, queued_bytes, batch } = busy else { panic!("{busy:?}") };
    assert_eq!(datacenter, dc("eu"));
    assert!(queued_bytes > 128 * 1024, "{queued_bytes}");
    assert_eq!(batch.messages()[0].len(), block.len(), "the batch comes back whole");
    let over =
        soon("a batch that can never fit", client.send(to_one("eu-1", vec![0; 300 * 1024]))).await.err();
    assert!(matches!(over, Some(SendError::OverBudget { .. })), "{over:?}");
    // Three senders wait; the one in the middle gives up.
    let wait = |bytes: usize| {
        let (client, batch) = (client.clone(), to_one("eu-1", vec![2; bytes]));
        async move { client.send(batch).await }
    };
    let first = tokio::spawn(wait(block.len()));
    eventually("the first waits", || mesh.leader.mesh().stats().busy == 2).await;
    let second = tokio::spawn(wait(block.len()));
    eventually("the second waits behind it", || mesh.leader.mesh().stats().busy == 3).await;
    let small = client.try_send(to_one("eu-1", vec![0]));
    assert!(matches!(small, Err(TrySendError::Busy { .. })), "those who wait came first: {small:?}");
    // A heartbeat has a line and a share of the budget of its own.
    let mut beat = Batch::to(dc("eu"));
    beat.push(Message::new(id("eu-1"), Bytes::from_static(b"beat")).lane(Lane::Control));
    kept.push(client.try_send(beat).expect("heartbeats do not wait behind data"));
    // It would fit, but it came last.
    let third = tokio::spawn(wait(1));
    eventually("the third waits behind it", || mesh.leader.mesh().stats().busy == 5).await;
    second.abort();
    assert!(second.await.is_err());
    assert!(!first.is_finished() && !third.is_finished());
    // The member comes back, empties the budget, and the others get their turn.
    mesh.members = Vec::new();
    for name in MEMBERS {
        mesh.members.push(mesh.cluster.start(name).await);
    }
    for (receipt, number) in [(first, 1), (third, 3)] {
        let receipt = soon("a waiting send", receipt).await.unwrap().unwrap();
        let outcomes = soon("a receipt", receipt).await;
        assert!(outcomes[0].is_delivered(), "sender {number}: {outcomes:?}");
    }
    for receipt in kept {
        let outcomes = soon("a receipt", receipt).await;
        assert!(outcomes[0].is_delivered(), "{outcomes:?}");
    }
    assert_eq!(mesh.leader.mesh().stats().busy, 5, "a sender that waits counts once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_fills_its_own_budget_and_no_other() {
    let mut cluster = nodes();
    cluster.settings.message_bytes_max = 64 * 1024;
    cluster.settings.destination_budget_bytes = 64 * 1024;
    // Nobody else is there: what is accepted stays until its deadline.
    let leader = cluster.start("leader").await;
    let mut batch = Batch::to(dc("eu"));
    for member in ["eu-1", "eu-1", "eu-2"] {
        let message = Message::new(id(member), vec![1; 40 * 1024]).deadline(Duration::from_millis(300));
        batch.push(message);
    }
    let receipt = leader.client.send(batch).await.unwrap();
    let expired = || failed(FailReason::Expired);
    assert_eq!(soon("the receipt", receipt).await, [expired(), failed(FailReason::Refused), expired()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_tells_senders_that_wait() {
    let mut cluster = nodes();
    cluster.settings.message_bytes_max = 64 * 1024;
    cluster.settings.destination_budget_bytes = 64 * 1024;
    cluster.settings.datacenter_budget_bytes = 70 * 1024;
    let leader = cluster.start("leader").await;
    let block = Bytes::from(vec![1; 60 * 1024]);
    let receipt = leader.client.send(to_one("eu-1", block.clone())).await.unwrap();
    let client = leader.client.clone();
    let waiting = tokio::spawn(async move { client.send(to_one("eu-1", block)).await });
    eventually("it waits", || leader.mesh().stats().busy == 1).await;
    leader.mesh().close();
    assert_eq!(soon("the waiting send", waiting).await.unwrap().err(), Some(SendError::Closed));
    // It was never written to any connection.
    assert_eq!(soon("the receipt", receipt).await, [failed(FailReason::Closed)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_never_reads_its_inbox_hurts_nobody_else() {
    let mut cluster = nodes();
    cluster.settings.message_bytes_max = 64 * 1024;
    cluster.settings.inbox_bytes_max = 64 * 1024;
    cluster.settings.reorder_bytes_max = 64 * 1024;
    let mut mesh = Mesh::start_with(cluster, &["eu-pa"]).await;
    let client = mesh.leader.client.clone();
    let stuck = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        for _ in 0..16 {
            let mut batch = Batch::to(dc("eu"));
            batch.push(Message::new(id("eu-1"), vec![0; 10_000]).deadline(Duration::from_millis(300)));
            outcomes.extend(client.send(batch).await.unwrap().await);
        }
        outcomes
    });
    let mut worst = Duration::ZERO;
    for number in 0_u32..200 {
        let sent = Instant::now();
        let receipt = mesh.leader.client.send(to_one("eu-2", number.to_le_bytes().to_vec())).await.unwrap();
        let outcomes = soon("a receipt", receipt).await;
        assert!(outcomes[0].is_delivered(), "{outcomes:?}");
        worst = worst.max(sent.elapsed());
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    assert_eq!(numbers(&mut mesh.members[1], 200).await, (0..200).collect::<Vec<_>>());
    let outcomes = soon("the stuck member's receipts", stuck).await.unwrap();
    let delivered = outcomes.iter().filter(|outcome| outcome.is_delivered()).count();
    assert!((1..16).contains(&delivered), "its inbox took {delivered} and no more");
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_delivered()) {
        let Outcome::Failed { reason, .. } = outcome else { unreachable!() };
        assert_eq!(*reason, FailReason::Refused, "for want of room");
    }
    // What it holds is still there, in order.
    assert_eq!(recv(&mut mesh.members[0]).await.payload.len(), 10_000);
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_per_message() {
    let mesh = Mesh::start(&["eu-pa"]).await;
    let client = &mesh.leader.client;
    let mut batch = to_one("eu-1", vec![1]);
    batch.push(Message::new(id("nobody"), vec![1]));
    batch.push(Message::new(id("leader"), vec![1]));
    batch.push(Message::new(id("eu-2"), vec![0; mesh.cluster.settings.message_bytes_max + 1]));
    let outcomes = soon("the receipt", client.send(batch).await.unwrap()).await;
    assert!(outcomes[0].is_delivered(), "{outcomes:?}");
    assert_eq!(outcomes[1], failed(FailReason::UnknownNode));
    assert_eq!(outcomes[2], failed(FailReason::UnknownNode), "it stands in another datacenter");
    assert_eq!(outcomes[3], failed(FailReason::TooLarge));
    let nowhere = client.send(Batch::to(dc("mars"))).await.err();
    assert_eq!(nowhere, Some(SendError::UnknownDatacenter));
    assert!(matches!(client.try_send(Batch::to(dc("mars"))), Err(TrySendError::UnknownDatacenter)));
    let nothing = soon("an empty batch", client.send(Batch::to(dc("eu"))).await.unwrap()).await;
    assert_eq!(nothing, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_what_is_under_way() {
    let mut mesh = Mesh::start(&["eu-pa"]).await;
    let mut receipts = send_numbers(&mesh.leader.client, 0..200).await;
    // Enough to be still under way when the drain begins.
    let last = Bytes::from([&200_u32.to_le_bytes()[..], &vec![8; 3 << 20]].concat());
    receipts.push(soon("send", mesh.leader.client.send(to_all(&last))).await.unwrap());
    soon("drain", mesh.leader.mesh().drain()).await;
    all_delivered(receipts).await;
    assert_eq!(mesh.leader.client.send(to_all(&Bytes::new())).await.err(), Some(SendError::Closed));
    for member in &mut mesh.members {
        assert_eq!(numbers(member, 201).await, (0..201).collect::<Vec<_>>());
        // What is in an inbox outlives the close.
        member.mesh().close();
        assert!(soon("the end", member.inbox.recv()).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_decides_every_receipt() {
    let mesh = Mesh::start(&["eu-pa"]).await;
    mesh.proxies["eu-pa"].mesh().set_frozen(true);
    let receipts = send_numbers(&mesh.leader.client, 0..5).await;
    mesh.leader.mesh().kill();
    for receipt in receipts {
        for outcome in soon("a receipt", receipt).await {
            let closed = matches!(outcome, Outcome::Failed { reason: FailReason::Closed, .. });
            assert!(closed || outcome.is_delivered(), "{outcome:?}");
        }
    }
}
