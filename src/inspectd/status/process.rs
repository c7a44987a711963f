//! What the process holds, and what is left of its disk.
//!
//! Never here: a judgement of either.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the process holds. 0 where the system does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Memory in use (resident), bytes.
    pub memory_bytes: u64,
    /// Open files and sockets.
    pub open_handles: usize,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// This process, now. Source: proc_pid_status(5), proc_pid_fd(5).
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            pid: std::process::id(),
            memory_bytes: number("VmRSS:").unwrap_or(0) * 1024,
            // Reading the folder takes a handle itself.
            open_handles: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count().saturating_sub(1)),
            threads: number("Threads:").unwrap_or(0),
        }
    }
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// A folder on it.
    pub path: PathBuf,
    /// What is left for this user, bytes.
    pub free_bytes: u64,
    /// All of it, bytes.
    pub total_bytes: u64,
}

impl Disk {
    /// That of a folder; blocks for as long as the disk takes.
    pub fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Self {
            path: path.to_owned(),
            free_bytes: bytes(found.f_bavail),
            total_bytes: bytes(found.f_blocks),
        })
    }
}
