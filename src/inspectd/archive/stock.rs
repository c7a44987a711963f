//! The books of the archive: which parts lie there, how large they are, and which go first.
//!
//! *Oldest first*, by the time of their files, which never goes back while one process writes them, whatever the
//! clock does. Where room is short, parts that passed go before any other; where they are too old, age alone counts.
//!
//! Never here: the disk, except by the sizes and times that somebody read from it.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::name::{Kind, PartName, Word};

/// Most parts that are known, so that the books fit into memory; more, and the oldest go.
pub const MAX_PARTS: usize = 1_000_000;

/// Names that many parts share.
#[derive(Debug, Default)]
struct Names(Vec<String>);

impl Names {
    fn number(&mut self, name: &str) -> u16 {
        let at = self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    fn of(&self, number: u16) -> &str {
        self.0.get(usize::from(number)).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time_ms: i64,
    /// Of a station the number tells the order where several of its parts have one time.
    number: u64,
    part: PartName,
    station: u16,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    bytes: u64,
    /// By view.
    files: Vec<(u16, Kind)>,
}

/// A file that is there.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Of this station.
    pub station: &'a str,
    /// Of this part.
    pub part: PartName,
    /// Of this view; empty where it is the record.
    pub view: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Its size.
    pub bytes: u64,
    /// Time of its last change, milliseconds since 1970.
    pub time_ms: i64,
}

/// A part that has to go.
#[derive(Debug, PartialEq, Eq)]
pub struct Going {
    /// Its station.
    pub station: String,
    /// It.
    pub part: PartName,
    /// Its files' names.
    pub files: Vec<String>,
    /// Their sizes together.
    pub bytes: u64,
    /// As it stood in the books.
    key: Key,
    held: Held,
}

/// What bounds the archive.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes.
    pub max_bytes: u64,
    /// Days of parts before this one go; none where the clock is not to be believed.
    pub oldest: Option<Date>,
    /// Bytes that the disk lacks to have free what it must.
    pub lacking: u64,
    /// Bytes that are about to be written.
    pub incoming: u64,
}

/// All that is known to lie there.
#[derive(Debug, Default)]
pub struct Stock {
    stations: Names,
    views: Names,
    passes: BTreeMap<Key, Held>,
    others: BTreeMap<Key, Held>,
    bytes: u64,
    newest_ms: i64,
}

impl Stock {
    /// Enters a file.
    pub fn add(&mut self, found: Found<'_>) {
        let Found { station, part, view, kind, bytes, time_ms } = found;
        let key = Key { time_ms, number: part.part, part, station: self.stations.number(station) };
        let file = (self.views.number(view), kind);
        let parts = if part.word == Word::Pass { &mut self.passes } else { &mut self.others };
        let held = parts.entry(key).or_default();
        // A folder that was looked at after a part was written into it shows what is known already.
        if !held.files.contains(&file) {
            held.files.push(file);
            held.bytes += bytes;
            self.bytes += bytes;
        }
        self.newest_ms = self.newest_ms.max(time_ms);
    }

    /// The time that a part's files get which is written now: after that of any other, so that parts that are written
    /// while the clock stands behind keep their order over all stations.
    pub fn time_for(&self, wanted_ms: i64) -> i64 {
        let last_ms = jiff::Timestamp::MAX.as_millisecond();
        wanted_ms.max(self.newest_ms.saturating_add(1)).min(last_ms)
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.passes.len() + self.others.len()
    }

    /// Takes the next part out of the books that has to go; none where all bounds hold.
    pub fn next_to_go(&mut self, bounds: &mut Bounds) -> Option<Going> {
        if let Some(oldest) = bounds.oldest {
            for passes in [true, false] {
                let parts = if passes { &self.passes } else { &self.others };
                if parts.first_key_value().is_some_and(|(key, _)| key.part.day < oldest) {
                    return self.oldest_of(passes, bounds);
                }
            }
        }
        let over = self.bytes.saturating_add(bounds.incoming) > bounds.max_bytes;
        if over || bounds.lacking > 0 || self.parts() > MAX_PARTS {
            return self.oldest_of(!self.passes.is_empty(), bounds);
        }
        None
    }

    /// Takes a part into the books again that could not be removed.
    pub fn put_back(&mut self, going: Going) {
        let Going { key, held, .. } = going;
        self.bytes += held.bytes;
        let parts = if key.part.word == Word::Pass { &mut self.passes } else { &mut self.others };
        parts.insert(key, held);
    }

    fn oldest_of(&mut self, passes: bool, bounds: &mut Bounds) -> Option<Going> {
        let parts = if passes { &mut self.passes } else { &mut self.others };
        let (key, held) = parts.pop_first()?;
        self.bytes -= held.bytes;
        bounds.lacking = bounds.lacking.saturating_sub(held.bytes);
        let name = |&(view, kind): &(u16, Kind)| key.part.file(self.views.of(view), kind);
        Some(Going {
            station: self.stations.of(key.station).to_owned(),
            part: key.part,
            files: held.files.iter().map(name).collect(),
            bytes: held.bytes,
            key,
            held,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;
    use proptest::prelude::*;

    const DAY: Date = jiff::civil::date(2026, 11, 22);

    fn add(stock: &mut Stock, part: u64, word: Word, days_ago: i64, bytes: u64) {
        let part = PartName { day: DAY - days_ago.days(), part, word };
        let time_ms = stock.time_for(-days_ago * 86_400_000);
        for kind in [Kind::Png, Kind::Record] {
            let view = if kind == Kind::Record { "" } else { "top" };
            stock.add(Found { station: "s", part, view, kind, bytes: bytes / 2, time_ms });
        }
    }

    fn bounds(max_bytes: u64) -> Bounds {
        Bounds { max_bytes, oldest: None, lacking: 0, incoming: 0 }
    }

    fn gone(stock: &mut Stock, mut bounds: Bounds) -> Vec<u64> {
        std::iter::from_fn(|| stock.next_to_go(&mut bounds)).map(|going| going.part.part).collect()
    }

    #[test]
    fn passes_go_before_rejects_where_room_is_short_and_after_their_time_where_they_are_old() {
        let mut stock = Stock::default();
        for (part, word, days) in
            [(1, Word::Reject, 9), (2, Word::Pass, 8), (3, Word::Fault, 2), (4, Word::Pass, 1)]
        {
            add(&mut stock, part, word, days, 10);
        }
        assert_eq!(gone(&mut stock, Bounds { oldest: Some(DAY - 8.days()), ..bounds(40) }), [1]);
        assert_eq!(gone(&mut stock, Bounds { lacking: 11, ..bounds(40) }), [2, 4]);
        assert_eq!(gone(&mut stock, Bounds { incoming: 1, ..bounds(10) }), [3]);
        assert_eq!((stock.bytes(), stock.parts()), (0, 0));
        assert_eq!(gone(&mut stock, Bounds { lacking: 99, ..bounds(0) }), [0u64; 0], "nothing is left to go");
    }

    #[test]
    fn a_file_that_is_found_twice_counts_once() {
        let mut stock = Stock::default();
        let part = PartName { day: DAY, part: 1, word: Word::Reject };
        let found = Found { station: "s", part, view: "top", kind: Kind::Png, bytes: 7, time_ms: 5 };
        stock.add(found);
        stock.add(found);
        assert_eq!((stock.bytes(), stock.parts()), (7, 1));
        let going = stock.next_to_go(&mut bounds(0)).unwrap();
        assert_eq!(going.files, ["000000001-reject-top.png"]);
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_new_part_an_old_one() {
        let mut stock = Stock::default();
        add(&mut stock, 1, Word::Reject, 0, 10);
        add(&mut stock, 2, Word::Reject, 400, 10);
        assert_eq!(gone(&mut stock, bounds(10)), [1]);
    }

    #[test]
    fn a_clock_that_stood_ahead_for_a_while_leaves_the_order_over_all_stations() {
        let mut stock = Stock::default();
        add(&mut stock, 900, Word::Reject, -400, 10);
        for part in [1, 901, 2] {
            add(&mut stock, part, Word::Reject, 0, 10); // 1 and 2 of a station that began later
        }
        assert_eq!(gone(&mut stock, bounds(10)), [900, 1, 901]);
    }

    proptest! {
        /// Of each kind the newest stay, and with one part more than went a bound would be broken.
        #[test]
        fn no_more_goes_than_must_and_the_newest_stay(
            parts in proptest::collection::vec((any::<bool>(), 1u64..100), 0..60),
            max_bytes in 0u64..3_000,
            lacking in 0u64..500,
            incoming in 0u64..300,
        ) {
            let mut stock = Stock::default();
            let mut all = Vec::new();
            for (part, (pass, half)) in parts.iter().enumerate() {
                let word = if *pass { Word::Pass } else { Word::Reject };
                add(&mut stock, part as u64, word, 0, half * 2);
                all.push((part as u64, *pass, half * 2));
            }
            let gone = gone(&mut stock, Bounds { lacking, incoming, ..bounds(max_bytes) });
            let bytes = |part: u64| all[part as usize].2;
            // In the order in which they must go: passes, then others, each oldest first.
            let mut order: Vec<u64> = all.iter().filter(|p| p.1).map(|p| p.0).collect();
            order.extend(all.iter().filter(|p| !p.1).map(|p| p.0));
            prop_assert_eq!(&gone[..], &order[..gone.len()]);
            let left: u64 = order[gone.len()..].iter().map(|&p| bytes(p)).sum();
            prop_assert_eq!(stock.bytes(), left);
            let freed: u64 = gone.iter().map(|&p| bytes(p)).sum();
            prop_assert!((left + incoming <= max_bytes && freed >= lacking) || gone.len() == all.len());
            if let Some(&last) = gone.last() {
                let (left, freed) = (left + bytes(last), freed - bytes(last));
                prop_assert!(left + incoming > max_bytes || freed < lacking, "the last went for nothing");
            }
        }
    }
}
