//! The connections of a link, and what the kernel took for their sockets. The machine says which connections there are, the
//! shell around it what it read from their sockets: the machine knows none.

use std::sync::Arc;

use serde::Serialize;

/// One connection of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionStatus {
    /// Its number, `conn` in the log.
    pub conn: u64,
    /// `control` or `bulk`.
    pub lane: &'static str,
    /// Read once, when the connection was set up; `None` where there is no socket.
    pub socket: Option<Arc<SocketStatus>>,
}

/// Options of a socket as the kernel gave them back, whatever it was asked for. `None`: this system has no such option, or did
/// not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SocketStatus {
    /// `TCP_NODELAY`.
    pub no_delay: Option<bool>,
    /// `TCP_NOTSENT_LOWAT`: unsent bytes from which on the kernel takes no more.
    pub unsent_bytes_max: Option<u32>,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may go without an ack before the kernel ends the connection, ms; 0 is as long
    /// as the system has it.
    pub user_timeout_ms: Option<u64>,
    /// `SO_KEEPALIVE`.
    pub keepalive: Option<bool>,
    /// `TCP_KEEPIDLE`, s.
    pub keepalive_idle_s: Option<u64>,
    /// `TCP_KEEPINTVL`, s.
    pub keepalive_interval_s: Option<u64>,
    /// `TCP_KEEPCNT`.
    pub keepalive_probes: Option<u32>,
    /// `TCP_CONGESTION`: the name of the congestion control.
    pub congestion: Option<String>,
    /// `SO_SNDBUF`, bytes, as it began: Linux counts its own overhead with it, and lets it grow.
    pub send_buffer_bytes: Option<usize>,
    /// `SO_RCVBUF`, bytes, likewise.
    pub receive_buffer_bytes: Option<usize>,
}
