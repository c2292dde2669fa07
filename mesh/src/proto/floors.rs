//! Floors of an origin as a member hears them. What a proxy says of a floor is believed, for it is most often the only one who
//! says anything; but numbers that were passed over for it alone, and under which nothing was handed over, are free again when
//! the origin says less over a link of its own. Whether that is a late word of the origin or a lie of the proxy, the member
//! knows where the link was begun after the proxy had said it: an origin's floor only rises.

use std::collections::BTreeSet;

use super::links::{LinkId, PeerIx};
use super::window::WINDOW_SEQS;
use crate::id::Seq;

/// Who brought a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Its origin, over this link.
    Itself(LinkId),
    /// A proxy; links from this one on were not begun yet.
    Proxy(PeerIx, LinkId),
}

/// What a proxy said, and the origin has not confirmed.
#[derive(Clone, Copy, Debug)]
struct Claim {
    by: PeerIx,
    /// Links from this one on were begun since.
    since: LinkId,
    /// The floor.
    to: u64,
    /// Nothing from here up to the floor was handed over.
    from: u64,
}

/// What is known of an origin's floor, and by whose word.
#[derive(Debug)]
pub struct Floors {
    /// The highest that the origin itself said.
    own: u64,
    /// What a window never goes behind: all below was handed over, or the origin said itself that it is over.
    least: u64,
    /// Where a proxy said that the window begins.
    begun: u64,
    /// Links from this one on were begun since a proxy last brought anything new.
    moved: LinkId,
    /// By which the window began; the first that is farther up than any sender has numbers; the latest.
    claims: [Option<Claim>; 3],
}

const FIRST: usize = 0;
const FAR: usize = 1;
const LATEST: usize = 2;

impl Floors {
    /// A window begins at this floor.
    #[must_use]
    pub fn new(floor: u64, by: By) -> Self {
        let mut floors =
            Self { own: Seq::FIRST.0, least: Seq::FIRST.0, begun: 0, moved: LinkId(0), claims: [None; 3] };
        match by {
            By::Itself(_) => (floors.own, floors.least) = (floor, floor),
            By::Proxy(by, since) => {
                floors.begun = floor;
                floors.claims[FIRST] = Some(Claim { by, since, to: floor, from: floors.least });
                floors.moved = since;
            }
        }
        floors
    }

    /// A proxy brought a message that is new.
    pub fn brought(&mut self, since: LinkId) {
        self.moved = since;
    }

    /// A proxy says a floor above all that is decided.
    pub fn claim(&mut self, by: PeerIx, to: u64, since: LinkId) {
        self.moved = since;
        let claim = Claim { by, since, to, from: self.least };
        if to > self.least.max(self.begun).saturating_add(WINDOW_SEQS) {
            self.claims[FAR].get_or_insert(claim);
        }
        self.claims[LATEST] = Some(claim);
    }

    /// A message was handed over.
    pub fn handed_over(&mut self, seq: u64) {
        self.least = seq.saturating_add(1);
        for claim in self.claims.iter_mut().flatten().filter(|claim| seq < claim.to) {
            claim.from = self.least;
        }
    }

    /// The origin itself says its floor, over this link. Gives what the window does not go behind, and the proxies that lied.
    pub fn say(&mut self, floor: u64, link: LinkId) -> (u64, BTreeSet<PeerIx>) {
        (self.own, self.least) = (self.own.max(floor), self.least.max(floor));
        let mut liars = BTreeSet::new();
        let mut genuine = self.least;
        for slot in &mut self.claims {
            let Some(claim) = slot.take_if(|claim| link >= claim.since) else { continue };
            if claim.to <= floor {
                continue;
            }
            liars.insert(claim.by);
            // So far up the origin had sent nothing when it said this, and nothing came of it since: what was handed over under
            // such numbers was not its.
            if claim.to >= floor.saturating_add(WINDOW_SEQS) && link >= self.moved {
                genuine = genuine.min(claim.from);
            }
        }
        self.least = genuine.max(self.own);
        (self.least, liars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PeerIx = PeerIx(1);
    const Q: PeerIx = PeerIx(2);
    const FAR_UP: u64 = 1 << 60;

    #[test]
    fn what_a_proxy_says_is_free_again_when_the_origin_says_less() {
        let mut floors = Floors::new(1, By::Itself(LinkId(1)));
        (1..=4).for_each(|seq| floors.handed_over(seq));
        floors.claim(P, FAR_UP, LinkId(5));
        assert_eq!(floors.say(3, LinkId(4)), (5, [].into()), "it may be late");
        assert_eq!(floors.say(3, LinkId(5)), (5, [P].into()), "it said so after that");
        assert_eq!(
            floors.say(9, LinkId(5)),
            (9, [].into()),
            "once, and what the origin says it does not take back"
        );
        assert_eq!(floors.say(3, LinkId(6)), (9, [].into()));
    }

    #[test]
    fn who_said_what_the_origin_says_too_did_not_lie() {
        let mut floors = Floors::new(7, By::Proxy(P, LinkId(2)));
        assert_eq!(floors.say(4, LinkId(1)), (4, [].into()), "sent before");
        assert_eq!(floors.say(7, LinkId(2)), (7, [].into()));
        floors.claim(Q, 9, LinkId(3));
        assert_eq!(floors.say(9, LinkId(3)), (9, [].into()));
        assert_eq!(floors.say(10, LinkId(4)), (10, [].into()));
    }

    #[test]
    fn one_who_lies_without_end_is_found_all_the_same() {
        let mut floors = Floors::new(1, By::Itself(LinkId(1)));
        for link in 2..100 {
            floors.claim(P, FAR_UP + link, LinkId(link));
            assert_eq!(floors.say(1, LinkId(1)), (1, [].into()));
        }
        assert_eq!(floors.say(1, LinkId(2)), (1, [P].into()), "by the first");
    }

    /// Else one message under a number far up would keep the origin out as long as the floor did.
    #[test]
    fn messages_under_numbers_that_the_origin_had_not_reached_keep_it_out_no_longer() {
        let mut floors = Floors::new(1, By::Itself(LinkId(1)));
        (1..=4).for_each(|seq| floors.handed_over(seq));
        floors.claim(P, FAR_UP, LinkId(5));
        // It held these when it was told to pass on: they are the origin's.
        floors.handed_over(6);
        floors.handed_over(FAR_UP);
        floors.claim(Q, FAR_UP + 7, LinkId(5));
        floors.handed_over(FAR_UP + 7);
        assert_eq!(floors.say(5, LinkId(4)), (FAR_UP + 8, [].into()));
        assert_eq!(floors.say(5, LinkId(5)), (7, [P, Q].into()));
    }

    /// What the origin may have sent since it said its floor is handed over once.
    #[test]
    fn what_may_be_the_origins_is_not_taken_back() {
        let near = 4 + WINDOW_SEQS;
        for (to, moved, least) in [(near, 5, near + 1), (near + 1, 6, near + 2), (near + 1, 5, 5)] {
            let mut floors = Floors::new(1, By::Itself(LinkId(1)));
            (1..=4).for_each(|seq| floors.handed_over(seq));
            floors.claim(P, to, LinkId(5));
            floors.handed_over(to);
            floors.brought(LinkId(moved));
            assert_eq!(floors.say(5, LinkId(5)), (least, [P].into()), "{to}, {moved}");
        }
    }

    #[test]
    fn a_window_that_began_by_a_lie_goes_back_to_where_the_origin_begins() {
        let mut floors = Floors::new(FAR_UP, By::Proxy(P, LinkId(5)));
        floors.handed_over(FAR_UP);
        floors.claim(P, u64::MAX, LinkId(5));
        floors.handed_over(u64::MAX);
        assert_eq!(floors.say(3, LinkId(5)), (3, [P].into()));
    }
}
