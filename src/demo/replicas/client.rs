//! One client's connection to a node, HTTP/1.1, kept open.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A node answers by then, or says that it does not know; this is for one that says nothing.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// There is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The node was not reached: nothing was done.
    Unreached,
    /// It may have been asked: who knows what it did.
    Unknown,
}

pub(super) struct Client {
    address: SocketAddr,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, open: None }
    }

    /// Asks, and gives the code and the JSON of the answer; null where it is none.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Value), Silence> {
        let dialled = timeout(PATIENCE, self.dial()).await.unwrap_or(Err(Silence::Unreached));
        let mut open = dialled?;
        let request = Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        let request = request.body(Full::from(body)).map_err(|_| Silence::Unreached)?;
        let answered = async {
            let (head, body) = open.sender.send_request(request).await.ok()?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.ok()?.to_bytes();
            Some((head.status, body))
        };
        let (code, body) = timeout(PATIENCE, answered).await.ok().flatten().ok_or(Silence::Unknown)?;
        if open.sender.ready().await.is_ok() {
            self.open = Some(open);
        }
        Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<(StatusCode, Value), Silence> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// The connection, taken out: one that breaks while it is used is not used again.
    async fn dial(&mut self) -> Result<Open, Silence> {
        if let Some(open) = self.open.take().filter(|open| !open.sender.is_closed()) {
            return Ok(open);
        }
        let stream = TcpStream::connect(self.address).await.map_err(|_| Silence::Unreached)?;
        stream.set_nodelay(true).map_err(|_| Silence::Unreached)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Silence::Unreached)?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Open { sender, connection })
    }
}
