//! GigE Vision and USB3 Vision cameras, by Aravis.
//!
//! Terms. A *buffer* holds one frame as it comes off the stream; it is *complete* if no part of it is missing.
//! A *line* is an input of the camera that a light barrier or the PLC is wired to.
//!
//! What a grab gives, by trigger:
//! - `free_run`: the newest complete frame whose exposure began after the grab was asked.
//! - `software`: what lies in the stream is thrown away, the camera is fired, and its frame is waited for.
//!   After one that did not come the stream is made anew, so that it cannot be taken for a later part's.
//! - a line: as `free_run`, but the line makes the camera expose.
//!
//! Why buffers are no frames until they prove it: a lost packet is a stripe of an older picture, and a lost
//! frame lets every later one be taken for the part before. Each is an error of one grab. In `free_run` only
//! what was lost since the grab was asked is told: what came before was nobody's part.
//!
//! Start of exposure: see [`clock`]. For `software` it is not put before the moment of firing.
//!
//! Tried with Aravis' fake GigE Vision camera only. Lines, USB3 and the clock of a real camera were not tried on
//! hardware.
//!
//! Never here: a picture put together from parts; settings that are not read back; a camera taken at random.

mod clock;
pub mod config;
pub mod list;
pub mod pixels;
mod receiver;

use std::time::{Duration, Instant};

use aravis::glib::{self, prelude::*};
use aravis::prelude::*;
use aravis::{
    AcquisitionMode, Auto, GvPacketSizeAdjustment, GvStream, GvStreamOption, GvStreamPacketResend,
    GvStreamSocketBuffer,
};

use inspect_core::image::Roi;

use super::pace::no_frame;
use super::{Camera, CameraError, Frame, Life};
use clock::Clock;
use config::{AravisConfig, Exposes, Resend};
use receiver::{Received, Receiver, Seen};

/// GigE Vision register that says who controls the camera; 0: nobody, so not we.
const CONTROL_PRIVILEGE: u64 = 0x0a00;
/// USB3 Vision register of its protocol's version, which every camera has.
const USB_VERSION: u64 = 0x0000;
/// A frame that by its time was exposed this much before it was fired belongs to no trigger of ours.
const CLOCK_ERROR: Duration = Duration::from_millis(5);
/// Share by which a camera may round an exposure, gain or rate that it was given.
const ROUNDED: f64 = 0.05;

/// An open camera.
pub struct AravisCamera {
    name: String,
    config: AravisConfig,
    camera: aravis::Camera,
    clock: Clock,
    /// Exposure time now.
    exposure_us: f64,
    /// When it was changed last: what was exposed before is nobody's frame.
    exposed_anew: Option<Instant>,
    /// None while the stream is made anew.
    receiver: Option<Receiver>,
    /// Raises the receiver's alarm.
    watch: Option<glib::SignalHandlerId>,
    /// A fired frame did not come, and may still.
    unsure: bool,
}

impl AravisCamera {
    /// Finds the camera, takes control of it, sets it up and lets it run. Takes up to some seconds.
    ///
    /// Errors: [`CameraError::Away`] if it is not there, is another's, or refuses a setting.
    pub fn open(name: &str, config: &AravisConfig) -> Result<Self, CameraError> {
        let away = |reason| CameraError::Away { camera: name.to_owned(), reason };
        if let Some(problem) = config.check().into_iter().next() {
            return Err(away(problem));
        }
        let camera = aravis::Camera::new(Some(&config.id)).map_err(|e| {
            away(format!("{}: {}; `inspectd cameras` lists those in reach", config.id, e.message()))
        })?;
        set_up(&camera, config).map_err(|reason| away(format!("{}: {reason}", config.id)))?;
        let exposure_us = config.exposure_us.or_else(|| camera.exposure_time().ok()).unwrap_or(0.0);
        let clock = Clock::ask(&camera, duration_us(exposure_us));
        tracing::debug!(camera = name, id = config.id, clock = clock.is_read(), "camera set up");
        let mut opened = Self {
            name: name.to_owned(),
            config: config.clone(),
            camera,
            clock,
            exposure_us,
            exposed_anew: None,
            receiver: None,
            watch: None,
            unsure: false,
        };
        opened.run()?;
        Ok(opened)
    }

    fn away(&self, reason: impl std::fmt::Display) -> CameraError {
        CameraError::Away { camera: self.name.clone(), reason: format!("{}: {reason}", self.config.id) }
    }

    fn failed(&self, doing: &str, error: &glib::Error) -> CameraError {
        self.away(format!("{doing}: {}", error.message()))
    }

    /// Makes a stream and starts the exposures.
    fn run(&mut self) -> Result<(), CameraError> {
        let failed = |doing: &'static str| move |e: glib::Error| (doing, e);
        let made = || {
            let stream = self.camera.create_stream().map_err(failed("making a stream"))?;
            let payload = self.camera.payload().map_err(failed("asking for the size of its frames"))?;
            Ok((stream, payload))
        };
        let (stream, payload) = made().map_err(|(doing, e)| self.failed(doing, &e))?;
        if let Some(stream) = stream.downcast_ref::<GvStream>() {
            stream.set_socket_buffer(GvStreamSocketBuffer::Fixed);
            stream.set_socket_buffer_size(i32::try_from(self.config.socket_buffer_bytes).unwrap_or(i32::MAX));
            stream.set_packet_resend(match self.config.resend {
                Resend::Always => GvStreamPacketResend::Always,
                Resend::Never => GvStreamPacketResend::Never,
            });
            stream.set_frame_retention(self.config.frame_retention_ms.saturating_mul(1000)); // microseconds
        }
        let receiver = Receiver::start(stream, payload as usize).map_err(|e| self.away(e))?;
        if let Some(device) = self.camera.device() {
            self.watch.take().into_iter().for_each(|old| device.disconnect(old));
            let alarm = receiver.alarm();
            self.watch = Some(device.connect_control_lost(move |_| alarm.raise()));
        }
        self.receiver = Some(receiver);
        self.camera.start_acquisition().map_err(|e| self.failed("starting its exposures", &e))
    }

    /// Leaves a frame that may still come behind.
    fn renew(&mut self) -> Result<(), CameraError> {
        if !self.unsure && self.receiver.is_some() {
            return Ok(());
        }
        self.camera.stop_acquisition().map_err(|e| self.failed("stopping its exposures", &e))?;
        self.receiver = None;
        self.run()?;
        self.unsure = false;
        Ok(())
    }

    /// The next frame, of those exposed `since` then if that is given.
    fn take(&mut self, since: Option<Instant>, timeout: Duration) -> Result<Frame, CameraError> {
        let until = Instant::now() + timeout;
        self.renew()?;
        let Some(receiver) = &self.receiver else { return Err(self.away("it has no stream")) };
        if since.is_some() && self.config.trigger == Exposes::FreeRun {
            receiver.forget_loss();
        }
        let since = since.max(self.exposed_anew);
        let fired = match self.config.trigger {
            Exposes::Software => {
                receiver.forget_frame();
                receiver.forget_loss();
                let fired = Instant::now();
                self.camera.software_trigger().map_err(|e| self.failed("firing it", &e))?;
                Some(fired)
            }
            Exposes::FreeRun | Exposes::Line(_) => None,
        };
        loop {
            let received = match receiver.wait(until) {
                Seen::Frame(received) => received,
                Seen::Lost(loss) => return Err(loss.of(&self.name)),
                Seen::Away => return Err(self.away("the control of it was lost")),
                Seen::Nothing if receiver.is_away() => return Err(self.away("nothing receives its frames")),
                Seen::Nothing => {
                    self.unsure = fired.is_some();
                    return Err(no_frame(&self.name, timeout));
                }
            };
            let exposed = self.clock.exposed(received.buffer.timestamp(), received.arrived);
            match (fired, since) {
                (Some(fired), _) if exposed + CLOCK_ERROR < fired => {}
                (Some(fired), _) => return self.frame(received, exposed.max(fired)),
                (None, Some(since)) if exposed < since => {}
                (None, _) => return self.frame(received, exposed),
            }
        }
    }

    fn frame(&self, received: Received, exposed: Instant) -> Result<Frame, CameraError> {
        let buffer = &received.buffer;
        let (code, wanted) = (buffer.image_pixel_format(), self.config.pixel_format);
        if code != wanted.code() || buffer.image_padding() != (0, 0) {
            let padding = buffer.image_padding();
            let sent = format!("pixels {:#010x} with padding {padding:?}", code.raw());
            return Err(self.away(format!("expected {wanted:?} without padding, it sends {sent}")));
        }
        let side = |px: i32| u32::try_from(px).unwrap_or(0);
        let (width, height) = (side(buffer.image_width()), side(buffer.image_height()));
        let image = wanted
            .image(width, height, buffer.image_data())
            .map_err(|source| CameraError::Image { camera: self.name.clone(), source })?;
        Ok(Frame { image, number: buffer.frame_id(), exposed, path: None, truth: None })
    }
}

impl Camera for AravisCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        self.take(Some(Instant::now()), timeout)
    }

    fn next(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        self.take(None, timeout)
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        if self.receiver.as_ref().is_some_and(Receiver::is_away) {
            return Err(self.away("the control of it was lost"));
        }
        let gige = self.camera.is_gv_device();
        let address = if gige { CONTROL_PRIVILEGE } else { USB_VERSION };
        let device = self.camera.device().ok_or_else(|| self.away("it has no control channel"))?;
        let (_, value) = device.read_register(address).map_err(|e| self.failed("reading a register", &e))?;
        if gige && value == 0 {
            return Err(self.away("it is controlled by nobody: it was started anew, or took us for dead"));
        }
        self.clock.refresh(&self.camera);
        Ok(Life::Proven)
    }

    fn expose(&mut self, exposure_us: Option<f64>) -> Result<(), CameraError> {
        let refused = |reason| CameraError::Refused { camera: self.name.clone(), reason };
        let Some(wanted) = exposure_us.or(self.config.exposure_us) else {
            let reason = "exposure_us: expected one in the camera's settings, to go back to".to_owned();
            return Err(refused(reason));
        };
        let set = self.camera.set_exposure_time(wanted).map_err(|e| format!("exposure_us: {}", e.message()));
        if let Err(reason) = set.and_then(|()| kept("exposure_us", wanted, self.camera.exposure_time())) {
            // It may have taken the nearest that it has: then its picture is another than the recipe's.
            let back = self.camera.set_exposure_time(self.exposure_us);
            back.map_err(|e| self.failed("setting its exposure back", &e))?;
            return Err(refused(reason));
        }
        // Without the camera's clock a frame is taken to begin one exposure before it came: one that began under
        // a longer exposure seems to have begun later than it did.
        let before = if self.clock.is_read() { Duration::ZERO } else { duration_us(self.exposure_us) };
        self.clock.set_exposure(duration_us(wanted));
        self.exposure_us = wanted;
        self.exposed_anew = Some(Instant::now() + before);
        Ok(())
    }

    fn prepare(&mut self) {
        self.clock.refresh(&self.camera);
        // If it cannot be done now, the next grab tries again and tells why.
        let _ = self.renew();
    }
}

impl Drop for AravisCamera {
    fn drop(&mut self) {
        // A camera that is gone answers nothing, and waiting for it would hold up its reopening.
        if self.receiver.as_ref().is_some_and(|r| !r.is_away()) {
            let _ = self.camera.stop_acquisition();
        }
        // Before the camera: the thread holds its stream.
        self.receiver = None;
    }
}

fn duration_us(us: f64) -> Duration {
    Duration::try_from_secs_f64(us / 1e6).unwrap_or_default()
}

/// Sets everything that the configuration names, and reads it back.
fn set_up(camera: &aravis::Camera, config: &AravisConfig) -> Result<(), String> {
    let refused = |name: &'static str| move |e: glib::Error| format!("{name}: {}", e.message());
    // What an earlier program left running refuses settings; one that does not run refuses to be stopped.
    let _ = camera.stop_acquisition();
    camera.set_acquisition_mode(AcquisitionMode::Continuous).map_err(refused("continuous exposures"))?;
    let name = "pixel_format";
    camera.set_pixel_format(config.pixel_format.code()).map_err(refused(name))?;
    let got = camera.pixel_format().map_err(refused(name))?;
    if got != config.pixel_format.code() {
        return Err(format!("{name}: expected {:?}, it keeps {:#010x}", config.pixel_format, got.raw()));
    }
    if let Some(roi) = config.roi {
        set_region(camera, roi).map_err(|reason| format!("roi: {reason}"))?;
    }
    if let Some(exposure) = config.exposure_us {
        let _ = camera.set_exposure_time_auto(Auto::Off); // many have none
        camera.set_exposure_time(exposure).map_err(refused("exposure_us"))?;
        kept("exposure_us", exposure, camera.exposure_time())?;
    }
    if let Some(gain) = config.gain_db {
        let _ = camera.set_gain_auto(Auto::Off);
        camera.set_gain(gain).map_err(refused("gain_db"))?;
        kept("gain_db", gain, camera.gain())?;
    }
    match config.trigger {
        Exposes::FreeRun => {
            camera.clear_triggers().map_err(refused("trigger"))?;
            if let Some(rate) = config.rate_hz {
                camera.set_frame_rate(rate).map_err(refused("rate_hz"))?;
                kept("rate_hz", rate, camera.frame_rate())?;
            }
        }
        Exposes::Software => camera.set_trigger("Software").map_err(refused("trigger"))?,
        Exposes::Line(line) => camera.set_trigger(&format!("Line{line}")).map_err(refused("trigger"))?,
    }
    if camera.is_gv_device() {
        if !config.packet_sockets {
            camera.gv_set_stream_options(GvStreamOption::PACKET_SOCKET_DISABLED);
        }
        camera.gv_set_packet_size_adjustment(GvPacketSizeAdjustment::Never);
        let bytes = i32::try_from(config.packet_size_bytes).unwrap_or(i32::MAX);
        camera.gv_set_packet_size(bytes).map_err(refused("packet_size_bytes"))?;
    }
    Ok(())
}

/// Cameras that take more than they have are known.
fn set_region(camera: &aravis::Camera, roi: Roi) -> Result<(), String> {
    let said = |e: glib::Error| e.message().to_owned();
    let side = |px: i32| u32::try_from(px).unwrap_or(0);
    let (width, height) = camera.sensor_size().map_err(said)?;
    roi.within(side(width), side(height)).map_err(|e| format!("expected a part of the sensor: {e}"))?;
    let wanted = [roi.x, roi.y, roi.width, roi.height].map(|px| i32::try_from(px).unwrap_or(i32::MAX));
    let [x, y, width, height] = wanted;
    camera.set_region(x, y, width, height).map_err(said)?;
    let got = camera.region().map_err(said)?;
    if <[i32; 4]>::from(got) != wanted {
        return Err(format!("expected x, y, width, height {wanted:?}, it keeps {got:?}"));
    }
    Ok(())
}

/// Whether the camera kept a value, rounded at most by [`ROUNDED`].
fn kept(name: &str, wanted: f64, got: Result<f64, glib::Error>) -> Result<(), String> {
    let got = got.map_err(|e| format!("{name}: {}", e.message()))?;
    if (got - wanted).abs() <= ROUNDED * wanted.abs().max(1.0) {
        return Ok(());
    }
    Err(format!("{name}: expected {wanted}, it keeps {got}"))
}
