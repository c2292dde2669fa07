//! Bugs, planted one at a time at the seams of the driver: what a machine is given, writes and is said to have done. No
//! machine knows of them. A checker that has never failed proves nothing; with each of these it must.

use crate::id::{Incarnation, Lane};
use crate::message::{Batch, FailReason, Outcome};
use crate::proto::frame::{Received, SealedBatch};
use crate::settings::Settings;

/// More than a run sends.
const ENDLESS_BYTES: usize = 1 << 40;

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// What is sent again never leaves: a batch is dropped at the switch to another proxy.
    RetriesLost,
    /// Members say *decided* of what they only hold.
    AcksBeforeHandOver,
    /// Members forget what they have when a connection is reset, and go on under the same incarnation.
    WindowForgotten,
    /// What destinations hold the leader sends again.
    HeldRetried,
    /// While anybody anywhere takes nothing, all that the leader sends comes late.
    OneHoldsUpAll,
    /// What is not answered soon is sent again as a new message, with a new seq.
    RetryIsNewMessage,
    /// Senders are told of every failure that the message certainly did not arrive.
    NeverMaybe,
    /// Members hand over what they get and wait for no gap.
    GapsSkipped,
    /// Nobody says that a gap will never be filled, unless another message follows.
    FloorUntold,
    /// No budget of a datacenter is enforced, nor of the process.
    NoBudget,
    /// No deadline is kept.
    NoDeadlines,
    /// Members do not tell the lives of a sender apart.
    LivesConfused,
    /// Whoever has no room drops without a word.
    RefusalsLost,
    /// The sender is not told that a connection is gone.
    LossUnnoticed,
    /// A proxy mixes up who answered what, of the answers in one frame.
    AnswersConfused,
    /// The sender takes what came over an earlier connection for what came over this one, and names it.
    EchoesStale,
    /// A message in so many gives nothing of its budget back.
    ChargeLeaked,
    /// No message does.
    ChargesLeaked,
    /// Nobody sends anything once all is healed.
    SendersMute,
    /// The inbox of a member has no limit.
    InboxEndless,
    /// Members hold as much behind a gap as comes.
    ReorderEndless,
    /// The queue of a member at a proxy has no limit.
    QueueEndless,
    /// All queues of a proxy together have no limit.
    ProxyEndless,
    /// No budget of a destination is enforced.
    DestinationEndless,
    /// Messages arrive as if they were all of one kind.
    KindsLost,
    /// Messages take the other lane.
    LanesConfused,
    /// The slots of a destination are one.
    SlotsConfused,
    /// A message has the time that the most patient one of its batch has.
    DeadlineOfBatch,
    /// Whatever expires is said to have been refused.
    RefusedWithoutCause,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::RetriesLost,
        Self::AcksBeforeHandOver,
        Self::WindowForgotten,
        Self::HeldRetried,
        Self::OneHoldsUpAll,
        Self::RetryIsNewMessage,
        Self::NeverMaybe,
        Self::GapsSkipped,
        Self::FloorUntold,
        Self::NoBudget,
        Self::NoDeadlines,
        Self::LivesConfused,
        Self::RefusalsLost,
        Self::LossUnnoticed,
        Self::AnswersConfused,
        Self::EchoesStale,
        Self::ChargeLeaked,
        Self::ChargesLeaked,
        Self::SendersMute,
        Self::InboxEndless,
        Self::ReorderEndless,
        Self::QueueEndless,
        Self::ProxyEndless,
        Self::DestinationEndless,
        Self::KindsLost,
        Self::LanesConfused,
        Self::SlotsConfused,
        Self::DeadlineOfBatch,
        Self::RefusedWithoutCause,
    ];

    /// What the checker says of it, in part: no other violation will do.
    #[must_use]
    pub fn violation(self) -> &'static str {
        match self {
            Self::RetriesLost | Self::FloorUntold => "sent after healing, but",
            Self::AcksBeforeHandOver | Self::GapsSkipped => "told delivered, ",
            Self::WindowForgotten | Self::RetryIsNewMessage => "got it twice in one life",
            Self::HeldRetried => "was sent again, though",
            Self::OneHoldsUpAll => "and nothing was wrong there",
            Self::NeverMaybe => "got it after the sender was told it never would",
            Self::NoBudget => "charged to the budget of",
            Self::NoDeadlines => " deadline",
            Self::KindsLost | Self::LanesConfused => "and it was sent on",
            Self::SlotsConfused => "nothing newer of its slot was sent",
            Self::DeadlineOfBatch => "after its own deadline",
            Self::RefusedWithoutCause => "nobody on its way was short of room",
            Self::LivesConfused => "never got it",
            Self::RefusalsLost => "the leader heard of none",
            Self::LossUnnoticed => "waited for a timeout, and nobody was silent",
            Self::AnswersConfused => "who never sent it",
            Self::EchoesStale => "protocol errors",
            Self::ChargeLeaked => "0 messages are undecided at the end, and charged for are",
            Self::ChargesLeaked => "was turned away after healing",
            Self::SendersMute => "nothing was sent after healing",
            Self::InboxEndless => "bytes in its inbox, at most",
            Self::ReorderEndless => "bytes out of turn",
            Self::QueueEndless => "bytes in the queue",
            Self::ProxyEndless => "bytes beyond the parts of its queues, at most",
            Self::DestinationEndless => "bytes charged to a destination",
        }
    }

    /// Of so many batches the leader gives back nothing when their messages are decided; 0 for none.
    pub(super) fn leaks(self) -> u64 {
        match self {
            Self::ChargeLeaked => 200,
            Self::ChargesLeaked => 1,
            _ => 0,
        }
    }

    /// A frame on its way into the leader.
    pub(super) fn into_leader(self, received: &mut Received) {
        let Received::Ack(ack) = received else { return };
        for entry in &mut ack.flows {
            match self {
                Self::AcksBeforeHandOver => {
                    let held: u32 = entry.held.drain(..).map(u64::count_ones).sum();
                    entry.decided += u64::from(held);
                }
                Self::HeldRetried => entry.held.clear(),
                Self::RefusalsLost => entry.refused.clear(),
                _ => return,
            }
        }
    }

    /// A frame on its way into a member.
    pub(super) fn into_member(self, received: &mut Received) {
        let Received::Roster(roster) = received else { return };
        if self == Self::LivesConfused {
            roster.flows.iter_mut().for_each(|flow| flow.origin_incarnation = Incarnation(1));
        }
    }

    /// A batch on its way out of the leader. False when it does not reach the wire.
    pub(super) fn out_of_leader(self, batch: &mut SealedBatch) -> bool {
        match self {
            Self::RetriesLost => batch.envelope.attempt == 1,
            Self::GapsSkipped => {
                batch.envelope.runs.iter_mut().for_each(|run| run.floor_back = 0);
                true
            }
            Self::FloorUntold => {
                if batch.envelope.runs.iter().all(|run| run.count == 0) {
                    return false;
                }
                let mut runs = batch.envelope.runs.iter();
                batch.payloads.retain(|_| runs.next().is_some_and(|run| run.count > 0));
                batch.envelope.runs.retain(|run| run.count > 0);
                true
            }
            _ => true,
        }
    }

    /// A batch on its way out of a proxy.
    pub(super) fn out_of_proxy(self, batch: &mut SealedBatch) {
        if self == Self::AnswersConfused {
            batch.payloads.rotate_left(1);
        }
    }

    /// An outcome on its way to the application.
    pub(super) fn told(self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failed { reason, .. } if self == Self::NeverMaybe && reason != FailReason::Closed => {
                Outcome::Failed { reason, maybe_delivered: false }
            }
            Outcome::Failed { reason: FailReason::Expired, maybe_delivered }
                if self == Self::RefusedWithoutCause =>
            {
                Outcome::Failed { reason: FailReason::Refused, maybe_delivered }
            }
            outcome => outcome,
        }
    }

    /// A batch on its way into the leader.
    pub(super) fn submitted(self, batch: &mut Batch) {
        let longest = batch.messages.iter().filter_map(|message| message.deadline).max();
        for message in &mut batch.messages {
            match self {
                Self::NoDeadlines => message.deadline = None,
                Self::DeadlineOfBatch => message.deadline = longest,
                Self::KindsLost => message.kind = 0,
                Self::SlotsConfused => message.slot = message.slot.map(|_| 1),
                Self::LanesConfused => {
                    message.lane = if message.lane == Lane::Bulk { Lane::Control } else { Lane::Bulk };
                }
                _ => {}
            }
        }
    }

    /// What a node is started with, where the driver holds it to other settings.
    pub(super) fn settings(self, settings: Settings) -> Settings {
        match self {
            Self::NoBudget => {
                Settings { datacenter_budget_bytes: usize::MAX, process_budget_bytes: usize::MAX, ..settings }
            }
            Self::InboxEndless => Settings { inbox_bytes_max: ENDLESS_BYTES, ..settings },
            Self::ReorderEndless => Settings { reorder_bytes_max: ENDLESS_BYTES, ..settings },
            Self::QueueEndless => Settings { member_queue_bytes_max: ENDLESS_BYTES, ..settings },
            Self::ProxyEndless => Settings { proxy_queue_bytes_max: ENDLESS_BYTES, ..settings },
            Self::DestinationEndless => Settings { destination_budget_bytes: ENDLESS_BYTES, ..settings },
            _ => settings,
        }
    }
}
