//! READ FIRST: one batch out, its acks back. A leader in `us`, two proxies and three members in `eu`, real TCP on
//! loopback; what a program that links the mesh sees, and nothing else.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support::addresses::own;
use tokio::time::timeout;
use trunkline_mesh::{
    Batch, Client, ClusterId, Config, Datacenter, FailReason, Inbox, Lane, Message, NodeId, NodeSpec,
    Outcome, Payload, Roles, Route, Topology, join,
};

/// Nothing here takes long; what hangs shall say so.
const SOON: Duration = Duration::from_secs(10);

const MEMBERS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn eu() -> Datacenter {
    Datacenter::new("eu").unwrap()
}

/// The one topology that all nodes share.
fn topology() -> Arc<Topology> {
    let node = |name: &str, dc: &str, roles: Roles| NodeSpec {
        id: id(name),
        datacenter: Datacenter::new(dc).unwrap(),
        roles,
        address: roles.accepts().then(|| own(1)[0]),
    };
    let mut nodes = vec![
        node("leader", "us", Roles::ORIGIN),
        node("eu-proxy-1", "eu", Roles::PROXY),
        node("eu-proxy-2", "eu", Roles::PROXY),
    ];
    nodes.extend(MEMBERS.map(|name| node(name, "eu", Roles::MEMBER)));
    Arc::new(Topology::new(ClusterId::new("journey").unwrap(), nodes).unwrap())
}

async fn start(topology: &Arc<Topology>, name: &str) -> (Client, Inbox) {
    join(Config::new(Arc::clone(topology), id(name))).await.unwrap()
}

/// To every member its own header, and the same entry.
fn append_entries(number: u8, entry: &Bytes) -> Batch {
    let mut batch = Batch::to(eu());
    for (index, member) in (0_u8..).zip(MEMBERS) {
        let header = Bytes::from(vec![number, index]);
        let payload: Payload = [header, entry.clone()].into_iter().collect();
        batch.push(Message::new(id(member), payload).kind(1).lane(Lane::Bulk));
    }
    batch
}

async fn expect(inbox: &mut Inbox, number: u8, index: u8, entry: &Bytes) {
    let delivery = timeout(SOON, inbox.recv()).await.expect("a delivery in time").expect("the mesh is open");
    assert_eq!((delivery.origin.as_str(), delivery.kind, delivery.lane), ("leader", 1, Lane::Bulk));
    assert_eq!(delivery.payload.to_vec(), [&[number, index][..], entry].concat());
}

#[tokio::test]
async fn a_batch_crosses_once_is_fanned_out_and_survives_its_proxies() {
    let topology = topology();

    // Every node is started from the same topology and has the roles that it gives it.
    let mut inboxes = Vec::new();
    for member in MEMBERS {
        inboxes.push(start(&topology, member).await.1);
    }
    let (proxy_1, _) = start(&topology, "eu-proxy-1").await;
    let (proxy_2, _) = start(&topology, "eu-proxy-2").await;
    let (leader, _) = start(&topology, "leader").await;

    // The leader hands over one batch for the datacenter. Accepted is not delivered: the receipt tells that.
    let entry = Bytes::from(vec![7; 20_000]);
    let receipt = leader.send(append_entries(1, &entry)).await.unwrap();

    // Every member gets its own message, rebuilt to the byte.
    for (index, inbox) in (0_u8..).zip(&mut inboxes) {
        expect(inbox, 1, index, &entry).await;
    }

    // One outcome per message, in the order of the batch.
    let outcomes = timeout(SOON, receipt).await.unwrap();
    assert_eq!(outcomes.len(), MEMBERS.len());
    assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");

    // Three messages of 20 kB would have cost 60 kB; the entry crossed once, and compressed.
    let sent = &leader.mesh().stats().datacenters[&eu()].sent;
    assert!(sent.logical > 60_000 && sent.diff < 21_000 && sent.second_stage <= sent.diff, "{sent:?}");

    // A message that is no member's fails alone; the others of its batch arrive.
    let mut mixed = append_entries(2, &entry);
    mixed.push(Message::new(id("eu-proxy-1"), Bytes::from_static(b"a proxy is no member")));
    let outcomes = timeout(SOON, leader.send(mixed).await.unwrap()).await.unwrap();
    assert!(outcomes[..3].iter().all(Outcome::is_delivered), "{outcomes:?}");
    assert_eq!(outcomes[3], Outcome::Failed { reason: FailReason::UnknownNode, maybe_delivered: false });

    // The proxy in use dies without a word. What it had not delivered goes by the other one; a member sees neither a
    // gap, nor a second copy, nor another order.
    let in_use = |outcomes: &[Outcome]| match &outcomes[0] {
        Outcome::Delivered { route: Route::Proxy(proxy), .. } => Some(proxy.as_str().to_owned()),
        _ => None,
    };
    let by_name = |name: &str| if name == "eu-proxy-1" { &proxy_1 } else { &proxy_2 };
    let first = in_use(&outcomes).expect("proxies are there, so one was used");
    let receipt = leader.send(append_entries(3, &entry)).await.unwrap();
    by_name(&first).mesh().kill();
    let outcomes = timeout(SOON, receipt).await.unwrap();
    assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");

    // With both proxies dead, the leader sends directly.
    proxy_1.mesh().kill();
    proxy_2.mesh().kill();
    let outcomes = timeout(SOON, leader.send(append_entries(4, &entry)).await.unwrap()).await.unwrap();
    let direct = |outcome: &Outcome| matches!(outcome, Outcome::Delivered { route: Route::Direct, .. });
    assert!(outcomes.iter().all(direct), "{outcomes:?}");

    for (index, inbox) in (0_u8..).zip(&mut inboxes) {
        for number in 2..=4 {
            expect(inbox, number, index, &entry).await;
        }
    }

    // Going away in good order: what is under way is finished, peers are told.
    timeout(SOON, leader.mesh().drain()).await.unwrap();
    let late = leader.send(append_entries(5, &entry)).await;
    assert!(late.is_err(), "a drained mesh takes nothing in");
}
