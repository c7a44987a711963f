//! Where the files of a part lie, and what a file name says.
//!
//! `STATION/2026-11-22/000123/000123456-reject-VIEW.png`: the day (UTC) on which the trigger was accepted, a folder for
//! each [`PARTS_A_FOLDER`] part numbers, the part's number, its verdict, the view. `.jpg` in place of `.png` is a frame
//! with losses; `VIEW.map.png` is the anomaly map; `000123456-reject.json` is the part's record.
//!
//! Never here: reading or writing.

use std::path::{Path, PathBuf};

use inspect_core::verdict::Verdict;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::record::Inspection;

/// Part numbers that share a folder: with 8 views it holds at most 17 files a part.
pub const PARTS_A_FOLDER: u64 = 1_000;
/// At the end of what is not yet whole.
pub const PART: &str = ".part";

/// One file of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The part's record; of no view.
    Record,
    /// A frame without loss.
    Png,
    /// A frame with losses.
    Jpeg,
    /// An anomaly map.
    Map,
}

impl Kind {
    fn ending(self) -> &'static str {
        match self {
            Kind::Record => ".json",
            Kind::Png => ".png",
            Kind::Jpeg => ".jpg",
            Kind::Map => ".map.png",
        }
    }
}

/// The verdict's word, as file names have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Pass.
    Pass,
    /// Review.
    Review,
    /// Reject.
    Reject,
    /// Fault.
    Fault,
}

impl Word {
    const ALL: [Word; 4] = [Word::Pass, Word::Review, Word::Reject, Word::Fault];

    /// As in a record.
    pub fn text(self) -> &'static str {
        match self {
            Word::Pass => "pass",
            Word::Review => "review",
            Word::Reject => "reject",
            Word::Fault => "fault",
        }
    }
}

impl From<Verdict> for Word {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Word::Pass,
            Verdict::Review => Word::Review,
            Verdict::Reject => Word::Reject,
            Verdict::Fault(_) => Word::Fault,
        }
    }
}

/// Which part, as its files' names say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartName {
    /// UTC.
    pub day: Date,
    /// Its number at its station.
    pub part: u64,
    /// Its verdict.
    pub word: Word,
}

impl PartName {
    /// Of a record.
    pub fn of(record: &Inspection) -> Self {
        let day = record.trigger.accepted.to_zoned(TimeZone::UTC).date();
        Self { day, part: record.part, word: record.verdict.into() }
    }

    /// The folder that its files lie in, below the archive's.
    pub fn folder(&self, station: &str) -> PathBuf {
        let thousands = format!("{:06}", self.part / PARTS_A_FOLDER);
        Path::new(&plain(station)).join(self.day.to_string()).join(thousands)
    }

    /// The name of one of its files. `view` counts for nothing where it is the record.
    pub fn file(&self, view: &str, kind: Kind) -> String {
        let stem = format!("{:09}-{}", self.part, self.word.text());
        match kind {
            Kind::Record => format!("{stem}{}", kind.ending()),
            _ => format!("{stem}-{}{}", plain(view), kind.ending()),
        }
    }

    /// What a file's name says; none of what the archive does not write.
    pub fn parse(day: Date, file: &str) -> Option<(Self, &str, Kind)> {
        let (number, rest) = file.split_once('-')?;
        let word = Word::ALL.into_iter().find(|word| rest.starts_with(word.text()))?;
        let rest = &rest[word.text().len()..];
        let name = Self { day, part: number.parse().ok()?, word };
        let (view, kind) = match rest.strip_prefix('-') {
            None => ("", (rest == Kind::Record.ending()).then_some(Kind::Record)?),
            Some(rest) => {
                let ends = |kind: Kind| Some((rest.strip_suffix(kind.ending())?, kind));
                ends(Kind::Map).or_else(|| ends(Kind::Png)).or_else(|| ends(Kind::Jpeg))?
            }
        };
        // Another spelling of the same would be counted under a name that is not there.
        (name.file(view, kind) == file).then_some((name, view, kind))
    }
}

/// A name as it may stand in a path.
pub fn plain(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// A frame that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePath {
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is the frame pixel by pixel.
    pub lossless: bool,
}

/// The kept frame of a part's view in the archive at `root`, the one without loss before one with losses.
pub fn frame_path(root: &Path, record: &Inspection, view: &str) -> Option<FramePath> {
    let name = PartName::of(record);
    let folder = root.join(name.folder(&record.station));
    [(Kind::Png, true), (Kind::Jpeg, false)].into_iter().find_map(|(kind, lossless)| {
        let path = folder.join(name.file(view, kind));
        path.is_file().then_some(FramePath { path, lossless })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Date = jiff::civil::date(2026, 11, 22);

    #[test]
    fn a_part_lies_by_station_day_and_thousand() {
        let name = PartName { day: DAY, part: 123_456, word: Word::Reject };
        assert_eq!(name.folder("a/../b"), Path::new("a____b/2026-11-22/000123"));
        assert_eq!(name.file("top", Kind::Png), "000123456-reject-top.png");
        assert_eq!(name.file("top", Kind::Map), "000123456-reject-top.map.png");
        assert_eq!(name.file("top", Kind::Record), "000123456-reject.json");
    }

    #[test]
    fn foreign_names_say_nothing() {
        for name in [
            "",
            "notes.txt",
            "000000001-reject",
            "1-reject.json",
            "000000001-good-top.png",
            "000000001-reject-a b.png",
            "000000001-reject-top.png.part",
            "000000001-rejected.json",
        ] {
            assert_eq!(PartName::parse(DAY, name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(part: u64, word in 0usize..4, view in "[a-z_-]{1,12}", kind in 0usize..4) {
            let kind = [Kind::Record, Kind::Png, Kind::Jpeg, Kind::Map][kind];
            let name = PartName { day: DAY, part, word: Word::ALL[word] };
            let file = name.file(&view, kind);
            let view = if kind == Kind::Record { "" } else { view.as_str() };
            prop_assert_eq!(PartName::parse(DAY, &file), Some((name, view, kind)));
        }

        #[test]
        fn no_name_is_too_strange(name in "\\PC{0,40}") {
            let _ = PartName::parse(DAY, &name);
        }
    }
}
