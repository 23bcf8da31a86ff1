//! The Cargo feature `fips`: all TLS of the program uses the FIPS module of AWS-LC.
//!
//! lapin, reqwest and the exporter of OpenTelemetry take the process's default provider of
//! cryptography, and build their TLS as [`install`] does to see whether it is in FIPS mode.

/// Whether this program was built with the feature.
pub const IS_ON: bool = cfg!(feature = "fips");

/// The program was built with the feature, and its TLS would not be in FIPS mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this program was built with the feature fips, and TLS would not use the FIPS module: please report this bug"
)]
pub struct NotFips;

/// Makes the FIPS module the process's default, and asserts that TLS uses it. Without the feature,
/// does nothing.
///
/// # Errors
/// If TLS would not be in FIPS mode.
#[cfg(feature = "fips")]
pub fn install() -> Result<(), NotFips> {
    use rustls::{ClientConfig, RootCertStore, crypto};

    // Fails if there is a default already. Then that one is looked at.
    crypto::default_fips_provider().install_default().ok();
    let is_default = crypto::CryptoProvider::get_default().is_some_and(|provider| provider.fips());
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    if is_default && config.fips() { Ok(()) } else { Err(NotFips) }
}

/// See above.
///
/// # Errors
/// None.
#[cfg(not(feature = "fips"))]
pub fn install() -> Result<(), NotFips> {
    Ok(())
}
