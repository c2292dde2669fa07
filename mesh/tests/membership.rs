//! Nodes and datacenters that come and go while batches are under way, and limits that change: routes, links and outcomes
//! follow.

mod support;

use std::time::Duration;

use support::{Cluster, Running, dc, eventually, id, soon};
use trunkline_mesh::{
    Batch, Config, FailReason, Message, NodeSpec, Outcome, Roles, Route, Security, SendError, Settings,
    Topology, TopologyChange, TopologyChangeError, join,
};

fn nodes() -> Cluster {
    Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("eu-pa", "eu", Roles::PROXY),
        ("eu-pb", "eu", Roles::PROXY),
        ("eu-1", "eu", Roles::MEMBER),
        ("eu-2", "eu", Roles::MEMBER),
        ("ap-1", "ap", Roles::MEMBER),
    ])
}

fn spec(cluster: &Cluster, node: &str) -> NodeSpec {
    cluster.topology.node(&id(node)).unwrap().clone()
}

fn to(datacenter: &str, member: &str, bytes: &[u8]) -> Batch {
    let mut batch = Batch::to(dc(datacenter));
    batch.push(Message::new(id(member), bytes.to_vec()));
    batch
}

async fn send(leader: &Running, datacenter: &str, member: &str, bytes: &[u8]) -> Outcome {
    let receipt = soon("room", leader.client.send(to(datacenter, member, bytes))).await.unwrap();
    soon("the outcome", receipt).await.remove(0)
}

fn route(outcome: &Outcome) -> &Route {
    match outcome {
        Outcome::Delivered { route, .. } => route,
        Outcome::Failed { .. } => panic!("not delivered: {outcome:?}"),
    }
}

fn failed(reason: FailReason) -> Outcome {
    Outcome::Failed { reason, maybe_delivered: false }
}

fn linked(node: &Running, peer: &str) -> bool {
    node.mesh().status().links.iter().any(|link| link.peer == id(peer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_leaves_ends_what_is_under_way_and_goes_on_where_it_was_when_it_is_back() {
    let cluster = nodes();
    let mut member = cluster.start("eu-1").await;
    let proxy = cluster.start("eu-pa").await;
    let leader = cluster.start("leader").await;
    eventually("links", || leader.reaches("eu-pa") && proxy.reaches("eu-1")).await;
    assert!(send(&leader, "eu", "eu-1", b"1").await.is_delivered());

    // Nobody runs eu-2: what is for it stays under way until it is removed.
    let pending = leader.client.send(to("eu", "eu-2", b"never")).await.unwrap();
    let changes = leader.mesh().remove_node(&id("eu-2")).unwrap();
    assert_eq!(changes, [TopologyChange::Removed(spec(&cluster, "eu-2"))]);
    let outcome = soon("the end", pending).await.remove(0);
    assert!(matches!(outcome, Outcome::Failed { reason: FailReason::Removed, .. }), "{outcome:?}");
    assert_eq!(send(&leader, "eu", "eu-2", b"never").await, failed(FailReason::UnknownNode));
    assert_eq!(leader.mesh().stats().datacenters[&dc("eu")].failed["removed"], 1);
    assert_eq!(leader.mesh().status().datacenters.iter().map(|of| of.pending_messages).sum::<u64>(), 0);

    // One that lives on meanwhile gets what comes afterwards, once and in order.
    leader.mesh().remove_node(&id("eu-1")).unwrap();
    proxy.mesh().remove_node(&id("eu-1")).unwrap();
    eventually("the proxy lets it go", || !linked(&proxy, "eu-1")).await;
    proxy.mesh().add_node(spec(&cluster, "eu-1")).unwrap();
    leader.mesh().add_node(spec(&cluster, "eu-1")).unwrap();
    eventually("the proxy reaches it again", || proxy.reaches("eu-1")).await;
    assert!(send(&leader, "eu", "eu-1", b"2").await.is_delivered());
    assert!(send(&leader, "eu", "eu-1", b"3").await.is_delivered());
    for expected in [b"1", b"2", b"3"] {
        let delivery = soon("a delivery", member.inbox.recv()).await.unwrap();
        assert_eq!(delivery.payload.to_vec(), expected);
    }
    assert!(member.inbox.try_recv().is_none());
    assert_eq!(member.mesh().stats().member.duplicates, 0);

    // And so does one that is new to all.
    leader.mesh().add_node(spec(&cluster, "eu-2")).unwrap();
    let _second = cluster.start("eu-2").await;
    assert!(send(&leader, "eu", "eu-2", b"welcome").await.is_delivered());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_come_and_go_under_traffic() {
    let cluster = nodes();
    let _members = [cluster.start("eu-1").await, cluster.start("eu-2").await];
    let first = cluster.start("eu-pa").await;
    let second = cluster.start("eu-pb").await;
    let leader = cluster.start("leader").await;
    leader.mesh().remove_node(&id("eu-pb")).unwrap();
    eventually("links", || {
        leader.reaches("eu-pa")
            && first.reaches("eu-1")
            && second.reaches("eu-1")
            && !linked(&leader, "eu-pb")
    })
    .await;
    assert_eq!(route(&send(&leader, "eu", "eu-1", b"x").await), &Route::Proxy(id("eu-pa")));

    leader.mesh().add_node(spec(&cluster, "eu-pb")).unwrap();
    eventually("the other one is linked", || leader.reaches("eu-pb")).await;
    let batches: Vec<_> = (0..200).map(|_| leader.client.try_send(to("eu", "eu-1", b"y")).unwrap()).collect();
    leader.mesh().remove_node(&id("eu-pa")).unwrap();
    for receipt in batches {
        assert!(soon("an outcome", receipt).await[0].is_delivered());
    }
    assert_eq!(route(&send(&leader, "eu", "eu-1", b"z").await), &Route::Proxy(id("eu-pb")));
    let routes =
        leader.mesh().status().datacenters.into_iter().find(|of| of.name == dc("eu")).unwrap().routes;
    assert_eq!(routes.iter().map(|route| route.proxy.as_str()).collect::<Vec<_>>(), ["eu-pb"]);
    eventually("both ends have let go", || !linked(&leader, "eu-pa") && !linked(&first, "leader")).await;

    // The proxy forgets a member, and refuses what is for it; the sender goes straight.
    second.mesh().remove_node(&id("eu-2")).unwrap();
    assert_eq!(route(&send(&leader, "eu", "eu-2", b"w").await), &Route::Direct);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moves_is_dialled_at_its_new_address() {
    let cluster = nodes();
    let leader = cluster.start("leader").await;
    // Nobody is at the address that the topology says; the proxy listens where eu-pb would.
    let moved = NodeSpec { address: spec(&cluster, "eu-pb").address, ..spec(&cluster, "eu-pa") };
    let config = trunkline_mesh::Config {
        listen: moved.address,
        ..trunkline_mesh::Config::new(cluster.topology.clone(), id("eu-pa"))
    };
    let _proxy = trunkline_mesh::join(config).await.unwrap();
    eventually("a dial in vain", || leader.mesh().stats().dials_failed > 0).await;
    let one = leader.mesh().topology().without(|node| node.id == id("eu-pb") || node.id == id("eu-pa"));
    leader.mesh().set_topology(one.with(moved).unwrap()).unwrap();
    eventually("the link", || leader.reaches("eu-pa")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datacenter_that_leaves_sends_away_who_waits_for_it() {
    let mut cluster = nodes();
    cluster.settings.message_bytes_max = 1000;
    // All that the datacenter may have, so that its budget is the one that is used up.
    cluster.settings.destination_budget_bytes = 11_250;
    cluster.settings.datacenter_budget_bytes = 12_000;
    let leader = cluster.start("leader").await;
    let mut pending = Vec::new();
    while let Ok(receipt) = leader.client.try_send(to("ap", "ap-1", &[1; 1000])) {
        pending.push(receipt);
        assert!(pending.len() < 100, "the budget fills");
    }
    let client = leader.client.clone();
    let waits = tokio::spawn(async move { client.send(to("ap", "ap-1", &[2; 1000])).await.map(drop) });
    eventually("it waits", || leader.mesh().stats().busy > 1).await;
    leader.mesh().remove_datacenter(&dc("ap")).unwrap();
    assert_eq!(soon("the word", waits).await.unwrap(), Err(SendError::UnknownDatacenter));
    for receipt in pending {
        let outcome = soon("an outcome", receipt).await.remove(0);
        let reason = |outcome: &Outcome| match outcome {
            Outcome::Failed { reason, .. } => Some(*reason),
            Outcome::Delivered { .. } => None,
        };
        assert!(matches!(reason(&outcome), Some(FailReason::Removed)), "{outcome:?}");
    }
    assert!(leader.mesh().status().datacenters.iter().all(|of| of.name != dc("ap")));

    // The same name anew, with another member.
    let ap = NodeSpec { id: id("ap-9"), ..spec(&cluster, "ap-1") };
    leader.mesh().add_node(ap).unwrap();
    assert_eq!(leader.mesh().status().datacenters.iter().filter(|of| of.name == dc("ap")).count(), 1);
    let receipt = leader.client.send(to("ap", "ap-9", b"x")).await.unwrap();
    leader.mesh().close();
    let outcome = soon("the end", receipt).await.remove(0);
    assert!(matches!(outcome, Outcome::Failed { reason: FailReason::Closed, .. }), "{outcome:?}");
    assert_eq!(leader.mesh().remove_node(&id("eu-1")), Err(TopologyChangeError::Closed));
}

#[tokio::test]
async fn what_a_running_node_cannot_become_is_refused_by_name() {
    let cluster = nodes();
    let node = cluster.start("eu-1").await;
    let before = node.mesh().topology();
    let own = TopologyChangeError::OwnNode(id("eu-1"));
    assert_eq!(node.mesh().remove_node(&id("eu-1")), Err(own.clone()));
    assert_eq!(node.mesh().remove_datacenter(&dc("eu")), Err(own));
    let error = node.mesh().replace_node(NodeSpec { roles: Roles::PROXY, ..spec(&cluster, "eu-1") });
    assert_eq!(
        error.unwrap_err().to_string(),
        "the roles of node `eu-1` cannot change while it runs: restart it for that"
    );
    let twice = node.mesh().add_node(spec(&cluster, "eu-2"));
    assert!(matches!(twice, Err(TopologyChangeError::Invalid(_))), "{twice:?}");
    assert_eq!(node.mesh().remove_node(&id("x")), Err(TopologyChangeError::UnknownNode(id("x"))));
    assert_eq!(node.mesh().remove_datacenter(&dc("x")), Err(TopologyChangeError::UnknownDatacenter(dc("x"))));
    assert_eq!(node.mesh().topology(), before, "nothing was changed");
}

/// A node that moves needs no new name and could bring a new datacenter each time.
#[tokio::test]
async fn so_many_datacenters_may_come_and_go_in_one_process() {
    const MAX: usize = 4_096;
    let cluster = nodes();
    let leader = cluster.start("leader").await;
    // Members `m…`, each in a datacenter of its own.
    let with = |prefix: &str, count: usize| {
        let more = (0..count).map(|index| {
            let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
            NodeSpec {
                id: id(&format!("m{index}")),
                datacenter: dc(&format!("{prefix}{index}")),
                roles: Roles::MEMBER,
                address: Some(([127, 200, high, low], 7400).into()),
            }
        });
        let all = cluster.topology.nodes().cloned().chain(more);
        Topology::new(cluster.topology.cluster().clone(), all).unwrap()
    };
    // Beside `us`, `eu` and `ap`.
    leader.mesh().set_topology(with("a", MAX - 4)).unwrap();
    leader.mesh().set_topology(with("b", 1)).unwrap();
    assert_eq!(leader.mesh().status().datacenters.len(), 4, "the others left");
    let refused = leader.mesh().set_topology(with("c", 1));
    let expected = TopologyChangeError::TooManyDatacenters { known: MAX + 1, max: MAX };
    assert_eq!(refused, Err(expected));
    assert!(leader.mesh().set_topology(with("a", 10)).is_ok(), "they are known");
}

/// As at the start: whoever was joined for loopback alone is told so for what comes later, and nothing changes.
#[tokio::test]
async fn plaintext_stays_on_loopback_whoever_is_added_later() {
    let cluster = nodes();
    let leader = cluster.start("leader").await;
    let before = leader.mesh().topology();
    let far = |node: &str| NodeSpec {
        id: id(node),
        datacenter: dc("eu"),
        roles: Roles::MEMBER,
        address: Some("192.0.2.1:7400".parse().unwrap()),
    };
    let mapped = NodeSpec { address: Some("[::ffff:192.0.2.1]:7400".parse().unwrap()), ..far("eu-9") };
    let all = before.with(far("eu-9")).unwrap();
    for refused in [
        leader.mesh().add_node(far("eu-9")),
        leader.mesh().add_node(mapped),
        leader.mesh().replace_node(far("eu-1")),
        leader.mesh().set_topology(all),
    ] {
        assert!(matches!(refused, Err(TopologyChangeError::Unprotected(_))), "{refused:?}");
    }
    assert_eq!(leader.mesh().topology(), before);
    let near = NodeSpec { address: Some("127.0.0.9:7400".parse().unwrap()), ..far("eu-9") };
    assert!(leader.mesh().add_node(near).is_ok());
    drop(leader);
    let open = Config { security: Security::Insecure, ..Config::new(cluster.topology.clone(), id("leader")) };
    let (client, _inbox) = join(open).await.unwrap();
    assert!(client.mesh().add_node(far("eu-9")).is_ok(), "as it was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_while_a_node_runs() {
    let cluster = nodes();
    let leader = cluster.start("leader").await;
    let small = Settings {
        message_bytes_max: 10,
        message_deadline: Duration::from_millis(50),
        ..cluster.settings.clone()
    };
    let wrong = Settings { snooze_min: Duration::from_secs(100), ..small.clone() };
    assert!(leader.mesh().set_settings(&wrong).is_err());
    leader.mesh().set_settings(&small).unwrap();
    assert_eq!(send(&leader, "eu", "eu-1", &[0; 11]).await, failed(FailReason::TooLarge));
    assert_eq!(send(&leader, "eu", "eu-1", &[0; 10]).await, failed(FailReason::Expired));
}
