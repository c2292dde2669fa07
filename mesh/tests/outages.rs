//! Proxies that are gone, or see half of their datacenter, behind lines that carry little: what it costs, and that nothing is lost.

mod lab;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, Line, dc, id};
use trunkline_codec::Payload;
use trunkline_mesh::message::{Batch, Message, Outcome};
use trunkline_mesh::proto::client::Ticket;
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::proto::verdict::RESEND_BURST_BYTES;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

const LEADER: &str = "leader";
const SITES: [&str; 3] = ["ap", "eu", "sa"];
const MEMBERS: usize = 4;
const ENTRY_BYTES: usize = 2_000;
const EVERY: Duration = Duration::from_millis(100);
const DELAY: Duration = Duration::from_millis(20);
/// How long each part of a test sends.
const LOAD: Duration = Duration::from_secs(10);
/// Bytes per second of each line: half as much again as goes directly to all members of a datacenter.
const RATE: u64 = 3 * MEMBERS as u64 * ENTRY_BYTES as u64 * 10 / 2;

/// Silent proxies are found by two timeouts, one of each; then come dials, and what waited meanwhile goes over a line that has a third to
/// spare. The links to proxies that say nothing end after 3 s.
const GONE_AT_MOST: Duration = Duration::from_secs(3);
/// A timeout of the first attempt, the next one by the other proxy, and as long again for what waited behind it.
const UNSEEN_AT_MOST: Duration = Duration::from_millis(300);

fn members(site: &str) -> Vec<String> {
    (0..MEMBERS).map(|member| format!("{site}-m{member}")).collect()
}

fn proxies(site: &str) -> [String; 2] {
    [format!("{site}-p0"), format!("{site}-p1")]
}

struct Run {
    lab: Lab,
    rng: fastrand::Rng,
    sent: Vec<(&'static str, (usize, Ticket), Micros)>,
}

impl Run {
    fn new() -> Self {
        let of_site = |site: &'static str| {
            let proxies = proxies(site).map(|name| (name, site, Roles::PROXY));
            proxies.into_iter().chain(members(site).into_iter().map(move |name| (name, site, Roles::MEMBER)))
        };
        let names: Vec<_> = SITES.into_iter().flat_map(of_site).collect();
        let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None)];
        nodes.extend(names.iter().map(|(name, site, roles)| (name.as_str(), *site, *roles, None)));
        let mut lab = Lab::new(&nodes, &Settings::default(), DELAY);
        for site in SITES {
            lab.set_line("us", site, Line { delay: DELAY, rate: Some(RATE) });
        }
        lab.run_for(Duration::from_secs(2));
        let mut run = Self { lab, rng: fastrand::Rng::with_seed(3), sent: Vec::new() };
        run.load(Duration::from_secs(2));
        run.took();
        run
    }

    /// The same entry for every member of every datacenter, again and again for this long.
    fn load(&mut self, time: Duration) {
        let until = self.lab.now + time;
        while self.lab.now < until {
            for site in SITES {
                let entry: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(..)).take(ENTRY_BYTES).collect();
                let entry = Bytes::from(entry);
                let mut batch = Batch::to(dc(site));
                let payload: Payload = [entry].into_iter().collect();
                batch.extend(members(site).iter().map(|name| Message::new(id(name), payload.clone())));
                let ticket = self.lab.submit(LEADER, batch).expect("there is room");
                self.sent.push((site, (self.lab.index(LEADER), ticket), self.lab.now));
            }
            self.lab.run_for(EVERY);
        }
    }

    /// The longest that it took until a whole batch was decided, by datacenter. All that was sent arrived, once.
    fn took(&mut self) -> BTreeMap<&'static str, Duration> {
        self.lab.run_for(Duration::from_secs(10));
        let mut longest = BTreeMap::new();
        for (site, ticket, at) in std::mem::take(&mut self.sent) {
            let (told, outcomes) = &self.lab.outcomes[&ticket];
            assert!(outcomes.iter().all(Outcome::is_delivered), "{site}: {outcomes:?}");
            let longest: &mut Duration = longest.entry(site).or_default();
            *longest = told.since(at).max(*longest);
        }
        let mut seen = BTreeMap::new();
        for (_, member, delivery) in &self.lab.delivered {
            *seen.entry((member.clone(), delivery.payload.to_vec())).or_insert(0) += 1;
        }
        assert!(seen.values().all(|times| *times == 1));
        longest
    }

    /// Sent to each datacenter so far.
    fn wire(&mut self) -> BTreeMap<&'static str, u64> {
        let stats = self.lab.stats(LEADER);
        SITES.map(|site| (site, stats.datacenters[&dc(site)].sent.wire)).into_iter().collect()
    }
}

/// Of one datacenter, of several, of all: nobody is told, and each line carries half as much again as goes directly.
#[test]
fn all_proxies_gone_at_once_cost_their_datacenters_a_round_of_dials_and_the_others_nothing() {
    for gone in [&SITES[..1], &SITES[..2], &SITES] {
        let mut run = Run::new();
        let begun = run.wire();
        run.load(LOAD);
        let (calm, calm_took) = (run.wire(), run.took());
        gone.iter().flat_map(|site| proxies(site)).for_each(|proxy| run.lab.stop(&proxy));
        let before = run.wire();
        run.load(LOAD);
        let (after, took) = (run.wire(), run.took());
        for site in SITES {
            let usual = calm[site] - begun[site];
            let (bytes, most) = (after[site] - before[site], MEMBERS as u64 * usual);
            println!("{site} without the proxies of {gone:?}: {usual} B then {bytes} B, {:?}", took[site]);
            if gone.contains(&site) {
                // Each entry once per member. What was sent to proxies in vain, and what new links say first, is little beside that.
                assert!(bytes <= most + most / 10, "{site}: {bytes} B, {usual} B by proxies");
                assert!(took[site] <= GONE_AT_MOST, "{site}: {:?}", took[site]);
            } else {
                assert!(bytes <= usual + usual / 100, "{site}: {bytes} B, {usual} B before");
                assert_eq!(took[site], calm_took[site], "{site}");
            }
        }
        let resent = run.lab.stats(LEADER).resent_bytes;
        let sent: u64 = after.values().sum();
        assert!(resent <= sent / 10 + RESEND_BURST_BYTES.unsigned_abs(), "{resent} of {sent} B");
        // They go on, and are found again.
        run.lab.go_on();
        run.load(LOAD);
        run.took();
        let before = run.wire();
        run.load(LOAD);
        let after = run.wire();
        run.took();
        for site in SITES {
            let (bytes, usual) = (after[site] - before[site], calm[site] - begun[site]);
            assert!(bytes <= usual + usual / 10, "{site} by its proxies again: {bytes} B, {usual} B before");
        }
    }
}

/// What it is given for the others it refuses once it knows that they are gone, and until then it is silent of them alone.
#[test]
fn a_proxy_that_sees_half_of_its_datacenter_costs_that_half_a_timeout_and_the_other_one_nothing() {
    let mut run = Run::new();
    run.load(LOAD);
    let calm = run.took();
    let mut rounds = Vec::new();
    for proxy in proxies("eu") {
        let before = run.lab.stats(LEADER).attempts;
        let others = |run: &Run| {
            let other = proxies("eu").into_iter().find(|other| *other != proxy).unwrap();
            run.lab.received.get(&(id(&other), id(LEADER))).map_or(0, |of| of.batches)
        };
        let others_before = others(&run);
        // Each sees another half, one after the other: so the one that is in use is among them.
        let unseen = if proxy == "eu-p0" { 0..MEMBERS / 2 } else { MEMBERS / 2..MEMBERS };
        members("eu")[unseen].iter().for_each(|member| run.lab.part(&proxy, member));
        run.load(LOAD);
        let took = run.took();
        println!("{proxy} sees half: {took:?}");
        assert!(took["eu"] <= UNSEEN_AT_MOST, "{took:?}");
        assert!(["ap", "sa"].iter().all(|site| took[site] == calm[site]), "{took:?} and {calm:?} before");
        run.load(LOAD);
        let after = run.lab.stats(LEADER).attempts;
        let in_vain = after.timed_out + after.refused - before.timed_out - before.refused;
        rounds.push((in_vain, others(&run) - others_before));
        run.lab.mend();
        run.took();
        run.lab.run_for(Duration::from_secs(5));
    }
    // One of them was in use: what it was given for those that it did not see came to nothing, and the other one had most of it after.
    let batches = u64::try_from(2 * LOAD.as_millis() / EVERY.as_millis()).unwrap();
    let most = |(in_vain, by_other): &(u64, u64)| *in_vain > 0 && *by_other > batches / 2;
    assert!(rounds.iter().any(most), "in vain, and by the other one: {rounds:?} of {batches}");
    let verdicts = run.lab.stats(LEADER).verdicts;
    assert_eq!((verdicts["datacenter"], verdicts["ejected"]), (0, 0), "{verdicts:?}");
}
