//! TLS by hand: either side of a connection, with any certificate or none, in any version, believing everybody.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use trunkline_mesh::Lane;
use trunkline_mesh::proto::frame::{FrameType, Received, control_frame};
use trunkline_mesh::proto::wire::{Hello, PREAMBLE};

use super::support::{Cluster, Raw, soon};

/// What it offers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
    Both,
}

pub(crate) struct Stranger {
    /// Certificate and key in PEM.
    pub(crate) certificate: Option<(String, String)>,
    pub(crate) version: Version,
}

impl Stranger {
    /// With the certificate of a node of the cluster, as it is now.
    pub(crate) fn of(cluster: &Cluster, node: &str) -> Self {
        let directory = cluster.pki.as_ref().unwrap().path();
        let read = |ending| std::fs::read_to_string(directory.join(format!("{node}.{ending}"))).unwrap();
        Self { certificate: Some((read("crt"), read("key"))), version: Version::Tls13 }
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        match self.version {
            Version::Tls12 => vec![&TLS12],
            Version::Tls13 => vec![&TLS13],
            Version::Both => vec![&TLS12, &TLS13],
        }
    }

    fn identity(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (certificate, key) = self.certificate.as_ref()?;
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
        Some((chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()))
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&self.versions())
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Everybody));
        Arc::new(match self.identity() {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        })
    }

    fn server(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.identity().expect("a server has a certificate");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&self.versions())
            .unwrap()
            .with_client_cert_verifier(Arc::new(Everybody))
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> std::io::Result<client::TlsStream<TcpStream>> {
        self.connect_with(address, self.client()).await
    }

    pub(crate) async fn connect_with(
        &self,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<client::TlsStream<TcpStream>> {
        let stream = soon("connect", TcpStream::connect(address)).await?;
        let name = ServerName::IpAddress(address.ip().into());
        soon("a handshake", TlsConnector::from(config).connect(name, stream)).await
    }

    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<Raw<client::TlsStream<TcpStream>>> {
        self.connect(address).await.map(Raw::over)
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<server::TlsStream<TcpStream>> {
        TlsAcceptor::from(self.server()).accept(stream).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Says Hello to somebody who may be gone already. True if a Welcome comes.
    pub(crate) async fn gets_an_answer(&mut self, hello: &Hello) -> bool {
        let frame = control_frame(FrameType::Hello, Lane::Control, hello);
        if self.try_write(&[&PREAMBLE[..], &frame].concat()).await.is_err() {
            return false;
        }
        matches!(self.try_read().await, Ok(Some(Received::Welcome(..))))
    }
}

/// Reads until the other side ends the connection, which it must.
pub(crate) async fn answers(stream: &mut TcpStream) {
    let mut scratch = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut scratch)).await;
}

/// Believes every certificate and asks for one.
#[derive(Debug)]
struct Everybody;

fn schemes() -> Vec<SignatureScheme> {
    rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Everybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
