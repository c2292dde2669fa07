//! The log on a disk that loses, tears, refuses and lies.
//!
//! A model goes along: what was answered must be there after any crash, what was not may be there as far as the order of
//! the calls allows, and nothing else may.

mod damage;
mod refused;
mod snapshots;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::faulty::{Fault, FaultyDisk};
use super::writer::Writer;
use super::*;

fn identity() -> Identity {
    Identity { cluster: "example".to_owned(), node: "fra-1".to_owned() }
}

/// Segments of a few entries, so that there are many borders.
fn options(seed: u64) -> Options {
    Options { segment_bytes_max: 4 << 10, recent_bytes_max: 1 << 10, ..Options::new(seed) }
}

fn open(
    disk: &FaultyDisk,
    seed: u64,
) -> Result<(Log<FaultyDisk>, Writer<FaultyDisk>, Recovered), StorageError> {
    Log::open_idle(disk.clone(), identity(), options(seed))
}

/// What a log holds, or should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    purged: Option<EntryId>,
    entries: VecDeque<Entry>,
    vote: Option<Bytes>,
}

#[derive(Clone, Debug)]
enum Call {
    Append(Vec<Entry>),
    TruncateAfter(Option<EntryId>),
    Purge(EntryId),
    Rotate,
    Vote(Bytes),
    Trust,
}

impl Held {
    fn last(&self) -> Option<EntryId> {
        self.entries.back().map(|entry| entry.id).or(self.purged)
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Call::TruncateAfter(last) => {
                self.entries.retain(|entry| last.is_some_and(|last| entry.id.index <= last.index))
            }
            Call::Purge(id) => {
                self.purged = self.purged.max(Some(*id));
                self.entries.retain(|entry| entry.id.index > id.index);
            }
            Call::Vote(vote) => self.vote = Some(vote.clone()),
            Call::Rotate | Call::Trust => {}
        }
    }

    /// Can a crash in the middle of `call` leave `found` of this?
    fn may_become(&self, call: &Call, found: &Self) -> bool {
        let mut after = self.clone();
        after.apply(call);
        let is_prefix = |short: &Self, long: &Self| {
            short.entries.len() <= long.entries.len()
                && short.entries.iter().zip(&long.entries).all(|(a, b)| a == b)
        };
        match call {
            Call::Append(_) | Call::TruncateAfter(_) => {
                let (short, long) =
                    if after.entries.len() > self.entries.len() { (self, &after) } else { (&after, self) };
                found.purged == self.purged
                    && found.vote == self.vote
                    && is_prefix(short, found)
                    && is_prefix(found, long)
            }
            _ => found == self || *found == after,
        }
    }

    /// What an open log holds, read from the disk and from memory, in pieces of any size.
    fn of<D: Disk>(log: &Log<D>, found: &Recovered, luck: &mut fastrand::Rng) -> Self {
        let bounds = log.bounds();
        let mut held = Self { purged: bounds.purged, entries: VecDeque::new(), vote: found.vote.clone() };
        let indexes = bounds.indexes();
        while indexes.start + (held.entries.len() as u64) < indexes.end {
            let next = indexes.start + held.entries.len() as u64;
            let some = log.read(next..indexes.end, luck.usize(..3_000)).unwrap();
            assert!(!some.is_empty(), "{next} of {indexes:?} is not there");
            held.entries.extend(some);
        }
        assert_eq!(held.last(), bounds.last);
        held
    }
}

/// A log, what it was told, and what it answered.
struct Run {
    disk: FaultyDisk,
    log: Log<FaultyDisk>,
    writer: Writer<FaultyDisk>,
    held: Held,
    unanswered: Vec<Call>,
    answers: Arc<Mutex<VecDeque<Result<(), StorageError>>>>,
    term: u64,
}

impl Run {
    fn begin(disk: FaultyDisk, seed: u64) -> Result<(Self, Recovered), StorageError> {
        let (log, writer, found) = open(&disk, seed)?;
        let held = Held::of(&log, &found, &mut fastrand::Rng::with_seed(seed));
        let term = held.last().map_or(0, |id| id.term);
        let run = Self { disk, log, writer, held, unanswered: Vec::new(), answers: Arc::default(), term };
        Ok((run, found))
    }

    /// What it holds when all that was called is done.
    fn expected(&self) -> Held {
        let mut held = self.held.clone();
        self.unanswered.iter().for_each(|call| held.apply(call));
        held
    }

    fn draw(&mut self, luck: &mut fastrand::Rng) -> Call {
        let held = self.expected();
        let next = held.last().map_or(0, |id| id.index + 1);
        let any = |luck: &mut fastrand::Rng| {
            let at = luck.usize(..=held.entries.len());
            at.checked_sub(1).map(|at| held.entries[at].id).or(held.purged)
        };
        self.term += u64::from(luck.u8(..4) == 0);
        match luck.u8(..16) {
            0 => Call::TruncateAfter(any(luck)),
            1 => any(luck).map_or(Call::Rotate, Call::Purge),
            // A snapshot from elsewhere.
            2 if luck.u8(..4) == 0 => Call::Purge(EntryId { term: self.term, index: next + luck.u64(..5) }),
            3 => Call::Rotate,
            4 => Call::Vote(Bytes::from(self.term.to_le_bytes().to_vec())),
            5 => Call::Trust,
            _ => Call::Append(
                (0..luck.u64(1..5))
                    .map(|more| Entry {
                        id: EntryId { term: self.term, index: next + more },
                        payload: (0..luck.usize(..1_500)).map(|_| luck.u8(..)).collect(),
                    })
                    .collect(),
            ),
        }
    }

    fn call(&mut self, call: &Call) -> Result<(), StorageError> {
        let answers = Arc::clone(&self.answers);
        let done: Done = Box::new(move |result| answers.lock().unwrap().push_back(result));
        match call.clone() {
            Call::Append(entries) => self.log.append(entries, done)?,
            Call::TruncateAfter(last) => self.log.truncate_after(last, done)?,
            Call::Purge(id) => self.log.purge(id, done)?,
            Call::Rotate => self.log.rotate(done)?,
            Call::Vote(vote) => self.log.save_vote(vote, done)?,
            Call::Trust => self.log.trust(done)?,
        }
        self.unanswered.push(call.clone());
        Ok(())
    }

    /// Has the writer do its work, and takes note of what it answered. False when it failed.
    fn step(&mut self) -> bool {
        self.writer.step();
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        assert_eq!(answers.len(), self.unanswered.len(), "each call is answered once");
        let mut failed = false;
        for answer in answers {
            assert!(!failed || answer.is_err(), "nothing succeeds after something failed");
            failed |= answer.is_err();
            if !failed {
                let call = self.unanswered.remove(0);
                self.held.apply(&call);
            }
        }
        !failed
    }

    /// The log as it is found after the power went.
    fn after_power_loss(&self, luck: &mut fastrand::Rng) -> Self {
        self.found_on(self.disk.after_power_loss(luck), luck)
    }

    /// The log as it is found when its process was killed: what was written is there, and not durable.
    fn after_kill(&self, luck: &mut fastrand::Rng) -> Self {
        self.found_on(self.disk.after_kill(), luck)
    }

    fn found_on(&self, disk: FaultyDisk, luck: &mut fastrand::Rng) -> Self {
        let (run, found) =
            Self::begin(disk, luck.u64(..)).unwrap_or_else(|error| panic!("a crash alone: {error}"));
        if found.tail != Tail::Clean {
            assert!(found.in_doubt.is_some(), "{found:?}");
        }
        let mut held = self.held.clone();
        let possible = held == run.held
            || self.unanswered.iter().any(|call| {
                let possible = held.may_become(call, &run.held);
                held.apply(call);
                possible
            });
        assert!(
            possible,
            "answered: {:?} {:?}\nnot answered: {:?}\nfound: {:?} {:?}",
            self.held.purged,
            self.held.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(),
            self.unanswered,
            run.held.purged,
            run.held.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        );
        run
    }
}

#[test]
fn whatever_a_crash_leaves_what_was_answered_is_there_and_nothing_else() {
    for seed in 0..400 {
        let mut luck = fastrand::Rng::with_seed(seed);
        let (mut run, _) = Run::begin(FaultyDisk::default(), seed).unwrap();
        for _ in 0..6 {
            run.disk.fail_at(luck.u64(..60), Fault::PowerLoss);
            loop {
                let call = run.draw(&mut luck);
                run.call(&call).unwrap();
                if luck.bool() {
                    assert_eq!(
                        Held::of(
                            &run.log,
                            &Recovered { vote: run.expected().vote, ..Recovered::default() },
                            &mut luck
                        ),
                        run.expected(),
                        "seed {seed}"
                    );
                }
                if luck.u8(..3) == 0 && !run.step() {
                    break;
                }
            }
            if luck.bool() {
                // What the next process found counts, whatever happens to it.
                run = run.after_kill(&mut luck);
            }
            run = run.after_power_loss(&mut luck);
        }
    }
}

/// One call of each kind, across borders of segments.
fn script() -> Vec<Call> {
    let entry = |term, index, length| Entry {
        id: EntryId { term, index },
        payload: vec![index.to_le_bytes()[0]; length].into(),
    };
    let id = |term, index| EntryId { term, index };
    vec![
        Call::Vote(Bytes::from_static(b"one")),
        Call::Append((0..6).map(|index| entry(1, index, 900)).collect()),
        Call::Append((6..14).map(|index| entry(1, index, 900)).collect()),
        Call::TruncateAfter(Some(id(1, 2))),
        Call::Append((3..12).map(|index| entry(2, index, 700)).collect()),
        Call::Rotate,
        Call::Append(vec![entry(2, 12, 0)]),
        Call::Purge(id(2, 7)),
        Call::Vote(Bytes::from_static(b"two")),
        Call::Purge(id(3, 40)),
        Call::Append((41..44).map(|index| entry(3, index, 3_000)).collect()),
        Call::TruncateAfter(None),
        Call::Trust,
    ]
}

#[test]
fn a_crash_before_and_after_every_step_is_survived() {
    let all = {
        let (mut run, _) = Run::begin(FaultyDisk::default(), 1).unwrap();
        script().iter().for_each(|call| run.call(call).unwrap());
        assert!(run.step());
        run.disk.calls()
    };
    assert!(all > 60, "{all} calls");
    for call_number in 0..all {
        for seed in 0..24 {
            let disk = FaultyDisk::default();
            disk.fail_at(call_number, Fault::PowerLoss);
            let mut luck = fastrand::Rng::with_seed(seed);
            let Ok((mut run, _)) = Run::begin(disk.clone(), 1) else {
                // Not even begun: it begins again.
                Run::begin(disk.after_power_loss(&mut luck), 1).unwrap();
                continue;
            };
            // Several in one step, or one in each.
            for call in script() {
                run.call(&call).unwrap();
                if seed % 2 == 0 && !run.step() {
                    break;
                }
            }
            if seed % 2 == 1 {
                run.step();
            }
            run.after_power_loss(&mut luck);
        }
    }
}

#[test]
fn a_crash_during_recovery_is_survived() {
    for seed in 0..300 {
        let mut luck = fastrand::Rng::with_seed(seed);
        let (mut run, _) = Run::begin(FaultyDisk::default(), seed).unwrap();
        run.disk.fail_at(luck.u64(10..60), Fault::PowerLoss);
        while run.step() {
            let call = run.draw(&mut luck);
            run.call(&call).unwrap();
        }
        let mut disk = run.disk.after_power_loss(&mut luck);
        let mut doubted = false;
        for _ in 0..3 {
            disk.fail_at(luck.u64(..4), Fault::PowerLoss);
            if let Ok((_, _, found)) = open(&disk, seed) {
                doubted |= found.in_doubt.is_some();
            }
            run.disk = disk;
            disk = run.disk.after_power_loss(&mut luck);
        }
        let (_, _, found) = open(&disk, seed).unwrap();
        assert!(!doubted || found.in_doubt.is_some(), "a doubt lasts, seed {seed}");
        run.disk = disk;
        run.after_power_loss(&mut luck);
    }
}

#[test]
fn after_an_error_nothing_is_tried_again_and_nothing_more_is_promised() {
    for fault in [Fault::Error, Fault::Full] {
        for call_number in 0..70 {
            let (mut run, _) = Run::begin(FaultyDisk::default(), 1).unwrap();
            run.disk.fail_at(call_number, fault);
            let mut failed = false;
            for call in script() {
                match run.call(&call) {
                    Ok(()) => failed = !run.step() || failed,
                    Err(error) => assert!(failed && matches!(error, StorageError::Io { .. }), "{error}"),
                }
            }
            let mut luck = fastrand::Rng::with_seed(call_number);
            run.after_power_loss(&mut luck);
        }
    }
}

#[test]
fn committed_comes_back_as_far_as_it_was_written() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let entry = |index| Entry { id: EntryId { term: 1, index }, payload: Bytes::new() };
    run.call(&Call::Append(vec![entry(0), entry(1)])).unwrap();
    run.log.note_committed(2);
    run.log.note_committed(1);
    run.call(&Call::Append(vec![entry(2)])).unwrap();
    assert!(run.step());
    assert_eq!(open(&run.disk, 3).unwrap().2.committed, 2);
    // Of more than there is nobody speaks: then entries are missing.
    run.log.note_committed(9);
    run.call(&Call::Append(vec![entry(3)])).unwrap();
    assert!(run.step());
    assert!(matches!(open(&run.disk, 3), Err(StorageError::Corrupt { .. })));
}

/// So many entries; then one more that says how many are committed, and all after `last` are cut off.
fn cut_after_it_said(entries: u64, committed: u64, last: u64) -> Run {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let entry = |index| Entry { id: EntryId { term: 1, index }, payload: Bytes::new() };
    run.call(&Call::Append((0..entries).map(entry).collect())).unwrap();
    run.log.note_committed(committed);
    run.call(&Call::Append(vec![entry(entries)])).unwrap();
    run.call(&Call::TruncateAfter(Some(EntryId { term: 1, index: last }))).unwrap();
    assert!(run.step());
    run
}

/// A leader that is replaced knows what is committed, and may have said so in entries that are not.
#[test]
fn committed_is_not_forgotten_with_the_records_that_said_it() {
    let run = cut_after_it_said(4, 3, 3);
    run.after_power_loss(&mut fastrand::Rng::with_seed(1));
    assert_eq!(open(&run.disk, 3).unwrap().2.committed, 3);
    assert_eq!(Inspection::of(&run.disk, |_| true).unwrap().committed, 3);
}

/// A file that was shortened between two records looks as if there had never been more, and what was saved beside it knows better.
#[test]
fn entries_that_were_known_to_be_committed_and_are_missing_are_no_clean_end() {
    let name = "segment-00000000000000000000.log";
    let run = cut_after_it_said(4, 3, 3);
    let record = record::record_bytes(0);
    let shorter = |records: usize| {
        let copy = run.disk.copy();
        copy.damage(name, |bytes| bytes.truncate(bytes.len() - records * record));
        copy
    };
    // One that was not known to be committed nobody misses.
    assert_eq!(open(&shorter(1), 3).unwrap().2.committed, 3);
    for records in [2, 3, 4] {
        let disk = shorter(records);
        let told = format!(
            "{name} is damaged at byte {}: it ends there, and entries that were known to be committed are missing",
            disk.content(name).len()
        );
        let before = disk.calls();
        assert_eq!(open(&disk, 3).err().unwrap().to_string(), told);
        assert_eq!(disk.calls(), before, "refused, and changed");
        let looked = Inspection::of(&disk, |_| true).unwrap();
        assert_eq!(looked.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
    }
    let disk = shorter(0);
    disk.remove(name).unwrap();
    assert!(matches!(open(&disk, 3), Err(StorageError::Corrupt { .. })));
}

/// What is lost with a torn tail may be decided otherwise, where an operator gave it up: nothing vouches for what comes in its place.
#[test]
fn what_is_cut_as_torn_is_not_known_to_be_committed_when_something_else_comes() {
    let run = cut_after_it_said(4, 4, 3);
    let name = run.disk.list().unwrap().into_iter().find(|name| name.starts_with("segment-")).unwrap();
    let file = run.disk.open(&name).unwrap();
    file.write_at(file.bytes().unwrap() - 1, &[0xff]).unwrap();
    let (log, mut writer, found) = open(&run.disk, 3).unwrap();
    assert_eq!((found.in_doubt, found.committed), (Some(3), 3));
    log.trust(Box::new(|_| {})).unwrap();
    log.append(vec![Entry { id: EntryId { term: 2, index: 3 }, payload: Bytes::new() }], Box::new(|_| {}))
        .unwrap();
    writer.step();
    assert_eq!(open(&run.disk, 3).unwrap().2.committed, 3);
}

#[test]
fn another_nodes_log_is_not_touched() {
    let (disk, _) = damage::sound();
    let before = disk.calls();
    let other = Identity { node: "fra-2".to_owned(), ..identity() };
    let error = Log::open_idle(disk.clone(), other, options(1)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "segment-00000000000000000004.log is of node fra-1 of cluster example, not of node fra-2 of cluster example"
    );
    assert_eq!(disk.calls(), before);
}

#[test]
fn what_waits_has_a_limit_and_so_has_an_entry() {
    let options = Options { pending_bytes_max: 1_000, entry_bytes_max: 5_000, ..options(1) };
    let (log, mut writer, _) = Log::open_idle(FaultyDisk::default(), identity(), options).unwrap();
    let entry = |index, length| Entry { id: EntryId { term: 1, index }, payload: vec![0; length].into() };
    let ignore = || -> Done { Box::new(|_| {}) };
    assert!(matches!(
        log.append(vec![entry(0, 5_001)], ignore()),
        Err(StorageError::TooLarge { bytes: 5_001, .. })
    ));
    log.append(vec![entry(0, 5_000)], ignore()).unwrap();
    assert_eq!(log.pending_bytes(), 5_040);
    assert!(matches!(
        log.append(vec![entry(1, 0)], ignore()),
        Err(StorageError::Full { pending_bytes: 5_040, .. })
    ));
    writer.step();
    assert_eq!(log.pending_bytes(), 0);
    log.append(vec![entry(1, 0)], ignore()).unwrap();
    writer.step();
    // Several at once that are over it: where nothing waits, there will never be more room for them.
    log.append(vec![entry(2, 4_000), entry(3, 4_000)], ignore()).unwrap();
}

/// Disks of one size fill at one time: if each node then took what it half wrote for a promise, none could vote.
#[test]
fn what_a_full_disk_took_of_a_write_is_taken_back_and_nothing_is_in_doubt() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let entry = |index| Entry { id: EntryId { term: 1, index }, payload: vec![7; 300].into() };
    run.call(&Call::Append(vec![entry(0)])).unwrap();
    assert!(run.step());
    run.disk.fail_at(0, Fault::Full);
    run.call(&Call::Append(vec![entry(1)])).unwrap();
    assert!(!run.step());
    let (_, _, found) = open(&run.disk.copy(), 8).unwrap();
    assert_eq!(found.in_doubt, None);
    assert_eq!(Run::begin(run.disk.copy(), 9).unwrap().0.held.last(), Some(EntryId { term: 1, index: 0 }));
}

#[test]
fn entries_that_were_appended_one_by_one_are_synced_together() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let before = run.disk.calls();
    for index in 0..50 {
        run.call(&Call::Append(vec![Entry { id: EntryId { term: 1, index }, payload: Bytes::new() }]))
            .unwrap();
    }
    assert!(run.step());
    // One write each, and one sync.
    assert_eq!(run.disk.calls() - before, 51);
}

#[test]
fn a_writer_that_is_gone_answers_everybody() {
    let (log, writer, _) = open(&FaultyDisk::default(), 1).unwrap();
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    log.rotate(Box::new(move |result| *tell.lock().unwrap() = Some(result))).unwrap();
    drop(writer);
    assert!(matches!(told.lock().unwrap().take(), Some(Err(StorageError::Closed))));
    assert!(matches!(log.rotate(Box::new(|_| {})), Err(StorageError::Closed)));
}

#[test]
fn what_is_not_written_is_read_from_memory_whatever_lies_on_the_disk() {
    let small = Options { recent_bytes_max: 0, ..options(1) };
    let entries = |term, from, to| -> Vec<Entry> {
        (from..to)
            .map(|index| Entry {
                id: EntryId { term, index },
                payload: vec![term.to_le_bytes()[0]; 10].into(),
            })
            .collect()
    };
    let ignore = || -> Done { Box::new(|_| {}) };
    for truncated in [false, true] {
        let (log, mut writer, _) = Log::open_idle(FaultyDisk::default(), identity(), small).unwrap();
        log.append(entries(1, 0, 5), ignore()).unwrap();
        log.append(entries(1, 5, 6), ignore()).unwrap();
        let mut wanted = entries(1, 0, 6);
        if truncated {
            log.truncate_after(Some(EntryId { term: 1, index: 1 }), ignore()).unwrap();
            log.append(entries(2, 2, 5), ignore()).unwrap();
            wanted = [entries(1, 0, 2), entries(2, 2, 5)].concat();
        }
        assert_eq!(log.read(0..9, 9_999).unwrap(), wanted);
        // One thing after the other, and a reader between.
        loop {
            let command = writer.shared.state.lock().unwrap().queue.pop_front();
            let Some(command) = command else { break };
            writer.execute(command.task, &mut Vec::new(), &mut 0).unwrap();
            assert_eq!(log.read(0..9, 9_999).unwrap(), wanted);
        }
    }
}

#[test]
fn segments_of_which_everything_is_purged_are_deleted() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 7).unwrap();
    let segments = |run: &Run| {
        let names = run.disk.list().unwrap();
        names.iter().filter_map(|name| segment::first_of(name)).collect::<Vec<_>>()
    };
    let entry = |index| Entry { id: EntryId { term: 1, index }, payload: vec![0; 1_000].into() };
    run.call(&Call::Append((0..9).map(entry).collect())).unwrap();
    assert!(run.step());
    assert_eq!(segments(&run), [0, 3, 6]);
    run.call(&Call::Purge(EntryId { term: 1, index: 4 })).unwrap();
    assert!(run.step());
    assert_eq!(segments(&run), [3, 6]);
    run.call(&Call::Purge(EntryId { term: 1, index: 8 })).unwrap();
    assert!(run.step());
    assert_eq!(segments(&run), [9]);
}

#[test]
fn no_index_is_so_high_that_it_overflows() {
    let (log, _, _) = open(&FaultyDisk::default(), 1).unwrap();
    let index = INDEX_MAX + 1;
    let error = log.purge(EntryId { term: 1, index }, Box::new(|_| {})).unwrap_err();
    assert_eq!(error.to_string(), "index 9223372036854775808 is higher than any log can have");

    let (mut run, _) = Run::begin(FaultyDisk::default(), 1).unwrap();
    run.call(&Call::Purge(EntryId { term: 1, index: 7 })).unwrap();
    assert!(run.step());
    slot::save(
        &{
            run.disk.remove("purged").unwrap();
            run.disk.clone()
        },
        "purged",
        &[0xff; 16],
    )
    .unwrap();
    assert!(matches!(open(&run.disk, 1), Err(StorageError::Corrupt { .. })));
    let found = Inspection::of(&run.disk, |_| true).unwrap();
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
}

#[test]
fn an_id_of_another_term_cuts_memory_and_disk_alike() {
    let (mut run, _) = Run::begin(FaultyDisk::default(), 1).unwrap();
    let entry = |term, index| Entry { id: EntryId { term, index }, payload: Bytes::new() };
    run.call(&Call::Append((0..4).map(|index| entry(2, index)).collect())).unwrap();
    run.call(&Call::TruncateAfter(Some(EntryId { term: 9, index: 1 }))).unwrap();
    assert_eq!(run.log.bounds().indexes(), 0..2);
    assert!(run.step());
    run.call(&Call::Append(vec![entry(9, 2)])).unwrap();
    assert!(run.step());
    // A snapshot knows better of what term its last entry is.
    run.call(&Call::Purge(EntryId { term: 10, index: 2 })).unwrap();
    assert!(run.step());
    assert_eq!(run.log.bounds().last, Some(EntryId { term: 10, index: 2 }));
    assert_eq!(open(&run.disk, 1).unwrap().2.last, Some(EntryId { term: 10, index: 2 }));
}
