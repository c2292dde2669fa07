//! A disk that said no, once: what was to be synced is in memory, is read from there by the next process, and no sync writes it.

use super::*;

/// Everything that a process finds after one whose disk refused, it relies on: votes, entries, snapshots. So a loss of power must not
/// take it away, whether it wrote more meanwhile or not.
#[test]
fn what_is_found_after_a_disk_refused_is_durable_before_anybody_counts_on_it() {
    let entry = |term, index| Entry { id: EntryId { term, index }, payload: vec![9; 300].into() };
    for fault in [Fault::Error, Fault::Full] {
        let (mut struck, mut refused) = (0, 0);
        for call_number in 0..70 {
            for seed in 0..8 {
                let mut luck = fastrand::Rng::with_seed(seed);
                let (mut run, _) = Run::begin(FaultyDisk::default(), 1).unwrap();
                run.disk.fail_at(call_number, fault);
                let failed = script().iter().any(|call| run.call(call).is_err() || !run.step());
                struck += u32::from(failed);
                if let Err(error) = open(&run.disk.after_kill(), 1) {
                    // Names that could not be made durable: nobody counts on any of them.
                    assert!(matches!(error, StorageError::Io { .. }), "{error}");
                    refused += 1;
                    run.after_power_loss(&mut luck);
                    continue;
                }
                let mut next = run.after_kill(&mut luck);
                if seed % 2 == 1 {
                    let (term, index) = (next.term + 1, next.held.last().map_or(0, |last| last.index + 1));
                    next.call(&Call::Append(vec![entry(term, index)])).unwrap();
                    assert!(next.step());
                }
                // Killed again in between: what it wrote anew counts, and what it said to be durable.
                let next = if seed % 4 < 2 { next } else { next.after_kill(&mut luck) };
                next.after_power_loss(&mut luck);
            }
        }
        assert!(struck > 300 && refused > 30 && refused < struck / 2, "{struck}, {refused}");
    }
}

/// The least of all cases, as it is seen from outside.
#[test]
fn an_entry_whose_sync_failed_is_written_anew_at_the_next_start() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let entry = |index| Entry { id: EntryId { term: 1, index }, payload: vec![7; 300].into() };
    run.call(&Call::Append(vec![entry(0)])).unwrap();
    assert!(run.step());
    // The write is done, and its sync fails.
    run.disk.fail_at(1, Fault::Error);
    run.call(&Call::Append(vec![entry(1)])).unwrap();
    assert!(!run.step());
    let killed = run.disk.after_kill();
    let (log, _, found) = open(&killed, 8).unwrap();
    assert_eq!((found.last.map(|last| last.index), found.in_doubt), (Some(1), None), "it can be read");
    drop(log);
    assert_eq!(open(&killed.durable(), 9).unwrap().2.last.map(|last| last.index), Some(1), "and is durable");
}
