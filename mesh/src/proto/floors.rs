//! Floors of an origin as a member hears them. What a proxy says of a floor is believed, for it is most often the only one who
//! says anything; but numbers that were passed over for it alone, and under which nothing was handed over, are free again when
//! the origin says less over a link of its own. Whether that is a late word of the origin or a lie of the proxy, the member
//! knows where the link was begun after the proxy had said it: an origin's floor only rises.

use std::collections::{BTreeMap, BTreeSet};

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

/// What a proxy said, and the origin has not confirmed: it is here at least.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// Links from this one on were begun since.
    since: LinkId,
    /// The floor, or the lowest that an origin has which sent what the proxy brought.
    to: u64,
}

/// Numbers that were passed over by word of a proxy.
#[derive(Clone, Copy, Debug)]
struct Jump {
    /// The floor.
    to: u64,
    /// Nothing from here up to the floor was handed over.
    from: u64,
}

/// What is known of an origin's floor, and by whose word.
#[derive(Debug)]
pub struct Floors {
    /// The highest that the origin itself said, or has for what it sent itself.
    own: u64,
    /// What a window never goes behind: all below was handed over, or the origin said itself that it is over.
    least: u64,
    /// Where a proxy said that the window begins; the origin has said nothing since.
    begun: u64,
    /// Links from this one on were begun since a proxy last brought anything new.
    moved: LinkId,
    /// Of each proxy the first and the highest.
    said: BTreeMap<PeerIx, [Option<Word>; 2]>,
    /// By which the window began; the first that is farther up than any sender has numbers; the latest.
    jumps: [Option<Jump>; 3],
}

/// What the origin's own word comes to.
#[derive(PartialEq, Eq, Debug)]
pub struct Said {
    /// The window does not go behind this.
    pub least: u64,
    /// The proxies that lied.
    pub liars: BTreeSet<PeerIx>,
    /// Nothing that the origin may send now is new to the window, and what came since its link was begun may be its: only over
    /// another link can it be known.
    pub asks_anew: bool,
}

const FIRST: usize = 0;
const FAR: usize = 1;
const LATEST: usize = 2;

impl Floors {
    /// A window begins at this floor.
    #[must_use]
    pub fn new(floor: u64, by: By) -> Self {
        let mut floors = Self {
            own: Seq::FIRST.0,
            least: Seq::FIRST.0,
            begun: 0,
            moved: LinkId(0),
            said: BTreeMap::new(),
            jumps: [None; 3],
        };
        match by {
            By::Itself(_) => (floors.own, floors.least) = (floor, floor),
            By::Proxy(by, since) => {
                floors.begun = floor;
                floors.jumps[FIRST] = Some(Jump { to: floor, from: floors.least });
                floors.note(by, floor, since);
            }
        }
        floors
    }

    /// Somebody brought a message that is new. A floor is at most `WINDOW_SEQS` below what its origin has sent.
    pub fn brought(&mut self, seq: u64, by: By) {
        let least = seq.saturating_add(1).saturating_sub(WINDOW_SEQS);
        match by {
            By::Itself(_) => self.own = self.own.max(least),
            By::Proxy(by, since) => self.note(by, least, since),
        }
    }

    /// A proxy says a floor above all that is decided.
    pub fn claim(&mut self, by: PeerIx, to: u64, since: LinkId) {
        let jump = Jump { to, from: self.least };
        if to > self.least.max(self.begun).saturating_add(WINDOW_SEQS) {
            self.jumps[FAR].get_or_insert(jump);
        }
        self.jumps[LATEST] = Some(jump);
        self.note(by, to, since);
    }

    fn note(&mut self, by: PeerIx, to: u64, since: LinkId) {
        self.moved = since;
        if to > self.own {
            let [first, highest] = self.said.entry(by).or_default();
            let word = Word { since, to };
            if first.is_none() {
                *first = Some(word);
            } else if highest.is_none_or(|highest| to > highest.to) {
                *highest = Some(word);
            }
        }
    }

    /// A message was handed over.
    pub fn handed_over(&mut self, seq: u64) {
        self.least = seq.saturating_add(1);
        for jump in self.jumps.iter_mut().flatten().filter(|jump| seq < jump.to) {
            jump.from = self.least;
        }
    }

    /// The origin itself says its floor, over this link.
    pub fn say(&mut self, floor: u64, link: LinkId) -> Said {
        self.own = self.own.max(floor);
        self.least = self.least.max(self.own);
        self.begun = 0;
        let liars = self.judge(link);
        // So far up the origin had sent nothing when it said this.
        let reach = self.own.saturating_add(WINDOW_SEQS);
        self.jumps.iter_mut().for_each(|jump| *jump = jump.filter(|jump| jump.to >= reach));
        let far = self.jumps.iter().flatten().map(|jump| jump.from).min();
        let asks_anew = link < self.moved && self.least >= reach && far.is_some();
        // Where nothing came since, what was handed over under such numbers was not its.
        if link >= self.moved {
            self.least = self.least.min(reach).min(far.unwrap_or(reach)).max(self.own);
            self.jumps = [None; 3];
        }
        Said { least: self.least, liars, asks_anew }
    }

    /// The proxies that said more than the origin does over a link from after that. Each is told once.
    fn judge(&mut self, link: LinkId) -> BTreeSet<PeerIx> {
        let own = self.own;
        let mut liars = BTreeSet::new();
        self.said.retain(|by, words| {
            let [first, highest] = words.map(|word| word.filter(|word| word.to > own));
            let lied = [first, highest].iter().flatten().any(|word| word.since <= link);
            if lied {
                liars.insert(*by);
            }
            *words = if first.is_some() { [first, highest] } else { [highest, None] };
            !lied && words[0].is_some()
        });
        liars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PeerIx = PeerIx(1);
    const Q: PeerIx = PeerIx(2);
    const FAR_UP: u64 = 1 << 60;

    /// It has handed over 1 to 4.
    fn after_four() -> Floors {
        let mut floors = Floors::new(1, By::Itself(LinkId(1)));
        (1..=4).for_each(|seq| floors.handed_over(seq));
        floors
    }

    /// A proxy makes a message up that is in turn.
    fn make_up(floors: &mut Floors, by: PeerIx, seq: u64, since: u64) {
        floors.brought(seq, By::Proxy(by, LinkId(since)));
        floors.handed_over(seq);
    }

    /// The origin says a floor, and no other link is asked for.
    fn say(floors: &mut Floors, floor: u64, link: u64) -> (u64, Vec<PeerIx>) {
        let said = floors.say(floor, LinkId(link));
        assert!(!said.asks_anew, "{said:?}");
        (said.least, said.liars.into_iter().collect())
    }

    /// And another link is asked for.
    fn say_in_vain(floors: &mut Floors, floor: u64, link: u64) -> (u64, Vec<PeerIx>) {
        let said = floors.say(floor, LinkId(link));
        assert!(said.asks_anew, "{said:?}");
        (said.least, said.liars.into_iter().collect())
    }

    #[test]
    fn what_a_proxy_says_is_free_again_when_the_origin_says_less() {
        let mut floors = after_four();
        floors.claim(P, FAR_UP, LinkId(5));
        assert_eq!(say(&mut floors, 3, 4), (5, vec![]), "it may be late");
        assert_eq!(say(&mut floors, 3, 5), (5, vec![P]), "it said so after that");
        assert_eq!(
            say(&mut floors, 9, 5),
            (9, vec![]),
            "once, and what the origin says it does not take back"
        );
        assert_eq!(say(&mut floors, 3, 6), (9, vec![]));
    }

    #[test]
    fn who_said_what_the_origin_says_too_did_not_lie() {
        let mut floors = Floors::new(7, By::Proxy(P, LinkId(2)));
        assert_eq!(say(&mut floors, 4, 1), (4, vec![]), "sent before");
        assert_eq!(say(&mut floors, 7, 2), (7, vec![]));
        floors.claim(Q, 9, LinkId(3));
        assert_eq!(say(&mut floors, 9, 3), (9, vec![]));
        // It has sent 8 + WINDOW_SEQS at most.
        floors.brought(8 + WINDOW_SEQS, By::Proxy(Q, LinkId(4)));
        assert_eq!(say(&mut floors, 9, 4), (9, vec![]));
        floors.brought(9 + WINDOW_SEQS, By::Proxy(Q, LinkId(4)));
        assert_eq!(say(&mut floors, 9, 4), (9, vec![Q]));
        assert_eq!(say(&mut floors, 10, 5), (10, vec![]));
    }

    #[test]
    fn one_who_lies_without_end_is_found_all_the_same() {
        let mut floors = Floors::new(1, By::Itself(LinkId(1)));
        for link in 2..100 {
            floors.claim(P, FAR_UP + link, LinkId(link));
            assert_eq!(say(&mut floors, 1, 1), (1, vec![]));
        }
        assert_eq!(say(&mut floors, 1, 2), (1, vec![P]), "by the first");
    }

    /// And where the first of its words was true, by the second at the link after that.
    #[test]
    fn one_who_said_the_truth_first_is_found_as_well() {
        let mut floors = Floors::new(7, By::Proxy(P, LinkId(2)));
        floors.claim(P, FAR_UP, LinkId(4));
        assert_eq!(say(&mut floors, 7, 3), (7, vec![]));
        floors.claim(P, FAR_UP + 1, LinkId(5));
        assert_eq!(say(&mut floors, 7, 4), (7, vec![P]));
    }

    /// Else one message under a number far up would keep the origin out as long as the floor did.
    #[test]
    fn messages_under_numbers_that_the_origin_had_not_reached_keep_it_out_no_longer() {
        let mut floors = after_four();
        floors.claim(P, FAR_UP, LinkId(5));
        // It held these when it was told to pass on: they are the origin's.
        floors.handed_over(6);
        make_up(&mut floors, P, FAR_UP, 5);
        floors.claim(Q, FAR_UP + 7, LinkId(5));
        make_up(&mut floors, Q, FAR_UP + 7, 5);
        assert_eq!(say_in_vain(&mut floors, 5, 4), (FAR_UP + 8, vec![]));
        assert_eq!(say(&mut floors, 5, 5), (7, vec![P, Q]));
    }

    /// What came since the link was begun may be the origin's: only the next link tells. Each that makes one up then is found by that.
    #[test]
    fn messages_made_up_while_the_origin_speaks_keep_it_out_until_its_next_link() {
        let mut floors = after_four();
        floors.claim(P, FAR_UP, LinkId(5));
        make_up(&mut floors, P, FAR_UP, 6);
        assert_eq!(say_in_vain(&mut floors, 5, 5), (FAR_UP + 1, vec![P]));
        make_up(&mut floors, Q, FAR_UP + 1, 6);
        make_up(&mut floors, Q, FAR_UP + 2, 7);
        assert_eq!(say_in_vain(&mut floors, 5, 6), (FAR_UP + 3, vec![Q]), "P was told already");
        assert_eq!(say(&mut floors, 5, 7), (5, vec![]));
        assert_eq!(say(&mut floors, 5, 8), (5, vec![]));
    }

    /// The origin was that far ahead once, and said so: by what it passed over then, nothing is judged that a proxy says later.
    #[test]
    fn a_true_floor_far_up_hides_no_lie() {
        let mut floors = after_four();
        floors.claim(Q, 60_000, LinkId(5));
        make_up(&mut floors, Q, 60_000, 5);
        assert_eq!(say(&mut floors, 60_001, 1), (60_001, vec![]));
        for up in [0, 7] {
            floors.claim(P, FAR_UP + up, LinkId(6));
            make_up(&mut floors, P, FAR_UP + up, 6);
        }
        assert_eq!(say(&mut floors, 60_001, 6), (60_001, vec![P]));
    }

    /// Where it is not known any more from where on numbers were passed over, the origin is kept out of those alone that it has now.
    #[test]
    fn messages_made_up_one_after_the_other_keep_the_origin_out_no_farther_than_it_has_numbers() {
        let mut floors = after_four();
        for up in 1..10 {
            floors.claim(P, up * (WINDOW_SEQS - 1), LinkId(5));
            make_up(&mut floors, P, up * (WINDOW_SEQS - 1), 5);
        }
        assert_eq!(say(&mut floors, 5, 5), (5 + WINDOW_SEQS, vec![P]));
        let mut floors = after_four();
        (5..3 * WINDOW_SEQS).for_each(|seq| make_up(&mut floors, P, seq, 5));
        assert_eq!(say(&mut floors, 5, 5), (5 + WINDOW_SEQS, vec![P]), "with no floor at all");
    }

    /// What the origin may have sent since it said its floor is handed over once.
    #[test]
    fn what_may_be_the_origins_is_not_taken_back() {
        let near = 4 + WINDOW_SEQS;
        for (to, moved, least) in [(near, 5, near + 1), (near + 1, 6, near + 2), (near + 1, 5, 5)] {
            let mut floors = after_four();
            floors.claim(P, to, LinkId(5));
            floors.handed_over(to);
            floors.brought(6, By::Proxy(Q, LinkId(moved)));
            let said = floors.say(5, LinkId(5));
            assert_eq!((said.least, said.liars), (least, [P].into()), "{to}, {moved}");
        }
        // What it sent over another link of its own.
        let mut floors = after_four();
        floors.claim(P, near, LinkId(5));
        floors.brought(near, By::Itself(LinkId(4)));
        floors.handed_over(near);
        floors.claim(P, FAR_UP, LinkId(5));
        assert_eq!(say(&mut floors, 3, 5), (near + 1, vec![P]));
    }

    #[test]
    fn a_window_that_began_by_a_lie_goes_back_to_where_the_origin_begins() {
        let mut floors = Floors::new(FAR_UP, By::Proxy(P, LinkId(5)));
        floors.handed_over(FAR_UP);
        floors.claim(P, u64::MAX, LinkId(5));
        floors.handed_over(u64::MAX);
        assert_eq!(say(&mut floors, 3, 5), (3, vec![P]));
        // And what is said next is measured from there.
        for up in [0, 7] {
            floors.claim(Q, FAR_UP / 2 + up, LinkId(6));
            make_up(&mut floors, Q, FAR_UP / 2 + up, 6);
        }
        assert_eq!(say(&mut floors, 3, 6), (3, vec![Q]));
    }
}
