//! A CA and what it issues, good and bad, in a directory of files.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

type Time = std::time::SystemTime;

/// A certificate authority and its directory, which is gone with it.
pub(crate) struct Pki {
    directory: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// What is special about a certificate. The default is a good one.
#[derive(Default)]
pub(crate) struct Special {
    /// The URIs, instead of the one of the node.
    pub(crate) uris: Option<Vec<String>>,
    /// Its time is over.
    pub(crate) expired: bool,
    /// Its time has not come.
    pub(crate) early: bool,
    /// It is for nothing but clients.
    pub(crate) client_only: bool,
    /// It is for nothing but servers.
    pub(crate) server_only: bool,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::of(authority())
    }

    /// One whose CA expired an hour ago; what it issues is in its time.
    pub(crate) fn expired() -> Self {
        let mut params = authority();
        let now = Time::now();
        let (from, until) = (now - Duration::from_secs(24 * 3600), now - Duration::from_secs(3600));
        (params.not_before, params.not_after) = (from.into(), until.into());
        Self::of(params)
    }

    fn of(params: CertificateParams) -> Self {
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { directory: tempfile::tempdir().unwrap(), ca };
        pki.write("ca.crt", &pki.ca.pem());
        pki
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The CA, in PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        // As tools do it: whoever reads sees the old file or the new one.
        let new = self.path().join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path().join(name)).unwrap();
    }

    /// A certificate and its key for `spiffe://test/dc/DC/node/NODE`, as (certificate, key) in PEM.
    pub(crate) fn make(&self, node: &str, dc: &str, special: &Special) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node);
        let own = vec![format!("spiffe://test/dc/{dc}/node/{node}")];
        let uris = special.uris.as_ref().unwrap_or(&own);
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        let (now, day) = (Time::now(), Duration::from_secs(24 * 3600));
        let (from, until) = match special {
            Special { expired: true, .. } => (now - 3 * day, now - day),
            Special { early: true, .. } => (now + day, now + 3 * day),
            _ => (now - day, now + 30 * day),
        };
        (params.not_before, params.not_after) = (from.into(), until.into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if !special.server_only {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if !special.client_only {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }

    /// Takes certificates back, in PEM, and no others: a list of them where nodes look for it.
    pub(crate) fn revoke(&self, certificates: &[&str]) {
        self.write("ca.crl", &self.list(certificates));
    }

    /// A list of certificates that are taken back.
    pub(crate) fn list(&self, certificates: &[&str]) -> String {
        self.list_of(Duration::ZERO, certificates)
    }

    /// The same, made that long ago.
    pub(crate) fn list_of(&self, ago: Duration, certificates: &[&str]) -> String {
        let serial = |pem: &&str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
        };
        let revoked = |serial: Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: Time::now().into(),
            reason_code: None,
            invalidity_date: None,
        };
        let day = Duration::from_secs(24 * 3600);
        let list = CertificateRevocationListParams {
            this_update: (Time::now() - ago).into(),
            next_update: (Time::now() + day).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates.iter().map(serial).map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.ca).unwrap().pem().unwrap()
    }

    /// Puts a certificate where the node looks for it.
    pub(crate) fn issue(&self, node: &str, dc: &str, special: &Special) {
        let (certificate, key) = self.make(node, dc, special);
        self.write(&format!("{node}.crt"), &certificate);
        self.write(&format!("{node}.key"), &key);
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "CA of test");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
