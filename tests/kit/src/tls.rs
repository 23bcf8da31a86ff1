//! Certificates for `localhost` and `127.0.0.1`.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A server certificate with its key.
pub struct Certificate {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    authority: String,
}

impl Certificate {
    /// Valid, issued by a private authority: clients that trust [`Certificate::authority_pem`] trust it.
    pub fn issued() -> Self {
        Self::issue(params())
    }

    /// Issued by a private authority, expired since 2020.
    pub fn expired() -> Self {
        let mut params = params();
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        Self::issue(params)
    }

    /// Signed by its own key.
    pub fn self_signed() -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params().self_signed(&key).expect("a certificate");
        let authority = certificate.pem();
        Self { certificate: certificate.der().clone(), key: key.serialize_der(), authority }
    }

    /// The authority's certificate (of a self-signed one: itself), PEM, as `SSL_CERT_FILE` wants it.
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    fn issue(params: CertificateParams) -> Self {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "kit test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key");
        let pem = authority.self_signed(&authority_key).expect("a certificate").pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Self { certificate: certificate.der().clone(), key: key.serialize_der(), authority: pem }
    }

    /// What a server with this certificate accepts connections with.
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("a certificate with its key");
        TlsAcceptor::from(Arc::new(config))
    }
}

fn params() -> CertificateParams {
    CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("valid names")
}
