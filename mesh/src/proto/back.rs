//! The way back, as a sender sees it: what it answers an origin elsewhere goes to the proxy of its own datacenter by which it
//! heard from that origin, and from there, with what others answer, over the link that the origin dialled.
//!
//! Nobody has to say that a proxy reaches an origin: what it brings from there says so. It is no better than the other ways,
//! only cheaper, so it is left for a while whenever it fails or is slow, and nobody is convicted for it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::links::{LinkId, PeerIx};
use super::rtt::Rtt;
use super::time::Micros;
use crate::id::NodeId;

/// How long a flow leaves the way back once it was clearly slower than the way by a proxy.
const LEFT_FOR: Duration = Duration::from_secs(5);

/// Clearly slower: an eighth longer than by a proxy, and by this and the time for which a proxy lets answers wait.
const SLOWER_BY: Duration = Duration::from_millis(5);

/// How long an attempt waits whose round trip nobody knows anything of: as TCP's first one, RFC 6298.
pub const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The way back of one flow.
#[derive(Debug, Default)]
pub struct Back {
    /// The link over which a proxy brought last what its destination sent, and that proxy: of that one what follows is known.
    over: Option<(LinkId, PeerIx)>,
    /// Nobody else brought anything of it since.
    heard_last: bool,
    /// Write to ack.
    pub rtt: Rtt,
    trial_until: Micros,
    /// Proxies that are left for being slow, until when: at most those of this sender's own datacenter.
    left: Vec<(PeerIx, Micros)>,
}

impl Back {
    /// The destination was heard over this link of a proxy; or over none that leads back to it.
    pub fn heard(&mut self, over: Option<(LinkId, PeerIx)>) {
        self.heard_last = over.is_some();
        let Some((_, proxy)) = over else { return };
        if self.proxy() != Some(proxy) {
            *self = Self { heard_last: true, left: std::mem::take(&mut self.left), ..Self::default() };
        }
        self.over = over;
    }

    /// By which proxy it leads, or led last.
    #[must_use]
    pub fn proxy(&self) -> Option<PeerIx> {
        self.over.map(|(_, proxy)| proxy)
    }

    /// It leads over this link, or led last.
    #[must_use]
    pub fn is_over(&self, link: LinkId) -> bool {
        self.over.is_some_and(|(over, _)| over == link)
    }

    /// Where it leads now: nowhere while it is left for being slow, or while one message tries it.
    #[must_use]
    pub fn way(&self, now: Micros) -> Option<(LinkId, PeerIx)> {
        let left = |proxy| self.left.iter().any(|(of, until)| *of == proxy && *until > now);
        self.last_resort(now).filter(|(_, proxy)| self.heard_last && !left(*proxy))
    }

    /// Where it leads for who has no other way: what was slow, or was heard otherwise since, may lead there still.
    #[must_use]
    pub fn last_resort(&self, now: Micros) -> Option<(LinkId, PeerIx)> {
        self.over.filter(|_| self.trial_until <= now)
    }

    /// When it leads somewhere again, if nothing comes before.
    #[must_use]
    pub fn next_wake(&self, now: Micros) -> Micros {
        if self.trial_until > now { self.trial_until } else { Micros::NEVER }
    }

    /// A message says whether it works again, until then at most.
    pub fn begin_trial(&mut self, until: Micros) {
        self.trial_until = until;
    }

    /// Something that went this way was answered.
    pub fn answered(&mut self) {
        self.trial_until = Micros(0);
    }

    /// An ack of what went by this proxy took so long: a late one says nothing of another proxy. By one of the destination's
    /// datacenter it takes `by_proxy_us`, 0 where that is not known.
    pub fn sample(
        &mut self,
        (proxy, rtt): (PeerIx, Duration),
        by_proxy_us: u64,
        ack_delay: Duration,
        now: Micros,
    ) {
        if self.proxy() != Some(proxy) {
            return;
        }
        self.rtt.sample(rtt, now);
        let limit = Duration::from_micros(by_proxy_us.saturating_add(by_proxy_us / 8)) + SLOWER_BY;
        let smoothed = Duration::from_micros(self.rtt.smoothed_us());
        if by_proxy_us > 0 && smoothed > limit.saturating_add(ack_delay) {
            self.rtt = Rtt::default();
            self.left.retain(|(of, until)| *until > now && *of != proxy);
            self.left.push((proxy, now + LEFT_FOR));
        }
    }
}

/// The proxies of this sender's own datacenter that ever brought it something from elsewhere, by name.
#[derive(Debug, Default)]
pub struct Backs {
    known: BTreeMap<PeerIx, NodeId>,
}

impl Backs {
    /// This proxy brought something.
    pub fn note(&mut self, proxy: PeerIx, id: &NodeId) {
        self.known.entry(proxy).or_insert_with(|| id.clone());
    }

    /// Its id, if it is one of them.
    #[must_use]
    pub fn id(&self, proxy: PeerIx) -> Option<&NodeId> {
        self.known.get(&proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PeerIx = PeerIx(1);
    const OVER: Option<(LinkId, PeerIx)> = Some((LinkId(1), P));

    #[test]
    fn it_leads_where_the_destination_was_heard_and_is_left_while_it_is_slow() {
        let mut back = Back::default();
        assert_eq!(back.way(Micros(0)), None);
        back.heard(OVER);
        assert_eq!(back.way(Micros(0)), OVER);
        let ms = Duration::from_millis;
        for _ in 0..100 {
            back.sample((P, ms(118)), 100_000, ms(1), Micros(0));
        }
        assert_eq!(back.way(Micros(0)), OVER, "an eighth longer, 5 ms, and what a proxy lets answers wait");
        for _ in 0..100 {
            back.sample((P, ms(900)), 0, ms(1), Micros(0));
        }
        assert_eq!(back.way(Micros(0)), OVER, "nobody knows how long it should take");
        back.sample((P, ms(900)), 100_000, ms(1), Micros(0));
        assert_eq!((back.way(Micros(4_999_999)), back.last_resort(Micros(4_999_999))), (None, OVER));
        assert_eq!(back.way(Micros(5_000_000)), OVER);
        assert!(back.rtt.is_empty(), "and measured anew");
        back.sample((P, ms(900)), 100_000, ms(1), Micros(0));
        back.heard(Some((LinkId(2), PeerIx(2))));
        assert!(back.way(Micros(0)).is_some(), "another proxy has its own record");
        let over = back.way(Micros(0));
        back.heard(None);
        assert_eq!(
            (back.way(Micros(0)), back.last_resort(Micros(0))),
            (None, over),
            "for who has no other way"
        );
    }

    #[test]
    fn a_proxy_that_was_left_for_being_slow_is_left_however_the_destination_is_heard_meanwhile() {
        let ms = Duration::from_millis;
        let other = Some((LinkId(2), PeerIx(2)));
        for meanwhile in [vec![None], vec![other], vec![None, other, None]] {
            let mut back = Back::default();
            back.heard(OVER);
            back.sample((P, ms(900)), 100_000, ms(1), Micros(0));
            for over in &meanwhile {
                back.heard(*over);
                assert_eq!(back.way(Micros(1)), *over, "{meanwhile:?}");
            }
            // Anew, and by another link of that proxy.
            back.heard(Some((LinkId(3), PeerIx(1))));
            assert_eq!(back.way(Micros(4_999_999)), None, "{meanwhile:?}");
            assert!(back.way(Micros(5_000_000)).is_some(), "{meanwhile:?}");
        }
    }

    #[test]
    fn how_long_it_takes_is_known_still_when_the_destination_was_heard_otherwise_once() {
        let mut back = Back::default();
        back.heard(OVER);
        back.sample((P, Duration::from_millis(20)), 0, Duration::ZERO, Micros(0));
        back.heard(None);
        back.heard(OVER);
        assert!(!back.rtt.is_empty());
        back.heard(Some((LinkId(2), PeerIx(2))));
        assert!(back.rtt.is_empty(), "of another one nothing is known");
        back.sample((P, Duration::from_millis(900)), 100_000, Duration::ZERO, Micros(0));
        assert!(
            back.rtt.is_empty() && back.way(Micros(0)).is_some(),
            "nor by what comes late of the first one"
        );
    }

    #[test]
    fn one_message_tries_it_and_others_go_on() {
        let mut back = Back::default();
        back.heard(OVER);
        back.begin_trial(Micros(100));
        assert_eq!((back.way(Micros(99)), back.way(Micros(100))), (None, OVER));
        assert_eq!((back.last_resort(Micros(99)), back.last_resort(Micros(100))), (None, OVER));
        assert_eq!((back.next_wake(Micros(99)), back.next_wake(Micros(100))), (Micros(100), Micros::NEVER));
        back.begin_trial(Micros(300));
        back.answered();
        assert_eq!(back.way(Micros(200)), OVER);
    }
}
