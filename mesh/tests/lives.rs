//! An origin whose clock stepped back, in virtual time: whoever knew its later life tells it, and it moves past.

mod lab;

use std::time::Duration;

use lab::{Lab, dc, id};
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

/// The proxies are as new as the origin and know no life of it. The members, which heard of the later one by proxy alone, are
/// dialled and say so.
#[test]
fn an_origin_whose_clock_stepped_back_learns_of_it_from_members_alone() {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
        ("eu-2", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(10));
    let send = |lab: &mut Lab| {
        let mut batch = Batch::to(dc("eu"));
        batch.extend(["eu-1", "eu-2"].map(|to| Message::new(id(to), b"x".to_vec())));
        let key = (lab.index("leader"), lab.submit("leader", batch).unwrap());
        lab.run_until("outcomes", Duration::from_secs(12), |lab| lab.outcomes.contains_key(&key));
        lab.outcomes.remove(&key).unwrap().1.iter().all(Outcome::is_delivered)
    };
    lab.run_for(Duration::from_secs(1));
    assert!(send(&mut lab));
    lab.kill("leader");
    lab.kill("eu-p");
    lab.run_for(Duration::from_secs(1));
    // An hour earlier.
    lab.restart("leader", 1_700_000_000_000_000 - 3_600_000_000);
    lab.restart("eu-p", 1_700_000_000_500_000);
    lab.run_for(Duration::from_secs(3));
    assert!(!send(&mut lab), "the members know a later life");
    lab.run_for(Duration::from_secs(5));
    assert!(send(&mut lab), "and told it");
}
