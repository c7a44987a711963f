//! One thread or all of them, whichever steps faster just now.
//!
//! On free cores all are faster. Where other programs use the cores too, the threads of one step wait for
//! the one that was put aside: five steps a second with two threads, twenty with one, measured on two busy
//! cores. Which holds changes while a fit runs, so it is tried again every [`TRY_EVERY`] steps.
//!
//! Never here: what a step does.

/// Steps between trials, and the length of each of a trial's two halves.
const TRY_EVERY: u64 = 300;
const TRIAL: u64 = 8;

/// Chooses the number of threads of libtorch.
pub struct Threads {
    all: i32,
    /// Seconds spent with one thread and with all in the present trial.
    spent: [f64; 2],
}

impl Threads {
    /// Steps that the choice takes.
    pub const TRIAL_STEPS: u64 = 2 * TRIAL;

    /// `fixed`: always so many. Else one or all cores by trial.
    pub fn new(fixed: Option<usize>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let all = fixed.unwrap_or(cores).max(1) as i32;
        tch::set_num_threads(all);
        // With one to choose from there is nothing to try.
        Self { all: if fixed.is_some() { 1 } else { all }, spent: [0.0; 2] }
    }

    /// To be called before step number `step`.
    pub fn before(&mut self, step: u64) {
        if self.all == 1 {
            return;
        }
        match step % TRY_EVERY {
            0 => {
                self.spent = [0.0; 2];
                tch::set_num_threads(1);
            }
            TRIAL => tch::set_num_threads(self.all),
            at if at == 2 * TRIAL => tch::set_num_threads(self.best()),
            _ => {}
        }
    }

    /// To be called after it, with the time that it took. The first step after a change does not count.
    pub fn after(&mut self, step: u64, seconds: f64) {
        match step % TRY_EVERY {
            1..TRIAL => self.spent[0] += seconds,
            at if at > TRIAL && at < 2 * TRIAL => self.spent[1] += seconds,
            _ => {}
        }
    }

    fn best(&self) -> i32 {
        if self.spent[0] < self.spent[1] { 1 } else { self.all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_half_of_a_trial_wins() {
        for (one, all, best) in [(1.0, 2.0, 1), (2.0, 1.0, 4)] {
            let mut threads = Threads { all: 4, spent: [9.0; 2] };
            for step in 0..=2 * TRIAL {
                threads.before(step);
                threads.after(step, if step < TRIAL { one } else { all });
            }
            assert_eq!(threads.best(), best);
        }
    }
}
