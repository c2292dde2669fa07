//! Certificate, key and CA of one node: three PEM files, read and checked as a whole. What they say of others is taken also where what they
//! say of the node itself is refused.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError as Bad, ClientConfig, ServerConfig};

use super::super::secure::Side;
use super::certificate::{CertificateInfo, wall_s};
use super::error::TlsError;
use super::gate::CHAIN_BYTES_MAX;
use super::revoked::Older;
use super::trust::Trust;
use crate::id::SpiffeId;
use crate::stats::CertificateFault;

/// No more of a file is read: a chain and a key are some KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a node's certificate comes from. All files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The node's certificate, first, and those between it and the CA, if there are any.
    pub certificate: PathBuf,
    /// Its private key, in PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The CA, or several while one takes the place of another: whoever one of them certified is believed, for as long as
    /// that CA is valid itself.
    pub ca: PathBuf,
    /// What those CAs took back: lists of revoked certificates, one behind the other. `None`: nothing.
    pub crl: Option<PathBuf>,
    /// Between looks at the files for new content.
    pub check_interval: Duration,
}

/// How often files are looked at unless something else is said.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// What a node shows of itself.
struct Own {
    info: CertificateInfo,
    name: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    identity: Arc<SingleCertAndKey>,
    /// When it was read, and all of the chain was in its time.
    read_at: UnixTime,
    /// That time, seconds since 1970: the first and the last second.
    valid: (i64, i64),
}

impl Own {
    /// Reads certificate and key: each is what it should be, they belong together, their time is now, and they name a node.
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let bytes = chain.iter().map(|certificate| certificate.len()).sum();
        if bytes > CHAIN_BYTES_MAX {
            return Err(TlsError::LongChain { path: files.certificate.clone(), bytes });
        }
        let key = private_key(&files.key)?;
        let info = info(&files.certificate, &chain)?;
        let name = info
            .name()
            .map_err(|source| TlsError::Certificate { path: files.certificate.clone(), source })?;
        check_time(&files.certificate, &info)?;
        let provider = rustls::crypto::ring::default_provider();
        let certified =
            CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    TlsError::KeyMismatch { certificate: files.certificate.clone(), key: files.key.clone() }
                }
                error => TlsError::Key { path: files.key.clone(), detail: error.to_string() },
            })?;
        let identity = Arc::new(certified.into());
        let valid = time_of(&chain);
        Ok(Self { info, name, chain, identity, read_at: UnixTime::now(), valid })
    }
}

/// When all of a chain is valid.
fn time_of(chain: &[CertificateDer<'_>]) -> (i64, i64) {
    let infos = chain.iter().filter_map(|der| CertificateInfo::of(der).ok());
    infos.fold((i64::MIN, i64::MAX), |(from, until), info| {
        (from.max(info.not_before_s), until.min(info.not_after_s))
    })
}

/// Credentials that passed every check.
pub struct Credentials {
    files: TlsFiles,
    own: Arc<Own>,
    trust: Arc<Trust>,
    /// What stood against the node's own certificate when it was read.
    fault: Option<CertificateFault>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Credentials {
    /// Reads and checks all three files: each is what it should be, the key is the certificate's, the CA issued it, its
    /// time is now, and it names a node. Blocks on the file system.
    ///
    /// # Errors
    /// [`TlsError`]: the first thing that is wrong.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let own = Own::load(files)?;
        let trust = Trust::load(files).or_else(|error| {
            // A list that no CA of the file signed is a matter of the CA where that issued nothing here either.
            let without_list = Trust::load(&TlsFiles { crl: None, ..files.clone() })?;
            without_list.judge_both(&own.chain, own.read_at).map_err(|error| chain_error(files, &error))?;
            Err(error)
        });
        Self::of(files, own, Arc::new(trust?))
    }

    /// The same of a node that has read whom it trusts.
    pub(super) fn load_with(files: &TlsFiles, trust: &Arc<Trust>) -> Result<Self, TlsError> {
        Self::of(files, Own::load(files)?, Arc::clone(trust))
    }

    fn of(files: &TlsFiles, own: Own, trust: Arc<Trust>) -> Result<Self, TlsError> {
        // As a peer would see it, in both roles.
        trust.judge_both(&own.chain, own.read_at).map_err(|error| chain_error(files, &error))?;
        Self::build(files, Arc::new(own), trust, None)
    }

    /// The node's own certificate as it is, and others that are trusted: for where the files say nothing sound of that certificate, and
    /// of others all the same. `None`: they are who is trusted now.
    ///
    /// # Errors
    /// No CA of the file issued the certificate in use, so that the file may be another cluster's: it would end every link. That the
    /// time of the certificate is over, or of one between it and the CA, or of that CA, or that it was revoked, says nothing against
    /// the file. Or a list is older than the one in use.
    pub(super) fn with_trust(&self, trust: Arc<Trust>) -> Result<Option<Self>, TlsError> {
        if *self.trust == *trust {
            return Ok(None);
        }
        if let Err(error) = trust.has_issued(&self.own.chain, self.own.read_at) {
            return Err(chain_error(&self.files, &error));
        }
        let fault = trust.judge_both(&self.own.chain, self.own.read_at).err().map(|error| fault_of(&error));
        let next = Self::build(&self.files, Arc::clone(&self.own), trust, fault)?;
        self.check_lists(&next).map(|()| Some(next))
    }

    fn build(
        files: &TlsFiles,
        own: Arc<Own>,
        trust: Arc<Trust>,
        fault: Option<CertificateFault>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(setup)?
            .with_client_cert_verifier(trust.diallers())
            .with_cert_resolver(Arc::clone(&own.identity) as Arc<_>);
        // Every connection shows its certificate: nothing to resume by, and no bytes before that.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.max_early_data_size = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(setup)?
            .dangerous()
            .with_custom_certificate_verifier(trust.acceptors())
            .with_client_cert_resolver(Arc::clone(&own.identity) as Arc<_>);
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_early_data = false;
        client.enable_sni = false;
        let (server, client) = (Arc::new(server), Arc::new(client));
        Ok(Self { files: files.clone(), own, trust, fault, server, client })
    }

    /// Which node they are of.
    #[must_use]
    pub fn name(&self) -> &SpiffeId {
        &self.own.name
    }

    /// What the node's certificate says.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        &self.own.info
    }

    /// Checks that they are this node's.
    ///
    /// # Errors
    /// [`TlsError::OtherNode`].
    pub fn check_name(&self, expected: &SpiffeId) -> Result<(), TlsError> {
        if self.own.name == *expected {
            return Ok(());
        }
        Err(TlsError::OtherNode {
            path: self.files.certificate.clone(),
            found: Box::new(self.own.name.clone()),
            expected: Box::new(expected.clone()),
        })
    }

    /// Whether no list of the next ones is older than that of these.
    ///
    /// # Errors
    /// [`TlsError::OlderList`]: one is. [`TlsError::NoList`]: one is gone.
    pub(super) fn check_lists(&self, next: &Self) -> Result<(), TlsError> {
        let (Some(older), Some(path)) = (self.trust.older_list_in(&next.trust), self.files.crl.clone())
        else {
            return Ok(());
        };
        Err(match older {
            Older { in_use, found: Some(found) } => TlsError::OlderList { path, found, in_use },
            Older { in_use, found: None } => TlsError::NoList { path, in_use },
        })
    }

    /// What is wrong with the node's own certificate now. Asked for at every probe: while all of the chain is in its time, nothing is
    /// verified again.
    pub(super) fn fault(&self, now_s: i64) -> Option<CertificateFault> {
        let (from, until) = self.own.valid;
        if (from..=until).contains(&now_s) {
            return self.fault;
        }
        // It may have one that no peer needs, as of a CA of before.
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s).unwrap_or_default()));
        self.trust.judge_both(&self.own.chain, at).err().map(|error| fault_of(&error))
    }

    /// What does not keep these from being used and should not be so, for people: the key is open to others, or CAs are out of their time.
    #[must_use]
    pub fn dangers(&self) -> Vec<String> {
        open_key(&self.files.key).into_iter().chain(self.trust.danger(&self.files.ca)).collect()
    }

    /// Nothing that a peer sees or that decides over peers differs. A key never changes without its certificate.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.difference(other) == Difference::default()
    }

    /// What of that differs.
    pub(super) fn difference(&self, other: &Self) -> Difference {
        Difference {
            certificate: self.own.chain != other.own.chain,
            ca: self.trust.cas() != other.trust.cas(),
            revoked: (self.trust.revoked() != other.trust.revoked()).then(|| other.trust.revoked().len()),
        }
    }

    /// Whether a chain, the peer's own certificate first, would be taken at a moment by this side of a connection.
    pub(super) fn judge(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.trust.judge(side, chain, at)
    }

    /// The CAs that are trusted.
    pub(super) fn authorities(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.trust.cas().iter()
    }

    pub(super) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    pub(super) fn client(&self) -> &Arc<ClientConfig> {
        &self.client
    }
}

/// What is not the same in two sets of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Difference {
    pub(super) certificate: bool,
    pub(super) ca: bool,
    /// How many certificates are taken back now, if that changed, or the list was made anew.
    pub(super) revoked: Option<usize>,
}

impl Difference {
    pub(super) fn tell_of_trust(self) {
        if self.ca {
            tracing::info!("CA reloaded: links end whose peer it did not certify");
        }
        if let Some(certificates) = self.revoked {
            tracing::info!(
                certificates,
                "revocation list reloaded: links end whose peer's certificate is among those that it takes back"
            );
        }
    }
}

/// What the certificates of a PEM file say, in its order. Nothing is verified.
///
/// # Errors
/// [`TlsError`]: the file is not to be read, or has no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateInfo>, TlsError> {
    certificates(path)?.iter().map(|certificate| info_of(path, certificate)).collect()
}

/// Whether the first certificate of a file was issued by the first of a CA's file: it names it, and that one's key signed it.
///
/// # Errors
/// [`TlsError`]: one of the two files is not to be read, or has no certificate.
pub fn is_issued_by(path: &Path, ca: &Path) -> Result<bool, TlsError> {
    let (ours, theirs) = (certificates(path)?, certificates(ca)?);
    let (Some(ours), Some(theirs)) = (ours.first(), theirs.first()) else { return Ok(false) };
    let parsed = |der| x509_parser::parse_x509_certificate(der).map(|(_, certificate)| certificate);
    let (Ok(ours), Ok(theirs)) = (parsed(ours), parsed(theirs)) else { return Ok(false) };
    let is_named = ours.issuer().as_raw() == theirs.subject().as_raw();
    Ok(is_named && ours.verify_signature(Some(theirs.public_key())).is_ok())
}

/// Never the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.own.name)
            .field("info", &self.own.info)
            .finish_non_exhaustive()
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|_| no_certificate(path, "it is damaged"))?;
    if found.is_empty() {
        return Err(no_certificate(path, "there is none"));
    }
    Ok(found)
}

fn no_certificate(path: &Path, detail: &str) -> TlsError {
    TlsError::Pem { path: path.to_owned(), what: "certificate", detail: detail.to_owned() }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    // What exactly is wrong could quote the key.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::Pem {
        path: path.to_owned(),
        what: "private key",
        detail: "there is none, or it is damaged or encrypted".to_owned(),
    })
}

fn info(path: &Path, chain: &[CertificateDer<'_>]) -> Result<CertificateInfo, TlsError> {
    let leaf = chain.first().ok_or_else(|| no_certificate(path, "there is none"))?;
    info_of(path, leaf)
}

pub(super) fn info_of(path: &Path, certificate: &CertificateDer<'_>) -> Result<CertificateInfo, TlsError> {
    CertificateInfo::of(certificate).map_err(|source| TlsError::Certificate { path: path.to_owned(), source })
}

pub(super) fn check_time(path: &Path, info: &CertificateInfo) -> Result<(), TlsError> {
    let now = wall_s();
    if now > info.not_after_s {
        return Err(TlsError::Expired { path: path.to_owned(), not_after: info.not_after_text() });
    }
    if now < info.not_before_s {
        return Err(TlsError::NotYetValid { path: path.to_owned(), not_before: info.not_before_text() });
    }
    Ok(())
}

/// A key that others can use still works: who may is the operator's to say. A group that may read is a common way to give a
/// service its key; one that may write could put its own there.
#[cfg(unix)]
fn open_key(key: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    const OTHERS: u32 = 0o037;
    let mode = std::fs::metadata(key).map(|found| found.permissions().mode()).unwrap_or_default();
    (mode & OTHERS != 0).then(|| {
        let (key, mode) = (key.display(), mode & 0o777);
        format!("others than its owner can use the key {key}, of mode {mode:o}: chmod 600, or 640")
    })
}

#[cfg(not(unix))]
fn open_key(_: &Path) -> Option<String> {
    None
}

fn chain_error(files: &TlsFiles, error: &rustls::Error) -> TlsError {
    match (error, &files.crl) {
        (rustls::Error::InvalidCertificate(Bad::Revoked), Some(crl)) => {
            TlsError::Revoked { path: files.certificate.clone(), crl: crl.clone() }
        }
        _ => TlsError::Chain {
            certificate: files.certificate.clone(),
            ca: files.ca.clone(),
            detail: explain(error),
        },
    }
}

fn fault_of(error: &rustls::Error) -> CertificateFault {
    match error {
        rustls::Error::InvalidCertificate(Bad::Revoked) => CertificateFault::Revoked,
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            CertificateFault::Expired
        }
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            CertificateFault::NotYetValid
        }
        _ => CertificateFault::Untrusted,
    }
}

fn explain(error: &rustls::Error) -> String {
    match error {
        // The latter if both go by one name.
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "another CA issued it".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Other(why)) => why.0.to_string(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
        ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, SanType, SerialNumber, date_time_ymd,
    };

    use super::super::{Reloaded, Tls};
    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    /// Of a CA whose time is over, or goes on.
    fn authority(name: &str, over: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(if over { 2002 } else { 2200 }, 1, 1);
        params
    }

    fn root(name: &str, over: bool) -> Issuer {
        CertifiedIssuer::self_signed(authority(name, over), KeyPair::generate().unwrap()).unwrap()
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn paths(&self) -> TlsFiles {
            let [certificate, key, ca] = ["crt", "key", "ca"].map(|name| self.0.path().join(name));
            TlsFiles { certificate, key, ca, crl: None, check_interval: CHECK_INTERVAL }
        }

        /// Those of a node whose certificate is of this issuer, as it has been since the middle of 2001.
        fn own(&self, issuer: &Issuer, between: &[&Issuer]) -> Own {
            let key = KeyPair::generate().unwrap();
            let mut params = authority("node", false);
            params.is_ca = IsCa::NoCa;
            let uri = "spiffe://test/dc/eu/node/eu-m".try_into().unwrap();
            params.subject_alt_names = vec![SanType::URI(uri)];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let leaf = params.signed_by(&key, issuer).unwrap().pem();
            let chain = between.iter().fold(leaf, |chain, issuer| chain + &issuer.pem());
            std::fs::write(self.paths().certificate, chain).unwrap();
            std::fs::write(self.paths().key, key.serialize_pem()).unwrap();
            let read_at = UnixTime::since_unix_epoch(Duration::from_secs(
                date_time_ymd(2001, 6, 1).unix_timestamp().unsigned_abs(),
            ));
            Own { read_at, ..Own::load(&self.paths()).unwrap() }
        }

        fn trust(&self, cas: &[&Issuer]) -> Arc<Trust> {
            std::fs::write(self.paths().ca, cas.iter().map(|ca| ca.pem()).collect::<String>()).unwrap();
            Arc::new(Trust::load(&self.paths()).unwrap())
        }
    }

    #[test]
    fn a_chain_that_no_peer_would_read_to_its_end_is_refused_at_home() {
        let files = Files(tempfile::tempdir().unwrap());
        let ca = root("ca", false);
        let one = files.own(&ca, &[]).chain[0].len();
        let leaf = std::fs::read_to_string(files.paths().certificate).unwrap();
        let most = CHAIN_BYTES_MAX / one;
        let load = |count: usize| {
            std::fs::write(files.paths().certificate, leaf.repeat(count)).unwrap();
            Own::load(&files.paths()).err().map(|error| error.to_string())
        };
        assert_eq!(load(most), None);
        let error = load(most + 1).expect("refused");
        assert!(error.contains(&format!("{} bytes", (most + 1) * one)), "{error}");
    }

    /// A copy that is written in place is damaged at the first look of a reload, and whole at the second.
    #[test]
    fn an_older_list_is_refused_whenever_it_is_read() {
        let (files, ca) = (Files(tempfile::tempdir().unwrap()), root("ca", false));
        let crl = files.0.path().join("crl");
        let write_list = |year| {
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(year, 1, 1),
                next_update: date_time_ymd(2200, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            std::fs::write(&crl, list.signed_by(&ca).unwrap().pem().unwrap()).unwrap();
        };
        let name = files.own(&ca, &[]).name;
        files.trust(&[&ca]);
        write_list(2004);
        let tls = Tls::load(TlsFiles { crl: Some(crl.clone()), ..files.paths() }, name).unwrap();
        for (year, is_older) in [(2003, true), (2005, false)] {
            write_list(year);
            let outcome = tls.take(Err(TlsError::Setup("damaged".to_owned())));
            assert_eq!(matches!(outcome, Err(TlsError::OlderList { .. })), is_older, "{year}: {outcome:?}");
        }
    }

    /// Its certificate says what it said.
    #[cfg(unix)]
    #[test]
    fn a_key_that_comes_to_be_open_to_others_is_told_at_the_next_look() {
        use std::os::unix::fs::PermissionsExt;
        let (files, ca) = (Files(tempfile::tempdir().unwrap()), root("ca", false));
        let name = files.own(&ca, &[]).name;
        files.trust(&[&ca]);
        let mode = std::fs::Permissions::from_mode;
        std::fs::set_permissions(files.paths().key, mode(0o600)).unwrap();
        let tls = Tls::load(files.paths(), name).unwrap();
        for (bits, told) in [(0o600, 0), (0o644, 1), (0o644, 0), (0o640, 0), (0o604, 1)] {
            std::fs::set_permissions(files.paths().key, mode(bits)).unwrap();
            assert_eq!(tls.tell_of_dangers(&tls.current()), told, "{bits:o}");
        }
        std::fs::set_permissions(files.paths().key, mode(0o666)).unwrap();
        assert_eq!(tls.reload().unwrap(), Reloaded::Unchanged);
        assert_eq!(tls.tell_of_dangers(&tls.current()), 0, "a look told it");
    }

    /// As of a CA that another one took the place of.
    #[test]
    fn a_certificate_that_no_peer_needs_may_be_over() {
        let (files, old, current) =
            (Files(tempfile::tempdir().unwrap()), root("old", true), root("current", false));
        files.own(&current, &[&old]);
        files.trust(&[&current]);
        let used = Credentials::load(&files.paths()).unwrap();
        assert_eq!(used.fault(wall_s()), None);
        let late = date_time_ymd(2201, 1, 1).unix_timestamp();
        assert_eq!(used.fault(late), Some(CertificateFault::Expired));
    }

    #[test]
    fn who_is_trusted_is_taken_whatever_time_is_over_of_the_certificate_in_use_if_the_file_has_its_ca() {
        let (old, current, other) = (root("old", true), root("current", false), root("other", false));
        let between =
            CertifiedIssuer::signed_by(authority("between", true), KeyPair::generate().unwrap(), &current)
                .unwrap();
        type Case<'a> = (&'a str, &'a Issuer, &'a [&'a Issuer], &'a Issuer, CertificateFault);
        let cases: [Case<'_>; 2] = [
            ("one between", &between, &[&between], &current, CertificateFault::Expired),
            ("its CA", &old, &[], &old, CertificateFault::Untrusted),
        ];
        for (what, issuer, chain, ca, fault) in cases {
            let files = Files(tempfile::tempdir().unwrap());
            let own = Arc::new(files.own(issuer, chain));
            let used = Credentials::build(&files.paths(), own, files.trust(&[&current]), None).unwrap();
            let next = files.trust(&[ca, &other]);
            assert!(used.judge(Side::Dials, &used.own.chain, UnixTime::now()).is_err(), "{what}: over");
            let next = used.with_trust(next).unwrap().unwrap();
            assert_eq!(next.fault(wall_s()), Some(fault), "{what}");
            let refused = used.with_trust(files.trust(&[&other])).unwrap_err().to_string();
            assert!(refused.contains("another CA issued it"), "{what}: {refused}");
        }
    }
}
