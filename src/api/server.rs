//! The admin API as a server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};

use super::answer::{answer, forbidden};
use super::{Facts, Protection};
use crate::http::{Answers, Server, why_api_not_bound};

/// A running admin API.
pub struct Api {
    server: Server,
    facts: Arc<Facts>,
}

/// An admin API that was not started.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the admin API on {address}: {source}: {}", why_api_not_bound(source, "admin"))]
pub struct ServeError {
    /// Where it was to listen.
    pub address: SocketAddr,
    /// What the operating system says.
    pub source: io::Error,
}

impl Api {
    pub(super) fn bind(
        address: SocketAddr,
        protection: Protection,
        facts: Arc<Facts>,
    ) -> Result<Self, ServeError> {
        let server = Server::bind(address, protection, facts.mesh.clone(), Arc::clone(&facts))
            .map_err(|source| ServeError { address, source })?;
        Ok(Self { server, facts })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on `/readyz` answers 503, so that nobody sends new work here.
    pub fn set_draining(&self) {
        self.facts.ready.stop();
    }

    /// Closes the listener, and the connections within half a second.
    pub async fn close(self) {
        self.server.close().await;
    }
}

impl Answers for Facts {
    const NAME: &'static str = "the admin API";
    const CONNECTIONS_MAX: usize = 64;
    const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
    type Body = Full<Bytes>;

    fn forbidden(&self, why: &str) -> Response<Full<Bytes>> {
        forbidden(why)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        answer(request, self).await
    }
}
