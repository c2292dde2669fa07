//! The event log: every vote and election with its term and reason, and what else decides who leads. Lines of JSON in memory,
//! and in files beside the replica's log that outlive it.
//!
//! It explains, and nothing depends on it: it is written without a sync by a thread of its own, what the disk refuses is kept
//! in memory alone, and a flood of events is cut.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::event::Event;

/// Lines in memory.
const LINES_MAX: usize = 1_024;
/// Lines that wait for the disk.
const WAITING_MAX: usize = 1_024;
/// Of one file, B. There are two: the older one is removed when the newer one is full.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// More in one second are counted and not kept.
const PER_SECOND_MAX: u32 = 100;
/// Of those that a peer may cause as often as it likes.
const OF_PEERS_PER_SECOND_MAX: u32 = 20;

const NEWER: &str = "events.jsonl";
const OLDER: &str = "events.1.jsonl";

/// Clones are the same log.
#[derive(Clone, Debug)]
pub(super) struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    /// `None` without a directory, and at the end.
    disk: Option<SyncSender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.disk.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told of already.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    lines: VecDeque<(u64, Arc<str>)>,
    second: Option<Instant>,
    in_second: u32,
    of_peers_in_second: u32,
    left_out: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    /// By this node's wall clock, which may be wrong; `seq` is not.
    unix_ms: u64,
    /// How many were left out before it.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
    #[serde(flatten)]
    event: &'a Event,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The form that serde asks for.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Events {
    /// Goes on from what a directory has. Where it cannot be read or written, that is told, and no reason not to start.
    ///
    /// # Errors
    ///
    /// What the system says of a thread.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let lines: VecDeque<(u64, Arc<str>)> = load(directory).unwrap_or_else(|error| {
            tracing::warn!(%error, "events of before cannot be read: they are numbered from 1 again");
            VecDeque::new()
        });
        let next = lines.back().map_or(1, |(seq, _)| seq + 1);
        let file = Files::new(directory);
        let (disk, waiting) = sync_channel(WAITING_MAX);
        let thread =
            std::thread::Builder::new().name("events".to_owned()).spawn(move || file.run(&waiting))?;
        let kept = Mutex::new(Kept { next, lines, ..Kept::default() });
        Ok(Self { shared: Arc::new(Shared { kept, disk: Some(disk), thread: Some(thread) }) })
    }

    /// Without a disk.
    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        let kept = Mutex::new(Kept { next: 1, ..Kept::default() });
        Self { shared: Arc::new(Shared { kept, disk: None, thread: None }) }
    }

    /// Keeps an event. Never waits.
    pub(super) fn record(&self, event: &Event) {
        self.record_at(event, Instant::now());
    }

    fn record_at(&self, event: &Event, now: Instant) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            (kept.second, kept.in_second, kept.of_peers_in_second) = (Some(now), 0, 0);
        }
        let (count, most) = if event.is_of_a_peer() {
            (&mut kept.of_peers_in_second, OF_PEERS_PER_SECOND_MAX)
        } else {
            (&mut kept.in_second, PER_SECOND_MAX)
        };
        *count += 1;
        if *count > most {
            kept.left_out += 1;
            return;
        }
        let unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let line = Line { seq: kept.next, unix_ms, left_out: std::mem::take(&mut kept.left_out), event };
        // Plain fields: there is nothing in them that JSON cannot say.
        let Ok(line) = serde_json::to_string(&line) else { return };
        let seq = kept.next;
        kept.next += 1;
        if kept.lines.len() >= LINES_MAX {
            kept.lines.pop_front();
        }
        kept.lines.push_back((seq, line.as_str().into()));
        // Under the lock: lines reach the file in their order. A disk that is behind loses some, and memory has them.
        if let Some(disk) = &self.shared.disk {
            let _ = disk.try_send(line);
        }
    }

    /// Lines of JSON from a number on, the oldest first.
    pub(super) fn from(&self, seq: u64) -> Vec<Arc<str>> {
        let kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().filter(|(number, _)| *number >= seq).map(|(_, line)| Arc::clone(line)).collect()
    }
}

/// What both files have, as much as memory keeps. A line that was torn is none.
fn load(directory: &Path) -> io::Result<VecDeque<(u64, Arc<str>)>> {
    let mut lines = VecDeque::new();
    for name in [OLDER, NEWER] {
        let mut bytes = Vec::new();
        match File::open(directory.join(name)) {
            Ok(file) => drop(file.take(2 * FILE_BYTES_MAX).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for line in bytes.split(|byte| *byte == b'\n') {
            let value = serde_json::from_slice::<serde_json::Value>(line).ok();
            let seq = value.and_then(|value| value.get("seq")?.as_u64());
            if let (Some(seq), Ok(line)) = (seq.filter(|seq| *seq < u64::MAX), std::str::from_utf8(line)) {
                if lines.len() >= LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back((seq, line.into()));
            }
        }
    }
    Ok(lines)
}

/// The newer file, which is written to.
struct Files {
    directory: PathBuf,
    /// Until it could be opened, at the first line.
    file: Option<File>,
    bytes: u64,
    /// The last line may not have got there as a whole.
    torn: bool,
    /// It was told that the disk refuses.
    told: bool,
}

impl Files {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), file: None, bytes: 0, torn: false, told: false }
    }

    /// Opens the newer file, with how long it is, where it is not open.
    fn open(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                options.create(true).read(true).append(true).mode(0o600);
                let mut file = options.open(self.directory.join(NEWER))?;
                self.bytes = file.seek(SeekFrom::End(0))?;
                let mut last = [b'\n'];
                if self.bytes > 0 {
                    file.seek(SeekFrom::End(-1))?;
                    file.read_exact(&mut last)?;
                }
                // What was torn is not to be joined to what comes.
                self.torn = last != [b'\n'];
                file
            }
        };
        Ok(self.file.insert(file))
    }

    fn run(mut self, waiting: &Receiver<String>) {
        while let Ok(line) = waiting.recv() {
            match self.write(line) {
                Ok(()) => self.told = false,
                Err(error) if !self.told => {
                    self.told = true;
                    tracing::warn!(%error, "events are kept in memory alone: they cannot be written");
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, mut line: String) -> io::Result<()> {
        line.push('\n');
        self.open()?;
        if self.torn {
            line.insert(0, '\n');
            self.bytes = self.open()?.metadata()?.len();
        }
        if self.bytes + line.len() as u64 > FILE_BYTES_MAX {
            fs::rename(self.directory.join(NEWER), self.directory.join(OLDER))?;
            *self = Self { told: self.told, ..Self::new(&self.directory) };
            self.open()?;
        }
        self.torn = true;
        self.open()?.write_all(line.as_bytes())?;
        self.torn = false;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::replica_id::ReplicaId;

    fn saved(term: u64) -> Event {
        Event::VoteSaved { term, voted_for: ReplicaId(7), leads: false }
    }

    fn seqs(events: &Events) -> Vec<u64> {
        let seq = |line: &Arc<str>| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()
        };
        events.from(0).iter().map(seq).collect()
    }

    #[test]
    fn events_are_numbered_and_outlive_the_process_but_for_a_torn_one() {
        let directory = tempfile::tempdir().unwrap();
        let events = Events::open(directory.path()).unwrap();
        events.record(&saved(1));
        events.record(&Event::Leader { term: 1, replica: Some(ReplicaId(7)), node: None });
        let lines = events.from(2);
        assert_eq!(lines.len(), 1);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&line["seq"], &line["kind"], &line["term"], &line["replica"]),
            (&2.into(), &"leader".into(), &1.into(), &"0000000000000007".into())
        );
        drop((events, lines));

        let path = directory.path().join(NEWER);
        let mut text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        text.push_str("{\"seq\":3,\"kin");
        fs::write(&path, text).unwrap();
        let events = Events::open(directory.path()).unwrap();
        events.record(&saved(2));
        assert_eq!(seqs(&events), [1, 2, 3]);
        drop(events);
        assert_eq!(seqs(&Events::open(directory.path()).unwrap()), [1, 2, 3]);
    }

    /// It explains, and is no state.
    #[test]
    fn where_nothing_can_be_written_events_are_in_memory_and_in_the_file_once_that_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        fs::write(&path, b"no directory").unwrap();
        let events = Events::open(&path).unwrap();
        events.record(&saved(1));
        assert_eq!(seqs(&events), [1]);
        drop(events);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", path.join(NEWER)).unwrap();
        let mut files = Files::new(&path);
        assert_eq!(files.write("{\"seq\":7}".to_owned()).unwrap_err().kind(), io::ErrorKind::StorageFull);
        fs::remove_file(path.join(NEWER)).unwrap();
        fs::create_dir(path.join(NEWER)).unwrap();
        let mut files = Files::new(&path);
        assert!(files.write("{\"seq\":7}".to_owned()).is_err());
        fs::remove_dir(path.join(NEWER)).unwrap();
        files.write("{\"seq\":8}".to_owned()).unwrap();
        assert_eq!(seqs(&Events::open(&path).unwrap()), [8]);
    }

    #[test]
    fn files_and_memory_are_bounded_and_a_flood_is_cut_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let events = Events::open(directory.path()).unwrap();
        let start = Instant::now();
        for number in 0..PER_SECOND_MAX + 5 {
            events.record_at(&saved(u64::from(number)), start);
        }
        assert_eq!(events.from(0).len(), PER_SECOND_MAX as usize);
        events.record_at(&saved(1_000), start + Duration::from_secs(1));
        assert!(events.from(0).last().unwrap().contains("\"left_out\":5"));
        // What peers say does not push out what this node decides.
        let later = start + Duration::from_secs(2);
        let asked = Event::Asked { term: 9, trial: true, by: ReplicaId(8), granted: false, reason: "" };
        (0..1_000).for_each(|_| events.record_at(&asked, later));
        events.record_at(&saved(1_001), later);
        assert!(events.from(0).last().unwrap().contains("\"term\":1001"));
        drop(events);

        let mut files = Files::new(directory.path());
        for seq in 200..200 + 3 * FILE_BYTES_MAX / 512 {
            files.write(format!("{{\"seq\":{seq},\"pad\":\"{}\"}}", "x".repeat(480))).unwrap();
        }
        for name in [NEWER, OLDER] {
            assert!(fs::metadata(directory.path().join(name)).unwrap().len() <= FILE_BYTES_MAX, "{name}");
        }
        let events = Events::open(directory.path()).unwrap();
        assert_eq!(seqs(&events).len(), LINES_MAX);
        assert!(seqs(&events).windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
}
