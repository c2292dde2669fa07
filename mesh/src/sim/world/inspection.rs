//! Rules that hold at every moment, whatever was told to whom: limits, budgets, and that trouble in one datacenter costs
//! the others nothing.

use super::*;
use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// What a message may take, beyond its way there, although nothing is wrong on its way: writers, acks and gaps.
const PROMPT: Duration = Duration::from_millis(20);

/// Whoever uses less than this part of what it may is not near its limit, nor are all of those that are in one's way together.
const CROWDED_PART: usize = 8;

/// What a message may take in a run beyond its payload: its kind and its length.
const RUN_MESSAGE_OVERHEAD_BYTES: usize = 16;

impl World {
    /// Looks at all hosts.
    pub(super) fn inspect(&mut self) {
        self.at(self.now + INSPECT_EVERY, Event::Inspect);
        for index in 0..self.hosts.len() {
            self.check_limits(index);
        }
    }

    /// No queue of a node is longer than its settings say.
    pub(super) fn check_limits(&mut self, index: NodeIx) {
        self.check_queues(index);
        let now = self.clock(index);
        let host = &self.hosts[index];
        let mut over = Vec::new();
        for (name, routes) in host.node.iter().flat_map(|node| node.routes_kept(now)) {
            let snoozed = routes.iter().filter(|route| route.state == "snoozed").count();
            // Where proxies leave, those that are left alone may be more than half of the rest.
            if 2 * snoozed > routes.len() && !self.swarm.faults.contains(&Fault::Leave) {
                over.push(format!("{snoozed} proxies of {name} are left alone, over half"));
            }
        }
        for text in over {
            self.checker.broken(text);
        }
    }

    /// Each queue against its own limit, as the node charges it.
    pub(super) fn check_queues(&mut self, index: NodeIx) {
        let host = &self.hosts[index];
        let Some(node) = host.node.as_ref() else { return };
        let limits = &host.limits;
        // One message always fits, whatever the limit is; and one run, whose sender may have larger limits.
        let message = MESSAGE_BYTES_MAX + MESSAGE_OVERHEAD_BYTES;
        let run =
            self.run_bytes_most.max(MESSAGE_BYTES_MAX + RUN_MESSAGE_OVERHEAD_BYTES) + MESSAGE_OVERHEAD_BYTES;
        // Of what a proxy has for all queues each lane of each has an equal part in any case. With more members it is less.
        let part = limits.proxy_queue_bytes_max / (host.members.max(1) * Lane::ALL.len());
        let mut beyond = 0;
        let mut over = None;
        let roomy = self.swarm.is_roomy();
        node.kept().for_each(|Kept { limit, of, bytes }| {
            let max = match limit {
                Limit::Inbox => limits.inbox_bytes_max.max(message),
                // Beside what it may hold the one that is next.
                Limit::Reorder => limits.reorder_bytes_max + message,
                Limit::Member => limits.member_queue_bytes_max.max(run),
                Limit::Proxy => {
                    beyond += bytes.saturating_sub(part);
                    return;
                }
                Limit::Destination => limits.destination_budget_bytes.max(message),
                Limit::Datacenter => limits.datacenter_budget_bytes,
                Limit::Process => limits.process_budget_bytes,
            };
            // With a part of every queue in use there is room for what comes next, wherever it is.
            if roomy && bytes > max / CROWDED_PART {
                let to = of.filter(|_| limit != Limit::Reorder).map_or(&host.id, |(node, _)| node);
                self.checker.crowded(to, self.now);
            }
            if bytes > max {
                over = Some(format!("{}: {bytes} bytes {}, at most {max}", host.id, place(limit, of)));
            }
        });
        // What came while there was room in all of them is within the limit, and what came after that within its part.
        let max = limits.proxy_queue_bytes_max;
        if beyond > max {
            let text = format!("{}: {beyond} bytes beyond the parts of its queues, at most {max}", host.id);
            over = over.or(Some(text));
        }
        if let Some(text) = over {
            self.checker.broken(text);
        }
    }

    /// What the faults of a trial did not touch was as fast as ever.
    pub(super) fn check_prompt(&mut self) {
        let sent = std::mem::take(&mut self.sent_in_trial);
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.desynced.values().flatten());
        let open = self.wire.ends();
        self.desynced.retain(|end, _| open.contains(end));
        // What comes first after healing may find that a destination has restarted in between.
        let first = self.trial <= self.healed_at;
        if first || !self.swarm.is_prompt() || self.scripted {
            return;
        }
        let arrivals = self.checker.arrivals_of(sent.keys());
        let home = self.hosts[LEADER].datacenter;
        // Where members answer, what the leader sends and gets may go by proxies of its own datacenter.
        if self.swarm.answers && touched.contains(&home) {
            return;
        }
        // A node that is told of a later life of its own begins another one, at any time after its restart.
        let unheard = sent.keys().filter(|id| self.checker.came_unheard(**id));
        let strangers: BTreeSet<NodeId> =
            unheard.filter_map(|id| self.checker.destination(*id).cloned()).collect();
        let is_stranger = |id| self.checker.destination(id).is_some_and(|of| strangers.contains(of));
        let sent: Vec<_> = sent.into_iter().filter(|(id, _)| !is_stranger(*id)).collect();
        for (id, (at, site)) in sent.into_iter().filter(|(_, (_, site))| !touched.contains(site)) {
            let way = self.delays[home][site];
            let Some(took) = arrivals.get(&id).map(|arrived| arrived.since(at)) else { continue };
            if !touched.is_empty() {
                self.effects.count(Effect::Untouched);
            }
            // Behind the one message of a flow that had failed before all was healed: that one's answer comes first.
            if took > way + PROMPT
                && (took > 3 * way + PROMPT || !self.checker.follows_probe(id, self.healed_at))
            {
                let text = format!(
                    "message {id} to or from {}: {took:?} under way, over {way:?}, and nothing was wrong there",
                    self.datacenters[site]
                );
                self.checker.broken(text);
            }
        }
    }
}

/// Where what a limit is for is kept, in words.
pub(super) fn place(limit: Limit, of: Option<(&NodeId, Lane)>) -> String {
    let name = match limit {
        Limit::Inbox => "in its inbox",
        Limit::Reorder => "out of turn",
        Limit::Member => "in the queue",
        Limit::Proxy => "in the queue, behind the first run of its flow",
        Limit::Destination => "charged to a destination",
        Limit::Datacenter => "charged to the budget of a datacenter",
        Limit::Process => "charged to the budget of the process",
    };
    of.map_or(name.to_owned(), |(node, lane)| format!("{name}, {node} on {lane}"))
}
