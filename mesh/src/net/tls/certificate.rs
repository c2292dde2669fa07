//! What a certificate says, for the machine, for people and for metrics.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::id::{ClusterId, SpiffeError, SpiffeId};

/// A certificate that is none, or that names no node. Make one with `trunkline ca issue`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes are no certificate.
    #[error("no X.509 certificate: {0}")]
    Malformed(String),
    /// None was shown.
    #[error("no certificate")]
    Missing,
    /// It has no URI, so it names no node.
    #[error("the certificate names no node: it needs one URI spiffe://CLUSTER/dc/DATACENTER/node/NODE")]
    NoName,
    /// It has several, so who holds it is open.
    #[error("the certificate has {0} URIs: it needs exactly one")]
    SeveralNames(usize),
    /// It is another cluster's.
    #[error("the certificate is of cluster `{0}`")]
    OtherCluster(ClusterId),
    /// Its URI is not of the form.
    #[error(transparent)]
    Name(#[from] SpiffeError),
}

/// What a certificate says. Nothing here is verified, unless it is said where it comes from that it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateInfo {
    /// Whom it is for, as its distinguished name.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Serial number, as hexadecimal bytes.
    pub serial: String,
    /// Valid from, seconds since 1970.
    pub not_before_s: i64,
    /// Valid until, seconds since 1970.
    pub not_after_s: i64,
    /// The URIs among its subject alternative names.
    pub uris: Vec<String>,
    /// All other subject alternative names, each with its kind.
    pub other_names: Vec<String>,
    /// It may issue others.
    pub is_ca: bool,
    /// Its public key, as a SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// SHA-256 of the whole certificate, hexadecimal bytes.
    pub fingerprint: String,
}

/// Names of one certificate that are looked at; no honest one has more.
const NAMES_MAX: usize = 1024;

impl CertificateInfo {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn of(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"bytes behind its end"));
        }
        let (mut uris, mut other_names) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|error| malformed(&error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names).take(NAMES_MAX) {
            match name {
                GeneralName::URI(uri) => uris.push(plain(uri)),
                GeneralName::IPAddress(bytes) => other_names.push(address(bytes)),
                other => other_names.push(plain(&other.to_string())),
            }
        }
        Ok(Self {
            subject: plain(&certificate.subject().to_string()),
            issuer: plain(&certificate.issuer().to_string()),
            serial: hex(certificate.raw_serial()),
            not_before_s: certificate.validity().not_before.timestamp(),
            not_after_s: certificate.validity().not_after.timestamp(),
            uris,
            other_names,
            is_ca: certificate.is_ca(),
            public_key: certificate.public_key().raw.to_vec(),
            fingerprint: sha256(der),
        })
    }

    /// Which node it is for.
    ///
    /// # Errors
    /// [`CertificateError`] unless its one URI names a node.
    pub fn name(&self) -> Result<SpiffeId, CertificateError> {
        match &self.uris[..] {
            [] => Err(CertificateError::NoName),
            [uri] => Ok(uri.parse()?),
            several => Err(CertificateError::SeveralNames(several.len())),
        }
    }

    /// Until when it is valid, as a date.
    #[must_use]
    pub fn not_after_text(&self) -> String {
        date(self.not_after_s)
    }

    /// From when it is valid, as a date.
    #[must_use]
    pub fn not_before_text(&self) -> String {
        date(self.not_before_s)
    }
}

/// The wall clock, seconds since 1970.
pub(in super::super) fn wall_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The moment of a certificate's own time that is next to this one.
pub(super) fn within(not_before_s: i64, not_after_s: i64, at_s: i64) -> UnixTime {
    let at_s = at_s.clamp(not_before_s, not_after_s.max(not_before_s));
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at_s).unwrap_or_default()))
}

pub(super) fn date(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else { return format!("{seconds} s after 1970") };
    let at = time.to_datetime();
    let (month, (hour, minute, second)) = (u8::from(at.month()), at.to_hms());
    format!("{:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", at.year(), at.day())
}

/// An address as people write it; its bytes if there are too few or too many.
fn address(bytes: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).map_or_else(|_| hex(bytes), |ip| format!("IP {ip}"))
}

/// Texts of certificates end up in logs and on terminals: they must not steer them.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn sha256(bytes: &[u8]) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    hex(suite.common.hash_provider.hash(bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    const NAME: &str = "spiffe://test/dc/eu/node/eu-p";

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn exactly_one_uri_names_the_node() {
        let name = |names| CertificateInfo::of(&certificate(names)).unwrap().name();
        assert_eq!(name(vec![uri(NAME)]).unwrap().to_string(), NAME);
        let host = SanType::DnsName("eu-p".try_into().unwrap());
        assert_eq!(name(vec![host.clone(), uri(NAME)]).unwrap().to_string(), NAME);
        assert_eq!(name(vec![host]), Err(CertificateError::NoName));
        assert_eq!(name(vec![]), Err(CertificateError::NoName));
        assert_eq!(name(vec![uri(NAME), uri(NAME)]), Err(CertificateError::SeveralNames(2)));
        assert!(matches!(name(vec![uri("https://x")]), Err(CertificateError::Name(_))));
    }

    #[test]
    fn no_bytes_panic() {
        let sound = certificate(vec![uri(NAME)]);
        for cut in 0..sound.len() {
            assert!(CertificateInfo::of(&sound[..cut].to_vec().into()).is_err(), "cut at {cut}");
        }
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut bytes = sound.to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let _ = CertificateInfo::of(&bytes.into()).and_then(|info| info.name());
        }
    }

    #[test]
    fn times_are_shown_as_dates_whatever_they_are() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(4_102_444_799), "2099-12-31 23:59:59 UTC");
        assert_eq!(date(i64::MAX), "9223372036854775807 s after 1970");
    }

    #[test]
    fn addresses_are_shown_as_people_write_them() {
        assert_eq!(address(&[10, 1, 2, 3]), "IP 10.1.2.3");
        assert_eq!(address(&std::net::Ipv6Addr::LOCALHOST.octets()), "IP ::1");
        assert_eq!(address(&[10, 1, 2]), "0a:01:02");
    }

    #[test]
    fn a_fingerprint_is_the_sha_256_of_the_bytes() {
        assert!(sha256(b"abc").starts_with("ba:78:16:bf:8f:01:cf:ea"), "FIPS 180-2, B.1");
    }
}
