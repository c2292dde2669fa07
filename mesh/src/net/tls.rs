//! TLS 1.3 around every link: both ends show a certificate of the cluster's own CA, and the name in it is handed to the
//! machine before anything else.
//!
//! ```text
//! files ─ Credentials ─ Tls ─ handshake ─ certified name, stream
//!            checked     swapped by a reload; what runs keeps what it began with
//! ```
//!
//! No older version, no resumption, no early data: a connection always shows its certificate anew, and nothing that it says
//! can be said again by somebody else. Server names are not sent and not compared: who a node is says the URI alone.

mod certificate;
mod credentials;
mod error;
mod failure;
mod gate;
mod revoked;
mod secured;
mod shown;
mod trust;
mod verify;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch as watch_channel;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub(super) use certificate::wall_s;
pub use certificate::{CertificateError, CertificateInfo};
pub use credentials::{CHECK_INTERVAL, Credentials, TlsFiles, is_issued_by, read_certificates};
pub use error::TlsError;
use failure::TlsFailure;
pub(super) use gate::Gate;
pub use revoked::{Revocation, RevocationList, list_of_another, read_revocation_lists};
pub(super) use secured::accept as accept_caller;
pub use secured::{Secured, Standing};
pub use shown::EXPIRED_SPAN_S;
pub(super) use shown::Shown;
use trust::Trust;
pub(super) use watch::start as start_watch;

use super::secure::Side;
use crate::id::SpiffeId;
use crate::stats::{CertificateFault, CertificateStatus, SecurityStatus, TlsStats};

/// What a connection holds of plaintext that is not encrypted, and of ciphertext that the kernel has not taken, bytes. Beyond
/// it a write waits. One record is 16 KiB.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What became of a reload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Reloaded {
    /// The files are what they were, or the node uses none.
    Unchanged,
    /// New connections show the new certificate and ask for one of the new CA. Those that are open go on as they are.
    Changed,
}

/// The credentials of a running node, and what became of them.
pub(super) struct Tls {
    files: TlsFiles,
    name: SpiffeId,
    current: Mutex<Arc<Credentials>>,
    /// Held while the files are read, which may take long: of two reloads at once the later one must not end with what the earlier
    /// one read.
    reading: Mutex<()>,
    /// What was refused last.
    refused: Mutex<Option<Refused>>,
    /// What should not be so with the files in use, as it was told last.
    dangers: Mutex<Vec<String>>,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
    /// The files were looked at: who is trusted may be others.
    looks: watch_channel::Sender<()>,
    failures: [AtomicU64; TlsFailure::ALL.len()],
    /// Strangers whose handshakes failed, and that were told of.
    strangers: Mutex<BTreeSet<(Door, TlsFailure, IpAddr)>>,
}

/// What somebody came to: each is told of by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Door {
    /// The listener for links.
    Links,
    /// A service beside the mesh.
    Service,
}

/// Strangers that are told of; more are counted alone.
const STRANGERS_MAX: usize = 256;

/// CAs that a status names, the first to expire first.
const AUTHORITIES_SHOWN_MAX: usize = 16;

/// Files that were not taken: told once, not at every look.
struct Refused {
    text: String,
    told: bool,
}

impl Tls {
    /// Reads and checks the files of the node of that name.
    pub(super) fn load(files: TlsFiles, name: SpiffeId) -> Result<Self, TlsError> {
        let credentials = Credentials::load(&files)?;
        credentials.check_name(&name)?;
        let credentials = Arc::new(credentials);
        let tls = Self {
            files,
            name,
            dangers: Mutex::default(),
            current: Mutex::new(Arc::clone(&credentials)),
            reading: Mutex::new(()),
            refused: Mutex::new(None),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            looks: watch_channel::Sender::new(()),
            failures: std::array::from_fn(|_| AtomicU64::new(0)),
            strangers: Mutex::default(),
        };
        tls.tell_of_dangers(&credentials);
        Ok(tls)
    }

    fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again, and has everybody look who waits for what they say. Blocks on the file system.
    pub(super) fn reload(&self) -> Result<Reloaded, TlsError> {
        let outcome = self.take_files();
        self.looks.send_replace(());
        outcome
    }

    fn take_files(&self) -> Result<Reloaded, TlsError> {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(Trust::load(&self.files).map(Arc::new))
    }

    /// Takes the node's own files in with whom it trusts, as just read.
    fn take(&self, trust: Result<Arc<Trust>, TlsError>) -> Result<Reloaded, TlsError> {
        let loaded = match &trust {
            Ok(trust) => Credentials::load_with(&self.files, trust),
            // All of it again: what is wrong first is told, and nothing may be by now.
            Err(_) => Credentials::load(&self.files),
        };
        let outcome = loaded.and_then(|credentials| {
            credentials.check_name(&self.name)?;
            self.current().check_lists(&credentials)?;
            Ok(credentials)
        });
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(credentials) => {
                let mended = refused.take().is_some_and(|before| before.told);
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                if current.is_same(&credentials) {
                    if mended {
                        tracing::info!("certificate files are sound again: they are those in use");
                    }
                    self.tell_of_dangers(&credentials);
                    return Ok(Reloaded::Unchanged);
                }
                let differs = current.difference(&credentials);
                if differs.certificate {
                    tracing::info!(
                        certificate = %credentials.info().fingerprint,
                        not_after = %credentials.info().not_after_text(),
                        "certificate reloaded: new connections use it"
                    );
                }
                differs.tell_of_trust();
                self.tell_of_dangers(&credentials);
                *current = Arc::new(credentials);
                self.reloads.fetch_add(1, Ordering::Relaxed);
                Ok(Reloaded::Changed)
            }
            Err(error) => {
                let text = error.to_string();
                let before = refused.take().filter(|before| before.text == text);
                // Two files that are replaced one after the other do not fit for a moment: the next look tells.
                let between = before.is_none() && matches!(error, TlsError::KeyMismatch { .. });
                if !between && before.is_none_or(|before| !before.told) {
                    tracing::error!(%error, "certificate files are not taken: what was read before stays in use");
                    self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                }
                *refused = Some(Refused { text, told: !between });
                if let Ok(trust) = trust {
                    self.take_trust(trust);
                }
                Err(error)
            }
        }
    }

    /// Tells what should not be so with files that are in use and was not told before: a key may come to be open to others while all files
    /// say what they said. Gives how much that was.
    fn tell_of_dangers(&self, credentials: &Credentials) -> usize {
        let dangers = credentials.dangers();
        let mut told = self.dangers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = dangers.iter().filter(|danger| !told.contains(danger));
        let count = new.inspect(|danger| tracing::warn!("{danger}")).count();
        *told = dangers;
        count
    }

    /// What the files say of others holds also where a node's own certificate is refused: else a list would take nothing back at a node
    /// whose own time is over.
    fn take_trust(&self, trust: Arc<Trust>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // What stands against it was told with the rest.
        if let Ok(Some(credentials)) = current.with_trust(trust) {
            current.difference(&credentials).tell_of_trust();
            self.tell_of_dangers(&credentials);
            *current = Arc::new(credentials);
        }
    }

    /// The accepting side. Whoever is waited for is the caller's to limit.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<Certified<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current();
        let acceptor = TlsAcceptor::from(Arc::clone(current.server()));
        let stream = Gate::new(stream);
        let stream = acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(BUFFER_BYTES_MAX))).await?;
        certified(stream.into(), Side::Accepts, current)
    }

    /// The dialling side.
    pub(super) async fn connect<S>(&self, stream: S) -> io::Result<Certified<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        connect(self.current(), stream).await
    }

    /// Why a connection is to end that began with this certificate.
    pub(super) fn wrong_with(&self, shown: &Shown) -> Option<String> {
        shown.wrong_with(&self.current())
    }

    /// Counts a handshake that failed, or a connection that TLS ended. Gives what to say of it, if it was TLS.
    pub(super) fn count_failure(&self, error: &io::Error) -> Option<TlsFailure> {
        let failure = TlsFailure::of(error)?;
        self.count(failure);
        Some(failure)
    }

    /// Nobody from there, who showed no certificate, failed so before. Of the first so many; then there is nobody new.
    pub(super) fn is_new(&self, address: IpAddr, door: Door, failure: TlsFailure) -> bool {
        let mut known = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < STRANGERS_MAX && known.insert((door, failure, address))
    }

    /// This node ended a handshake that took too long.
    pub(super) fn count_unfinished(&self) {
        self.count(TlsFailure::Unfinished);
    }

    /// A peer left in the middle of its handshake.
    pub(super) fn count_closed(&self) {
        self.count(TlsFailure::Closed);
    }

    fn count(&self, failure: TlsFailure) {
        self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// For the node's stats; `now_s` is the wall clock, seconds since 1970.
    pub(super) fn stats(&self, now_s: i64) -> TlsStats {
        let counts = TlsFailure::ALL.iter().zip(&self.failures);
        let failures: BTreeMap<_, _> =
            counts.map(|(failure, count)| (failure.label(), count.load(Ordering::Relaxed))).collect();
        TlsStats {
            expires_in_s: Some(self.current().info().not_after_s.saturating_sub(now_s)),
            reloads: self.reloads.load(Ordering::Relaxed),
            reloads_failed: self.reloads_failed.load(Ordering::Relaxed),
            handshakes_failed: failures,
        }
    }

    /// For the node's status.
    pub(super) fn security(&self, now_s: i64) -> SecurityStatus {
        let current = self.current();
        let status = |subject: String, info: &CertificateInfo| CertificateStatus {
            subject,
            serial: info.serial.clone(),
            not_after_unix_s: info.not_after_s,
            expires_in_s: info.not_after_s.saturating_sub(now_s),
        };
        let authorities = current.authorities().filter_map(|der| CertificateInfo::of(der).ok());
        let mut authorities: Vec<_> = authorities.map(|info| status(info.subject.clone(), &info)).collect();
        authorities.sort_by_key(|of| of.not_after_unix_s);
        authorities.truncate(AUTHORITIES_SHOWN_MAX);
        let certificate = Some(status(current.name().to_string(), current.info()));
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let not_taken = refused.as_ref().filter(|refused| refused.told).map(|refused| refused.text.clone());
        let certificate_fault = current.fault(now_s);
        SecurityStatus { links: "tls", certificate, certificate_fault, not_taken, authorities }
    }

    /// What is wrong with this node's own certificate.
    pub(super) fn fault(&self, now_s: i64) -> Option<CertificateFault> {
        self.current().fault(now_s)
    }

    /// Of a node without TLS: every row, at zero.
    pub(super) fn no_stats() -> TlsStats {
        let handshakes_failed = TlsFailure::ALL.iter().map(|failure| (failure.label(), 0)).collect();
        TlsStats { handshakes_failed, ..TlsStats::default() }
    }
}

async fn connect<S>(credentials: Arc<Credentials>, stream: S) -> io::Result<Certified<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // An address is never sent as a server name, and none is compared.
    let anybody = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let connector = TlsConnector::from(Arc::clone(credentials.client()));
    let stream = connector
        .connect_with(anybody, Gate::new(stream), |tls| tls.set_buffer_limit(Some(BUFFER_BYTES_MAX)))
        .await?;
    certified(stream.into(), Side::Dials, credentials)
}

/// A connection whose peer is known.
pub(super) struct Certified<S> {
    pub(super) stream: TlsStream<Gate<S>>,
    pub(super) name: SpiffeId,
    pub(super) shown: Shown,
}

/// The name in the certificate that the peer has just proved to hold.
fn certified<S>(
    mut stream: TlsStream<Gate<S>>,
    side: Side,
    judge: Arc<Credentials>,
) -> io::Result<Certified<S>> {
    let (_, session) = stream.get_ref();
    let chain: Vec<_> =
        session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    let read = |der| {
        let info = CertificateInfo::of(der)?;
        let name = info.name()?;
        Ok((info, name))
    };
    match chain.first().ok_or(CertificateError::Missing).and_then(read) {
        Ok((info, name)) => {
            stream.get_mut().0.open();
            Ok(Certified { stream, name, shown: Shown::new(chain, &info, side, judge) })
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}
