//! The status of a replica → metric families, on nodes that have one.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::catalog::catalog;
use super::family::{Spec, flag, float};
use crate::consensus::{Role, Status};
use crate::storage::EntryId;

catalog! {
    ROLE = gauge("replica_role", ["role"],
        "1 for what this replica is to the others, 0 for what it is not.");
    TERM = gauge("replica_term", [],
        "The highest term this replica knows of.");
    LEADER_KNOWN = gauge("replica_leader_known", [],
        "1 while this replica knows who leads, else 0.");
    MEMBERS = gauge("replica_members", ["kind"],
        "Replicas in the cluster as far as this one knows: voters, and learners, which have no vote.");
    INDEX = gauge("replica_index", ["of"],
        "Indexes of the log: the first and the last entry on this replica's disk, the last one it knows to be committed, \
         the last one applied, and the last one in its newest snapshot.");
    IN_DOUBT = gauge("replica_in_doubt", [],
        "1 while what this replica acknowledged may be lost, so that it does not vote, else 0.");
    SNAPSHOTS_FAILED = counter("replica_snapshots_failed_total", [],
        "Snapshots that this replica could not take: its log grows until it can.");
    CLOCKS_SURE = gauge("replica_clocks_sure", [],
        "0 for a minute after a clock stepped, drifted or stood too far from this node's, else 1.");
    LEASES = gauge("replica_leases", [],
        "1 while this replica gives leases: it leads, and its clocks and those of a majority can be trusted.");
    MESSAGES = counter("replica_messages_sent_total", ["lane"],
        "Messages of the engine to other replicas.");
    BATCHES = counter("replica_batches_sent_total", ["lane"],
        "Batches that these messages were given to the mesh in.");
    ENTRIES = counter("replica_entries_sent_total", ["datacenter"],
        "Entries that left for a datacenter, each counted once per batch that has it: beside those that were appended, how \
         often an entry crosses.");
    SNAPSHOT_BYTES = counter("replica_snapshot_sent_bytes_total", ["as"],
        "Bytes of snapshots that left for other replicas: as the leader, or lent, to one of this datacenter for a leader elsewhere.");
}

/// Where the numbers come from.
pub(super) type Source = Box<dyn Fn() -> Status + Send + Sync>;

/// All families of a replica.
pub(super) struct Replica {
    descs: Vec<Desc>,
    source: Source,
}

impl Replica {
    pub(super) fn new(source: Source) -> Self {
        Self { descs: ALL.iter().map(|spec| spec.desc()).collect(), source }
    }
}

impl Collector for Replica {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&(self.source)())
    }
}

fn families(status: &Status) -> Vec<MetricFamily> {
    let index = |id: Option<EntryId>| id.map(|id| id.index);
    let indexes = [
        ("first", status.purged.map(|purged| purged.index + 1).or(Some(0))),
        ("last", status.last),
        ("committed", index(status.committed)),
        ("applied", index(status.applied)),
        ("snapshot", index(status.snapshot)),
    ];
    let count = |replicas: &[_]| float(replicas.len() as u64);
    let snapshots = status.sent.snapshots;
    let lanes = [("control", status.sent.control), ("bulk", status.sent.bulk)];
    vec![
        ROLE.family().each(Role::ALL, |f, role| f.value(&[role.label()], flag(status.role == role))).done(),
        TERM.family().value(&[], float(status.term)).done(),
        LEADER_KNOWN.family().value(&[], flag(status.leader.is_some())).done(),
        MEMBERS
            .family()
            .value(&["voter"], count(&status.voters))
            .value(&["learner"], count(&status.learners))
            .done(),
        // What there is none of has no index.
        INDEX
            .family()
            .each(indexes, |f, (of, index)| f.each(index, |f, index| f.value(&[of], float(index))))
            .done(),
        IN_DOUBT.family().value(&[], flag(status.in_doubt)).done(),
        SNAPSHOTS_FAILED.family().count(&[], status.snapshots_failed).done(),
        CLOCKS_SURE.family().value(&[], flag(status.clocks_sure)).done(),
        LEASES.family().value(&[], flag(status.leases)).done(),
        MESSAGES.family().each(lanes, |f, (lane, counted)| f.count(&[lane], counted.messages)).done(),
        BATCHES.family().each(lanes, |f, (lane, counted)| f.count(&[lane], counted.batches)).done(),
        ENTRIES
            .family()
            .each(&status.sent.entries, |f, (datacenter, count)| f.count(&[datacenter.as_str()], *count))
            .done(),
        SNAPSHOT_BYTES
            .family()
            .each([("leader", snapshots.own), ("lent", snapshots.lent)], |f, (by, bytes)| {
                f.count(&[by], bytes)
            })
            .done(),
    ]
}
