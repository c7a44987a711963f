//! Part numbers of each station as a journal holds them: none twice, and those missing with what explains them.
//!
//! Numbers are kept as runs, so that memory grows with the gaps and not with the parts.
//!
//! Never here: reading.

use std::collections::BTreeMap;

use serde::Serialize;

use super::POWER_CUT_SKIP;

/// Most runs of a station, doubles and events that are kept; a journal with more is told to be wrong.
const MAX_KEPT: usize = 100_000;
/// Most missing numbers and doubles that are told one by one.
pub(super) const MAX_TOLD: usize = 20;

/// Part numbers of one station.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StationNumbers {
    /// Its name.
    pub station: String,
    /// How many parts there are.
    pub parts: u64,
    /// The least number.
    pub first: u64,
    /// The greatest.
    pub last: u64,
    /// Numbers between them that are missing, the first of them, and what explains them.
    pub gaps: Vec<Gap>,
}

/// Part numbers that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Which event explains it: its sequence; none: it is not explained.
    pub explained_by: Option<u64>,
}

/// What an event explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explains {
    /// Parts that are not in the journal.
    Lost,
    /// Numbers that were skipped at a start.
    Skipped,
}

/// Numbers without a gap, and the records that stand at its ends.
#[derive(Debug, Clone, Copy)]
struct Run {
    last: u64,
    first_sequence: u64,
    last_sequence: u64,
}

#[derive(Debug, Default)]
struct OfStation {
    parts: u64,
    /// By the first number.
    runs: BTreeMap<u64, Run>,
    doubles: Vec<(u64, u64)>,
    too_many: bool,
}

/// Of all stations.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    stations: BTreeMap<String, OfStation>,
    events: Vec<(u64, Explains, Option<String>)>,
}

impl Numbers {
    /// A part, and the sequence of its record.
    pub fn part(&mut self, station: &str, part: u64, sequence: u64) {
        if !self.stations.contains_key(station) {
            self.stations.insert(station.to_owned(), OfStation::default());
        }
        if let Some(of) = self.stations.get_mut(station) {
            of.add(part, sequence);
        }
    }

    /// An event that may explain what is missing.
    pub fn event(&mut self, sequence: u64, explains: Explains, station: Option<&str>) {
        if self.events.len() < MAX_KEPT {
            self.events.push((sequence, explains, station.map(str::to_owned)));
        }
    }

    /// Each station's numbers.
    pub fn stations(&self) -> Vec<StationNumbers> {
        let of = |(name, of): (&String, &OfStation)| StationNumbers {
            station: name.clone(),
            parts: of.parts,
            first: of.runs.first_key_value().map_or(0, |(first, _)| *first),
            last: of.runs.last_key_value().map_or(0, |(_, run)| run.last),
            gaps: self.gaps(name, of),
        };
        self.stations.iter().map(of).collect()
    }

    /// What is wrong, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, of) in &self.stations {
            for (part, sequence) in of.doubles.iter().take(MAX_TOLD) {
                problems.push(format!(
                    "station {name}: part {part} is there twice, again at sequence {sequence}"
                ));
            }
            let unexplained = self.gaps(name, of).into_iter().filter(|gap| gap.explained_by.is_none());
            for Gap { from, to, .. } in unexplained.take(MAX_TOLD) {
                problems.push(format!(
                    "station {name}: parts {from} to {to} are missing, and no event explains it"
                ));
            }
            if of.too_many {
                problems
                    .push(format!("station {name}: its part numbers have over {MAX_KEPT} gaps or doubles"));
            }
        }
        problems
    }

    fn gaps(&self, station: &str, of: &OfStation) -> Vec<Gap> {
        let next = of.runs.iter().skip(1);
        let between = of.runs.values().zip(next).map(|(before, (first, after))| {
            let (from, to) = (before.last + 1, first - 1);
            Gap { from, to, explained_by: self.explanation(station, to - before.last, before, after) }
        });
        between.collect()
    }

    fn explanation(&self, station: &str, missing: u64, before: &Run, after: &Run) -> Option<u64> {
        let explains = |(sequence, explains, of): &&(u64, Explains, Option<String>)| {
            // Lost parts are told later, at the next start at the latest.
            *sequence > before.last_sequence
                && match explains {
                    Explains::Lost => of.as_deref().is_none_or(|of| of == station),
                    Explains::Skipped => *sequence < after.first_sequence && missing >= POWER_CUT_SKIP,
                }
        };
        self.events.iter().find(explains).map(|(sequence, _, _)| *sequence)
    }
}

impl OfStation {
    fn add(&mut self, part: u64, sequence: u64) {
        self.parts += 1;
        let full = self.runs.len() >= MAX_KEPT;
        let before = self.runs.range_mut(..=part).next_back();
        let joined = match before {
            Some((_, run)) if run.last >= part => {
                match self.doubles.len() < MAX_KEPT {
                    true => self.doubles.push((part, sequence)),
                    false => self.too_many = true,
                }
                return;
            }
            Some((first, run)) if run.last + 1 == part => {
                (run.last, run.last_sequence) = (part, sequence);
                *first
            }
            _ if full => {
                self.too_many = true;
                return;
            }
            _ => {
                let run = Run { last: part, first_sequence: sequence, last_sequence: sequence };
                self.runs.insert(part, run);
                part
            }
        };
        if let Some(next) = part.checked_add(1).and_then(|next| self.runs.remove(&next))
            && let Some(run) = self.runs.get_mut(&joined)
        {
            (run.last, run.last_sequence) = (next.last, next.last_sequence.max(sequence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_together_in_any_order_and_doubles_are_seen() {
        let mut numbers = Numbers::default();
        for (sequence, part) in [5, 1, 2, 4, 3, 9, 8, 4].into_iter().enumerate() {
            numbers.part("a", part, sequence as u64 + 1);
        }
        let stations = numbers.stations();
        let gap = Gap { from: 6, to: 7, explained_by: None };
        let expected = StationNumbers { station: "a".into(), parts: 8, first: 1, last: 9, gaps: vec![gap] };
        assert_eq!(stations, [expected]);
        assert_eq!(
            numbers.problems(),
            [
                "station a: part 4 is there twice, again at sequence 8",
                "station a: parts 6 to 7 are missing, and no event explains it"
            ]
        );
    }

    #[test]
    fn what_is_missing_is_explained_by_an_event_of_that_station_or_by_a_power_cut() {
        let mut numbers = Numbers::default();
        for (sequence, part) in [(1, 1), (2, 3), (4, 10_004), (5, 10_006)] {
            numbers.part("a", part, sequence);
            numbers.part("b", part, sequence + 100);
        }
        numbers.event(3, Explains::Skipped, None);
        numbers.event(6, Explains::Lost, Some("a"));
        let explained = |station: usize| {
            let gaps = numbers.stations()[station].gaps.clone();
            gaps.into_iter().map(|gap| gap.explained_by).collect::<Vec<_>>()
        };
        assert_eq!(explained(0), [Some(6), Some(3), Some(6)]);
        assert_eq!(explained(1), [None; 3]);
    }
}
