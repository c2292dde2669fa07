//! Two thousand links that come back after a partition, in virtual time, from both ends: how long it takes with the default
//! limits, and that links which were never lost do not notice.

mod lab;

use std::time::Duration;

use lab::{Lab, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const PEERS: usize = 2000;
const PARTITION: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(10);
const DELAY: Duration = Duration::from_millis(20);

/// One node in the datacenter `hub`, and as many elsewhere. A neighbour of the hub stays linked.
fn hub(hub: Roles, elsewhere: Roles) -> Lab {
    let names: Vec<(String, String)> =
        (0..PEERS).map(|peer| (format!("n-{peer}"), format!("dc-{}", peer % 20))).collect();
    let mut nodes = vec![("hub", "hub", hub, None), ("near", "hub", Roles::MEMBER, None)];
    nodes.extend(names.iter().map(|(name, site)| (name.as_str(), site.as_str(), elsewhere, None)));
    Lab::new(&nodes, &Settings::default(), DELAY)
}

/// Peers elsewhere to whom the hub has a link.
fn linked(lab: &mut Lab) -> usize {
    let now = lab.now;
    let links = lab.node("hub").status(now).links;
    links.iter().filter(|link| link.up && link.peer.as_str().starts_with("n-")).count()
}

/// A heartbeat every 10 ms to the neighbour, until all peers are back. Gives how long that took.
fn come_back(lab: &mut Lab) -> Duration {
    let began = lab.now;
    lab.delivered.clear();
    let mut beats = 0;
    loop {
        let mut batch = Batch::to(dc("hub"));
        batch.push(
            Message::new(id("near"), vec![7; 64]).lane(Lane::Control).deadline(Duration::from_millis(100)),
        );
        lab.submit("hub", batch).unwrap();
        let sent = lab.now;
        beats += 1;
        lab.run_for(Duration::from_millis(10));
        let (at, ..) =
            lab.delivered.iter().rfind(|(_, member, _)| member.as_str() == "near").expect("a heartbeat");
        assert!(*at >= sent && at.since(sent) < Duration::from_millis(1), "heartbeat {beats} waited");
        if beats % 10 == 0 && linked(lab) == PEERS {
            return lab.now.since(began);
        }
        assert!(lab.now.since(began) < BACK_WITHIN, "{} of {PEERS} links after {BACK_WITHIN:?}", linked(lab));
    }
}

fn partition(lab: &mut Lab) {
    lab.accepts_per_second = Some(u64::from(Settings::default().accepts_per_second));
    for _ in 0..300 {
        lab.run_for(Duration::from_millis(100));
        if linked(lab) == PEERS {
            break;
        }
    }
    assert_eq!(linked(lab), PEERS, "all of them link within 30 s");
    lab.cut_off("hub");
    lab.run_for(PARTITION);
    assert_eq!(linked(lab), 0);
    lab.mend();
}

#[test]
fn two_thousand_links_that_a_sender_dials_are_back_within_ten_seconds() {
    let mut lab = hub(Roles::ORIGIN, Roles::PROXY);
    partition(&mut lab);
    println!("dialled by one: {:?}", come_back(&mut lab));
}

#[test]
fn two_thousand_senders_are_back_at_one_proxy_within_ten_seconds() {
    let both = Roles { origin: true, member: false, proxy: true };
    let mut lab = hub(both, Roles::ORIGIN);
    partition(&mut lab);
    println!("dialled by all: {:?}", come_back(&mut lab));
}

/// All proxies die under load, and direct links to fifty members are asked for again and again. That takes nothing from the
/// proxies, which are linked as soon as they are there.
#[test]
fn direct_dials_do_not_keep_the_proxies_waiting() {
    let names: Vec<String> = (0..50).map(|member| format!("m-{member}")).collect();
    let mut nodes = vec![
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-pa", "eu", Roles::PROXY, None),
        ("eu-pb", "eu", Roles::PROXY, None),
    ];
    nodes.extend(names.iter().map(|name| (name.as_str(), "eu", Roles::MEMBER, None)));
    let settings = Settings { dials_per_second: 2, ..Settings::default() };
    let mut lab = Lab::new(&nodes, &settings, DELAY);
    let proxies = |lab: &mut Lab| {
        let now = lab.now;
        let links = lab.node("leader").status(now).links;
        links.iter().filter(|link| link.up && link.peer.as_str().starts_with("eu-p")).count()
    };
    let send = |lab: &mut Lab| {
        let mut batch = Batch::to(dc("eu"));
        for name in &names {
            batch.push(Message::new(id(name), vec![7; 64]).deadline(Duration::from_millis(300)));
        }
        let _ = lab.submit("leader", batch);
        lab.run_for(Duration::from_millis(10));
    };
    lab.run_for(Duration::from_secs(40));
    assert_eq!(proxies(&mut lab), 2);
    lab.kill("eu-pa");
    lab.kill("eu-pb");
    for _ in 0..100 {
        send(&mut lab);
    }
    lab.restart("eu-pa", 1_800_000_000_000_000);
    lab.restart("eu-pb", 1_800_000_000_000_001);
    let began = lab.now;
    while proxies(&mut lab) < 2 {
        send(&mut lab);
        assert!(lab.now.since(began) < Duration::from_secs(5), "{} proxies of 2", proxies(&mut lab));
    }
    println!("linked again after {:?}", lab.now.since(began));
}
