//! Settings of a GigE Vision or USB3 Vision camera.

use inspect_core::image::Roi;
use serde::{Deserialize, Serialize};

use super::pixels::PixelFormat;
use crate::camera::pace::check_rate;

/// Largest exposure that is accepted: a part that needs longer is not on a line.
pub const MAX_EXPOSURE_US: f64 = 60e6;
/// Packets that are accepted, headers included: the least that GigE Vision demands, the most that IP carries.
const PACKET_BYTES: std::ops::RangeInclusive<u32> = 576..=65_535;
/// Socket buffers that are accepted.
const SOCKET_BUFFER_BYTES: std::ops::RangeInclusive<u32> = 65_536..=1 << 30;
/// Longest wait for the missing packets of a frame.
const MAX_RETENTION_MS: u32 = 10_000;

/// What makes the camera expose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Exposes {
    /// Its own clock.
    FreeRun,
    /// A command over the network or cable, sent for each grab.
    Software,
    /// A signal on this input line.
    Line(u8),
}

impl TryFrom<String> for Exposes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "free_run" => Ok(Self::FreeRun),
            "software" => Ok(Self::Software),
            line => line
                .strip_prefix("line")
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .map(Self::Line)
                .ok_or_else(|| format!("expected free_run, software, or line0 to line255, got `{text}`")),
        }
    }
}

impl From<Exposes> for String {
    fn from(exposes: Exposes) -> Self {
        match exposes {
            Exposes::FreeRun => "free_run".into(),
            Exposes::Software => "software".into(),
            Exposes::Line(line) => format!("line{line}"),
        }
    }
}

/// Whether packets that got lost are asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resend {
    /// If the camera can.
    #[default]
    Always,
    /// A frame with a lost packet is a fault at once.
    Never,
}

/// Settings of a camera. What is absent stays as the camera has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AravisConfig {
    /// Id as `inspectd cameras` lists it; also an IP address, or `vendor-serial`.
    #[serde(default)]
    pub id: String,
    /// What makes it expose.
    pub trigger: Exposes,
    /// Name of its pixels in GenICam's naming convention (PFNC).
    #[serde(default)]
    pub pixel_format: PixelFormat,
    /// Exposure time.
    #[serde(default)]
    pub exposure_us: Option<f64>,
    /// Gain.
    #[serde(default)]
    pub gain_db: Option<f64>,
    /// Part of the sensor that is read.
    #[serde(default)]
    pub roi: Option<Roi>,
    /// Frames a second where it runs freely.
    #[serde(default)]
    pub rate_hz: Option<f64>,
    /// Size of a network packet with its headers; 1500 goes through every network.
    #[serde(default = "packet")]
    pub packet_size_bytes: u32,
    /// Whether frames come past the system's UDP socket; needs CAP_NET_RAW, and delivers nothing on loopback.
    #[serde(default)]
    pub packet_sockets: bool,
    /// Buffer of the UDP socket; the system's `net.core.rmem_max` limits it.
    #[serde(default = "socket_buffer")]
    pub socket_buffer_bytes: u32,
    /// Whether packets that got lost are asked for again.
    #[serde(default)]
    pub resend: Resend,
    /// How long a frame's missing packets are waited for before it is given up as incomplete.
    #[serde(default = "retention")]
    pub frame_retention_ms: u32,
}

fn packet() -> u32 {
    1500
}

fn socket_buffer() -> u32 {
    4 << 20
}

fn retention() -> u32 {
    50
}

impl AravisConfig {
    /// A camera with every setting but these as it is by default.
    pub fn new(id: &str, trigger: Exposes) -> Self {
        Self {
            id: id.to_owned(),
            trigger,
            pixel_format: PixelFormat::default(),
            exposure_us: None,
            gain_db: None,
            roi: None,
            rate_hz: None,
            packet_size_bytes: packet(),
            packet_sockets: false,
            socket_buffer_bytes: socket_buffer(),
            resend: Resend::default(),
            frame_retention_ms: retention(),
        }
    }

    /// Every setting that cannot work.
    pub(in crate::camera) fn check(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let id = &self.id;
        if id.trim().is_empty() || id.contains('\0') {
            errors.push(format!(
                "id = {id:?}: expected a camera's id: `inspectd cameras` lists those in reach"
            ));
        }
        if let Some(exposure) = self.exposure_us.filter(|us| !(*us > 0.0 && *us <= MAX_EXPOSURE_US)) {
            errors.push(format!("exposure_us = {exposure}: expected over 0 to {MAX_EXPOSURE_US}"));
        }
        if let Some(gain) = self.gain_db.filter(|db| !db.is_finite()) {
            errors.push(format!("gain_db = {gain}: expected a finite number"));
        }
        if let Some(roi) = self.roi {
            let inside = roi.within(i32::MAX as u32, i32::MAX as u32);
            errors.extend(inside.err().map(|e| format!("roi: expected a region of the sensor: {e}")));
        }
        errors.extend(check_rate(self.rate_hz));
        if self.rate_hz.is_some() && self.trigger != Exposes::FreeRun {
            errors.push("rate_hz: expected none unless trigger = \"free_run\"".into());
        }
        let mut within = |name: &str, value: u32, range: std::ops::RangeInclusive<u32>| {
            if !range.contains(&value) {
                errors.push(format!("{name} = {value}: expected {} to {}", range.start(), range.end()));
            }
        };
        within("packet_size_bytes", self.packet_size_bytes, PACKET_BYTES);
        within("socket_buffer_bytes", self.socket_buffer_bytes, SOCKET_BUFFER_BYTES);
        within("frame_retention_ms", self.frame_retention_ms, 1..=MAX_RETENTION_MS);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AravisConfig, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn triggers_and_pixels_are_named_and_anything_else_is_refused() {
        let of = |trigger: &str| read(&format!("id = 'a'\ntrigger = '{trigger}'")).map(|c| c.trigger);
        assert_eq!(of("free_run"), Ok(Exposes::FreeRun));
        assert_eq!(of("software"), Ok(Exposes::Software));
        assert_eq!(of("line0"), Ok(Exposes::Line(0)));
        assert_eq!(of("line12"), Ok(Exposes::Line(12)));
        for wrong in ["line", "line-1", "line+1", "line256", "Line0", "hardware", ""] {
            assert!(of(wrong).is_err_and(|e| e.contains("free_run")), "{wrong}");
        }
        let bayer = read("id = 'a'\ntrigger = 'software'\npixel_format = 'BayerRG8'").unwrap();
        assert_eq!(bayer.pixel_format, PixelFormat::BayerRg8);
        assert!(read("id = 'a'\ntrigger = 'software'\npixel_format = 'Mono16'").is_err());
        assert!(read("id = 'a'").is_err(), "nothing says what makes it expose");
    }

    #[test]
    fn every_senseless_setting_is_named_and_no_id_says_how_to_find_one() {
        let text = "trigger = 'software'\nexposure_us = -1.0\ngain_db = nan\nrate_hz = 5.0\n\
                    roi = { x = 0, y = 0, width = 0, height = 8 }\npacket_size_bytes = 100\n\
                    socket_buffer_bytes = 1\nframe_retention_ms = 0";
        let errors = read(text).unwrap().check();
        for setting in [
            "id",
            "exposure_us",
            "gain_db",
            "roi",
            "rate_hz",
            "packet_size_bytes",
            "socket_buffer_bytes",
            "frame_retention_ms",
        ] {
            assert_eq!(errors.iter().filter(|e| e.starts_with(setting)).count(), 1, "{setting}: {errors:?}");
        }
        assert!(errors[0].contains("inspectd cameras"));
        assert_eq!(AravisConfig::new("a", Exposes::Software).check(), Vec::<String>::new());
    }
}
