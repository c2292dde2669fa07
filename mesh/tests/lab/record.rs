//! What was done to one node, and the same again to another one that is by itself: it takes the same course, for a machine
//! knows nothing but what it is told, and has the caches of its core for itself, as a process has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use trunkline_codec::Options;
use trunkline_mesh::id::Incarnation;
use trunkline_mesh::message::Batch;
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{FrameReader, Written};
use trunkline_mesh::proto::node::{Action, ConnId, Node, NodeInit};
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Topology;

use super::{Lab, id};

/// Something that is done to a machine.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Submit(Batch),
    Dialed(ConnId),
    Arrived(ConnId, Bytes),
    Wrote(ConnId),
    Timeout,
}

/// All that was done to one since it began.
#[derive(Debug)]
pub(crate) struct Record {
    host: usize,
    calls: Vec<(Micros, Call)>,
    /// What it wrote, bytes.
    pub(super) written: u64,
}

impl Record {
    /// Of the machine at this index.
    pub(crate) fn of(host: usize) -> Self {
        Self { host, calls: Vec::new(), written: 0 }
    }

    pub(super) fn note(&mut self, at: Micros, call: Call) {
        self.calls.push((at, call));
    }
}

impl Lab {
    pub(super) fn record_of(&mut self, host: usize) -> Option<&mut Record> {
        self.record.as_mut().filter(|record| record.host == host)
    }

    pub(super) fn note(&mut self, host: usize, call: Call) {
        let now = self.now;
        if let Some(record) = self.record_of(host) {
            record.note(now, call);
        }
    }
}

/// The beginning of a node of a lab.
pub(super) fn init(
    topology: &Arc<Topology>,
    settings: &Settings,
    name: &str,
    seed: u64,
    ahead_us: u64,
) -> NodeInit {
    NodeInit {
        topology: Arc::clone(topology),
        node: id(name),
        incarnation: Incarnation(1_700_000_000_000_000 + seed),
        settings: settings.clone(),
        seed,
        wall_base_us: 1_700_000_000_000_000 + ahead_us,
    }
}

/// A connection of the one that is by itself.
struct Conn {
    reader: FrameReader,
    buffer: BytesMut,
    encoder: BatchEncoder,
    writing: Option<(Vec<Written>, usize)>,
}

/// What a stretch of a record took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) took: Duration,
    /// What it wrote meanwhile, bytes.
    pub(crate) written: u64,
    /// Messages of which it learned what became of them.
    pub(crate) decided: u64,
}

/// A node that dials, by itself.
struct Alone {
    node: Node,
    conns: BTreeMap<ConnId, Conn>,
    seen: Replayed,
}

/// Does to a new node what was done to the recorded one, and tells for each stretch that ends at one of these times, the last one
/// now, what that took. It must take the same course to the byte. Each stretch is run by `run`, which may look at it from outside.
pub(crate) fn replay(
    lab: &Lab,
    record: &Record,
    ends: &[Micros],
    mut run: impl FnMut(&mut dyn FnMut()),
) -> Vec<Replayed> {
    let name = lab.hosts[record.host].id.as_str();
    let seed = u64::try_from(record.host).unwrap() + 1;
    let mut now = Micros(1_000_000);
    let node = Node::new(init(&lab.topology, &lab.settings, name, seed, 0), now).unwrap();
    let mut alone = Alone { node, conns: BTreeMap::new(), seen: Replayed::default() };
    alone.pump(now);
    let (mut from, mut stretches) = (0, Vec::new());
    for end in ends {
        alone.seen = Replayed::default();
        let until = record.calls.partition_point(|(at, _)| at <= end);
        run(&mut || {
            for (at, call) in &record.calls[from..until] {
                now = *at;
                // Copied right before, for then it is in the caches, as what a caller has just made or a socket has just brought.
                // To copy it is not the node's work.
                let call = call.clone();
                let began = Instant::now();
                alone.handle(call, now);
                alone.seen.took += began.elapsed();
            }
        });
        from = until;
        stretches.push(alone.seen);
    }
    assert_eq!(stretches.iter().map(|stretch| stretch.written).sum::<u64>(), record.written);
    stretches
}

impl Alone {
    fn handle(&mut self, call: Call, now: Micros) {
        match call {
            Call::Submit(batch) => {
                self.node.submit(batch, now).expect("it was taken before");
            }
            Call::Dialed(conn) => {
                self.node.handle_dialed(conn, now);
                let new = Conn {
                    reader: FrameReader::new(),
                    buffer: BytesMut::new(),
                    encoder: BatchEncoder::new(Options::default(), None),
                    writing: None,
                };
                self.conns.insert(conn, new);
            }
            Call::Arrived(id, bytes) => {
                let Some(conn) = self.conns.get_mut(&id) else { return };
                conn.buffer.extend_from_slice(&bytes);
                while let Some((received, length)) =
                    conn.reader.read(&mut conn.buffer).expect("as it was before")
                {
                    if let Some(opened) = self.node.handle_frame(id, received, length, now) {
                        conn.reader.open(&opened);
                        conn.encoder = BatchEncoder::new(Options::default(), Some(&opened));
                    }
                }
            }
            Call::Wrote(id) => {
                let writing = self.conns.get_mut(&id).and_then(|conn| conn.writing.take());
                let (written, bytes) = writing.expect("it wrote that");
                self.node.handle_written(id, &written, bytes, now);
                self.write(id, now);
            }
            Call::Timeout => self.node.handle_timeout(now),
        }
        self.pump(now);
    }

    fn write(&mut self, id: ConnId, now: Micros) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.writing.is_none()) else { return };
        let transmit = self.node.poll_transmit(id, now);
        if transmit.is_empty() {
            return;
        }
        let (mut slices, mut written) = (transmit.frames, Vec::new());
        for batch in &transmit.batches {
            written.push(batch.encode(&mut conn.encoder, &mut slices));
        }
        let bytes = slices.iter().map(Bytes::len).sum();
        self.seen.written += bytes as u64;
        conn.writing = Some((written, bytes));
    }

    fn pump(&mut self, now: Micros) {
        while let Some(action) = self.node.poll_action() {
            if let Action::Ready(conn) = action {
                self.write(conn, now);
            }
        }
        while self.node.poll_decided().is_some() {
            self.seen.decided += 1;
        }
    }
}
