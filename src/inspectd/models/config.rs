//! The section `[models]`: whose models are taken.
//!
//! Never here: verifying (see [`super::signature`]).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use inspect_core::model::ModelFile;
use serde::{Deserialize, Serialize};

use super::place::places;
use super::signature::Signer;
use crate::config::Config;

/// Settings of models. Without a key every model is taken; with one only those that it signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// The minisign public key, as it stands in the second line of its file.
    pub public_key: Option<String>,
    /// A file as minisign writes it (`minisign.pub`), in place of `public_key`.
    pub public_key_file: Option<PathBuf>,
}

impl ModelsConfig {
    /// Makes paths absolute.
    pub fn resolve(&mut self, folder: &Path) {
        self.public_key_file = self.public_key_file.take().map(|file| folder.join(file));
    }

    /// Everything wrong with the settings, one sentence each. A key that cannot be had refuses every model.
    pub fn check(&self) -> Vec<String> {
        if self.key_may_come() { Vec::new() } else { self.key_problem() }
    }

    /// What is wrong with the file of the key, which may be there later: the daemon starts, and takes no model until then.
    pub fn file_problems(&self) -> Vec<String> {
        if self.key_may_come() { self.key_problem() } else { Vec::new() }
    }

    fn key_may_come(&self) -> bool {
        self.public_key.is_none() && self.public_key_file.is_some()
    }

    fn key_problem(&self) -> Vec<String> {
        Signer::of(self).err().map(|error| error.to_string()).into_iter().collect()
    }

    /// Where a key is set, what is wrong with the signatures of the models that are in their places.
    pub fn unsigned(&self, config: &Config) -> Vec<String> {
        let Ok(Some(signer)) = Signer::of(self) else { return Vec::new() };
        let mut seen = HashSet::new();
        let wrong = |path: PathBuf| {
            // One that cannot be read is told as such elsewhere.
            let file = seen.insert(path.clone()).then(|| ModelFile::read(&path).ok()).flatten()?;
            signer.verify_in_place(&file).err().map(|error| error.to_string())
        };
        places(config).into_iter().map(|place| place.path).filter_map(wrong).collect()
    }
}
