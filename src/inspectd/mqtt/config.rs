//! Settings of MQTT and the credentials file.
//!
//! What leaves this machine goes by TLS, unless the setting says `insecure = true`: over plain TCP anyone on the way
//! reads the password, and anyone may be the broker.
//!
//! Never here: connecting.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tls::TlsConfig;
use crate::secret;

/// Longest topic prefix: with station and message name it stays far below MQTT's 65,535.
const MAX_PREFIX_BYTES: usize = 200;
/// Ports where none is set: without TLS, and with it.
const PORTS: [u16; 2] = [1883, 8883];
/// Largest credentials file.
pub const MAX_CREDENTIALS_BYTES: u64 = 4_096;

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
    /// Its port; absent: 8883 with `tls`, else 1883.
    #[serde(default)]
    pub port: Option<u16>,
    /// The broker by TLS; absent: plain TCP.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Lets plain TCP leave this machine.
    #[serde(default)]
    pub insecure: bool,
    /// Name of this client, unique at the broker. Left out: made from the prefix.
    #[serde(default)]
    pub client_id: Option<String>,
    /// `enterprise/site/area/line/cell` (ISA-95), unique to this box.
    pub topic_prefix: String,
    /// TOML file with `user` and `password`, readable by this user only, or `credential:NAME`. Read at every
    /// connection.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// A broker that is silent for one to two of these is given up, seconds.
    #[serde(default = "default_keep_alive_s")]
    pub keep_alive_s: u16,
}

fn default_host() -> String {
    "127.0.0.1".to_owned()
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
            port: None,
            tls: None,
            insecure: false,
            client_id: None,
            topic_prefix: topic_prefix.into(),
            credentials_file: None,
            keep_alive_s: default_keep_alive_s(),
        }
    }

    /// Everything wrong with the settings, one sentence each. Touches no network and no file.
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.host.is_empty() || self.host.contains(|c: char| c.is_whitespace() || c == '/') {
            problems.push(format!("host: expected a host name or address, got `{}`", self.host));
        }
        if self.port == Some(0) {
            problems.push("port: expected 1 to 65535, got 0".to_owned());
        }
        if self.tls.is_none() && !self.insecure && !self.host.is_empty() && !is_this_machine(&self.host) {
            problems.push(format!(
                "tls: expected tls = {{ ca_file = \"…\" }} for {}, which is not this machine; or insecure = true, if everyone on the way may read all and be the broker",
                self.host
            ));
        }
        if let Some(problem) = self.tls.as_ref().and_then(TlsConfig::check) {
            problems.push(format!("tls.{problem}"));
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
        problems
    }

    /// Everything wrong with the files that it names. Credentials of systemd's are looked at where there are any.
    pub fn file_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let credentials = self.credentials_file.as_deref().filter(|file| !secret::is_out_of_reach(file));
        if let Some(Err(error)) = credentials.map(read_credentials) {
            problems.push(format!("credentials_file: {error}"));
        }
        if let Some(Err(error)) =
            self.tls.as_ref().filter(|tls| !tls.is_out_of_reach()).map(TlsConfig::client)
        {
            problems.push(format!("tls: {error}"));
        }
        problems
    }

    /// What is not wrong and should be known all the same.
    pub fn note(&self) -> Option<String> {
        let by_hand = self.credentials_file.as_deref().is_some_and(secret::is_out_of_reach)
            || self.tls.as_ref().is_some_and(TlsConfig::is_out_of_reach);
        if by_hand {
            return Some(
                "credentials of systemd's were not looked at: only the service is given them".to_owned(),
            );
        }
        let open = self.tls.is_none() && !is_this_machine(&self.host);
        open.then(|| format!("insecure: everyone on the way to {} may read all and be the broker", self.host))
    }

    /// The broker's port.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(PORTS[usize::from(self.tls.is_some())])
    }

    /// Makes relative paths relative to `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        if let Some(file) = &mut self.credentials_file {
            *file = secret::resolve(file, folder);
        }
        if let Some(tls) = &mut self.tls {
            tls.resolve(folder);
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
    let text = secret::read(path, MAX_CREDENTIALS_BYTES).map_err(|e| fail(e.to_string()))?;
    Credentials::parse(&text).map_err(|reason| fail(reason.to_owned()))
}

impl Credentials {
    /// Reads the text of a credentials file. The error says what was expected, and never what is there.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        // The parser's own words would show the line, and with it the password.
        let read: Self = toml::from_str(text)
            .map_err(|_| "expected TOML with `user = \"…\"` and `password = \"…\"` and nothing else")?;
        if read.user.is_empty() { Err("field `user`: expected a name, got an empty one") } else { Ok(read) }
    }
}

/// A name is looked up by others, and may lead anywhere.
fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
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
    use std::os::unix::fs::PermissionsExt as _;

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
    fn what_leaves_this_machine_goes_by_tls_or_says_that_it_does_not() {
        let at = |host: &str| MqttConfig { host: host.into(), ..MqttConfig::new("a") };
        for host in ["broker.plant", "192.0.2.7", "::ffff:192.0.2.7", "localhost.plant"] {
            assert!(at(host).check()[0].contains("insecure = true"), "{host}");
            let insecure = MqttConfig { insecure: true, ..at(host) };
            assert!(insecure.check().is_empty() && insecure.note().unwrap().contains(host));
            let tls =
                TlsConfig { ca_file: "ca.pem".into(), client_certificate_file: None, client_key_file: None };
            let tls = MqttConfig { tls: Some(tls), ..at(host) };
            assert!(tls.check().is_empty() && tls.note().is_none() && tls.port() == 8883);
            assert!(tls.file_problems()[0].contains("ca_file ca.pem: No such file"));
        }
        for host in ["127.0.0.1", "::1", "localhost"] {
            assert!(at(host).check().is_empty() && at(host).note().is_none() && at(host).port() == 1883);
        }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let text = "topic_prefix = 'a'\ntls = { ca_file = 'ca', client_certificate_file = 'c' }";
        let config: MqttConfig = toml::from_str(text).unwrap();
        assert!(config.check()[0].contains("both or none"));
    }

    #[test]
    fn credentials_must_be_private_and_are_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.toml");
        let mut config = MqttConfig::new("a");
        config.credentials_file = Some(path.clone());
        assert!(config.file_problems()[0].contains("No such file"));
        assert!(config.check().is_empty(), "a file may come later: the line goes on without");
        std::fs::write(&path, "user = \"u\"\npassword = \"geheim\"\n").unwrap();
        let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o644);
        assert!(config.file_problems()[0].contains("chmod 600"));
        mode(0o640);
        let read = config.credentials().unwrap().unwrap();
        assert_eq!((read.user.as_str(), read.password.as_str()), ("u", "geheim"));
        assert!(!format!("{read:?}").contains("geheim"));
        std::fs::write(&path, "user = \"u\"\npassword = geheim\n").unwrap();
        assert!(!config.file_problems()[0].contains("geheim"), "{:?}", config.file_problems());
    }
}
