//! Ctrl-C: the first ends a command with what there is, the second at once.
//!
//! Never here: what a command does with what there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

/// Exit code of a command that was stopped, as of a program that SIGINT ended.
pub const STOPPED: i32 = 130;

/// What is told.
pub struct Words {
    /// What comes after the first Ctrl-C.
    pub first: &'static str,
    /// What is left after the second.
    pub second: &'static str,
}

/// Flags that Ctrl-C and a command share.
#[derive(Clone, Default)]
pub struct Stop {
    /// Set by the first Ctrl-C.
    pub asked: Arc<AtomicBool>,
    /// Set by the command while Ctrl-C must wait: a moment, and the file is whole.
    pub writing: Arc<AtomicBool>,
}

/// Listens for Ctrl-C from here on.
pub fn on_ctrl_c(words: Words) -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let Stop { asked, writing } = stop.clone();
    ctrlc::set_handler(move || {
        if writing.load(Ordering::Relaxed) {
            return;
        }
        if asked.swap(true, Ordering::Relaxed) {
            eprintln!("stopped; {}", words.second);
            std::process::exit(STOPPED);
        }
        eprintln!("stopping: {} (Ctrl-C again: at once)", words.first);
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
