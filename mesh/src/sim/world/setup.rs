//! What a run begins with: topology, delays, settings and clocks, drawn from its seed.

use trunkline_codec::Stage;

use super::*;

impl World {
    pub(super) fn new(seed: u64, swarm: Option<Swarm>, planted: Option<Planted>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let swarm = swarm.unwrap_or_else(|| Swarm::draw(&mut rng));
        let topology = Arc::new(draw_topology(&swarm, &mut rng));
        let datacenters = topology.datacenters();
        let mut ids: Vec<&NodeSpec> = topology.nodes().collect();
        ids.sort_by_key(|spec| spec.id.as_str() != LEADER_ID);
        let clocks = draw_clocks(swarm.drift, ids.len(), &mut rng);
        let host = |(spec, clock_ppm): (&NodeSpec, u64)| {
            let settings = draw_settings(&swarm, &mut rng);
            Host {
                id: spec.id.clone(),
                datacenter: datacenters.binary_search(&spec.datacenter).expect("listed"),
                topology: Arc::clone(&topology),
                limits: settings.clone(),
                members: 0,
                settings,
                clock_ppm,
                life: 0,
                incarnation: Incarnation::default(),
                node: None,
                conns: BTreeMap::new(),
                dark: false,
                stopped: false,
                resumed_at: Micros::NEVER,
                refused_to_leader: 0,
                deaf: false,
                slow: false,
                frozen: false,
                backlog: VecDeque::new(),
                alarm: Micros::NEVER,
                tickets: BTreeMap::new(),
            }
        };
        let hosts: Vec<Host> = ids.iter().copied().zip(clocks).map(host).collect();
        let message_bytes_least = hosts.iter().map(|host| host.settings.message_bytes_max).min().unwrap_or(0);
        let run_bytes_most = hosts.iter().map(|host| host.settings.run_bytes_max).max().unwrap_or(0);
        let origins: Vec<NodeIx> = (0..ids.len()).filter(|host| ids[*host].roles.origin).collect();
        let (mut senders, answering): (Vec<NodeIx>, Vec<NodeIx>) =
            origins.iter().partition(|host| **host == LEADER || !swarm.answers);
        if swarm.answers && swarm.two_origins {
            senders.extend(rng.choice(answering.iter().copied()));
        }
        let sites = datacenters.len();
        let lan = Duration::from_micros(rng.u64(50..500));
        let mut delays = vec![vec![lan; sites]; sites];
        for (a, b) in (0..sites).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let delay = Duration::from_micros(rng.u64(1_000..120_000));
            (delays[a][b], delays[b][a]) = (delay, delay);
        }
        let kernel_bytes = if swarm.tight { 32 * 1024 } else { 256 * 1024 };
        let healed_at = Micros(0) + swarm.faulty + swarm.lasts.saturating_sub(HEALING / 2) + HEALING;
        let mut world = Self {
            topology,
            datacenters,
            delays,
            hosts,
            message_bytes_least,
            run_bytes_most,
            origins,
            senders,
            answering,
            wire: Wire::new(kernel_bytes, swarm.bandwidth),
            agenda: Agenda::new(),
            blocked: BTreeMap::new(),
            now: Micros(0),
            app: App::new(rng.u64(..), swarm.two_slots),
            checker: Checker::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            spoken: std::env::var_os("SIM_TRACE").is_some(),
            phase: Phase::Faults,
            healed_at,
            over_at: Micros((healed_at + TRIAL_EVERY * TRIALS).0 - 1),
            damaged: false,
            trial: Micros(0),
            touched: BTreeSet::new(),
            desynced: BTreeMap::new(),
            had: held::Had::default(),
            refusals_heard: 0,
            refused_unheard: 0,
            sent_in_trial: BTreeMap::new(),
            scripted: false,
            liar: false,
            must_arrive: BTreeSet::new(),
            planted,
            came: BTreeMap::new(),
            bad_frames: BTreeMap::new(),
            effects: Effects::default(),
            latest_proxy: BTreeMap::new(),
            stale: BTreeMap::new(),
            unanswered: VecDeque::new(),
            again: BTreeSet::new(),
            swarm,
            rng,
        };
        if world.swarm.is_roomy() {
            world.checker.set_roomy();
        }
        for host in 0..world.hosts.len() {
            world.start(host);
        }
        for origin in world.senders.clone() {
            world.at(Micros(300_000), Event::Send { origin });
        }
        let first = Micros(0) + world.swarm.every;
        world.at(first, Event::Fault);
        world.at(Micros(0) + INSPECT_EVERY, Event::Inspect);
        world
    }

    pub(super) fn start(&mut self, index: NodeIx) {
        let skew = if self.swarm.skew { self.rng.u64(0..7_200_000_000) } else { 0 };
        let wall_base_us = 1_700_000_000_000_000 + skew;
        let now = self.clock(index);
        let host = &mut self.hosts[index];
        host.life += 1;
        host.conns.clear();
        (host.stopped, host.dark, host.frozen, host.alarm) = (false, false, false, Micros::NEVER);
        host.limits = host.settings.clone();
        host.members = host.members_beside();
        let incarnation = match self.planted {
            Some(Planted::WindowForgotten) if index != LEADER => Incarnation(wall_base_us - skew),
            _ => Incarnation(wall_base_us + self.now.0 + host.life),
        };
        host.incarnation = incarnation;
        if host.life > 1 {
            self.checker.restarted(&host.id, incarnation, self.now);
        }
        self.disturbed();
        let host = &mut self.hosts[index];
        let settings = host.settings.clone();
        let init = NodeInit {
            topology: Arc::clone(&host.topology),
            node: host.id.clone(),
            incarnation,
            settings: self.planted.map_or(settings.clone(), |planted| planted.settings(settings)),
            seed: self.rng.u64(..),
            wall_base_us,
        };
        let mut node = Node::new(init, now).expect("it is in the topology");
        if !self.swarm.echoes || self.swarm.echoless >> (index % 64) & 1 == 1 {
            node.set_offer(Offer { features: FEATURES & !FEATURE_ECHO, ..Offer::default() });
        }
        if let Some(planted) = self.planted.filter(|_| index == LEADER) {
            node.set_leaking(planted.leaks());
        }
        host.node = Some(node);
        self.note(&format!("start {index}"));
        self.pump(index);
    }
}

fn draw_topology(swarm: &Swarm, rng: &mut fastrand::Rng) -> Topology {
    let mut nodes = vec![(LEADER_ID.to_owned(), "us", Roles::ORIGIN)];
    for (datacenter, proxies, members) in [("us", 0, 2), ("eu", 2, 4), ("ap", 1 + rng.usize(0..2), 2)] {
        nodes.extend((0..proxies).map(|i| (format!("{datacenter}-p{i}"), datacenter, Roles::PROXY)));
        nodes.extend((0..members).map(|i| (format!("{datacenter}-m{i}"), datacenter, Roles::MEMBER)));
    }
    // One node is both.
    let both = Roles { origin: false, member: true, proxy: true };
    if rng.bool() {
        nodes.push(("eu-x".to_owned(), "eu", both));
    }
    if swarm.two_origins {
        let second = rng.choice(["us-m0", "eu-m0", "eu-p0", "ap-m1"]);
        for (id, _, roles) in &mut nodes {
            roles.origin |= Some(id.as_str()) == second;
        }
    }
    if swarm.answers {
        // Most members send as well, one of them by itself; and those who answer the leader have proxies on its side, mostly.
        nodes.extend((0..rng.usize(0..3)).map(|i| (format!("us-p{i}"), "us", Roles::PROXY)));
        for (id, _, roles) in &mut nodes {
            roles.member |= id == LEADER_ID;
            roles.origin |= roles.member && rng.u8(..) < 200;
        }
    }
    let specs = nodes.into_iter().enumerate().map(|(index, (id, datacenter, roles))| NodeSpec {
        id: NodeId::new(&id).expect("legal"),
        datacenter: Datacenter::new(datacenter).expect("legal"),
        roles,
        address: Some(SocketAddr::from(([127, 0, 0, 1], 1000 + u16::try_from(index).expect("few")))),
    });
    Topology::new(ClusterId::new("sim").expect("legal"), specs).expect("a legal topology")
}

fn draw_clocks(drift: Drift, hosts: usize, rng: &mut fastrand::Rng) -> Vec<u64> {
    const EXACT: u64 = 1_000_000;
    let mut clocks = vec![EXACT; hosts];
    match drift {
        Drift::None => {}
        Drift::Each => clocks.fill_with(|| rng.u64(EXACT - 1000..EXACT + 1000)),
        Drift::One => clocks[rng.usize(0..hosts)] = if rng.bool() { 2 * EXACT } else { EXACT / 2 },
    }
    clocks
}

/// The settings of one node.
pub(super) fn draw_settings(swarm: &Swarm, rng: &mut fastrand::Rng) -> Settings {
    const KIB: usize = 1024;
    let mut settings = Settings {
        snooze_max: Duration::from_secs(2),
        redial_max: Duration::from_secs(1),
        ..Settings::default()
    };
    if swarm.tight {
        settings.message_bytes_max = 48 * KIB;
        settings.frame_bytes_max = 256 * KIB;
        settings.run_bytes_max = 16 * KIB;
        settings.destination_budget_bytes = 128 * KIB;
        settings.datacenter_budget_bytes = 256 * KIB;
        settings.process_budget_bytes = 512 * KIB;
        settings.member_queue_bytes_max = 48 * KIB;
        settings.inbox_bytes_max = 64 * KIB;
        settings.reorder_bytes_max = 64 * KIB;
    }
    if swarm.wild {
        // What is small stays far above what a trial sends, and what is long below its patience.
        let mut ms = |from: u64, to: u64| Duration::from_millis(rng.u64(from..to));
        settings.handshake_timeout = ms(1000, 5000);
        settings.ping_interval = ms(50, 500);
        settings.silence_timeout = ms(1000, 4000);
        settings.redial_min = ms(1, 200);
        settings.redial_max = ms(200, 1500);
        settings.attempt_timeout_min = ms(1, 60);
        settings.attempt_timeout_max = ms(400, 2000);
        settings.snooze_min = ms(50, 1000);
        settings.snooze_max = ms(1000, 2500);
        settings.ack_delay = Duration::from_micros(rng.u64(0..5000));
        settings.drain_timeout = Duration::from_millis(rng.u64(0..2000));
        let message = (4 * KIB) << rng.u32(0..6);
        settings.message_bytes_max = message;
        // Whoever takes no frame that holds what others send holds them up, by its own choice.
        settings.frame_bytes_max = ((128 + 64) * KIB) << rng.u32(0..4);
        settings.run_bytes_max = KIB << rng.u32(0..8);
        settings.destination_budget_bytes = message.max(64 * KIB) << rng.u32(0..4);
        let least = settings.destination_budget_bytes * 2;
        settings.datacenter_budget_bytes = least << rng.u32(0..3);
        settings.process_budget_bytes = settings.datacenter_budget_bytes << rng.u32(0..3);
        settings.member_queue_bytes_max = message.max(32 * KIB) << rng.u32(0..4);
        settings.inbox_bytes_max = message.max(32 * KIB) << rng.u32(0..4);
        settings.reorder_bytes_max = message.max(32 * KIB) << rng.u32(0..4);
        settings.resend_percent = rng.u32(1..50);
        settings.dials_per_second = rng.u32(20..400);
        settings.connections_max = rng.usize(64..512);
        settings.handshakes_max = rng.usize(16..256);
        settings.second_stage = if rng.bool() { Stage::None } else { Stage::Lz4 };
    }
    if swarm.tight || swarm.wild {
        // Drawn aside: a seed whose proxies never have so much is the run that it was before they had a limit.
        let mut aside = fastrand::Rng::with_seed(rng.clone().u64(..));
        // The least that is legal, mostly: origins know of the room that there is, and seldom send more.
        settings.proxy_queue_bytes_max = settings.member_queue_bytes_max << (aside.u32(0..4) / 3);
    }
    settings.check().expect("legal settings");
    settings
}
