//! A second reader of FORMAT.md, written for shortness: no limits, no canonical rules, valid frames only.
//! It shares nothing with the crate, so that encoder and decoder cannot agree on the same mistake.

use std::collections::BTreeSet;

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn varint(&mut self) -> usize {
        let byte = self.byte();
        let low = usize::from(byte & 0x7F);
        if byte & 0x80 == 0 { low } else { low | self.varint() << 7 }
    }

    fn list(&mut self) -> BTreeSet<usize> {
        let count = self.varint();
        let mut from = 0;
        (0..count)
            .map(|_| {
                let member = from + self.varint();
                from = member + 1;
                member
            })
            .collect()
    }
}

/// The messages of a valid frame.
pub(crate) fn decode(frame: &[u8]) -> Vec<Vec<u8>> {
    let body = frame.len() - 4;
    assert_eq!(crc32c::crc32c(&frame[..body]).to_le_bytes(), frame[body..]);
    let mut frame = Cursor(&frame[..body]);
    assert_eq!(frame.take(2), [0xF5, 1]);
    let flags = frame.byte();
    let m = frame.varint();
    let all: BTreeSet<usize> = (0..m).collect();
    let mut records: Vec<(BTreeSet<usize>, usize, bool)> = Vec::new();
    if flags & 1 != 0 {
        records = (0..m).map(|index| (BTreeSet::from([index]), frame.varint(), false)).collect();
    } else {
        let head = frame.varint();
        let mut head = Cursor(frame.take(head));
        let (mut defined, mut next) = (vec![all.clone()], 0);
        while !head.0.is_empty() {
            let mut code = head.byte();
            let each = code == 0xD0;
            if each {
                code = head.byte();
            }
            let low = usize::from(code & 0x3F);
            let previous = records.last().map_or(&all, |record| &record.0);
            let one = |index: usize, next: &mut usize| {
                *next = index + 1;
                BTreeSet::from([index])
            };
            let but = |index: usize| &all - &BTreeSet::from([index]);
            let set = match code {
                0x00..=0x3F => defined[low].clone(),
                0x40..=0x7F => one(low, &mut next),
                0x80..=0xBF => but(low),
                0xC0 => one(next, &mut next),
                0xC1 => one(head.varint(), &mut next),
                0xC2 => but(head.varint()),
                0xC3 => defined[head.varint()].clone(),
                0xC4 => {
                    let bits = head.take(m.div_ceil(8));
                    (0..m).filter(|index| bits[index / 8] >> (index % 8) & 1 != 0).collect()
                }
                0xC5 => &head.list() ^ previous,
                0xC6 => head.list(),
                _ => &all - &head.list(),
            };
            if (0xC4..=0xC7).contains(&code) {
                defined.push(set.clone());
            }
            records.push((set, head.varint(), each));
        }
    }
    let bytes: usize =
        records.iter().map(|(set, len, each)| if *each { set.len() * len } else { *len }).sum();
    let data = match flags & 6 {
        0 => frame.0.to_vec(),
        2 => lz4_flex::block::decompress(frame.0, bytes).unwrap(),
        _ => {
            let mut data = Vec::with_capacity(bytes);
            zstd_safe::decompress(&mut data, frame.0).unwrap();
            data
        }
    };
    let mut data = Cursor(&data);
    let mut messages = vec![Vec::new(); m];
    for (set, len, each) in records {
        let shared = if each { &[] } else { data.take(len) };
        for index in set {
            messages[index].extend_from_slice(if each { data.take(len) } else { shared });
        }
    }
    assert!(data.0.is_empty());
    messages
}
