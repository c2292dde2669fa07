//! Certificates that were taken back: revocation lists in PEM, each signed by a CA of the node's own file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{CertificateInfo, date, hex, plain as shown, wall_s};
use super::credentials::{certificates, read};
use super::error::TlsError;

/// One certificate that was taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// Its serial number, as hexadecimal bytes.
    pub serial: String,
    /// Since when, seconds since 1970.
    pub since_s: i64,
}

/// What a list of certificates that were taken back says. Its signature was not looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevocationList {
    /// Who made it.
    pub issuer: String,
    /// When it was made, seconds since 1970.
    pub made_s: i64,
    /// When the next one is due, seconds since 1970, if it says so.
    pub next_s: Option<i64>,
    /// What it takes back, in its order.
    pub revoked: Vec<Revocation>,
}

impl RevocationList {
    /// When it was made, as a date.
    #[must_use]
    pub fn made_text(&self) -> String {
        date(self.made_s)
    }

    /// When the next one is due, as a date.
    #[must_use]
    pub fn next_text(&self) -> Option<String> {
        self.next_s.map(date)
    }
}

impl Revocation {
    /// Since when, as a date.
    #[must_use]
    pub fn since_text(&self) -> String {
        date(self.since_s)
    }
}

/// Who issued it, as a name in DER, and its serial number.
type Key = (Vec<u8>, Vec<u8>);

/// All that a node's file takes back.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Revoked {
    certificates: BTreeSet<Key>,
    /// When the list of each CA was made, the latest one, seconds since 1970. By the CA's public key: the one that takes its place
    /// goes by the same name.
    made_s: BTreeMap<Vec<u8>, i64>,
}

/// When a list was made that is in use, and the one that is found instead, as dates. `None`: there is none.
pub(super) struct Older {
    pub(super) in_use: String,
    pub(super) found: Option<String>,
}

impl Revoked {
    /// Reads a file of lists. A list that no CA of the node signed is refused: it would take nothing back, and nobody would
    /// notice. One that is out of date still says what it says.
    pub(super) fn load(path: &Path, cas: &[CertificateDer<'_>]) -> Result<Self, TlsError> {
        let mut revoked = Self::default();
        for der in lists(path)? {
            let list = parse(path, &der)?;
            let Some(key) = cas.iter().find_map(|ca| key_of_signer(&list, ca)) else {
                let issuer = shown(&list.issuer().to_string());
                return Err(TlsError::OtherList { path: path.to_owned(), issuer });
            };
            if list.next_update().is_some_and(|next| next.timestamp() < wall_s()) {
                tracing::warn!(crl = %path.display(), "a revocation list is out of date: make a new one");
            }
            let issuer = list.issuer().as_raw();
            let serials = list.iter_revoked_certificates().map(|entry| plain(entry.raw_serial()));
            revoked.certificates.extend(serials.map(|serial| (issuer.to_vec(), serial)));
            let made_s = revoked.made_s.entry(key).or_insert(i64::MIN);
            *made_s = list.last_update().timestamp().max(*made_s);
        }
        Ok(revoked)
    }

    /// How many certificates it takes back.
    pub(super) fn len(&self) -> usize {
        self.certificates.len()
    }

    /// The list of a CA that is older in the other ones, or gone from there though that CA is trusted still: they may not know what was
    /// taken back since.
    pub(super) fn older_in(&self, other: &Self, is_trusted: impl Fn(&[u8]) -> bool) -> Option<Older> {
        let is_older = |(key, here): &(&Vec<u8>, &i64)| match other.made_s.get(*key) {
            Some(there) => there < *here,
            None => is_trusted(key),
        };
        let (key, here) = self.made_s.iter().find(is_older)?;
        Some(Older { in_use: date(*here), found: other.made_s.get(key).map(|there| date(*there)) })
    }

    /// Refuses a chain of which any certificate was taken back.
    pub(super) fn check(&self, chain: &[&CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if self.certificates.is_empty() {
            return Ok(());
        }
        for der in chain {
            if self.has(der)? {
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }

    fn has(&self, der: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else {
            return Err(CertificateError::BadEncoding.into());
        };
        Ok(self
            .certificates
            .contains(&(certificate.issuer().as_raw().to_vec(), plain(certificate.raw_serial()))))
    }

    /// Which certificate of a peer's chain was taken back: the error that the library takes has no room for it, and without it nobody
    /// knows whom to ask.
    pub(super) fn tell_whose(&self, chain: &[&CertificateDer<'_>]) {
        let Some(der) = chain.iter().find(|der| self.has(der) == Ok(true)) else { return };
        let Ok(info) = CertificateInfo::of(der) else { return };
        let (certificate, serial) =
            (if info.uris.is_empty() { info.subject } else { info.uris.join(", ") }, info.serial);
        tracing::warn!(certificate, serial, "a certificate that was revoked is refused");
    }
}

/// What the lists of a PEM file say, in its order. No signature is looked at.
///
/// # Errors
/// [`TlsError`]: the file is not to be read, or has no list.
pub fn read_revocation_lists(path: &Path) -> Result<Vec<RevocationList>, TlsError> {
    let mut all = Vec::new();
    for der in lists(path)? {
        let list = parse(path, &der)?;
        let revoked = list.iter_revoked_certificates().map(|entry| Revocation {
            serial: hex(entry.raw_serial()),
            since_s: entry.revocation_date.timestamp(),
        });
        all.push(RevocationList {
            issuer: shown(&list.issuer().to_string()),
            made_s: list.last_update().timestamp(),
            next_s: list.next_update().map(|next| next.timestamp()),
            revoked: revoked.collect(),
        });
    }
    Ok(all)
}

/// Who made the first revocation list of a file that the first CA of another one did not sign, as it says; `None` if that signed all.
///
/// # Errors
/// [`TlsError`]: one of the two files is not to be read, or has none.
pub fn list_of_another(path: &Path, ca: &Path) -> Result<Option<String>, TlsError> {
    match Revoked::load(path, certificates(ca)?.get(..1).unwrap_or_default()) {
        Ok(_) => Ok(None),
        Err(TlsError::OtherList { issuer, .. }) => Ok(Some(issuer)),
        Err(error) => Err(error),
    }
}

fn lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|_| wrong(path, "it is damaged".to_owned()))?;
    if found.is_empty() {
        return Err(wrong(path, "there is none".to_owned()));
    }
    Ok(found)
}

fn parse<'der>(
    path: &Path,
    der: &'der CertificateRevocationListDer<'_>,
) -> Result<CertificateRevocationList<'der>, TlsError> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        _ => Err(wrong(path, "it is damaged".to_owned())),
    }
}

/// The public key of a CA, if that signed the list.
fn key_of_signer(list: &CertificateRevocationList<'_>, ca: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, ca) = x509_parser::parse_x509_certificate(ca).ok()?;
    let signed =
        ca.subject().as_raw() == list.issuer().as_raw() && list.verify_signature(ca.public_key()).is_ok();
    signed.then(|| ca.public_key().raw.to_vec())
}

fn wrong(path: &Path, detail: String) -> TlsError {
    TlsError::Pem { path: path.to_owned(), what: "revocation list", detail }
}

/// Some write a zero in front of a serial number and some do not.
fn plain(serial: &[u8]) -> Vec<u8> {
    serial.iter().copied().skip_while(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_compared_as_numbers() {
        assert_eq!(plain(&[0, 0x80, 0]), plain(&[0x80, 0]));
        assert_ne!(plain(&[0x80, 0]), plain(&[0x80]));
    }

    #[test]
    fn no_bytes_of_a_list_panic() {
        let mut rng = fastrand::Rng::with_seed(5);
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length % 97).map(|_| rng.u8(..)).collect();
            let _ = parse(Path::new("x"), &bytes.into());
        }
    }
}
