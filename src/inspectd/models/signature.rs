//! Who vouches for a model: its signature in minisign's format, in `MODEL.onnx.minisig` beside it.
//!
//! Terms. The *trusted comment* stands in the signature file and is signed with the model: what its signer says of it.
//!
//! The signature of a model in its place is looked for beside it and, under its SHA-256, in its history: model and
//! signature are two files, and whatever a crash leaves of the two must be one that is taken.
//!
//! Source: minisign's format, https://jedisct1.github.io/minisign/; only prehashed signatures, as it makes since 0.10.
//!
//! Never here: secret keys; a model taken without a signature where a key is set.

use std::path::{Path, PathBuf};

use inspect_core::file;
use inspect_core::model::ModelFile;
use minisign_verify::{PublicKey, Signature};

use super::config::ModelsConfig;
use super::history::History;

/// Ending of signature files.
pub const ENDING: &str = ".minisig";
/// Largest signature or key file, bytes.
const MAX_FILE_BYTES: u64 = 4_096;

/// Why nobody vouches for a model.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The key in the configuration cannot be used.
    #[error("{from}: expected a minisign public key, as in the second line of minisign.pub: {reason}")]
    Key {
        /// Where it was read.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// Both ways to name a key.
    #[error("public_key: expected either public_key or public_key_file, got both")]
    TwoKeys,
    /// There is none.
    #[error(
        "model {model}: not signed: {signature}: {reason}; a key is set in [models], sign with `minisign -S -m FILE`"
    )]
    Missing {
        /// The model.
        model: PathBuf,
        /// Where the signature should be.
        signature: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is not one of this model by this key.
    #[error("model {model}: signature {signature} is not good for it and the key in [models]: {reason}")]
    Wrong {
        /// The model.
        model: PathBuf,
        /// The signature.
        signature: PathBuf,
        /// What the check said.
        reason: String,
    },
}

/// Whose signatures are taken.
#[derive(Debug, Clone)]
pub struct Signer {
    key: PublicKey,
    /// The key as text.
    pub text: String,
}

/// A signature that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What the signer says of the model.
    pub comment: String,
    /// The signature file, whole.
    pub text: String,
}

impl Signer {
    /// The one in a configuration; none where none is set.
    ///
    /// Errors: [`SignatureError::Key`], [`SignatureError::TwoKeys`]: then no model may be taken.
    pub fn of(config: &ModelsConfig) -> Result<Option<Self>, SignatureError> {
        let (from, text) = match (&config.public_key, &config.public_key_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(SignatureError::TwoKeys),
            (Some(key), None) => ("public_key".to_owned(), key.clone()),
            (None, Some(file)) => {
                let from = format!("public_key_file: {}", file.display());
                let text = read(file)
                    .map_err(|e| SignatureError::Key { from: from.clone(), reason: e.to_string() })?;
                (from, text)
            }
        };
        // The last line that says anything: a file has a comment before it.
        let text = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned();
        let key =
            PublicKey::from_base64(&text).map_err(|e| SignatureError::Key { from, reason: e.to_string() })?;
        Ok(Some(Self { key, text }))
    }

    /// Verifies a model by the signature file beside it.
    ///
    /// Errors: [`SignatureError::Missing`], [`SignatureError::Wrong`].
    pub fn verify(&self, file: &ModelFile) -> Result<Signed, SignatureError> {
        self.verify_by(file, &beside(&file.path))
    }

    /// Verifies a model in its place, where its history may have its signature.
    ///
    /// Errors: those of the signature beside it.
    pub fn verify_in_place(&self, file: &ModelFile) -> Result<Signed, SignatureError> {
        let kept = History::of(&file.path).model(&file.sha256);
        self.verify(file).or_else(|error| self.verify_by(file, &beside(&kept)).map_err(|_| error))
    }

    fn verify_by(&self, file: &ModelFile, signature: &Path) -> Result<Signed, SignatureError> {
        let (model, at) = (file.path.clone(), signature.to_owned());
        let text = match read(signature) {
            Ok(text) => text,
            Err(error) => {
                return Err(SignatureError::Missing { model, signature: at, reason: error.to_string() });
            }
        };
        let checked = Signature::decode(&text).and_then(|signature| {
            self.key.verify(&file.bytes, &signature, false)?;
            Ok(signature.trusted_comment().to_owned())
        });
        match checked {
            Ok(comment) => Ok(Signed { comment, text }),
            Err(error) => Err(SignatureError::Wrong { model, signature: at, reason: error.to_string() }),
        }
    }
}

/// Where the signature of a model lies.
pub fn beside(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(ENDING);
    PathBuf::from(name)
}

/// A signature file's text, if it is one: root must not carry anything else from where the service may put links.
pub(super) fn read_signature(path: &Path) -> Option<String> {
    read(path).ok().filter(|text| Signature::decode(text).is_ok())
}

/// A small text file.
fn read(path: &Path) -> std::io::Result<String> {
    file::read_text(path, MAX_FILE_BYTES)
}
