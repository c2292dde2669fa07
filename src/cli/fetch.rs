//! Asks a running process: one request over HTTP/1.1 to its admin API, within TLS where that is so, with a limit on time and bytes.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trunkline_mesh::{CHECK_INTERVAL, Credentials, SpiffeId, TlsFiles};

use super::environment;
use super::failure::Failure;
use crate::config::{Config, Protection};
use crate::http::WITHIN_TLS;

/// Time for one answer, with the dial.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// For who asked in plaintext and was not understood.
const ASK_WITHIN_TLS: &str = " (within TLS it is asked with --config, or with --certificate, --key and --ca)";

/// Which process is asked.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("whom").args(["at", "config"]).required(true)))]
pub(super) struct At {
    /// The admin address of the process
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<String>,
    /// The configuration file, which says the admin address of the node
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which node of the file [default: what TRUNKLINE_NODE says, else the only one that has an admin address]
    #[arg(long, value_name = "ID", requires = "config")]
    node: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

/// What this process shows within TLS, where the command line says it.
#[derive(Debug, clap::Args)]
pub(super) struct Shown {
    /// Ask within TLS, and show this certificate [default: that of the node, where the file says that its API is within TLS]
    #[arg(long, value_name = "FILE", requires_all = ["key", "ca"])]
    certificate: Option<PathBuf>,
    /// The private key of --certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The CA that issued what the process shows
    #[arg(long, value_name = "FILE", requires = "certificate")]
    ca: Option<PathBuf>,
}

impl Shown {
    pub(super) fn files(&self) -> Option<TlsFiles> {
        let (certificate, key, ca) = (self.certificate.clone()?, self.key.clone()?, self.ca.clone()?);
        Some(TlsFiles { certificate, key, ca, crl: None, check_interval: CHECK_INTERVAL })
    }
}

/// Reads what is shown within TLS.
pub(super) fn load(files: &TlsFiles) -> Result<Arc<Credentials>, Failure> {
    Credentials::load(files).map(Arc::new).map_err(|error| {
        let why = "to ask within TLS takes a certificate of the cluster";
        Failure::Config(format!("{why} (--certificate, --key, --ca): {error}"))
    })
}

/// A process that can be asked.
pub(super) struct Process {
    address: String,
    tls: Option<Tls>,
}

/// What a process within TLS is asked with.
struct Tls {
    credentials: Arc<Credentials>,
    /// Who is to answer, if that is known.
    expected: Option<SpiffeId>,
}

impl At {
    /// The process that is meant.
    pub(super) fn process(&self) -> Result<Process, Failure> {
        let tls = |files: &TlsFiles, expected| load(files).map(|credentials| Tls { credentials, expected });
        if let Some(address) = &self.at {
            if !is_address(address) {
                let why = "`--at` needs HOST:PORT, such as 127.1.0.1:9400".to_owned();
                return Err(Failure::Usage(why));
            }
            let tls = self.shown.files().map(|files| tls(&files, None)).transpose()?;
            return Ok(Process { address: address.clone(), tls });
        }
        let Some(file) = &self.config else {
            return Err(Failure::Usage("say which process with --at or --config".to_owned()));
        };
        let config = Config::load(file)?;
        let asked = self.node.clone().or_else(|| environment::variable("TRUNKLINE_NODE"));
        let nodes = || config.topology().nodes().map(|node| (node, config.admin(&node.id)));
        let served: Vec<_> = nodes().filter_map(|(node, admin)| Some((node, admin?))).collect();
        let file = config.path().display();
        let (node, address) = match (&asked, &served[..]) {
            (Some(asked), _) => {
                let found = nodes().find(|(node, _)| node.id.as_str() == asked);
                let shown: String = asked.chars().take(64).flat_map(char::escape_default).collect();
                match found {
                    Some((node, Some(admin))) => (node, admin),
                    Some((_, None)) => {
                        let why =
                            format!("{file}: node `{shown}` has no admin address: give it one as `admin`");
                        return Err(Failure::Config(why));
                    }
                    None => {
                        let why = format!("{file}: no node `{shown}` is listed: correct --node");
                        return Err(Failure::Config(why));
                    }
                }
            }
            (None, [only]) => *only,
            (None, []) => {
                let why = format!("{file}: no node has an admin address: give one to each as `admin`");
                return Err(Failure::Config(why));
            }
            (None, several) => {
                let why = format!(
                    "{file}: {} nodes have an admin address: say which one with --node or TRUNKLINE_NODE",
                    several.len()
                );
                return Err(Failure::Config(why));
            }
        };
        let own =
            || config.tls_files(&node.id).filter(|_| config.admin_protection(&node.id) == Protection::Tls);
        let files = self.shown.files().or_else(own);
        let expected = config.topology().name(node);
        let tls = files.map(|files| tls(&files, Some(expected))).transpose()?;
        Ok(Process { address: address.to_string(), tls })
    }
}

impl Process {
    /// What a path answers, whatever the code, as JSON.
    pub(super) async fn json(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.ask(Method::GET, path).await?.1)
    }

    /// The same, as something that is known. Only what a later or earlier version may lack has a default.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.known(path, self.json(path).await?)
    }

    /// What a path answered, as something that is known.
    pub(super) fn known<T: DeserializeOwned>(&self, path: &str, answer: Value) -> Result<T, Failure> {
        read(answer).map_err(|error| self.failed(&format!("answers {path} in a form of its own: {error}")))
    }

    /// One request, and what is answered.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, Value), Failure> {
        let answer = timeout(PATIENCE, self.exchange(method, path)).await;
        let answer = answer.unwrap_or_else(|_| Err("gives no answer in time".to_owned()));
        let (code, body) = answer.map_err(|why| self.failed(&why))?;
        match serde_json::from_slice(&body) {
            Ok(value) if code != StatusCode::NOT_FOUND => Ok((code, harmless(value))),
            Ok(_) => Err(self.failed(&format!("knows no {path}: is it of another version?"))),
            Err(_) if body.starts_with(WITHIN_TLS.as_bytes()) => {
                Err(self.failed(&format!("does not answer in plaintext{ASK_WITHIN_TLS}")))
            }
            Err(_) => Err(self.failed(&format!("answers {path} with {code} and no JSON: is it Trunkline?"))),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
        let stream =
            TcpStream::connect(&self.address).await.map_err(|error| format!("cannot be reached: {error}"))?;
        match &self.tls {
            None => self.exchange_over(stream, method, path).await,
            Some(tls) => {
                let stream = tls.credentials.dial(stream).await.map_err(|error| {
                    format!("is not within TLS as it should be, or shows a wrong certificate: {error}")
                })?;
                if let Some(expected) = tls.expected.as_ref().filter(|expected| *expected != stream.peer()) {
                    return Err(format!("is that of {}, not of {expected}", stream.peer()));
                }
                self.exchange_over(stream, method, path).await
            }
        }
    }

    async fn exchange_over<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |error: hyper::Error| self.explain(&error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, &self.address)
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("cannot be asked: {error}"))?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        connection.abort();
        Ok((code, body.map_err(|error| format!("breaks its answer off: {error}"))?.to_bytes()))
    }

    /// What broke an exchange. A process that refuses this end's certificate says so only now.
    fn explain(&self, error: &hyper::Error) -> String {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        let hint = match self.tls {
            // The library says so in no other way.
            Some(_) if cause.contains("fatal alert") => {
                ": it refuses the certificate that it is shown (--certificate, or that of the node of the file); its log says why"
            }
            Some(_) => "",
            None => ASK_WITHIN_TLS,
        };
        format!("does not answer in HTTP: {error}{cause}{hint}")
    }

    fn failed(&self, why: &str) -> Failure {
        let address: String = self.address.chars().take(128).flat_map(char::escape_default).collect();
        Failure::Unavailable(format!("the admin API at {address} {why}"))
    }
}

/// Whether this can be dialled at all: what is wrong with the command line is said as such, not as a node that is away.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A JSON value as something that is known.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}

/// Without characters that would steer a terminal. A text of several lines, such as why a file was refused, is one of words.
fn harmless(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let plain = |c: char| match c {
                '\n' => ' ',
                c if c.is_control() => '?',
                c => c,
            };
            Value::String(text.chars().map(plain).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(harmless).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, harmless(value))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_process_says_does_not_steer_the_terminal() {
        let value = harmless(json!({ "a": ["\u{1b}[2J", 1], "b": { "c": "é\n\r" } }));
        assert_eq!(value, json!({ "a": ["?[2J", 1], "b": { "c": "é ?" } }));
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.1.0.1:9400", "[::1]:9400", "eu-p1.example:1"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "127.1.0.1", "eu-p1", ":9400", "eu-p1:", "eu-p1:0", "eu-p1:70000", "eu-p1:http", "::1"]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn whatever_listens_there_is_survived() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let process = Process { address: listener.local_addr().unwrap().to_string(), tls: None };
        let answers: [&[u8]; 5] = [
            b"",
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}",
        ];
        let server = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        for answer in answers {
            let failure = process.json("/v1/status").await.unwrap_err();
            assert_eq!(failure.code(), 69, "{answer:?}");
            assert!(failure.to_string().contains(&process.address), "{failure}");
        }
        server.await.unwrap();
        assert!(process.json("/").await.unwrap_err().to_string().contains("cannot be reached"));
    }
}
