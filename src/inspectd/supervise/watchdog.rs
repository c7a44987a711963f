//! Looks from a thread of its own whether everything makes progress; feeds systemd's watchdog while it does; and ends the
//! process where something hangs that only a new process can be free of.
//!
//! What hangs, and how long that is borne:
//!
//! - A station's loop or the whole runtime: [`HANGS_AT_MOST`], and systemd's watchdog is not fed meanwhile.
//! - A scorer's run: [`HANGS_AT_MOST`]. Loading: [`LOAD_MAY_HANG`], since TensorRT may build an engine for minutes, which
//!   another start would begin anew.
//! - A camera for which no further thread is tried: [`HANGS_AT_MOST`] where no station has worked for as long;
//!   [`CAMERA_MAY_HANG`] where others do, which a restart would interrupt.
//!
//! Each counts by itself, from the look that found it, as long as every look finds it: another that begins to hang, or a
//! station that is ready now and then, begins nothing anew.
//!
//! Then the daemon is told to stop in order, within [`STOP_LIMIT`]; then the process ends, even where the driver hangs in
//! its end.
//!
//! Never here: what is told to the PLC (each station does that at once).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{EXIT_GAVE_UP, notify};
use crate::daemon::DaemonWatch;
use crate::scoring::Work;
use crate::status::gather::Shown;

/// How long what hangs is borne, once it was found.
pub const HANGS_AT_MOST: Duration = Duration::from_secs(10);
/// The same for a load, once [`crate::scoring::LOAD_LIMIT`] has found it.
const LOAD_MAY_HANG: Duration = Duration::from_secs(480);
/// The same for a camera, while other stations work.
pub const CAMERA_MAY_HANG: Duration = Duration::from_secs(600);
/// How long stopping in order may take before the process is ended all the same.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the process's own end may take before it is killed.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Pace of looking.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The runtime hangs where its beat is older than this.
const BEAT_LIMIT: Duration = Duration::from_secs(5);

/// The looking thread. It ends with the process.
pub(super) struct Watchdog {
    gave_up: watch::Receiver<Option<String>>,
    beat: JoinHandle<()>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

/// What hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hanging {
    Runtime,
    /// Of this station.
    Loop(String),
    /// This call of a scorer with this model.
    Run(PathBuf, Instant),
    /// The same.
    Load(PathBuf, Instant),
    /// Of this station and view.
    Camera(String, String),
}

impl Hanging {
    /// How long it is borne. `idle`: for how long no station has worked.
    fn borne(&self, idle: Duration) -> Duration {
        match self {
            Self::Runtime | Self::Loop(_) | Self::Run(..) => HANGS_AT_MOST,
            Self::Load(..) => LOAD_MAY_HANG,
            Self::Camera(..) if idle >= HANGS_AT_MOST => HANGS_AT_MOST,
            Self::Camera(..) => CAMERA_MAY_HANG,
        }
    }

    fn stops_the_line(&self) -> bool {
        matches!(self, Self::Runtime | Self::Loop(_))
    }
}

/// One look: what hangs, why one thinks so, and whether any station works.
#[derive(Debug, Default)]
struct Look {
    hanging: Vec<(Hanging, String)>,
    works: bool,
}

/// What hung at the last look.
struct Known {
    /// Each with the look that found it.
    hanging: Vec<(Hanging, Instant)>,
    /// When a station worked last, or the first look.
    worked: Instant,
}

impl Known {
    fn new(now: Instant) -> Self {
        Self { hanging: Vec::new(), worked: now }
    }

    /// Takes a look. What has hung too long, where anything has.
    fn take(&mut self, look: &Look, now: Instant) -> Option<String> {
        if look.works {
            self.worked = now;
        }
        let idle = now.duration_since(self.worked);
        self.hanging.retain(|(known, _)| look.hanging.iter().any(|(found, _)| found == known));
        for (found, why) in &look.hanging {
            match self.hanging.iter().find(|(known, _)| known == found) {
                Some((_, since)) if now.duration_since(*since) >= found.borne(idle) => {
                    return Some(why.clone());
                }
                Some(_) => {}
                None => {
                    let borne_s = found.borne(idle).as_secs();
                    tracing::error!(why, borne_s, "something hangs: if it stays, the process ends");
                    self.hanging.push((found.clone(), now));
                }
            }
        }
        None
    }
}

impl Watchdog {
    /// Starts the thread. `shown`: who knows what runs.
    ///
    /// Errors: the system's, if it has no thread left.
    pub fn start(shown: Arc<Shown>) -> std::io::Result<Self> {
        let (tell, gave_up) = watch::channel(None);
        let last = Arc::new(Mutex::new(Instant::now()));
        let beats = Arc::clone(&last);
        let beat = tokio::spawn(async move {
            loop {
                *beats.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let why = look_until_it_hangs(&shown, &last);
            tell.send_replace(Some(why));
            std::thread::sleep(STOP_LIMIT);
            end_process();
        })?;
        Ok(Self { gave_up, beat })
    }

    /// Returns when something hung too long, and what.
    pub async fn gave_up(&self) -> String {
        let mut gave_up = self.gave_up.clone();
        let why = gave_up.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_else(|| "the watchdog ended".to_owned())
    }
}

fn look_until_it_hangs(shown: &Shown, beat: &Mutex<Instant>) -> String {
    let feed_every = notify::watchdog_limit().map(|limit| limit / 3);
    let mut fed: Option<Instant> = None;
    let mut known = Known::new(Instant::now());
    loop {
        let look = look(shown, beat);
        if let Some(why) = known.take(&look, Instant::now()) {
            return why;
        }
        let turns = !look.hanging.iter().any(|(hanging, _)| hanging.stops_the_line());
        if let Some(every) = feed_every.filter(|_| turns)
            && fed.is_none_or(|fed| fed.elapsed() >= every)
        {
            fed = Some(Instant::now());
            notify::watchdog();
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn look(shown: &Shown, beat: &Mutex<Instant>) -> Look {
    let mut look = shown.daemon().map_or_else(Look::default, |daemon| look_at(&daemon));
    let beat = *beat.lock().unwrap_or_else(PoisonError::into_inner);
    if beat.elapsed() >= BEAT_LIMIT {
        look.hanging.push((Hanging::Runtime, "the runtime does not turn".to_owned()));
    }
    look
}

fn look_at(daemon: &DaemonWatch) -> Look {
    let mut look = Look::default();
    for station in &daemon.stations {
        let (name, ready) = {
            let state = station.state.borrow();
            (state.station.clone(), state.ready)
        };
        look.works |= ready;
        for (view, _) in station.cameras.iter().filter(|(_, camera)| camera.is_given_up()) {
            let why = format!("station {name}, view {view}: too many calls of its camera's driver hang");
            look.hanging.push((Hanging::Camera(name.clone(), view.clone()), why));
        }
        if !station.turns() {
            let why = format!("station {name}: its loop does not turn");
            look.hanging.push((Hanging::Loop(name), why));
        }
    }
    for scorer in daemon.scorers.look_on() {
        // One that is only kept warm harms nobody.
        let Some(stuck) = scorer.stuck.filter(|_| scorer.users > 0) else { continue };
        let why = format!("model {}: {stuck}", scorer.model.display());
        let which = if stuck.work == Work::Load { Hanging::Load } else { Hanging::Run };
        look.hanging.push((which(scorer.model, stuck.began), why));
    }
    look
}

/// Ends the process, whatever hangs.
fn end_process() -> ! {
    eprintln!("inspectd did not stop in order within {} s: the process ends now", STOP_LIMIT.as_secs());
    let killer = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(END_LIMIT);
        // A driver that hangs in the process's own end must not keep it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    if killer.is_err() {
        std::process::abort();
    }
    std::process::exit(i32::from(EXIT_GAVE_UP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(hanging: &[&Hanging], works: bool) -> Look {
        let hanging = hanging.iter().map(|&h| (h.clone(), format!("{h:?}"))).collect();
        Look { hanging, works }
    }

    fn camera() -> Hanging {
        Hanging::Camera("s1".into(), "top".into())
    }

    /// When it is found to have hung too long, where each second has a look; none in 1,000 s.
    fn ends_after_s(mut at: impl FnMut(u64) -> Look) -> Option<(u64, String)> {
        let start = Instant::now();
        let mut known = Known::new(start);
        (0..1_000).find_map(|s| known.take(&at(s), start + Duration::from_secs(s)).map(|why| (s, why)))
    }

    #[test]
    fn each_is_borne_for_its_time() {
        let began = Instant::now();
        let run = Hanging::Run("m.onnx".into(), began);
        let load = Hanging::Load("m.onnx".into(), began);
        let bounds = [(Hanging::Runtime, 10), (Hanging::Loop("s1".into()), 10), (run, 10), (load, 480)];
        for (hanging, borne_s) in bounds {
            let ended = ends_after_s(|_| look(&[&hanging], true));
            assert_eq!(ended.map(|(s, _)| s), Some(borne_s), "{hanging:?}");
            let gone_in_time = ends_after_s(|s| look(&[&hanging][usize::from(s % borne_s == 9)..], true));
            assert_eq!(gone_in_time, None, "{hanging:?}");
        }
    }

    #[test]
    fn a_camera_is_borne_longer_while_others_work_and_their_flapping_begins_nothing_anew() {
        let ended = |works: fn(u64) -> bool| ends_after_s(|s| look(&[&camera()], works(s))).map(|(s, _)| s);
        assert_eq!(ended(|_| false), Some(10));
        assert_eq!(ended(|_| true), Some(600));
        assert_eq!(ended(|s| s % 7 < 5), Some(600), "a station that is not ready now and then works");
        assert_eq!(ended(|s| s <= 300), Some(310), "the others have stopped too");
    }

    #[test]
    fn one_that_comes_back_as_the_next_begins_to_hang_is_not_one_that_hangs_on() {
        let began = Instant::now();
        let run = |n: u64| Hanging::Run("m.onnx".into(), began + Duration::from_secs(n));
        assert_eq!(
            ends_after_s(|s| look(&[&run(s / 9)], true)),
            None,
            "each call of the same model hangs for 9 s"
        );
        let both = |s| if s < 9 { vec![camera(), run(0)] } else { vec![camera(), run(1)] };
        let (after_s, why) = ends_after_s(|s| look(&both(s).iter().collect::<Vec<_>>(), true)).unwrap();
        assert_eq!((after_s, why), (19, format!("{:?}", run(1))));
    }
}
