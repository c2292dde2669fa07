//! Lives as others hear of them, in virtual time: an origin whose clock stepped back is told by whoever knew its later life, and
//! moves past it; a destination that restarted is known to have done so on both lanes.

mod lab;

use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::proto::client::Ticket;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

/// The proxies are as new as the origin and know no life of it. The members, which heard of the later one by proxy alone, refuse what
/// it sends, are dialled and say so.
#[test]
fn an_origin_whose_clock_stepped_back_learns_of_it_from_members_alone() {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
        ("eu-2", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_millis(10));
    let send_both = |lab: &mut Lab| {
        let mut batch = Batch::to(dc("eu"));
        batch.extend(["eu-1", "eu-2"].map(|to| Message::new(id(to), b"x".to_vec())));
        let key = (lab.index("leader"), lab.submit("leader", batch).unwrap());
        lab.run_until("outcomes", Duration::from_secs(12), |lab| lab.outcomes.contains_key(&key));
        lab.outcomes.remove(&key).unwrap().1.iter().all(Outcome::is_delivered)
    };
    lab.run_for(Duration::from_secs(1));
    assert!(send_both(&mut lab));
    lab.kill("leader");
    lab.kill("eu-p");
    lab.run_for(Duration::from_secs(1));
    // An hour earlier.
    lab.restart("leader", 1_700_000_000_000_000 - 3_600_000_000);
    lab.restart("eu-p", 1_700_000_000_500_000);
    lab.run_for(Duration::from_secs(3));
    assert!(send_both(&mut lab), "the members know a later life and tell it, and nothing fails for that");
    assert_eq!(lab.stats("leader").attempts.refused, 2);
    assert!(send_both(&mut lab));
    assert_eq!(lab.stats("leader").attempts.refused, 2, "by proxies as well, from then on");
}

const ONE_WAY: Duration = Duration::from_millis(50);

fn send(lab: &mut Lab, lane: Lane) -> (usize, Ticket) {
    let mut batch = Batch::to(dc("eu"));
    batch.push(Message::new(id("eu-1"), Bytes::from_static(b"x")).lane(lane));
    (lab.index("leader"), lab.submit("leader", batch).unwrap())
}

/// One message; how long it was under way to the application.
fn way_of(lab: &mut Lab, lane: Lane) -> Duration {
    let (sent, before) = (lab.now, lab.delivered.len());
    let key = send(lab, lane);
    lab.run_until("an outcome", Duration::from_secs(12), |lab| lab.outcomes.contains_key(&key));
    assert!(lab.outcomes[&key].1.iter().all(Outcome::is_delivered), "{:?}", lab.outcomes[&key]);
    assert_eq!(lab.delivered.len(), before + 1);
    lab.delivered[before].0.since(sent)
}

/// A leader that has sent on both lanes to a member which then restarted, and has heard so on one of them.
fn heard_on_bulk_alone() -> Lab {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-q", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), ONE_WAY);
    lab.run_for(Duration::from_secs(1));
    for lane in Lane::ALL {
        way_of(&mut lab, lane);
    }
    lab.kill("eu-1");
    lab.run_for(Duration::from_secs(1));
    lab.restart("eu-1", 1_700_000_010_000_000);
    lab.run_for(Duration::from_secs(3));
    let told = way_of(&mut lab, Lane::Bulk);
    assert!(told > 3 * ONE_WAY, "it was for the life that is over, refused, and sent again: {told:?}");
    lab
}

/// Otherwise the first message of the other lane is for a life that is known to be over: it is refused by the proxy, and
/// arrives a round trip later.
#[test]
fn a_life_that_was_heard_of_on_one_lane_is_known_on_the_other() {
    let mut lab = heard_on_bulk_alone();
    let way = way_of(&mut lab, Lane::Control);
    assert!(way < ONE_WAY + Duration::from_millis(5), "{way:?}");
}

/// And if that message is lost with its proxy it fails, though neither end restarted since it was sent.
#[test]
fn a_proxy_that_dies_costs_no_message_to_a_life_that_was_heard_of_on_the_other_lane() {
    let mut lab = heard_on_bulk_alone();
    let key = send(&mut lab, Lane::Control);
    lab.run_for(ONE_WAY / 2);
    let used =
        ["eu-p", "eu-q"].map(|name| lab.received.get(&(id(name), id("leader"))).map_or(0, |of| of.batches));
    lab.kill(if used[0] > used[1] { "eu-p" } else { "eu-q" });
    lab.run_until("an outcome", Duration::from_secs(12), |lab| lab.outcomes.contains_key(&key));
    assert!(lab.outcomes[&key].1.iter().all(Outcome::is_delivered), "{:?}", lab.outcomes[&key]);
}

/// Its first message is for the life that was shaken hands with, and takes no second attempt.
#[test]
fn a_life_that_was_linked_is_known_before_any_ack() {
    let nodes = [("leader", "us", Roles::ORIGIN, None), ("us-1", "us", Roles::MEMBER, None)];
    let mut lab = Lab::new(&nodes, &Settings::default(), ONE_WAY);
    let refused = |lab: &mut Lab| {
        let mut batch = Batch::to(dc("us"));
        batch.extend(Lane::ALL.map(|lane| Message::new(id("us-1"), b"x".to_vec()).lane(lane)));
        let key = (lab.index("leader"), lab.submit("leader", batch).unwrap());
        lab.run_until("outcomes", Duration::from_secs(12), |lab| lab.outcomes.contains_key(&key));
        assert!(lab.outcomes[&key].1.iter().all(Outcome::is_delivered), "{:?}", lab.outcomes[&key]);
        lab.stats("leader").attempts.refused
    };
    lab.run_for(Duration::from_secs(1));
    assert_eq!(refused(&mut lab), 0);
    lab.kill("us-1");
    lab.restart("us-1", 1_700_000_010_000_000);
    lab.run_for(Duration::from_secs(3));
    assert_eq!(refused(&mut lab), 0);
}
