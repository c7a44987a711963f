//! Daemons for the tests, in the test's own process: stations that need no PLC, with the demo model.

use std::path::Path;

use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::JournalReader;

/// Starts a daemon whose stations have these names, triggers and cameras, as a configuration writes them.
pub async fn started(journal: &Path, stations: &[(&str, &str, &str)]) -> Daemon {
    let journal = journal.display();
    let mut text = format!(
        "modbus = {{ listen = '127.0.0.1:0' }}
         journal = {{ dir = '{journal}' }}
         runtime = {{ providers = ['cpu'] }}\n"
    );
    for (name, trigger, camera) in stations {
        text += &format!(
            "[[station]]
             name = '{name}'
             trigger = {trigger}
             deadline_ms = 2000
             gate = {{ time_to_gate_ms = 2100, plc_poll_ms = 10, plc_scan_ms = 20 }}
             view = [{{ name = 'top', model = 'models/demo.onnx', camera = {camera} }}]\n"
        );
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::parse(&text, Path::new("test.toml"), root).unwrap();
    let problems = config.problems();
    assert!(problems.settings.is_empty() && problems.files.is_empty(), "{problems:?}");
    Daemon::start(&config, Seams::configured(&config)).await.unwrap()
}

/// The records of all parts, in order.
pub fn parts(journal: &Path) -> Vec<serde_json::Value> {
    let entries = JournalReader::open(journal).unwrap().after(0, 10_000).unwrap();
    let records = entries.iter().map(|entry| serde_json::from_str(&entry.json).unwrap());
    records.filter(|record: &serde_json::Value| record.get("part").is_some()).collect()
}
