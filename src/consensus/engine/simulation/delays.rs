//! How many one-way delays a proposal takes: counted in virtual time, where nothing but distance takes any.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use trunkline_mesh::{Datacenter, NodeId};

use super::super::super::key_value::Operation;
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::super::status::Role;
use super::super::Timing;
use super::checker::Checker;
use super::faults::Counts;
use super::net::Net;
use super::node::{Node, Running, Surroundings};
use super::scene::in_virtual_time;
use super::trace::Trace;

/// One way, ms.
const DELAYS: [(&str, &str, u64); 3] = [("us", "eu", 40), ("us", "ap", 75), ("eu", "ap", 110)];
const NODES: [(&str, &str); 5] =
    [("us-1", "us"), ("us-2", "us"), ("eu-1", "eu"), ("eu-2", "eu"), ("ap-1", "ap")];
/// Timers ring at whole milliseconds: one at most for each message under way, and for each sync.
const ROUNDING: Duration = Duration::from_millis(8);

fn delay(from: &Place, to: &Place) -> Duration {
    let between = |(one, other, _): &&(&str, &str, u64)| {
        let pair = (from.datacenter.as_str(), to.datacenter.as_str());
        pair == (*one, *other) || pair == (*other, *one)
    };
    DELAYS.iter().find(between).map_or(Duration::ZERO, |(.., ms)| Duration::from_millis(*ms))
}

fn name<T, E: std::fmt::Debug>(text: &str, of: impl Fn(&str) -> Result<T, E>) -> T {
    of(text).expect("it is a name")
}

struct Voter {
    place: Place,
    own: ReplicaId,
    running: Running,
}

impl Voter {
    fn leads(&self) -> bool {
        self.running.access.engine.status().role == Role::Leader
    }
}

async fn start(seed: u64) -> (Net, Vec<Voter>) {
    let places = NODES
        .map(|(node, datacenter)| Place::known(name(node, NodeId::new), name(datacenter, Datacenter::new)));
    let trace = Trace::new();
    let checker = Checker::new(trace.clone());
    let mut luck = fastrand::Rng::with_seed(seed);
    let net =
        Net::new(places.to_vec(), luck.fork(), None, (checker.clone(), trace.clone(), Counts::default()));
    for (from, to, ms) in DELAYS {
        net.set_exact(&name(from, Datacenter::new), &name(to, Datacenter::new), Duration::from_millis(ms));
    }
    let founders = places.to_vec();
    let around = Surroundings {
        net: net.clone(),
        checker,
        trace,
        counts: Counts::default(),
        planted: None,
        timing: Timing::default(),
        founders,
    };
    let mut voters = Vec::new();
    for (index, place) in places.into_iter().enumerate() {
        let own = ReplicaId(luck.u64(1..));
        let mut node = Node::new(index, place.clone(), own);
        node.start(&around, false, (Duration::ZERO, luck.u64(..))).await;
        voters.push(Voter { place, own, running: node.running.take().expect("it runs") });
    }
    (net, voters)
}

/// The one that leads, once this one does; `None`: whoever does.
async fn led<'a>(voters: &'a [Voter], by: Option<&str>) -> &'a Voter {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "not led by {by:?}");
        let leader = voters.iter().find(|voter| voter.leads());
        let wanted = voters.iter().find(|voter| by == Some(voter.place.node.as_str()));
        match (leader, wanted) {
            (Some(leader), Some(wanted)) if leader.own != wanted.own => {
                let handed = leader.running.access.engine.transfer(wanted.own);
                drop(leader.running.scope.run(handed).await);
                sleep(Duration::from_secs(2)).await;
            }
            (Some(leader), _) => return leader,
            (None, _) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// 64 B at a follower are answered after: the way to the leader; the way from there to the nearest voters that make a majority,
/// and back; and the way of the answer. So it is four one-way delays where the proposer is among the nearest. It is applied at
/// the proposer when it is answered.
#[test]
fn a_proposal_at_a_follower_takes_the_delays_of_its_way_and_is_applied_with_its_answer() {
    // The engine draws from it.
    fastrand::seed(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(async {
        let (_, voters) = start(1).await;
        for leader in [None, Some("us-1"), Some("eu-2"), Some("ap-1")] {
            let leader = led(&voters, leader).await;
            sleep(Duration::from_secs(5)).await;
            let others = voters.iter().filter(|voter| voter.own != leader.own);
            let mut there_and_back: Vec<Duration> =
                others.map(|voter| 2 * delay(&leader.place, &voter.place)).collect();
            there_and_back.sort();
            // With the leader itself it takes three of five.
            let majority = there_and_back[1];
            let far = |voter: &&Voter| voter.place.datacenter != leader.place.datacenter;
            for Voter { place, running, .. } in voters.iter().filter(far) {
                let value = Bytes::from(vec![7; 64]);
                let put = Operation::Put { key: place.node.to_string(), value, if_index: None }.encode();
                let began = Instant::now();
                let answer = running.scope.run(running.access.propose(None, put)).await;
                let took = began.elapsed();
                let index = answer.expect("it lives").expect("it is applied").id.index;
                let way = delay(place, &leader.place);
                let expected = way + majority + way;
                let told = format!("{} to {}: {took:?}", place.node, leader.place.node);
                println!("{told}, which is {way:?} + {majority:?} + {way:?}");
                assert!(took >= expected && took <= expected + ROUNDING, "{told}, not {expected:?}");
                sleep(Duration::from_millis(2)).await;
                let applied = running.access.engine.status().applied;
                assert!(
                    applied.is_some_and(|applied| applied.index >= index),
                    "{told}: {applied:?}, not {index}"
                );
                // Not in step with heartbeats, which would tell it too.
                sleep(Duration::from_millis(137)).await;
            }
        }
    });
}

/// The answer says what is committed. Appends that say it as well take as long, and do not arrive here: one that proposed nothing
/// and has the entry as well has not applied it.
#[test]
fn a_proposal_is_applied_where_it_was_made_by_its_answer_and_by_nothing_else() {
    in_virtual_time(1, async {
        let (net, voters) = start(1).await;
        let leader = led(&voters, Some("us-1")).await;
        let far = || (2..voters.len()).filter(|at| voters[*at].own != leader.own);
        for proposer in far() {
            // The stream that lacked an append has begun again by then; and in between heartbeats.
            sleep(Duration::from_millis(12_037)).await;
            far().for_each(|at| net.leave_untold((0, at), true));
            let Voter { place, running, .. } = &voters[proposer];
            let put = Operation::Put { key: place.node.to_string(), value: "one".into(), if_index: None };
            let answer = running.scope.run(running.access.propose(None, put.encode())).await;
            let index = answer.expect("it lives").expect("it is applied").id.index;
            sleep(Duration::from_millis(2)).await;
            for at in far() {
                let status = voters[at].running.access.engine.status();
                let applied = status.applied.is_some_and(|applied| applied.index >= index);
                assert_eq!(
                    applied,
                    at == proposer,
                    "{at}, proposed at {proposer}: {:?} of {index}",
                    status.applied
                );
            }
            far().for_each(|at| net.leave_untold((0, at), false));
        }
    });
}
