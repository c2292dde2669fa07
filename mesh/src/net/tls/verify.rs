//! Both sides' check of a certificate: a chain to the cluster's CA that is short and leads one way, in its time, for its side of
//! a connection. Not its name: a node is no host, and who it is says its URI, which the machine checks.
//!
//! Whoever connects chooses the chain, and the library tries every way through it to a CA: with many certificates of one
//! name that are a hundred signatures, before anything is proved. A chain that is taken here has one way.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::revoked::Revoked;

/// Certificates between a node's own and its CA.
const BETWEEN_MAX: usize = 4;

/// A chain that is not looked into.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChainError {
    /// It has too many certificates.
    #[error("{0} certificates between it and the CA: at most {BETWEEN_MAX}")]
    TooLong(usize),
    /// Two of them go by one name, so that there are several ways through it.
    #[error("two of the certificates between it and the CA go by one name")]
    NotAChain,
}

/// Refuses chains that cost more than one way through them.
fn check_chain(between: &[CertificateDer<'_>]) -> Result<(), Error> {
    let refuse = |error| Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))));
    if between.len() > BETWEEN_MAX {
        return refuse(ChainError::TooLong(between.len()));
    }
    let mut names = BTreeSet::new();
    for certificate in between {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        };
        if !names.insert(parsed.subject().as_raw().to_vec()) {
            return refuse(ChainError::NotAChain);
        }
    }
    Ok(())
}

/// What a node dials.
#[derive(Debug)]
pub(super) struct Acceptors {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revoked: Arc<Revoked>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Acceptors {
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), Error> {
        check_chain(between)?;
        let certificate = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, between, at, algorithms)?;
        self.revoked.check(&all(leaf, between))
    }
}

impl ServerCertVerifier for Acceptors {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let outcome = self.verify(end_entity, intermediates, now);
        told(outcome, &self.revoked, &all(end_entity, intermediates))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What dials a node: the library's own check, behind that of the chain.
#[derive(Debug)]
pub(super) struct Diallers {
    pub(super) library: Arc<dyn ClientCertVerifier>,
    pub(super) revoked: Arc<Revoked>,
}

impl Diallers {
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_chain(between)?;
        let verified = self.library.verify_client_cert(leaf, between, at)?;
        self.revoked.check(&all(leaf, between))?;
        Ok(verified)
    }
}

/// What was judged of a peer in a handshake.
fn told<T>(outcome: Result<T, Error>, revoked: &Revoked, chain: &[&CertificateDer<'_>]) -> Result<T, Error> {
    if matches!(outcome, Err(Error::InvalidCertificate(CertificateError::Revoked))) {
        revoked.tell_whose(chain);
    }
    outcome
}

fn all<'c>(leaf: &'c CertificateDer<'c>, between: &'c [CertificateDer<'c>]) -> Vec<&'c CertificateDer<'c>> {
    std::iter::once(leaf).chain(between).collect()
}

impl ClientCertVerifier for Diallers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.library.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let outcome = self.verify(end_entity, intermediates, now);
        told(outcome, &self.revoked, &all(end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.library.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.library.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.library.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn self_made(name: &str) -> Issuer {
        CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(issuer: &Issuer) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    /// Both sides, with one CA, and the library's own for the accepting one.
    fn verifiers(ca: &Issuer) -> (Acceptors, Diallers, Arc<dyn ClientCertVerifier>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let library = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let library = library.build().unwrap();
        (
            Acceptors { roots, revoked: Arc::default(), provider },
            Diallers { library: Arc::clone(&library), revoked: Arc::default() },
            library,
        )
    }

    fn both(
        ca: &Issuer,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
    ) -> [Result<(), Error>; 2] {
        let (acceptors, diallers, _) = verifiers(ca);
        let (now, name) = (UnixTime::now(), ServerName::try_from("x").unwrap());
        [
            acceptors.verify_server_cert(leaf, between, &name, &[], now).map(|_| ()),
            diallers.verify_client_cert(leaf, between, now).map(|_| ()),
        ]
    }

    #[test]
    fn a_chain_of_a_few_is_taken_and_a_longer_one_is_not_looked_into() {
        let ca = self_made("ca");
        let mut chain = Vec::new();
        for count in 1..=BETWEEN_MAX + 1 {
            let next = {
                let issuer = chain.last().unwrap_or(&ca);
                let (params, key) = (authority(&format!("between {count}")), KeyPair::generate().unwrap());
                CertifiedIssuer::signed_by(params, key, issuer).unwrap()
            };
            chain.push(next);
            let between: Vec<_> = chain.iter().rev().map(|issuer| issuer.der().clone()).collect();
            for outcome in both(&ca, &leaf(&chain[count - 1]), &between) {
                let text = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
                assert_eq!(outcome.is_ok(), count <= BETWEEN_MAX, "{count}: {text}");
                assert!(outcome.is_ok() || text.contains("TooLong(5)"), "{text}");
            }
        }
    }

    /// What the same chain costs with and without the check is printed, not asserted.
    #[test]
    fn forged_chains_of_one_name_are_refused_before_a_way_through_them_is_looked_for() {
        let ca = self_made("ca");
        // None of them is the CA's, and each may have issued each other, as far as names go.
        let forged: Vec<Issuer> = (0..40).map(|_| self_made("ca")).collect();
        let all: Vec<_> = forged.iter().map(|issuer| issuer.der().clone()).collect();
        let leaf = leaf(&forged[0]);
        for count in [2, BETWEEN_MAX, 40] {
            for outcome in both(&ca, &leaf, &all[..count]) {
                let text = outcome.unwrap_err().to_string();
                let says = if count > BETWEEN_MAX { "TooLong(40)" } else { "NotAChain" };
                assert!(text.contains(says), "{text}");
            }
        }
        let (_, ours, library) = verifiers(&ca);
        let cost = |verifier: &dyn ClientCertVerifier| {
            let started = Instant::now();
            assert!(verifier.verify_client_cert(&leaf, &all, UnixTime::now()).is_err());
            started.elapsed()
        };
        let least =
            |verifier: &dyn ClientCertVerifier| -> Duration { (0..5).map(|_| cost(verifier)).min().unwrap() };
        println!("40 forged certificates: {:?} in the library, {:?} here", least(&*library), least(&ours));
    }
}
