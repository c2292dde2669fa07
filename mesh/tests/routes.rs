//! The decision log on real sockets: it must answer "why did this go direct?".

mod support;

use std::time::Duration;

use support::{Cluster, Running, dc, eventually, id, soon};
use trunkline_mesh::stats::decision::{DatacenterRoutes, Decision};
use trunkline_mesh::{Batch, Message, Outcome, PingError, Roles};

const MEMBERS: [&str; 2] = ["eu-1", "eu-2"];

fn nodes() -> Cluster {
    let mut cluster = Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("us-1", "us", Roles::MEMBER),
        ("eu-pa", "eu", Roles::PROXY),
        ("eu-pb", "eu", Roles::PROXY),
        ("eu-1", "eu", Roles::MEMBER),
        ("eu-2", "eu", Roles::MEMBER),
    ]);
    cluster.settings.attempt_timeout_max = Duration::from_millis(200);
    cluster
}

async fn send(leader: &Running, datacenter: &str, members: &[&str]) {
    let mut batch = Batch::to(dc(datacenter));
    batch.extend(members.iter().map(|member| Message::new(id(member), b"x".to_vec())));
    let receipt = leader.client.send(batch).await.unwrap();
    assert!(soon("outcomes", receipt).await.iter().all(Outcome::is_delivered));
}

fn routes(leader: &Running, datacenter: &str) -> DatacenterRoutes {
    let routes = leader.mesh().routes();
    assert!(routes.origin);
    routes.datacenters.into_iter().find(|routes| routes.status.name == dc(datacenter)).unwrap()
}

/// The latest decision that was no wait.
fn latest(leader: &Running, datacenter: &str) -> Decision {
    let decisions = routes(leader, datacenter).decisions;
    decisions.into_iter().find(|decision| decision.way != "wait").unwrap()
}

/// Proxy and reason of every way that was passed over.
fn passed(decision: &Decision) -> Vec<(&str, &str)> {
    let name =
        |of: &'_ trunkline_mesh::stats::decision::PassedWay| of.proxy.as_ref().map(ToString::to_string);
    let known = ["eu-pa", "eu-pb"];
    let named = |of| known.into_iter().find(|known| name(of).as_deref() == Some(*known)).unwrap_or("direct");
    decision.passed.iter().map(|of| (named(of), of.why)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_why_messages_went_as_they_did() {
    let cluster = nodes();
    let _members = [cluster.start("eu-1").await, cluster.start("eu-2").await, cluster.start("us-1").await];
    let leader = cluster.start("leader").await;
    assert_eq!(routes(&leader, "eu").decisions, []);

    // No proxy runs: straight, and it says that neither was linked.
    send(&leader, "eu", &MEMBERS).await;
    let direct = latest(&leader, "eu");
    assert_eq!((direct.way, direct.why, direct.attempt), ("direct", "proxies_passed", 1));
    assert_eq!(passed(&direct), [("eu-pa", "not_linked"), ("eu-pb", "not_linked")]);
    let waited = routes(&leader, "eu").decisions;
    assert!(
        waited.iter().any(|of| (of.way, of.why) == ("wait", "dialling")),
        "until it was dialled: {waited:?}"
    );
    // In its own datacenter there is nothing to explain.
    send(&leader, "us", &["us-1"]).await;
    assert_eq!((latest(&leader, "us").why, latest(&leader, "us").passed), ("local", Vec::new()));

    // One comes: through it, and the other one is still not linked.
    let pa = cluster.start("eu-pa").await;
    eventually("links", || leader.reaches("eu-pa") && MEMBERS.iter().all(|of| pa.reaches(of))).await;
    for _ in 0..5 {
        send(&leader, "eu", &MEMBERS).await;
    }
    let by_proxy = latest(&leader, "eu");
    assert_eq!((by_proxy.way, by_proxy.why), ("proxy", "in_use"));
    assert_eq!(by_proxy.proxy, Some(id("eu-pa")));
    assert_eq!(passed(&by_proxy), [("eu-pb", "not_linked")]);
    assert!(by_proxy.times > 1, "equal ones are one entry: {by_proxy:?}");
    let row = routes(&leader, "eu").status.routes.remove(0);
    assert!(row.linked && row.in_use && row.ack_us > Some(0) && row.rtt_us > Some(0), "{row:?}");

    // It swallows batches: convicted, and the messages take the other way in a second attempt.
    pa.mesh().set_frozen(true);
    send(&leader, "eu", &MEMBERS).await;
    let again = latest(&leader, "eu");
    assert_eq!((again.way, again.why), ("direct", "proxies_passed"));
    assert!(again.attempt >= 2, "{again:?}");
    assert_eq!(passed(&again)[0], ("eu-pa", "snoozed"));
    let left_ms = again.passed[0].left_ms;
    assert!(left_ms > Some(0) && left_ms <= Some(1_000), "{again:?}");
    let row = routes(&leader, "eu").status.routes.remove(0);
    assert_eq!((row.state, row.failures, row.trial), ("snoozed", 1, false));

    // Its snooze passes, and it is tried.
    pa.mesh().set_frozen(false);
    eventually("the snooze is over", || routes(&leader, "eu").status.routes[0].trial).await;
    send(&leader, "eu", &MEMBERS).await;
    let decisions = routes(&leader, "eu").decisions;
    assert!(decisions.iter().any(|of| (of.way, of.why) == ("proxy", "trial")), "{decisions:?}");
    assert!(!routes(&leader, "eu").status.routes[0].trial, "it delivered");
}

#[tokio::test]
async fn a_node_that_sends_nothing_has_no_routes() {
    let cluster = nodes();
    let member = cluster.start("eu-1").await;
    let routes = member.mesh().routes();
    assert_eq!((routes.node, routes.origin, routes.datacenters), (id("eu-1"), false, Vec::new()));
    assert!(routes.now_unix_ms > 1_600_000_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_takes_the_way_of_messages_and_delivers_nothing() {
    let cluster = nodes();
    let mut member = cluster.start("eu-1").await;
    let leader = cluster.start("leader").await;
    let patience = support::SOON;
    // Nobody is between them: straight.
    let straight = leader.mesh().ping(&id("eu-1"), patience).await.unwrap();
    assert_eq!((straight.way, straight.proxy), ("direct", None));
    assert!(straight.rtt_us > 0 && straight.clock_offset_us.is_some());
    let pa = cluster.start("eu-pa").await;
    eventually("links", || leader.reaches("eu-pa") && pa.reaches("eu-1")).await;
    // On a machine that is busy an attempt may be late, and the next one goes straight.
    let by_proxy = tokio::time::timeout(support::SOON, async {
        loop {
            let ping = leader.mesh().ping(&id("eu-1"), patience).await.unwrap();
            if ping.way == "proxy" {
                return ping;
            }
        }
    });
    assert_eq!(by_proxy.await.expect("a ping by proxy").proxy, Some(id("eu-pa")));
    // One that swallows it costs an attempt.
    pa.mesh().set_frozen(true);
    let again = leader.mesh().ping(&id("eu-1"), patience).await.unwrap();
    assert_eq!(again.way, "direct");
    assert!(again.attempts >= 2, "{again:?}");
    pa.mesh().set_frozen(false);
    // A proxy is no destination: the link to it.
    let link = leader.mesh().ping(&id("eu-pa"), patience).await.unwrap();
    assert_eq!(link.way, "link");
    // Several wait for one answer, or each for an own one.
    let node = id("eu-1");
    let both = tokio::join!(leader.mesh().ping(&node, patience), leader.mesh().ping(&node, patience));
    assert!(both.0.is_ok() && both.1.is_ok());
    send(&leader, "eu", &["eu-1"]).await;
    assert_eq!(member.inbox.try_recv().unwrap().payload.to_vec(), b"x");
    assert!(member.inbox.try_recv().is_none(), "pings were not delivered");

    let none = leader.mesh().ping(&id("eu-2"), Duration::from_millis(50)).await;
    assert!(matches!(none, Err(PingError::TimedOut { .. })), "{none:?}");
    assert_eq!(leader.mesh().ping(&id("x"), patience).await, Err(PingError::UnknownNode(id("x"))));
    assert_eq!(member.mesh().ping(&id("eu-pb"), patience).await, Err(PingError::NotLinked(id("eu-pb"))));
    assert_eq!(member.mesh().ping(&id("eu-pa"), patience).await, Err(PingError::NotDialled(id("eu-pa"))));
    leader.mesh().close();
    assert_eq!(leader.mesh().ping(&node, patience).await, Err(PingError::Closed));
}

/// It is down, and no proxy said anything either: what was asked is how the messages fare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_by_proxy_that_nobody_answers_took_too_long_and_one_of_a_link_says_that_there_is_none() {
    let cluster = Cluster::new(&[
        ("leader", "us", Roles::ORIGIN),
        ("eu-pa", "eu", Roles::PROXY),
        ("eu-pb", "eu", Roles::PROXY),
        ("eu-pm", "eu", Roles { proxy: true, ..Roles::MEMBER }),
    ]);
    let leader = cluster.start("leader").await;
    let _pa = cluster.start("eu-pa").await;
    eventually("a link", || leader.reaches("eu-pa")).await;
    let patience = Duration::from_millis(300);
    let told = leader.mesh().ping(&id("eu-pm"), patience).await;
    assert!(matches!(told, Err(PingError::TimedOut { .. })), "{told:?}");
    let told = leader.mesh().ping(&id("eu-pb"), patience).await;
    assert!(matches!(told, Err(PingError::Down { .. })), "{told:?}");
}
