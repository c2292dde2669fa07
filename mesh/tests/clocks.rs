//! How far apart clocks are, as pings say it, on lines that are as long in one direction as in the other and on some that are not.

mod lab;

use std::time::Duration;

use lab::{Lab, Line, dc, id};
use trunkline_mesh::id::Lane;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

/// The clock of `eu-1` is ahead of the leader's by this.
const AHEAD_US: u64 = 2_500_000;

/// What `seer` says of `seen`: the offset and the least round trip, µs.
fn measured(lab: &mut Lab, seer: &str, seen: &str) -> Option<(i64, i64)> {
    let now = lab.now;
    let link =
        lab.node(seer).status(now).links.into_iter().find(|link| link.peer == id(seen) && link.dialled)?;
    Some((link.clock_offset_us?, i64::try_from(link.rtt_min_us?).unwrap()))
}

#[test]
fn a_clock_that_is_set_is_seen_with_the_next_ping_and_is_no_round_trip() {
    const HOUR_US: i64 = 3_600_000_000;
    let nodes =
        [("leader", "us", Roles::ORIGIN, None), ("eu-1", "eu", Roles { proxy: true, ..Roles::MEMBER }, None)];
    let mut lab = Lab::with_clocks(&nodes, &Settings::default(), Duration::from_millis(20), |_| 0);
    lab.run_until("a sample", Duration::from_secs(5), |lab| measured(lab, "leader", "eu-1").is_some());
    let first = 1_700_000_000_000_000_u64;
    // Whose clock is set to how much later than it was at first, and what the leader sees then.
    for (who, by, seen) in [
        ("eu-1", HOUR_US, HOUR_US),
        ("eu-1", -HOUR_US, -HOUR_US),
        ("leader", -HOUR_US, 0),
        ("eu-1", 0, HOUR_US),
    ] {
        lab.node(who).set_wall(first.checked_add_signed(by).unwrap());
        lab.run_for(Duration::from_secs(2));
        let (offset, rtt_min) = measured(&mut lab, "leader", "eu-1").expect("measured before");
        assert!((offset - seen).abs() <= 1_000, "{who} by {by}: {offset} µs, and not {seen}");
        let now = lab.now;
        let link = lab.node("leader").status(now).links.into_iter().find(|link| link.dialled).unwrap();
        let rtt = link.rtt_us.unwrap();
        assert!((40_000..42_000).contains(&rtt) && (40_000..42_000).contains(&rtt_min), "{rtt} µs");
    }
}

#[test]
fn an_offset_is_as_sure_as_half_the_smallest_round_trip() {
    // There and back, ms, and what the estimate is wrong by: half the difference, as nobody can know.
    for (there, back) in [(20, 20), (10, 60), (60, 10), (1, 150)] {
        let nodes = [
            ("leader", "us", Roles::ORIGIN, None),
            ("eu-1", "eu", Roles { proxy: true, ..Roles::MEMBER }, None),
        ];
        let ahead = |name: &str| if name == "eu-1" { AHEAD_US } else { 0 };
        let mut lab = Lab::with_clocks(&nodes, &Settings::default(), Duration::ZERO, ahead);
        let way = |ms: u64, rate| Line { delay: Duration::from_millis(ms), rate };
        lab.set_way("us", "eu", way(there, Some(10_000_000)));
        lab.set_way("eu", "us", way(back, Some(10_000_000)));
        lab.run_until("a sample", Duration::from_secs(5), |lab| measured(lab, "leader", "eu-1").is_some());
        let check = |lab: &mut Lab, when: &str| {
            let (offset, rtt_min) = measured(lab, "leader", "eu-1").expect("measured before");
            let (truth, sum) =
                (i64::try_from(AHEAD_US).unwrap(), i64::try_from((there + back) * 1_000).unwrap());
            assert!((sum..sum + 2_000).contains(&rtt_min), "{there} and {back}, {when}: {rtt_min} µs");
            let error = offset - truth;
            assert!(error.abs() <= rtt_min / 2, "{there} and {back}, {when}: {error} µs off, of {rtt_min}");
            let skewed = (i64::try_from(there).unwrap() - i64::try_from(back).unwrap()) * 500;
            assert!(
                (error - skewed).abs() <= 1_000,
                "{there} and {back}, {when}: {error} and not {skewed} µs"
            );
        };
        check(&mut lab, "at first");
        lab.run_for(Duration::from_secs(5));
        check(&mut lab, "of many pings");
        // Bulk fills the line: pings take longer, and those that did not say more.
        for _ in 0..200 {
            let mut batch = Batch::to(dc("eu"));
            batch.push(Message::new(id("eu-1"), vec![7; 100_000]).lane(Lane::Bulk));
            let _ = lab.submit("leader", batch);
            lab.run_for(Duration::from_millis(10));
        }
        check(&mut lab, "under load");
    }
}
