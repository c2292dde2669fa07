//! Files that are not what was written: bits, sectors, ends, whole files, and payloads that pose as records.

use super::*;

/// A log of several segments, all of it durable, in some groups.
pub(super) fn sound() -> (FaultyDisk, Held) {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    for call in script().into_iter().take(9) {
        run.call(&call).unwrap();
        assert!(run.step());
    }
    (run.disk, run.held)
}

/// Opens a damaged log. What was acknowledged is there, or it is refused untouched, or the node is in doubt.
fn is_honest(disk: &FaultyDisk, held: &Held, what: &str) {
    let before = disk.calls();
    match open(disk, 3) {
        Err(StorageError::Corrupt { .. } | StorageError::Foreign { .. }) => {
            assert_eq!(disk.calls(), before, "{what}: refused, and changed");
        }
        Err(error) => panic!("{what}: {error}"),
        Ok((log, _, found)) => {
            let now = Held::of(&log, &found, &mut fastrand::Rng::with_seed(1));
            let same = now.entries.iter().zip(&held.entries).all(|(now, then)| now == then);
            assert!(
                same && now.vote == held.vote && now.purged == held.purged,
                "{what}: it holds something else"
            );
            if now.entries.len() < held.entries.len() {
                assert!(
                    found.in_doubt.is_some_and(|index| index <= held.last().unwrap().index),
                    "{what}: lost and not told"
                );
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_seen_or_harmless() {
    let (disk, held) = sound();
    let mut names = disk.list().unwrap();
    names.sort_unstable();
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        for at in 0..disk.content(name).len() {
            let copy = disk.copy();
            copy.damage(name, |bytes| bytes[at] ^= 1 << (at % 8));
            is_honest(&copy, &held, &format!("byte {at} of {name}"));
        }
    }
}

#[test]
fn zeroed_sectors_and_missing_ends_are_seen() {
    let (disk, held) = sound();
    for name in disk.list().unwrap() {
        let length = disk.content(&name).len();
        for at in (0..length).step_by(64) {
            let zeroed = disk.copy();
            zeroed.damage(&name, |bytes| {
                let until = bytes.len().min(at + 512);
                bytes[at..until].fill(0);
            });
            is_honest(&zeroed, &held, &format!("zeros at {at} of {name}"));
        }
        for kept in 0..length {
            let short = disk.copy();
            short.damage(&name, |bytes| bytes.truncate(kept));
            // A file that ends with a whole record cannot be told from one that never had more, except by what follows.
            let (log, _, found) = match open(&short, 3) {
                Ok(opened) => opened,
                Err(StorageError::Corrupt { .. }) => continue,
                Err(error) => panic!("{kept} B of {name}: {error}"),
            };
            let now = Held::of(&log, &found, &mut fastrand::Rng::with_seed(1));
            assert!(
                now.entries.iter().zip(&held.entries).all(|(now, then)| now == then),
                "{kept} B of {name}"
            );
            assert!(
                now.entries.len() == held.entries.len()
                    || found.in_doubt.is_some()
                    || found.tail == Tail::Clean
            );
        }
    }
}

#[test]
fn a_missing_file_is_seen() {
    let (disk, held) = sound();
    for name in disk.list().unwrap() {
        let copy = disk.copy();
        copy.remove(&name).unwrap();
        match open(&copy, 3) {
            Err(StorageError::Corrupt { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
            // Without the note of what was purged, or of the vote, or the newest segment, there is nothing to tell by.
            Ok((log, _, found)) => {
                let now = Held::of(&log, &found, &mut fastrand::Rng::with_seed(1));
                assert!(name == "vote" || now.entries.len() < held.entries.len(), "{name}");
            }
        }
    }
}

#[test]
fn damage_below_what_was_durable_is_no_torn_tail() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let entry = |index| Entry { id: EntryId { term: 1, index }, payload: vec![7; 100].into() };
    for index in 0..3 {
        run.call(&Call::Append(vec![entry(index)])).unwrap();
        assert!(run.step());
    }
    let name = "segment-00000000000000000000.log";
    let second = run.disk.content(name).len() - 2 * record::record_bytes(100);
    let copy = run.disk.copy();
    copy.damage(name, |bytes| bytes[second + 50] ^= 1);
    let error = open(&copy, 3).err().unwrap();
    assert_eq!(error.to_string(), format!("{name} is damaged at byte {second}: it is no whole record"));

    // Of the last group nobody knows: cut, in doubt, and so again after the next start, until somebody vouches.
    let copy = run.disk.copy();
    copy.damage(name, |bytes| bytes[second + 200] ^= 1);
    let (_, _, found) = open(&copy, 3).unwrap();
    assert_eq!((found.in_doubt, found.last.map(|id| id.index)), (Some(2), Some(1)));
    assert!(matches!(found.tail, Tail::Cut { index: 2, .. }));
    let (mut run, found) = Run::begin(copy, 3).unwrap();
    assert_eq!((found.in_doubt, found.tail), (Some(2), Tail::Clean));
    run.call(&Call::Trust).unwrap();
    assert!(run.step());
    assert_eq!(open(&run.disk, 3).unwrap().2.in_doubt, None);
}

#[test]
fn a_crash_between_the_cut_and_the_doubt_leaves_the_doubt() {
    let (run, _) = {
        let (mut run, found) = Run::begin(FaultyDisk::default(), 7).unwrap();
        let entry = Entry { id: EntryId { term: 1, index: 0 }, payload: vec![7; 2_000].into() };
        run.call(&Call::Append(vec![entry])).unwrap();
        assert!(run.step());
        (run, found)
    };
    for call_number in 0..8 {
        for seed in 0..40 {
            let disk = run.disk.copy();
            disk.damage("segment-00000000000000000000.log", |bytes| bytes[900] ^= 1);
            disk.fail_at(call_number, Fault::PowerLoss);
            let _ = open(&disk, 3);
            let disk = disk.after_power_loss(&mut fastrand::Rng::with_seed(seed));
            assert_eq!(open(&disk, 3).unwrap().2.in_doubt, Some(0), "call {call_number}, seed {seed}");
        }
    }
}

#[test]
fn no_payload_passes_for_a_record() {
    // A payload that holds what would be a record of another segment, and says that everything is durable.
    let mut forged = vec![0; 24];
    for salt in 0..3 {
        let entry = Entry { id: EntryId { term: 9, index: 1 }, payload: Bytes::from_static(b"forged") };
        record::write(&entry, salt, 1 << 40, 0, &mut forged);
    }
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    run.call(&Call::Append(vec![Entry { id: EntryId { term: 1, index: 0 }, payload: forged.into() }]))
        .unwrap();
    assert!(run.step());
    let name = "segment-00000000000000000000.log";
    let copy = run.disk.copy();
    copy.damage(name, |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_eq!(open(&copy, 3).unwrap().2.in_doubt, Some(0));
}
