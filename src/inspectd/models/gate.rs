//! The gate: what a model has to show before it may go into a place, and that each step stands in the audit trail.
//!
//! In order: who vouches for it, its card fits the views that look from there, it loads and reproduces its golden scores
//! on this machine and provider, a shadow run beside the present model. What is refused is in the audit trail with the
//! reason, and the place is as it was. What is put into its place is told before and after: a crash between the two shows.
//!
//! Never here: asking a person (the command does); a way around a step.

use std::path::{Path, PathBuf};

use inspect_core::model::{ModelError, ModelFile};
use inspect_core::runtime::Provider;
use inspect_core::scorer::{OnnxScorer, ScorerError};

use super::history::{Entry, History, HistoryError, How, Put, SignedBy};
use super::place::Place;
use super::shadow::{Shadow, Totals, compare, newest};
use super::signature::{SignatureError, Signed, Signer, beside, read_signature};
use crate::audit::{Agreed, AuditError, What, Who, append};
use crate::config::Config;

/// Why a model does not go into service.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The file is no model of ours.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Nobody that is trusted vouches for it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Its card does not fit the views that would look with it.
    #[error("model {model} does not fit:\n  {}", .misfits.join("\n  "))]
    Misfit {
        /// The model.
        model: PathBuf,
        /// What does not fit.
        misfits: Vec<String>,
    },
    /// It does not load here, or scores its golden images otherwise than its card says.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
    /// It is in its place already.
    #[error("{place}: this model, SHA-256 {sha256}, is in its place already")]
    AlreadyThere {
        /// The place.
        place: PathBuf,
        /// It.
        sha256: String,
    },
    /// The file that was kept is not the one that was in the place.
    #[error(
        "{path}: expected the model that was in the place, SHA-256 {expected}, got {got}: the file was exchanged or the disk is bad; install a model instead"
    )]
    NotTheKept {
        /// The file.
        path: PathBuf,
        /// SHA-256 in the index.
        expected: String,
        /// SHA-256 of what is there.
        got: String,
    },
    /// A person has to agree, and none did.
    #[error("not installed: nobody agreed ({0}); look at the changes, then type yes or give --yes")]
    NotAgreed(String),
    /// It could not be put into its place.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Without the audit trail no model goes into service.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// A model that loads here and reproduces its golden scores.
pub struct Proven {
    /// The file.
    pub file: ModelFile,
    /// It, ready.
    pub scorer: OnnxScorer,
}

impl Proven {
    /// Errors: [`ScorerError`].
    fn load(file: ModelFile, config: &Config) -> Result<Self, ScorerError> {
        let scorer = OnnxScorer::load(&file, &config.runtime)?;
        Ok(Self { file, scorer })
    }

    /// What runs it.
    pub fn provider(&self) -> Provider {
        self.scorer.provider()
    }
}

/// A model that is in its place.
#[derive(Debug)]
pub struct InPlace {
    /// SHA-256 of the one before; none: the place was empty.
    pub before: Option<String>,
    /// What went wrong after it was there.
    pub but: Option<String>,
}

/// A model at the gate.
pub struct Candidate<'a> {
    config: &'a Config,
    /// Where it is to go.
    pub place: Place,
    /// It.
    pub new: Proven,
    /// Who vouches for it; none where no key is set.
    pub signed: Option<(Signed, String)>,
    how: How,
}

impl<'a> Candidate<'a> {
    /// Takes a model file through all that needs no frames. Its signature lies beside it.
    ///
    /// Errors: [`GateError`]; a refusal stands in the audit trail.
    pub fn of(config: &'a Config, place: Place, from: &Path) -> Result<Self, GateError> {
        Self::enter(config, place, from, None)
    }

    /// The same for one that was in the place before: the latest, or the one whose SHA-256 begins with `wanted`.
    ///
    /// Errors: [`GateError`].
    pub fn before(config: &'a Config, place: Place, wanted: Option<&str>) -> Result<Self, GateError> {
        let history = History::of(&place.path);
        let expected = history.before(wanted)?.sha256;
        Self::enter(config, place, &history.model(&expected), Some(&expected))
    }

    /// `kept`: SHA-256 of one that goes back.
    fn enter(config: &'a Config, place: Place, from: &Path, kept: Option<&str>) -> Result<Self, GateError> {
        let mut sha256 = None;
        let how = if kept.is_some() { How::RolledBack } else { How::Installed };
        match Self::steps(config, &place, from, kept, &mut sha256) {
            Ok((new, signed)) => Ok(Self { config, place, new, signed, how }),
            // One that is there already is nobody's mistake, and an audit trail that fails cannot be told.
            Err(error @ (GateError::AlreadyThere { .. } | GateError::Audit(_))) => Err(error),
            Err(error) => {
                refused(config, &place.path, sha256, &error)?;
                Err(error)
            }
        }
    }

    fn steps(
        config: &Config,
        place: &Place,
        from: &Path,
        kept: Option<&str>,
        sha256: &mut Option<String>,
    ) -> Result<(Proven, Option<(Signed, String)>), GateError> {
        let file = ModelFile::read(from)?;
        *sha256 = Some(file.sha256.clone());
        if let Some(expected) = kept.filter(|expected| *expected != file.sha256) {
            let (expected, got) = (expected.to_owned(), file.sha256);
            return Err(GateError::NotTheKept { path: file.path, expected, got });
        }
        let place_path = place.path.clone();
        if History::of(&place.path).in_place()?.as_ref() == Some(&file.sha256) {
            let signer = Signer::of(&config.models)?;
            // One whose signature is missing in its place gets it by being installed once more.
            let good = signer.is_none_or(|signer| {
                let here = ModelFile { path: place_path.clone(), ..file.clone() };
                signer.verify_in_place(&here).is_ok()
            });
            if good {
                return Err(GateError::AlreadyThere { place: place_path, sha256: file.sha256 });
            }
        }
        let audit = |what| append(&config.journal.dir, what);
        if kept.is_none() {
            audit(What::InstallBegun {
                place: place_path,
                from: super::place::real(from),
                sha256: file.sha256.clone(),
                name: file.card.name.clone(),
            })?;
        }
        let signed = match Signer::of(&config.models)? {
            None => None,
            Some(signer) => Some((signer.verify(&file)?, signer.text)),
        };
        audit(What::Signature {
            sha256: file.sha256.clone(),
            key: signed.as_ref().map(|(_, key)| key.clone()),
            comment: signed.as_ref().map(|(signed, _)| signed.comment.clone()),
        })?;
        let misfits = place.misfits(&file.card);
        if !misfits.is_empty() {
            return Err(GateError::Misfit { model: file.path, misfits });
        }
        let proven = Proven::load(file, config)?;
        audit(What::Golden {
            sha256: proven.file.sha256.clone(),
            provider: proven.provider(),
            difference: proven.scorer.golden_difference(),
        })?;
        Ok((proven, signed))
    }

    /// The model in the place now, where it works.
    pub fn present(&self) -> Option<Proven> {
        let file = ModelFile::read(&self.place.path).ok()?;
        Proven::load(file, self.config).ok()
    }

    /// Tries the model on the newest archived frames of each view, at most `most` of each.
    ///
    /// Errors: [`GateError::Audit`].
    pub fn shadow(
        &mut self,
        present: Option<&mut Proven>,
        most: usize,
        each: &mut dyn FnMut(u64),
    ) -> Result<Shadow, GateError> {
        let (root, mut shadow) = (self.config.archive_dir(), Shadow::default());
        let mut present = present;
        for user in &self.place.users {
            let found = newest(&root, user, most);
            compare(user, found, &mut self.new, present.as_deref_mut(), &mut shadow, each);
        }
        let Totals { frames, compared, changed, pass_lost, pass_gained, .. } = shadow.totals;
        let (sha256, beside) = (self.new.file.sha256.clone(), present.map(|p| p.file.sha256.clone()));
        let what = What::Shadow { sha256, beside, frames, compared, changed, pass_lost, pass_gained };
        append(&self.config.journal.dir, what)?;
        Ok(shadow)
    }

    /// Says in the audit trail that it is refused after all; gives the refusal, or why it cannot be said.
    pub fn refuse(self, error: GateError) -> GateError {
        match refused(self.config, &self.place.path, Some(self.new.file.sha256), &error) {
            Ok(()) => error,
            Err(audit) => audit.into(),
        }
    }

    /// Puts it into its place.
    ///
    /// Errors: [`GateError`]; the place is as it was, but for [`HistoryError::NotPutBack`].
    pub fn put(self, agreed: Agreed) -> Result<InPlace, GateError> {
        let entry = Entry {
            sha256: self.new.file.sha256.clone(),
            name: self.new.file.card.name.clone(),
            time: crate::clock::wall(),
            who: Who::me(),
            how: self.how,
            signed_by: self
                .signed
                .as_ref()
                .map(|(signed, key)| SignedBy { key: key.clone(), comment: signed.comment.clone() }),
        };
        // One that nobody asked about takes the signature along that lies beside it.
        let along = || {
            let text = read_signature(&beside(&self.new.file.path))?;
            Some(Signed { comment: String::new(), text })
        };
        let signed = self.signed.clone().map(|(signed, _)| signed).or_else(along);
        let history = History::of(&self.place.path);
        let now = match history.in_place() {
            Ok(now) => now,
            Err(error) => return Err(self.refuse(error.into())),
        };
        let dir = &self.config.journal.dir;
        let (place, sha256) = (self.place.path.clone(), self.new.file.sha256.clone());
        append(dir, What::Placing { place: place.clone(), sha256: sha256.clone(), before: now, agreed })?;
        let Put { before, but } = match history.put(&self.new.file, signed.as_ref(), entry, &mut |_| Ok(())) {
            Ok(put) => put,
            Err(error) => return Err(self.refuse(error.into())),
        };
        let but = but.map(|error| error.to_string());
        let (was, trouble) = (before.clone(), but.clone());
        let what = match self.how {
            How::RolledBack => What::RolledBack { place, sha256, before: was, but: trouble },
            How::Installed | How::Found => {
                What::Installed { place, sha256, before: was, agreed, but: trouble }
            }
        };
        // The daemon has to be told all the same, and the line before says what was about to be.
        let untold = append(dir, what).err().map(|error| format!("the audit trail does not say so: {error}"));
        let troubles: Vec<String> = but.into_iter().chain(untold).collect();
        Ok(InPlace { before, but: (!troubles.is_empty()).then(|| troubles.join("; ")) })
    }
}

fn refused(
    config: &Config,
    place: &Path,
    sha256: Option<String>,
    error: &GateError,
) -> Result<(), AuditError> {
    let what = What::Refused { place: place.to_owned(), sha256, why: error.to_string() };
    append(&config.journal.dir, what).map(drop)
}
