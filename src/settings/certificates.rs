//! `broker.client_certificate_file`, `broker.client_key_file` and `broker.ca_file`: PEM files. What is wrong with
//! them, and what a certificate says about itself.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;
use x509_parser::{
    certificate::X509Certificate,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

use super::values::Parsed;
use crate::{message::Timestamp, secret::Secret};

/// The largest file of certificates that is read, in bytes: a system's file of authorities has a quarter of it.
pub(super) const MAX_CERTIFICATES_BYTES: u64 = 1024 * 1024;

/// What the client certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    pub file: PathBuf,
    /// As RabbitMQ writes it: the most specific part first.
    pub subject: String,
    pub valid_from: Timestamp,
    pub expires_at: Timestamp,
}

impl CertificateInfo {
    /// The first certificate of the file, as it was when it was last read; `None` if it cannot be read.
    pub fn of(certificate: &Secret) -> Option<Self> {
        let file = certificate.path().map(Path::to_path_buf).unwrap_or_default();
        let chain = certificates(certificate.current().expose_secret()).ok()?;
        let (_rest, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
        let [valid_from, expires_at] = [certificate.validity().not_before, certificate.validity().not_after]
            .map(|time| Timestamp::from_millis(time.timestamp().saturating_mul(1000)));
        let subject = subject(certificate.subject());
        Some(Self { file, subject, valid_from, expires_at })
    }

    /// Whether it is only valid later by this machine's clock.
    pub fn is_not_valid_yet(&self) -> bool {
        self.valid_from > Timestamp::now()
    }

    /// Whether it has expired by this machine's clock.
    pub fn has_expired(&self) -> bool {
        self.expires_at <= Timestamp::now()
    }
}

impl fmt::Display for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, subject, valid_from, expires_at } = self;
        let (verb, time) = match () {
            () if self.is_not_valid_yet() => ("is not valid before", valid_from),
            () if self.has_expired() => ("expired at", expires_at),
            () => ("expires at", expires_at),
        };
        let file = file.display();
        write!(
            f,
            "the certificate in broker.client_certificate_file ({file}; {subject}), which {verb} {time}"
        )
    }
}

/// The distinguished name, as RFC 4514 and RabbitMQ write it.
fn subject(name: &X509Name<'_>) -> String {
    let part = |attribute: &AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        let kind = oid2abbrev(kind, oid_registry()).map_or_else(|_| kind.to_id_string(), str::to_owned);
        format!("{kind}={}", attribute.as_str().unwrap_or("?"))
    };
    let mut parts: Vec<String> = name.iter_attributes().map(part).collect();
    parts.reverse();
    parts.join(",")
}

/// All certificates in a PEM file; never an empty list.
///
/// # Errors
/// What is wrong, as a phrase for people.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_none) if pem.contains("PRIVATE KEY-----") => Err("it is a private key, not a certificate".into()),
        Ok(_none) => Err("it is not PEM: nothing begins with -----BEGIN CERTIFICATE-----".into()),
        Err(_) => Err("it is not PEM: a part of it cannot be read".into()),
    }
}

/// The private key in a PEM file.
///
/// # Errors
/// What is wrong, as a phrase for people; never anything of the key.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        let wrong = match () {
            () if pem.contains("ENCRYPTED") => "it is an encrypted key: decrypt it with `openssl pkey`",
            () if pem.contains("-----BEGIN CERTIFICATE-----") => "it is a certificate, not a private key",
            () => "it is not PEM: nothing begins with -----BEGIN PRIVATE KEY-----",
        };
        wrong.to_owned()
    })
}

/// Whether a PEM file holds certificates, one of which can be read.
///
/// # Errors
/// What is wrong, as a phrase for people.
pub fn check_certificates(pem: &str) -> Result<(), String> {
    // A system's file of authorities may hold some that are too old to be read.
    match certificates(pem)?.iter().any(|certificate| X509Certificate::from_der(certificate).is_ok()) {
        true => Ok(()),
        false => Err("what it holds is not an X.509 certificate".to_owned()),
    }
}

pub(super) fn check_private_key(pem: &str) -> Parsed<()> {
    private_key(pem).map(drop)
}
