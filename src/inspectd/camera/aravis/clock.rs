//! When a frame was exposed, on this machine's monotonic clock.
//!
//! Terms. A camera's *time stamp* is its own clock's time of a frame: by GenICam's convention the start of
//! exposure. A *reading* is the camera's clock asked at a known moment of ours.
//!
//! With a reading the start of exposure is the time stamp, carried over; it is off by no more than half the
//! question's way there and back (some 0.1 ms on a wire of its own) plus what the clocks drift apart until
//! the next reading ([`READING_HOLDS`]; crystals: 0.1 ms a second at worst).
//!
//! A camera whose clock cannot be asked gives only the arrival of a frame's first packet. The exposure ended
//! before it, so its start is put one exposure time earlier: this is the latest moment that it can have been.
//! The real start is earlier by what the camera takes from the end of exposure to the first packet, commonly
//! under a millisecond, a whole frame's time in cameras that keep a frame before they send it.
//!
//! Never here: the wall clock, which may be set.

use std::time::{Duration, Instant};

use aravis::glib;
use aravis::prelude::*;

/// A reading is taken anew after this long.
pub(super) const READING_HOLDS: Duration = Duration::from_secs(5);
/// A time stamp farther than this from the frame's arrival is not believed.
const PLAUSIBLE: Duration = Duration::from_secs(2);

// GigE Vision 2.0, table of bootstrap registers: the camera's clock.
const TICKS_PER_SECOND_HIGH: u64 = 0x093c;
const TICKS_PER_SECOND_LOW: u64 = 0x0940;
const CONTROL: u64 = 0x0944;
const TICKS_HIGH: u64 = 0x0948;
const TICKS_LOW: u64 = 0x094c;
/// Bit of `CONTROL` that keeps the clock's present time for reading.
const LATCH: u32 = 2;

/// The camera's clock beside ours.
#[derive(Debug)]
pub(super) struct Clock {
    exposure: Duration,
    reading: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    camera_ns: u64,
}

impl Clock {
    /// Asks the camera's clock. `exposure` is the camera's exposure time.
    pub(super) fn ask(camera: &aravis::Camera, exposure: Duration) -> Self {
        Self { exposure, reading: read(camera) }
    }

    /// The camera's exposure time from now on.
    pub(super) fn set_exposure(&mut self, exposure: Duration) {
        self.exposure = exposure;
    }

    /// Asks again if the last reading has become old. A clock that could not be asked is left alone.
    pub(super) fn refresh(&mut self, camera: &aravis::Camera) {
        if self.reading.is_some_and(|r| r.at.elapsed() > READING_HOLDS) {
            self.reading = read(camera).or(self.reading);
        }
    }

    /// Whether the camera's clock can be asked.
    pub(super) fn is_read(&self) -> bool {
        self.reading.is_some()
    }

    /// Start of exposure of a frame with this time stamp whose first packet came at `arrived`.
    pub(super) fn exposed(&self, stamp_ns: u64, arrived: Instant) -> Instant {
        let latest = arrived.checked_sub(self.exposure).unwrap_or(arrived);
        let Some(Reading { at, camera_ns }) = self.reading else {
            return latest;
        };
        let carried = match stamp_ns.checked_sub(camera_ns) {
            Some(later) => at.checked_add(Duration::from_nanos(later)),
            None => at.checked_sub(Duration::from_nanos(camera_ns - stamp_ns)),
        };
        let believed = |carried: &Instant| {
            *carried <= arrived + PLAUSIBLE && latest.saturating_duration_since(*carried) <= PLAUSIBLE
        };
        carried.filter(believed).map_or(latest, |carried| carried.min(latest))
    }
}

/// None if the camera's clock does not run, or cannot be asked.
fn read(camera: &aravis::Camera) -> Option<Reading> {
    let asked = Instant::now();
    if camera.is_gv_device() {
        let device = camera.device()?;
        let register = |address| device.read_register(address).ok().map(|(_, value)| u64::from(value));
        device.write_register(CONTROL, LATCH).ok()?;
        let at = asked + asked.elapsed() / 2;
        let ticks = register(TICKS_HIGH)? << 32 | register(TICKS_LOW)?;
        let per_second = register(TICKS_PER_SECOND_HIGH)? << 32 | register(TICKS_PER_SECOND_LOW)?;
        Some(Reading { at, camera_ns: nanoseconds(ticks, per_second)? })
    } else {
        let latch = || -> Result<(Instant, i64), glib::Error> {
            camera.execute_command("TimestampLatch")?;
            Ok((asked + asked.elapsed() / 2, camera.integer("TimestampLatchValue")?))
        };
        let (at, ns) = latch().ok()?;
        Some(Reading { at, camera_ns: u64::try_from(ns).ok().filter(|ns| *ns > 0)? })
    }
}

/// A clock that stands at 0 was not latched.
fn nanoseconds(ticks: u64, per_second: u64) -> Option<u64> {
    let ns = (u128::from(ticks) * 1_000_000_000).checked_div(u128::from(per_second))?;
    u64::try_from(ns).ok().filter(|ns| *ns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn clock(reading: Option<(Instant, u64)>) -> Clock {
        let reading = reading.map(|(at, camera_ns)| Reading { at, camera_ns });
        Clock { exposure: 10 * MS, reading }
    }

    #[test]
    fn a_time_stamp_is_carried_over_whether_before_or_after_the_reading() {
        let at = Instant::now() + 1000 * MS;
        let clock = clock(Some((at, 5_000_000_000)));
        assert_eq!(clock.exposed(5_020_000_000, at + 35 * MS), at + 20 * MS);
        assert_eq!(clock.exposed(4_980_000_000, at + 15 * MS), at - 20 * MS);
        let latest = clock.exposed(5_020_000_000, at + 25 * MS);
        assert_eq!(latest, at + 15 * MS, "no exposure ends after its frame has come");
    }

    #[test]
    fn without_a_clock_or_with_a_senseless_stamp_it_is_one_exposure_before_arrival() {
        let at = Instant::now() + 1000 * MS;
        assert_eq!(clock(None).exposed(7, at), at - 10 * MS);
        let clock = clock(Some((at, 5_000_000_000)));
        for stamp_ns in [0, 1, 2_900_000_000, 5_000_000_000 + 4_000_000_000, u64::MAX] {
            assert_eq!(clock.exposed(stamp_ns, at + 15 * MS), at + 5 * MS, "{stamp_ns}");
        }
    }

    #[test]
    fn ticks_turn_nanoseconds_and_a_clock_that_stands_is_none() {
        assert_eq!(nanoseconds(125_000_000, 125_000_000), Some(1_000_000_000));
        assert_eq!(nanoseconds(u64::MAX / 2, 1_000_000_000), Some(u64::MAX / 2));
        for (ticks, per_second) in [(0, 1_000_000_000), (5, 0), (u64::MAX, 1)] {
            assert_eq!(nanoseconds(ticks, per_second), None, "{ticks}/{per_second}");
        }
    }
}
