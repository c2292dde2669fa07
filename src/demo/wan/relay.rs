//! A relay: accepts connections in one datacenter and carries them to a target in another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::egress::FlowId;
use super::end::{End, opened};
use super::pipe::{Clock, Event, Inlet, Outlet, Uplink, pipe};
use super::window::WindowLimits;
use crate::demo::Dc;

/// Connections of one relay at a time; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// Ends of connections: two each.
const ENDS_MAX: usize = 2 * CONNECTIONS_MAX;
const BACKLOG: u32 = 256;
/// Pause after a failed accept (out of file descriptors): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One direction of the path of a relay.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) uplink: Arc<Uplink>,
    pub(super) to: Dc,
    pub(super) delay: Duration,
    pub(super) limits: WindowLimits,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) clock: Clock,
    pub(super) out: Way,
    pub(super) back: Way,
    pub(super) target: SocketAddr,
    pub(super) flows: Arc<AtomicU64>,
}

impl Relay {
    /// Accepts until dropped; its connections end with it.
    pub(super) async fn run(self, listener: TcpListener) {
        let mut ends = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if ends.len() < ENDS_MAX => match accepted {
                    Ok((socket, _)) => self.open(socket, &mut ends),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(_) = ends.join_next() => {}
            }
        }
    }

    fn open(&self, socket: TcpStream, ends: &mut JoinSet<()>) {
        let (clock, target) = (self.clock, self.target);
        let (out, mut far_inlet) = self.pipe(&self.out);
        let (back, near_inlet) = self.pipe(&self.back);
        // Without it a small event would wait for an ack; a socket that refuses it is dead and will say so.
        let _ = socket.set_nodelay(true);
        out.send(Event::Open);
        ends.spawn(End::new(clock, socket, out, near_inlet).run());
        ends.spawn(async move {
            opened(clock, &mut far_inlet).await;
            match connect(target).await {
                Ok(socket) => End::new(clock, socket, back, far_inlet).run().await,
                Err(_) => back.send(Event::Reset),
            }
        });
    }

    fn pipe(&self, way: &Way) -> (Outlet, Inlet) {
        let flow = FlowId(self.flows.fetch_add(1, Ordering::Relaxed));
        pipe(flow, &way.uplink, way.to, way.delay, way.limits)
    }
}

/// A listening socket whose connections have the relay's buffers.
pub(super) fn listen(on: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(on)?;
    socket.set_reuseaddr(true)?;
    socket.bind(on)?;
    socket.listen(BACKLOG)
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket(target)?.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Small kernel buffers: what they hide would come on top of bandwidth × delay. Loopback's segments are up to 64 KiB,
/// and a receive buffer of few segments stalls, hence not smaller.
fn socket(of: SocketAddr) -> io::Result<TcpSocket> {
    const KERNEL_BUFFER_BYTES: u32 = 256 * 1024;
    let socket = if of.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(KERNEL_BUFFER_BYTES)?;
    socket.set_send_buffer_size(KERNEL_BUFFER_BYTES)?;
    Ok(socket)
}
