//! The broker by TLS: who it must be, and who we are.
//!
//! Terms. *ca_file* holds the certificates of the authority that signed the broker's; the system's own are not
//! trusted, for a plant's broker has nothing to do with them. The broker's certificate must name `host` among its
//! subject alternative names. The *client certificate* is what the broker may know us by; its key is a secret.
//!
//! The files are read at every connection: renewed ones need no restart.
//!
//! Never here: connecting; a part of a key in an error.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inspect_core::file;
use rumqttc::ConnectionError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};

use crate::secret::{self, SecretError};

/// Largest file of certificates, or of a key.
pub const MAX_PEM_BYTES: u64 = 256 << 10;

/// Why there can be no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates cannot be read.
    #[error("{field} {path}: {source}")]
    Io {
        /// The setting.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key cannot be read.
    #[error("client_key_file {0}")]
    Key(#[from] SecretError),
    /// A file holds something else.
    #[error("{field} {path}: expected {expected}")]
    Pem {
        /// The setting.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("client certificate {path} and its key cannot be used: {source}")]
    Client {
        /// The certificate.
        path: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

/// Files for a TLS connection, all of them PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates of the authority that signed the broker's.
    pub ca_file: PathBuf,
    /// Our certificate, and those between it and the authority that the broker trusts.
    #[serde(default)]
    pub client_certificate_file: Option<PathBuf>,
    /// Its private key, readable by this user only, or `credential:NAME`.
    #[serde(default)]
    pub client_key_file: Option<PathBuf>,
}

impl TlsConfig {
    /// What can never work.
    pub(super) fn check(&self) -> Option<&'static str> {
        (self.client_certificate_file.is_some() != self.client_key_file.is_some())
            .then_some("client_certificate_file and client_key_file: expected both or none")
    }

    /// Makes relative paths relative to `folder`.
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.ca_file = folder.join(&self.ca_file);
        let certificate = self.client_certificate_file.take();
        self.client_certificate_file = certificate.map(|file| folder.join(file));
        self.client_key_file = self.client_key_file.take().map(|file| secret::resolve(&file, folder));
    }

    /// Whether the key is a credential that this process is not given.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.client_key_file.as_deref().is_some_and(secret::is_out_of_reach)
    }

    /// Reads the files.
    ///
    /// Errors: [`TlsError`].
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut authorities = RootCertStore::empty();
        let (added, _) = authorities.add_parsable_certificates(certificates("ca_file", &self.ca_file)?);
        if added == 0 {
            return Err(pem("ca_file", &self.ca_file, "a certificate of an authority"));
        }
        let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Library)?
            .with_root_certificates(authorities);
        let (Some(path), Some(key)) = (&self.client_certificate_file, &self.client_key_file) else {
            return Ok(Arc::new(client.with_no_client_auth()));
        };
        let chain = certificates("client_certificate_file", path)?;
        let text = secret::read(key, MAX_PEM_BYTES)?;
        let expected = "one private key in PEM, without a password (PKCS #8, PKCS #1 or SEC 1)";
        // The parser's own words are left out: what they cite may be of the key.
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| pem("client_key_file", key, expected))?;
        let client = client.with_client_auth_cert(chain, key);
        client.map(Arc::new).map_err(|source| TlsError::Client { path: path.clone(), source })
    }
}

fn pem(field: &'static str, path: &Path, expected: &'static str) -> TlsError {
    TlsError::Pem { field, path: path.to_owned(), expected }
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let io = |source| TlsError::Io { field, path: path.to_owned(), source };
    let text = file::read(path, MAX_PEM_BYTES).map_err(io)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(pem(field, path, "certificates in PEM")),
    }
}

/// Why a connection failed, for people: what TLS has against it comes before the library's words. `greeting`: the
/// broker had not answered yet.
pub(super) fn why(error: &ConnectionError, host: &str, greeting: bool) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<rustls::Error>() {
            return explained(error, host);
        }
        cause = match at.downcast_ref::<std::io::Error>() {
            Some(error) if error.get_ref().is_none() && greeting && is_cut(error.kind()) => {
                return format!(
                    "the broker ended the connection before it answered: does it speak TLS here, and does it demand a client certificate, or another one? ({error})"
                );
            }
            Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => at.source(),
        };
    }
    error.to_string()
}

fn is_cut(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionAborted
    )
}

fn explained(error: &rustls::Error, host: &str) -> String {
    use rustls::Error as E;
    let words = match error {
        E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the broker's certificate is not from the authority in ca_file".to_owned()
        }
        E::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the broker's certificate has expired, or this machine's clock is wrong".to_owned()
        }
        E::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the broker's certificate is not valid yet, or this machine's clock is wrong".to_owned(),
        E::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the broker's certificate is for another name: `{host}` is not among its subject alternative names"
        ),
        E::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => {
            "the broker demands a client certificate: set client_certificate_file and client_key_file"
                .to_owned()
        }
        E::AlertReceived(AlertDescription::CertificateExpired) => {
            "the broker says that our client certificate has expired, or its clock is wrong".to_owned()
        }
        E::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError,
        ) => "the broker does not accept our client certificate".to_owned(),
        E::InvalidMessage(_) => "what answers there does not speak TLS: is it the right port?".to_owned(),
        _ => "TLS failed".to_owned(),
    };
    format!("{words} ({error})")
}
