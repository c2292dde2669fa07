//! What the sender's verdict on a datacenter says of the way there.

mod lab;

use std::time::Duration;

use lab::{Lab, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const MEMBERS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];

/// Something happens to a datacenter that takes messages: how long nothing was heard of its proxies, by the latest of the verdicts on
/// all of it.
fn unheard(strike: impl Fn(&mut Lab)) -> Duration {
    let mut nodes = vec![("leader", "us", Roles::ORIGIN, None)];
    nodes.extend(["eu-pa", "eu-pb"].map(|name| (name, "eu", Roles::PROXY, None)));
    nodes.extend(MEMBERS.map(|name| (name, "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(20));
    lab.run_for(Duration::from_secs(1));
    for round in 0..300 {
        if round == 50 {
            strike(&mut lab);
        }
        let mut batch = Batch::to(dc("eu"));
        batch.extend(MEMBERS.map(|member| Message::new(id(member), vec![7; 100]).lane(Lane::Bulk)));
        let _ = lab.submit("leader", batch);
        lab.run_for(Duration::from_millis(10));
    }
    let now = lab.now;
    let routes = lab.node("leader").routes(now).datacenters.remove(0);
    assert_eq!(routes.status.name, dc("eu"));
    let latest = routes.verdicts.iter().find(|verdict| verdict.verdict == "datacenter");
    let latest = latest.unwrap_or_else(|| panic!("{:?}", routes.verdicts));
    Duration::from_millis(latest.evidence.unheard_ms.expect("they are linked"))
}

#[test]
fn a_verdict_on_a_datacenter_tells_silent_members_from_a_way_that_brings_nothing() {
    // A ping in half a second is answered, whoever else is silent.
    let most = Settings::default().ping_interval + Duration::from_millis(50);
    let members = unheard(|lab| MEMBERS.iter().for_each(|member| lab.stop(member)));
    assert!(members <= most, "{members:?}");
    let way = unheard(|lab| lab.cut_off("eu"));
    assert!(way > most, "{way:?}");
}
