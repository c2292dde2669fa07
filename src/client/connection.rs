//! One request to a node, in plaintext or within TLS.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trunkline_mesh::{Credentials, SpiffeId};

use super::lines::Lines;

/// The longest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// For an answer's head, with the dial.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that says nothing for so long is left for another one.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// Where a node serves clients.
#[derive(Clone)]
pub struct Address {
    host: String,
    tls: Option<(Arc<Credentials>, Option<SpiffeId>)>,
}

impl Address {
    /// `HOST:PORT`, in plaintext: for loopback.
    #[must_use]
    pub fn plaintext(host: impl Into<String>) -> Self {
        Self { host: host.into(), tls: None }
    }

    /// `HOST:PORT` within TLS: whom this end shows, and who is to answer, if that is known.
    #[must_use]
    pub fn within_tls(
        host: impl Into<String>,
        credentials: Arc<Credentials>,
        expected: Option<SpiffeId>,
    ) -> Self {
        Self { host: host.into(), tls: Some((credentials, expected)) }
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Asks, and gives the answer's code and what comes of its body.
    pub(super) async fn get(&self, path: &str) -> Result<(StatusCode, Answer), String> {
        let stream = TcpStream::connect(&self.host)
            .await
            .map_err(|error| format!("{} cannot be reached: {error}", self.host))?;
        let Some((credentials, expected)) = &self.tls else { return self.get_over(stream, path).await };
        let stream = credentials.dial(stream).await.map_err(|error| {
            format!("{} is not within TLS as it should be, or shows a wrong certificate: {error}", self.host)
        })?;
        if let Some(expected) = expected.as_ref().filter(|expected| *expected != stream.peer()) {
            return Err(format!("{} is that of {}, not of {expected}", self.host, stream.peer()));
        }
        self.get_over(stream, path).await
    }

    /// Asks for a stream: what comes of it, or the code and the body of a refusal.
    pub(super) async fn ask(&self, path: &str) -> Result<Result<Answer, (StatusCode, Bytes)>, String> {
        let asked = async {
            let (code, answer) = self.get(path).await?;
            if code == StatusCode::OK { Ok(Ok(answer)) } else { Ok(Err((code, answer.whole().await?))) }
        };
        timeout(OPEN_TIMEOUT, asked).await.unwrap_or_else(|_| Err("it gives no answer in time".to_owned()))
    }

    async fn get_over<S>(&self, stream: S, path: &str) -> Result<(StatusCode, Answer), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |error: hyper::Error| format!("{} does not answer in HTTP: {error}", self.host);
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
        let request = Request::get(path)
            .header(hyper::header::HOST, &self.host)
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("{} cannot be asked: {error}", self.host))?;
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        Ok((head.status, Answer { body, lines: Lines::default(), _connection: connection }))
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protection = if self.tls.is_some() { "TLS" } else { "plaintext" };
        write!(f, "{} ({protection})", self.host)
    }
}

/// Text as it is put into a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(3 * text.len());
    text.bytes().for_each(|byte| {
        let _ = write!(out, "%{byte:02x}");
    });
    out
}

/// A task that ends when nobody reads the answer any more.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of an answer, as it comes.
pub(super) struct Answer {
    body: Incoming,
    lines: Lines,
    _connection: Connection,
}

impl Answer {
    /// The next line. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn line(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some(line) = self.lines.pop() {
                return Ok(line);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.lines.push(bytes)?;
                    }
                }
                Some(Err(error)) => return Err(format!("it breaks off: {error}")),
                None => return Err("it ends".to_owned()),
            }
        }
    }

    /// All of it, where it is short.
    pub(super) async fn whole(self) -> Result<Bytes, String> {
        let body = Limited::new(self.body, ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| format!("it breaks off: {error}"))?.to_bytes())
    }
}
