//! The configuration file: its structure, and the static check that finds every error in it.
//!
//! Paths in the file are relative to the file's folder. Units stand at the end of names.
//!
//! Never here: touching devices, the network or a broker; a default that lets a part pass.

mod sections;
mod station;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use inspect_core::file;
use inspect_core::model::ModelFile;
use inspect_core::runtime::{Provider, Runtime};
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveConfig;
use crate::camera::stream::config::without_password;
use crate::cores::Cores;
use crate::journal::JournalConfig;
use crate::models::ModelsConfig;
use crate::mqtt::MqttConfig;
use crate::plc::access::{self, ClientConfig};
use crate::plc::word_order::WordOrder;
use crate::thresholds::without_share;
pub use station::{InSightConfig, StationConfig, TriggerConfig, ViewConfig};

/// Most stations on one box: the register map has room for these.
pub const MAX_STATIONS: usize = 16;
/// Largest configuration file, bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Most sessions of one model.
const MAX_SESSIONS: usize = 16;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("configuration {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, or not of this structure.
    #[error("configuration {path}: at `{field}`: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// It can be read, and is wrong.
    #[error("configuration {path}:\n{}", .problems.join("\n"))]
    Check {
        /// The file.
        path: PathBuf,
        /// Every problem: where, what was expected, what is there.
        problems: Vec<String>,
    },
}

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder in memory for what must outlive the process but not the machine, see [`Config::run_dir`].
    pub run_dir: Option<PathBuf>,
    /// The Modbus TCP server.
    #[serde(default)]
    pub modbus: ModbusConfig,
    /// The MQTT broker; absent: nothing is published.
    pub mqtt: Option<MqttConfig>,
    /// The journal.
    pub journal: JournalConfig,
    /// The archive of pictures.
    #[serde(default)]
    pub archive: ArchiveConfig,
    /// Whose models are taken.
    #[serde(default)]
    pub models: ModelsConfig,
    /// How models are run.
    #[serde(default)]
    pub runtime: Runtime,
    /// Which cores do what.
    #[serde(default)]
    pub cores: Cores,
    /// The stations, the first of which is station 1.
    #[serde(rename = "station")]
    pub stations: Vec<StationConfig>,
}

/// The Modbus TCP server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModbusConfig {
    /// Address and port. Loopback until configured.
    pub listen: SocketAddr,
    /// Which word of a two-word value comes first.
    pub word_order: WordOrder,
    /// Who may come, also to the stations' In-Sight listeners; empty: programs on this machine, which may write.
    pub clients: Vec<ClientConfig>,
}

impl Default for ModbusConfig {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 502));
        Self { listen, word_order: WordOrder::default(), clients: Vec::new() }
    }
}

impl Config {
    /// Reads a file, makes its paths absolute, and checks everything that can be checked without devices.
    ///
    /// Errors: [`ConfigError`]; a refused file is refused with all its problems.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config = Self::read_unchecked(path)?;
        let Problems { settings, files } = config.problems();
        config.unless([settings, files].concat(), path)
    }

    /// Reads a file for the daemon, which comes up without cameras and models and heals when they are
    /// there: what is wrong with the files that it names is given back to be shown, not refused.
    ///
    /// Errors: [`ConfigError`].
    pub fn read_to_run(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let config = Self::read_unchecked(path)?;
        let Problems { settings, files } = config.problems();
        config.unless(settings, path).map(|config| (config, files))
    }

    fn unless(self, problems: Vec<String>, path: &Path) -> Result<Self, ConfigError> {
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError::Check { path: path.to_owned(), problems })
        }
    }

    /// Reads a file for what does not need all of it to be right, such as a camera without its model.
    ///
    /// Errors: [`ConfigError::Io`], [`ConfigError::Parse`].
    pub fn read_unchecked(path: &Path) -> Result<Self, ConfigError> {
        let text = file::read_text(path, MAX_CONFIG_BYTES)
            .map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        Self::parse(&text, path, path.parent().unwrap_or(Path::new(".")))
    }

    /// Parses a file's text; `path` names it in errors, relative paths in it are below `folder`.
    ///
    /// Errors: [`ConfigError::Parse`].
    pub fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, ConfigError> {
        let parse = |field: String, reason: String| ConfigError::Parse {
            path: path.to_owned(),
            field,
            reason: reason.trim_end().to_owned(),
        };
        let document = toml::Deserializer::parse(text).map_err(|e| parse(".".into(), said(text, &e)))?;
        let read: Result<Config, _> = serde_path_to_error::deserialize(document);
        let mut config = read.map_err(|e| {
            let first = (e.path().to_string(), said(text, e.inner()));
            match sections::errors(text, &first.0) {
                others if others.is_empty() => parse(first.0, first.1),
                others => ConfigError::Check {
                    path: path.to_owned(),
                    problems: std::iter::once(format!("  {}: {}", first.0, first.1.trim_end()))
                        .chain(others)
                        .collect(),
                },
            }
        })?;
        if let Some(library) = &mut config.runtime.library {
            *library = folder.join(&library);
        }
        config.journal.dir = folder.join(&config.journal.dir);
        config.archive.dir = config.archive.dir.map(|dir| folder.join(dir));
        config.models.resolve(folder);
        config.run_dir = config.run_dir.map(|dir| folder.join(dir));
        if let Some(mqtt) = &mut config.mqtt {
            mqtt.resolve(folder);
        }
        for recipes in config.stations.iter_mut().filter_map(|s| s.recipes.as_mut()) {
            *recipes = folder.join(&recipes);
        }
        for view in config.stations.iter_mut().flat_map(|s| &mut s.views) {
            view.model = view.model.as_ref().map(|model| folder.join(model));
            view.camera.resolve(folder);
        }
        Ok(config)
    }

    /// Folder of the ring of parts in hand and of the status socket: `/run/inspectd` on a box, which systemd keeps
    /// over restarts of the service; the journal's own where none is set.
    pub fn run_dir(&self) -> &Path {
        self.run_dir.as_deref().unwrap_or(&self.journal.dir)
    }

    /// Folder of the archive.
    pub fn archive_dir(&self) -> PathBuf {
        self.archive.folder(&self.journal.dir)
    }

    /// What is not wrong and should be known all the same.
    pub fn notes(&self) -> Vec<String> {
        let views = |station: &StationConfig| {
            let count = station.views.len();
            let note = |(i, view): (usize, &ViewConfig)| {
                let card = ModelFile::read(view.model.as_ref()?).ok()?.card;
                Some(format!("station {}, view[{i}].model: {}", station.name, without_share(&card, count)?))
            };
            station.views.iter().enumerate().filter_map(note).collect::<Vec<_>>()
        };
        let everyone = access::note(&self.modbus.clients).map(|note| format!("modbus.{note}"));
        let mqtt = self.mqtt.as_ref().and_then(MqttConfig::note).map(|note| format!("mqtt: {note}"));
        everyone.into_iter().chain(mqtt).chain(self.stations.iter().flat_map(views)).collect()
    }

    /// Who may come to a station's In-Sight listener.
    pub fn in_sight_clients<'a>(&'a self, in_sight: &'a InSightConfig) -> &'a [ClientConfig] {
        in_sight.clients.as_deref().unwrap_or(&self.modbus.clients)
    }

    /// Everything that is wrong, each with the field's path, what was expected and what is there.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        if self.stations.is_empty() || self.stations.len() > MAX_STATIONS {
            let expected = format!("1 to {MAX_STATIONS} stations, got {}", self.stations.len());
            problems.add("station", expected);
        }
        if self.runtime.providers.is_empty() {
            problems.add("runtime.providers", "at least one of tensorrt, cuda, cpu");
        }
        let distinct: HashSet<String> = self.runtime.providers.iter().map(Provider::to_string).collect();
        if distinct.len() != self.runtime.providers.len() {
            problems.add("runtime.providers", "each provider once");
        }
        if !(1..=256).contains(&self.runtime.threads) {
            problems.add("runtime.threads", format!("1 to 256, got {}", self.runtime.threads));
        }
        if !(1..=MAX_SESSIONS).contains(&self.runtime.sessions) {
            let expected = format!("1 to {MAX_SESSIONS}, got {}", self.runtime.sessions);
            problems.add("runtime.sessions", expected);
        }
        problems.all("cores", self.cores.check());
        problems.all("journal", self.journal.check());
        problems.all("archive", self.archive.check());
        problems.all("models", self.models.check());
        problems.files.extend(self.models.file_problems().into_iter().map(|p| format!("  models.{p}")));
        problems.files.extend(self.models.unsigned(self).into_iter().map(|p| format!("  {p}")));
        if let Some(mqtt) = &self.mqtt {
            problems.all("mqtt", mqtt.check());
            problems.files.extend(mqtt.file_problems().into_iter().map(|p| format!("  mqtt.{p}")));
        }
        let mut names = HashSet::new();
        for (i, station) in self.stations.iter().enumerate() {
            let at = format!("station[{i}]");
            if !names.insert(&station.name) {
                problems.add(
                    &format!("{at}.name"),
                    format!("a name of its own, `{}` is there twice", station.name),
                );
            }
            station.problems(&at, &mut problems);
        }
        self.listener_problems(&mut problems);
        if let Some(library) = self.runtime.library.as_ref().filter(|l| !l.is_file()) {
            problems
                .files
                .push(format!("  runtime.library: expected a file, there is none at {}", library.display()));
        }
        problems
    }

    /// Port 0 is any free one, for tests.
    fn listener_problems(&self, problems: &mut Problems) {
        let mut taken = vec![self.modbus.listen];
        let by_plc = |station: &StationConfig| station.trigger == TriggerConfig::Plc;
        let needs_writer = self.stations.iter().any(|s| by_plc(s) && s.in_sight.is_none());
        let modbus = &self.modbus;
        problems.all("modbus", access::check(&modbus.clients, modbus.listen.ip(), needs_writer));
        for (i, station) in self.stations.iter().enumerate() {
            let Some(in_sight) = &station.in_sight else { continue };
            let listen = in_sight.listen;
            let wrong = access::check(self.in_sight_clients(in_sight), listen.ip(), true);
            problems.all(&format!("station[{i}].in_sight"), wrong);
            let clashes = |other: &SocketAddr| {
                let everywhere = other.ip().is_unspecified() || listen.ip().is_unspecified();
                other.port() == listen.port() && (everywhere || other.ip() == listen.ip())
            };
            if listen.port() != 0 && taken.iter().any(clashes) {
                let at = format!("station[{i}].in_sight.listen");
                problems.add(&at, format!("an address and port of its own, {listen} is there twice"));
            }
            taken.push(listen);
            if station.trigger != TriggerConfig::Plc {
                let at = format!("station[{i}].in_sight");
                problems.add(&at, "trigger = { source = \"plc\" }: an In-Sight program triggers by a coil");
            }
        }
    }
}

/// What the parser says, with line and column. Its own display would show the line, and with it what passwords stand
/// there.
fn said(text: &str, error: &toml::de::Error) -> String {
    let message = without_password(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// What is wrong with a configuration.
#[derive(Debug, Default)]
pub struct Problems {
    /// Settings that can never work.
    pub settings: Vec<String>,
    /// Cameras and files that are not there or not right, and may be later.
    pub files: Vec<String>,
}

impl Problems {
    fn add(&mut self, field: &str, expected: impl std::fmt::Display) {
        self.settings.push(format!("  {field}: expected {expected}"));
    }

    fn all(&mut self, at: &str, problems: Vec<String>) {
        self.settings.extend(problems.into_iter().map(|p| format!("  {at}.{p}")));
    }
}

#[cfg(test)]
mod tests;
