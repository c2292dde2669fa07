//! Rules that hold at every moment, whatever was told to whom: limits, budgets, and that trouble in one datacenter costs
//! the others nothing.

use super::*;
use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// What a message may take, beyond its way there, although nothing is wrong on its way: writers, acks and gaps.
const PROMPT: Duration = Duration::from_millis(20);

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
        let now = self.clock(index);
        let host = &self.hosts[index];
        let Some(status) = host.node.as_ref().map(|node| node.status(now)) else { return };
        let limits = &host.limits;
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        // One message always fits, however large; and one run, of a sender whose limits are larger.
        let one = self.hosts.iter().map(|host| host.limits.message_bytes_max).max().unwrap_or(0);
        let one = bytes(one.max(limits.run_bytes_max) + MESSAGE_OVERHEAD_BYTES);
        let flows = bytes(self.origins.len() * 2);
        let queues = bytes(self.hosts.len() * 2);
        let mut over = Vec::new();
        for (what, held, max) in [
            ("in its inbox", status.inbox_bytes, bytes(limits.inbox_bytes_max) + one),
            ("held", status.held_bytes, (bytes(limits.reorder_bytes_max) + one) * flows),
            (
                "queued for members",
                status.proxy_queue_bytes,
                (bytes(limits.member_queue_bytes_max) + one) * queues,
            ),
        ] {
            if held > max {
                over.push(format!("{}: {held} bytes {what}, at most {max}", host.id));
            }
        }
        let all: u64 = status.datacenters.iter().map(|row| row.queued_bytes).sum();
        if all > bytes(limits.process_budget_bytes) {
            over.push(format!("{}: {all} bytes queued, over the budget of the process", host.id));
        }
        for row in status.datacenters {
            let snoozed = row.routes.iter().filter(|route| route.state == "snoozed").count();
            // Where proxies leave, those that are left alone may be more than half of the rest.
            if 2 * snoozed > row.routes.len() && !self.swarm.faults.contains(&Fault::Leave) {
                over.push(format!("{snoozed} proxies of {} are left alone, over half", row.name));
            }
            if row.queued_bytes > bytes(limits.datacenter_budget_bytes) {
                over.push(format!("{} bytes queued for {}, over its budget", row.queued_bytes, row.name));
            }
        }
        for text in over {
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
            if let Some(arrived) = arrivals.get(&id).filter(|arrived| arrived.since(at) > way + PROMPT) {
                let text = format!(
                    "message {id} to or from {}: {:?} under way, over {way:?}, and nothing was wrong there",
                    self.datacenters[site],
                    arrived.since(at)
                );
                self.checker.broken(text);
            }
        }
    }
}
