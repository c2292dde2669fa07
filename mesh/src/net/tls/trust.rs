//! Whom a node trusts: the CAs of its file, but for what they took back.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::super::secure::Side;
use super::certificate::CertificateInfo;
use super::credentials::{TlsFiles, certificates, check_time, info_of};
use super::error::TlsError;
use super::revoked::{Older, Revoked};
use super::verify::{Acceptors, Diallers};

/// As its two files say.
pub(super) struct Trust {
    ca: Certificates,
    /// CAs of the file that are not trusted now.
    outside: Certificates,
    revoked: Arc<Revoked>,
    acceptors: Arc<Acceptors>,
    diallers: Arc<Diallers>,
}

/// The same peers are trusted.
impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.ca == other.ca && self.revoked == other.revoked
    }
}

impl Trust {
    /// Reads and checks the CAs and the lists. Blocks on the file system.
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let (ca, outside) = authorities(&files.ca)?;
        let revoked = match &files.crl {
            // A list of a CA whose time is over takes back what another of the same name may trust.
            Some(path) => Revoked::load(path, &[&ca[..], &outside[..]].concat())?,
            None => Revoked::default(),
        };
        let revoked = Arc::new(revoked);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in &ca {
            roots.add(certificate.clone()).map_err(|error| TlsError::Pem {
                path: files.ca.clone(),
                what: "certificate of a CA",
                detail: error.to_string(),
            })?;
        }
        let roots = Arc::new(roots);
        // A node has one certificate and needs no hint which one to show. The names of many CAs would be longer than what is read of a
        // handshake, and nobody's to read.
        let library = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        let diallers = Arc::new(Diallers { library, revoked: Arc::clone(&revoked) });
        let acceptors = Arc::new(Acceptors { roots, revoked: Arc::clone(&revoked), provider });
        Ok(Self { ca, outside, revoked, acceptors, diallers })
    }

    /// Whether a chain, the peer's own certificate first, would be taken at a moment by this side of a connection.
    pub(super) fn judge(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), rustls::Error> {
        let [leaf, between @ ..] = chain else { return Err(rustls::Error::NoCertificatesPresented) };
        match side {
            Side::Accepts => self.diallers.verify(leaf, between, at).map(|_| ()),
            Side::Dials => self.acceptors.verify(leaf, between, at),
        }
    }

    /// The same by both sides.
    pub(super) fn judge_both(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> Result<(), rustls::Error> {
        [Side::Accepts, Side::Dials].into_iter().try_for_each(|side| self.judge(side, chain, at))
    }

    /// Whether a CA of the file, in its time or not, issued a chain that was good at a moment. What was taken back since is no matter.
    pub(super) fn has_issued(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> Result<(), rustls::Error> {
        let [leaf, between @ ..] = chain else { return Err(rustls::Error::NoCertificatesPresented) };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([&self.ca[..], &self.outside[..]].concat());
        let acceptors = Acceptors {
            roots: Arc::new(roots),
            revoked: Arc::default(),
            provider: Arc::clone(&self.acceptors.provider),
        };
        acceptors.verify(leaf, between, at)
    }

    pub(super) fn diallers(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.diallers) as Arc<_>
    }

    pub(super) fn acceptors(&self) -> Arc<dyn ServerCertVerifier> {
        Arc::clone(&self.acceptors) as Arc<_>
    }

    pub(super) fn cas(&self) -> &[CertificateDer<'static>] {
        &self.ca
    }

    pub(super) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// A list of these that is older in the next ones, or gone from there while its CA is in that file, in its time or not.
    pub(super) fn older_list_in(&self, next: &Self) -> Option<Older> {
        let all = || next.ca.iter().chain(&next.outside).filter_map(|ca| CertificateInfo::of(ca).ok());
        self.revoked.older_in(&next.revoked, |key| all().any(|ca| ca.public_key == key))
    }

    /// What does not keep these from being used and should not be so.
    pub(super) fn danger(&self, ca: &Path) -> Option<String> {
        let left_out = self.outside.len();
        (left_out > 0).then(|| {
            format!(
                "{}: {left_out} CAs whose time is over, or has not come, are not trusted: take them out of the file",
                ca.display()
            )
        })
    }
}

type Certificates = Vec<CertificateDer<'static>>;

/// The CAs that are trusted now, and those that are not. One whose time is over, or has not come, is not, and the library would not look; the last of
/// them is told as such, not as one that did not issue the certificate.
fn authorities(path: &Path) -> Result<(Certificates, Certificates), TlsError> {
    let (mut trusted, mut outside) = (Vec::new(), Vec::new());
    let mut why = None;
    for certificate in certificates(path)? {
        let info = info_of(path, &certificate)?;
        // Whatever is a root issues: of a node's certificate among them its holder could make any other one.
        if !info.is_ca {
            return Err(TlsError::Pem {
                path: path.to_owned(),
                what: "certificates of CAs alone",
                detail: "one of them is no CA's".to_owned(),
            });
        }
        match check_time(path, &info) {
            Ok(()) => trusted.push(certificate),
            Err(error) => {
                outside.push(certificate);
                why = why.or(Some(error));
            }
        }
    }
    match why {
        Some(error) if trusted.is_empty() => Err(error),
        _ => Ok((trusted, outside)),
    }
}
