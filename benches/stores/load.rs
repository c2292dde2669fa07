//! Clients of a store: so many, each with a connection of its own to the leader, put random values one at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::store::{Kind, Store};

const KEYS: u64 = 10_000;

/// What clients saw of a store.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us: f64,
    /// All that were made, those that are in no other figure included.
    pub(crate) puts: f64,
}

impl Figures {
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| median(rounds.iter().map(of)).expect("there was a round");
        Self {
            per_second: median(|it| it.per_second),
            p50_ms: median(|it| it.p50_ms),
            p99_ms: median(|it| it.p99_ms),
            cpu_us: median(|it| it.cpu_us),
            puts: median(|it| it.puts),
        }
    }
}

/// None of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Random keys of 10,000, values of `value_bytes`.
pub(crate) async fn measure(store: &Store, clients: usize, value_bytes: usize, span: Duration) -> Figures {
    let open = |_| async move {
        let mut connection = Connection::open(store.kind, store.leader()).await;
        // Whatever a connection's first request costs is in no figure.
        connection.put(value_bytes).await;
        connection
    };
    // All at once: a server may close those that have nothing to ask for long.
    let connections = join_all((0..clients).map(open)).await;
    let (before, begun) = (store.cpu(), Instant::now());
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < span {
                    let sent = Instant::now();
                    connection.put(value_bytes).await;
                    took.push(sent.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.expect("a client"));
    }
    let (elapsed, cpu) = (begun.elapsed(), store.cpu() - before);
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Figures {
        per_second: took.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_us: cpu.as_secs_f64() * 1e6 / took.len() as f64,
        puts: (took.len() + clients) as f64,
    }
}

/// A client's.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>, SocketAddr),
}

impl Connection {
    async fn open(kind: Kind, leader: SocketAddr) -> Self {
        let stream = TcpStream::connect(leader).await.expect("the leader listens");
        stream.set_nodelay(true).expect("a socket");
        let io = TokioIo::new(stream);
        match kind {
            Kind::Trunkline => {
                let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Kind::Etcd => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
                tokio::spawn(connection);
                Self::Grpc(sender, leader)
            }
        }
    }

    /// Puts, and sees that it was done.
    async fn put(&mut self, value_bytes: usize) {
        let key = format!("key-{:06}", fastrand::u64(..KEYS));
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(value_bytes).collect();
        match self {
            Self::Http1(sender) => {
                let request = hyper::Request::put(format!("/v1/kv/{key}")).header("host", "localhost");
                let request = request.body(Full::from(value)).expect("a request");
                let response = sender.send_request(request).await.expect("an answer");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("a body");
                sender.ready().await.expect("it is kept open");
            }
            Self::Grpc(sender, leader) => {
                let request = hyper::Request::post(format!("http://{leader}/etcdserverpb.KV/Put"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers");
                let request = request.body(Full::from(put_request(&key, &value))).expect("a request");
                let response = sender.send_request(request).await.expect("an answer");
                let body = response.into_body().collect().await.expect("a body");
                let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
                assert_eq!(status.map(|status| status.as_bytes()), Some(b"0".as_slice()));
            }
        }
    }
}

/// A gRPC message: whether it is compressed, its length, and `PutRequest { key = 1, value = 2 }` of protocol buffers.
fn put_request(key: &str, value: &[u8]) -> Bytes {
    let mut fields = BytesMut::new();
    for (number, field) in [(1, key.as_bytes()), (2, value)] {
        fields.put_u8(number << 3 | 2);
        let mut left = field.len();
        while left >= 0x80 {
            fields.put_u8(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        fields.put_u8(left.to_le_bytes()[0]);
        fields.put_slice(field);
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(fields.len()).expect("short"));
    message.put_slice(&fields);
    message.freeze()
}
