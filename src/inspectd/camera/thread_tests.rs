//! Tests of the camera thread with a camera that does as it is told.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;

use inspect_core::image::Image;

use super::*;

/// An exposure at which the driver hangs until it is told to go on.
const HANGS_US: f64 = 500.0;
/// Longest exposure that the camera takes.
const MOST_US: f64 = 1000.0;
const SOON: Duration = Duration::from_secs(30);

/// What the camera does at a grab.
enum Act {
    Frame,
    NoFrame,
    Away,
    Panic,
}

/// Does one [`Act`] a grab, each when it is sent; frames are numbered over all openings.
struct Scripted {
    acts: Arc<Mutex<mpsc::Receiver<Act>>>,
    number: Arc<AtomicUsize>,
    exposed: mpsc::Sender<Option<f64>>,
    grabbing: mpsc::Sender<()>,
    dropped: mpsc::Sender<()>,
}

impl Camera for Scripted {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let _ = self.grabbing.send(());
        let act = self.acts.lock().unwrap().recv().unwrap();
        let number = self.number.fetch_add(1, SeqCst) as u64;
        let exposed = std::time::Instant::now();
        match act {
            Act::Frame => {
                let image = Image::new(1, 1, 1, vec![0]).unwrap();
                Ok(Frame { image, number, exposed, path: None, truth: None })
            }
            Act::NoFrame => Err(no_frame("v", timeout)),
            Act::Away => Err(CameraError::Away { camera: "v".into(), reason: "unplugged".into() }),
            Act::Panic => panic!("driver bug"),
        }
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Unproven)
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        let _ = self.exposed.send(exposure_us);
        match exposure_us {
            Some(HANGS_US) => {
                let _ = self.acts.lock().unwrap().recv();
                Ok(())
            }
            Some(us) if us > MOST_US => {
                Err(CameraError::Refused { camera: "v".into(), reason: "exposure_us: too long".into() })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        let _ = self.dropped.send(());
    }
}

struct Bench {
    handle: CameraHandle,
    acts: mpsc::Sender<Act>,
    /// How many of the next openings fail.
    fail: Arc<AtomicUsize>,
    opened: mpsc::Receiver<std::time::Instant>,
    exposed: mpsc::Receiver<Option<f64>>,
    grabbing: mpsc::Receiver<()>,
    dropped: mpsc::Receiver<()>,
}

impl Bench {
    async fn new() -> Self {
        let bench = Self::failing(0);
        bench.up().await;
        bench
    }

    fn failing(times: usize) -> Self {
        let (acts, receiver) = mpsc::channel();
        let (receiver, number) = (Arc::new(Mutex::new(receiver)), Arc::new(AtomicUsize::new(0)));
        let (grabs, grabbing) = mpsc::channel();
        let (drops, dropped) = mpsc::channel();
        let (opens, opened) = mpsc::channel();
        let (exposes, exposed) = mpsc::channel();
        let fail = Arc::new(AtomicUsize::new(times));
        let failures = fail.clone();
        let open = move || -> Result<Box<dyn Camera>, CameraError> {
            let _ = opens.send(std::time::Instant::now());
            if failures.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                return Err(CameraError::Away { camera: "v".into(), reason: "no such camera".into() });
            }
            Ok(Box::new(Scripted {
                acts: receiver.clone(),
                number: number.clone(),
                exposed: exposes.clone(),
                grabbing: grabs.clone(),
                dropped: drops.clone(),
            }))
        };
        let handle = CameraHandle::spawn_with("v", open).unwrap();
        Self { handle, acts, fail, opened, exposed, grabbing, dropped }
    }

    async fn until(&self, wanted: impl FnMut(&Availability) -> bool) {
        let mut watch = self.handle.watch();
        tokio::time::timeout(SOON, watch.wait_for(wanted)).await.unwrap().unwrap();
    }

    async fn up(&self) {
        self.until(|a| *a == Availability::Up).await;
    }

    async fn grab(&self) -> Result<Frame, CameraError> {
        self.handle.grab(Instant::now() + SOON).await
    }
}

#[tokio::test]
async fn a_camera_that_is_not_there_is_tried_again_less_and_less_often() {
    let bench = Bench::failing(3);
    bench.until(|a| *a == Availability::Away { reason: "no such camera".into() }).await;
    bench.up().await;
    let times: Vec<_> = bench.opened.try_iter().collect();
    let waits: Vec<Duration> = times.windows(2).map(|t| t[1] - t[0]).collect();
    assert_eq!(waits.len(), 3);
    for (wait, least) in waits.iter().zip([1, 2, 4]) {
        assert!(*wait >= REOPEN_FIRST * least, "{waits:?}");
    }
}

#[tokio::test]
async fn while_it_is_away_every_answer_is_there_at_once() {
    let bench = Bench::failing(usize::MAX);
    bench.until(|a| *a == Availability::Away { reason: "no such camera".into() }).await;
    let asked = std::time::Instant::now();
    for _ in 0..50 {
        assert!(matches!(bench.grab().await, Err(CameraError::Away { .. })));
        let life = bench.handle.life(Instant::now() + SOON).await;
        assert!(matches!(life, Err(CameraError::Away { reason, .. }) if reason == "no such camera"));
    }
    // Had each waited for the next opening, it would have taken twice as long at the least.
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_lost_camera_is_told_by_the_grab_that_lost_it_and_comes_back() {
    let bench = Bench::new().await;
    bench.acts.send(Act::Away).unwrap();
    assert!(matches!(bench.grab().await, Err(CameraError::Away { reason, .. }) if reason == "unplugged"));
    bench.up().await;
    bench.acts.send(Act::Frame).unwrap();
    assert_eq!(bench.grab().await.unwrap().number, 1);
}

#[tokio::test]
async fn a_camera_that_comes_back_has_the_exposure_that_it_had() {
    let bench = Bench::new().await;
    let expose = |us| bench.handle.expose(us, Instant::now() + SOON);
    expose(Some(200.0)).await.unwrap();
    assert!(matches!(expose(Some(2.0 * MOST_US)).await, Err(CameraError::Refused { .. })));
    bench.acts.send(Act::Away).unwrap();
    assert!(bench.grab().await.is_err());
    bench.up().await;
    assert_eq!(bench.exposed.try_iter().collect::<Vec<_>>(), [Some(200.0), Some(2.0 * MOST_US), Some(200.0)]);
    // While it is away a new one is taken, for when it is back.
    bench.fail.store(2, SeqCst);
    bench.acts.send(Act::Away).unwrap();
    assert!(bench.grab().await.is_err());
    expose(Some(300.0)).await.unwrap();
    bench.up().await;
    assert_eq!(bench.exposed.try_iter().collect::<Vec<_>>(), [Some(300.0)]);
}

#[tokio::test]
async fn no_frame_is_given_at_an_exposure_that_came_too_late() {
    let bench = Bench::new().await;
    let expose = |us, wait| bench.handle.expose(us, Instant::now() + wait);
    expose(Some(200.0), SOON).await.unwrap();
    assert_eq!(bench.exposed.recv_timeout(SOON), Ok(Some(200.0)));
    // On a busy machine the driver may not have been asked within its time: then once more.
    let begun = std::time::Instant::now();
    while bench.exposed.try_recv() != Ok(Some(HANGS_US)) {
        assert!(begun.elapsed() < SOON, "the driver is never asked");
        let late = expose(Some(HANGS_US), Duration::from_millis(20)).await;
        assert!(matches!(late, Err(CameraError::NoFrame { .. })), "{late:?}");
    }
    assert_eq!(bench.handle.exposure_us(), Some(200.0), "what was wanted before");
    let grab = bench.grab();
    bench.acts.send(Act::Frame).unwrap(); // the driver goes on
    bench.acts.send(Act::Frame).unwrap();
    grab.await.unwrap();
    assert_eq!(bench.exposed.try_iter().collect::<Vec<_>>(), [Some(200.0)]);
    // One that the camera refuses while nobody waits is a camera that is away, until another is wanted.
    bench.handle.want_exposure(Some(2.0 * MOST_US));
    bench.until(|a| matches!(a, Availability::Away { reason } if reason.contains("too long"))).await;
    bench.handle.want_exposure(None);
    bench.up().await;
}

#[tokio::test]
async fn a_driver_that_panics_is_a_camera_that_was_lost() {
    let bench = Bench::new().await;
    bench.fail.store(1, SeqCst);
    bench.acts.send(Act::Panic).unwrap();
    let error = bench.grab().await.unwrap_err().to_string();
    assert!(error.contains("driver bug"), "{error}");
    bench.dropped.recv_timeout(SOON).unwrap();
    assert!(bench.handle.is_away());
    bench.up().await;
    bench.acts.send(Act::Frame).unwrap();
    assert!(bench.grab().await.is_ok());
}

#[tokio::test]
async fn no_frame_is_no_loss() {
    let bench = Bench::new().await;
    bench.acts.send(Act::NoFrame).unwrap();
    assert!(matches!(bench.grab().await, Err(CameraError::NoFrame { .. })));
    assert!(!bench.handle.is_away());
    assert_eq!(bench.opened.try_iter().count(), 1);
}

#[tokio::test]
async fn the_frame_of_a_grab_that_was_given_up_never_reaches_the_next_one() {
    let bench = Bench::new().await;
    {
        let given_up = bench.grab();
        tokio::pin!(given_up);
        let begun = async {
            while bench.grabbing.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            result = &mut given_up => panic!("{result:?}"),
            () = begun => {}
        }
    }
    // The camera is still busy with it: one more is given up in the queue, and the next one waits.
    let queued = bench.handle.grab(Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(queued, Err(CameraError::NoFrame { .. })));
    bench.acts.send(Act::Frame).unwrap();
    bench.acts.send(Act::Frame).unwrap();
    assert_eq!(bench.grab().await.unwrap().number, 1);
    bench.grabbing.recv_timeout(SOON).unwrap();
    assert!(bench.grabbing.try_recv().is_err(), "the grab given up in the queue was never begun");
}

#[tokio::test]
async fn only_a_frame_or_a_proven_sign_is_proof_of_life() {
    let bench = Bench::new().await;
    assert_eq!(bench.handle.life(Instant::now() + SOON).await.unwrap(), Life::Unproven);
    assert_eq!(bench.handle.last_proof(), None);
    let before = Instant::now();
    bench.acts.send(Act::Frame).unwrap();
    bench.grab().await.unwrap();
    assert!(bench.handle.last_proof().unwrap() >= before);
}

#[tokio::test]
async fn dropping_the_handle_ends_the_thread() {
    let bench = Bench::new().await;
    drop(bench.handle);
    bench.dropped.recv_timeout(SOON).unwrap();
    let away = Bench::failing(usize::MAX);
    away.opened.recv_timeout(SOON).unwrap();
    drop(away.handle);
    // Its openings end: the channel closes when the thread has gone.
    let ended = std::time::Instant::now() + SOON;
    while away.opened.recv_timeout(SOON).is_ok() {
        assert!(std::time::Instant::now() < ended, "it still opens");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_can_serve_in_simulated_time() {
    let (handle, port) = CameraHandle::pair("v");
    port.up();
    let serve = async {
        while let Some(call) = port.call().await {
            let Call::Grab { reply, .. } = call else {
                continue;
            };
            tokio::time::sleep(Duration::from_millis(30)).await;
            let image = Image::new(1, 1, 1, vec![0]).unwrap();
            let exposed = Instant::now().into_std();
            port.answer_grab(reply, Ok(Frame { image, number: 7, exposed, path: None, truth: None }));
        }
    };
    let ask = async {
        let asked = Instant::now();
        assert_eq!(handle.grab(asked + Duration::from_millis(31)).await.unwrap().number, 7);
        assert!(handle.grab(Instant::now() + Duration::from_millis(29)).await.is_err());
        assert_eq!(asked.elapsed().as_millis(), 59);
        drop(handle);
    };
    tokio::join!(serve, ask);
}
