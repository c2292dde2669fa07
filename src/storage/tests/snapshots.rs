//! Snapshots on the same disk.

use std::io::{Read, Write};

use super::*;

const CLUSTER: &str = "example";

fn id(index: u64) -> EntryId {
    EntryId { term: 1, index }
}

/// Longer than what is written at once.
fn content(index: u64) -> Vec<u8> {
    let byte = u8::try_from(index).unwrap();
    vec![byte; 300_000 + usize::from(byte)]
}

fn open_snapshots(disk: &FaultyDisk) -> Result<Arc<Snapshots<FaultyDisk>>, StorageError> {
    Snapshots::open(disk.clone(), CLUSTER).map(Arc::new)
}

fn write(snapshots: &Arc<Snapshots<FaultyDisk>>, index: u64) -> Result<(), StorageError> {
    let mut unfinished = snapshots.begin()?;
    unfinished.write_all(&content(index)).map_err(StorageError::io("write to", "a snapshot"))?;
    unfinished.finish(id(index)).map(drop)
}

fn newest(snapshots: &Snapshots<FaultyDisk>) -> Option<u64> {
    let newest = snapshots.newest()?;
    let mut bytes = Vec::new();
    newest.reader().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content(newest.last().index), "it is whole");
    Some(newest.last().index)
}

/// As another node sends it.
fn transfer(from: &Snapshots<FaultyDisk>, to: &Snapshots<FaultyDisk>) -> Result<(), StorageError> {
    let snapshot = from.newest().unwrap();
    let mut received = to.begin_received()?;
    while received.bytes() < snapshot.bytes() {
        received.write(&snapshot.read_at(received.bytes(), 1_000)?)?;
    }
    to.finish_received(received).map(drop)
}

#[test]
fn a_snapshot_is_whole_or_not_there_whenever_the_power_goes() {
    let other = open_snapshots(&FaultyDisk::default()).unwrap();
    write(&other, 9).unwrap();
    for fault in [Fault::PowerLoss, Fault::Error, Fault::Full] {
        for call in 1.. {
            let disk = FaultyDisk::default();
            let snapshots = open_snapshots(&disk).unwrap();
            let before = disk.calls();
            disk.fail_at(call, fault);
            let mut acknowledged = None;
            for index in [3, 5] {
                if write(&snapshots, index).is_ok() {
                    acknowledged = Some(index);
                }
            }
            if transfer(&other, &snapshots).is_ok() {
                acknowledged = Some(9);
            }
            let reached = disk.calls() - before >= call;
            for seed in 0..4 {
                let disk = disk.after_power_loss(&mut fastrand::Rng::with_seed(seed));
                let found = newest(&open_snapshots(&disk).unwrap());
                assert!(found >= acknowledged, "{fault:?} at call {call}: {found:?} after {acknowledged:?}");
                let left = disk.list().unwrap();
                assert!(left.len() <= 1, "{left:?}");
            }
            if !reached {
                break;
            }
        }
    }
}

/// Whoever finds one lets go of the log before it.
#[test]
fn a_snapshot_that_a_killed_process_had_named_is_durable_when_it_is_found() {
    for call in 0..20 {
        let disk = FaultyDisk::default();
        let snapshots = open_snapshots(&disk).unwrap();
        write(&snapshots, 3).unwrap();
        disk.fail_at(call, Fault::PowerLoss);
        let _ = write(&snapshots, 5);
        let killed = disk.after_kill();
        let found = newest(&open_snapshots(&killed).unwrap());
        assert!(found >= Some(3), "killed at call {call}");
        for seed in 0..8 {
            let disk = killed.after_power_loss(&mut fastrand::Rng::with_seed(seed));
            assert_eq!(newest(&open_snapshots(&disk).unwrap()), found, "killed at call {call}, seed {seed}");
        }
    }
}

#[test]
fn a_damaged_snapshot_is_never_taken_for_a_whole_one() {
    let disk = FaultyDisk::default();
    write(&open_snapshots(&disk).unwrap(), 5).unwrap();
    let name = disk.list().unwrap().remove(0);
    assert_eq!(name, "snapshot-00000000000000000005");
    let length = disk.content(&name).len();
    for at in [0, 8, 9, 12, 16, 24, 32, 40, 63, 64, 70_000, length - 1] {
        let damaged = disk.copy();
        damaged.damage(&name, |bytes| bytes[at] ^= 1);
        let read = open_snapshots(&damaged).map_err(drop).and_then(|snapshots| {
            snapshots.newest().unwrap().reader().read_to_end(&mut Vec::new()).map_err(drop)
        });
        assert!(read.is_err(), "byte {at}");
    }
    let short = disk.copy();
    short.damage(&name, |bytes| bytes.truncate(length - 1));
    assert!(matches!(open_snapshots(&short), Err(StorageError::Corrupt { .. })));
    assert!(Snapshots::open(disk.clone(), "another").is_err(), "of another cluster");

    // One that comes from another node is looked at before it takes the place of the one that is there.
    let from = disk.copy();
    from.damage(&name, |bytes| bytes[100_000] ^= 1);
    let target = open_snapshots(&FaultyDisk::default()).unwrap();
    write(&target, 4).unwrap();
    assert!(transfer(&open_snapshots(&from).unwrap(), &target).is_err());
    assert_eq!(newest(&target), Some(4));
}

#[test]
fn a_snapshot_can_be_read_after_a_newer_one_took_its_place() {
    let snapshots = open_snapshots(&FaultyDisk::default()).unwrap();
    write(&snapshots, 3).unwrap();
    let older = snapshots.newest().unwrap();
    write(&snapshots, 4).unwrap();
    let mut bytes = Vec::new();
    older.reader().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content(3));
    // One that comes late does not take a newer one's place.
    write(&snapshots, 2).unwrap();
    assert_eq!(newest(&snapshots), Some(4));
}

#[test]
fn nothing_is_left_of_a_snapshot_that_was_not_finished() {
    let unfinished = |disk: &FaultyDisk| {
        disk.list().unwrap().iter().any(|name| !name.ends_with(|c: char| c.is_ascii_digit()))
    };
    // From the call on that follows its creation.
    for call in 2.. {
        let disk = FaultyDisk::default();
        let snapshots = open_snapshots(&disk).unwrap();
        let before = disk.calls();
        disk.fail_at(call, Fault::Full);
        let mut begun = snapshots.begin().unwrap();
        let written = match begun.write_all(&content(3)) {
            Ok(()) => begun.finish(id(3)).map(drop),
            Err(error) => {
                begun.discard();
                Err(StorageError::io("write to", "a snapshot")(error))
            }
        };
        assert!(!unfinished(&disk), "at call {call}: {:?}", disk.list());
        if disk.calls() - before < call {
            written.unwrap();
            break;
        }
    }
    // Of another node, and it broke off, or is not wanted.
    let disk = FaultyDisk::default();
    let snapshots = open_snapshots(&disk).unwrap();
    let mut received = snapshots.begin_received().unwrap();
    received.write(&[1; 100]).unwrap();
    assert!(unfinished(&disk));
    drop(received);
    assert!(!unfinished(&disk));
}
