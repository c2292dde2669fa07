//! Messages that change in the same places, frame after frame: what a leader sends to followers that keep up.
//!
//! Such messages have their fields where the last ones of their streams had them. One look at all of them, byte by byte
//! beside what the streams remember, tells the places where any of them changed. What lies between is one record for all,
//! and only the rest has to be planned. Heartbeats and appends in one frame are in step each among themselves. Where
//! messages are not, [`crate::past`] looks at each on its own.

use crate::changes::{add_all_changes, add_changes, zero_runs};
use crate::destination_set::DestinationSet;
use crate::openings::{Opening, Openings};
use crate::streams::{Alike, Finder, Streams, half_alike};
use crate::wire::OPENING_BYTES;
use crate::work::Work;

/// Shorter places without a change are sent with what is around them, of several messages and of one. A record takes three
/// to five bytes, and what is around it another one. Of several: 4 to 6 give the same bytes in all traffic tried; with 3,
/// frames of entries for 20 take 2,178 instead of 2,176, with 8, 20 structs of 256 bytes 2,625 instead of 1,008. Of one: 6
/// take 75 bytes instead of 78 for such a struct, 12 take 40 instead of 32 for messages of three kinds in turn.
pub(crate) const UNCHANGED_BYTES_MIN: usize = 5;
const UNCHANGED_BYTES_MIN_ALONE: usize = 8;
/// A message with fewer bytes in common with an earlier one, of those looked at, is like none of them; of a short one half
/// is enough. As a member of a class it would only cut up the places of the others. 4 to 16 give the same bytes in all
/// traffic tried.
const ALIKE_BYTES_MIN: usize = 12;
/// Kinds of messages in one frame that are told apart. With 1, frames of heartbeats and entries take 2 % more bytes and three
/// times as long; with 8, ones of several kinds in turn 7 to 16 % more, because records are planned for each class.
pub(crate) const CLASSES_MAX: usize = 4;

/// Messages whose streams remember an earlier one at the same place.
#[derive(Debug)]
pub(crate) struct Class<const W: usize> {
    /// How far before the end of what each stream remembers that message begins.
    pub(crate) back: usize,
    /// Which messages these are.
    pub(crate) members: DestinationSet<W>,
    /// The places `from..to` where no message changed, in rising order.
    pub(crate) unchanged: Vec<(usize, usize)>,
    /// Bytes that all of them have, and the earlier ones.
    pub(crate) len: usize,
    /// Where the first segment of every member ends, if that is one place.
    pub(crate) border: Option<usize>,
    /// The bits in which any of them differs from its earlier one.
    changes: Box<[u8; OPENING_BYTES]>,
    /// For some of them the latest message was taken without a look.
    hoped: bool,
}

impl<const W: usize> Class<W> {
    /// Adds the first of `openings` that are as long as the latest ones of their streams, if these begin as far back as
    /// those of this class; says how many. The first is that of the message `from`.
    fn add_latest(
        &mut self,
        from: usize,
        openings: &[Opening<'_>],
        numbers: &[u32],
        finder: &mut Finder<'_>,
    ) -> usize {
        let len = self.back;
        let first_border = openings.first().map_or(0, |opening| opening.border);
        let (mut count, mut same_border) = (0, self.border == Some(first_border));
        let candidates = openings.iter().zip(numbers).zip(finder.rest());
        let pairs = candidates.map_while(|((opening, &number), stream)| {
            let past = stream.latest_of(number, len).filter(|_| opening.bytes.len() == len)?;
            same_border &= opening.border == first_border;
            count += 1;
            Some((opening.bytes, past))
        });
        add_all_changes(&mut self.changes[..len], pairs);
        finder.skip(count);
        self.members.unite(&DestinationSet::range(from, from + count));
        self.border = self.border.filter(|_| same_border);
        self.len = self.len.min(len);
        self.hoped = true;
        count
    }
}

/// The messages of one frame, by class.
#[derive(Debug, Default)]
pub(crate) struct InStep<const W: usize> {
    /// Classes in use; there may be more, for their memory.
    used: usize,
    classes: Vec<Class<W>>,
    /// For the messages looked at so far, the earlier one that each is most like: all of them, or up to the one that was of
    /// one kind too many.
    alike: Vec<Option<Alike>>,
}

impl<const W: usize> InStep<W> {
    /// The classes of the frame that was looked at last.
    pub(crate) fn classes(&self) -> &[Class<W>] {
        &self.classes[..self.used]
    }

    /// What was found out of the messages of that frame, for whoever looks at each on its own.
    pub(crate) fn alike(&self) -> &[Option<Alike>] {
        &self.alike
    }

    /// Looks at all messages. False when they are not in step, or it saves nothing to know.
    pub(crate) fn find(
        &mut self,
        openings: &Openings<'_>,
        numbers: &[u32],
        streams: &Streams,
        work: &mut Work,
    ) -> bool {
        self.look(openings, numbers, streams, true, work)
            .or_else(|| self.look(openings, numbers, streams, false, work))
            .unwrap_or(false)
    }

    /// As [`find`](Self::find). If `hopeful`, the latest message of a stream is taken for the most alike without a look if
    /// it is as long. That holds where the places that changed in any message of a class are so few that none of them can
    /// be unlike it; where they are more, nothing is said.
    fn look(
        &mut self,
        openings: &Openings<'_>,
        numbers: &[u32],
        streams: &Streams,
        hopeful: bool,
        work: &mut Work,
    ) -> Option<bool> {
        self.used = 0;
        self.alike.clear();
        let mut finder = streams.finder();
        let mut hoped = false;
        let mut message = 0;
        while let Some(&Opening { bytes: opening, border }) = openings.all().get(message) {
            // Mostly messages of one class follow each other, as their streams did in the frame before.
            if hopeful
                && !opening.is_empty()
                && finder
                    .rest()
                    .first()
                    .and_then(|stream| stream.latest_of(numbers[message], opening.len()))
                    .is_some()
            {
                let index = self.class(opening.len(), border)?;
                let class = &mut self.classes[index];
                let count =
                    class.add_latest(message, &openings.all()[message..], &numbers[message..], &mut finder);
                work.compared_bytes += count * opening.len();
                hoped = true;
                message += count;
                continue;
            }
            let stream = finder.find(numbers[message]).filter(|_| !opening.is_empty());
            let alike = stream.and_then(|stream| stream.most_alike(opening, work));
            self.alike.push(alike);
            message += 1;
            // The first one of a stream is in step with nothing, and does not keep the others from being.
            let (Some(stream), Some(Alike { start, len, equal })) = (stream, alike) else { continue };
            if equal < ALIKE_BYTES_MIN.min(opening.len() / 2) {
                continue;
            }
            let past = &stream.bytes()[start..start + len];
            let Some(index) = self.class(stream.bytes().len() - start, border) else {
                return (!hoped).then_some(false);
            };
            let class = &mut self.classes[index];
            class.members.insert(message - 1);
            class.border = class.border.filter(|of| *of == border);
            class.len = class.len.min(past.len()).min(opening.len());
            // What lies beyond the shortest of them is not looked at afterwards.
            add_changes(&mut class.changes[..], opening, past);
            work.compared_bytes += opening.len().min(past.len());
        }
        let mut any = false;
        for class in &mut self.classes[..self.used] {
            // The latest message begins as far back as it is long.
            if class.hoped && !half_alike(&class.changes[..class.back]) {
                return None;
            }
            let alone = class.members.sole().is_some();
            let least = if alone { UNCHANGED_BYTES_MIN_ALONE } else { UNCHANGED_BYTES_MIN };
            let unchanged = &mut class.unchanged;
            zero_runs(&class.changes[..class.len], least, |from, to| unchanged.push((from, to)));
            any |= !unchanged.is_empty();
        }
        // What each is most like is known of those only that were looked at.
        (any || !hoped).then_some(any)
    }

    /// Which class is that of messages laid so far back; if there is none yet, and room for it, a new one that begins with
    /// a message whose first segment ends at `border`.
    fn class(&mut self, back: usize, border: usize) -> Option<usize> {
        let known = self.classes[..self.used].iter().position(|class| class.back == back);
        if known.is_some() || self.used == CLASSES_MAX {
            return known;
        }
        if self.used == self.classes.len() {
            let changes = Box::new([0; OPENING_BYTES]);
            let members = DestinationSet::EMPTY;
            let (unchanged, hoped) = (Vec::new(), false);
            self.classes.push(Class { back, members, unchanged, len: 0, border: None, changes, hoped });
        }
        let class = &mut self.classes[self.used];
        (class.back, class.len, class.members) = (back, OPENING_BYTES, DestinationSet::EMPTY);
        (class.border, class.hoped) = (Some(border), false);
        class.unchanged.clear();
        class.changes.fill(0);
        self.used += 1;
        Some(self.used - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openings::JoinedOpenings;
    use crate::payload::Payload;

    /// Back, members and unchanged places of a class.
    type Known = (usize, Vec<usize>, Vec<(usize, usize)>);

    /// Every class of the messages `now`, which the streams 0, 1, 2, ... hear after those that come `earlier`; nothing if
    /// they are not in step. An empty earlier message stands for none.
    fn classes(earlier: &[&[&[u8]]], now: &[&[u8]]) -> Option<Vec<Known>> {
        let mut streams = Streams::default();
        for round in earlier {
            for (message, number) in round.iter().zip(0..).filter(|(message, _)| !message.is_empty()) {
                streams.enter(number, std::iter::once(message));
            }
            streams.next_frame();
        }
        let (mut joined, mut in_step) = (JoinedOpenings::default(), InStep::<1>::default());
        let mut find = |messages: &[&[u8]], flips: u8| {
            let flip = |(at, byte): (usize, &u8)| byte ^ if at % 2 == 1 { flips } else { 0 };
            let flipped = |message: &&[u8]| message.iter().enumerate().map(flip).collect::<Vec<u8>>();
            let payloads: Vec<Payload> = messages.iter().map(flipped).map(Payload::from).collect();
            let numbers: Vec<u32> = (0..).take(messages.len()).collect();
            in_step.find(&joined.reset(&payloads), &numbers, &streams, &mut Work::default())
        };
        // Nothing is left of a frame in which much has changed, and of one in which nothing has.
        if let Some(last) = earlier.last() {
            find(last, 1);
            find(last, 0);
        }
        let found = find(now, 0);
        let class = |class: &Class<1>| (class.back, class.members.iter().collect(), class.unchanged.clone());
        found.then(|| in_step.classes().iter().map(class).collect())
    }

    /// Forty bytes of one kind, with other ones at the given places.
    fn text(kind: u8, changed: &[usize]) -> Vec<u8> {
        let mut text: Vec<u8> = (0..40).map(|at| at ^ kind).collect();
        changed.iter().for_each(|&at| text[at] ^= 0x40);
        text
    }

    #[test]
    fn a_place_is_unchanged_if_it_is_in_every_message() {
        let (one, two, three) = (text(0, &[]), text(64, &[]), text(128, &[]));
        let earlier: [&[u8]; 3] = [&one, &two, &three];
        let found = classes(&[&earlier], &[&text(0, &[10]), &text(64, &[20, 21, 22]), &text(128, &[10, 23])]);
        assert_eq!(found, Some(vec![(40, vec![0, 1, 2], vec![(0, 10), (11, 20), (24, 40)])]));
        let found = classes(&[&earlier], &[&one, &two, &three]);
        assert_eq!(found, Some(vec![(40, vec![0, 1, 2], vec![(0, 40)])]));
    }

    #[test]
    fn short_places_are_sent_with_what_is_around_them() {
        // Places of five, four and seven bytes between changes.
        let (old, new) = (text(0, &[]), text(0, &[20, 26, 31, 39]));
        let found = classes(&[&[&old, &old]], &[&new, &new]);
        assert_eq!(found, Some(vec![(40, vec![0, 1], vec![(0, 20), (21, 26), (32, 39)])]));
        let found = classes(&[&[&old]], &[&new]);
        assert_eq!(found, Some(vec![(40, vec![0], vec![(0, 20)])]), "alone");
    }

    #[test]
    fn messages_at_other_places_are_another_class() {
        let (one, two) = (text(0, &[]), text(64, &[]));
        // The third stream remembers a longer message, the fourth the right one but not as the last.
        let long = [&one[..], b"more"].concat();
        let found = classes(
            &[&[b"", b"", b"", &two], &[&one, &two, &long, &one]],
            &[&text(0, &[15]), &text(64, &[25]), &text(0, &[35]), &text(64, &[5])],
        );
        let expected = vec![
            (40, vec![0, 1], vec![(0, 15), (16, 25), (26, 40)]),
            (44, vec![2], vec![(0, 35)]),
            (80, vec![3], vec![(6, 40)]),
        ];
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn more_kinds_than_are_told_apart_are_not_in_step() {
        let texts: Vec<Vec<u8>> = (0..5).map(|more| [text(0, &[]), vec![7; more]].concat()).collect();
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let kinds = |count: usize| classes(&[&texts[..count]], &texts[..count]).map(|found| found.len());
        assert_eq!((kinds(CLASSES_MAX), kinds(CLASSES_MAX + 1)), (Some(CLASSES_MAX), None));
    }

    #[test]
    fn a_message_of_a_new_stream_and_an_empty_one_are_in_no_class() {
        let old = text(0, &[]);
        assert_eq!(classes(&[&[]], &[&old, &old]), None, "all are new");
        let found = classes(&[&[b"", &old]], &[&old, &old]);
        assert_eq!(found, Some(vec![(40, vec![1], vec![(0, 40)])]));
        let found = classes(&[&[&old, &old]], &[&old, b""]);
        assert_eq!(found, Some(vec![(40, vec![0], vec![(0, 40)])]));
    }

    #[test]
    fn a_message_like_no_earlier_one_is_in_no_class() {
        let (old, other) = (text(0, &[]), text(64, &[]));
        let found = classes(&[&[&old, &old]], &[&old, &other]);
        assert_eq!(found, Some(vec![(40, vec![0], vec![(0, 40)])]));
        assert_eq!(classes(&[&[&old]], &[&other]), None, "nobody is in step");
        // Twelve equal bytes are enough, of a short message a half.
        let equal = |count: usize| text(0, &(count..40).collect::<Vec<_>>());
        assert_eq!(classes(&[&[&old]], &[&equal(11)]), None);
        assert_eq!(classes(&[&[&old]], &[&equal(12)]), Some(vec![(40, vec![0], vec![(0, 12)])]));
        let short = |bytes: &[u8]| [bytes, &[0xFF; 8]].concat();
        let (eight, seven) = (short(&old[..8]), short(&old[..7]));
        assert_eq!(classes(&[&[&old[..16]]], &[&eight]), Some(vec![(16, vec![0], vec![(0, 8)])]));
        assert_eq!(classes(&[&[&old[..15]]], &[&seven]), None, "half of it, but nothing long enough");
    }

    #[test]
    fn nothing_is_known_beyond_the_shortest_message() {
        let (old, now) = (text(0, &[]), text(0, &[]));
        let found = classes(&[&[&old, &old]], &[&now, &now[..30]]);
        assert_eq!(found, Some(vec![(40, vec![0, 1], vec![(0, 30)])]));
    }

    /// Whether the latest message is the one most alike is told by what a class has in common: where that is doubtful,
    /// each message is looked at after all.
    #[test]
    fn what_is_taken_without_a_look_is_what_a_look_finds() {
        let mut rng = fastrand::Rng::with_seed(4);
        let (mut hopeful, mut doubtful) = (0, 0);
        for _ in 0..400 {
            let mut streams = Streams::default();
            // Of a few kinds each differs from another in some places, so that older ones are alike too.
            let kinds: Vec<Vec<u8>> =
                (0..3).map(|_| (0..rng.usize(1..50)).map(|_| rng.u8(..3)).collect()).collect();
            let same = rng.bool();
            let message = |rng: &mut fastrand::Rng| {
                let mut message = kinds[if same { 0 } else { rng.usize(..kinds.len()) }].clone();
                (0..rng.usize(..12)).for_each(|_| *rng.choice(&mut message).unwrap() = 9);
                message
            };
            let numbers: Vec<u32> = (0..rng.u32(1..9)).map(|number| number * 2 % 9).collect();
            for _ in 0..rng.usize(1..5) {
                for &number in &numbers {
                    if rng.u8(..9) == 0 {
                        continue;
                    }
                    streams.enter(number, std::iter::once(message(&mut rng)));
                }
                streams.next_frame();
            }
            let payloads: Vec<Payload> = numbers.iter().map(|_| Payload::from(message(&mut rng))).collect();
            let mut joined = JoinedOpenings::default();
            let openings = joined.reset(&payloads);
            let look = |hopeful: bool| {
                let mut in_step = InStep::<1>::default();
                let found = in_step.look(&openings, &numbers, &streams, hopeful, &mut Work::default());
                let class = |class: &Class<1>| {
                    (class.back, class.members, class.unchanged.clone(), class.len, class.border)
                };
                found.map(|found| {
                    (found, found.then(|| in_step.classes().iter().map(class).collect::<Vec<_>>()))
                })
            };
            let plain = look(false);
            assert!(plain.is_some());
            match look(true) {
                Some(found) => {
                    assert_eq!(Some(found), plain);
                    hopeful += 1;
                }
                None => doubtful += 1,
            }
        }
        assert!(hopeful > 100 && doubtful > 20, "{hopeful} {doubtful}");
    }
}
