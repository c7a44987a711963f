//! Every section's first structural error.
//!
//! Never here: whether a value makes sense.

use super::{ModbusConfig, StationConfig, ViewConfig};
use crate::archive::ArchiveConfig;
use crate::camera::stream::config::without_password;
use crate::cores::Cores;
use crate::journal::JournalConfig;
use crate::models::ModelsConfig;
use crate::mqtt::MqttConfig;
use inspect_core::runtime::Runtime;

/// The first structural error of each section, station and view, but for the one at `known`: a parser stops at
/// the first, and nobody wants to mend a file error by error.
pub(super) fn errors(text: &str, known: &str) -> Vec<String> {
    let Ok(mut file) = text.parse::<toml::Table>() else { return Vec::new() };
    let mut found = Vec::new();
    let mut stations =
        file.remove("station").and_then(|s| s.try_into::<Vec<toml::Table>>().ok()).unwrap_or_default();
    for (i, station) in stations.iter_mut().enumerate() {
        let views = station.insert("view".into(), toml::Value::Array(Vec::new()));
        let views = views.and_then(|v| v.try_into::<Vec<toml::Table>>().ok()).unwrap_or_default();
        for (k, view) in views.into_iter().enumerate() {
            section::<ViewConfig>(&format!("station[{i}].view[{k}]"), view, &mut found);
        }
        section::<StationConfig>(&format!("station[{i}]"), station.clone(), &mut found);
    }
    for (name, value) in file {
        match (name.as_str(), value) {
            ("modbus", toml::Value::Table(t)) => section::<ModbusConfig>(&name, t, &mut found),
            ("mqtt", toml::Value::Table(t)) => section::<MqttConfig>(&name, t, &mut found),
            ("journal", toml::Value::Table(t)) => section::<JournalConfig>(&name, t, &mut found),
            ("archive", toml::Value::Table(t)) => section::<ArchiveConfig>(&name, t, &mut found),
            ("models", toml::Value::Table(t)) => section::<ModelsConfig>(&name, t, &mut found),
            ("runtime", toml::Value::Table(t)) => section::<Runtime>(&name, t, &mut found),
            ("cores", toml::Value::Table(t)) => section::<Cores>(&name, t, &mut found),
            ("run_dir", toml::Value::String(_)) => {}
            ("run_dir", _) => found.push((name, "expected a folder's path in quotes".into())),
            _ => found.push((
                name,
                "expected one of the sections modbus, mqtt, journal, archive, models, runtime, cores, station".into(),
            )),
        }
    }
    found.retain(|(at, _)| at != known);
    found.into_iter().map(|(at, reason)| format!("  {at}: {reason}")).collect()
}

fn section<T: serde::de::DeserializeOwned>(at: &str, table: toml::Table, found: &mut Vec<(String, String)>) {
    if let Err(error) = serde_path_to_error::deserialize::<_, T>(toml::Value::Table(table)) {
        let inner = error.path().to_string();
        let at = if inner == "." { at.to_owned() } else { format!("{at}.{inner}") };
        found.push((at, without_password(error.inner().message())));
    }
}
