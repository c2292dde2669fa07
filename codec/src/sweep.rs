//! From common runs to records: one walk over the reference, from cut to cut.
//!
//! Between two cuts the same messages share the reference's bytes: that is one record for all of them. What a message
//! has of its own before it joins such a record is its part of a *gap*, to be planned before the record. A stretch that
//! would cost more as a record than it saves is left to the gaps as well.

use crate::align::Run;
use crate::destination_set::DestinationSet;
use crate::set_table::SetTable;
use crate::texts::Span;

/// What splitting a gap costs besides the record itself.
const SPLIT_BYTES: usize = 3;

/// One step of the plan: first the gap, then the shared bytes.
#[derive(Clone, Debug)]
pub(crate) struct Step<const W: usize> {
    /// Parts of the gap, at most one per message: `parts[..]` of the sweep from the previous step's end to here.
    pub(crate) parts_end: usize,
    /// The shared bytes and who gets them; `None` in the last step.
    pub(crate) shared: Option<(DestinationSet<W>, Span)>,
}

/// The runs of every message with the reference.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    /// Where in `runs` the runs of each message end.
    ends: Vec<usize>,
}

/// The result of a sweep, and the memory for the next one.
#[derive(Debug, Default)]
pub(crate) struct Sweep<const W: usize> {
    pub(crate) steps: Vec<Step<W>>,
    pub(crate) parts: Vec<Span>,
    /// Cuts and messages that were visited.
    pub(crate) visits: usize,
    events: Vec<Event>,
    cursors: Vec<Cursor>,
    /// Where in each item the first run begins, or the item ends.
    firsts: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    at: usize,
    run: usize,
    item: usize,
    begins: bool,
}

/// Where one message stands during the sweep.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Bytes already given to a record or a gap.
    done: usize,
    /// The run that covers the current place begins here, in the reference and in the message.
    at: usize,
    from: usize,
}

impl Runs {
    /// The list to which the next message's runs are appended.
    pub(crate) fn list(&mut self) -> &mut Vec<Run> {
        &mut self.runs
    }

    /// Forgets all runs.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.ends.clear();
    }

    /// Ends the current message.
    pub(crate) fn close(&mut self) {
        self.ends.push(self.runs.len());
    }

    /// The runs of every closed message.
    pub(crate) fn of_each(&self) -> impl Iterator<Item = &[Run]> {
        let mut begin = 0;
        self.ends.iter().map(move |&end| &self.runs[std::mem::replace(&mut begin, end)..end])
    }

    /// Adds runs of closed messages, each with the number of its message, in order; `before` is room for those known before.
    pub(crate) fn add(&mut self, found: &[(usize, Run)], before: &mut Vec<Run>) {
        std::mem::swap(&mut self.runs, before);
        self.runs.clear();
        let mut found = found.iter().peekable();
        let mut begin = 0;
        for (item, end) in self.ends.iter_mut().enumerate() {
            for run in &before[begin..*end] {
                while let Some((_, added)) = found.next_if(|(of, added)| *of == item && added.at < run.at) {
                    self.runs.push(*added);
                }
                self.runs.push(*run);
            }
            while let Some((_, added)) = found.next_if(|(of, _)| *of == item) {
                self.runs.push(*added);
            }
            begin = *end;
            *end = self.runs.len();
        }
    }

    /// Whether no message has any run.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Cuts `items` along these runs. `items[reference]` is the reference and has no runs of its own; `items` are in
    /// rising order of their messages.
    pub(crate) fn sweep<const W: usize>(
        &self,
        items: &[Span],
        reference: usize,
        table: &SetTable<W>,
        out: &mut Sweep<W>,
    ) {
        let mut events = std::mem::take(&mut out.events);
        events.clear();
        out.steps.clear();
        out.parts.clear();
        out.firsts.clear();
        out.cursors.clear();
        out.cursors.resize(items.len(), Cursor::default());
        out.visits = items.len();
        let mut begin = 0;
        for (item, &end) in self.ends.iter().enumerate() {
            for (run, found) in (begin..).zip(&self.runs[begin..end]) {
                events.push(Event { at: found.at, run, item, begins: true });
                events.push(Event { at: found.at + found.len, run, item, begins: false });
            }
            out.firsts.push(self.runs[begin..end].first().map_or(items[item].len(), |run| run.from));
            begin = end;
        }
        // Ends before beginnings: a run may begin where the last one of the same message ended.
        sort_events(&mut events);
        let mut walk = Walk {
            items,
            reference,
            active: DestinationSet::one(reference),
            members: DestinationSet::one(items[reference].message),
            sharers: 1,
            out,
        };
        let mut at = 0;
        for event in &events {
            if event.at > at {
                walk.stretch(at, event.at, table);
                at = event.at;
            }
            walk.turn(event, &self.runs[event.run]);
        }
        walk.stretch(at, items[reference].len(), table);
        walk.finish();
        out.visits += events.len();
        out.events = events;
    }
}

struct Walk<'a, const W: usize> {
    items: &'a [Span],
    reference: usize,
    /// Items that have the current stretch; indices into `items`.
    active: DestinationSet<W>,
    /// The same as destinations.
    members: DestinationSet<W>,
    sharers: usize,
    out: &'a mut Sweep<W>,
}

impl<const W: usize> Walk<'_, W> {
    fn turn(&mut self, event: &Event, run: &Run) {
        let member = self.items[event.item].message;
        if event.begins {
            self.active.insert(event.item);
            self.members.insert(member);
            self.sharers += 1;
            let cursor = &mut self.out.cursors[event.item];
            (cursor.at, cursor.from) = (run.at, run.from);
        } else {
            self.active.remove(event.item);
            self.members.remove(member);
            self.sharers -= 1;
        }
    }

    /// The reference's bytes from `start` to `end` are common to all active items.
    fn stretch(&mut self, start: usize, end: usize, table: &SetTable<W>) {
        let len = end - start;
        if self.sharers < 2 || len == 0 {
            return;
        }
        if !is_worth(self.sharers, len, &self.members, table) {
            return;
        }
        if self.out.steps.is_empty() {
            self.lead(start);
        }
        for item in self.active.iter() {
            let from = self.place(item, start);
            let cursor = &mut self.out.cursors[item];
            if cursor.done < from {
                self.out.parts.push(self.items[item].part(cursor.done, from));
            }
            cursor.done = from + len;
            self.out.visits += 1;
        }
        let shared = self.items[self.reference].part(start, end);
        self.out.steps.push(Step { parts_end: self.out.parts.len(), shared: Some((self.members, shared)) });
    }

    /// What messages have before their first run resembles each other, whenever they join: one gap for all of them,
    /// before the first record.
    fn lead(&mut self, start: usize) {
        for item in 0..self.items.len() {
            let lead =
                if self.active.contains(item) { self.place(item, start) } else { self.out.firsts[item] };
            if lead > 0 {
                self.out.parts.push(self.items[item].part(0, lead));
            }
            self.out.cursors[item].done = lead;
        }
    }

    /// Where in an active item the reference's place `start` is.
    fn place(&self, item: usize, start: usize) -> usize {
        let cursor = &self.out.cursors[item];
        if item == self.reference { start } else { cursor.from + (start - cursor.at) }
    }

    fn finish(self) {
        for (item, cursor) in self.items.iter().zip(&self.out.cursors) {
            if cursor.done < item.len() {
                self.out.parts.push(item.part(cursor.done, item.len()));
            }
        }
        self.out.steps.push(Step { parts_end: self.out.parts.len(), shared: None });
    }
}

/// Whether a record of `len` bytes for so many `sharers`, the members of `set`, saves more than it costs: at least, at most, and exactly,
/// for the exact cost takes a while to find.
pub(crate) fn is_worth<const W: usize>(
    sharers: usize,
    len: usize,
    set: &DestinationSet<W>,
    table: &SetTable<W>,
) -> bool {
    let saved = (sharers - 1) * len;
    saved > 2 + SPLIT_BYTES
        && (saved > table.cost_max() + 1 + SPLIT_BYTES || saved > table.cost(set) + 1 + SPLIT_BYTES)
}

/// Sorts by place, ends before beginnings, in linear time for long lists.
fn sort_events(events: &mut Vec<Event>) {
    const COMPARED_MAX: usize = 512;
    let key = |event: &Event| event.at * 2 + usize::from(event.begins);
    if events.len() <= COMPARED_MAX {
        events.sort_unstable_by_key(key);
        return;
    }
    let largest = events.iter().map(key).max().unwrap_or(0);
    let mut other = events.clone();
    let mut shift = 0;
    while shift < usize::BITS && largest >> shift > 0 {
        let digit = |event: &Event| key(event) >> shift & 0xFF;
        let mut places = [0usize; 257];
        for event in events.iter() {
            places[digit(event) + 1] += 1;
        }
        for index in 1..places.len() {
            places[index] += places[index - 1];
        }
        for event in events.iter() {
            let place = &mut places[digit(event)];
            other[*place] = *event;
            *place += 1;
        }
        std::mem::swap(events, &mut other);
        shift += 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sorts_agree() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut events: Vec<Event> = (0..5000)
            .map(|run| Event { at: rng.usize(..100_000), run, item: 0, begins: rng.bool() })
            .collect();
        let mut expected: Vec<_> = events.iter().map(|event| (event.at, event.begins)).collect();
        expected.sort_unstable();
        sort_events(&mut events);
        assert_eq!(events.iter().map(|event| (event.at, event.begins)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_gap_comes_before_the_record_that_ends_it() {
        let span = |message, end| Span { message, start: 0, end };
        let items = [span(0, 1000), span(1, 700), span(2, 900)];
        let mut runs = Runs::default();
        runs.close();
        runs.list().push(Run { at: 400, from: 100, len: 600 });
        runs.close();
        runs.list().push(Run { at: 0, from: 0, len: 300 });
        runs.list().push(Run { at: 400, from: 300, len: 600 });
        runs.close();
        let mut sweep = Sweep::default();
        runs.sweep(&items, 0, &SetTable::<1>::new(3), &mut sweep);
        let part = |message, start, end| Span { message, start, end };
        // Message 1 joins at 400 only, but what it has before goes first.
        assert_eq!(sweep.parts, [part(1, 0, 100), part(0, 300, 400)]);
        let shared: Vec<_> =
            sweep.steps.iter().map(|step| (step.parts_end, step.shared.map(|s| s.1))).collect();
        assert_eq!(shared, [(1, Some(part(0, 0, 300))), (2, Some(part(0, 400, 1000))), (2, None)]);
    }
}
