//! A snapshot on its way to another replica: parts of its file in order, several under way; the receiver says after each up to where
//! it has all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::Snapshot;
use trunkline_mesh::Lane;

use super::super::event::Event;
use super::super::replica_id::{Place, ReplicaId};
use super::super::tasks::blocking;
use super::super::time::timeout;
use super::machine_store::SnapshotData;
use super::message::{Body, Envelope, Got, Part};
use super::network::Wire;
use super::types::*;
use crate::storage::{Disk, EntryId};

/// A part of a snapshot, B.
const PART_BYTES: usize = 256 << 10;
/// Parts under way.
const PARTS_MAX: u64 = 8;
/// Installing takes time, and is waited for as long as so many parts would be.
pub(super) const INSTALLED_WITHIN: u32 = 6;

pub(super) type EngineSnapshot<D> = Snapshot<CommittedLeaderId, ReplicaId, Place, SnapshotData<D>>;

/// Whom a snapshot is for.
#[derive(Clone, Copy)]
pub(super) struct Receives<'a> {
    pub(super) replica: ReplicaId,
    pub(super) place: &'a Place,
    /// By whose leadership.
    pub(super) vote: EngineVote,
    /// The leader, where it asked this node to send its own, and where to write down how many bytes left.
    pub(super) asked_by: Option<(ReplicaId, &'a AtomicU64)>,
}

/// Tells what became of it, also where nobody waits for that any longer.
struct Told<'a> {
    wire: &'a Wire,
    to: Receives<'a>,
    last: Option<EntryId>,
    bytes: u64,
    installed: bool,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let (to, bytes, installed) = (self.to.replica, self.bytes, self.installed);
        let Some(index) = self.last.map(|last| last.index) else { return };
        self.wire.events.record(&match self.to.asked_by {
            None => Event::SnapshotSent { index, to, bytes, installed },
            Some((asked_by, _)) => Event::SnapshotLent { index, to, asked_by, bytes, installed },
        });
    }
}

impl Wire {
    /// Sends a snapshot of this node's disk, and waits until it is installed. The vote of the receiver.
    ///
    /// # Errors
    ///
    /// Why it is not there, or not known to be.
    pub(super) async fn send_snapshot<D: Disk>(
        &self,
        to: Receives<'_>,
        snapshot: EngineSnapshot<D>,
    ) -> Result<EngineVote, String> {
        let SnapshotData::Own(file) = snapshot.snapshot else {
            return Err("the snapshot is not on this node's disk".to_owned());
        };
        let (file, place) = (Arc::new(file), to.place);
        let membership = snapshot
            .meta
            .last_membership
            .log_id()
            .as_ref()
            .map(|since| (id_of(since), json_of(snapshot.meta.last_membership.membership())));
        let last = snapshot.meta.last_log_id.as_ref().map(id_of);
        let total = file.bytes();
        let mut call = self.calls.open(Some(to.replica), 64);
        let mut told = Told { wire: self, to, last, bytes: 0, installed: false };
        let mut taken = 0;
        loop {
            while told.bytes < total && told.bytes - taken < PARTS_MAX * PART_BYTES as u64 {
                let (reader, offset) = (Arc::clone(&file), told.bytes);
                let read = blocking(move || reader.read_at(offset, PART_BYTES)).await;
                let bytes = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
                let count = bytes.len() as u64;
                let (vote, membership) = (to.vote, membership.clone());
                let part = Part { vote, last, membership, total, offset, bytes: bytes.into() };
                let envelope = Envelope {
                    from: self.own,
                    to: Some(to.replica),
                    call: call.number,
                    seq: offset,
                    body: Body::Snapshot(part),
                };
                self.send(place, Lane::Bulk, &envelope).map_err(|full| full.to_string())?;
                told.bytes += count;
                self.outbox.count_snapshot(to.asked_by.is_some(), count);
                to.asked_by.iter().for_each(|(_, left)| left.store(told.bytes, Ordering::Relaxed));
            }
            let patience = self.patience * if told.bytes == total { INSTALLED_WITHIN } else { 1 };
            let body = match timeout(patience, call.answer()).await {
                Ok(Some((_, _, body))) => body,
                Ok(None) => return Err(format!("{place} was restarted while it took a snapshot")),
                Err(_) => return Err(format!("{place} took no part of a snapshot within {patience:?}")),
            };
            match body {
                Body::Got { result: Got::Next, offset, .. } if offset <= told.bytes => {
                    taken = taken.max(offset);
                }
                Body::Got { result: Got::Installed, vote, .. } => {
                    told.installed = true;
                    return Ok(vote);
                }
                Body::Got { result: Got::Again, .. } => {
                    return Err(format!("{place} missed a part of a snapshot"));
                }
                _ => return Err(format!("{place} cannot take a snapshot")),
            }
        }
    }
}
