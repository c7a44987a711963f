//! The scorers of all stations: whoever uses the same model file shares a session and its thread with others, or
//! where more sessions are wanted, one of few.
//!
//! Models that nobody uses any more stay warm for a while, so that going back to a recipe takes no loading.
//!
//! Never here: scoring ([`crate::scoring`]), the choice of a model.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use inspect_core::model::ModelFile;

use crate::scoring::{Load, ScorerHandle, Service, Stuck};

/// Models without a user that stay loaded, with all their sessions.
pub const WARM_MODELS: usize = 4;

/// Gives the way to load a model file.
pub type Loader = Box<dyn Fn(&Path) -> Load + Send + Sync>;

/// A scorer, for whoever looks on; counts as no user.
pub struct ScorerWatch {
    /// Its model file.
    pub model: PathBuf,
    /// How many use it; with none it is only kept warm.
    pub users: usize,
    /// Its state.
    pub service: Service,
    /// Since when.
    pub since: Option<Instant>,
    /// What it hangs in, where it does.
    pub stuck: Option<Stuck>,
}

struct Held {
    path: PathBuf,
    /// The file when it was asked for.
    stamp: Stamp,
    scorer: ScorerHandle,
}

/// Every scorer that runs.
pub struct Scorers {
    loader: Loader,
    /// Of each model.
    sessions: usize,
    /// In order of use, the latest last.
    held: Mutex<Vec<Held>>,
}

impl Scorers {
    /// None runs yet. `sessions`: at most, of each model.
    pub fn new(loader: Loader, sessions: usize) -> Self {
        Self { loader, sessions, held: Mutex::default() }
    }

    /// How each is doing, in order of use.
    pub fn look_on(&self) -> Vec<ScorerWatch> {
        let look = |held: &Held| ScorerWatch {
            model: held.path.clone(),
            users: held.scorer.users(),
            service: held.scorer.service().borrow().clone(),
            since: held.scorer.since(),
            stuck: held.scorer.stuck(),
        };
        self.held().iter().map(look).collect()
    }

    /// One of those that run, the one asked for last, for one more user.
    pub fn any(&self) -> Option<ScorerHandle> {
        self.held().last().map(|held| held.scorer.another_user())
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A scorer of the model file as it is now, for one more user: the one with the fewest users of those that run, or
    /// a new one, which loads. May read the file; blocks for it, and keeps nobody else waiting meanwhile.
    ///
    /// Errors: the system's, if no thread can be had.
    pub fn of(&self, model: &Path) -> std::io::Result<ScorerHandle> {
        self.of_read(model, |model| ModelFile::read(model).ok().map(|file| file.sha256))
    }

    /// `read`: SHA-256 of a model file; none if it is none.
    fn of_read(&self, model: &Path, read: impl Fn(&Path) -> Option<String>) -> std::io::Result<ScorerHandle> {
        let stamp = stamp(model);
        // Not under the lock, which the watchdog and the status need: the disk may be slow, or hang.
        let touched = self.held().iter().any(|h| h.path == model && is_touched(h, stamp));
        let sha256 = if touched { read(model) } else { None };
        let mut held = self.held();
        let current = |(at, h): (usize, &mut Held)| {
            (h.path == model && is_current(h, stamp, sha256.as_deref())).then(|| (h.scorer.users(), at))
        };
        let running: Vec<(usize, usize)> = held.iter_mut().enumerate().filter_map(current).collect();
        if let Some(&(users, at)) = running.iter().min()
            && (users == 0 || running.len() >= self.sessions)
        {
            let found = held.remove(at);
            let scorer = found.scorer.another_user();
            held.push(found);
            return Ok(scorer);
        }
        held.retain(|h| h.path != model || h.scorer.users() > 0); // an older version of the file
        let name = model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let scorer = ScorerHandle::start(&name, (self.loader)(model))?;
        held.push(Held { path: model.to_owned(), stamp, scorer: scorer.another_user() });
        let unused = held.iter().filter(|h| h.scorer.users() == 0).count();
        let mut spare = unused.saturating_sub(WARM_MODELS * self.sessions);
        held.retain(|h| {
            let goes = spare > 0 && h.scorer.users() == 0;
            spare -= usize::from(goes);
            !goes
        });
        Ok(scorer)
    }

    /// Ends those that have no user and no model that loads, which else would try it again for ever.
    pub fn drop_refused(&self) {
        let refused =
            |h: &Held| h.scorer.users() == 0 && matches!(&*h.scorer.service().borrow(), Service::Away(_));
        self.held().retain(|held| !refused(held));
    }
}

/// Time of the last change, and bytes; none if there is no file.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(model: &Path) -> Stamp {
    let file = std::fs::metadata(model).ok()?;
    Some((file.modified().ok()?, file.len()))
}

/// Whether only reading the file tells if it still is what is loaded.
fn is_touched(held: &Held, now: Stamp) -> bool {
    matches!(&*held.scorer.service().borrow(), Service::Ready(_)) && (now.is_none() || held.stamp != now)
}

/// Whether what is loaded, or being loaded, is the file as it is now: it has this stamp and, where it was read, this
/// SHA-256. One that was only touched is read once.
fn is_current(held: &mut Held, now: Stamp, sha256: Option<&str>) -> bool {
    match &*held.scorer.service().borrow() {
        Service::Ready(_) if now.is_some() && held.stamp == now => true,
        Service::Ready(model) => {
            let same = sha256 == Some(&*model.sha256);
            held.stamp = if same { now } else { held.stamp };
            same
        }
        Service::Starting => true,
        Service::Away(_) => held.scorer.users() > 0, // it tries again by itself, but not at once
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use inspect_core::model::ModelError;

    use super::*;

    #[tokio::test]
    async fn a_refused_model_is_tried_again_only_while_somebody_uses_it() {
        let missing = |path: &Path| -> Load {
            let path = path.to_owned();
            Box::new(move || {
                Err(ModelFile::read(&path).err().map_or_else(|| unreachable!(), ModelError::into))
            })
        };
        let folder = tempfile::tempdir().unwrap();
        let scorers = Scorers::new(Box::new(missing), 1);
        let scorer = scorers.of(&folder.path().join("none.onnx")).unwrap();
        let mut service = scorer.service();
        service.wait_for(|service| matches!(service, Service::Away(_))).await.unwrap();
        scorers.drop_refused();
        assert_eq!(scorers.look_on().len(), 1, "a view that waits for it goes on waiting");
        drop(scorer);
        scorers.drop_refused();
        assert_eq!(scorers.look_on().len(), 0);
        assert!(service.changed().await.is_err(), "its thread has ended");
    }

    /// One that runs: `model` as it was before somebody touched it.
    fn touched(model: &Path) -> (Scorers, crate::scoring::ScorerPort) {
        let file = ModelFile::read(model).unwrap();
        let (scorer, port) = ScorerHandle::pair();
        port.say(Service::Ready(crate::scoring::InService {
            card: Arc::new(file.card),
            sha256: file.sha256.into(),
            map: file.map,
            provider: inspect_core::runtime::Provider::Cpu,
            fell_back: false,
        }));
        let scorers = Scorers::new(Box::new(|_| Box::new(|| unreachable!("it is warm"))), 1);
        scorers.held().push(Held { path: model.to_owned(), stamp: None, scorer });
        (scorers, port)
    }

    #[test]
    fn while_a_slow_disk_is_read_everybody_else_goes_on() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx");
        let (scorers, _port) = touched(&model);
        let (reading, reads) = channel();
        let (go_on, may_go_on) = channel::<String>();
        let may_go_on = Mutex::new(may_go_on);
        let scorers = &scorers;
        std::thread::scope(|scope| {
            let model = &model;
            let asking = scope.spawn(move || {
                let slow = |_: &Path| {
                    reading.send(()).unwrap();
                    may_go_on.lock().unwrap().recv().ok()
                };
                scorers.of_read(model, slow).unwrap()
            });
            reads.recv().unwrap();
            let (told, tells) = channel();
            scope.spawn(move || told.send((scorers.look_on().len(), scorers.any().is_some())));
            let seen = tells.recv_timeout(Duration::from_secs(60));
            // The disk answers, so that a test that fails ends.
            go_on.send(ModelFile::read(model).unwrap().sha256).unwrap();
            assert_eq!(seen, Ok((1, true)));
            let scorer = asking.join().unwrap();
            assert!(scorer.in_service().is_ok(), "the one that is warm: the file was only touched");
        });
        let unread = |_: &Path| -> Option<String> { panic!("it is known now") };
        assert!(scorers.of_read(&model, unread).unwrap().in_service().is_ok());
        assert_eq!(scorers.look_on().len(), 1);
    }
}
