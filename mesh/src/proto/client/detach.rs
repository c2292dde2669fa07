//! What waits for long is copied out of the buffers it is slices of: nobody can see how much a slice keeps alive.

use std::time::Duration;

use super::{Client, Ticket};
use crate::message::Message;
use crate::proto::flow::FlowIx;
use crate::proto::time::Micros;

/// Time without any progress after which what waits is taken to wait for long.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(1);

impl Client {
    /// Copies small segments out of the buffers they are slices of: what waits in a stalled queue must not keep more alive
    /// than it is charged. Every message once: all that wait when that is noticed, then each as it comes, which is message
    /// `index` of a batch that was charged. True if that was copied.
    pub(super) fn detach(
        &mut self,
        ix: FlowIx,
        ticket: Ticket,
        index: usize,
        message: &mut Message,
        now: Micros,
    ) -> bool {
        let flow = &mut self.flows[ix.0];
        if !self.budget.is_stalled(flow.datacenter) && flow.stands_since(now) < STALLED_AFTER {
            return false;
        }
        for pending in flow.attached_mut() {
            if let Some(open) = self.batches.get_mut(&pending.ticket) {
                open.charge.detach(pending.index, &mut pending.payload);
            }
        }
        if let Some(open) = self.batches.get_mut(&ticket) {
            open.charge.detach(index, &mut message.payload);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::stranded::Stranded;
    use super::*;
    use crate::settings::Settings;
    use bytes::Bytes;

    #[test]
    fn what_stalled_members_share_is_copied_once_for_all_of_them() {
        let mut sender = Stranded::new(Settings::default());
        let (entry, beat) = (Bytes::from(vec![1; 12_000]), Bytes::from_static(b"beat"));
        sender.send(&["m1", "m2"], &entry, Micros(0));
        sender.send(&["m1"], &beat, Micros(1_500_000));
        sender.send(&["m2"], &beat, Micros(1_600_000));
        let addresses = sender.addresses();
        assert_eq!(addresses[0][0], addresses[1][0], "still one buffer");
        assert_ne!(addresses[0][0], entry.as_ptr().addr(), "but not that of the caller");
    }

    /// A budget that is more than half used is what a sender that waits for room has all the time.
    #[test]
    fn what_was_copied_is_not_copied_again() {
        let settings = Settings { datacenter_budget_bytes: 1 << 20, ..Settings::default() };
        let mut sender = Stranded::new(settings);
        sender.send(&["m1"], &Bytes::from(vec![1; 600_000]), Micros(0));
        let small = Bytes::from(vec![2; 100]);
        sender.send(&["m2"], &small, Micros(0));
        sender.send(&["m2"], &small, Micros(1));
        let before = sender.addresses();
        for flow in &mut sender.client.flows {
            flow.answered(crate::proto::flow::Way::Direct, Micros(2));
        }
        sender.send(&["m2"], &small, Micros(3));
        let after = sender.addresses();
        assert_eq!(before[1], after[1][..2], "in spite of progress");
        assert_ne!(after[1][2], small.as_ptr().addr());
    }
}
