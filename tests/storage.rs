//! The log on a real file system: files of earlier versions, two processes at one directory, and what `trunkline log` tells.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use support::addresses::own;
use support::http::exchange;
use support::replica::Node;
use support::{poll, run};
use trunkline::storage::{
    DataDirectory, Directory, Done, Entry, EntryId, Identity, Log, Options, Recovered, StorageError,
};

/// A log that version 1 of the format wrote. Never edited: a node must read what an earlier one wrote.
const GOLDEN: &str = "tests/golden/log-v1";

fn identity() -> Identity {
    Identity { cluster: "example".to_owned(), node: "fra-1".to_owned() }
}

fn options() -> Options {
    Options { segment_bytes_max: 4 << 10, ..Options::new(1) }
}

fn entry(term: u64, index: u64, length: usize) -> Entry {
    let payload = (0..length).map(|at| (at as u64 + index).to_le_bytes()[0]).collect::<Vec<_>>();
    Entry { id: EntryId { term, index }, payload: payload.into() }
}

/// Calls, and waits for the answer.
fn done(call: impl FnOnce(Done) -> Result<(), StorageError>) {
    let (tell, told) = mpsc::channel();
    call(Box::new(move |result| {
        let _ = tell.send(result);
    }))
    .unwrap();
    told.recv().unwrap().unwrap();
}

/// What the golden directory was made by: every kind of thing that is stored.
fn write_golden(directory: Directory) {
    let (log, found) = Log::open(directory, identity(), options()).unwrap();
    assert_eq!(found, Recovered::default());
    done(|done| log.save_vote(Bytes::from_static(b"a vote"), done));
    done(|done| log.append((0..5).map(|index| entry(1, index, 1_000)).collect(), done));
    log.note_committed(4);
    done(|done| log.append(vec![entry(2, 5, 0), entry(2, 6, 7)], done));
    done(|done| log.purge(EntryId { term: 1, index: 3 }, done));
}

fn check_golden(directory: Directory) {
    let (log, found) = Log::open(directory, identity(), options()).unwrap();
    assert_eq!(found.vote.as_deref(), Some(b"a vote".as_slice()));
    assert_eq!((found.committed, found.in_doubt), (4, None));
    assert_eq!(found.purged, Some(EntryId { term: 1, index: 3 }));
    let wanted = vec![entry(1, 4, 1_000), entry(2, 5, 0), entry(2, 6, 7)];
    assert_eq!(log.read(log.bounds().indexes(), usize::MAX).unwrap(), wanted);
}

fn copy_golden(to: &Path) -> Directory {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(GOLDEN).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    Directory::new(to.to_owned())
}

fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            (PathBuf::from(path.file_name().unwrap()), fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_log_of_an_earlier_version_is_read_and_the_same_bytes_are_written() {
    let temp = tempfile::tempdir().unwrap();
    let written = temp.path().join("written");
    fs::create_dir(&written).unwrap();
    write_golden(Directory::new(written.clone()));
    if std::env::var_os("REWRITE").is_some_and(|value| value == "1") {
        // Only ever for a new directory, of a new version.
        assert!(!Path::new(GOLDEN).exists(), "{GOLDEN} is never edited");
        fs::create_dir_all(GOLDEN).unwrap();
        for (name, bytes) in content(&written) {
            fs::write(Path::new(GOLDEN).join(name), bytes).unwrap();
        }
    }
    check_golden(copy_golden(&temp.path().join("read")));
    assert_eq!(content(&written), content(Path::new(GOLDEN)));
    check_golden(Directory::new(written));
}

#[test]
fn a_log_is_the_same_after_it_was_closed_and_takes_more() {
    let temp = tempfile::tempdir().unwrap();
    let open = || {
        let data = DataDirectory::open(&temp.path().join("data")).unwrap();
        let opened = Log::open(data.sub_directory("log").unwrap(), identity(), options()).unwrap();
        (data, opened.0, opened.1)
    };
    let mut expected = Vec::new();
    for start in 0..4 {
        let (_data, log, found) = open();
        assert_eq!(found.last.map(|id| id.index), (start * 50_u64).checked_sub(1));
        // Nobody waits for any of them; closing does.
        for index in start * 50..(start + 1) * 50 {
            let next = entry(start, index, 300);
            log.append(vec![next.clone()], Box::new(|result| result.unwrap())).unwrap();
            expected.push(next);
        }
        drop(log);
    }
    let (_data, log, _) = open();
    let mut read = Vec::new();
    while read.len() < expected.len() {
        read.extend(log.read(read.len() as u64..u64::MAX, 2_000).unwrap());
    }
    assert_eq!(read, expected);
}

#[test]
fn a_directory_has_one_process_and_its_owner_alone() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("data");
    let first = DataDirectory::open(&path).unwrap();
    let directory = first.sub_directory("log").unwrap();
    let _log = Log::open(directory, identity(), options()).unwrap();
    let error = DataDirectory::open(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the data directory {} is in use by another process", path.display())
    );
    let (code, _, stderr) = run(&["log", "verify", path.to_str().unwrap()]);
    assert_eq!(code, 69, "{stderr}");
    use std::os::unix::fs::PermissionsExt;
    for path in [&path, &path.join("log")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    drop((_log, first));
    DataDirectory::open(&path).unwrap();
}

/// A data directory that a node of `trunkline node --dev` could have: its number, and a log.
fn data_of_dev(path: &Path) -> (u64, Log<Directory>) {
    let identity = Identity { cluster: "dev".to_owned(), node: "dev".to_owned() };
    let data = DataDirectory::open(path).unwrap();
    let replica = data.replica(&identity, || 0x17).unwrap();
    assert!(
        path.join("log/segment-00000000000000000000.log").exists(),
        "the log is there before anybody has the number"
    );
    (replica, Log::open(data.sub_directory("log").unwrap(), identity, options()).unwrap().0)
}

/// With an empty log it would vote again, and forget what it acknowledged, under the number that it had.
#[test]
fn a_replica_whose_log_is_gone_is_not_started() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let (_, log) = data_of_dev(&data);
    done(|done| log.save_vote(Bytes::from_static(b"a vote"), done));
    drop(log);
    let told = "the log of replica 0000000000000017 is gone: `replica` is there, and `log` has no segment. The votes it gave and \
                the entries it acknowledged are lost with it, so it must not vote as that replica again. If the log lies elsewhere, \
                as on a file system that is not mounted, bring it back; else empty the directory, and let the node come back as a \
                new replica";
    // All of it, or what is in it: what is left is as it was.
    for emptied in [false, true] {
        fs::remove_dir_all(data.join("log")).unwrap();
        if emptied {
            fs::create_dir(data.join("log")).unwrap();
        }
        let before = (content_of_all(&data), fs::read(data.join("replica")).unwrap());
        let identity = Identity { cluster: "dev".to_owned(), node: "dev".to_owned() };
        let error = DataDirectory::open(&data).unwrap().replica(&identity, || 0x18).unwrap_err();
        assert!(matches!(error, StorageError::LogGone { replica: 0x17 }), "{error}");
        assert_eq!(error.to_string(), told);
        let shown = data.to_str().unwrap();
        let (code, _, stderr) = run(&["node", "--dev", "--api", "127.0.0.1:0", "--data", shown]);
        assert!(code == 65 && stderr.contains(told), "{code} {stderr}");
        assert!(stderr.contains("`remove` replica 0000000000000017"), "{stderr}");
        assert_eq!((content_of_all(&data), fs::read(data.join("replica")).unwrap()), before);
        fs::create_dir_all(data.join("log")).unwrap();
    }
    // As somebody else it may begin.
    fs::remove_dir_all(&data).unwrap();
    data_of_dev(&data);
}

/// The names of all that is in a directory, and in those within it.
fn content_of_all(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            all.extend(content_of_all(&path));
        }
        all.push(path);
    }
    all.sort();
    all
}

/// The number is there when the log is, and the log is empty when the number is not: wherever the first start ends, the next one begins.
#[test]
fn a_first_start_that_was_ended_anywhere_is_begun_again() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    drop(data_of_dev(&data));
    let (number, segment) = (data.join("replica"), data.join("log/segment-00000000000000000000.log"));
    let begun = |gone: &[&Path]| {
        gone.iter().for_each(|path| fs::remove_file(path).unwrap());
        let (replica, log) = data_of_dev(&data);
        assert_eq!(replica, 0x17);
        drop(log);
    };
    begun(&[&number]);
    fs::write(data.join("log/vote.new"), b"half").unwrap();
    begun(&[&number]);
    begun(&[&number, &segment]);
    // What promised something, and lost its number, is nobody.
    let (_, log) = data_of_dev(&data);
    done(|done| log.save_vote(Bytes::from_static(b"a vote"), done));
    drop(log);
    fs::remove_file(&number).unwrap();
    let identity = Identity { cluster: "dev".to_owned(), node: "dev".to_owned() };
    let error = DataDirectory::open(&data).unwrap().replica(&identity, || 0x18).unwrap_err();
    assert_eq!(error.to_string(), "replica is damaged at byte 0: it is gone, and the log is there");
    fs::remove_file(data.join("log/vote")).unwrap();
    let log = Log::open(Directory::new(data.join("log")), identity.clone(), options()).unwrap().0;
    done(|done| log.append(vec![entry(1, 0, 7)], done));
    drop(log);
    let error = DataDirectory::open(&data).unwrap().replica(&identity, || 0x18).unwrap_err();
    assert_eq!(error.to_string(), "replica is damaged at byte 0: it is gone, and the log is there");
}

/// It explains what happens, and nothing depends on it.
#[test]
fn a_replica_that_cannot_write_its_event_log_starts_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let (data, told) = (temp.path().join("data"), temp.path().join("told"));
    drop(data_of_dev(&data).1);
    fs::write(data.join("events"), b"no directory").unwrap();
    let api = own(1)[0];
    let shown = (api.to_string(), data.to_str().unwrap().to_owned());
    let _node = Node::start_logged(&["--dev", "--api", &shown.0, "--data", &shown.1], api, &told);
    let said = || fs::read_to_string(&told).unwrap_or_default();
    poll("it says so", Duration::from_secs(60), || {
        said().contains("events are kept in memory alone: they cannot be written").then_some(())
    });
    let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    // It says so before its API answers.
    let events = poll("its API", Duration::from_secs(60), || exchange(api, request.as_bytes())).body;
    assert!(events.contains("\"kind\":\"started\""), "{events}");
}

/// What the log let go of is in a snapshot, or nowhere.
#[test]
fn a_replica_whose_snapshots_are_gone_is_not_started() {
    let temp = tempfile::tempdir().unwrap();
    let (_, log) = data_of_dev(temp.path());
    done(|done| log.append((0..3).map(|index| entry(1, index, 7)).collect(), done));
    done(|done| log.purge(EntryId { term: 1, index: 1 }, done));
    drop(log);
    let shown = temp.path().to_str().unwrap();
    let (code, _, stderr) = run(&["node", "--dev", "--api", "127.0.0.1:0", "--data", shown]);
    let told =
        "the log begins after entry 1, and the newest snapshot ends with none: what lies between is gone";
    assert!(code == 65 && stderr.contains(told), "{code} {stderr}");
}

#[test]
fn a_lock_goes_with_its_directory_whatever_was_forked_meanwhile() {
    let temp = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let forks = scope.spawn(|| {
            for _ in 0..300 {
                std::process::Command::new("true").status().unwrap();
            }
        });
        while !forks.is_finished() {
            DataDirectory::open(temp.path()).unwrap();
        }
    });
}

#[test]
fn a_lock_that_is_a_pipe_or_leads_elsewhere_is_not_waited_at() {
    let temp = tempfile::tempdir().unwrap();
    let (pipe, link) = (temp.path().join("pipe"), temp.path().join("link"));
    fs::create_dir(&pipe).unwrap();
    fs::create_dir(&link).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(pipe.join("lock")).status().unwrap().success());
    std::os::unix::fs::symlink("/tmp/elsewhere", link.join("lock")).unwrap();
    for path in [pipe, link] {
        let error = DataDirectory::open(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("{}/lock is something else, not a plain file", path.display()));
    }
}

#[test]
fn verify_and_dump_show_what_is_there_and_change_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    copy_golden(&log);
    let before = content(&log);
    let data = temp.path().to_str().unwrap();

    let (code, stdout, stderr) = run(&["log", "verify", data]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stdout,
        "\
node fra-1 of cluster example

segment                           first index  entries  bytes
segment-00000000000000000003.log            3        4   2216

3 entries from index 4 on, the last of term 2; 0 known to be committed
no damage
"
    );
    let (code, stdout, _) = run(&["log", "dump", data, "--from", "5"]);
    assert_eq!(code, 0);
    assert_eq!(
        stdout,
        "index 5         term 2          0 B\nindex 6         term 2          7 B  \\x06\\x07\\x08\\t\\n\\x0b\\x0c\n"
    );
    let (_, stdout, _) = run(&["log", "dump", data, "--json", "--from", "6"]);
    assert_eq!(stdout, "{\"index\":6,\"term\":2,\"bytes\":7,\"payload_base64\":\"BgcICQoLDA==\"}\n");
    let (_, stdout, _) = run(&["log", "dump", data, "--count", "1", "--width", "4"]);
    assert_eq!(stdout, "index 4         term 1       1000 B  \\x04...\n");
    let (code, stdout, stderr) = run(&["log", "dump", data, "--from", "99"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("no entry from index 99 on: the log has 3 entries from index 4"), "{stderr}");
    assert_eq!(content(&log), before);

    // A torn tail is told, and is no damage. Damage is, with where it is.
    let segment = log.join("segment-00000000000000000003.log");
    let sound = fs::read(&segment).unwrap();
    fs::write(&segment, &sound[..sound.len() - 1]).unwrap();
    let (code, stdout, _) = run(&["log", "verify", data]);
    assert!(code == 0 && stdout.contains("the last 47 B are no record"), "{code} {stdout}");
    let mut damaged = sound.clone();
    damaged[200] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let before = content(&log);
    let (code, stdout, stderr) = run(&["log", "verify", data]);
    assert_eq!(code, 65, "{stderr}");
    let where_ = "segment-00000000000000000003.log is damaged at byte 48: it is no whole record\n";
    assert!(stdout.ends_with(where_), "{stdout}");
    assert!(stderr.contains("let it come back as a learner with an empty one"), "{stderr}");
    let (code, _, stderr) = run(&["log", "dump", data]);
    assert!(code == 65 && stderr.contains("is damaged at byte 48"), "{code} {stderr}");
    assert_eq!(content(&log), before);

    for (directory, told) in [
        ("nowhere", "nowhere does not exist"),
        (GOLDEN, "log-v1 holds segments: give the directory in which it is the `log`"),
    ] {
        let (code, _, stderr) = run(&["log", "verify", directory]);
        assert!(code == 78 && stderr.contains(told), "{code} {stderr}");
    }
    let (code, _, stderr) = run(&["log", "verify", "src"]);
    assert!(
        code == 78 && stderr.contains("src is no data directory: there is no `log` in it"),
        "{code} {stderr}"
    );
}

#[test]
fn a_doubt_is_ended_by_an_operator_who_says_so_and_by_nobody_else() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    copy_golden(&log);
    let data = temp.path().to_str().unwrap();
    let segment = log.join("segment-00000000000000000003.log");
    let sound = fs::read(&segment).unwrap();
    fs::write(&segment, &sound[..sound.len() - 1]).unwrap();
    let before = content(&log);
    let (code, _, stderr) = run(&["log", "trust", data]);
    assert!(code == 2 && stderr.contains("--accept-loss"), "{code} {stderr}");
    let in_use = DataDirectory::open(temp.path()).unwrap();
    let (code, _, stderr) = run(&["log", "trust", data, "--accept-loss"]);
    assert!(code == 69 && stderr.contains("in use by another process"), "{code} {stderr}");
    drop(in_use);
    assert_eq!(content(&log), before);

    let (code, stdout, stderr) = run(&["log", "trust", data, "--accept-loss"]);
    assert_eq!(code, 0, "{stderr}");
    let told =
        "the last entry is 5 of term 2. What was acknowledged from index 6 on and is not there is given up";
    assert!(stdout.contains(told), "{stdout}");
    let (log_again, found) = Log::open(Directory::new(log.clone()), identity(), options()).unwrap();
    assert_eq!((found.in_doubt, found.last), (None, Some(EntryId { term: 2, index: 5 })));
    drop(log_again);
    let (code, stdout, _) = run(&["log", "trust", data, "--accept-loss"]);
    assert!(code == 0 && stdout.contains("Nothing is in doubt, and nothing was changed"), "{code} {stdout}");

    // Damage is no doubt.
    let mut damaged = sound;
    damaged[200] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let before = content(&log);
    let (code, _, stderr) = run(&["log", "trust", data, "--accept-loss"]);
    assert!(code == 65 && stderr.contains("is damaged at byte 48"), "{code} {stderr}");
    assert_eq!(content(&log), before);
}
