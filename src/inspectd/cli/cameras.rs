//! `inspectd cameras`: the cameras in reach, for the setting `id` or `device`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::camera::aravis::list::{self, Found};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Cameras {
    /// `kind = "aravis"`.
    aravis: Vec<Found>,
    /// `kind = "opencv"`, setting `device`.
    devices: Vec<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cameras = Cameras { aravis: list::cameras(), devices: devices(Path::new("/dev")) };
    let text = if args.json { serde_json::to_string_pretty(&cameras)? + "\n" } else { table(&cameras) };
    super::say(&text)?;
    if cameras.aravis.is_empty() && cameras.devices.is_empty() && std::io::stderr().is_terminal() {
        eprintln!(
            "none found: is the camera powered, in this machine's subnet, and not hidden by a firewall (UDP 3956)?"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// V4L2 devices, by number. One camera may have several, of which one gives pictures.
fn devices(folder: &Path) -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut devices: Vec<(u32, PathBuf)> = entries.filter_map(|path| Some((number(&path)?, path))).collect();
    devices.sort();
    devices.into_iter().map(|(_, path)| path).collect()
}

fn table(cameras: &Cameras) -> String {
    let head = ["kind", "id or device", "vendor", "model", "serial", "address", "protocol"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(
        cameras
            .aravis
            .iter()
            .cloned()
            .map(|c| ["aravis".into(), c.id, c.vendor, c.model, c.serial, c.address, c.protocol]),
    );
    rows.extend(cameras.devices.iter().map(|path| {
        let none = String::new;
        ["opencv".into(), path.display().to_string(), none(), none(), none(), none(), "V4L2".into()]
    }));
    let wide: [usize; 7] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(wide).map(|(cell, wide)| format!("{cell:wide$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_by_number_and_nothing_else_is_one() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["video10", "video2", "video", "videos", "vide0", "tty1"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = devices(dir.path());
        assert_eq!(found, [dir.path().join("video2"), dir.path().join("video10")]);
        assert!(devices(&dir.path().join("none")).is_empty());
        let found = Found {
            id: "Aravis-GV01".into(),
            vendor: "Aravis".into(),
            model: "Fake".into(),
            serial: "GV01".into(),
            address: "127.0.0.1".into(),
            protocol: "GigEVision".into(),
        };
        let text = table(&Cameras { aravis: vec![found], devices: vec!["/dev/video2".into()] });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("aravis  Aravis-GV01") && lines[1].ends_with("GigEVision"), "{text}");
        assert!(lines[2].starts_with("opencv  /dev/video2") && lines[2].ends_with("V4L2"), "{text}");
    }
}
