//! What stands against the files of a node.

use std::path::PathBuf;

use super::certificate::CertificateError;
use super::gate::CHAIN_BYTES_MAX;
use crate::id::SpiffeId;

/// Files that are no credentials of this node. Nothing was started; after a reload the old ones stay in use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read. Mend its path or permissions.
    #[error("cannot read {}: {source}: mend the path or the permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file is larger than any of its kind.
    #[error("{} goes on after 1 MiB: give the path of a PEM file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file has no such thing in PEM.
    #[error("{} has no {what} in PEM ({detail}): give a file made by `trunkline ca`", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate`, `private key` or `revocation list`.
        what: &'static str,
        /// What stands against it; never a part of the file.
        detail: String,
    },
    /// A list of revoked certificates of a CA that the node does not trust: it would take nothing back, and nobody would notice.
    #[error("{} has a revocation list of `{issuer}` that no CA of the `ca` file signed: leave that list out, or give its CA beside the others", path.display())]
    OtherList {
        /// The file.
        path: PathBuf,
        /// Who made it, as it says.
        issuer: String,
    },
    /// A list of revoked certificates that is older than the one in use.
    #[error("{} was made on {found}, before the list in use, of {in_use}, which may take back more: give the latest list", path.display())]
    OlderList {
        /// The file.
        path: PathBuf,
        /// When it was made, as a date.
        found: String,
        /// The same of the list in use.
        in_use: String,
    },
    /// The list in use of a CA that is trusted still, of which there is none any more.
    #[error("{} has no list of a CA of the `ca` file whose list in use, of {in_use}, may take something back: give the lists of all CAs", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
        /// When the list in use was made, as a date.
        in_use: String,
    },
    /// A certificate that cannot be read, or that names no node.
    #[error("{}: {source}: issue one with `trunkline ca issue`", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CertificateError,
    },
    /// Peers would not read the chain to its end.
    #[error(
        "{}: its certificates are {bytes} bytes together, and peers read no chain of more than {CHAIN_BYTES_MAX}: \
         leave out the CA's own certificate and what is not between it and the node's", path.display()
    )]
    LongChain {
        /// The file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
    /// The certificate is another node's.
    #[error("{} is the certificate of {found}, and this node is {expected}: give it its own", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: Box<SpiffeId>,
        /// Whose it should be.
        expected: Box<SpiffeId>,
    },
    /// A certificate whose time is over.
    #[error("{} expired on {not_after}: issue a new one with `trunkline ca`", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When, as a date.
        not_after: String,
    },
    /// A certificate whose time has not come.
    #[error("{} is valid from {not_before} on: wait, or set this machine's clock", path.display())]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When, as a date.
        not_before: String,
    },
    /// The key cannot be used.
    #[error("{} holds no key that can be used ({detail}): issue certificate and key anew", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What stands against it.
        detail: String,
    },
    /// The key is another certificate's. Also seen for a moment while files are replaced one by one.
    #[error("the key {} is not that of the certificate {}: give both from one `trunkline ca issue`", key.display(),
        certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
    },
    /// The certificate, or one between it and the CA, was taken back.
    #[error("{} was revoked by the list in {}: issue a new one (`trunkline ca issue --replace`)", path.display(),
        crl.display())]
    Revoked {
        /// The certificate's file.
        path: PathBuf,
        /// The list's.
        crl: PathBuf,
    },
    /// The CA did not issue the certificate, or not for this use.
    #[error("{} does not follow from the CA in {}: {detail}: give the CA that issued it", certificate.display(),
        ca.display())]
    Chain {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's.
        ca: PathBuf,
        /// What stands against it.
        detail: String,
    },
    /// The library refuses them for another reason.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}
