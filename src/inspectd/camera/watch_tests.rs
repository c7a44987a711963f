//! Tests with a camera whose driver hangs until it is told to go on.

use std::sync::{Condvar, Mutex};

use super::super::calls::Availability;
use super::super::thread::CameraHandle;
use super::super::{Frame, Life, pace::no_frame};
use super::*;

const SOON: Duration = Duration::from_secs(30);
/// Longest wait for a hang to be found and told, on a busy machine.
const FOUND: Duration = Duration::from_secs(60);

/// Calls hang while it says so.
#[derive(Default)]
struct Lever {
    hangs: Mutex<bool>,
    pulled: Condvar,
}

impl Lever {
    fn set(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.pulled.notify_all();
    }

    fn pass(&self) {
        drop(self.pulled.wait_while(self.hangs.lock().unwrap(), |hangs| *hangs).unwrap());
    }
}

struct Hanging(Arc<Lever>);

impl Camera for Hanging {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        self.0.pass();
        Err(no_frame("v", timeout))
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}

async fn until(camera: &CameraHandle, what: &str, wanted: impl Fn(&Availability) -> bool) {
    let mut watch = camera.watch();
    let waited = tokio::time::timeout(FOUND, watch.wait_for(|a| wanted(a))).await;
    assert!(waited.is_ok(), "{what}: {:?}", camera.availability());
}

/// Asks for pictures until a further call of the driver is found to hang. One that the thread begins too late is dropped
/// before it reaches the driver, so one alone proves nothing. Counted, since "stuck" stands only until a new thread has
/// the camera.
async fn hang(camera: &CameraHandle) {
    let (look, began) = (camera.look_on(), Instant::now());
    let before = look.hanging();
    while look.hanging() == before {
        let grabbed = camera.grab(Instant::now() + Duration::from_millis(50)).await;
        assert!(
            matches!(grabbed, Err(CameraError::NoFrame { .. } | CameraError::Stuck { .. })),
            "{grabbed:?}"
        );
        assert!(began.elapsed() < FOUND, "{:?}", camera.availability());
    }
}

#[tokio::test]
async fn a_call_that_hangs_is_left_behind_and_the_camera_opened_anew() {
    let lever = Arc::new(Lever::default());
    let own = Arc::clone(&lever);
    let camera =
        CameraHandle::spawn_with("v", move || Ok(Box::new(Hanging(Arc::clone(&own))) as Box<dyn Camera>));
    let camera = camera.unwrap();
    until(&camera, "up", |a| *a == Availability::Up).await;
    lever.set(true);
    let began = Instant::now();
    hang(&camera).await;
    println!("a call that hangs was found {:.2} s after it began", began.elapsed().as_secs_f64());
    // The driver lets itself be opened again: the new thread serves.
    until(&camera, "up again", |a| *a == Availability::Up).await;
    println!("and the camera was up again after {:.2} s", began.elapsed().as_secs_f64());
    let look = camera.look_on();
    assert_eq!((look.hanging(), look.is_given_up()), (1, false));
    assert!(camera.life(Instant::now() + SOON).await.is_ok());
    lever.set(false);
    tokio::time::timeout(SOON, async {
        while look.hanging() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the old thread ends when its call comes back");
    assert_eq!(camera.availability(), Availability::Up, "what it says counts no more");
}

#[tokio::test]
async fn with_too_many_threads_hanging_no_further_one_is_started() {
    let lever = Arc::new(Lever::default());
    let own = Arc::clone(&lever);
    let camera =
        CameraHandle::spawn_with("v", move || Ok(Box::new(Hanging(Arc::clone(&own))) as Box<dyn Camera>));
    let (camera, look) = camera.map(|c| (c.look_on(), c)).map(|(l, c)| (c, l)).unwrap();
    lever.set(true);
    for hanging in 1..=MOST_HANGING {
        until(&camera, "up", |a| *a == Availability::Up).await;
        hang(&camera).await;
        assert_eq!(look.hanging(), hanging);
    }
    assert!(look.is_given_up());
    until(&camera, "stuck", |a| matches!(a, Availability::Stuck { reason } if reason.contains("`grab`")))
        .await;
    let grabbed = camera.grab(Instant::now() + SOON).await;
    assert!(matches!(grabbed, Err(CameraError::Stuck { .. })), "{grabbed:?}");
    lever.set(false);
    until(&camera, "up, since the threads are free", |a| *a == Availability::Up).await;
}
