//! The progress of long work: a line on standard error that is written over; where that is no terminal, one line
//! for each tenth.
//!
//! Never here: the work.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Least time between two states of the line on a terminal.
const PERIOD: Duration = Duration::from_millis(100);
/// Characters of the bar.
const BAR: usize = 30;

/// The line.
pub struct Progress {
    wanted: u64,
    what: &'static str,
    first: Option<u64>,
    started: Instant,
    shown: Option<Instant>,
    tenths: u64,
    terminal: bool,
}

impl Progress {
    /// Nothing is shown yet. `wanted` things are to be done, which are called `what`.
    pub fn new(wanted: u64, what: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { wanted, what, first: None, started: Instant::now(), shown: None, tenths: 0, terminal }
    }

    /// So many are done, those from before the start among them.
    pub fn show(&mut self, done: u64) {
        self.first.get_or_insert(done);
        let tenths = done * 10 / self.wanted.max(1);
        let due = if self.terminal {
            self.shown.is_none_or(|shown| shown.elapsed() >= PERIOD)
        } else {
            tenths > self.tenths
        };
        if due {
            (self.shown, self.tenths) = (Some(Instant::now()), tenths);
            self.write(done);
        }
    }

    /// The last state.
    pub fn end(&self, done: u64) {
        if self.terminal {
            self.write(done);
            eprintln!();
        }
    }

    /// Takes the line off a terminal, so that another can be written there.
    pub fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
    }

    fn write(&self, done: u64) {
        let full = (done * BAR as u64 / self.wanted.max(1)).min(BAR as u64) as usize;
        let taken = done - self.first.unwrap_or(done).min(done);
        let rate = taken as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let (start, end) = if self.terminal { ("\r", "  ") } else { ("", "\n") };
        let (bar, rest) = ("=".repeat(full), " ".repeat(BAR - full));
        eprint!("{start}[{bar}{rest}] {done}/{} {}, {rate:.0}/s{end}", self.wanted, self.what);
        // A closed standard error must not end the work.
        let _ = std::io::stderr().flush();
    }
}
