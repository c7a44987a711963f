//! Part numbers of each station as a journal holds them: none twice, and those missing with what explains them.
//!
//! Numbers are kept as runs, so that memory grows with the gaps and not with the parts.
//!
//! Never here: reading.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::record::Lost;

/// Most runs of a station, doubles and events that are kept; a journal with more is told to be wrong.
const MAX_KEPT: usize = 100_000;
/// Most gaps that one event explains: lost parts come in a row.
const MAX_SPREAD: usize = 1_000;
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
    /// So many parts that are not in the journal, the last of them this; none: it cannot be told how many.
    Lost(Option<Lost>),
    /// So many numbers that were skipped at a start.
    Skipped(u64),
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
        let of_it = |(.., name): &&(u64, Explains, Option<String>)| {
            name.as_deref().is_none_or(|name| name == station)
        };
        let events =
            || self.events.iter().filter(of_it).map(|(sequence, explains, _)| (*sequence, *explains));
        let told = events().filter_map(|(sequence, explains)| match explains {
            Explains::Lost(Some(lost)) => Some((sequence, lost)),
            _ => None,
        });
        let next = of.runs.iter().skip(1);
        let mut gaps: Vec<Gap> = of
            .runs
            .values()
            .zip(next)
            .map(|(before, (first, after))| {
                let (from, to) = (before.last + 1, first - 1);
                let between = before.last_sequence..after.first_sequence;
                let skip = events().find(|(sequence, explains)| match explains {
                    Explains::Skipped(count) => between.contains(sequence) && to - before.last >= *count,
                    Explains::Lost(None) => between.contains(sequence),
                    Explains::Lost(Some(_)) => false,
                });
                Gap { from, to, explained_by: skip.map(|(sequence, _)| sequence) }
            })
            .collect();
        explain(&mut gaps, told.collect());
        gaps
    }
}

/// Lays the parts that were told as lost into the gaps: each event's last where it is, its others below that.
fn explain(gaps: &mut [Gap], mut told: Vec<(u64, Lost)>) {
    told.sort_by_key(|(_, lost)| lost.last);
    let mut left: Vec<u64> = gaps.iter().map(|gap| gap.to - gap.from + 1).collect();
    for (sequence, lost) in told {
        let mut parts = lost.parts;
        let above = gaps.partition_point(|gap| gap.from <= lost.last);
        for at in (0..above).rev().take(MAX_SPREAD) {
            let gap = &mut gaps[at];
            let used = parts.min(left[at]).min(lost.last.min(gap.to) - gap.from + 1);
            (parts, left[at]) = (parts - used, left[at] - used);
            if used > 0 && left[at] == 0 {
                gap.explained_by.get_or_insert(sequence);
            }
            if parts == 0 {
                break;
            }
        }
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
        numbers.event(3, Explains::Skipped(10_000), None);
        let lost = |parts, last| Explains::Lost(Some(Lost { parts, last }));
        numbers.event(6, lost(1, 10_005), Some("a"));
        numbers.event(7, lost(1, 2), Some("a"));
        let explained = |station: usize| {
            let gaps = numbers.stations()[station].gaps.clone();
            gaps.into_iter().map(|gap| gap.explained_by).collect::<Vec<_>>()
        };
        assert_eq!(explained(0), [Some(7), Some(3), Some(6)]);
        assert_eq!(explained(1), [None; 3]);
    }

    #[test]
    fn one_lost_part_explains_no_other() {
        let mut numbers = Numbers::default();
        for (sequence, part) in [(1, 1), (2, 500), (3, 502), (4, 505)] {
            numbers.part("a", part, sequence);
        }
        numbers.event(5, Explains::Lost(Some(Lost { parts: 1, last: 501 })), Some("a"));
        numbers.event(6, Explains::Lost(Some(Lost { parts: 1, last: 503 })), Some("a"));
        numbers.event(7, Explains::Lost(Some(Lost { parts: 1, last: 504 })), Some("a"));
        let gaps = numbers.stations()[0].gaps.clone();
        assert_eq!(gaps.iter().map(|gap| gap.explained_by).collect::<Vec<_>>(), [None, Some(5), Some(7)]);
    }
}
