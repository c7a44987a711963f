//! The pace of sources that run by themselves.
//!
//! No frame is skipped when its taker is late: the pace slows instead, since a folder or a video must show
//! each of its pictures.

use std::time::{Duration, Instant};

use super::CameraError;

/// Slowest and fastest rate that is accepted, frames a second.
pub(super) const RATES_HZ: std::ops::RangeInclusive<f64> = 0.001..=10_000.0;

/// When the next frame is due. Without a rate: at once, whenever asked.
#[derive(Debug)]
pub(super) struct Pace {
    period: Option<Duration>,
    due: Option<Instant>,
}

/// What is wrong with a rate, if anything.
pub(super) fn check_rate(rate_hz: Option<f64>) -> Option<String> {
    let rate = rate_hz.filter(|rate| !RATES_HZ.contains(rate))?;
    Some(format!(
        "rate_hz = {rate}: expected {} to {} frames a second, or none to take one frame a trigger",
        RATES_HZ.start(),
        RATES_HZ.end()
    ))
}

impl Pace {
    /// A pace of `rate_hz` frames a second, or none. A rate out of [`RATES_HZ`] is held to them.
    pub(super) fn new(rate_hz: Option<f64>) -> Self {
        let period = rate_hz
            .filter(|rate| rate.is_finite())
            .map(|rate| Duration::from_secs_f64(1.0 / rate.clamp(*RATES_HZ.start(), *RATES_HZ.end())));
        Self { period, due: None }
    }

    /// Waits for the next frame's time and returns it.
    ///
    /// Errors: [`CameraError::NoFrame`] after `timeout`; the frame stays due.
    pub(super) fn wait(&mut self, camera: &str, timeout: Duration) -> Result<Instant, CameraError> {
        let now = Instant::now();
        let Some(period) = self.period else {
            return Ok(now);
        };
        let due = self.due.unwrap_or(now).max(now);
        self.due = Some(due);
        if due - now > timeout {
            std::thread::sleep(timeout);
            return Err(no_frame(camera, timeout));
        }
        std::thread::sleep(due - now);
        self.due = Some(due + period);
        Ok(due)
    }
}

/// The error of a frame that did not come in time.
pub(super) fn no_frame(camera: &str, timeout: Duration) -> CameraError {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    CameraError::NoFrame { camera: camera.to_owned(), timeout_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_distance_and_none_comes_early() {
        let mut pace = Pace::new(Some(200.0));
        let times: Vec<_> = (0..5).map(|_| pace.wait("c", Duration::from_secs(1)).unwrap()).collect();
        assert!(times.windows(2).all(|t| t[1] - t[0] >= Duration::from_millis(5)));
    }

    #[test]
    fn a_frame_that_is_not_due_in_time_is_still_due_afterwards() {
        let mut pace = Pace::new(Some(20.0));
        let first = pace.wait("c", Duration::ZERO).unwrap();
        let early = pace.wait("c", Duration::from_millis(1));
        assert!(matches!(early, Err(CameraError::NoFrame { timeout_ms: 1, .. })));
        let second = pace.wait("c", Duration::from_secs(5)).unwrap();
        assert!(second - first >= Duration::from_millis(50));
    }

    #[test]
    fn senseless_rates_are_named() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check_rate(Some(rate)).is_some(), "{rate}");
        }
        assert_eq!((check_rate(None), check_rate(Some(12.5))), (None, None));
    }
}
