//! When a fit ends, and when its next checkpoint is due.
//!
//! A fit that is told minutes settles on a number of steps, since the learning rate and all else that changes in its
//! course follow from the share of the steps that is done. Steps do not keep their pace: other programs come and go,
//! and crops of real defects cost other time than procedural ones. So the number is looked at again whenever a quarter
//! of the time or of the steps that were left is spent, and follows the pace of that quarter. A checkpoint holds the number, and the
//! fit that goes on from it takes it as it is: from there on its steps are those of a fit that was told so many.
//!
//! Never here: what a step does.

use std::time::{Duration, Instant};

use crate::fit::FitError;
use crate::learn::{Budget, Learnt};
use crate::threads::Threads;

/// Steps that are timed before a time budget becomes a number of steps, where they fit into [`FIRST`] of it.
const TIMED: u64 = 20;
/// Share of the time after which there is a number at the latest.
const FIRST: f64 = 0.125;
/// Share of the time or of the steps that are left after which it is looked at again.
const AGAIN: f64 = 0.25;
/// It is changed if it is off by more than one part in so many.
const PARTS: u64 = 100;
/// Steps that do not count before the timed ones where the number of threads is given: memory is being got.
const SETTLE: u64 = 3;
/// The most time that is kept for what comes after the last step, seconds.
const MAX_RESERVE_S: f64 = 15.0;

/// What a [`Clock`] is told.
pub struct Pacing {
    /// When learning ends by itself.
    pub budget: Budget,
    /// Threads, if that is fixed.
    pub threads: Option<usize>,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Share of the time budget, of at most [`MAX_RESERVE_S`], that is kept for what comes after the last step.
    pub reserve: f64,
}

/// How many steps there will be, and when the next checkpoint is due.
pub struct Clock {
    /// Steps in all, once that is known.
    pub of: Option<u64>,
    /// When learning is to end; `None`: after `of` steps, whenever that is.
    end: Option<Instant>,
    /// Steps that the checkpoint brought.
    first: u64,
    /// Steps of this run that do not count where there are others.
    settle: u64,
    /// Where the pace is taken from: a time, and steps of this run by then.
    from: (Instant, u64),
    /// When the number is looked at again: a time, and steps of this run, whichever comes first.
    again: (Instant, u64),
    saved: Instant,
    save_every: Duration,
}

impl Clock {
    /// Starts when the fit did, `start`, loading counted in; it is `now`.
    ///
    /// Errors: [`FitError::NoTime`] if loading has used up half of the time: a network that has hardly been
    /// trained is none.
    pub fn new(pacing: &Pacing, resumed: &Learnt, start: Instant, now: Instant) -> Result<Self, FitError> {
        let mut clock = Self {
            of: resumed.of,
            end: None,
            first: resumed.steps,
            settle: if pacing.threads.is_some() { SETTLE } else { Threads::TRIAL_STEPS + 1 },
            from: (now, 0),
            again: (now, u64::MAX),
            saved: now,
            save_every: pacing.checkpoint_every,
        };
        match pacing.budget {
            Budget::Steps(steps) => clock.of = Some(steps),
            Budget::Time(time) if resumed.of.is_none() => {
                let reserve = time.mul_f64(pacing.reserve).min(Duration::from_secs_f64(MAX_RESERVE_S));
                let used = now.saturating_duration_since(start);
                let left = time.saturating_sub(reserve).saturating_sub(used);
                if left * 2 < time {
                    return Err(FitError::NoTime { used_s: used.as_secs(), of_s: time.as_secs() });
                }
                clock.end = Some(now + left);
                clock.again.0 = now + left.mul_f64(FIRST);
            }
            Budget::Time(_) => {}
        }
        Ok(clock)
    }

    /// To be called after each step; `steps` of this run are done by `now`.
    pub fn after(&mut self, steps: u64, now: Instant) {
        let Some(end) = self.end else { return };
        if steps == self.settle && self.of.is_none() {
            self.from = (now, steps);
        }
        let counted = steps.saturating_sub(self.from.1);
        let is_timed = self.of.is_none() && steps >= self.settle + TIMED;
        if counted == 0 || (now < self.again.0 && steps < self.again.1 && !is_timed) {
            return;
        }
        let each = now.saturating_duration_since(self.from.0).as_secs_f64() / counted as f64;
        let left = end.saturating_duration_since(now);
        let all = self.first + steps + (left.as_secs_f64() / each.max(1e-6)) as u64;
        if self.of.is_none_or(|of| of.abs_diff(all) > all / PARTS) {
            self.of = Some(all);
        }
        self.from = (now, steps);
        let steps_left = self.of.unwrap_or(all).saturating_sub(self.first + steps);
        self.again = (now + left.mul_f64(AGAIN), steps + (steps_left as f64 * AGAIN) as u64);
    }

    /// Whether a checkpoint is due; if so, the next one is due a while later.
    pub fn save_due(&mut self) -> bool {
        let due = self.saved.elapsed() >= self.save_every && self.of.is_some();
        if due {
            self.saved = Instant::now();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds that a fit of 60 s takes whose loading took 4 and whose step number k takes `pace(k)`, and its steps.
    fn fit(threads: Option<usize>, pace: impl Fn(u64) -> f64) -> (f64, u64) {
        let time = Duration::from_secs(60);
        let pacing = Pacing { budget: Budget::Time(time), threads, checkpoint_every: time, reserve: 0.01 };
        let start = Instant::now();
        let mut now = start + Duration::from_secs(4);
        let mut clock = Clock::new(&pacing, &Learnt { steps: 0, of: None }, start, now).unwrap();
        let mut step = 0;
        while clock.of.is_none_or(|of| step < of) {
            now += Duration::from_secs_f64(pace(step));
            step += 1;
            clock.after(step, now);
        }
        ((now - start).as_secs_f64(), step)
    }

    #[test]
    fn minutes_hold_whatever_the_pace_is() {
        type Pace = fn(u64) -> f64;
        let paces: [(&str, Pace); 6] = [
            ("even", |_| 0.05),
            ("slow first steps", |k| if k < 3 { 1.0 } else { 0.05 }),
            ("slower when real defects come", |k| if k < 400 { 0.05 } else { 0.12 }),
            ("faster once others have gone", |k| if k < 30 { 0.5 } else { 0.05 }),
            ("others come and go", |k| if k / 40 % 2 == 0 { 0.04 } else { 0.16 }),
            ("steps of more than a second", |_| 1.3),
        ];
        for threads in [None, Some(1)] {
            for (name, pace) in paces {
                let (took, steps) = fit(threads, pace);
                assert!((57.0..61.5).contains(&took), "{name}, {threads:?}: {took:.1} s, {steps} steps");
            }
        }
    }

    #[test]
    fn an_even_pace_changes_nothing_once_it_is_known_and_other_budgets_are_numbers_of_steps() {
        let time = Duration::from_secs(60);
        let mut pacing =
            Pacing { budget: Budget::Time(time), threads: Some(1), checkpoint_every: time, reserve: 0.05 };
        let start = Instant::now();
        let of = |pacing: &Pacing, resumed: Learnt, at: Instant| {
            let mut clock = Clock::new(pacing, &resumed, start, at)?;
            let each = |k: u64| {
                clock.after(k, start + Duration::from_millis(100 * k));
                clock.of
            };
            Ok::<_, FitError>((1..500).map(each).collect::<Vec<_>>())
        };
        let known = of(&pacing, Learnt { steps: 0, of: None }, start).unwrap();
        assert_eq!((known[21], known[22], known[498]), (None, Some(570), Some(570)));
        // A fit that goes on has its number.
        let known = of(&pacing, Learnt { steps: 7, of: Some(90) }, start).unwrap();
        assert!(known.iter().all(|of| *of == Some(90)));
        assert!(of(&pacing, Learnt { steps: 0, of: None }, start + time / 2).is_err(), "no time is left");
        pacing.budget = Budget::Steps(44);
        assert!(of(&pacing, Learnt { steps: 0, of: None }, start).unwrap().iter().all(|of| *of == Some(44)));
    }
}
