//! The way that flows have in common: who has a message for every member of a datacenter looks for their way once, and not
//! once for each of them.

use super::{Client, Pick};
use crate::id::Lane;
use crate::proto::decision::{Passed, Why};
use crate::proto::flow::{Flow, FlowIx, Way};
use crate::proto::links::{Link, LinkId, Links};
use crate::proto::time::Micros;

/// The way that was found for a flow that may take any. Until anything happens it is that of all such flows of its datacenter
/// and lane.
#[derive(Default)]
pub(super) struct Common(Option<Found>);

struct Found {
    of: (usize, Lane),
    link: LinkId,
    proxy: usize,
    /// Payload bytes of the longest message that it takes.
    bytes_max: usize,
    reasons: Option<Reasons>,
}

/// What a log of decisions says of it.
struct Reasons {
    /// Payload bytes of the message that they are for: a longer one may have passed others over.
    bytes: usize,
    why: Why,
    passed: Vec<Passed>,
}

impl Common {
    /// Something happened.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    fn of(&self, flow: &Flow) -> Option<&Found> {
        self.0.as_ref().filter(|found| found.of == (flow.datacenter, flow.lane))
    }

    /// The way of a flow, if that is known.
    pub(super) fn way(&self, flow: &Flow, now: Micros) -> Option<(LinkId, Way)> {
        let found = self.of(flow).filter(|found| flow.next_bytes(true) <= found.bytes_max)?;
        flow.may_take_any(now).then_some((found.link, Way::Proxy(found.proxy)))
    }
}

impl Client {
    /// The way a flow takes now.
    pub(super) fn pick_in(
        &mut self,
        common: &mut Common,
        ix: FlowIx,
        links: &mut Links,
        now: Micros,
    ) -> Pick {
        if let Some((link, way)) = common.way(&self.flows[ix.0], now) {
            return Pick::Link(link, way);
        }
        let may_take_any = self.flows[ix.0].may_take_any(now);
        let pick = self.pick(ix, links, now);
        let flow = &self.flows[ix.0];
        let first = self.sites[flow.datacenter].routes.first();
        common.0 = match pick {
            // Where the first one does not take a message, it may take another one's.
            Pick::Link(link, Way::Proxy(proxy)) if may_take_any && first == Some(proxy) => Some(Found {
                of: (flow.datacenter, flow.lane),
                link,
                proxy,
                bytes_max: links.link(link).map_or(0, Link::room),
                reasons: None,
            }),
            _ => None,
        };
        pick
    }

    /// Writes down that a flow took this way, as [`Client::note_decision`] does.
    pub(super) fn note_taken(
        &mut self,
        common: &mut Common,
        (ix, way): (FlowIx, Way),
        (attempt, bytes): (u32, usize),
        links: &Links,
        now: Micros,
    ) {
        let flow = &self.flows[ix.0];
        let found = common.0.as_mut().filter(|found| found.of == (flow.datacenter, flow.lane));
        let Some(found) = found.filter(|found| way == Way::Proxy(found.proxy) && flow.is_unbarred(now))
        else {
            return self.note_decision(ix, Some(way), (attempt, bytes), links, now);
        };
        let known = found.reasons.take().filter(|reasons| reasons.bytes == bytes);
        let reasons = known.unwrap_or_else(|| {
            let (why, passed) = self.reasons(ix, Some(way), bytes, links, now);
            Reasons { bytes, why, passed }
        });
        self.note(ix, (Some(way), reasons.why, attempt), &reasons.passed, now);
        found.reasons = Some(reasons);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::NodeId;
    use crate::proto::client::Ticket;
    use crate::proto::flow::{MessageId, Pending};
    use crate::proto::links::PeerIx;
    use crate::proto::pause::Cause;

    const NOW: Micros = Micros(5);

    fn flow(datacenter: usize, lane: Lane, bytes: usize) -> Flow {
        let mut flow = Flow::new(PeerIx(0), NodeId::new("m").unwrap(), datacenter, lane);
        let (id, payload) = (MessageId(1), vec![0; bytes].into());
        let pending = Pending {
            id,
            ticket: Ticket(1),
            index: 0,
            kind: 0,
            slot: None,
            expires_at: Micros::NEVER,
            group: id,
            payload,
        };
        assert!(flow.push(pending, NOW).is_none());
        flow
    }

    #[test]
    fn it_is_the_way_of_who_may_take_any_to_the_same_place_and_of_nobody_else() {
        let found = Found { of: (1, Lane::Bulk), link: LinkId(7), proxy: 2, bytes_max: 100, reasons: None };
        let mut common = Common(Some(found));
        let way = Some((LinkId(7), Way::Proxy(2)));
        assert_eq!(common.way(&flow(1, Lane::Bulk, 100), NOW), way);
        for (other, why) in [
            (flow(1, Lane::Bulk, 101), "too long"),
            (flow(0, Lane::Bulk, 100), "another datacenter"),
            (flow(1, Lane::Control, 100), "another lane"),
        ] {
            assert_eq!(common.way(&other, NOW), None, "{why}");
        }
        type Change = fn(&mut Flow);
        let changes: [(&str, Change); 6] = [
            ("a way is left alone, though it be another one", |flow| {
                flow.pauses.avoid(Way::Proxy(3), Cause::TimedOut, NOW);
            }),
            ("what is longer may not go by some proxy", |flow| flow.pauses.limit(Way::Proxy(2), 200, NOW)),
            ("the receiver is full", |flow| flow.pauses.full(None, NOW)),
            ("it is to go directly", |flow| flow.pauses.probe_directly()),
            ("it has a way back", |flow| flow.back.heard(Some((LinkId(3), PeerIx(4))))),
            ("its floor goes by another way", |flow| flow.audit = true),
        ];
        for (why, change) in changes {
            let mut flow = flow(1, Lane::Bulk, 100);
            change(&mut flow);
            assert_eq!(common.way(&flow, NOW), None, "{why}");
        }
        let mut flow = flow(1, Lane::Bulk, 100);
        flow.pauses.avoid(Way::Direct, Cause::DialFailed, NOW);
        flow.pauses.limit(Way::Proxy(2), 200, NOW);
        let later = NOW + Duration::from_secs(61);
        assert_eq!(common.way(&flow, later), way, "what was held against a way is over");
        flow.pauses.avoid(Way::Proxy(3), Cause::TimedOut, NOW);
        flow.pauses.answered(Way::Proxy(2));
        assert_eq!(common.way(&flow, later), None, "a way is to be tried");
        common.forget();
        assert_eq!(common.way(&self::flow(1, Lane::Bulk, 100), NOW), None);
    }
}
