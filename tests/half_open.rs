//! What a connection makes a node hold before the other end has shown who it is: 64 KiB at most at one that accepts it; at one that dialled,
//! which chose whom, 160 KiB, where the chain is made of nothing but empty certificates.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use allocation_counter::measure;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, ServerConfig, ServerConnection, SignatureAlgorithm, SignatureScheme};
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
const READ_MAX: usize = 10 * 1024;
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

const TLS: &str = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"";

/// The file of a cluster with these nodes, and certificates for all of them.
fn file_of(dir: &tempfile::TempDir, security: &str, nodes: &str) -> PathBuf {
    let (file, tls) = (dir.path().join("cluster.toml"), dir.path().join("tls"));
    std::fs::write(&file, format!("[cluster]\nid = \"half-open\"\n[security]\n{security}\n{nodes}")).unwrap();
    let [path, tls] = [&file, &tls].map(|path| path.to_str().unwrap());
    for arguments in [
        &["ca", "init", "--cluster", "half-open", "--dir", tls][..],
        &["ca", "issue", "--dir", tls, "--config", path, "--all"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, 0, "{stdout}{stderr}");
    }
    file
}

fn node(name: &str, datacenter: &str, role: &str, address: Option<SocketAddr>) -> String {
    let address = address.map(|address| format!("address = \"{address}\"\n")).unwrap_or_default();
    format!("[[node]]\nid = \"{name}\"\ndc = \"{datacenter}\"\nroles = [\"{role}\"]\n{address}")
}

/// What a node holds for each of many that say this, and nothing more.
fn held_for_each(security: &str, says: &[u8]) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = own(1)[0];
    let file = file_of(&dir, security, &node("p", "eu", "proxy", Some(address)));
    let config = Config::load(&file).unwrap();
    let node = config.topology().node(&NodeId::new("p").unwrap()).unwrap();
    let (client, _inbox) = runtime.block_on(join(config.mesh(node))).unwrap();
    let mut strangers = Vec::new();
    let held = measure(|| {
        strangers.extend((0..STRANGERS).map(|_| stranger(address, says)));
        runtime.block_on(read_all(STRANGERS, Local(address)));
    });
    drop(client);
    // Not the most that there was: to look at the kernel's table of connections takes memory, too, and is over by then.
    u64::try_from(held.bytes_current).unwrap() / STRANGERS
}

/// Whom a node dials, and who shows it a chain without a word of who signed for it.
const PROXIES: usize = 8;

/// A key that signs with zeros: so many that the last record of a flight holds nothing of the chain.
#[derive(Debug)]
struct Zeros;

impl SigningKey for Zeros {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Self))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Zeros {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![0; 1_100])
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[derive(Debug)]
struct Chain(Arc<CertifiedKey>);

impl ResolvesServerCert for Chain {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn shows(chain: Vec<CertificateDer<'static>>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Chain(Arc::new(CertifiedKey::new(chain, Arc::new(Zeros))))));
    config.max_fragment_size = Some(1_024);
    Arc::new(config)
}

/// A server's first flight but for its last record.
fn unfinished_flight(stream: &mut TcpStream, config: &Arc<ServerConfig>) -> Vec<u8> {
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut bytes = [0; 16 * 1024];
    while !server.wants_write() {
        let count = stream.read(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..count]).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut flight = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut flight).unwrap();
    }
    let (mut at, mut last) = (0, 0);
    while at < flight.len() {
        last = at;
        at += 5 + usize::from(u16::from_be_bytes([flight[at + 3], flight[at + 4]]));
    }
    flight.truncate(last);
    flight
}

/// What a node holds for each connection that it dialled, and the bytes that came over it.
fn held_by_a_dialler(chain: Vec<CertificateDer<'static>>) -> (u64, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let addresses = own(PROXIES);
    let proxies = addresses.iter().enumerate();
    let proxies = proxies.map(|(at, address)| node(&format!("p{at}"), "eu", "proxy", Some(*address)));
    let file = file_of(&dir, TLS, &(node("o", "us", "origin", None) + &proxies.collect::<String>()));
    let (config, said, flights) =
        (shows(chain), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for address in &addresses {
        let listener = TcpListener::bind(address).unwrap();
        let (config, said, flights) = (Arc::clone(&config), Arc::clone(&said), Arc::clone(&flights));
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let flight = unfinished_flight(&mut stream, &config);
                stream.write_all(&flight).unwrap();
                said.store(flight.len(), Ordering::SeqCst);
                flights.fetch_add(1, Ordering::SeqCst);
                kept.push(stream);
            }
        });
    }
    let config = Config::load(&file).unwrap();
    let node = config.topology().node(&NodeId::new("o").unwrap()).unwrap();
    let connections = 2 * u64::try_from(PROXIES).unwrap();
    let mut client = None;
    let held = measure(|| {
        client = Some(runtime.block_on(join(config.mesh(node))).unwrap());
        runtime.block_on(async {
            let all = usize::try_from(connections).unwrap();
            let shown = async {
                while flights.load(Ordering::SeqCst) < all {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(SOON, shown).await.expect("all of them show their chains");
            read_all(connections, Peers(&addresses)).await;
        });
    });
    drop(client);
    (u64::try_from(held.bytes_current).unwrap() / connections, said.load(Ordering::SeqCst))
}

/// Which connections of the kernel's table.
#[derive(Clone, Copy)]
enum Which<'a> {
    Local(SocketAddr),
    Peers(&'a [SocketAddr]),
}
use Which::{Local, Peers};

impl Which<'_> {
    fn has(self, row: &[&str]) -> bool {
        match self {
            Local(address) => row[1] == as_shown(address),
            Peers(addresses) => addresses.iter().any(|address| row[2] == as_shown(*address)),
        }
    }
}

fn as_shown(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { return String::new() };
    format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port())
}

/// Runs the node until all of them are there and nothing of what they said is left in the kernel.
async fn read_all(connections: u64, which: Which<'_>) {
    let read = async {
        while unread(connections, which).is_none_or(|unread| unread > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, read).await.expect("all of it is read");
}

/// Bytes that these connections wait with; `None` while there are fewer.
fn unread(connections: u64, which: Which<'_>) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Connections that are open, and how much of what came nobody has taken.
    let open = rows.filter(|row| which.has(row) && row[3] == "01");
    let unread: Vec<u64> =
        open.map(|row| u64::from_str_radix(row[4].split(':').nth(1)?, 16).ok()).collect::<Option<_>>()?;
    (unread.len() as u64 == connections).then(|| unread.iter().sum())
}

#[test]
fn a_connection_that_has_not_said_who_it_is_holds_64_kib_at_most() {
    for (how, security, says) in
        [("within TLS", TLS, beginning_within_tls()), ("in plaintext", "", beginning_in_plaintext())]
    {
        let held = held_for_each(security, &says);
        println!("{how}: {held} B for each that said {} B", says.len());
        // What was said is among it.
        assert!((says.len() as u64..=BYTES_MAX).contains(&held), "{how}: {held} B");
    }
}

#[test]
fn a_chain_that_nobody_has_signed_for_holds_160_kib_at_most() {
    let empty = |count: usize| vec![CertificateDer::from(Vec::new()); count];
    for (what, chain) in [
        ("one large certificate", vec![CertificateDer::from(vec![0; 9_000])]),
        ("empty ones", empty(1_800)),
        ("two bytes in each", vec![CertificateDer::from(vec![0; 2]); 1_250]),
    ] {
        let (held, said) = held_by_a_dialler(chain);
        println!("{what}: {held} B for each that said {said} B");
        assert!((9_000..=READ_MAX).contains(&said), "{what}: as much as is read, {said} B");
        assert!(held <= 160 * 1024, "{what}: {held} B");
    }
}
