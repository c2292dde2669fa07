//! Why links end that were up.

use crate::proto::wire::CloseCode;

/// Why a link ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkEnd {
    /// One of its connections did, whoever ended it.
    Lost,
    /// The peer said so before: it drains or closes, or wants this link no more.
    Left,
    /// The peer said that its topology has this node no more, or as something else.
    Unlisted,
    /// The peer said that it trusts this node's certificate no more.
    Untrusted,
    /// The peer broke the protocol on it, or a frame for it could not be made.
    Protocol,
    /// Nothing was heard of the peer for `silence_timeout`.
    Silent,
    /// The peer's certificate is no longer valid.
    Distrusted,
    /// The peer was heard of in a later life than that of its link.
    PeerLife,
    /// This node took another life.
    OwnLife,
    /// Another one takes its place: the peer dialled anew, or its books were full.
    Replaced,
    /// It was not used.
    Idle,
    /// The topology has the peer no more, or as something else.
    Topology,
    /// The topology has the peer at another address.
    Moved,
    /// This node closed.
    Closed,
}

impl LinkEnd {
    /// What the other end is told.
    pub(super) fn close_code(self) -> CloseCode {
        match self {
            Self::Topology => CloseCode::Unlisted,
            Self::Distrusted => CloseCode::Untrusted,
            _ => CloseCode::Closing,
        }
    }

    /// What it is where the other end said this.
    pub(super) fn of_close(code: u16) -> Self {
        match code {
            code if code == CloseCode::Unlisted as u16 => Self::Unlisted,
            code if code == CloseCode::Untrusted as u16 => Self::Untrusted,
            _ => Self::Left,
        }
    }

    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Lost,
        Self::Left,
        Self::Unlisted,
        Self::Untrusted,
        Self::Protocol,
        Self::Silent,
        Self::Distrusted,
        Self::PeerLife,
        Self::OwnLife,
        Self::Replaced,
        Self::Idle,
        Self::Topology,
        Self::Moved,
        Self::Closed,
    ];

    /// For people.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Lost => "a connection of it ended",
            Self::Left => "the peer took its leave",
            Self::Unlisted => "the peer's topology has this node no more, or as something else",
            Self::Untrusted => "the peer trusts this node's certificate no more",
            Self::Protocol => "the peer broke the protocol",
            Self::Silent => "nothing was heard of the peer",
            Self::Distrusted => "the peer's certificate is no longer valid",
            Self::PeerLife => "others heard of a later life of the peer",
            Self::OwnLife => "this node took another life",
            Self::Replaced => "another link takes its place",
            Self::Idle => "it was not used",
            Self::Topology => "the topology has the peer no more, or as something else",
            Self::Moved => "the topology has the peer at another address",
            Self::Closed => "this node closed",
        }
    }

    /// For counters.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Left => "left",
            Self::Unlisted => "unlisted",
            Self::Untrusted => "untrusted",
            Self::Protocol => "protocol",
            Self::Silent => "silent",
            Self::Distrusted => "distrusted",
            Self::PeerLife => "peer_life",
            Self::OwnLife => "own_life",
            Self::Replaced => "replaced",
            Self::Idle => "idle",
            Self::Topology => "topology",
            Self::Moved => "moved",
            Self::Closed => "closed",
        }
    }
}
