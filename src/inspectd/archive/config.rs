//! The section `[archive]`: what is kept, how, and how much of it.
//!
//! Never here: files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Folder in the journal's directory, where no other is set.
pub const FOLDER: &str = "archive";

/// Bytes of a GB, as disks are sold.
const GB: f64 = 1e9;

/// Settings of the archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// Folder; absent: `archive` in the journal's directory. Made when it is not there.
    pub dir: Option<PathBuf>,
    /// How frames are written. Maps are always PNG.
    pub format: Format,
    /// Of JPEG frames: 1 to 100.
    pub jpeg_quality: u8,
    /// Of parts that pass, each whose number is a multiple of this is kept; 0: none.
    pub pass_every: u64,
    /// Most that all of it may take, 10^9 bytes; 0: nothing is kept.
    pub max_gb: f64,
    /// What is older goes, days; 0: age removes nothing.
    pub max_days: u32,
    /// What the disk must have free, 10^9 bytes; the archive gives way until it has.
    pub min_free_gb: f64,
}

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Without loss: what a replay and a new model's trial need.
    Png,
    /// A tenth of the size; scores of it differ from those of the frame.
    Jpeg,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            dir: None,
            format: Format::Png,
            jpeg_quality: 90,
            pass_every: 100,
            max_gb: 20.0,
            max_days: 90,
            min_free_gb: 1.0,
        }
    }
}

impl ArchiveConfig {
    /// Everything wrong with the settings, one sentence each.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=100).contains(&self.jpeg_quality) {
            problems.push(format!("jpeg_quality: expected 1 to 100, got {}", self.jpeg_quality));
        }
        for (field, value) in [("max_gb", self.max_gb), ("min_free_gb", self.min_free_gb)] {
            if !(0.0..=1e6).contains(&value) {
                problems.push(format!("{field}: expected 0 to 1000000, got {value}"));
            }
        }
        if self.max_days > 36_500 {
            problems.push(format!("max_days: expected 0 to 36500, got {}", self.max_days));
        }
        problems
    }

    /// The folder, where the journal is in `journal_dir`.
    pub fn folder(&self, journal_dir: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| journal_dir.join(FOLDER))
    }

    pub(super) fn max_bytes(&self) -> u64 {
        (self.max_gb * GB) as u64
    }

    pub(super) fn min_free_bytes(&self) -> u64 {
        (self.min_free_gb * GB) as u64
    }

    /// Whether a passing part of this number is kept.
    pub fn samples(&self, part: u64) -> bool {
        self.pass_every > 0 && part.is_multiple_of(self.pass_every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_meant_are_named() {
        let config: ArchiveConfig =
            toml::from_str("jpeg_quality = 0\nmax_gb = -1\nmin_free_gb = nan\nmax_days = 99999").unwrap();
        let problems = config.check().join("\n");
        for field in ["jpeg_quality", "max_gb", "min_free_gb", "max_days"] {
            assert!(problems.contains(field), "{field}: {problems}");
        }
        assert_eq!(ArchiveConfig::default().check(), Vec::<String>::new());
        assert!(toml::from_str::<ArchiveConfig>("format = \"gif\"").is_err());
    }
}
