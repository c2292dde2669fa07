//! A certificate authority in two files, for clusters that have none: makes a CA and the certificates of nodes.
//!
//! What it makes is what [`trunkline_mesh`] wants of a certificate: one URI that names the node, for both sides of a link. Addresses
//! beside it are for others who ask its admin API, as a Prometheus does, and compare them.
//! Any other authority that does the same is as good. It keeps a copy of every certificate that it issued, beside its own: of one that was
//! renewed there is no other file, and it can still be taken back.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType,
    SerialNumber,
};
use trunkline_mesh::{
    CertificateInfo, ClusterId, EXPIRED_SPAN_S, NodeId, Revocation, SpiffeId, TlsError, is_issued_by,
    list_of_another, read_certificates, read_revocation_lists,
};

/// Days a CA is valid unless something else is asked for.
pub const CA_DAYS: u32 = 3650;
/// Days a node's certificate is valid unless something else is asked for.
pub const NODE_DAYS: u32 = 365;
/// Clocks of machines differ: a certificate is valid from a little before its making.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Lists that are made one after the other are a second apart: one that is further ahead of the clock is worth a word.
const LIST_AHEAD_S: i64 = 60;

/// A certificate that was not made. No file was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file is there already.
    #[error("{} is there already: nothing is overwritten{}", path.display(), remedy)]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// A file cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `make` or `remove`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The CA's certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] TlsError),
    /// It is no CA.
    #[error("{} is not the certificate of a CA: make one with `trunkline ca init`", .0.display())]
    NotCa(PathBuf),
    /// The CA's key cannot be used. Nothing of it is shown.
    #[error("{} holds no private key that can be used: give the key that belongs to the CA", .0.display())]
    Key(PathBuf),
    /// The key is not the CA's.
    #[error("{} is not the key of {}: give the key that belongs to the CA", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// The CA is another cluster's.
    #[error("{} is the CA of {found}, not of cluster `{wanted}`: give each cluster its own", path.display())]
    OtherCluster {
        /// The CA's file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: ClusterId,
    },
    /// The certificate is not of this CA, so that it cannot take it back.
    #[error("{} was issued by `{issuer}`{same_name}, not by this CA: only who issued a certificate takes it back", path.display(),
        same_name = if *same_name { ", another CA of that name" } else { "" })]
    OtherIssuer {
        /// The certificate's file.
        path: PathBuf,
        /// Who issued it.
        issuer: String,
        /// It goes by the name of this one, and is not it.
        same_name: bool,
    },
    /// A list beside the CA is another one's.
    #[error("{} has a list of `{issuer}` that this CA did not sign, and keeps its own there: leave only that; a file of the lists of several CAs, as nodes are given, belongs elsewhere", path.display())]
    OtherList {
        /// The list's file.
        path: PathBuf,
        /// Who made it.
        issuer: String,
    },
    /// The next list would be of a time at which there is no CA any more.
    #[error("{} is valid until {until}, and the list after the last one would be later: make a new CA; if this machine's clock is ahead, set it first", path.display())]
    NoLaterList {
        /// The CA's file.
        path: PathBuf,
        /// Until when, as a date.
        until: String,
    },
    /// It is the CA itself.
    #[error("{} is this CA's own certificate, which no list of its own takes back: make a new CA, and give every node its `ca.crt`", .0.display())]
    Itself(PathBuf),
    /// The CA's time is over before the certificate's.
    #[error("{} is valid until {until}, and {days} days are more: ask for fewer, or make a new CA", path.display())]
    Outlives {
        /// The CA's file.
        path: PathBuf,
        /// Until when, as a date.
        until: String,
        /// Days asked for.
        days: u32,
    },
    /// What is to be kept is not the certificate of the node, so that the one it has would be taken back with the others.
    #[error("{} is no certificate that this CA issued to `{node}`: give the file that the node has", path.display())]
    NotOf {
        /// The file.
        path: PathBuf,
        /// The node.
        node: NodeId,
    },
    /// It is no serial number.
    #[error(
        "`{0}` is no serial number: give it as `trunkline ca show` does, hexadecimal bytes with colons between them"
    )]
    Serial(String),
    /// Nothing is recorded of what was issued to the node.
    #[error("{} has no certificate of `{node}` that is valid: give its file, or its serial number (--serial)", directory.display())]
    NotRecorded {
        /// Where they are kept.
        directory: PathBuf,
        /// The node.
        node: NodeId,
    },
    /// The library cannot make it.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Make(error.to_string())
    }
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The private key's, which only its owner can read.
    pub key: PathBuf,
    /// What the certificate says.
    pub info: CertificateInfo,
}

/// What a CA took back.
#[derive(Debug)]
pub struct TakenBack {
    /// The list's file.
    pub list: PathBuf,
    /// Certificates on it.
    pub total: usize,
    /// Certificates that are new on it.
    pub new: usize,
    /// The files and serial numbers that were on it before.
    pub already: Vec<String>,
}

/// Makes a CA in a directory, as `ca.crt` and `ca.key`, and the list of what it took back, `ca.crl`: with nothing on it, so
/// that every node can be given one from the start.
///
/// # Errors
/// [`CaError`]; a CA that is there stays as it is.
pub fn init(directory: &Path, cluster: &ClusterId, days: u32) -> Result<Made, CaError> {
    let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    let list = certificate.with_extension("crl");
    refuse_existing([&certificate, &key, &list], ": move it away, or use another directory")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Trunkline CA of {cluster}"));
    params.subject_alt_names = vec![uri(&trust_domain(cluster))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(days);
    let pair = KeyPair::generate()?;
    let pem = params.self_signed(&pair)?.pem();
    let key_pem = pair.serialize_pem();
    let issuer = Issuer::from_ca_cert_pem(&pem, pair)?;
    let nothing = list_pem(&issuer, &BTreeMap::new(), now_s(), params.not_after.into())?;
    make_directory(directory)?;
    let placed = Draft::write(&list, &nothing, 0o644)?.place(false)?;
    let outcome = write_pair(&certificate, &pem, &key, &key_pem, false);
    if outcome.is_err() {
        // Made a moment ago, and of a CA that is not there.
        let _ = fs::remove_file(&placed);
    }
    outcome?;
    made(certificate, key)
}

/// A copy of what was issued, and what it says.
type Recorded = (PathBuf, Result<CertificateInfo, CaError>);

/// A CA that was read from its files.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    info: CertificateInfo,
}

impl Authority {
    /// Reads `ca.crt` and `ca.key` of a directory.
    ///
    /// # Errors
    /// [`CaError`] says which of them is wrong.
    pub fn load(directory: &Path) -> Result<Self, CaError> {
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let info = read_certificates(&certificate)?.into_iter().next();
        let info = info.filter(|info| info.is_ca).ok_or_else(|| CaError::NotCa(certificate.clone()))?;
        let pem = read(&key)?;
        let pair = KeyPair::from_pem(&pem).map_err(|_| CaError::Key(key.clone()))?;
        if pair.subject_public_key_info() != info.public_key {
            return Err(CaError::KeyMismatch { key, certificate });
        }
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, pair)?;
        Ok(Self { issuer, certificate, info })
    }

    /// Makes certificate and key of a node, as `NODE.crt` and `NODE.key` in a directory, with the addresses at which its admin
    /// API is asked.
    ///
    /// # Errors
    /// [`CaError`]. Without `replace` nothing that is there is touched.
    pub fn issue(
        &self,
        node: &SpiffeId,
        addresses: &[IpAddr],
        days: u32,
        directory: &Path,
        replace: bool,
    ) -> Result<Made, CaError> {
        self.check_cluster(&node.cluster)?;
        let (certificate, key) = self.node_files(node, directory)?;
        if !replace {
            refuse_existing([&certificate, &key], ": renew it with --replace, or use another directory")?;
        }
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node.node.as_str());
        params.subject_alt_names = vec![uri(&node.to_string())?];
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(days);
        if params.not_after.unix_timestamp() > self.info.not_after_s {
            let until = self.info.not_after_text();
            return Err(CaError::Outlives { path: self.certificate.clone(), until, days });
        }
        let pair = KeyPair::generate()?;
        let pem = params.signed_by(&pair, &self.issuer)?.pem();
        make_directory(directory)?;
        let record = self.record(&pem)?;
        let outcome = write_pair(&certificate, &pem, &key, &pair.serialize_pem(), replace);
        if outcome.is_err() && !read(&certificate).is_ok_and(|there| there == pem) {
            // Nobody has it.
            let _ = fs::remove_file(&record);
        }
        outcome?;
        made(certificate, key)
    }

    /// Where copies are kept of what was issued.
    fn records(&self) -> PathBuf {
        self.certificate.with_file_name("issued")
    }

    /// Keeps a copy, under its serial number, and those of before that a link may still have.
    fn record(&self, pem: &str) -> Result<PathBuf, CaError> {
        let directory = self.records();
        make_directory(&directory)?;
        // Nobody takes back what is of no use. What cannot be read is found out when something is.
        for (path, read) in self.recorded()? {
            if read.is_ok_and(|info| is_over(&info)) {
                match fs::remove_file(&path) {
                    // By another one at the same time.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(failed("remove", &path))?,
                }
            }
        }
        let draft = directory.join("draft.crt");
        let draft = Draft::write(&draft, pem, 0o644)?;
        let info = read_certificates(&draft.draft)?.into_iter().next();
        let serial = info.map(|info| info.serial.replace(':', "")).unwrap_or_default();
        draft.place_as(&directory.join(format!("{serial}.crt")))
    }

    /// All copies, and what they say.
    fn recorded(&self) -> Result<Vec<Recorded>, CaError> {
        let directory = self.records();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.map_err(failed("read", &directory))?),
        };
        let mut all = Vec::new();
        for entry in entries.into_iter().flatten() {
            let path = entry.map_err(failed("read", &directory))?.path();
            if path.extension().is_some_and(|extension| extension == "crt") {
                let read = first_of(&path);
                all.push((path, read));
            }
        }
        all.sort_by(|(path, _), (other, _)| path.cmp(other));
        Ok(all)
    }

    /// The certificate of a node in a file.
    ///
    /// # Errors
    /// [`CaError::NotOf`]: it is another one's, or not of this CA.
    fn certificate_of(&self, node: &NodeId, path: &Path) -> Result<CertificateInfo, CaError> {
        let info = read_certificates(path)?.into_iter().next();
        let is_its = |info: &CertificateInfo| info.name().is_ok_and(|name| name.node == *node);
        match info.filter(is_its) {
            Some(info) if is_issued_by(path, &self.certificate)? => Ok(info),
            _ => Err(CaError::NotOf { path: path.to_owned(), node: node.clone() }),
        }
    }

    /// The copies of what was issued to a node and that a link may still have, but for the certificate in the file `keep`. A copy that cannot be read
    /// is left out, and logged: it may be the node's.
    ///
    /// # Errors
    /// [`CaError::NotRecorded`]: there is none, not even that one. [`CaError::NotOf`]: `keep` is not the node's. `keep` cannot be read.
    pub fn issued_to(&self, node: &NodeId, keep: Option<&Path>) -> Result<Vec<PathBuf>, CaError> {
        let keep = keep.map(|path| self.certificate_of(node, path)).transpose()?;
        let (mut found, mut is_recorded) = (Vec::new(), false);
        for (path, read) in self.recorded()? {
            let info = match read {
                Ok(info) => info,
                Err(error) => {
                    tracing::warn!("{error}: if that is of {node}, it is not taken back");
                    continue;
                }
            };
            if !is_over(&info) && info.name().is_ok_and(|name| name.node == *node) {
                is_recorded = true;
                let kept = keep.as_ref().is_some_and(|keep| keep.fingerprint == info.fingerprint);
                found.extend((!kept).then_some(path));
            }
        }
        if !is_recorded {
            return Err(CaError::NotRecorded { directory: self.records(), node: node.clone() });
        }
        Ok(found)
    }

    /// Takes certificates back, those of these files and those of these serial numbers, beside those that were taken back before: in
    /// `ca.crl` beside the CA, which is replaced whole, and renewed where there is nothing new. It is later than the one before, whatever
    /// the clock shows: nodes take no other.
    ///
    /// # Errors
    /// [`CaError`]: the list stays as it was.
    pub fn revoke(&self, certificates: &[PathBuf], serials: &[String]) -> Result<TakenBack, CaError> {
        let path = self.certificate.with_extension("crl");
        let (mut revoked, mut asked, mut made_s) = (BTreeMap::new(), BTreeMap::new(), now_s());
        if path.symlink_metadata().is_ok() {
            if let Some(issuer) = list_of_another(&path, &self.certificate)? {
                return Err(CaError::OtherList { path, issuer });
            }
            for list in read_revocation_lists(&path)? {
                made_s = made_s.max(list.made_s.saturating_add(1));
                revoked
                    .extend(list.revoked.into_iter().map(|Revocation { serial, since_s }| (serial, since_s)));
            }
        }
        if made_s >= self.info.not_after_s {
            let until = self.info.not_after_text();
            return Err(CaError::NoLaterList { path: self.certificate.clone(), until });
        }
        if made_s > now_s() + LIST_AHEAD_S {
            let list = path.display();
            tracing::warn!(
                "{list} is of a time that has not come, and so is the one that replaces it: set the clock"
            );
        }
        for certificate in certificates {
            let info = first_of(certificate)?;
            if info.fingerprint == self.info.fingerprint {
                return Err(CaError::Itself(certificate.clone()));
            }
            // Names are not unique: the CA that a lost one was replaced by goes by the same.
            if !is_issued_by(certificate, &self.certificate)? {
                let same_name = info.issuer == self.info.subject;
                return Err(CaError::OtherIssuer {
                    path: certificate.clone(),
                    issuer: info.issuer,
                    same_name,
                });
            }
            asked.entry(info.serial).or_insert_with(|| certificate.display().to_string());
        }
        for serial in serials {
            let serial = checked_serial(serial)?;
            if serial == self.info.serial {
                return Err(CaError::Itself(self.certificate.clone()));
            }
            let copy = self.records().join(format!("{}.crt", serial.replace(':', "")));
            if !copy.exists() && !revoked.contains_key(&serial) {
                let kept = self.records();
                tracing::warn!("{serial} is taken back, and no certificate in {} has it", kept.display());
            }
            asked.entry(serial.clone()).or_insert(serial);
        }
        let (mut new, mut already) = (0, Vec::new());
        for (serial, what) in asked {
            match revoked.entry(serial) {
                Entry::Occupied(_) => already.push(what),
                Entry::Vacant(free) => {
                    free.insert(now_s());
                    new += 1;
                }
            }
        }
        let pem = list_pem(&self.issuer, &revoked, made_s, at(self.info.not_after_s))?;
        Draft::write(&path, &pem, 0o644)?.place(true)?;
        Ok(TakenBack { list: path, total: revoked.len(), new, already })
    }

    /// Refuses a node whose files are there already: asked for all of them before the first is made.
    ///
    /// # Errors
    /// [`CaError::Exists`].
    pub fn check_free(&self, node: &SpiffeId, directory: &Path) -> Result<(), CaError> {
        let (certificate, key) = self.node_files(node, directory)?;
        refuse_existing([&certificate, &key], ": renew it with --replace, or use another directory")
    }

    /// Where a node's certificate and key go: not where the CA's are, which a node called `ca` would replace.
    fn node_files(&self, node: &SpiffeId, directory: &Path) -> Result<(PathBuf, PathBuf), CaError> {
        let certificate = directory.join(format!("{}.crt", node.node));
        if certificate == self.certificate {
            let why = format!("{} is the CA's own: give another directory with --out", certificate.display());
            return Err(CaError::Make(why));
        }
        Ok((certificate, directory.join(format!("{}.key", node.node))))
    }

    /// A CA that was made here says whose it is; of others nothing is known.
    fn check_cluster(&self, cluster: &ClusterId) -> Result<(), CaError> {
        let domains: Vec<&String> =
            self.info.uris.iter().filter(|uri| uri.starts_with("spiffe://")).collect();
        if domains.is_empty() || domains.iter().any(|uri| **uri == trust_domain(cluster)) {
            return Ok(());
        }
        Err(CaError::OtherCluster {
            path: self.certificate.clone(),
            found: domains.iter().map(|uri| uri.as_str()).collect::<Vec<_>>().join(", "),
            wanted: cluster.clone(),
        })
    }
}

/// A signed list of these serial numbers, each with when it was taken back. It is replaced when something is added, not before
/// a date: `until` is the end of the CA.
fn list_pem(
    issuer: &Issuer<'_, KeyPair>,
    revoked: &BTreeMap<String, i64>,
    made_s: i64,
    until: SystemTime,
) -> Result<String, CaError> {
    let entry = |(serial, since_s): (&String, &i64)| RevokedCertParams {
        serial_number: SerialNumber::from(bytes(serial)),
        revocation_time: at(*since_s),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: at(made_s),
        next_update: until.into(),
        // Later lists have higher numbers.
        crl_number: SerialNumber::from(u64::try_from(made_s).unwrap_or_default()),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(issuer)?.pem()?)
}

fn trust_domain(cluster: &ClusterId) -> String {
    format!("spiffe://{cluster}")
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into()?))
}

/// From a little before now, for so many days.
fn validity<T: From<SystemTime>>(days: u32) -> (T, T) {
    let now = SystemTime::now();
    (T::from(now - BACKDATED), T::from(now + DAY * days))
}

/// No link is left that began with it, nor begins with it.
fn is_over(info: &CertificateInfo) -> bool {
    now_s() > info.not_after_s.saturating_add(EXPIRED_SPAN_S)
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn at<T: From<SystemTime>>(since_1970_s: i64) -> T {
    let since = Duration::from_secs(u64::try_from(since_1970_s).unwrap_or_default());
    T::from(SystemTime::UNIX_EPOCH + since)
}

/// As a list has it.
fn checked_serial(text: &str) -> Result<String, CaError> {
    let is_byte = |byte: &str| byte.len() == 2 && byte.chars().all(|digit| digit.is_ascii_hexdigit());
    // RFC 5280: no more than 20 bytes, and one for the sign.
    if (1..=21).contains(&text.split(':').count()) && text.split(':').all(is_byte) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(CaError::Serial(text.to_owned()))
    }
}

/// Of hexadecimal bytes with colons between them.
fn bytes(hex: &str) -> Vec<u8> {
    hex.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

fn made(certificate: PathBuf, key: PathBuf) -> Result<Made, CaError> {
    let info = first_of(&certificate)?;
    Ok(Made { certificate, key, info })
}

/// What the first certificate of a file says.
fn first_of(path: &Path) -> Result<CertificateInfo, CaError> {
    let info = read_certificates(path)?.into_iter().next();
    info.ok_or_else(|| CaError::Make(format!("{} is empty", path.display())))
}

fn refuse_existing<'p>(
    paths: impl IntoIterator<Item = &'p PathBuf>,
    remedy: &'static str,
) -> Result<(), CaError> {
    // A link that leads nowhere is there too.
    match paths.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(CaError::Exists { path: path.clone(), remedy }),
        None => Ok(()),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io { what, path, source }
}

/// No more of a file is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn read(path: &Path) -> Result<String, CaError> {
    use std::io::Read;
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed("read", path))?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(text)
}

/// A directory of its own is nobody else's to look into.
fn make_directory(path: &Path) -> Result<(), CaError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(failed("make", path))
}

/// Writes both files beside where they go, and puts them there once both are whole: a full disk leaves what there was. The key
/// goes first: a certificate never stands without one.
fn write_pair(
    certificate: &Path,
    certificate_pem: &str,
    key: &Path,
    key_pem: &str,
    replace: bool,
) -> Result<(), CaError> {
    let key = Draft::write(key, key_pem, 0o600)?;
    let certificate = Draft::write(certificate, certificate_pem, 0o644)?;
    let placed = key.place(replace)?;
    let outcome = certificate.place(replace);
    if outcome.is_err() && !replace {
        // Made a moment ago, and of no use to anybody.
        let _ = fs::remove_file(&placed);
    }
    outcome.map(|_| ())
}

/// A whole file that is not in its place yet; dropped, it is gone.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
}

impl Draft {
    /// It has its permissions before it has content, and its content is on the disk when this returns.
    fn write(path: &Path, text: &str, mode: u32) -> Result<Self, CaError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let draft = Self { path: path.to_owned(), draft: path.with_file_name(name) };
        create(&draft.draft, text, mode).map_err(failed("write", path))?;
        Ok(draft)
    }

    /// Under another name in the same directory.
    fn place_as(mut self, path: &Path) -> Result<PathBuf, CaError> {
        self.path = path.to_owned();
        self.place(false)
    }

    /// Without `replace` what is there by now stays.
    fn place(self, replace: bool) -> Result<PathBuf, CaError> {
        let placed = if replace {
            fs::rename(&self.draft, &self.path)
        } else {
            match fs::hard_link(&self.draft, &self.path) {
                // Some file systems have no links.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    refuse_existing([&self.path], "")?;
                    fs::rename(&self.draft, &self.path)
                }
                linked => linked,
            }
        };
        placed.and_then(|()| sync_directory(&self.path)).map_err(failed("write", &self.path))?;
        Ok(self.path.clone())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.draft);
    }
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The new name is on the disk too.
fn sync_directory(of: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(directory) = of.parent() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        fs::File::open(directory)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = of;
    Ok(())
}
