//! From messages to records.
//!
//! The longest message is the reference. The others are laid against it, first by address, then by content; a sweep
//! over the reference emits what is shared, and the gaps between are planned the same way, to a fixed depth. A lagging
//! follower's message holds every other one, so lags nest in the reference. What is left over is short or shares
//! nothing: columns, or private records.

use std::ops::Range;

use crate::align::Reference;
use crate::bytes_equal::{common_prefix, common_suffix};
use crate::columns::{self, COLUMN_BYTES_MAX, Keyed};
use crate::copies::Copies;
use crate::destination_set::DestinationSet;
use crate::identity::Addresses;
use crate::in_step::{CLASSES_MAX, InStep};
use crate::index::BlockIndex;
use crate::openings::{Opening, Openings};
use crate::records::Records;
use crate::rows::Rows;
use crate::steady::Steady;
use crate::sweep::{Runs, Sweep, is_worth};
use crate::texts::{Item, Span, Texts};

/// Rounds of comparing addresses.
const ADDRESS_ROUNDS: usize = 4;
/// Where no part is as long, comparing the bytes is as fast as comparing the addresses.
const ADDRESS_BYTES_MIN: usize = 256;
/// References tried in each of them until one shares memory with another message.
const REFERENCES_TRIED: usize = 3;
/// A part of a gap that is so many times as long as any other, and so much longer, is planned by its head only.
const OUTSIZED: usize = 4;
const OUTSIZED_BYTES_MIN: usize = 2 << 10;
const HEAD_OF_OUTSIZED: usize = 2;
/// Rounds of comparing bytes.
const BYTE_ROUNDS: usize = 3;
/// Gaps in which no part is longer go to the columns without another round.
const SHORT_BYTES: usize = 64;
/// The same at once where all are as long: what is equal in all of them columns see as well. What only some share of so few bytes is given
/// up: a search for it takes a quarter of the time of a frame of short headers in front of entries for all.
const UNSEARCHED_BYTES: usize = 16;

/// Memory that a planner needs and that outlives it.
pub(crate) struct Scratch<const W: usize> {
    index: BlockIndex,
    addresses: Addresses,
    copies: Copies,
    /// Bytes of parts that span several segments.
    joined: Vec<u8>,
    /// One per round that is under way, at most.
    #[expect(
        clippy::vec_box,
        reason = "it is taken out and put back for every round: moving it takes 4 % of short frames"
    )]
    cuts: Vec<Box<Cuts<W>>>,
    rows: Vec<Rows>,
    /// Empty lists, for whoever needs one.
    items: Vec<Vec<Item<'static>>>,
    spans: Vec<Vec<Span>>,
    pub(crate) order: Vec<Keyed>,
}

/// What is shared in one round, and how it is cut.
#[derive(Debug, Default)]
struct Cuts<const W: usize> {
    runs: Runs,
    sweep: Sweep<W>,
}

impl<const W: usize> Scratch<W> {
    /// Empty memory; `seed` is the index's.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            index: BlockIndex::new(seed),
            addresses: Addresses::default(),
            copies: Copies::default(),
            joined: Vec::new(),
            cuts: Vec::new(),
            rows: Vec::new(),
            items: Vec::new(),
            spans: Vec::new(),
            order: Vec::new(),
        }
    }

    pub(crate) fn take_items<'a>(&mut self) -> Vec<Item<'a>> {
        self.items.pop().unwrap_or_default()
    }

    pub(crate) fn give_items(&mut self, mut items: Vec<Item<'_>>) {
        items.clear();
        // No item is left whose bytes could matter. Collecting in place keeps the memory.
        self.items.push(items.into_iter().map(|item| Item { span: item.span, bytes: &[] }).collect());
    }

    fn take_spans(&mut self) -> Vec<Span> {
        self.spans.pop().unwrap_or_default()
    }

    fn give_spans(&mut self, mut spans: Vec<Span>) {
        spans.clear();
        self.spans.push(spans);
    }
}

/// Plans one frame.
pub(crate) struct Planner<'a, const W: usize> {
    pub(crate) texts: Texts<'a>,
    pub(crate) scratch: &'a mut Scratch<W>,
    pub(crate) out: Records<'a, W>,
}

/// The longest span; of equals, the first.
fn longest(lens: impl Iterator<Item = usize>) -> usize {
    let mut best = (0, 0);
    for (index, len) in lens.enumerate() {
        if len > best.1 {
            best = (index, len);
        }
    }
    best.0
}

/// Whether any of `items` shares memory with the longest one.
fn overlap_longest(items: &[Item<'_>]) -> bool {
    let reference = longest(items.iter().map(|item| item.bytes.len()));
    let place = |item: &Item<'_>| {
        let address = item.bytes.as_ptr().addr();
        (address, address + item.bytes.len())
    };
    let Some((begin, end)) = items.get(reference).map(place) else { return false };
    let mut others =
        items.iter().enumerate().filter(|(index, _)| *index != reference).map(|(_, item)| place(item));
    others.any(|(from, to)| from < end && begin < to)
}

impl<const W: usize> Planner<'_, W> {
    /// Plans whole messages, given in rising order.
    pub(crate) fn plan(&mut self, spans: &[Span]) {
        self.by_address(spans, 0);
    }

    /// The same, for messages that are in step with what their streams remember. What has changed is planned class by
    /// class, what comes behind for all messages together.
    pub(crate) fn plan_in_step<'b>(&mut self, spans: &[Span], known: &InStep<W>, openings: &Openings<'b>) {
        let ([first, ..], [.., last]) = (spans, spans) else { return };
        let here = DestinationSet::range(first.message, last.message + 1);
        let mut left: usize = spans.iter().map(Span::len).sum();
        // Which messages are planned up to where.
        let mut planned = [(DestinationSet::EMPTY, 0); CLASSES_MAX];
        let mut items = self.scratch.take_items();
        for (class, planned) in known.classes().iter().zip(&mut planned) {
            let set = class.members.and(&here);
            if self.out.is_plain()
                && let Some(steady) = Steady::of_class(class, set, openings, &mut self.out.work)
            {
                steady.put(&mut self.out, self.scratch);
                *planned = (set, class.len);
                left -= class.len * set.count();
                continue;
            }
            items.clear();
            let item = |message, opening: &Opening<'b>| {
                let span = Span { message, start: 0, end: class.len };
                Item { span, bytes: &opening.bytes[..class.len] }
            };
            if set == here {
                let all = &openings.all()[first.message..=last.message];
                items
                    .extend(all.iter().zip(first.message..).map(|(opening, message)| item(message, opening)));
            } else {
                items.extend(set.iter().map(|message| item(message, &openings.all()[message])));
            }
            if items.is_empty() {
                continue;
            }
            let mut at = 0;
            for &(from, to) in &class.unchanged {
                self.changed(&items, &set, at..from);
                self.out.past(&set, to - from, class.back);
                at = to;
            }
            // If what all have in front of their entries ends at one place, its end needs no search either.
            if let Some(border) = class.border.filter(|border| (at..=class.len).contains(border)) {
                self.changed(&items, &set, at..border);
                at = border;
            }
            *planned = (set, at);
            left -= at * items.len();
        }
        self.scratch.give_items(items);
        if left > 0 {
            let mut rest = self.scratch.take_spans();
            rest.extend(spans.iter().map(|span| {
                let known = planned.iter().find(|(set, _)| set.contains(span.message));
                span.part(known.map_or(0, |&(_, end)| end), span.len())
            }));
            rest.retain(|part| part.len() > 0);
            self.plan(&rest);
            self.scratch.give_spans(rest);
        }
    }

    /// Plans `columns` of messages in step, where these have changed.
    fn changed(&mut self, items: &[Item<'_>], set: &DestinationSet<W>, columns: Range<usize>) {
        match items {
            _ if columns.is_empty() => {}
            [one] => self.out.private(one.part(columns).span),
            _ if columns.len() <= SHORT_BYTES => {
                columns::try_put(items, set, columns, true, &mut self.out, &mut self.scratch.order);
            }
            _ => {
                let mut gap = self.scratch.take_items();
                gap.extend(items.iter().map(|item| item.part(columns.clone())));
                self.by_bytes(&gap, 0, true);
                self.scratch.give_items(gap);
            }
        }
    }

    fn by_address(&mut self, spans: &[Span], round: usize) {
        let [_, _, ..] = spans else {
            for &span in spans {
                self.out.private(span);
            }
            return;
        };
        if round > 0
            && let Some((index, head_bytes)) = self.outsized(spans)
        {
            let long = spans[index];
            let mut heads = self.scratch.take_spans();
            heads.extend_from_slice(spans);
            heads[index] = long.part(0, head_bytes);
            self.by_address(&heads, round);
            self.scratch.give_spans(heads);
            self.out.private(long.part(head_bytes, long.len()));
            return;
        }
        if round == ADDRESS_ROUNDS || spans.iter().all(|span| span.len() < ADDRESS_BYTES_MIN) {
            self.by_bytes_joined(spans);
            return;
        }
        // Messages of one segment each in different memory: no look-up would find anything.
        let mut items = self.scratch.take_items();
        items.extend(spans.iter().map_while(|&span| {
            let bytes = self.texts.contiguous(span)?;
            Some(Item { span, bytes })
        }));
        self.out.work.address_lookups += items.len();
        let apart = items.len() == spans.len() && !overlap_longest(&items);
        if apart {
            self.by_bytes(&items, 0, true);
        }
        self.scratch.give_items(items);
        if apart {
            return;
        }
        if self.texts.identical(spans, &mut self.out.work.address_lookups) {
            let mut set = DestinationSet::EMPTY;
            spans.iter().for_each(|span| set.insert(span.message));
            return self.out.shared(&set, spans[0]);
        }
        if self.by_rows(spans, round) {
            return;
        }
        let mut cuts = self.scratch.cuts.pop().unwrap_or_default();
        match self.runs_by_address(spans, &mut cuts.runs) {
            Some(reference) => self.along(&mut cuts, spans, reference, round),
            None => self.by_bytes_joined(spans),
        }
        self.scratch.cuts.push(cuts);
    }

    /// Plans messages that are cut alike as [`along`](Self::along) does. False if these are not.
    fn by_rows(&mut self, spans: &[Span], round: usize) -> bool {
        let mut rows = self.scratch.rows.pop().unwrap_or_default();
        let found = rows.find(self.texts, spans, &mut self.out.work.address_lookups);
        if found {
            let mut set = DestinationSet::EMPTY;
            spans.iter().for_each(|span| set.insert(span.message));
            let table = self.out.table();
            if rows.keep(|len| is_worth(spans.len(), len, &set, table)) {
                self.between_rows(&rows, &set, spans, round);
            } else {
                self.by_bytes_joined(spans);
            }
        }
        self.scratch.rows.push(rows);
        found
    }

    fn between_rows(&mut self, rows: &Rows, set: &DestinationSet<W>, spans: &[Span], round: usize) {
        let (mut at, mut done) = (0, 0);
        let mut gap = self.scratch.take_spans();
        for (len, shared) in rows.stretches().chain(std::iter::once((0, true))) {
            if shared && done < at {
                gap.clear();
                gap.extend(spans.iter().map(|span| span.part(done, at)));
                self.by_address(&gap, round + 1);
            }
            if shared && len > 0 {
                self.out.shared(set, spans[0].part(at, at + len));
            }
            at += len;
            done = if shared { at } else { done };
        }
        self.scratch.give_spans(gap);
    }

    /// Plans what is shared by address, and between it the next round.
    fn along(&mut self, cuts: &mut Cuts<W>, spans: &[Span], reference: usize, round: usize) {
        let Cuts { runs, sweep } = cuts;
        runs.sweep(spans, reference, self.out.table(), sweep);
        self.out.work.visits += sweep.visits;
        if sweep.steps.iter().all(|step| step.shared.is_none()) {
            // Nothing of it was worth a record, nor would it be in the next round.
            return self.by_bytes_joined(spans);
        }
        let mut begin = 0;
        for step in &sweep.steps {
            let parts = &sweep.parts[begin..step.parts_end];
            begin = step.parts_end;
            if !parts.is_empty() {
                self.by_address(parts, round + 1);
            }
            if let Some((set, span)) = &step.shared {
                self.out.shared(set, *span);
            }
        }
    }

    /// A span that is far longer than all others, and how much of its head to compare with them.
    ///
    /// Between shared segments that is what only a lagging follower gets: its header resembles the others', the entries
    /// behind it do not, and neither joining nor searching them would find anything. If a segment ends about where the
    /// others do, the head is what precedes its end.
    fn outsized(&self, spans: &[Span]) -> Option<(usize, usize)> {
        let index = longest(spans.iter().map(Span::len));
        let long = spans[index];
        let second =
            spans.iter().enumerate().filter(|(k, _)| *k != index).map(|(_, span)| span.len()).max()?;
        if long.len() <= OUTSIZED * second + OUTSIZED_BYTES_MIN {
            return None;
        }
        let mut border = 0;
        for (_, start, end) in self.texts.parts(long) {
            if border + (end - start) > HEAD_OF_OUTSIZED * second {
                break;
            }
            border += end - start;
        }
        let head_bytes = if border > 0 { border } else { HEAD_OF_OUTSIZED * second + OUTSIZED_BYTES_MIN / 2 };
        Some((index, head_bytes))
    }

    /// The longest of `spans` that shares memory with others; what it shares goes to `runs`. Gives up after a few.
    fn runs_by_address(&mut self, spans: &[Span], runs: &mut Runs) -> Option<usize> {
        let mut tried = DestinationSet::<W>::EMPTY;
        // Messages of one segment each that do not share the longest one's are soon compared by their bytes.
        let several = spans.iter().any(|span| self.texts.contiguous(*span).is_none());
        let references = if several { REFERENCES_TRIED.min(spans.len() - 1) } else { 1 };
        for _ in 0..references {
            let untried = |(index, span): (usize, &Span)| if tried.contains(index) { 0 } else { span.len() };
            let reference = longest(spans.iter().enumerate().map(untried));
            tried.insert(reference);
            self.scratch.addresses.reset(self.texts, spans[reference]);
            runs.clear();
            for (index, &span) in spans.iter().enumerate() {
                if index != reference {
                    self.out.work.address_lookups +=
                        self.scratch.addresses.align(self.texts, span, runs.list());
                }
                runs.close();
            }
            if !runs.is_empty() {
                let Scratch { copies, index, .. } = &mut *self.scratch;
                copies.find(self.texts, spans, reference, runs, index, &mut self.out.work);
                return Some(reference);
            }
        }
        None
    }

    /// Gives every span its bytes in one piece, copying only those that lie in several segments.
    fn by_bytes_joined(&mut self, spans: &[Span]) {
        let mut joined = std::mem::take(&mut self.scratch.joined);
        joined.clear();
        let mut items = self.scratch.take_items();
        items.extend(spans.iter().map(|&span| {
            let bytes = self.texts.contiguous(span).unwrap_or_else(|| {
                self.texts.copy_to(span, &mut joined);
                self.out.work.copied_bytes += span.len();
                &[]
            });
            Item { span, bytes }
        }));
        if !joined.is_empty() {
            let mut rest = joined.as_slice();
            for item in items.iter_mut().filter(|item| item.bytes.len() < item.span.len()) {
                (item.bytes, rest) = rest.split_at(item.span.len());
            }
        }
        self.by_bytes(&items, 0, true);
        self.scratch.give_items(items);
        self.scratch.joined = joined;
    }

    fn by_bytes(&mut self, items: &[Item<'_>], round: usize, hopeful: bool) {
        let [first, _, ..] = items else {
            for item in items {
                self.out.private(item.span);
            }
            return;
        };
        let len = first.bytes.len();
        if items.iter().all(|item| item.bytes.len() == len) {
            let must = round == BYTE_ROUNDS || len <= if round > 0 { SHORT_BYTES } else { UNSEARCHED_BYTES };
            let done = match len {
                ..=COLUMN_BYTES_MAX => {
                    columns::try_put_whole(items, must, &mut self.out, &mut self.scratch.order)
                }
                _ => self.but_for_one_place(items),
            };
            if done {
                return;
            }
        }
        if round > 0 && items.iter().all(|item| item.bytes.len() <= SHORT_BYTES) {
            self.put_by_length(items.iter());
            return;
        }
        if round == BYTE_ROUNDS {
            self.last_round(items);
            return;
        }
        self.against_longest(items, round, hopeful);
    }

    /// Long texts that differ in one short place only. False if these do not.
    fn but_for_one_place(&mut self, items: &[Item<'_>]) -> bool {
        let Some((first, others)) = items.split_first() else { return true };
        let len = first.bytes.len();
        // The place so far: it only grows.
        let (mut from, mut to) = (len, 0);
        for item in others {
            let prefix = common_prefix(&first.bytes[..from], &item.bytes[..from]);
            self.out.work.compared_bytes += prefix + 1;
            if prefix == len {
                continue;
            }
            let behind = prefix.max(to);
            let suffix = common_suffix(&first.bytes[behind..], &item.bytes[behind..]);
            self.out.work.compared_bytes += suffix + 1;
            (from, to) = (prefix, len - suffix);
            if to - from > SHORT_BYTES {
                return false;
            }
        }
        let mut set = DestinationSet::EMPTY;
        items.iter().for_each(|item| set.insert(item.span.message));
        if from > 0 {
            self.out.shared(&set, first.span.part(0, from));
        }
        if from < to {
            let mut place = self.scratch.take_items();
            place.extend(items.iter().map(|item| item.part(from..to)));
            columns::try_put_whole(&place, true, &mut self.out, &mut self.scratch.order);
            self.scratch.give_items(place);
        }
        if from < len && to < len {
            self.out.shared(&set, first.span.part(to, len));
        }
        true
    }

    fn last_round(&mut self, items: &[Item<'_>]) {
        self.put_by_length(items.iter().filter(|item| item.bytes.len() <= SHORT_BYTES));
        for item in items.iter().filter(|item| item.bytes.len() > SHORT_BYTES) {
            self.out.private(item.span);
        }
    }

    fn put_by_length<'b>(&mut self, items: impl Iterator<Item = &'b Item<'b>>) {
        let mut short = self.scratch.take_items();
        short.extend(items.copied());
        columns::put_by_length(&mut short, &mut self.out, &mut self.scratch.order);
        self.scratch.give_items(short);
    }

    /// Unless `hopeful`, the last reference shared nothing with any of `items`.
    fn against_longest(&mut self, items: &[Item<'_>], round: usize, hopeful: bool) {
        let reference = longest(items.iter().map(|item| item.bytes.len()));
        let mut cuts = self.scratch.cuts.pop().unwrap_or_default();
        let Cuts { runs, sweep } = &mut *cuts;
        runs.clear();
        let mut against =
            Reference::new(items[reference].bytes, &mut self.scratch.index, &mut self.out.work, hopeful);
        let borders = self.texts.starts(items[reference].span);
        for (index, item) in items.iter().enumerate() {
            if index != reference {
                against.align(item.bytes, [borders, self.texts.starts(item.span)], runs.list());
            }
            runs.close();
        }
        if runs.is_empty() {
            // Two references in a row that nobody resembles: the rest is taken to share nothing either.
            let round = if hopeful { round + 1 } else { BYTE_ROUNDS };
            self.scratch.cuts.push(cuts);
            self.gap(items, items[reference].span.message, round, false);
            return;
        }
        let mut spans = self.scratch.take_spans();
        spans.extend(items.iter().map(|item| item.span));
        runs.sweep(&spans, reference, self.out.table(), sweep);
        self.out.work.visits += sweep.visits;
        let mut begin = 0;
        let mut gap = self.scratch.take_items();
        for step in &sweep.steps {
            gap.clear();
            // Parts are in the order of the items, and mostly there is one of each.
            let mut next = 0;
            for &part in &sweep.parts[begin..step.parts_end] {
                if items.get(next).is_none_or(|item| item.span.message != part.message) {
                    let of = items.binary_search_by_key(&part.message, |item| item.span.message);
                    next = of.expect("every part is of an item");
                }
                gap.push(items[next].at(part));
                next += 1;
            }
            begin = step.parts_end;
            self.gap(&gap, items[reference].span.message, round + 1, true);
            if let Some((set, span)) = &step.shared {
                self.out.shared(set, *span);
            }
        }
        self.scratch.give_items(gap);
        self.scratch.give_spans(spans);
        self.scratch.cuts.push(cuts);
    }

    /// Plans a gap. A long part of the last reference has been compared with everything and found unlike it.
    fn gap(&mut self, gap: &[Item<'_>], reference: usize, round: usize, hopeful: bool) {
        let unlike =
            gap.iter().position(|item| item.span.message == reference && item.bytes.len() > SHORT_BYTES);
        let Some(index) = unlike.filter(|_| gap.len() > 1) else {
            if !gap.is_empty() {
                self.by_bytes(gap, round, hopeful);
            }
            return;
        };
        self.out.private(gap[index].span);
        let mut rest = self.scratch.take_items();
        rest.extend_from_slice(&gap[..index]);
        rest.extend_from_slice(&gap[index + 1..]);
        self.by_bytes(&rest, round, hopeful);
        self.scratch.give_items(rest);
    }
}
