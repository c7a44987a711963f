//! Watches the wall's clock, and tells where somebody or a time server stepped it: nothing is decided by it, but the times
//! in the records jump, and who reads them should know why.
//!
//! Never here: a decision; setting a clock.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::clock;
use crate::journal::Journal;
use crate::record::{Event, EventKind};

/// Pace of looking.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Less than this is a time server's usual work.
const STEP: SignedDuration = SignedDuration::from_secs(2);

/// Both clocks at one moment.
struct Both {
    now: Instant,
    wall: Timestamp,
}

impl Both {
    fn read() -> Self {
        Self { now: clock::now(), wall: clock::wall() }
    }

    /// How much farther the wall's clock went since `before` than the other; below 0: less far.
    fn step_since(&self, before: &Self) -> Option<SignedDuration> {
        let went = SignedDuration::try_from(self.now.saturating_duration_since(before.now)).ok()?;
        let step = self.wall.duration_since(before.wall).checked_sub(went)?;
        (step.abs() >= STEP).then_some(step)
    }
}

/// Looks until `stopped`.
pub async fn tell_steps(journal: Journal, mut stopped: watch::Receiver<bool>) {
    let mut before = Both::read();
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|&stop| stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let both = Both::read();
        if let Some(step) = both.step_since(&before) {
            let message = words(step);
            tracing::warn!(message);
            journal.event(Event::now(EventKind::ClockStepped, None, message));
        }
        before = both;
    }
}

fn words(step: SignedDuration) -> String {
    let way = if step.is_negative() { "back" } else { "forwards" };
    format!(
        "the machine's clock was stepped {way} by {} s: times of records jump here, their sequence tells the order; if nobody \
         did it, check the time server",
        step.abs().as_secs_f64().round()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_and_a_late_look_is_none() {
        let before = Both::read();
        let later = |run_s: u64, wall_s: i64| Both {
            now: before.now + Duration::from_secs(run_s),
            wall: before.wall + SignedDuration::from_secs(wall_s),
        };
        let step = |run_s, wall_s| later(run_s, wall_s).step_since(&before).map(|step| step.as_secs());
        assert_eq!(step(1, 1), None);
        assert_eq!(
            step(600, 601),
            None,
            "the machine was busy for ten minutes, and the clock is corrected a little"
        );
        assert_eq!(step(1, 3_601), Some(3_600));
        assert_eq!(step(1, -7_199), Some(-7_200));
        assert!(words(SignedDuration::from_secs(-7_200)).contains("back by 7200 s"));
        assert!(words(SignedDuration::from_millis(3_599_990)).contains("forwards by 3600 s"));
    }
}
