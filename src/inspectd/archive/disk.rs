//! The archive's folder: writing a part's files, taking stock of what lies there, removing what has to go.
//!
//! A file is written beside its place and renamed: nobody sees half of one. It is not synced: a power cut may cost the
//! pictures of the last seconds, whose records the journal has.
//!
//! Never here: a file or folder touched that the archive does not write; a link followed.

use std::fs::{DirEntry, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::config::{ArchiveConfig, Format};
use super::name::{Kind, PART, PartName};
use super::paint::paint;
use super::stock::{Bounds, Found, Going, Stock};
use super::{ArchiveError, Kept};

/// Age removes nothing until the clock has gone without a step for this long: a clock that stands years ahead after a
/// start must not empty the archive before it is put right.
pub const CLOCK_SETTLES: Duration = Duration::from_secs(3_600);
/// What counts as a step of the clock.
const CLOCK_STEP: Duration = Duration::from_secs(60);

/// A part's files, ready to be written.
pub(super) struct Encoded {
    station: String,
    part: PartName,
    /// View, kind, bytes; the record last, so that where it is, all is.
    files: Vec<(String, Kind, Vec<u8>)>,
    accepted_ms: i64,
    bytes: u64,
}

impl Encoded {
    /// Errors: [`ArchiveError::Encode`]. None where there is no picture: the journal has the record.
    pub fn of(kept: &Kept, config: &ArchiveConfig) -> Result<Option<Self>, ArchiveError> {
        let record = &kept.record;
        let encode = |source| ArchiveError::Encode { part: record.part, source };
        let mut files = Vec::new();
        for pictures in &kept.views {
            let view = || pictures.view.clone();
            if let Some(frame) = &pictures.frame {
                files.push(match config.format {
                    Format::Png => (view(), Kind::Png, frame.encode_png().map_err(encode)?),
                    Format::Jpeg => {
                        (view(), Kind::Jpeg, frame.encode_jpeg(config.jpeg_quality).map_err(encode)?)
                    }
                });
            }
            if !pictures.map.is_empty() {
                let thresholds = record.views.iter().find(|v| v.view == pictures.view);
                let reject = thresholds.and_then(|v| v.thresholds).map_or(f32::NAN, |t| t.reject);
                let map = paint(&pictures.map, pictures.map_shape, reject).map_err(encode)?;
                files.push((view(), Kind::Map, map.encode_png().map_err(encode)?));
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        let json = serde_json::to_vec_pretty(record)
            .map_err(|source| ArchiveError::Record { part: record.part, source })?;
        files.push((String::new(), Kind::Record, json));
        Ok(Some(Self {
            station: super::name::plain(&record.station),
            part: PartName::of(record),
            bytes: files.iter().map(|(_, _, bytes)| bytes.len() as u64).sum(),
            files,
            accepted_ms: record.trigger.accepted.as_millisecond(),
        }))
    }
}

/// Whether the clock is to be believed.
struct Clock {
    /// The clock's time when the monotonic one stood at zero, and since when it has been that.
    origin: Option<(SystemTime, Instant)>,
    settles: Duration,
}

impl Clock {
    fn is_settled(&mut self, wall: SystemTime, now: Instant, start: Instant) -> bool {
        let Some(origin) = wall.checked_sub(now.duration_since(start)) else { return false };
        let apart = |a: SystemTime, b: SystemTime| a.duration_since(b).unwrap_or_else(|e| e.duration());
        match self.origin {
            Some((known, since)) if apart(known, origin) < CLOCK_STEP => {
                self.origin = Some((origin, since)); // a clock that is slewed does not step
                now.duration_since(since) >= self.settles
            }
            _ => {
                self.origin = Some((origin, now));
                self.settles.is_zero()
            }
        }
    }
}

/// The folder and its books.
pub(super) struct Disk {
    root: PathBuf,
    config: ArchiveConfig,
    stock: Stock,
    /// Folders that stock has not been taken of, with how deep they are; none before the first look.
    unknown: Option<Vec<(PathBuf, usize)>>,
    clock: Clock,
    start: Instant,
    /// Parts removed.
    pub deleted: u64,
}

/// Station, day, thousand.
const DEPTH: usize = 3;

impl Disk {
    pub fn new(root: PathBuf, config: ArchiveConfig, clock_settles: Duration) -> Self {
        let clock = Clock { origin: None, settles: clock_settles };
        let start = Instant::now();
        Self { root, config, stock: Stock::default(), unknown: None, clock, start, deleted: 0 }
    }

    /// Bytes that are known to lie there.
    pub fn bytes(&self) -> u64 {
        self.stock.bytes()
    }

    /// Takes stock of one folder more. Whether any is left.
    ///
    /// Errors: [`ArchiveError::Io`] if the archive's own folder cannot be made or read; one below is left out.
    pub fn look_on(&mut self) -> Result<bool, ArchiveError> {
        if self.unknown.is_none() {
            std::fs::create_dir_all(&self.root).map_err(|e| ArchiveError::io(&self.root, e))?;
            std::fs::read_dir(&self.root).map_err(|e| ArchiveError::io(&self.root, e))?;
            self.unknown = Some(vec![(self.root.clone(), 0)]);
        }
        let Some((folder, depth)) = self.unknown.as_mut().and_then(Vec::pop) else { return Ok(false) };
        if depth == DEPTH {
            self.take_stock(&folder);
        } else if let Ok(entries) = std::fs::read_dir(&folder) {
            // A link is no folder here.
            let folders = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            let below = folders.map(|e| (e.path(), depth + 1));
            self.unknown.get_or_insert_default().extend(below);
        }
        Ok(self.unknown.as_ref().is_some_and(|left| !left.is_empty()))
    }

    fn take_stock(&mut self, folder: &Path) {
        let mut names = folder.iter().rev().filter_map(|name| name.to_str()).skip(1);
        let day = names.next().and_then(|day| day.parse::<Date>().ok());
        let (Some(day), Some(station), Ok(entries)) = (day, names.next(), std::fs::read_dir(folder)) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let whole = name.strip_suffix(PART);
            let Some((part, view, kind)) = PartName::parse(day, whole.unwrap_or(name)) else { continue };
            // One that lies where it would not be written is nobody's.
            if folder != self.root.join(part.folder(station)) {
                continue;
            }
            if whole.is_some() {
                let _ = std::fs::remove_file(entry.path()); // half of a file, from a crash
            } else if let Some((bytes, time_ms)) = facts(&entry) {
                self.stock.add(Found { station, part, view, kind, bytes, time_ms });
            }
        }
    }

    /// Makes room for a part and writes it.
    ///
    /// Errors: [`ArchiveError`]; nothing of the part is left then.
    pub fn put(&mut self, part: &Encoded) -> Result<(), ArchiveError> {
        self.make_room(part.bytes)?;
        let folder = self.root.join(part.part.folder(&part.station));
        std::fs::create_dir_all(&folder).map_err(|e| ArchiveError::io(&folder, e))?;
        let time_ms = self.stock.time_for(part.accepted_ms);
        let name = |(view, kind, _): &(String, Kind, Vec<u8>)| folder.join(part.part.file(view, *kind));
        for file in &part.files {
            let path = name(file);
            if let Err(source) = write(&path, &file.2, time_ms) {
                for file in &part.files {
                    let _ = std::fs::remove_file(name(file)); // may not be there
                }
                return Err(ArchiveError::io(&path, source));
            }
        }
        for (view, kind, bytes) in &part.files {
            let (station, view, bytes) = (part.station.as_str(), view.as_str(), bytes.len() as u64);
            self.stock.add(Found { station, part: part.part, view, kind: *kind, bytes, time_ms });
        }
        Ok(())
    }

    /// Removes what has to go before `incoming` bytes can be written. What lies there is known whole, or nothing goes:
    /// the oldest may be where nobody has looked yet.
    ///
    /// Errors: [`ArchiveError::NoRoom`], [`ArchiveError::Io`] if the disk cannot be asked what it has free.
    pub fn make_room(&mut self, incoming: u64) -> Result<(), ArchiveError> {
        let max_bytes = self.config.max_bytes();
        let path = self.root.clone();
        let no_room = |lacking| ArchiveError::NoRoom { path: path.clone(), lacking };
        if incoming > max_bytes {
            return Err(no_room(incoming - max_bytes));
        }
        let free = self.free_bytes()?;
        let lacking = self.config.min_free_bytes().saturating_add(incoming).saturating_sub(free);
        if self.unknown.as_ref().is_none_or(|left| !left.is_empty()) {
            return if lacking == 0 { Ok(()) } else { Err(no_room(lacking)) };
        }
        let wall = crate::clock::wall();
        let settled = self.clock.is_settled(wall.into(), Instant::now(), self.start);
        let oldest = (settled && self.config.max_days > 0).then(|| {
            let today = wall.to_zoned(TimeZone::UTC).date();
            today.saturating_sub(i64::from(self.config.max_days).days())
        });
        let mut bounds = Bounds { max_bytes, oldest, lacking, incoming };
        while let Some(going) = self.stock.next_to_go(&mut bounds) {
            if let Err(error) = self.remove(&going) {
                self.stock.put_back(going);
                return Err(error);
            }
            self.deleted += 1;
        }
        if bounds.lacking > 0 { Err(no_room(bounds.lacking)) } else { Ok(()) }
    }

    /// What the disk has free. A folder that somebody removed is made again, with nothing in the books.
    fn free_bytes(&mut self) -> Result<u64, ArchiveError> {
        let mut disk = rustix::fs::statvfs(&self.root);
        if disk.as_ref().is_err_and(|&error| error == rustix::io::Errno::NOENT) {
            (self.stock, self.unknown) = (Stock::default(), None);
            self.look_on()?;
            disk = rustix::fs::statvfs(&self.root);
        }
        let disk = disk.map_err(|e| ArchiveError::io(&self.root, e.into()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Removes a part's files, and the folders that are empty then.
    fn remove(&self, going: &Going) -> Result<(), ArchiveError> {
        let folder = self.root.join(going.part.folder(&going.station));
        for file in &going.files {
            let path = folder.join(file);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(ArchiveError::io(&path, error));
                }
                _ => {}
            }
        }
        // The thousand's folder, the day's and the station's; what is not empty stays.
        for folder in folder.ancestors().take(DEPTH) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Size and time of a plain file.
fn facts(entry: &DirEntry) -> Option<(u64, i64)> {
    let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let time = jiff::Timestamp::try_from(metadata.modified().ok()?).ok()?;
    Some((metadata.len(), time.as_millisecond()))
}

fn write(path: &Path, bytes: &[u8], time_ms: i64) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(PART);
    let part = PathBuf::from(part);
    let whole = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        let time = jiff::Timestamp::from_millisecond(time_ms).map_err(std::io::Error::other)?;
        file.set_modified(time.into())?;
        std::fs::rename(&part, path)
    };
    whole().inspect_err(|_| {
        let _ = std::fs::remove_file(&part); // may not be there
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_only_after_it_went_without_a_step_for_a_while() {
        let start = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut clock = Clock { origin: None, settles: CLOCK_SETTLES };
        let mut at = |hours: f64, step_s: u64| {
            let passed = Duration::from_secs_f64(hours * 3_600.0);
            clock.is_settled(wall + passed + Duration::from_secs(step_s), start + passed, start)
        };
        assert!(!at(0.0, 0) && !at(0.9, 1) && at(1.1, 2));
        assert!(!at(1.2, 400_000_000), "years ahead, all at once");
        assert!(!at(2.0, 400_000_000) && !at(2.1, 0), "and back before anything went");
        assert!(at(3.2, 0));
    }
}
