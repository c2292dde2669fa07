//! The control bodies as structs, and the one place that knows how they become bytes (bincode).
//!
//! bincode's variable integers are not LEB128; PROTOCOL.md shows them. Everything that calls bincode is in this file, so
//! that it can be replaced: golden bytes and a parity test against a second implementation hold the replacement to it.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::schema::describe;
use super::window::WINDOW_SEQS;
use crate::id::{ClusterId, Datacenter, Incarnation, NodeId, Seq};

/// Sent once, before the first frame, by both ends of a connection: magic and the version of the handshake itself.
/// A peer that speaks something else is known by its first byte.
pub const PREAMBLE: [u8; 8] = *b"TRUNKLN\x01";

/// The one wire version this build speaks.
pub const WIRE_VERSION: u16 = 1;

/// Feature bit: batches are codec frames of a connection, which refer to earlier ones. Used if both ends have it.
pub const FEATURE_HISTORY: u64 = 1;

/// Feature bit: the second stage of a batch may be zstd. It is used towards an end that has it.
pub const FEATURE_ZSTD: u64 = 2;

/// Feature bit: over a link that was dialled to a proxy, what its datacenter's members send to the dialler may come back; and
/// a proxy takes that from its members over the links that it dialled. Used where both ends of each of the two links have it.
pub const FEATURE_BACK: u64 = 4;

/// Feature bit: who dialled a bulk connection between datacenters names what the other end sent over it, and does not send it
/// back. Used if both ends have it and [`FEATURE_HISTORY`].
pub const FEATURE_ECHO: u64 = 8;

/// The features of this build.
pub const FEATURES: u64 =
    FEATURE_HISTORY | FEATURE_BACK | FEATURE_ECHO | if cfg!(feature = "zstd") { FEATURE_ZSTD } else { 0 };

/// The control structs of this wire version in the order of their types, each as its schema text: computed from the
/// definitions below, so that a field that changes cannot keep its hash.
///
/// # Panics
/// Never for the structs of this file; a golden test has their texts.
#[must_use]
pub fn control_structs() -> [String; 10] {
    [
        describe::<Hello>(),
        describe::<Welcome>(),
        describe::<Refuse>(),
        describe::<Confirm>(),
        describe::<Close>(),
        describe::<Ping>(),
        describe::<Pong>(),
        describe::<Roster>(),
        describe::<Envelope>(),
        describe::<Ack>(),
    ]
    .map(|text| text.expect("control structs are numbers, texts, lists and structs"))
}

/// The schema text of this wire version.
#[must_use]
pub fn schema() -> String {
    control_structs().join(";")
}

/// FNV-1a, 64 bits: short, fixed for ever, and no security rests on it.
#[must_use]
pub const fn schema_hash(schema: &str) -> u64 {
    let bytes = schema.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// A wire version a node speaks, and the hash of its schema.
pub type VersionOffer = (u16, u64);

/// What a node offers in its handshakes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Wire versions it speaks, ascending.
    pub versions: Vec<VersionOffer>,
    /// Feature bits it has.
    pub features: u64,
}

impl Default for Offer {
    /// What this build has.
    fn default() -> Self {
        Self { versions: offered_versions(), features: FEATURES }
    }
}

/// The versions of this build.
#[must_use]
pub fn offered_versions() -> Vec<VersionOffer> {
    static HASH: LazyLock<u64> = LazyLock::new(|| schema_hash(&schema()));
    vec![(WIRE_VERSION, *HASH)]
}

/// First frame of the dialling end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Must be equal on both sides.
    pub cluster: ClusterId,
    /// Who dials.
    pub node: NodeId,
    /// Where it stands; must agree with the acceptor's topology.
    pub datacenter: Datacenter,
    /// bit 0 origin, 1 member, 2 proxy. Informative: each side trusts its own topology.
    pub roles: u8,
    /// The dialler's incarnation.
    pub incarnation: Incarnation,
    /// All wire versions it speaks, each with its schema hash, ascending.
    pub versions: Vec<VersionOffer>,
    /// Feature bits, such as [`FEATURE_HISTORY`]; unknown ones are ignored.
    pub features: u64,
    /// Largest frame it accepts, bytes.
    pub frame_bytes_max: u64,
    /// Ties the two connections of a link together; drawn at random per dial.
    pub link: u64,
    /// 0 control, 1 bulk.
    pub lane: u8,
    /// The dialler's clock, µs, for the first round-trip and offset sample.
    pub sent_us: u64,
}

/// The acceptor's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// As in [`Hello`].
    pub cluster: ClusterId,
    /// Who accepted.
    pub node: NodeId,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// As in [`Hello`].
    pub roles: u8,
    /// The acceptor's incarnation.
    pub incarnation: Incarnation,
    /// All wire versions the acceptor speaks: with them the dialler checks the choice.
    pub versions: Vec<VersionOffer>,
    /// Feature bits.
    pub features: u64,
    /// Largest frame it accepts, bytes.
    pub frame_bytes_max: u64,
    /// The version chosen: the highest common one.
    pub version: u16,
    /// Copied from the Hello.
    pub hello_sent_us: u64,
    /// The acceptor's clock when the Hello came.
    pub hello_received_us: u64,
    /// The acceptor's clock when this was sent.
    pub sent_us: u64,
}

/// Of the text of a [`Refuse`], bytes are written, and logged, at most.
pub const REFUSE_DETAIL_BYTES_MAX: usize = 256;

/// Either end says why it will not talk, and closes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refuse {
    /// A [`RefuseCode`]; unknown codes are kept as numbers.
    pub code: u16,
    /// For people. At most [`REFUSE_DETAIL_BYTES_MAX`].
    pub detail: String,
    /// With [`RefuseCode::StaleIncarnation`]: the highest incarnation of the refused node seen. Else 0.
    pub highest_incarnation: Incarnation,
}

/// The dialler agrees with the choice; both ends now hold the same two messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confirm {
    /// The version chosen.
    pub version: u16,
    /// CRC32C over the bodies of Hello and Welcome as this end sent and received them: a stripped version list shows.
    pub transcript: u32,
}

/// Why a connection ends in good order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Close {
    /// A [`CloseCode`]; unknown codes mean *closing*.
    pub code: u16,
}

/// Asks for the peer's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ping {
    /// Sender's clock, µs.
    pub sent_us: u64,
}

/// Four stamps: with the moment of its arrival, round trip and clock offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pong {
    /// Copied from the ping.
    pub ping_sent_us: u64,
    /// Answerer's clock when the ping came.
    pub ping_received_us: u64,
    /// Answerer's clock when this was sent.
    pub sent_us: u64,
}

/// A row of the roster: from whom to whom, and which lives of both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// Who handed the messages to the mesh.
    pub origin: NodeId,
    /// Its incarnation.
    pub origin_incarnation: Incarnation,
    /// The member.
    pub destination: NodeId,
    /// The life of the member that is meant; unknown means any.
    pub destination_incarnation: Incarnation,
}

/// Appends rows to the sender's roster of this connection. Rows are never changed or removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Roster {
    /// Number of the first row; must equal the rows known so far.
    pub first: u32,
    /// The rows.
    pub flows: Vec<Flow>,
}

/// In front of the codec frame of a batch. Run i is message i of the codec frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender's number of this frame, for its own books and for logs.
    pub batch: u64,
    /// Highest attempt number of a message inside.
    pub attempt: u32,
    /// One per codec message. A destination may have several, in rising order.
    pub runs: Vec<Run>,
}

/// Consecutive messages for one destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Row of the roster.
    pub flow: u32,
    /// Seq of the first message; with count 0 the seq that comes next.
    pub first: Seq,
    /// Number of messages. 0: the run only carries the floor and asks for an ack.
    pub count: u32,
    /// `first` minus the floor, the sender's lowest seq still alive (never above `first`).
    pub floor_back: u64,
    /// Time left until nobody wants these messages any more, ms, rounded up.
    pub deadline_ms: u32,
}

impl Run {
    /// Its seqs exist, and are no more than a window has room for.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        u64::from(self.count) <= WINDOW_SEQS && self.first.0.checked_add(u64::from(self.count)).is_some()
    }

    /// The sender's lowest seq still alive, or `None` when the numbers cannot be.
    #[must_use]
    pub fn floor(&self) -> Option<Seq> {
        self.first.0.checked_sub(self.floor_back).filter(|floor| *floor >= 1).map(Seq)
    }
}

/// Acks of many flows. Each entry is the whole state of its flow, so a later one replaces an earlier one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ack {
    /// The entries.
    pub flows: Vec<AckFlow>,
}

/// Refused ranges in one ack entry. More come again with the next attempt.
pub const REFUSED_RANGES_MAX: usize = 1024;

impl Ack {
    /// Checks what the types do not say: entries in rising order of (lane, row), bitmaps within the window, and no more
    /// refused ranges than [`REFUSED_RANGES_MAX`]. So an ack costs its receiver no more than it is long, and than its rows have in flight.
    ///
    /// # Errors
    /// Which rule is broken.
    pub fn check(&self) -> Result<(), WireError> {
        let rising =
            self.flows.windows(2).all(|pair| (pair[0].lane, pair[0].flow) < (pair[1].lane, pair[1].flow));
        let rules = [
            (rising, "rows that do not rise"),
            (self.flows.iter().all(|flow| flow.held.len() <= HELD_WORDS_MAX), "a bitmap beyond the window"),
            (
                self.flows.iter().all(|flow| flow.refused.len() <= REFUSED_RANGES_MAX),
                "too many refused ranges",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, what)) => Err(WireError(format!("an ack with {what}"))),
        }
    }
}

/// Words of a bitmap over the whole window.
const HELD_WORDS_MAX: usize = (WINDOW_SEQS / 64) as usize;

/// What a member has of one flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AckFlow {
    /// Lane of the connection whose roster is meant.
    pub lane: u8,
    /// Row of that roster.
    pub flow: u32,
    /// The member's incarnation; 0 when nothing is known (a proxy that never heard of it).
    pub incarnation: Incarnation,
    /// Every seq up to this one is decided: handed over or skipped.
    pub decided: u64,
    /// Credit: how much more of this flow can be taken than what this entry says is there, KiB, counted as in the budgets;
    /// [`ROOM_UNKNOWN`] where nothing is said.
    pub room_kib: u32,
    /// Bit k of word w: seq `decided + 1 + 64 w + k` is held and waits for a gap. No trailing zero words.
    pub held: Vec<u64>,
    /// Attempts that ended without a decision.
    pub refused: Vec<Refused>,
}

impl AckFlow {
    /// How many of the held ones follow the last one that is decided without a gap.
    #[must_use]
    pub fn held_in_turn(&self) -> u64 {
        let full = self.held.iter().take_while(|word| **word == u64::MAX).count();
        let more = self.held.get(full).map_or(0, |word| word.trailing_ones());
        64 * u64::try_from(full).unwrap_or(0) + u64::from(more)
    }

    /// This seq is among the held ones.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        #[cfg(test)]
        LOOKED_AT.set(LOOKED_AT.get() + 1);
        let Some(at) = seq.checked_sub(self.decided.saturating_add(1)) else { return false };
        let word = usize::try_from(at / 64).ok().and_then(|word| self.held.get(word));
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

#[cfg(test)]
thread_local! {
    /// Bits that were looked at by this thread.
    pub(super) static LOOKED_AT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// See [`AckFlow::room_kib`]: a proxy that knows nothing of the member.
pub const ROOM_UNKNOWN: u32 = u32::MAX;

/// Room as acks tell it, rounded down.
#[must_use]
pub fn room_kib(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024).unwrap_or(ROOM_UNKNOWN).min(ROOM_UNKNOWN - 1)
}

/// Seqs whose attempt over this link ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// First seq.
    pub first: Seq,
    /// How many.
    pub count: u32,
    /// A [`RefusedReason`].
    pub reason: u8,
}

/// Why an attempt ended without a decision. Never the end of a seq.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RefusedReason {
    /// The member's inbox and reorder buffer are full.
    InboxFull = 1,
    /// The proxy's queue for that member is full.
    QueueFull = 2,
    /// The proxy has no link to the member and has not passed the messages on.
    Unreachable = 3,
    /// The proxy lost its link to the member; the messages may have arrived.
    LinkLost = 4,
    /// Its deadline passed in the proxy's queue.
    Expired = 5,
    /// The proxy does not serve this destination, or the receiver is no member.
    NotServed = 6,
    /// The member lives in another incarnation than the one meant; the entry names it.
    StaleDestination = 7,
    /// The member has seen a higher incarnation of the origin.
    StaleOrigin = 8,
    /// The receiver is draining.
    Draining = 9,
    /// The run's numbers or its bytes make no sense.
    Malformed = 10,
    /// The run is over the limit of the connection to the member.
    TooLarge = 11,
}

/// In place of a [`RefusedReason`]: no attempt ended, but the member passed these seqs, which it never had, because the floor
/// told it to. Said once.
pub const PASSED: u8 = 12;

impl RefusedReason {
    /// All reasons.
    pub const ALL: [Self; 11] = [
        Self::InboxFull,
        Self::QueueFull,
        Self::Unreachable,
        Self::LinkLost,
        Self::Expired,
        Self::NotServed,
        Self::StaleDestination,
        Self::StaleOrigin,
        Self::Draining,
        Self::Malformed,
        Self::TooLarge,
    ];

    /// From the wire; `None` for a number this version does not know.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }

    /// A label value in snake case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::InboxFull => "inbox_full",
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::LinkLost => "link_lost",
            Self::Expired => "expired",
            Self::NotServed => "not_served",
            Self::StaleDestination => "stale_destination",
            Self::StaleOrigin => "stale_origin",
            Self::Draining => "draining",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why a handshake is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
#[non_exhaustive]
pub enum RefuseCode {
    /// The bytes are no handshake.
    Malformed = 1,
    /// The peer belongs to another cluster.
    OtherCluster = 2,
    /// The peer is not in this node's topology.
    UnknownNode = 3,
    /// The peer stands in another datacenter than this node's topology says.
    WrongDatacenter = 4,
    /// Its roles do not allow this link.
    WrongRole = 5,
    /// No common wire version.
    NoCommonVersion = 6,
    /// The same version number with another schema.
    SchemaMismatch = 7,
    /// A higher incarnation of the peer was seen.
    StaleIncarnation = 8,
    /// Too many connections.
    TooManyConnections = 9,
    /// This node is going away.
    Draining = 10,
    /// The versions confirmed are not the ones offered.
    VersionsStripped = 11,
    /// The node that answered is not the one that was dialled.
    OtherNode = 12,
    /// The handshake took too long.
    Timeout = 13,
    /// The peer's certificate is another node's than the peer says it is.
    OtherCertificate = 14,
}

impl RefuseCode {
    /// All codes.
    pub const ALL: [Self; 14] = [
        Self::Malformed,
        Self::OtherCluster,
        Self::UnknownNode,
        Self::WrongDatacenter,
        Self::WrongRole,
        Self::NoCommonVersion,
        Self::SchemaMismatch,
        Self::StaleIncarnation,
        Self::TooManyConnections,
        Self::Draining,
        Self::VersionsStripped,
        Self::OtherNode,
        Self::Timeout,
        Self::OtherCertificate,
    ];

    /// From the wire; `None` for a code this version does not know.
    #[must_use]
    pub fn from_wire(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u16 == code)
    }

    /// A label value in snake case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OtherCluster => "other_cluster",
            Self::UnknownNode => "unknown_node",
            Self::WrongDatacenter => "wrong_datacenter",
            Self::WrongRole => "wrong_role",
            Self::NoCommonVersion => "no_common_version",
            Self::SchemaMismatch => "schema_mismatch",
            Self::StaleIncarnation => "stale_incarnation",
            Self::TooManyConnections => "too_many_connections",
            Self::Draining => "draining",
            Self::VersionsStripped => "versions_stripped",
            Self::OtherNode => "other_node",
            Self::Timeout => "timeout",
            Self::OtherCertificate => "other_certificate",
        }
    }
}

/// Why a connection ends in good order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
#[non_exhaustive]
pub enum CloseCode {
    /// The node is going away; it still answers what it has.
    Draining = 1,
    /// The node closes now.
    Closing = 2,
    /// The same: its topology has the peer no more, or as something else.
    Unlisted = 3,
    /// The same: it trusts the peer's certificate no more.
    Untrusted = 4,
}

/// Bytes that are not the control body they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(String);

/// Most bytes a control body may have; also bincode's limit, without which a 12-byte input could ask for any amount.
pub const CONTROL_BYTES_MAX: usize = 1024 * 1024;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CONTROL_BYTES_MAX>()
}

/// A control body as bytes.
///
/// # Panics
/// Never for the structs of this file: they hold nothing that bincode cannot write.
#[must_use]
pub fn encode(body: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(body, bincode::config::standard()).expect("control structs are encodable")
}

/// A control body from bytes; all of them must be used.
///
/// # Errors
/// [`WireError`] says what bincode or the field's own rule says.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (body, used) =
        bincode::serde::decode_from_slice(bytes, config()).map_err(|error| WireError(error.to_string()))?;
    if used == bytes.len() {
        Ok(body)
    } else {
        Err(WireError(format!("{} bytes after the body", bytes.len() - used)))
    }
}
