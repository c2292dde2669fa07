//! Why TLS ended a connection, as a short list to count by.

use std::io;

use rustls::{AlertDescription as Alert, CertificateError as Bad, Error, OtherError};

use super::CertificateError;
use super::gate::TooLong;
use super::verify::ChainError;

/// Why a TLS handshake failed, or TLS ended a connection that was through it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(usize)]
pub(in super::super) enum TlsFailure {
    /// The peer showed no certificate.
    NoCertificate,
    /// It was issued by another CA.
    UnknownIssuer,
    /// Its time is over.
    Expired,
    /// Its time has not come: one of the two clocks is wrong.
    NotYetValid,
    /// It was taken back.
    Revoked,
    /// It names no node, or several.
    NoName,
    /// It names one of another cluster. Of a link the handshake behind TLS says so, by code.
    OtherCluster,
    /// Something else is wrong with it.
    BadCertificate,
    /// The peer offers no TLS 1.3, or nothing else in common.
    Incompatible,
    /// The peer's bytes are no TLS: a plaintext node, or no node.
    NotTls,
    /// It says more than an honest peer has to say before it is authenticated.
    TooLong,
    /// The peer refused, most likely this node's certificate: its log says why.
    RefusedByPeer,
    /// The peer left in the middle of it.
    Closed,
    /// This node ended it: it took too long, or the node is closing.
    Unfinished,
    /// Anything else that breaks TLS.
    Other,
}

impl TlsFailure {
    /// In the order of their numbers.
    pub(super) const ALL: [Self; 15] = [
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::NoName,
        Self::OtherCluster,
        Self::BadCertificate,
        Self::Incompatible,
        Self::NotTls,
        Self::TooLong,
        Self::RefusedByPeer,
        Self::Closed,
        Self::Unfinished,
        Self::Other,
    ];

    /// For metrics and logs.
    pub(in super::super) fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::NoName => "no_name",
            Self::OtherCluster => "other_cluster",
            Self::BadCertificate => "bad_certificate",
            Self::Incompatible => "incompatible",
            Self::NotTls => "not_tls",
            Self::TooLong => "too_long",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Closed => "closed",
            Self::Unfinished => "unfinished",
            Self::Other => "other",
        }
    }

    /// Something is wrong with the peer's certificate, or with this node's as the peer sees it.
    pub(in super::super) fn is_of_certificate(self) -> bool {
        matches!(
            self,
            Self::NoCertificate
                | Self::UnknownIssuer
                | Self::Expired
                | Self::NotYetValid
                | Self::Revoked
                | Self::NoName
                | Self::OtherCluster
                | Self::BadCertificate
                | Self::RefusedByPeer
        )
    }

    /// The peer may be a node without certificates.
    pub(in super::super) fn is_plaintext(self) -> bool {
        self == Self::NotTls
    }

    /// Whoever dials can cause it as often as it likes, and may be a node that is set up wrongly all the same: told of once.
    pub(in super::super) fn is_of_anybody(self) -> bool {
        matches!(self, Self::NotTls | Self::RefusedByPeer)
    }

    /// What to do about it.
    pub(in super::super) fn remedy(self) -> &'static str {
        match self {
            Self::NoCertificate | Self::NoName | Self::BadCertificate => {
                "give the peer a certificate made by `trunkline ca issue`"
            }
            Self::OtherCluster => "give the peer a certificate of this cluster, or check the address",
            Self::UnknownIssuer => "let both ends trust the CA that issued the other's certificate",
            Self::Expired => "issue the peer a new certificate",
            // Most often that is as it should be.
            Self::Revoked => {
                "its certificate was revoked; if it still belongs to the cluster, issue a new one"
            }
            Self::NotYetValid => "compare the clocks of the two machines",
            Self::Incompatible => "the peer must speak TLS 1.3",
            Self::TooLong => "give the peer a chain of fewer certificates and bytes, or check the address",
            Self::NotTls => "give the peer certificate, key and ca in [security], or check the address",
            Self::RefusedByPeer => "the peer refused this end: its log says why",
            Self::Closed | Self::Unfinished | Self::Other => "see the log of the peer",
        }
    }

    /// What to do about it; where the peer refused, by what it said.
    pub(in super::super) fn remedy_for(self, error: &io::Error) -> &'static str {
        match alert(error) {
            // The latter where its CA has the same name and another key.
            Some(Alert::UnknownCA | Alert::DecryptError) => {
                "the peer does not trust the CA that issued this node's certificate: add that CA to the `ca` file of the \
                 peer, or issue this node's certificate by the peer's CA"
            }
            Some(Alert::CertificateExpired) => {
                "for the peer this node's certificate has expired, or is not valid yet: issue a new one (`trunkline ca \
                 issue --replace`), and compare the clocks of the two machines"
            }
            Some(Alert::CertificateRevoked) => {
                "this node's certificate is on the revocation list of the peer: if the node still belongs to the cluster, \
                 issue a new one"
            }
            Some(alert) if is_of_certificate(alert) => {
                "the peer does not take this node's certificate as it is: compare it (`trunkline ca show`) with what the log \
                 of the peer says"
            }
            Some(Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity) => {
                "the peer must speak TLS 1.3"
            }
            _ => self.remedy(),
        }
    }

    /// The same, of a caller of an API, which is no node and has no log.
    pub(in super::super) fn remedy_for_caller(self, error: &io::Error) -> &'static str {
        match alert(error) {
            Some(Alert::UnknownCA | Alert::DecryptError) => {
                "the caller does not trust the CA that issued this node's certificate: give the caller the `ca` file of the \
                 cluster (--ca, curl --cacert, Prometheus ca_file)"
            }
            Some(Alert::CertificateExpired) => {
                "for the caller this node's certificate has expired, or is not valid yet: issue a new one (`trunkline ca \
                 issue --replace`), and compare the clocks of the two machines"
            }
            Some(Alert::CertificateRevoked) => {
                "for the caller this node's certificate is revoked: issue a new one"
            }
            Some(alert) if is_of_certificate(alert) => {
                "the caller does not take this node's certificate as it is: one that compares the address that it dials \
                 needs a certificate with that address (`trunkline ca issue --config`, or --ip), or is not to compare it"
            }
            Some(Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity) => {
                "the caller must speak TLS 1.3"
            }
            Some(_) => "the caller ended the handshake: it says why, if anybody does",
            None => match self {
                Self::NotTls => {
                    "it spoke no TLS, as with http://: ask with https://, and show a certificate of the cluster \
                     (--certificate, --key, --ca)"
                }
                Self::NoCertificate | Self::NoName | Self::BadCertificate => {
                    "give the caller a certificate made by `trunkline ca issue`, and have it show that (--certificate, --key)"
                }
                Self::Incompatible => "the caller must speak TLS 1.3",
                _ => self.remedy(),
            },
        }
    }

    /// What an error of a TLS stream stands for; `None` for one of the socket.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        match inner.downcast_ref() {
            Some(CertificateError::OtherCluster(_)) => return Some(Self::OtherCluster),
            Some(_) => return Some(Self::NoName),
            None => {}
        }
        if inner.is::<TooLong>() {
            return Some(Self::TooLong);
        }
        Some(match inner.downcast_ref::<Error>()? {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => Self::UnknownIssuer,
            Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => Self::Expired,
            Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => Self::NotYetValid,
            Error::InvalidCertificate(Bad::Revoked) => Self::Revoked,
            Error::InvalidCertificate(Bad::Other(OtherError(why))) if why.is::<ChainError>() => Self::TooLong,
            Error::InvalidCertificate(_) => Self::BadCertificate,
            Error::PeerIncompatible(_) => Self::Incompatible,
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Other,
        })
    }
}

/// What the peer said as it ended the handshake, or the connection.
pub(in super::super) fn alert(error: &io::Error) -> Option<Alert> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// It is about the certificate that this end showed, or did not.
fn is_of_certificate(alert: Alert) -> bool {
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_number_and_a_label_of_its_own() {
        for (index, failure) in TlsFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, index);
        }
        let labels: std::collections::BTreeSet<_> = TlsFailure::ALL.iter().map(|of| of.label()).collect();
        assert_eq!(labels.len(), TlsFailure::ALL.len());
        assert_eq!(TlsFailure::of(&io::ErrorKind::ConnectionReset.into()), None);
    }

    #[test]
    fn who_refused_is_told_with_what_to_look_at_on_which_side() {
        let told = |alert| {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert));
            let failure = TlsFailure::of(&error).unwrap();
            assert_eq!(failure, TlsFailure::RefusedByPeer);
            (failure.remedy_for(&error), failure.remedy_for_caller(&error))
        };
        let (peer, caller) = told(Alert::UnknownCA);
        assert!(
            peer.starts_with("the peer does not trust the CA that issued this node's certificate"),
            "{peer}"
        );
        assert!(caller.contains("give the caller the `ca` file"), "{caller}");
        let (peer, caller) = told(Alert::CertificateExpired);
        assert!(
            peer.contains("compare the clocks") && caller.contains("compare the clocks"),
            "{peer} {caller}"
        );
        assert!(told(Alert::CertificateUnknown).1.contains("compares the address that it dials"));
        assert!(told(Alert::ProtocolVersion).0.contains("TLS 1.3"));
        assert_eq!(told(Alert::InternalError).0, TlsFailure::RefusedByPeer.remedy());
    }
}
