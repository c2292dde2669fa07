//! A disk for tests: it loses what was not synced, sector by sector, and fails when it is told to.
//!
//! After a sync that failed it does as file systems do: what was to be synced is in memory, can be read, also by another process,
//! and is taken for written. No later sync writes it, and all of them say yes. After one of names that failed everything is refused,
//! also to the next process: their journal could not be written.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

/// What a write is whole in. That of a real disk is eight times as long, and hardly a record is torn in it.
const SECTOR_BYTES: usize = 64;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync, in order: each is there after a crash or not.
    unsynced_names: Vec<Vec<(String, Option<usize>)>>,
    /// Calls that changed something, or tried to.
    calls: u64,
    fault: Option<(u64, Fault)>,
    struck: bool,
    off: bool,
    /// A sync of names failed: nothing is written any longer.
    refuses: bool,
    lies: Option<&'static str>,
}

/// What happens at a certain call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: the call may still have reached the disk, nothing later does.
    PowerLoss,
    /// An input or output error. After one of a sync, what was to be synced is in memory alone, and the next sync says yes.
    Error,
    /// No space is left; half of what was to be written is.
    Full,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    /// A write of which a sync said no: some of it may be there, and no sync writes the rest.
    Lost(usize, Vec<u8>),
    Truncate(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) | Self::Lost(at, new) => {
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
            Self::Truncate(length) => bytes.truncate(*length),
        }
    }
}

impl Inode {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                // How long a file is, is written all the same.
                Change::Lost(at, new) => self.durable.resize(self.durable.len().max(at + new.len()), 0),
                change => change.apply(&mut self.durable),
            }
        }
    }

    fn fail_to_sync(&mut self) {
        for change in &mut self.unsynced {
            if let Change::Write(at, new) = change {
                *change = Change::Lost(*at, std::mem::take(new));
            }
        }
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct FaultyFile {
    disk: FaultyDisk,
    inode: usize,
}

impl FaultyDisk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Something happens at the call of this number, counted from now.
    pub(crate) fn fail_at(&self, call: u64, fault: Fault) {
        let mut inner = self.lock();
        inner.fault = Some((inner.calls + call, fault));
    }

    /// It went wrong as it was told to.
    pub(crate) fn has_struck(&self) -> bool {
        self.lock().struck
    }

    /// Nothing goes wrong any longer that did not yet.
    pub(crate) fn heal(&self) {
        let mut inner = self.lock();
        (inner.fault, inner.struck, inner.refuses) = (None, false, false);
    }

    /// A sync of names failed: it takes nothing more, from whomever.
    pub(crate) fn refuses(&self) -> bool {
        self.lock().refuses
    }

    /// How often it was called so far.
    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The disk that is found after a power loss: what was synced, and of the rest whatever luck left.
    pub(crate) fn after_power_loss(&self, luck: &mut fastrand::Rng) -> Self {
        let inner = self.lock();
        let mut names = inner.durable_names.clone();
        for change in &inner.unsynced_names {
            if luck.bool() {
                for (name, inode) in change {
                    match inode {
                        Some(inode) => names.insert(name.clone(), *inode),
                        None => names.remove(name),
                    };
                }
            }
        }
        let files = inner
            .files
            .iter()
            .map(|file| {
                let mut bytes = file.durable.clone();
                // All of it, none of it, or anything between.
                let kept_in_4 = luck.u8(0..=4);
                for change in &file.unsynced {
                    match change {
                        Change::Write(at, new) | Change::Lost(at, new) => {
                            let mut from = 0;
                            while from < new.len() {
                                let until = ((at + from) / SECTOR_BYTES + 1) * SECTOR_BYTES - at;
                                let until = until.min(new.len());
                                if luck.u8(0..4) < kept_in_4 {
                                    Change::Write(at + from, new[from..until].to_vec()).apply(&mut bytes);
                                }
                                from = until;
                            }
                        }
                        Change::Truncate(_) if luck.bool() => change.apply(&mut bytes),
                        Change::Truncate(_) => {}
                    }
                }
                Inode { durable: bytes.clone(), bytes, unsynced: Vec::new() }
            })
            .collect();
        let inner = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The disk that the next process finds when this one was killed: all that was written, durable or not.
    pub(crate) fn after_kill(&self) -> Self {
        let inner = self.lock();
        let killed = Inner {
            files: inner.files.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            unsynced_names: inner.unsynced_names.clone(),
            refuses: inner.refuses,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(killed)))
    }

    /// What is certain to be there after a power loss.
    pub(crate) fn durable(&self) -> Self {
        let inner = self.lock();
        let files = inner.files.iter().map(|file| Inode {
            bytes: file.durable.clone(),
            durable: file.durable.clone(),
            unsynced: Vec::new(),
        });
        let names = inner.durable_names.clone();
        let durable =
            Inner { files: files.collect(), durable_names: names.clone(), names, ..Inner::default() };
        Self(Arc::new(Mutex::new(durable)))
    }

    /// From now on syncs do nothing and say yes: of files whose names begin so.
    pub(crate) fn lie_about(&self, names: &'static str) {
        self.lock().lies = Some(names);
    }

    /// What a file is certain to hold after a power loss, if it is there then.
    pub(crate) fn durable_content(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.lock();
        inner.durable_names.get(name).map(|inode| inner.files[*inode].durable.clone())
    }

    /// Whether the power is off.
    pub(crate) fn is_off(&self) -> bool {
        self.lock().off
    }

    /// The names of its files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// A copy of everything as it is, durable and without faults to come.
    pub(crate) fn copy(&self) -> Self {
        let inner = self.lock();
        let files = inner.files.iter().map(|file| Inode {
            bytes: file.bytes.clone(),
            durable: file.bytes.clone(),
            unsynced: Vec::new(),
        });
        let names = inner.names.clone();
        let copy = Inner { files: files.collect(), durable_names: names.clone(), names, ..Inner::default() };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn damage(&self, name: &str, how: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let inode = inner.names[name];
        let file = &mut inner.files[inode];
        how(&mut file.bytes);
        file.durable.clone_from(&file.bytes);
        file.unsynced.clear();
    }

    /// What a file holds.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let inner = self.lock();
        inner.files[inner.names[name]].bytes.clone()
    }
}

impl Inner {
    /// Counts a call. `Some` if it goes wrong; then it may have half happened.
    fn call(&mut self) -> Option<(Fault, io::Error)> {
        if self.off {
            return Some((Fault::Error, io::Error::other("the power is off")));
        }
        let call = self.calls;
        self.calls += 1;
        if self.refuses {
            return Some((Fault::Error, io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        let (_, fault) = self.fault.filter(|(at, _)| *at == call)?;
        self.off = fault == Fault::PowerLoss;
        self.struck = true;
        let error = match fault {
            Fault::PowerLoss => io::Error::other("the power is off"),
            Fault::Error => io::Error::other("input/output error"),
            Fault::Full => io::ErrorKind::StorageFull.into(),
        };
        Some((fault, error))
    }

    fn rename(&mut self, changes: Vec<(String, Option<usize>)>) -> io::Result<()> {
        let wrong = self.call();
        if wrong.as_ref().is_none_or(|(fault, _)| *fault == Fault::PowerLoss) {
            for (name, inode) in &changes {
                match inode {
                    Some(inode) => self.names.insert(name.clone(), *inode),
                    None => self.names.remove(name),
                };
            }
            self.unsynced_names.push(changes);
        }
        wrong.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<FaultyFile> {
        let mut inner = self.lock();
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = inner.files.len();
        inner.files.push(Inode::default());
        inner.rename(vec![(name.to_owned(), Some(inode))])?;
        Ok(FaultyFile { disk: self.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<FaultyFile> {
        let inode = *self.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(FaultyFile { disk: self.clone(), inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let inode = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))])
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if !inner.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.rename(vec![(name.to_owned(), None)])
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some((fault, error)) = inner.call() {
            inner.refuses |= fault != Fault::PowerLoss && !inner.off;
            return Err(error);
        }
        if let Some(lied) = inner.lies {
            let inner = &mut *inner;
            for (name, inode) in &inner.names {
                if !name.starts_with(lied) {
                    inner.durable_names.insert(name.clone(), *inode);
                }
            }
            let names = &inner.names;
            inner.durable_names.retain(|name, _| name.starts_with(lied) || names.contains_key(name));
            return Ok(());
        }
        inner.durable_names = inner.names.clone();
        inner.unsynced_names.clear();
        Ok(())
    }
}

impl FaultyFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let wrong = inner.call();
        let file = &mut inner.files[self.inode];
        let done = match (&wrong, change) {
            (None | Some((Fault::PowerLoss, _)), change) => Some(change),
            (Some((Fault::Full, _)), Change::Write(at, bytes)) => {
                Some(Change::Write(at, bytes[..bytes.len() / 2].to_vec()))
            }
            _ => None,
        };
        if let Some(change) = done {
            change.apply(&mut file.bytes);
            file.unsynced.push(change);
        }
        wrong.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl DiskFile for FaultyFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.inode].bytes.len() as u64)
    }

    fn read_at(&self, from: u64, into: &mut [u8]) -> io::Result<()> {
        let inner = self.disk.lock();
        let from = usize::try_from(from).unwrap();
        let bytes = inner.files[self.inode].bytes.get(from..from + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write(usize::try_from(at).unwrap(), bytes.to_vec()))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Truncate(usize::try_from(bytes).unwrap()))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        // Whoever finds the disk then finds what was written before.
        let was_off = inner.off;
        let wrong = inner.call();
        let lied = inner.lies.is_some_and(|lied| {
            inner.names.iter().any(|(name, inode)| *inode == self.inode && name.starts_with(lied))
        });
        let file = &mut inner.files[self.inode];
        match wrong {
            None if lied => Ok(()),
            Some((fault, error)) => {
                if fault != Fault::PowerLoss && !was_off {
                    file.fail_to_sync();
                }
                Err(error)
            }
            None => {
                file.sync();
                Ok(())
            }
        }
    }
}
