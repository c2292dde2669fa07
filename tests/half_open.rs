//! What a connection makes the node that accepts it hold while it says who it is: 64 KiB at most.

mod support;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use allocation_counter::measure;
use support::addresses::own;
use support::run;
use trunkline::config::Config;
use trunkline_mesh::proto::frame::{FrameType, HANDSHAKE_BYTES_MAX};
use trunkline_mesh::proto::wire::PREAMBLE;
use trunkline_mesh::{NodeId, join};

/// At once, and each of two kinds.
const STRANGERS: u64 = 40;
const BYTES_MAX: u64 = 64 * 1024;
/// What is read at most within TLS: mesh/PROTOCOL.md.
const READ_MAX: usize = 24 * 1024;
const SOON: Duration = Duration::from_secs(10);

/// The beginning of a ClientHello as long as one can be said to be, in records of TLS as long as they can be: as much of it as is
/// read.
fn beginning_within_tls() -> Vec<u8> {
    const RECORD: u16 = 1 << 14;
    let mut hello = vec![1, 0, 0xff, 0xff, 3, 3];
    hello.resize(2 * usize::from(RECORD), 0);
    let record = |part: &[u8]| [&[22, 3, 1][..], &RECORD.to_be_bytes(), part].concat();
    let mut bytes = hello.chunks(RECORD.into()).map(record).collect::<Vec<_>>().concat();
    bytes.truncate(READ_MAX);
    bytes
}

/// The longest Hello but for its last byte.
fn beginning_in_plaintext() -> Vec<u8> {
    let mut bytes = PREAMBLE.to_vec();
    bytes.extend([FrameType::Hello as u8, 0, 0, 0]);
    bytes.extend(u32::try_from(HANDSHAKE_BYTES_MAX).unwrap().to_le_bytes());
    bytes.resize(PREAMBLE.len() + 16 + HANDSHAKE_BYTES_MAX - 1, 0);
    bytes
}

/// Says as much as is taken.
fn stranger(address: SocketAddr, says: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(says).unwrap();
    stream
}

/// What a node holds for each of many that say this, and nothing more.
fn held_for_each(security: &str, says: &[u8]) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.toml");
    let address = own(1)[0];
    let text = format!(
        "[cluster]\nid = \"half-open\"\n[security]\n{security}\n[[node]]\nid = \"p\"\ndc = \"eu\"\nroles = [\"proxy\"]\naddress = \"{address}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let [file, tls] = [file, dir.path().join("tls")].map(|path| path.to_str().unwrap().to_owned());
    for arguments in [
        &["ca", "init", "--cluster", "half-open", "--dir", &tls][..],
        &["ca", "issue", "--dir", &tls, "--config", &file, "--all"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, 0, "{stdout}{stderr}");
    }
    let config = Config::load(file.as_ref()).unwrap();
    let node = config.topology().node(&NodeId::new("p").unwrap()).unwrap();
    let (client, _inbox) = runtime.block_on(join(config.mesh(node))).unwrap();
    let mut strangers = Vec::new();
    let held = measure(|| {
        strangers.extend((0..STRANGERS).map(|_| stranger(address, says)));
        runtime.block_on(read_all(address));
    });
    drop(client);
    // Not the most that there was: to look at the kernel's table of connections takes memory, too, and is over by then.
    u64::try_from(held.bytes_current).unwrap() / STRANGERS
}

/// Runs the node until all of them are accepted and nothing of what they said is left in the kernel.
async fn read_all(address: SocketAddr) {
    let read = async {
        while unread(address).is_none_or(|unread| unread > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, read).await.expect("all of it is read");
}

/// Bytes that connections to this address wait with; `None` while there are fewer connections than strangers.
fn unread(address: SocketAddr) -> Option<u64> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Connections that are open, and how much of what came nobody has taken.
    let open = rows.filter(|row| row[1] == local && row[3] == "01");
    let unread: Vec<u64> =
        open.map(|row| u64::from_str_radix(row[4].split(':').nth(1)?, 16).ok()).collect::<Option<_>>()?;
    (unread.len() as u64 == STRANGERS).then(|| unread.iter().sum())
}

#[test]
fn a_connection_that_has_not_said_who_it_is_holds_64_kib_at_most() {
    const TLS: &str = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"";
    for (how, security, says) in
        [("within TLS", TLS, beginning_within_tls()), ("in plaintext", "", beginning_in_plaintext())]
    {
        let held = held_for_each(security, &says);
        println!("{how}: {held} B for each that said {} B", says.len());
        // What was said is among it.
        assert!((says.len() as u64..=BYTES_MAX).contains(&held), "{how}: {held} B");
    }
}
