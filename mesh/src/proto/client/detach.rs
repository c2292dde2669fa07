//! What waits for long is copied out of the buffers it is slices of: nobody can see how much a slice keeps alive.

use std::collections::BTreeMap;

use bytes::Bytes;
use trunkline_codec::Payload;

use super::Client;
use crate::message::Message;
use crate::proto::flow::FlowIx;
use crate::proto::time::Micros;

/// Segments below this length are copied when their queue stalls; longer ones are charged for what they are.
const DETACH_BELOW_BYTES: usize = 16 * 1024;

/// Copies made so far, by the slice they are of, so that what was shared stays shared. The slices are kept beside them:
/// were one freed meanwhile, its address could become another one's.
#[derive(Default)]
pub(super) struct Detached {
    copies: BTreeMap<(usize, usize), (Bytes, Bytes)>,
}

impl Detached {
    fn detach(&mut self, payload: &mut Payload) {
        if payload.segments().iter().all(|segment| segment.len() >= DETACH_BELOW_BYTES) {
            return;
        }
        let copy = |segment: &Bytes| {
            if segment.len() >= DETACH_BELOW_BYTES {
                return segment.clone();
            }
            let key = (segment.as_ptr().addr(), segment.len());
            let pair = || (segment.clone(), Bytes::copy_from_slice(segment));
            self.copies.entry(key).or_insert_with(pair).1.clone()
        };
        *payload = payload.segments().iter().map(copy).collect();
    }
}

impl Client {
    /// Copies small segments out of the buffers they are slices of: what waits in a stalled queue must not keep more alive
    /// than it is charged. Once for all that is queued when that is noticed, then for what comes.
    pub(super) fn detach(&mut self, ix: FlowIx, message: &mut Message, detached: &mut Detached, now: Micros) {
        let flow = &mut self.flows[ix.0];
        let stalled = self.budget.is_stalled(flow.datacenter) || flow.is_stalled(now);
        let began = stalled && !std::mem::replace(&mut flow.detached, stalled);
        if began {
            flow.payloads_mut().for_each(|payload| detached.detach(payload));
        }
        if stalled {
            detached.detach(&mut message.payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_slice_that_waits_is_copied_once_and_stays_shared() {
        let big = Bytes::from(vec![1; 100_000]);
        let (small, large) = (big.slice(10..20), big.slice(..DETACH_BELOW_BYTES));
        let payload = || -> Payload { [small.clone(), large.clone()].into_iter().collect() };
        let (mut one, mut two) = (payload(), payload());
        let mut detached = Detached::default();
        detached.detach(&mut one);
        detached.detach(&mut two);
        let address = |payload: &Payload, at: usize| payload.segments()[at].as_ptr();
        assert_ne!(address(&one, 0), small.as_ptr(), "out of the big buffer");
        assert_eq!(address(&one, 0), address(&two, 0), "once");
        assert_eq!(address(&one, 1), large.as_ptr(), "what is long is charged for what it is");
        assert_eq!(one.to_vec(), payload().to_vec());
    }
}
