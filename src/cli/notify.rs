//! Tells a service manager how the process is, by the protocol of `sd_notify(3)`: datagrams of `KEY=VALUE` lines to the
//! socket that `NOTIFY_SOCKET` names. Without one, nothing is told. Telling never waits and never fails the node.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use trunkline_mesh::Mesh;

use super::environment::variable;

/// The way to the service manager, if there is one.
#[derive(Default)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
}

impl Notifier {
    /// What the environment says.
    pub(super) fn from_environment() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        match Self::to(&address) {
            Ok(notifier) => notifier,
            Err(error) => {
                let address = address.to_string_lossy();
                tracing::warn!(%error, address = %address.escape_debug(), "NOTIFY_SOCKET cannot be used: nobody is told");
                Self::default()
            }
        }
    }

    /// To this socket: a path, or `@` and a name of the abstract namespace.
    fn to(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket) })
    }

    /// The node has started: it listens, and its admin API answers.
    pub(super) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}\n", one_line(status)));
    }

    /// It reads its configuration again; [`Notifier::ready`] ends that.
    pub(super) fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_us()));
    }

    /// It is going away.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining\n");
    }

    fn say(&self, words: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(words.as_bytes()) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }

    /// Tells twice per watchdog interval that the node lives, if the service manager waits for that: not while its machine
    /// does not answer. Ends with the runtime.
    pub(super) fn watch(&self, mesh: &Mesh) {
        let Some(interval) = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID")) else { return };
        let Some(socket) = self.socket.as_ref().and_then(|socket| socket.try_clone().ok()) else { return };
        let (mesh, notifier) = (mesh.clone(), Self { socket: Some(socket) });
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval / 2);
            loop {
                ticks.tick().await;
                // Takes the machine's lock: whoever holds it for ever is noticed.
                let _ = mesh.status();
                notifier.say("WATCHDOG=1\n");
            }
        });
    }
}

/// How long the service manager waits for a sign of life from this process.
fn watchdog(interval_us: Option<String>, process: Option<String>) -> Option<Duration> {
    if process.is_some_and(|process| process != std::process::id().to_string()) {
        return None;
    }
    let interval: u64 = interval_us?.parse().ok()?;
    // Half of it is a timer, and one that rings at once rings for ever.
    (interval >= 2_000).then(|| Duration::from_micros(interval))
}

/// The clock by which the service manager orders what it is told, µs.
fn monotonic_us() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    fn tells(socket: &UnixDatagram, address: &OsStr) {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let notifier = Notifier::to(address).unwrap();
        let before = monotonic_us();
        notifier.ready("proxy\nwith two lines");
        notifier.reloading();
        notifier.stopping();
        assert_eq!(heard(socket), "READY=1\nSTATUS=proxy with two lines\n");
        let reloading = heard(socket);
        let at: i64 =
            reloading.trim_end().strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!((before..=monotonic_us()).contains(&at), "{reloading}");
        assert_eq!(heard(socket), "STOPPING=1\nSTATUS=draining\n");
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        tells(&UnixDatagram::bind(&path).unwrap(), path.as_os_str());
        let name = format!("trunkline-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        tells(&UnixDatagram::bind_addr(&address).unwrap(), OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn what_cannot_be_told_is_no_failure() {
        for wrong in ["vsock:2:1", "relative", "/no/such/socket", "@no-such-trunkline-socket"] {
            assert!(Notifier::to(OsStr::new(wrong)).is_err(), "{wrong}");
        }
        Notifier::default().ready("nobody listens");
    }

    #[test]
    fn the_watchdog_is_for_this_process_and_a_sane_interval() {
        let own = std::process::id().to_string();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(text("3000000"), None), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(text("3000000"), Some(own.clone())), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(text("3000000"), text("0")), None, "meant for another process");
        for interval in [None, text(""), text("0"), text("1999"), text("-1"), text("soon")] {
            assert_eq!(watchdog(interval, Some(own.clone())), None);
        }
    }
}
