//! The two clocks: one that only goes forward, by which everything is decided, and the wall's, which people read.
//!
//! Both can be simulated: the first stands still and jumps with tokio's paused clock, the second can be set. Nothing
//! on the line's way may read the system's clocks past this module, or it could not be tried under faults.
//!
//! Never here: waiting (that is tokio's), a decision by the wall's clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// What a simulation put on the wall's clock, milliseconds.
static SET_BY_MS: AtomicI64 = AtomicI64::new(0);

/// The moment on the clock that only goes forward.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago a moment was; 0 if it is still to come.
pub fn since(at: Instant) -> Duration {
    now().saturating_duration_since(at)
}

/// The wall's clock. It may jump both ways.
pub fn wall() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    match SET_BY_MS.load(Ordering::Relaxed) {
        0 => now,
        by_ms => now.checked_add(jiff::SignedDuration::from_millis(by_ms)).unwrap_or(now),
    }
}

/// The wall's time of a moment.
pub fn wall_at(at: Instant) -> jiff::Timestamp {
    let now = wall();
    jiff::SignedDuration::try_from(since(at)).ok().and_then(|ago| now.checked_sub(ago).ok()).unwrap_or(now)
}

/// Sets the wall's clock, as a person or a time server might. For simulations.
pub fn set_wall_by_ms(by_ms: i64) {
    SET_BY_MS.store(by_ms, Ordering::Relaxed);
}
