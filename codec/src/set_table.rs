//! How sets of destinations are spelled in a head: the sets both ends remember, and the one spelling of each.
//!
//! Writer and reader share the same table and the same choice of form. The reader repeats the choice and refuses any
//! other spelling, so a list of records has exactly one head.

use std::hash::{BuildHasher, RandomState};

use crate::destination_set::{DestinationSet, sole};
use crate::error::{DecodeError, LimitName};
use crate::varint::{self, Reader};
use crate::wire;

/// Up to this many sets are searched one after another; more go through a hash table.
const SCAN_MAX: usize = 12;

/// A definition is charged at least one byte, so their numbers fit into a slot, whatever the limit says.
const SET_BYTES_MAX: usize = u32::MAX as usize;

/// Rules of sets, as errors name them.
const EMPTY: &str = "a set has at least one member";
const BEYOND: &str = "members are below the number of destinations";

/// The sets of one frame's head as far as it has been read or written.
#[derive(Debug)]
pub(crate) struct SetTable<const W: usize> {
    /// Destinations of the frame.
    count: usize,
    /// Words per stored set.
    words: usize,
    all: DestinationSet<W>,
    /// Sets defined so far, `words` each. Their numbers begin with 1.
    defined: Vec<u64>,
    /// Open addressing over set numbers; 0 is free. Empty while few sets are defined.
    slots: Vec<u32>,
    hasher: RandomState,
    /// Set of the previous record.
    previous: DestinationSet<W>,
    /// Its number and how many members it has, if it can be spelled as REF: records of one set often follow each other.
    again: Option<(usize, usize)>,
    /// The destination that the code `NEXT` stands for.
    next: usize,
}

/// A way to spell a new set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bits,
    Flip,
    List,
    Colist,
}

/// A set as it will be spelled.
#[derive(Clone, Copy, Debug)]
enum Spelling {
    Ref(usize),
    Next,
    One(usize),
    But(usize),
    Define(Form, usize),
}

impl<const W: usize> SetTable<W> {
    pub(crate) fn new(count: usize) -> Self {
        let mut table = Self {
            count: 0,
            words: 0,
            all: DestinationSet::EMPTY,
            defined: Vec::new(),
            slots: Vec::new(),
            hasher: RandomState::new(),
            previous: DestinationSet::EMPTY,
            again: None,
            next: 0,
        };
        table.reset(count);
        table
    }

    /// Forgets everything but its memory, for a frame with `count` destinations.
    pub(crate) fn reset(&mut self, count: usize) {
        self.count = count;
        self.words = count.div_ceil(64);
        self.all = DestinationSet::all(count);
        self.defined.clear();
        self.slots.clear();
        self.previous = self.all;
        self.again = None;
        self.next = 0;
    }

    /// Bytes that the definitions so far are charged.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.defined_count() * self.count.div_ceil(8)
    }

    /// Bytes that spelling `set` next would take.
    #[inline]
    pub(crate) fn cost(&self, set: &DestinationSet<W>) -> usize {
        if *set == self.all { 1 } else { self.cost_of_some(set) }
    }

    fn cost_of_some(&self, set: &DestinationSet<W>) -> usize {
        match self.choose(set) {
            Spelling::Next => 1,
            Spelling::Ref(k) | Spelling::One(k) | Spelling::But(k) if k < wire::SHORT => 1,
            Spelling::Ref(k) | Spelling::One(k) | Spelling::But(k) => 1 + varint::len(k),
            Spelling::Define(_, bytes) => 1 + bytes,
        }
    }

    /// No set takes more bytes than this.
    pub(crate) fn cost_max(&self) -> usize {
        1 + self.count.div_ceil(8).max(varint::BYTES_MAX)
    }

    /// Writes `set`, which has members and none beyond the frame's destinations; says how many it has.
    #[inline]
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, set: &DestinationSet<W>) -> usize {
        if *set == self.all {
            // What most records of most frames are for.
            out.push(wire::REF);
            self.previous = self.all;
            self.again = None;
            return self.count;
        }
        if let Some((number @ ..wire::SHORT, members)) = self.again
            && *set == self.previous
        {
            out.push(wire::REF + number.to_le_bytes()[0]);
            return members;
        }
        self.put_some(out, set)
    }

    fn put_some(&mut self, out: &mut Vec<u8>, set: &DestinationSet<W>) -> usize {
        let numbered = |out: &mut Vec<u8>, short: u8, long: u8, k: usize| match u8::try_from(k) {
            Ok(low) if k < wire::SHORT => out.push(short + low),
            _ => {
                out.push(long);
                varint::put(out, k);
            }
        };
        let spelling = self.choose(set);
        match spelling {
            Spelling::Next => out.push(wire::NEXT),
            Spelling::Ref(k) => numbered(out, wire::REF, wire::REF_LONG, k),
            Spelling::One(k) => numbered(out, wire::ONE, wire::ONE_LONG, k),
            Spelling::But(k) => numbered(out, wire::BUT, wire::BUT_LONG, k),
            Spelling::Define(Form::Bits, bytes) => {
                out.push(wire::BITS);
                out.extend(set.words().iter().flat_map(|word| word.to_le_bytes()).take(bytes));
            }
            Spelling::Define(Form::Flip, _) => {
                out.push(wire::FLIP);
                put_list(out, &set.xor(&self.previous));
            }
            Spelling::Define(Form::List, _) => {
                out.push(wire::LIST);
                put_list(out, set);
            }
            Spelling::Define(Form::Colist, _) => {
                out.push(wire::COLIST);
                put_list(out, &set.xor(&self.all));
            }
        }
        self.note(set, spelling);
        let members = set.count();
        self.again = match spelling {
            Spelling::Ref(number) => Some((number, members)),
            Spelling::Define(..) => Some((self.defined_count(), members)),
            Spelling::Next | Spelling::One(_) | Spelling::But(_) => None,
        };
        members
    }

    /// Reads one set. `set_bytes` is the limit on what definitions are charged.
    pub(crate) fn read(
        &mut self,
        reader: &mut Reader<'_>,
        set_bytes: usize,
    ) -> Result<DestinationSet<W>, DecodeError> {
        let offset = reader.at();
        let code = reader.byte()?;
        let low = usize::from(code & 0x3F);
        let (set, spelling) = match code {
            0x00..=0x3F => (self.get(low, offset)?, Spelling::Ref(low)),
            0x40..=0x7F => (self.single(low, offset)?, Spelling::One(low)),
            0x80..=0xBF => (self.single(low, offset)?.xor(&self.all), Spelling::But(low)),
            wire::NEXT => (self.single(self.next, offset)?, Spelling::Next),
            wire::ONE_LONG => {
                let k = self.long(reader)?;
                (self.single(k, offset)?, Spelling::One(k))
            }
            wire::BUT_LONG => {
                let k = self.long(reader)?;
                (self.single(k, offset)?.xor(&self.all), Spelling::But(k))
            }
            wire::REF_LONG => {
                let k = self.long(reader)?;
                (self.get(k, offset)?, Spelling::Ref(k))
            }
            wire::BITS => (self.read_bits(reader)?, Spelling::Define(Form::Bits, 0)),
            wire::FLIP => (self.read_list(reader)?.xor(&self.previous), Spelling::Define(Form::Flip, 0)),
            wire::LIST => (self.read_list(reader)?, Spelling::Define(Form::List, 0)),
            wire::COLIST => (self.read_list(reader)?.xor(&self.all), Spelling::Define(Form::Colist, 0)),
            _ => return Err(DecodeError::Record { offset, code }),
        };
        let canonical = match spelling {
            // Defined sets are neither all nor single nor all but one, and long numbers are checked where they are read.
            Spelling::Ref(_) => true,
            Spelling::Next => self.count > 1,
            Spelling::One(one) => self.count > 1 && one != self.next,
            Spelling::But(_) => self.count > 2,
            Spelling::Define(form, _) => match self.choose(&set) {
                Spelling::Define(chosen, _) => chosen == form,
                _ => false,
            },
        };
        if set == DestinationSet::EMPTY {
            return Err(DecodeError::Set { offset, rule: EMPTY });
        }
        if !canonical {
            return Err(DecodeError::NotCanonical { offset, rule: "a set has one spelling" });
        }
        if matches!(spelling, Spelling::Define(..)) {
            let set_bytes = set_bytes.min(SET_BYTES_MAX);
            let needed = self.charged_bytes() + self.count.div_ceil(8);
            if needed > set_bytes {
                let (limit, maximum) = (LimitName::SetBytes, set_bytes);
                return Err(DecodeError::Limit { offset, limit, maximum, needed });
            }
        }
        self.note(&set, spelling);
        Ok(set)
    }

    /// The one spelling of `set` at this place. FORMAT.md states the order.
    fn choose(&self, set: &DestinationSet<W>) -> Spelling {
        // Neither has members beyond the frame's destinations: mostly one word is all there is to look at.
        let (words, all) = (&set.words()[..self.words], &self.all.words()[..self.words]);
        // No comparison of slices: those are calls, even for one word.
        if words.iter().zip(all).all(|(word, all)| word == all) {
            return Spelling::Ref(0);
        }
        if let Some((number, _)) = self.again
            && words.iter().zip(&self.previous.words()[..self.words]).all(|(word, with)| word == with)
        {
            return Spelling::Ref(number);
        }
        if let Some(one) = sole(words.iter().copied()) {
            return if one == self.next { Spelling::Next } else { Spelling::One(one) };
        }
        if let Some(one) = sole(words.iter().zip(all).map(|(word, all)| word ^ all)) {
            return Spelling::But(one);
        }
        if let Some(number) = self.find(set) {
            return Spelling::Ref(number);
        }
        let mut form = Form::Bits;
        let mut bytes = self.count.div_ceil(8);
        let candidates =
            [(Form::Flip, set.xor(&self.previous)), (Form::List, *set), (Form::Colist, set.xor(&self.all))];
        for (candidate, listed) in candidates {
            // A list takes at least one byte per member and one for their number.
            if listed.count() + 1 < bytes {
                let listed_bytes = list_bytes(&listed);
                if listed_bytes < bytes {
                    (form, bytes) = (candidate, listed_bytes);
                }
            }
        }
        Spelling::Define(form, bytes)
    }

    /// Remembers what both ends know after this set.
    fn note(&mut self, set: &DestinationSet<W>, spelling: Spelling) {
        self.previous = *set;
        match spelling {
            Spelling::Next => self.next += 1,
            Spelling::One(index) => self.next = index + 1,
            Spelling::Define(..) => self.define(set),
            Spelling::Ref(_) | Spelling::But(_) => {}
        }
    }

    fn defined_count(&self) -> usize {
        self.defined.len() / self.words
    }

    fn define(&mut self, set: &DestinationSet<W>) {
        self.defined.extend_from_slice(&set.words()[..self.words]);
        let number = self.defined_count();
        if number <= SCAN_MAX {
            return;
        }
        if (number + 1) * 2 > self.slots.len() {
            let size = (number * 4).next_power_of_two();
            self.slots.clear();
            self.slots.resize(size, 0);
            for known in 1..=number {
                self.enter(known);
            }
        } else {
            self.enter(number);
        }
    }

    fn stored(&self, number: usize) -> &[u64] {
        &self.defined[(number - 1) * self.words..number * self.words]
    }

    fn slot_of(&self, words: &[u64]) -> usize {
        let hash = self.hasher.hash_one(words).to_le_bytes();
        let low = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize;
        low & (self.slots.len() - 1)
    }

    fn enter(&mut self, number: usize) {
        let mut slot = self.slot_of(self.stored(number));
        while self.slots[slot] != 0 {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] =
            u32::try_from(number).expect("a reader's definitions are limited, a writer's would be terabytes");
    }

    fn find(&self, set: &DestinationSet<W>) -> Option<usize> {
        let words = &set.words()[..self.words];
        if self.slots.is_empty() {
            let same = |known: &[u64]| known.iter().zip(words).all(|(word, with)| word == with);
            return self.defined.chunks_exact(self.words).position(same).map(|k| k + 1);
        }
        let mut slot = self.slot_of(words);
        loop {
            let number = self.slots[slot] as usize;
            if number == 0 {
                return None;
            }
            if self.stored(number) == words {
                return Some(number);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    fn get(&self, number: usize, offset: usize) -> Result<DestinationSet<W>, DecodeError> {
        if number == 0 {
            return Ok(self.all);
        }
        if number > self.defined_count() {
            return Err(DecodeError::Set { offset, rule: "a set is defined before it is referred to" });
        }
        Ok(DestinationSet::from_words(self.stored(number)))
    }

    fn single(&self, index: usize, offset: usize) -> Result<DestinationSet<W>, DecodeError> {
        if index >= self.count {
            return Err(DecodeError::Set { offset, rule: BEYOND });
        }
        Ok(DestinationSet::one(index))
    }

    fn long(&self, reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
        let offset = reader.at();
        let k = reader.varint()?;
        if k < wire::SHORT {
            return Err(DecodeError::NotCanonical { offset, rule: "numbers below 64 have a short code" });
        }
        Ok(k)
    }

    fn read_bits(&self, reader: &mut Reader<'_>) -> Result<DestinationSet<W>, DecodeError> {
        let offset = reader.at();
        let mut words = [0u64; W];
        for index in 0..self.count.div_ceil(8) {
            words[index / 8] |= u64::from(reader.byte()?) << (8 * (index % 8));
        }
        let set = DestinationSet::from_words(&words);
        let mut beyond = set;
        beyond.remove_all(&self.all);
        if beyond == DestinationSet::EMPTY { Ok(set) } else { Err(DecodeError::Set { offset, rule: BEYOND }) }
    }

    fn read_list(&self, reader: &mut Reader<'_>) -> Result<DestinationSet<W>, DecodeError> {
        let offset = reader.at();
        let members = reader.varint()?;
        if members == 0 {
            return Err(DecodeError::Set { offset, rule: EMPTY });
        }
        if members > self.count {
            return Err(DecodeError::Set { offset, rule: BEYOND });
        }
        let mut set = DestinationSet::EMPTY;
        let mut from = 0;
        for _ in 0..members {
            let offset = reader.at();
            let gap = reader.varint()?;
            if gap >= self.count - from {
                return Err(DecodeError::Set { offset, rule: BEYOND });
            }
            set.insert(from + gap);
            from += gap + 1;
        }
        Ok(set)
    }
}

fn put_list<const W: usize>(out: &mut Vec<u8>, set: &DestinationSet<W>) {
    varint::put(out, set.count());
    let mut from = 0;
    for index in set.iter() {
        varint::put(out, index - from);
        from = index + 1;
    }
}

fn list_bytes<const W: usize>(set: &DestinationSet<W>) -> usize {
    let mut bytes = varint::len(set.count());
    let mut from = 0;
    for index in set.iter() {
        bytes += varint::len(index - from);
        from = index + 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination_set::WORDS_MAX;

    type Table = SetTable<WORDS_MAX>;

    fn set(members: &[usize]) -> DestinationSet {
        let mut set = DestinationSet::EMPTY;
        for &index in members {
            set.insert(index);
        }
        set
    }

    fn round_trip(count: usize, sets: &[DestinationSet]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut table = Table::new(count);
        for one in sets {
            let (before, cost) = (out.len(), table.cost(one));
            table.put(&mut out, one);
            assert_eq!(out.len() - before, cost, "announced cost of {one:?}");
        }
        let mut reader = Reader::new(&out, 0, out.len());
        let mut table = Table::new(count);
        for one in sets {
            assert_eq!(table.read(&mut reader, usize::MAX).unwrap(), *one);
        }
        assert_eq!(reader.remaining(), 0);
        out
    }

    #[test]
    fn every_form_has_its_bytes() {
        let all = DestinationSet::all(100);
        assert_eq!(round_trip(100, &[all]), [0x00]);
        assert_eq!(
            round_trip(100, &[set(&[0]), set(&[1]), set(&[5]), set(&[70])]),
            [0xC0, 0xC0, 0x45, 0xC1, 70]
        );
        assert_eq!(round_trip(100, &[all.xor(&set(&[3])), all.xor(&set(&[99]))]), [0x83, 0xC2, 99]);
        assert_eq!(round_trip(100, &[set(&[3, 9]), all, set(&[3, 9])]), [0xC6, 2, 3, 5, 0x00, 0x01]);
        assert_eq!(round_trip(100, &[set(&[4]), all.xor(&set(&[3, 9]))]), [0x44, 0xC7, 2, 3, 5]);
        assert_eq!(round_trip(12, &[set(&[0, 2, 4, 6, 8, 10])]), [0xC4, 0x55, 0x05]);
        let wide = set(&[0, 7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77, 84, 91, 98]);
        let bytes = round_trip(100, &[wide, wide.xor(&set(&[1]))]);
        assert_eq!(bytes[14..], [0xC5, 1, 1]);
    }

    #[test]
    fn many_sets_are_found_again() {
        let sets: Vec<_> = (0..300).map(|k| set(&[k, k + 2, k + 5, k + 9])).collect();
        let twice: Vec<_> = sets.iter().chain(&sets).copied().collect();
        let bytes = round_trip(400, &twice);
        assert!(bytes.len() < 300 * 7 + 64 + 236 * 3 + 1);
    }

    #[test]
    fn other_spellings_are_refused() {
        let refused = |count: usize, bytes: &[u8]| {
            let mut table = Table::new(count);
            let mut reader = Reader::new(bytes, 0, bytes.len());
            while reader.remaining() > 0 {
                if let Err(error) = table.read(&mut reader, usize::MAX) {
                    return Some(error);
                }
            }
            None
        };
        let spelling = |error: Option<DecodeError>| {
            assert!(matches!(error, Some(DecodeError::NotCanonical { .. })), "{error:?}");
        };
        let meaning = |error: Option<DecodeError>| {
            assert!(matches!(error, Some(DecodeError::Set { .. })), "{error:?}");
        };
        spelling(refused(100, &[0x40])); // NEXT
        spelling(refused(100, &[0xC1, 5])); // short ONE
        spelling(refused(100, &[0xC3, 0])); // short REF
        spelling(refused(2, &[0x80])); // ONE 1
        spelling(refused(1, &[0xC0])); // all
        spelling(refused(12, &[0xC4, 0xFF, 0x0F])); // all
        spelling(refused(12, &[0xC4, 0x01, 0x00])); // NEXT
        spelling(refused(100, &[0xC6, 2, 3, 5, 0xC6, 2, 3, 5])); // REF 1
        spelling(refused(12, &[0xC6, 6, 0, 1, 1, 1, 1, 1])); // BITS
        meaning(refused(12, &[0xC4, 0x55, 0x15])); // bit 12
        meaning(refused(12, &[0xC4, 0x00, 0x00])); // empty
        meaning(refused(12, &[0xC6, 0])); // empty
        meaning(refused(12, &[0xC6, 2, 11, 0])); // beyond the last
        meaning(refused(12, &[0x05])); // not defined
        meaning(refused(12, &[0x4C])); // beyond the last
        meaning(refused(1, &[0x80])); // empty
        assert_eq!(refused(12, &[0xD7]), Some(DecodeError::Record { offset: 0, code: 0xD7 }));
    }

    #[test]
    fn definitions_are_charged() {
        let mut out = Vec::new();
        let mut table = Table::new(100);
        table.put(&mut out, &set(&[3, 9]));
        assert_eq!(table.charged_bytes(), 13);
        let mut reader = Reader::new(&out, 0, out.len());
        let error = Table::new(100).read(&mut reader, 12).unwrap_err();
        assert_eq!(
            error,
            DecodeError::Limit { offset: 0, limit: LimitName::SetBytes, maximum: 12, needed: 13 }
        );
    }
}
