//! Where records go: the head and the data column, and before that, on a connection, what its streams remember.
//!
//! The planner knows what messages have in common with each other, not what they have in common with earlier ones. So
//! every record that it makes is held against what each member's stream remembers at this place of its message. Bytes
//! to which one back leads for all members need not be sent. Neighbouring places of that kind become one record,
//! however the planner cut them; whether it is worth its bytes is decided when it can grow no more.

use std::ops::Range;

use crate::data::DataColumn;
use crate::destination_set::DestinationSet;
use crate::echo::{ECHO_BYTES_MIN, Received};
use crate::head::{HeadWriter, Source};
use crate::limits::Limits;
use crate::past::PastRuns;
use crate::set_table::SetTable;
use crate::texts::{Item, Span, Texts};
use crate::work::Work;

/// Places that the members of one record may take their bytes from; with more the bytes are sent instead. With 2, frames for
/// some of 20 destinations take 206 bytes instead of 133, with 1 224; with 8 at most 2 % less of anything tried.
const BACKS_MAX: usize = 4;
/// Records from earlier messages that may still grow, each for other members. 1 to 8 differ by 0.2 % in all traffic tried;
/// all of them are looked through for each record.
const OPEN_MAX: usize = 4;
/// What a record from earlier messages takes, about: a code, a set of one or two bytes, a length, a back of one or two. What
/// one of shared bytes takes besides those: set and length; and one of bytes for each: a code more. One byte more or less of
/// any of them changes all traffic tried by less than 1 %.
const RECORD_BYTES: usize = 5;
const SHARED_RECORD_BYTES: usize = 2;
const EACH_RECORD_BYTES: usize = 3;

/// The head and the data column of one frame in the making.
pub(crate) struct Records<'a, const W: usize> {
    texts: Texts<'a>,
    head: &'a mut HeadWriter<W>,
    data: &'a mut DataColumn,
    /// What goes to one message each, as long as nothing else has been written: if that is all, the frame is a concatenation,
    /// and these records are never needed.
    waiting: &'a mut Vec<Span>,
    places: Option<Places<'a, W>>,
    echo: Option<&'a Received>,
    /// With so many records and pieces, bytes for each stay one record, whatever of them came.
    each_whole_from: [usize; 2],
    pub(crate) work: Work,
}

/// Where every message stands, and what is remembered there.
#[derive(Debug)]
struct Places<'a, const W: usize> {
    runs: &'a PastRuns,
    /// Bytes of every message that have a record.
    at: Vec<usize>,
    /// Its first run that ends after that.
    next: Vec<usize>,
    open: Vec<Open<W>>,
    /// Members and open records looked at so far.
    visits: usize,
}

/// A record from earlier messages that may still grow, and what would be sent without it.
#[derive(Debug)]
struct Open<const W: usize> {
    set: DestinationSet<W>,
    len: usize,
    /// Of its first byte.
    back: usize,
    instead: Vec<Part>,
    /// About what sending that takes.
    instead_bytes: usize,
}

#[derive(Debug)]
enum Part {
    Shared(Span),
    /// The same part of every member's message, in order.
    Each(Vec<Span>),
}

/// A back, and the members for which it leads to what they get next.
type Group<const W: usize> = (usize, DestinationSet<W>);

impl<'a, const W: usize> Places<'a, W> {
    /// For how many bytes from where it stands a message is remembered, and with which back; or for how many it is not.
    fn covered(&mut self, message: usize) -> (usize, Option<usize>) {
        let (runs, at, next) = (self.runs.of(message), self.at[message], &mut self.next[message]);
        while runs.get(*next).is_some_and(|run| run.from + run.len <= at) {
            *next += 1;
        }
        match runs.get(*next) {
            None => (usize::MAX, None),
            Some(run) if at < run.from => (run.from - at, None),
            Some(run) => (run.from + run.len - at, Some(run.back)),
        }
    }

    /// The groups that remember where the members of `set` stand, if all of them do, and cuts `stretch` to the bytes for
    /// which that holds. That is at least one, so no member is visited more often than its message has bytes.
    fn groups(&mut self, set: &DestinationSet<W>, stretch: &mut usize) -> Option<Vec<Group<W>>> {
        let mut groups: Vec<Group<W>> = Vec::new();
        let mut all = true;
        for message in set.iter() {
            self.visits += 1;
            let (bytes, back) = self.covered(message);
            *stretch = bytes.min(*stretch);
            all = all && back.is_some_and(|back| join(&mut groups, back, message));
        }
        // Every record must be worth its bytes on its own where several take the place of one.
        let worth = groups.len() == 1 || groups.len() * RECORD_BYTES < *stretch;
        (all && worth).then_some(groups)
    }

    fn advance(&mut self, set: &DestinationSet<W>, bytes: usize) {
        for message in set.iter() {
            self.visits += 1;
            self.at[message] += bytes;
        }
    }
}

/// Adds a message to its group. False when there are too many groups.
fn join<const W: usize>(groups: &mut Vec<Group<W>>, back: usize, message: usize) -> bool {
    if let Some((_, set)) = groups.iter_mut().find(|(of, _)| *of == back) {
        set.insert(message);
        return true;
    }
    let room = groups.len() < BACKS_MAX;
    if room {
        groups.push((back, DestinationSet::one(message)));
    }
    room
}

impl<'a, const W: usize> Records<'a, W> {
    /// Records of messages that belong to no connection.
    pub(crate) fn new(
        texts: Texts<'a>,
        head: &'a mut HeadWriter<W>,
        data: &'a mut DataColumn,
        waiting: &'a mut Vec<Span>,
        work: Work,
    ) -> Self {
        waiting.clear();
        Self { texts, head, data, waiting, places: None, echo: None, each_whole_from: [0; 2], work }
    }

    /// Takes into account what streams remember of `count` messages.
    pub(crate) fn remember(&mut self, runs: &'a PastRuns, count: usize) {
        let places =
            || Places { runs, at: vec![0; count], next: vec![0; count], open: Vec::new(), visits: 0 };
        self.places = (!runs.is_empty()).then(places);
    }

    /// Takes into account what the receiver sent.
    pub(crate) fn echo(&mut self, received: &'a Received, limits: &Limits) {
        // One record becomes as many as it has members. Beyond its receiver's limits nothing that messages have in common would be
        // found, in no group of them; the rest of the frame has three quarters.
        self.each_whole_from = [limits.records / 4, limits.pieces / 4];
        self.echo = Some(received);
    }

    /// Whether records are written as they come, and held against nothing.
    pub(crate) fn is_plain(&self) -> bool {
        self.places.is_none() && self.echo.is_none()
    }

    /// What is known of sets after the last record that was written.
    pub(crate) fn table(&self) -> &SetTable<W> {
        self.head.table()
    }

    /// The bytes of `span` go to every member of `set`.
    pub(crate) fn shared(&mut self, set: &DestinationSet<W>, span: Span) {
        self.wait_no_longer();
        let Some(places) = self.places.as_mut() else { return self.send_shared(set, span) };
        let len = span.len();
        let (mut done, mut unsent) = (0, 0);
        let mut recalled: Vec<(usize, usize, Vec<Group<W>>)> = Vec::new();
        while done < len {
            let mut stretch = len - done;
            let groups = places.groups(set, &mut stretch);
            places.advance(set, stretch);
            if let Some(groups) = groups {
                recalled.push((done, stretch, groups));
            }
            done += stretch;
        }
        for (start, stretch, groups) in recalled {
            self.send_part(set, span, unsent, start);
            unsent = start + stretch;
            let alone = groups.len() == 1;
            for (back, members) in groups {
                let instead_bytes = if alone { stretch + SHARED_RECORD_BYTES } else { usize::MAX };
                let part = Part::Shared(span.part(start, unsent));
                self.recall(&members, stretch, back, part, instead_bytes);
            }
        }
        self.send_part(set, span, unsent, len);
    }

    /// As [`shared`](Self::shared), for a short text that lies in one piece.
    pub(crate) fn shared_item(&mut self, set: &DestinationSet<W>, item: &Item<'_>) {
        if !self.is_plain() {
            return self.shared(set, item.span);
        }
        self.wait_no_longer();
        self.head.put(set, item.bytes.len());
        self.data.copy_columns(std::iter::once(item.bytes), 0..item.bytes.len());
    }

    /// As [`each`](Self::each), for the same `columns` of short texts that lie in one piece each.
    pub(crate) fn each_item(&mut self, set: &DestinationSet<W>, items: &[Item<'_>], columns: Range<usize>) {
        let len = columns.len();
        if !self.is_plain() {
            return self.each(set, items.iter().map(|item| item.part(columns.clone()).span), len);
        }
        self.each_text(set, items.iter().map(|item| item.bytes), columns);
    }

    /// As [`each_item`](Self::each_item), where records are written as they come.
    pub(crate) fn each_text<'b>(
        &mut self,
        set: &DestinationSet<W>,
        texts: impl ExactSizeIterator<Item = &'b [u8]>,
        columns: Range<usize>,
    ) {
        self.wait_no_longer();
        // Several members, or there would be nothing that varies.
        self.head.put_from(set, columns.len(), Source::Each);
        self.data.copy_columns(texts, columns);
    }

    /// Every member of `set` takes `len` bytes of what its stream remembers.
    pub(crate) fn past(&mut self, set: &DestinationSet<W>, len: usize, back: usize) {
        self.wait_no_longer();
        self.head.put_from(set, len, Source::Past(back));
    }

    /// The bytes of `span` go to its own message only.
    pub(crate) fn private(&mut self, span: Span) {
        if self.is_plain() && self.head.is_empty() {
            return self.waiting.push(span);
        }
        self.shared(&DestinationSet::one(span.message), span);
    }

    /// Writes what has waited, because something follows.
    #[inline]
    fn wait_no_longer(&mut self) {
        if !self.waiting.is_empty() {
            self.write_waiting();
        }
    }

    #[inline(never)]
    fn write_waiting(&mut self) {
        let mut waiting = std::mem::take(self.waiting);
        for span in waiting.drain(..) {
            self.put(&DestinationSet::one(span.message), span);
        }
        *self.waiting = waiting;
    }

    /// Every one of `spans`, equally long and in rising order, goes to its own message.
    #[inline(never)]
    pub(crate) fn each(&mut self, set: &DestinationSet<W>, spans: impl Iterator<Item = Span>, len: usize) {
        self.wait_no_longer();
        let Some(places) = self.places.as_mut() else { return self.send_each(set, spans, len) };
        let spans: Vec<Span> = spans.collect();
        let (mut groups, mut others): (Vec<Group<W>>, _) = (Vec::new(), DestinationSet::EMPTY);
        for span in &spans {
            places.visits += 1;
            let (bytes, back) = places.covered(span.message);
            let back = back.filter(|_| bytes >= len);
            if !back.is_some_and(|back| join(&mut groups, back, span.message)) {
                others.insert(span.message);
            }
        }
        places.advance(set, len);
        let of = |set: &DestinationSet<W>| -> Vec<Span> {
            spans.iter().filter(|span| set.contains(span.message)).copied().collect()
        };
        for (back, members) in groups {
            let saved = members.count() * len;
            let grows = self.growing(&members, back).is_some();
            if grows || others == DestinationSet::EMPTY || saved > RECORD_BYTES {
                self.recall(&members, len, back, Part::Each(of(&members)), saved + EACH_RECORD_BYTES);
            } else {
                others.unite(&members);
            }
        }
        if others != DestinationSet::EMPTY {
            self.settle(&others);
            self.send_each(&others, of(&others).into_iter(), len);
        }
    }

    /// Writes out what might still have grown. Unless `all`, it writes nothing where every record would go to one message.
    pub(crate) fn finish(&mut self, all: bool) -> Work {
        if all {
            self.wait_no_longer();
        }
        while let Some(open) = self.places.as_mut().and_then(|places| places.open.pop()) {
            self.close(open);
        }
        self.head.flush();
        self.work.visits += self.places.as_ref().map_or(0, |places| places.visits);
        self.work
    }

    /// The open record that these members' next bytes would continue.
    fn growing(&mut self, set: &DestinationSet<W>, back: usize) -> Option<&mut Open<W>> {
        let places = self.places.as_mut()?;
        places.visits += places.open.len();
        places.open.iter_mut().find(|open| open.set == *set && open.back == back)
    }

    fn recall(&mut self, set: &DestinationSet<W>, len: usize, back: usize, part: Part, instead_bytes: usize) {
        if let Some(open) = self.growing(set, back) {
            open.len += len;
            open.instead.push(part);
            open.instead_bytes = open.instead_bytes.saturating_add(instead_bytes);
            return;
        }
        self.settle(set);
        let Some(places) = self.places.as_mut() else { return };
        let eldest = if places.open.len() == OPEN_MAX { Some(places.open.remove(0)) } else { None };
        places.open.push(Open { set: *set, len, back, instead: vec![part], instead_bytes });
        if let Some(eldest) = eldest {
            self.close(eldest);
        }
    }

    /// Writes out whatever members of `set` get before their next bytes.
    fn settle(&mut self, set: &DestinationSet<W>) {
        let Some(places) = self.places.as_mut() else { return };
        places.visits += places.open.len();
        let mut at = 0;
        let mut closed = Vec::new();
        while let Some(open) = places.open.get(at) {
            if open.set.intersects(set) {
                closed.push(places.open.remove(at));
            } else {
                at += 1;
            }
        }
        for open in closed {
            self.close(open);
        }
    }

    fn close(&mut self, open: Open<W>) {
        let Open { set, len, back, instead, instead_bytes } = open;
        let bytes = self.table().cost(&set) + self.head.past_cost(len, back);
        if bytes < instead_bytes {
            return self.head.put_from(&set, len, Source::Past(back));
        }
        for part in instead {
            match part {
                Part::Shared(span) => self.send_shared(&set, span),
                Part::Each(spans) => {
                    let len = spans.first().map_or(0, Span::len);
                    self.send_each(&set, spans.into_iter(), len);
                }
            }
        }
    }

    fn send_part(&mut self, set: &DestinationSet<W>, span: Span, start: usize, end: usize) {
        if start < end {
            self.settle(set);
            self.send_shared(set, span.part(start, end));
        }
    }

    fn send_shared(&mut self, set: &DestinationSet<W>, span: Span) {
        let Some(echo) = self.echo else { return self.put(set, span) };
        let (mut at, mut unsent) = (0, 0);
        for (segment, start, end) in self.texts.parts(span) {
            let bytes = end - start;
            self.work.address_lookups += 1;
            if bytes >= ECHO_BYTES_MIN
                && let Some(distance) = echo.distance(&segment[start..end])
            {
                if unsent < at {
                    self.put(set, span.part(unsent, at));
                }
                self.head.put_from(set, bytes, Source::Echo(distance));
                unsent = at + bytes;
            }
            at += bytes;
        }
        if unsent < at {
            self.put(set, span.part(unsent, at));
        }
    }

    fn send_each(&mut self, set: &DestinationSet<W>, spans: impl Iterator<Item = Span>, len: usize) {
        if set.sole().is_some() {
            return spans.for_each(|span| self.send_shared(set, span));
        }
        if let Some(echo) = self.echo.filter(|_| len >= ECHO_BYTES_MIN) {
            return self.send_each_beside(echo, spans, len);
        }
        self.put_each(set, spans, len);
    }

    /// What came from the other end, in whole or in part, goes to its own message by name; the rest as it is.
    #[inline(never)]
    fn send_each_beside(&mut self, echo: &Received, spans: impl Iterator<Item = Span>, len: usize) {
        let (mut set, mut others) = (DestinationSet::EMPTY, Vec::new());
        for span in spans {
            let mut parts = self.texts.parts(span).filter(|(_, start, end)| end - start >= ECHO_BYTES_MIN);
            let came = parts.any(|(segment, start, end)| {
                self.work.address_lookups += 1;
                echo.distance(&segment[start..end]).is_some()
            });
            let [records, pieces] = self.each_whole_from;
            if came && self.head.is_below(records, pieces) {
                self.send_shared(&DestinationSet::one(span.message), span);
            } else {
                set.insert(span.message);
                others.push(span);
            }
        }
        match others[..] {
            [] => {}
            [span] => self.put(&set, span),
            _ => self.put_each(&set, others.into_iter(), len),
        }
    }

    fn put_each(&mut self, set: &DestinationSet<W>, spans: impl Iterator<Item = Span>, len: usize) {
        self.head.put_from(set, len, Source::Each);
        for span in spans {
            self.data.push(self.texts, span);
        }
    }

    fn put(&mut self, set: &DestinationSet<W>, span: Span) {
        self.head.put(set, span.len());
        self.data.push(self.texts, span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openings::JoinedOpenings;
    use crate::payload::Payload;
    use crate::streams::Streams;
    use crate::texts::Borders;

    /// A text of forty bytes.
    const TEXT: &[u8; 40] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCD";

    fn span(message: usize, start: usize, end: usize) -> Span {
        Span { message, start, end }
    }

    fn set(members: &[usize]) -> DestinationSet<1> {
        let mut set = DestinationSet::EMPTY;
        members.iter().for_each(|&member| set.insert(member));
        set
    }

    /// Head and data that `make` makes of messages, whose streams remember one earlier message each.
    fn made(earlier: &[&[u8]], now: &[&[u8]], make: impl FnOnce(&mut Records<'_, 1>)) -> (Vec<u8>, Vec<u8>) {
        let mut streams = Streams::default();
        for (message, number) in earlier.iter().zip(0..) {
            streams.enter(number, std::iter::once(message));
        }
        let payloads: Vec<Payload> = now.iter().map(|message| Payload::from(message.to_vec())).collect();
        let numbers: Vec<u32> = (0..).take(now.len()).collect();
        let (mut joined, mut runs) = (JoinedOpenings::default(), PastRuns::default());
        runs.find(&joined.reset(&payloads), &numbers, &streams, &[], &mut Work::default());
        let mut borders = Borders::default();
        borders.reset(&payloads);
        let texts = Texts::new(&payloads, &borders);
        let (mut head, mut data) = (HeadWriter::new(), DataColumn::default());
        head.reset(now.len());
        let mut waiting = Vec::new();
        let mut out = Records::new(texts, &mut head, &mut data, &mut waiting, Work::default());
        out.remember(&runs, now.len());
        make(&mut out);
        out.finish(true);
        let data = data.iter(texts).flatten().copied().collect();
        (head.bytes().to_vec(), data)
    }

    #[test]
    fn what_all_members_remember_at_one_place_is_one_record_however_it_is_cut() {
        let (head, data) = made(&[TEXT, TEXT], &[TEXT, TEXT], |out| {
            out.shared(&set(&[0, 1]), span(0, 0, 9));
            out.each(&set(&[0, 1]), [span(0, 9, 12), span(1, 9, 12)].into_iter(), 3);
            out.shared(&set(&[0, 1]), span(0, 12, 40));
        });
        assert_eq!((&head[..], &data[..]), (&[0xD1, 0x00, 40, 40][..], &b""[..]));
    }

    #[test]
    fn what_goes_to_one_message_each_waits_for_a_record_of_several() {
        type Make<'a> = &'a dyn Fn(&mut Records<'_, 1>);
        let plain = |all: bool, make: Make<'_>| {
            let payloads: Vec<Payload> =
                [TEXT, TEXT].iter().map(|text| Payload::from(text.to_vec())).collect();
            let borders = Borders::default();
            let texts = Texts::new(&payloads, &borders);
            let (mut head, mut data, mut waiting) = (HeadWriter::new(), DataColumn::default(), Vec::new());
            head.reset(2);
            let mut out = Records::new(texts, &mut head, &mut data, &mut waiting, Work::default());
            make(&mut out);
            out.finish(all);
            let data: Vec<u8> = data.iter(texts).flatten().copied().collect();
            (head.bytes().to_vec(), data.len(), waiting.len())
        };
        let alone = |out: &mut Records<'_, 1>| {
            out.private(span(1, 0, 2));
            out.private(span(0, 0, 7));
        };
        assert_eq!(plain(false, &alone), (vec![], 0, 2));
        assert_eq!(plain(true, &alone), (vec![0x41, 2, 0x40, 7], 9, 0));
        let before = [0x41, 2, 0x40, 7].as_slice();
        let text = |message: usize| Item { span: span(message, 7, 12), bytes: &TEXT[7..12] };
        let all = set(&[0, 1]);
        let followed: [(Make<'_>, &[u8], usize); 5] = [
            (&|out| out.shared(&all, span(0, 7, 12)), &[0x00, 5], 5),
            (&|out| out.shared_item(&all, &text(0)), &[0x00, 5], 5),
            (&|out| out.each(&all, [span(0, 7, 9), span(1, 2, 4)].into_iter(), 2), &[0xD0, 0x00, 2], 4),
            (&|out| out.each_item(&all, &[text(0), text(1)], 1..3), &[0xD0, 0x00, 2], 4),
            (&|out| out.past(&all, 9, 40), &[0xD1, 0x00, 9, 40], 0),
        ];
        for (follow, record, bytes) in followed {
            let (head, data, waiting) = plain(false, &|out| {
                alone(out);
                follow(out);
            });
            assert_eq!((head, data, waiting), ([before, record].concat(), 9 + bytes, 0));
        }
        // Behind a record nothing waits.
        let (head, data, waiting) = plain(false, &|out| {
            out.shared(&all, span(0, 0, 7));
            out.private(span(1, 7, 9));
        });
        assert_eq!((&head[..], data, waiting), (&[0x00, 7, 0x41, 2][..], 9, 0));
    }

    #[test]
    fn what_is_not_worth_its_record_is_sent() {
        // A record from the past takes four bytes here, and two bytes with a record of their own as many.
        for (bytes, recalled) in [(2, false), (3, true)] {
            let (head, data) = made(&[TEXT, b""], &[TEXT, b"x"], |out| out.private(span(0, 0, bytes)));
            if recalled {
                assert_eq!((&head[..], &data[..]), (&[0xD1, 0xC0, 3, 40][..], &b""[..]));
            } else {
                assert_eq!((&head[..], &data[..]), (&[0xC0, 2][..], &TEXT[..2]));
            }
        }
        // What was put off because it might grow comes before what follows.
        let (head, data) = made(&[TEXT, TEXT], &[TEXT, TEXT], |out| {
            out.shared(&set(&[0, 1]), span(0, 0, 2));
            out.private(span(0, 2, 40));
        });
        assert_eq!((&head[..], &data[..]), (&[0x00, 2, 0xD1, 0xC0, 38, 40][..], &b"ab"[..]));
    }

    #[test]
    fn only_what_is_remembered_is_left_out() {
        let mut changed = *TEXT;
        changed[20] = b'!';
        let (head, data) = made(&[TEXT, b""], &[&changed, b"x"], |out| out.private(span(0, 0, 40)));
        assert_eq!(head, [0xD1, 0xC0, 20, 40, 0x40, 1, 0xD4, 0x40, 19]);
        assert_eq!(data, b"!");
    }

    #[test]
    fn what_lies_elsewhere_is_another_record() {
        let shorter = [&TEXT[..10], &TEXT[20..]].concat();
        let (head, data) = made(&[TEXT, b""], &[&shorter, b"x"], |out| out.private(span(0, 0, 30)));
        assert_eq!((&head[..], &data[..]), (&[0xD1, 0xC0, 10, 40, 0xD1, 0x40, 20, 30][..], &b""[..]));
    }

    #[test]
    fn members_that_remember_it_elsewhere_are_a_group_if_every_record_is_worth_it() {
        let longer = [&TEXT[..], b"more"].concat();
        for (bytes, recalled) in [(10, false), (11, true)] {
            let (head, data) = made(&[TEXT, &longer, TEXT], &[TEXT, TEXT, TEXT], |out| {
                out.shared(&set(&[0, 1, 2]), span(0, 0, bytes));
            });
            if recalled {
                assert_eq!((&head[..], &data[..]), (&[0xD1, 0x41, 11, 44, 0xD1, 0x81, 11, 40][..], &b""[..]));
            } else {
                assert_eq!((&head[..], &data[..]), (&[0x00, 10][..], &TEXT[..10]));
            }
        }
    }

    #[test]
    fn more_groups_than_are_worth_it_are_none() {
        let earlier: Vec<Vec<u8>> = (0..5).map(|more| [&TEXT[..], &vec![7; more]].concat()).collect();
        let earlier: Vec<&[u8]> = earlier.iter().map(Vec::as_slice).collect();
        for (count, data_bytes) in [(4, 0), (5, 40)] {
            let now = vec![&TEXT[..]; count];
            let all: Vec<usize> = (0..count).collect();
            let (_, data) = made(&earlier, &now, |out| out.shared(&set(&all), span(0, 0, 40)));
            assert_eq!(data.len(), data_bytes);
        }
    }

    #[test]
    fn a_member_that_remembers_nothing_has_it_sent_to_all_and_of_each_only_to_itself() {
        let now: [&[u8]; 3] = [TEXT, TEXT, TEXT];
        let (head, data) = made(&[TEXT, TEXT], &now, |out| out.shared(&set(&[0, 1, 2]), span(0, 0, 40)));
        assert_eq!((&head[..], &data[..]), (&[0x00, 40][..], &TEXT[..]));
        let spans = || [span(0, 0, 30), span(1, 0, 30), span(2, 0, 30)].into_iter();
        let (head, data) = made(&[TEXT, TEXT], &now, |out| out.each(&set(&[0, 1, 2]), spans(), 30));
        assert_eq!((&head[..], &data[..]), (&[0x42, 30, 0xD1, 0x82, 30, 40][..], &TEXT[..30]));
        // Where it saves less than a record takes, everybody gets its own.
        let spans = || [span(0, 0, 2), span(1, 0, 2), span(2, 0, 2)].into_iter();
        let (head, data) = made(&[TEXT, TEXT], &now, |out| out.each(&set(&[0, 1, 2]), spans(), 2));
        assert_eq!((&head[..], &data[..]), (&[0xD0, 0x00, 2][..], &b"ababab"[..]));
    }

    #[test]
    fn records_that_may_still_grow_are_settled_before_their_members_get_something_else() {
        let other = TEXT.map(|byte| byte ^ 0x80);
        let third = TEXT.map(|byte| byte ^ 0x20);
        let now = [&[&TEXT[..20], b"!!!!"].concat()[..], &other[..20], &third[..20]];
        let (head, data) = made(&[TEXT, &other, &third], &now, |out| {
            out.private(span(0, 0, 10));
            out.private(span(1, 0, 10));
            out.private(span(0, 10, 20));
            out.private(span(2, 0, 20));
            out.private(span(1, 10, 20));
            out.private(span(0, 20, 24));
        });
        // The first is settled by what its member gets next; the others grow until the end.
        let expected = [&[0xD1, 0xC0, 20, 40][..], &[0x40, 4], &[0xD4, 0x42, 20], &[0xD4, 0x41, 20]].concat();
        assert_eq!((head, &data[..]), (expected, &b"!!!!"[..]));
    }

    #[test]
    fn records_are_settled_before_each_member_gets_its_own() {
        let changed = [&TEXT[..20], b"!!!!", &TEXT[24..]].concat();
        let (head, data) = made(&[TEXT, TEXT], &[TEXT, &changed], |out| {
            out.shared(&set(&[0, 1]), span(0, 0, 20));
            out.each(&set(&[0, 1]), [span(0, 20, 24), span(1, 20, 24)].into_iter(), 4);
        });
        assert_eq!((&head[..], &data[..]), (&[0xD1, 0x00, 20, 40, 0xD0, 0x00, 4][..], &b"uvwx!!!!"[..]));
    }

    #[test]
    fn the_eldest_record_is_closed_when_there_are_too_many() {
        let texts: Vec<[u8; 40]> = (0..6).map(|kind| TEXT.map(|byte| byte ^ kind << 5)).collect();
        let texts: Vec<&[u8]> = texts.iter().map(|text| &text[..]).collect();
        let (head, _) = made(&texts, &texts, |out| {
            for message in 0..6 {
                out.private(span(message, 0, 20));
            }
            // The fifth still grows, the first does not.
            out.private(span(4, 20, 40));
            out.private(span(0, 20, 40));
        });
        let records: Vec<(u8, u8)> = head[4..].chunks(3).map(|record| (record[1], record[2])).collect();
        assert_eq!(head[..4], [0xD1, 0xC0, 20, 40]);
        assert_eq!(records, [(0xC0, 20), (0xC0, 20), (0x40, 20), (0x45, 20), (0x44, 40), (0x43, 20)]);
    }
}
