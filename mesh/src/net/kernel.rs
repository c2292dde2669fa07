//! The kernel: its connections, with all socket options in one place, and its clock. An option that cannot be set costs speed or
//! patience, never the connection. Within a simulation `simulated.rs` has others.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpSocket;
pub(super) use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
pub(super) use tokio::net::{TcpListener, TcpStream};

use crate::settings::Settings;
use crate::stats::connection::SocketStatus;

/// Connections the kernel completes ahead of the accept task.
const BACKLOG: u32 = 1024;

/// Unsent bytes the kernel takes before it calls a connection full: what waits there can't be overtaken or re-routed.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
#[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris")))]
const KEEPALIVE_PROBES: u32 = 3;

/// What the kernel is asked for on every connection, beside what is the same for all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SocketOptions {
    /// Of the links: the kernel ends what nobody acknowledges after twice as long.
    pub(super) silence_timeout: Duration,
    /// Empty: the system's.
    pub(super) congestion_control: String,
    /// 0: they grow as the kernel has it.
    pub(super) buffer_bytes: usize,
}

impl From<&Settings> for SocketOptions {
    fn from(settings: &Settings) -> Self {
        Self {
            silence_timeout: settings.silence_timeout,
            congestion_control: settings.congestion_control.clone(),
            buffer_bytes: settings.socket_buffer_bytes,
        }
    }
}

/// The wall clock.
pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A bound, listening socket.
#[allow(clippy::unused_async)] // A simulated one is bound so, and it must run inside the runtime that will carry the node.
pub(super) async fn listen(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    noted("SO_REUSEADDR", socket.set_reuseaddr(true));
    // Connections take them from here: how much may be under way at all is agreed on in their first packets.
    size_buffers(&SockRef::from(&socket), options);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A connection to a peer. The kernel chooses the source address. No deadline: the machine has one.
pub(super) async fn connect(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let socket = new_socket(address)?;
    // Before connecting, so that they hold for the first packets too.
    size_buffers(&SockRef::from(&socket), options);
    tune(&SockRef::from(&socket), options);
    socket.connect(address).await
}

/// Options of a connection that came in. Its buffers are those of its listener: to size them now would come too late for what
/// was agreed on in the first packets, and by a kernel that clamps what it offers to the size it has just been told, another size
/// than the listener's would make a connection slower that goes on well.
pub(super) fn tune_accepted(stream: &TcpStream, options: &SocketOptions) {
    tune(&SockRef::from(stream), options);
}

/// What the kernel gives back for the options of a connection, which can be less, or more, than it was asked for.
pub(super) fn took(stream: &TcpStream) -> SocketStatus {
    let socket = SockRef::from(stream);
    let status = SocketStatus {
        no_delay: socket.tcp_nodelay().ok(),
        keepalive: socket.keepalive().ok(),
        send_buffer_bytes: socket.send_buffer_size().ok(),
        receive_buffer_bytes: socket.recv_buffer_size().ok(),
        ..SocketStatus::default()
    };
    #[cfg(target_os = "linux")]
    let status = SocketStatus {
        unsent_bytes_max: socket.tcp_notsent_lowat().ok(),
        user_timeout_ms: socket.tcp_user_timeout().ok().map(|timeout| {
            let ms = timeout.unwrap_or_default().as_millis();
            u64::try_from(ms).unwrap_or(u64::MAX)
        }),
        keepalive_idle_s: socket.tcp_keepalive_time().ok().map(|idle| idle.as_secs()),
        keepalive_interval_s: socket.tcp_keepalive_interval().ok().map(|interval| interval.as_secs()),
        keepalive_probes: socket.tcp_keepalive_retries().ok(),
        congestion: socket.tcp_congestion().ok().map(|name| {
            // Padded with zeros to the longest there can be.
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        }),
        ..status
    };
    status
}

fn new_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

fn tune(socket: &SockRef<'_>, options: &SocketOptions) {
    noted("TCP_NODELAY", socket.set_tcp_nodelay(true));
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris")))]
    let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
    noted("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    {
        // The machine closes a silent link itself; this catches what it does not watch, such as a bulk connection.
        let silence = options.silence_timeout.saturating_mul(2);
        noted("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(silence)));
        noted("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES));
    }
    choose_congestion_control(socket, &options.congestion_control);
}

fn size_buffers(socket: &SockRef<'_>, options: &SocketOptions) {
    // A size that is set ends the kernel's own growing of it.
    let asked = options.buffer_bytes;
    if asked == 0 {
        return;
    }
    noted("SO_SNDBUF", socket.set_send_buffer_size(asked));
    noted("SO_RCVBUF", socket.set_recv_buffer_size(asked));
    let given = [socket.send_buffer_size(), socket.recv_buffer_size()].map(|size| size.map(usable));
    if let [Ok(send), Ok(receive)] = given
        && send.min(receive) < asked
        && TOLD_BUFFER_BYTES.swap(asked, Ordering::Relaxed) != asked
    {
        tracing::warn!(
            socket_buffer_bytes = asked,
            send_bytes = send,
            receive_bytes = receive,
            "the kernel gives connections smaller buffers than `socket_buffer_bytes` asks for, and these do not grow, as they \
             would without it: raise net.core.wmem_max and net.core.rmem_max to that size, or set it to 0"
        );
    }
}

/// The size for which the kernel was last told to be short of it: once is enough, not at each connection.
static TOLD_BUFFER_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The congestion control of which the kernel was last told that it is refused: as above.
static TOLD_CONGESTION_CONTROL: Mutex<String> = Mutex::new(String::new());

/// Another one than the last.
fn is_new(told: &Mutex<String>, name: &str) -> bool {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let new = *told != name;
    if new {
        name.clone_into(&mut told);
    }
    new
}

/// What of a buffer's size is for bytes: Linux takes twice what it is asked for, for its own overhead, and shows that.
fn usable(size: usize) -> usize {
    if cfg!(target_os = "linux") { size / 2 } else { size }
}

/// Somebody asked for it by name, so that a refusal is told. True if the kernel took it, or was not asked.
fn choose_congestion_control(socket: &SockRef<'_>, name: &str) -> bool {
    #[cfg(target_os = "linux")]
    let chosen = if name.is_empty() { Ok(()) } else { socket.set_tcp_congestion(name.as_bytes()) };
    #[cfg(not(target_os = "linux"))]
    let chosen = if name.is_empty() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::Unsupported)) };
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
    if let Err(error) = &chosen
        && is_new(&TOLD_CONGESTION_CONTROL, name)
    {
        tracing::warn!(
            congestion_control = name,
            %error,
            "the kernel refused the congestion control, and the connection goes on with the system's: load its module, allow it \
             (net.ipv4.tcp_allowed_congestion_control), or take the setting out"
        );
    }
    chosen.is_ok()
}

fn noted(option: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(option, %error, "socket option not set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a connection, with these options.
    async fn pair(options: &SocketOptions) -> [TcpStream; 2] {
        let listener = listen("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(connect(address, options), listener.accept());
        let (dialled, (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
        tune_accepted(&accepted, options);
        [dialled, accepted]
    }

    #[tokio::test]
    async fn both_ends_of_a_connection_are_tuned() {
        let options = SocketOptions { silence_timeout: Duration::from_secs(3), ..SocketOptions::default() };
        for stream in &pair(&options).await {
            let took = took(stream);
            assert_eq!((took.no_delay, took.keepalive), (Some(true), Some(true)));
            assert!(took.send_buffer_bytes > Some(0) && took.receive_buffer_bytes > Some(0), "{took:?}");
            #[cfg(target_os = "linux")]
            {
                assert_eq!(took.user_timeout_ms, Some(6_000));
                assert_eq!(took.unsent_bytes_max, Some(NOTSENT_LOWAT_BYTES));
                assert_eq!(took.keepalive_idle_s, Some(KEEPALIVE_IDLE.as_secs()));
                assert_eq!(took.keepalive_interval_s, Some(KEEPALIVE_INTERVAL.as_secs()));
                assert_eq!(took.keepalive_probes, Some(KEEPALIVE_PROBES));
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn buffers_and_congestion_control_are_those_that_were_asked_for() {
        // Every kernel has it.
        let congestion_control = "reno".to_owned();
        let options =
            SocketOptions { congestion_control, buffer_bytes: 96 * 1024, ..SocketOptions::default() };
        for stream in &pair(&options).await {
            let took = took(stream);
            assert_eq!(took.congestion.as_deref(), Some("reno"));
            // The kernel doubles what it is asked for, for its own overhead.
            assert_eq!(took.send_buffer_bytes, Some(2 * 96 * 1024));
            assert_eq!(took.receive_buffer_bytes, Some(2 * 96 * 1024));
        }
    }

    /// After a reload: what listens goes on with the size of its start, and what is dialled has the new one.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_accepted_connection_keeps_the_buffers_of_its_listener() {
        let before = SocketOptions { buffer_bytes: 160 * 1024, ..SocketOptions::default() };
        let listener = listen("127.0.0.1:0".parse().unwrap(), &before).await.unwrap();
        let address = listener.local_addr().unwrap();
        for buffer_bytes in [0, 64 * 1024, 200 * 1024] {
            let now = SocketOptions { buffer_bytes, ..SocketOptions::default() };
            let (dialled, accepted) = tokio::join!(connect(address, &now), listener.accept());
            let (dialled, (accepted, _)) = (dialled.unwrap(), accepted.unwrap());
            tune_accepted(&accepted, &now);
            let took = took(&accepted);
            assert_eq!(took.receive_buffer_bytes, Some(2 * 160 * 1024));
            assert_eq!(took.send_buffer_bytes, Some(2 * 160 * 1024));
            let dialled = super::took(&dialled).receive_buffer_bytes;
            assert!(buffer_bytes == 0 || dialled == Some(2 * buffer_bytes), "{dialled:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn buffers_below_what_was_asked_for_are_told_once() {
        // More than any system gives: even `root` is cut to what the type holds.
        let asked = usize::try_from(i32::MAX).unwrap();
        let options = SocketOptions { buffer_bytes: asked, ..SocketOptions::default() };
        let told = || TOLD_BUFFER_BYTES.load(Ordering::Relaxed);
        let enough = SocketOptions { buffer_bytes: 64 * 1024, ..SocketOptions::default() };
        let _listener = listen("127.0.0.1:0".parse().unwrap(), &enough).await.unwrap();
        assert_ne!(told(), 64 * 1024, "every system gives that");
        let _listener = listen("127.0.0.1:0".parse().unwrap(), &options).await.unwrap();
        assert_eq!(told(), asked);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_congestion_control_that_is_refused_leaves_the_systems() {
        let [plain, _] = pair(&SocketOptions::default()).await;
        let congestion_control = "no-such-thing".to_owned();
        let options = SocketOptions { congestion_control, ..SocketOptions::default() };
        let [dialled, accepted] = pair(&options).await;
        for stream in [&dialled, &accepted] {
            assert_eq!(took(stream).congestion, took(&plain).congestion);
        }
        assert!(!choose_congestion_control(&SockRef::from(&dialled), &options.congestion_control), "refused");
        assert_eq!(*TOLD_CONGESTION_CONTROL.lock().unwrap(), "no-such-thing");
        assert!(!is_new(&TOLD_CONGESTION_CONTROL, "no-such-thing"), "told once, not at each connection");
        assert!(choose_congestion_control(&SockRef::from(&dialled), ""), "not asked for");
    }
}
