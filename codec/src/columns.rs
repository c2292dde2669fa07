//! Short texts of equal length, one below the other: what changes is sent for each, what does not is sent once.

use std::ops::Range;

use crate::changes::{add_all_changes, zero_runs};
use crate::destination_set::DestinationSet;
use crate::records::Records;
use crate::texts::Item;
use crate::varint;
use crate::words::word;

/// Longer texts are not laid out in columns: whether a column changes is noted on the stack. 128 to 1,024 make no difference
/// for sessions.
pub(crate) const COLUMN_BYTES_MAX: usize = 512;
/// What ending one record and beginning another costs, about: a set and a length each. 2 or 3 save up to 2 % of heartbeats in
/// which fields lie close together, and make more pieces of them.
const COLUMN_SPLIT_BYTES: usize = 4;
/// Bytes that a key has room for: those of a word.
const KEY_BYTES: usize = 8;

/// The beginning of a text in columns, such that keys of equally long texts sort as those do, and the number of its item.
pub(crate) type Keyed = (u64, usize);

/// Puts out the same `columns` of all `items`, whose messages are `set`. Unless it `must`, it declines when more than half of
/// the columns change. `order` is room to sort in.
pub(crate) fn try_put<const W: usize>(
    items: &[Item<'_>],
    set: &DestinationSet<W>,
    columns: Range<usize>,
    must: bool,
    out: &mut Records<'_, W>,
    order: &mut Vec<Keyed>,
) -> bool {
    let [first, others @ ..] = items else { return true };
    let Range { start, end } = columns;
    let len = end - start;
    let mut changes = [0u8; COLUMN_BYTES_MAX];
    let changes = &mut changes[..len];
    let first_bytes = &first.bytes[start..end];
    add_all_changes(changes, others.iter().map(|item| (first_bytes, &item.bytes[start..end])));
    out.work.compared_bytes += items.len() * len;
    let half = u16::try_from(len / 2).expect("columns are short");
    if !must && changes.iter().map(|change| u16::from(*change != 0)).sum::<u16>() > half {
        return false;
    }
    let mut varying = start;
    let least = shared_least(items.len());
    zero_runs(changes, least.min(len), |from, to| {
        put_varying(items, set, varying..start + from, out, order);
        out.shared_item(set, &first.part(start + from..start + to));
        varying = start + to;
    });
    put_varying(items, set, varying..end, out, order);
    true
}

/// Puts all of equally long `items` out in columns, unless it declines as [`try_put`] does.
pub(crate) fn try_put_whole<const W: usize>(
    items: &[Item<'_>],
    must: bool,
    out: &mut Records<'_, W>,
    order: &mut Vec<Keyed>,
) -> bool {
    let len = items.first().map_or(0, |first| first.bytes.len());
    try_put(items, &set_of(items.iter()), 0..len, must, out, order)
}

/// Puts out items of various short lengths, in columns per length. They are in the order of their messages.
pub(crate) fn put_by_length<const W: usize>(
    items: &mut [Item<'_>],
    out: &mut Records<'_, W>,
    order: &mut Vec<Keyed>,
) {
    items.sort_unstable_by_key(|item| (item.bytes.len(), item.span.message));
    for class in items.chunk_by(|a, b| a.bytes.len() == b.bytes.len()) {
        match class {
            [one] => out.private(one.span),
            _ => {
                try_put_whole(class, true, out, order);
            }
        }
    }
}

/// Puts out the `columns` in which items differ: one piece for each, or one record per distinct content.
pub(crate) fn put_varying<const W: usize>(
    items: &[Item<'_>],
    set: &DestinationSet<W>,
    columns: Range<usize>,
    out: &mut Records<'_, W>,
    order: &mut Vec<Keyed>,
) {
    let len = columns.len();
    if len == 0 {
        return;
    }
    let bytes = |index: usize| &items[index].bytes[columns.clone()];
    let set_bytes = out.table().cost(set);
    if one_for_each((0..items.len()).map(bytes), len, set_bytes) {
        return out.each_item(set, items, columns);
    }
    let len_bytes = varint::len(len);
    let each_bytes = each_bytes(items.len(), len, set_bytes);
    order.clear();
    order.extend((0..items.len()).map(|index| (key(bytes(index)), index)));
    if len <= KEY_BYTES {
        order.sort_unstable();
    } else {
        order.sort_unstable_by(|&(_, a), &(_, b)| bytes(a).cmp(bytes(b)).then(a.cmp(&b)));
    }
    let alike = |a: &Keyed, b: &Keyed| a.0 == b.0 && (len <= KEY_BYTES || bytes(a.1) == bytes(b.1));
    // Sorting compares every item with about log2(count) others.
    out.work.compared_bytes += items.len() * len * (items.len().ilog2() as usize + 2);
    let table = out.table();
    let members = |group: &[Keyed]| set_of(group.iter().map(|&(_, index)| &items[index]));
    let mut alike_bytes = 0;
    for group in order.chunk_by(alike) {
        alike_bytes += len + len_bytes + if group.len() == 1 { 1 } else { table.cost(&members(group)) };
        if alike_bytes >= each_bytes {
            break;
        }
    }
    if alike_bytes < each_bytes {
        for group in order.chunk_by(alike) {
            out.shared_item(&members(group), &items[group[0].1].part(columns.clone()));
        }
    } else {
        out.each_item(set, items, columns);
    }
}

/// Whether the equal ones of some texts of `len` bytes are certainly not worth a record each beside one that has a piece for
/// every member of a set, which takes `set_bytes`: every distinct content takes a record, and where there are too many there
/// is nothing to sort.
pub(crate) fn one_for_each<'b>(
    texts: impl ExactSizeIterator<Item = &'b [u8]>,
    len: usize,
    set_bytes: usize,
) -> bool {
    let each_bytes = each_bytes(texts.len(), len, set_bytes);
    distinct_min(texts.map(key)) * (1 + varint::len(len) + len) >= each_bytes
}

/// What a record takes that has a piece of `len` bytes for every one of `count` members.
fn each_bytes(count: usize, len: usize, set_bytes: usize) -> usize {
    1 + set_bytes + varint::len(len) + len * count
}

/// Fewer neighbouring columns of `count` texts are not worth a record of their own, if they are the same in all of them.
pub(crate) fn shared_least(count: usize) -> usize {
    COLUMN_SPLIT_BYTES / (count - 1).max(1) + 1
}

/// The first bytes of a text, such that keys of equally long texts sort as those do.
fn key(text: &[u8]) -> u64 {
    let key_bytes = text.len().min(KEY_BYTES);
    word(&text[..key_bytes]).swap_bytes() >> (8 * (KEY_BYTES - key_bytes))
}

/// How many different keys there are at least: as many as different bits that they stand for.
fn distinct_min(keys: impl Iterator<Item = u64>) -> usize {
    let bit = |key: u64| key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58;
    keys.fold(0u64, |bits, key| bits | 1 << bit(key)).count_ones() as usize
}

fn set_of<'a, const W: usize>(items: impl Iterator<Item = &'a Item<'a>>) -> DestinationSet<W> {
    let mut set = DestinationSet::EMPTY;
    for item in items {
        set.insert(item.span.message);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataColumn;
    use crate::head::HeadWriter;
    use crate::payload::Payload;
    use crate::texts::{Borders, Span, Texts};
    use crate::work::Work;

    /// Head and data of `messages` in columns, and whether they were accepted.
    fn columns(messages: &[&[u8]], must: bool) -> (Vec<u8>, Vec<u8>, bool) {
        let payloads: Vec<Payload> = messages.iter().map(|message| Payload::from(message.to_vec())).collect();
        let mut borders = Borders::default();
        borders.reset(&payloads);
        let texts = Texts::new(&payloads, &borders);
        let (mut head, mut data) = (HeadWriter::<1>::new(), DataColumn::default());
        head.reset(messages.len());
        let span = |message: usize| Span { message, start: 0, end: messages[message].len() };
        let items: Vec<Item<'_>> =
            messages.iter().enumerate().map(|(k, bytes)| Item { span: span(k), bytes }).collect();
        let mut waiting = Vec::new();
        let mut out = Records::new(texts, &mut head, &mut data, &mut waiting, Work::default());
        let accepted = try_put_whole(&items, must, &mut out, &mut Vec::new());
        head.flush();
        (head.bytes().to_vec(), data.iter(texts).flatten().copied().collect(), accepted)
    }

    #[test]
    fn what_changes_is_sent_for_each_and_the_rest_once() {
        let messages: [&[u8]; 4] = [b"head1tail!", b"head2tail!", b"head3tail!", b"head4tail!"];
        let (head, data, accepted) = columns(&messages, false);
        assert!(accepted);
        assert_eq!(head, [0x00, 4, 0xD0, 0x00, 1, 0x00, 5]);
        assert_eq!(data, b"head1234tail!");
    }

    #[test]
    fn few_values_are_sent_once_per_value() {
        let long = |last: &[u8; 8]| [&b"head"[..], last].concat();
        let (same, other) = (long(b"abcdefgh"), long(b"ijklmnop"));
        let (head, data, _) = columns(&[&same, &same, &other, &same], true);
        assert_eq!(head, [0x00, 4, 0x82, 8, 0x42, 8]);
        assert_eq!(data, b"headabcdefghijklmnop");
    }

    #[test]
    fn unlike_texts_are_declined_unless_they_must() {
        let messages: [&[u8]; 2] = [b"abcdefgh", b"ijklmnop"];
        assert_eq!(columns(&messages, false), (Vec::new(), Vec::new(), false));
        assert_eq!(columns(&messages, true).0, [0xD0, 0x00, 8]);
    }
}
