//! How long an attempt waits for its ack, in virtual time: it follows the way that it takes, also when that gets longer. And from
//! when on links keep other times after a reload.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const NEAR: Duration = Duration::from_millis(2);
const FAR: Duration = Duration::from_millis(100);

/// A leader and a member without any proxy between them.
fn alone() -> Lab {
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-1", "eu", Roles::MEMBER, None),
        ("ap-1", "ap", Roles::MEMBER, None),
    ];
    let mut lab = Lab::new(&nodes, &Settings::default(), NEAR);
    lab.set_line("us", "ap", Line { delay: FAR, rate: None });
    lab.run_for(Duration::from_secs(1));
    lab
}

/// Messages one after the other, each a while after the last. How many attempts timed out.
fn timed_out(lab: &mut Lab, datacenter: &str, messages: usize) -> u64 {
    let before = lab.stats("leader").attempts.timed_out;
    for _ in 0..messages {
        let mut batch = Batch::to(dc(datacenter));
        batch.push(Message::new(id("eu-1"), b"x".to_vec()));
        let key = (lab.index("leader"), lab.submit("leader", batch).unwrap());
        lab.run_until("an outcome", Duration::from_secs(12), |lab| lab.outcomes.contains_key(&key));
        assert!(lab.outcomes[&key].1.iter().all(Outcome::is_delivered), "{:?}", lab.outcomes[&key]);
        lab.run_for(Duration::from_secs(3));
    }
    lab.stats("leader").attempts.timed_out - before
}

/// Where there is no other way a message that timed out waits, and is answered while it does: that is how long the way takes.
#[test]
fn a_way_that_gets_longer_is_learnt_from_the_first_message_though_it_timed_out() {
    let mut lab = alone();
    assert_eq!(timed_out(&mut lab, "eu", 10), 0);
    lab.set_line("us", "eu", Line { delay: FAR, rate: None });
    assert_eq!(timed_out(&mut lab, "eu", 10), 1);
}

#[test]
fn a_member_that_moves_is_not_expected_to_answer_as_fast_as_where_it_was() {
    let mut lab = alone();
    assert_eq!(timed_out(&mut lab, "eu", 10), 0);
    lab.relocate("eu-1", "ap", 1_700_000_010_000_000);
    lab.run_for(Duration::from_secs(3));
    assert_eq!(timed_out(&mut lab, "ap", 10), 0);
}

/// Pings become more frequent, and silence is noticed sooner. No healthy link ends for that, and it holds at once.
#[test]
fn a_reload_of_pings_and_silence_ends_no_healthy_link_and_holds_at_once() {
    let secs = Duration::from_secs;
    let nodes = [
        ("leader", "us", Roles::ORIGIN, None),
        ("eu-p", "eu", Roles::PROXY, None),
        ("eu-1", "eu", Roles::MEMBER, None),
    ];
    let before = Settings { ping_interval: secs(10), silence_timeout: secs(30), ..Settings::default() };
    let mut lab = Lab::new(&nodes, &before, NEAR);
    lab.run_for(secs(28));
    let after = Settings {
        ping_interval: Duration::from_millis(300),
        silence_timeout: secs(1),
        ..Settings::default()
    };
    for (name, ..) in &nodes {
        lab.set_settings(name, &after);
    }
    lab.run_for(secs(10));
    assert_eq!(lab.stats("leader").dials, 2, "one link, from the beginning");
    assert_eq!(lab.stats("eu-p").dials, 2);
    for (name, ..) in &nodes {
        lab.set_settings(name, &before);
    }
    lab.run_for(secs(5));
    for (name, ..) in &nodes {
        lab.set_settings(name, &after);
    }
    lab.stop("eu-p");
    lab.run_for(Duration::from_millis(1_100));
    let now = lab.now;
    assert!(!lab.node("leader").status(now).links.iter().any(|link| link.up), "its silence is noticed");
}
