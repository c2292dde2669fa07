//! Scripted runs: a calm mesh under load, one fault at a known moment, held against the same run without it. What it costs
//! is a number, in virtual time.

use super::*;

/// What happens, after three seconds of calm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strike {
    /// The proxy in use dies; its kernel says so.
    CleanDeath,
    /// The proxy in use stops and never goes on; its kernel takes in what comes.
    SilentDeath,
    /// The proxy in use answers pings, and passes nothing on.
    Freeze,
    /// The same, for two seconds and a half.
    FreezeForAWhile,
    /// One member stops, for a second and a half.
    SilentMember,
    /// Nothing comes back from the datacenter, for a second and a half.
    WayBackCut,
    /// The sender itself stops, for two seconds and a half.
    OwnStop,
    /// The proxy in use acknowledges whatever comes, and passes nothing on.
    Lies,
    /// The same for every fifth run.
    LiesSometimes,
    /// The proxy in use tells members of floors that the sender never gets to, and passes nothing on.
    Forges,
    /// The proxy in use says of all messages that their members hold them, and passes nothing on.
    Hoards,
    /// One member reports as lost whatever it has.
    Slander,
}

impl Strike {
    fn is_lie(self) -> bool {
        matches!(self, Self::Lies | Self::LiesSometimes)
    }

    fn is_of_member(self) -> bool {
        matches!(self, Self::SilentMember | Self::Slander)
    }
}

/// What a fault cost.
#[derive(Debug)]
pub struct Failover {
    /// Round trip to the datacenter.
    pub rtt: Duration,
    /// How much later than without the fault a message arrived, at most; of those to members that were well.
    pub later: Duration,
    /// Messages that arrived without the fault and did not with it.
    pub lost: usize,
    /// From the fault to the last message that arrived without it and did not with it.
    pub lost_for: Duration,
    /// Broken rules, duplicates among them. Of a lie, the rules that it does not break by itself.
    pub violations: Vec<String>,
    /// The sender's counters.
    pub leader: Stats,
}

const STRUCK_AT: Micros = Micros(3_000_000);
/// Before the next phase begins to send.
const SEEN_UNTIL: Micros = Micros(15_900_000);

/// Two runs of one seed, without the fault and with it.
#[must_use]
pub fn failover(seed: u64, strike: Strike) -> Failover {
    let lie = strike.is_lie();
    let run = |strike: Option<Strike>| {
        let mut world = World::new(seed, Some(Swarm::calm()), None);
        if !lie {
            world.over_at = SEEN_UNTIL;
        }
        if let Some(strike) = strike {
            world.scripted = true;
            world.at(STRUCK_AT, Event::Strike(strike));
        }
        let rtt = world.delay(LEADER, world.struck_proxy()) * 2;
        (rtt, world.run())
    };
    let ((_, calm), (rtt, struck)) = (run(None), run(Some(strike)));
    let (mut later, mut lost, mut lost_for) = (Duration::ZERO, 0, Duration::ZERO);
    for (id, (at, member)) in &calm.arrivals {
        match struck.arrivals.get(id) {
            Some((then, _)) if !(strike.is_of_member() && member.as_str() == SILENT_MEMBER) => {
                later = later.max(then.since(*at));
            }
            Some(_) => {}
            // A sender that stops sends less.
            None if strike == Strike::OwnStop => {}
            None => {
                lost += 1;
                lost_for = lost_for.max(at.since(STRUCK_AT));
            }
        }
    }
    let mut violations = struck.violations;
    violations.retain(|violation| !(lie && violation.contains("told delivered")));
    Failover { rtt, later, lost, lost_for, violations, leader: struck.leader }
}

const SILENT_MEMBER: &str = "eu-m1";
const STRUCK_DATACENTER: &str = "eu";

impl World {
    fn host(&self, id: &str) -> NodeIx {
        self.hosts.iter().position(|host| host.id.as_str() == id).expect("in the topology")
    }

    /// The proxy in use; before there is one, any.
    fn struck_proxy(&self) -> NodeIx {
        let rows = self.hosts[LEADER].node.as_ref().map(|node| node.status(self.now).datacenters);
        let row = rows.into_iter().flatten().find(|row| row.name.as_str() == STRUCK_DATACENTER);
        let in_use = row.and_then(|row| row.routes.into_iter().find(|route| route.in_use));
        self.host(in_use.as_ref().map_or("eu-p0", |route| route.proxy.as_str()))
    }

    pub(super) fn strike_as_scripted(&mut self, strike: Strike) {
        let proxy = self.struck_proxy();
        let after = |ms| STRUCK_AT + Duration::from_millis(ms);
        self.note(&format!("strike {strike:?} {proxy}"));
        match strike {
            Strike::CleanDeath => self.kill(proxy),
            Strike::SilentDeath => self.hosts[proxy].stopped = true,
            Strike::Freeze => self.strike(Fault::Freeze, proxy, Micros::NEVER),
            Strike::FreezeForAWhile => self.strike(Fault::Freeze, proxy, after(2_500)),
            Strike::SilentMember => self.strike(Fault::Stop, self.host(SILENT_MEMBER), after(1_500)),
            Strike::WayBackCut => {
                let (from, to) = self.sites(proxy, LEADER);
                self.cut_between(from, to, after(1_500));
            }
            Strike::Lies | Strike::LiesSometimes => {
                self.liar = true;
                if let Some(node) = self.hosts[proxy].node.as_mut() {
                    node.set_lying(if strike == Strike::Lies { 1 } else { 5 });
                }
            }
            Strike::Forges => {
                self.liar = true;
                if let Some(node) = self.hosts[proxy].node.as_mut() {
                    node.set_forging();
                }
            }
            Strike::Hoards => {
                self.liar = true;
                if let Some(node) = self.hosts[proxy].node.as_mut() {
                    node.set_hoarding();
                }
            }
            Strike::Slander => {
                self.liar = true;
                let member = self.host(SILENT_MEMBER);
                if let Some(node) = self.hosts[member].node.as_mut() {
                    node.set_slandering();
                }
            }
            Strike::OwnStop => self.strike(Fault::Stop, LEADER, after(2_500)),
        }
    }
}
