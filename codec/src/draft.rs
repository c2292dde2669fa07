//! The plan of one frame: its head and data column, if those are shorter than the messages one after another.

use crate::data::DataColumn;
use crate::echo::{Received, Sent};
use crate::head::HeadWriter;
use crate::in_step::InStep;
use crate::limits::{DESTINATIONS_MAX, Limits};
use crate::openings::Openings;
use crate::past::PastRuns;
use crate::plan::{Planner, Scratch};
use crate::records::Records;
use crate::steady::Steady;
use crate::streams::Streams;
use crate::texts::{Span, Texts};
use crate::varint;
use crate::work::Work;

/// How many destinations are planned together, from the first attempt to the last.
const GROUPS: [usize; 3] = [DESTINATIONS_MAX, 128, 16];

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) texts: Texts<'a>,
    /// The messages that are not empty.
    pub(crate) spans: &'a [Span],
    pub(crate) count: usize,
    /// Bytes of all messages, and of their lengths in a frame that is their concatenation.
    pub(crate) bytes: usize,
    pub(crate) lens_bytes: usize,
    /// Those of the receivers.
    pub(crate) limits: &'a Limits,
}

/// What a frame of a connection may refer to, and what is to become of it.
pub(crate) struct Memory<'a> {
    /// What the frame's checksum goes on from.
    pub(crate) begins: u32,
    /// The number of every message's stream.
    pub(crate) numbers: &'a [u32],
    pub(crate) streams: &'a Streams,
    /// Those of this frame's messages.
    pub(crate) openings: &'a Openings<'a>,
    /// Room to compare in.
    pub(crate) runs: &'a mut PastRuns,
    /// What the receiver of this frame sent.
    pub(crate) received: Option<&'a Received>,
    /// Where this frame's data is kept.
    pub(crate) sent: Option<&'a mut Sent>,
    /// Later frames may refer to this one, and this one to earlier ones.
    pub(crate) remember: bool,
}

impl<'a> Memory<'a> {
    /// What the receiver sent, if any of it is kept.
    fn echo(&self) -> Option<&'a Received> {
        self.received.filter(|received| !received.is_empty())
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Head and data column are shorter than the concatenation, and within the limits.
    pub(crate) split: bool,
    /// Bytes of records that refer to what the receiver sent.
    pub(crate) echoed_bytes: usize,
    pub(crate) work: Work,
}

/// Plans frames of up to `64 * W` destinations, one after the other.
pub(crate) struct Draft<const W: usize> {
    head: HeadWriter<W>,
    /// See [`Records`].
    waiting: Vec<Span>,
    scratch: Scratch<W>,
    in_step: InStep<W>,
}

impl<const W: usize> Draft<W> {
    /// Empty memory; `seed` is that of the hash.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            head: HeadWriter::new(),
            waiting: Vec::new(),
            scratch: Scratch::new(seed),
            in_step: InStep::default(),
        }
    }

    /// The head that was planned last.
    pub(crate) fn head(&self) -> &[u8] {
        self.head.bytes()
    }

    /// Plans a frame of short messages that are in step with the ones before. False if they are not; then nothing is planned.
    pub(crate) fn plan_steady(
        &mut self,
        input: Input<'_>,
        data: &mut DataColumn,
        memory: &Memory<'_>,
        work: &mut Work,
    ) -> bool {
        let Input { texts, count, .. } = input;
        if memory.echo().is_some() || !memory.remember {
            return false;
        }
        let Some(steady) = Steady::find(memory.openings.all(), memory.numbers, memory.streams, work) else {
            return false;
        };
        self.head.reset(count);
        data.reset();
        let mut out = Records::new(texts, &mut self.head, data, &mut self.waiting, *work);
        steady.put(&mut out, &mut self.scratch);
        *work = out.finish(true);
        self.saves(input, data) && self.head.within(input.limits)
    }

    /// Whether what was planned is shorter than a concatenation.
    fn saves(&self, input: Input<'_>, data: &DataColumn) -> bool {
        let head_bytes = self.head.bytes().len();
        varint::len(head_bytes) + head_bytes + data.bytes < input.lens_bytes + input.bytes
    }

    /// Plans a frame. Its data goes to `data`, which is of no use where the outcome is not a split.
    pub(crate) fn plan(
        &mut self,
        input: Input<'_>,
        data: &mut DataColumn,
        mut memory: Option<&mut Memory<'_>>,
        work: Work,
    ) -> Outcome {
        let Input { texts, spans, count, limits, .. } = input;
        // Whoever sees the length of a frame must not learn from it what earlier ones have in common with a secret.
        memory = memory.filter(|memory| memory.remember);
        let mut outcome = Outcome { split: false, echoed_bytes: 0, work };
        let mut in_step = false;
        if let Some(memory) = &mut memory {
            let Memory { numbers, streams, openings, .. } = **memory;
            in_step = self.in_step.find(openings, numbers, streams, &mut outcome.work);
            memory.runs.clear();
            if !in_step {
                memory.runs.find(openings, numbers, streams, self.in_step.alike(), &mut outcome.work);
            }
        }
        let refers = in_step
            || memory.as_ref().is_some_and(|memory| !memory.runs.is_empty() || memory.echo().is_some());
        // Many destinations that differ in many places make more pieces than a receiver takes; smaller groups, each
        // with its own copy of what it shares, make fewer.
        for &group in &GROUPS {
            if count == 1 && !refers {
                break;
            }
            if group != GROUPS[0] && group >= count {
                continue;
            }
            self.head.reset(count);
            data.reset();
            let mut planner = Planner {
                texts,
                scratch: &mut self.scratch,
                out: Records::new(texts, &mut self.head, data, &mut self.waiting, outcome.work),
            };
            if let Some(memory) = &memory {
                planner.out.remember(memory.runs, count);
                if let Some(received) = memory.echo() {
                    planner.out.echo(received, limits);
                }
            }
            for spans in spans.chunks(group) {
                match memory.as_ref().filter(|_| in_step) {
                    Some(memory) => planner.plan_in_step(spans, &self.in_step, memory.openings),
                    None => planner.plan(spans),
                }
            }
            // A concatenation says nothing of a message but its length, and that of empty ones too.
            outcome.work = planner.out.finish(spans.len() < count);
            if !self.waiting.is_empty() {
                break;
            }
            let saves = self.saves(input, data);
            outcome.split = saves && self.head.within(limits);
            // What saves nothing together saves nothing in groups either.
            if outcome.split || !saves {
                break;
            }
        }
        outcome.echoed_bytes = if outcome.split { self.head.echoed_bytes() } else { 0 };
        outcome
    }
}
