//! TLS: what the files say, read anew for each connection, so that a renewed certificate is used without a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error as TlsError, RootCertStore,
};

use super::super::connection::TlsSettings;
use super::expiry;
use vigie_files::secret_file::{self, SecretFileError};

/// Largest file with certificates or a key, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// A certificate without its key, or the reverse.
    #[error("a TLS certificate and its key must be given together")]
    HalfCertificate,
    /// A file cannot be read.
    #[error("cannot read the certificate {path:?}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{path:?} contains no PEM {what}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The key cannot be used.
    #[error("cannot use the key of the TLS certificate")]
    Key(#[source] SecretFileError),
    /// Certificate and key do not fit together.
    #[error("the certificate {path:?} and its key cannot be used")]
    Mismatch {
        /// The certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: tokio_rustls::rustls::Error,
    },
    /// The system has no certificates of authorities.
    #[error("no CA is trusted: give the fleet's own with `ca`")]
    NoAuthority,
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    use io::Read as _;
    let unreadable = |source| TlsFileError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The certificates of a file.
///
/// # Errors
///
/// When there are none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(TlsFileError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}

/// What is to be said of the certificates of these settings that end soon. Blocking: reads files.
#[must_use]
pub fn complaints(settings: &TlsSettings, now: i64) -> Vec<String> {
    let files = settings.certificate.iter().chain(&settings.ca);
    files
        .filter_map(|path| {
            let ends = ends(path).into_iter().min()?;
            expiry::complaint(&format!("{path:?}"), ends, now)
        })
        .collect()
}

/// When the certificates in a file end, in seconds since 1970; none that cannot be read. Blocking: reads a file.
#[must_use]
pub fn ends(path: &Path) -> Vec<i64> {
    certificates(path).unwrap_or_default().iter().filter_map(|one| expiry::not_after(one)).collect()
}

/// What a failed handshake means for the one who can mend it; `None` for what says enough of itself.
#[must_use]
pub fn explained(error: &io::Error) -> Option<String> {
    let day = |time: UnixTime| {
        let time =
            i64::try_from(time.as_secs()).ok().and_then(|time| jiff::Timestamp::from_second(time).ok());
        time.map_or_else(|| "an unknown day".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
    };
    match error.get_ref()?.downcast_ref::<TlsError>()? {
        TlsError::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => Some(format!(
            "the server's certificate expired on {}: renew it there, or correct the clock of this host",
            day(*not_after)
        )),
        TlsError::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => Some(format!(
            "the server's certificate is not valid before {}: correct the clock of this host or the certificate",
            day(*not_before)
        )),
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => Some(
            "no trusted CA issued the server's certificate: name its CA in the key `ca`, or correct the server".to_owned(),
        ),
        TlsError::AlertReceived(AlertDescription::CertificateExpired) => {
            Some("the server says that the certificate of this host has expired: renew it".to_owned())
        }
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            Some("the server wants a certificate of this host: name one with its key".to_owned())
        }
        _ => None,
    }
}

/// What makes TLS connections. Blocking: reads files.
///
/// # Errors
///
/// When a file cannot be used.
pub fn connector(settings: &TlsSettings) -> Result<TlsConnector, TlsFileError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(path) => {
            roots.add_parsable_certificates(certificates(path)?);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(TlsFileError::NoAuthority);
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match (&settings.certificate, &settings.key) {
        (Some(path), Some(key)) => {
            let pem = secret_file::read(key, MAX_FILE_BYTES).map_err(TlsFileError::Key)?;
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
                .map_err(|_| TlsFileError::Empty { path: key.clone(), what: "private key" })?;
            builder
                .with_client_auth_cert(certificates(path)?, key)
                .map_err(|source| TlsFileError::Mismatch { path: path.clone(), source })?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsFileError::HalfCertificate),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
