//! Settings of MQTT and the credentials file.
//!
//! Never here: connecting.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest topic prefix: with station and message name it stays far below MQTT's 65,535.
const MAX_PREFIX_BYTES: usize = 200;
/// Largest credentials file.
const MAX_CREDENTIALS_BYTES: u64 = 4_096;

/// Why MQTT cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum MqttConfigError {
    /// A setting that cannot work: field, expected, got.
    #[error("mqtt.{0}")]
    Setting(String),
    /// The credentials file cannot be used.
    #[error("credentials file {path}: {reason}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected. Never its contents.
        reason: String,
    },
    /// No thread or runtime.
    #[error("MQTT cannot start: {0}")]
    Thread(std::io::Error),
}

/// Where and as whom to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The broker.
    #[serde(default = "default_host")]
    pub host: String,
    /// Its port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Name of this client, unique at the broker. Left out: made from the prefix.
    #[serde(default)]
    pub client_id: Option<String>,
    /// `enterprise/site/area/line/cell` (ISA-95), unique to this box.
    pub topic_prefix: String,
    /// TOML file with `user` and `password`, readable by this user only. Read at every connection.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// A broker that is silent for one to two of these is given up, seconds.
    #[serde(default = "default_keep_alive_s")]
    pub keep_alive_s: u16,
}

fn default_host() -> String {
    "127.0.0.1".to_owned()
}

fn default_port() -> u16 {
    1883
}

fn default_keep_alive_s() -> u16 {
    10
}

/// User and password of the broker.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password. Never shown.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl MqttConfig {
    /// Settings for a prefix, all else by default.
    pub fn new(topic_prefix: impl Into<String>) -> Self {
        Self {
            host: default_host(),
            port: default_port(),
            client_id: None,
            topic_prefix: topic_prefix.into(),
            credentials_file: None,
            keep_alive_s: default_keep_alive_s(),
        }
    }

    /// Everything wrong with the settings and the credentials file, one sentence each. Touches no network.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.host.is_empty() || self.host.contains(|c: char| c.is_whitespace() || c == '/') {
            problems.push(format!("host: expected a host name or address, got `{}`", self.host));
        }
        if self.port == 0 {
            problems.push("port: expected 1 to 65535, got 0".to_owned());
        }
        if self.client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 200 || has_forbidden(id)) {
            problems.push("client_id: expected 1 to 200 bytes without spaces, +, # and $".to_owned());
        }
        if let Some(reason) = prefix_problem(&self.topic_prefix) {
            problems.push(format!(
                "topic_prefix: expected enterprise/site/area/line/cell, got `{}`: {reason}",
                self.topic_prefix
            ));
        }
        if !(5..=3_600).contains(&self.keep_alive_s) {
            problems.push(format!("keep_alive_s: expected 5 to 3600, got {}", self.keep_alive_s));
        }
        if let Some(Err(error)) = self.credentials_file.as_deref().map(read_credentials) {
            problems.push(format!("credentials_file: {error}"));
        }
        problems
    }

    /// Makes relative paths relative to `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        if let Some(file) = &mut self.credentials_file {
            *file = folder.join(&file);
        }
    }

    /// The client id: the configured one, or one made from the prefix.
    pub fn client_id(&self) -> String {
        match &self.client_id {
            Some(id) => id.clone(),
            None => format!("inspectd-{}", self.topic_prefix.replace('/', "-")),
        }
    }

    /// Credentials, where a file is set.
    ///
    /// Errors: [`MqttConfigError::Credentials`].
    pub fn credentials(&self) -> Result<Option<Credentials>, MqttConfigError> {
        self.credentials_file.as_deref().map(read_credentials).transpose()
    }
}

fn read_credentials(path: &Path) -> Result<Credentials, MqttConfigError> {
    let fail = |reason: String| MqttConfigError::Credentials { path: path.to_owned(), reason };
    let facts = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    let mode = facts.permissions().mode();
    if mode & 0o007 != 0 {
        let mode = mode & 0o777;
        return Err(fail(format!(
            "expected a file that others cannot read, got mode {mode:03o}; run: chmod 600"
        )));
    }
    if facts.len() > MAX_CREDENTIALS_BYTES {
        return Err(fail(format!("expected at most {MAX_CREDENTIALS_BYTES} bytes, got {}", facts.len())));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    // The parser's own words would show the line, and with it the password.
    let read: Credentials = toml::from_str(&text).map_err(|_| {
        fail("expected TOML with `user = \"…\"` and `password = \"…\"` and nothing else".to_owned())
    })?;
    if read.user.is_empty() {
        return Err(fail("field `user`: expected a name, got an empty one".to_owned()));
    }
    Ok(read)
}

fn has_forbidden(text: &str) -> bool {
    text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '+' | '#' | '$'))
}

fn prefix_problem(prefix: &str) -> Option<&'static str> {
    if prefix.len() > MAX_PREFIX_BYTES {
        Some("too long")
    } else if prefix.split('/').any(str::is_empty) {
        Some("a level is empty")
    } else if has_forbidden(prefix) {
        Some("spaces, +, # and $ have a meaning of their own in topics")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_that_would_break_topics_are_refused() {
        for bad in ["", "/a", "a/", "a//b", "a b", "a/+", "a/#", "$SYS/a", "a\u{0}b", &"x".repeat(201)] {
            assert_eq!(MqttConfig::new(bad).check().len(), 1, "{bad}");
        }
        assert!(MqttConfig::new("acme/york/pressing/line-2/cell_4").check().is_empty());
    }

    #[test]
    fn unknown_settings_are_errors_and_all_problems_are_told() {
        assert!(toml::from_str::<MqttConfig>("topic_prefix = \"a\"\nhots = \"b\"").is_err());
        let text = "topic_prefix = \"a b\"\nport = 0\nkeep_alive_s = 1\nhost = \"\"\nclient_id = \"\"";
        let config: MqttConfig = toml::from_str(text).unwrap();
        assert_eq!(config.check().len(), 5);
    }

    #[test]
    fn credentials_must_be_private_and_are_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.toml");
        let mut config = MqttConfig::new("a");
        config.credentials_file = Some(path.clone());
        assert!(config.check()[0].contains("No such file"));
        std::fs::write(&path, "user = \"u\"\npassword = \"geheim\"\n").unwrap();
        let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o644);
        assert!(config.check()[0].contains("chmod 600"));
        mode(0o640);
        let read = config.credentials().unwrap().unwrap();
        assert_eq!((read.user.as_str(), read.password.as_str()), ("u", "geheim"));
        assert!(!format!("{read:?}").contains("geheim"));
        std::fs::write(&path, "user = \"u\"\npassword = geheim\n").unwrap();
        assert!(!config.check()[0].contains("geheim"), "{:?}", config.check());
    }
}
