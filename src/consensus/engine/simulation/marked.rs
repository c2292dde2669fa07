//! Snapshots that the program writes itself, in a cluster of one: whatever happens between the two calls.

use std::future::Future;
use std::io::{self, Read, Write};
use std::time::Duration;

use tokio::time::sleep;
use trunkline_mesh::{Datacenter, NodeId};

use super::super::super::error::MarkerError;
use super::super::super::key_value::{KeyValue, Operation};
use super::super::super::machine::StateMachine;
use super::super::super::marker::Marker;
use super::super::super::replica::Consistency;
use super::super::super::replica_id::{Place, ReplicaId};
use super::super::Timing;
use super::checker::Checker;
use super::faults::Counts;
use super::net::Net;
use super::node::{End, Node, Running, Surroundings, Watched};
use super::trace::Trace;
use crate::storage::EntryId;
use crate::storage::faulty::Fault;

/// Nothing takes longer.
const SOON: Duration = Duration::from_secs(60);

struct One {
    around: Surroundings,
    node: Node,
    luck: fastrand::Rng,
    puts: u64,
}

fn virtually<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    fastrand::seed(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async { tokio::time::timeout(SOON, test()).await.expect("it ends") })
}

impl One {
    async fn start(founds: bool) -> Self {
        let place = Place::known(NodeId::new("one").unwrap(), Datacenter::new("dc").unwrap());
        let trace = Trace::new();
        let checker = Checker::new(trace.clone());
        let mut luck = fastrand::Rng::with_seed(fastrand::u64(..));
        let net = Net::new(
            vec![place.clone()],
            luck.fork(),
            None,
            (checker.clone(), trace.clone(), Counts::default()),
        );
        // None but those of the program.
        let timing = Timing { snapshot_entries: u64::MAX, ..Timing::default() };
        let founders = if founds { vec![place.clone()] } else { Vec::new() };
        let around =
            Surroundings { net, checker, trace, counts: Counts::default(), planted: None, timing, founders };
        let mut one = Self { around, node: Node::new(0, place, ReplicaId(7)), luck, puts: 0 };
        one.run().await;
        one
    }

    async fn run(&mut self) {
        self.node.start(&self.around, false, (Duration::from_millis(1), 1)).await;
        assert!(self.node.running.is_some(), "it starts");
    }

    async fn restart(&mut self, end: End) {
        self.node.end(&self.around, end, &mut self.luck);
        self.run().await;
        assert_eq!(self.around.checker.violations(), Vec::<String>::new());
    }

    fn running(&self) -> Running {
        self.node.running.clone().expect("it runs")
    }

    /// On the node itself.
    async fn there<T>(&self, work: impl AsyncFnOnce(&Running) -> T) -> T {
        let running = self.running();
        running.scope.run(work(&running)).await.expect("it lives")
    }

    async fn put(&mut self, count: u64) {
        for _ in 0..count {
            let (key, value) = (format!("{:03}", self.puts), vec![b'v'; 1_000]);
            let value = [format!("{key} ").as_bytes(), &value].concat().into();
            let put = Operation::Put { key, value, if_index: None };
            self.there(async |running| running.access.propose(None, put.encode()).await).await.unwrap();
            self.puts += 1;
        }
    }

    /// All that was acknowledged is there.
    async fn has_all(&self) -> KeyValue {
        let look = |machine: &Watched| machine.machine.clone();
        let there = self.there(async |running| running.access.read(Consistency::Linearizable, look).await);
        let machine = there.await.unwrap().value;
        assert_eq!(machine.len() as u64, self.puts);
        machine
    }

    async fn begin(&self) -> Result<(Marker, KeyValue), MarkerError> {
        let look = |machine: &Watched| machine.machine.clone();
        self.there(async |running| running.access.begin_snapshot(look).await).await
    }

    async fn end(&self, marker: Marker) -> Result<(), MarkerError> {
        self.there(async |running| running.access.end_snapshot(marker).await).await
    }

    fn newest(&self) -> Option<EntryId> {
        self.running().snapshots.newest().map(|newest| newest.last())
    }

    /// The first indexes of the log's segments.
    fn segments(&self) -> Vec<u64> {
        let names = self.node.log.names();
        let first = |name: &String| name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok();
        let mut first: Vec<u64> = names.iter().filter_map(first).collect();
        first.sort_unstable();
        first
    }
}

fn content(state: &KeyValue) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.snapshot().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_program_writes_between_the_two_calls_is_the_snapshot_while_operations_go_on() {
    virtually(async || {
        let mut one = One::start(true).await;
        one.put(30).await;
        let (mut marker, state) = one.begin().await.unwrap();
        let last = marker.last();
        one.put(30).await;
        let before = one.segments();
        assert!(before.len() > 4 && before.contains(&(last.index + 1)), "ended at the marker: {before:?}");
        assert_eq!(state.len(), 30, "it stays as it was");
        assert_eq!(io::copy(&mut state.snapshot().unwrap(), &mut marker).unwrap(), marker.bytes());
        assert_eq!(one.newest(), None, "not before the end");
        one.end(marker).await.unwrap();
        assert_eq!(one.newest(), Some(last));
        let log = one.running().access.log.clone();
        while one.segments()[0] <= last.index {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((log.bounds().indexes().start, one.segments()[0]), (last.index + 1, last.index + 1));
        let told = one.there(async |running| running.access.engine.events(0)).await;
        assert!(told.last().unwrap().contains("snapshot_taken"), "{told:?}");
        drop(log);

        let machine = one.has_all().await;
        one.restart(End::PowerLoss).await;
        assert_eq!(one.has_all().await, machine);
        // The next one is later, also than what the log had at the start.
        one.put(3).await;
        let (mut marker, state) = one.begin().await.unwrap();
        assert!(marker.last() > last);
        marker.write_all(&content(&state)).unwrap();
        one.end(marker).await.unwrap();
        one.restart(End::Kill).await;
        one.has_all().await;
    });
}

/// Wherever it ends, the log has everything, and the marker is worth nothing.
#[test]
fn a_crash_between_the_two_calls_loses_nothing_and_the_marker_is_worth_nothing() {
    virtually(async || {
        for (end, part) in
            [(End::Kill, 0), (End::PowerLoss, 0), (End::Kill, 2), (End::PowerLoss, 2), (End::PowerLoss, 1)]
        {
            let mut one = One::start(true).await;
            one.put(12).await;
            let (mut marker, state) = one.begin().await.unwrap();
            one.put(8).await;
            let bytes = content(&state);
            marker.write_all(&bytes[..bytes.len() * part / 2]).unwrap();
            one.restart(end).await;
            assert!(one.node.snapshots.names().is_empty(), "{:?}", one.node.snapshots.names());
            assert!(marker.write_all(b"more").is_err());
            one.has_all().await;
            assert_eq!(one.end(marker).await, Err(MarkerError::Foreign));
            assert_eq!(one.newest(), None);
        }
    });
}

#[test]
fn whatever_the_disk_does_at_the_end_the_snapshot_is_whole_or_not_there() {
    virtually(async || {
        for fault in [Fault::PowerLoss, Fault::Error, Fault::Full] {
            for call in 1.. {
                let mut one = One::start(true).await;
                one.put(12).await;
                let (mut marker, state) = one.begin().await.unwrap();
                let last = marker.last();
                one.put(3).await;
                marker.write_all(&content(&state)).unwrap();
                let calls = one.node.snapshots.calls();
                one.node.snapshots.fail_at(call, fault);
                let ended = one.end(marker).await;
                let struck = one.node.snapshots.calls() >= calls + call;
                assert!(
                    matches!(ended, Ok(()) | Err(MarkerError::Disk { .. })),
                    "{fault:?} at {call}: {ended:?}"
                );
                assert!(struck || ended.is_ok(), "{ended:?}");
                let lasting = ended.is_ok();
                one.restart(End::PowerLoss).await;
                one.has_all().await;
                assert!(one.newest().is_none_or(|newest| newest == last), "{fault:?} at {call}");
                assert!(
                    !lasting || one.newest() == Some(last),
                    "{fault:?} at {call}: it said that it was there"
                );
                let left = one.node.snapshots.names().len();
                assert_eq!(left, usize::from(one.newest().is_some()), "nothing half made is left");
                // And it goes on.
                one.put(1).await;
                let (mut marker, state) = one.begin().await.unwrap();
                marker.write_all(&content(&state)).unwrap();
                one.end(marker).await.unwrap();
                if !struck {
                    break;
                }
            }
        }
    });
}

#[test]
fn one_marker_at_a_time_of_this_replica_and_newer_than_what_there_is() {
    virtually(async || {
        let empty = One::start(false).await;
        assert_eq!(empty.begin().await.unwrap_err(), MarkerError::NotApplied);
        let (mut one, mut other) = (One::start(true).await, One::start(true).await);
        one.put(3).await;
        other.put(3).await;
        let (marker, _) = one.begin().await.unwrap();
        assert_eq!(one.begin().await.unwrap_err(), MarkerError::UnderWay);
        assert_eq!(other.end(marker).await, Err(MarkerError::Foreign));
        // It is dropped: the turn is free, and its file is gone.
        assert!(one.node.snapshots.names().is_empty());
        let (mut marker, state) = one.begin().await.unwrap();
        one.put(1).await;
        marker.write_all(&content(&state)).unwrap();
        one.there(async |running| running.access.engine.snapshot().await).await.unwrap();
        while one.newest().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        let newest = one.newest().unwrap();
        assert!(newest > marker.last());
        let newer = MarkerError::Newer { index: newest.index };
        assert_eq!(one.end(marker).await, Err(newer.clone()));
        let segments = one.segments();
        assert_eq!(one.begin().await.unwrap_err(), newer);
        assert_eq!(one.segments(), segments, "nothing was begun");
        assert_eq!(one.newest(), Some(newest));
        assert_eq!(one.node.snapshots.names().len(), 1);
        // What the disk refused does not become one, whatever comes after.
        one.put(1).await;
        let (mut marker, state) = one.begin().await.unwrap();
        one.node.snapshots.fail_at(1, Fault::Full);
        let bytes = content(&state);
        let tried: Vec<bool> = (0..200).map(|_| marker.write_all(&bytes).is_ok()).collect();
        assert!(tried[0] && !tried[199], "it is written in pieces");
        assert!(matches!(one.end(marker).await, Err(MarkerError::Disk { .. })));
        assert_eq!(one.newest(), Some(newest));
        one.restart(End::Kill).await;
        one.has_all().await;
    });
}
