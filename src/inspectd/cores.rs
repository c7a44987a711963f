//! Which processor cores do what, where that is set: scoring on some, everything else on others, so that neither
//! waits for the other.
//!
//! Where nothing is set the system places threads, which is best for most boxes: a core that is kept free for
//! scoring is a core less for all else.
//!
//! Never here: how many threads there are (`runtime.threads`), priorities (the unit's).

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// The cores, by the system's numbers from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cores {
    /// For the scorers and their sessions' threads; empty: any, and then `others` must be empty too.
    pub scoring: Vec<usize>,
    /// For all other threads: cameras, stations, Modbus, journal, MQTT; empty: any.
    pub others: Vec<usize>,
}

impl Cores {
    /// Every setting that can never work, in words. Whether this machine has the cores is not asked.
    pub fn check(&self) -> Vec<String> {
        let most = CpuSet::MAX_CPU;
        let wrong = |(name, cores): (&str, &Vec<usize>)| {
            let core = cores.iter().find(|core| **core >= most)?;
            Some(format!("{name}: expected cores from 0 to {}, got {core}", most - 1))
        };
        let mut problems: Vec<String> =
            [("scoring", &self.scoring), ("others", &self.others)].into_iter().filter_map(wrong).collect();
        if self.scoring.is_empty() && !self.others.is_empty() {
            // Threads inherit their starter's cores.
            problems.push("scoring: expected cores, since `others` names some".to_owned());
        }
        problems
    }
}

/// Keeps this thread, and those that it starts from now on, to `cores`; no cores: as it is.
///
/// Errors: the system's, if this machine has none of them.
pub fn keep_to(cores: &[usize]) -> io::Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cores {cores:?}: {error}; does this machine have them?"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn a_thread_and_those_it_starts_stay_on_their_cores() {
        let here = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| here.is_set(*core)).unwrap();
        let kept = std::thread::spawn(move || {
            keep_to(&[]).unwrap();
            let before = sched_getaffinity(None).unwrap().count();
            keep_to(&[core]).unwrap();
            let started = std::thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap();
            (before, started.count(), started.is_set(core))
        });
        assert_eq!(kept.join().unwrap(), (here.count(), 1, true));
    }

    #[test]
    fn cores_that_are_not_there_are_told() {
        assert!(keep_to(&[CpuSet::MAX_CPU - 1]).unwrap_err().to_string().contains("does this machine"));
        let cores = Cores { scoring: vec![0, CpuSet::MAX_CPU], others: vec![] };
        assert!(cores.check()[0].contains("scoring"), "{:?}", cores.check());
        assert!(!Cores { scoring: vec![], others: vec![0] }.check().is_empty());
    }
}
