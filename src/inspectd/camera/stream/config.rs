//! Settings of a source that sends by itself, and how it may be shown.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::camera::pace::check_rate;

/// Shortest and longest silence that can be taken for a loss.
const STALL_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Largest side that can be asked for.
const MAX_SIDE_PX: u32 = 16_384;
/// What is shown in place of a password.
const HIDDEN: &str = "***";

/// Text that may hold a password: shown without it, also by `{:?}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The whole text, for OpenCV alone.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Hides what stands between the first `:` and the last `@` behind `://`: rather too much than too little.
pub fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(rest.len());
    let (place, after) = rest.split_at(end);
    let after = without_password(after);
    match place.rsplit_once('@').map(|(user, host)| (user.split_once(':'), host)) {
        Some((Some((user, _)), host)) => format!("{scheme}://{user}:{HIDDEN}@{host}{after}"),
        _ => format!("{scheme}://{place}{after}"),
    }
}

/// Settings: one of `device`, `url` and `pipeline`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// A V4L2 device, such as `/dev/video0`.
    #[serde(default)]
    pub device: Option<PathBuf>,
    /// An RTSP address, `rtsp://user:password@host/path`.
    #[serde(default)]
    pub url: Option<Secret>,
    /// A GStreamer pipeline up to raw video: what OpenCV needs behind it is added.
    #[serde(default)]
    pub pipeline: Option<Secret>,
    /// Width that a device is asked for; absent: its own.
    #[serde(default)]
    pub width: Option<u32>,
    /// Height that a device is asked for; absent: its own.
    #[serde(default)]
    pub height: Option<u32>,
    /// Frames a second that a device is asked for; absent: its own.
    #[serde(default)]
    pub rate_hz: Option<f64>,
    /// Silence after which the source counts as lost.
    #[serde(default = "stall")]
    pub stall_ms: u64,
}

fn stall() -> u64 {
    2000
}

/// Where frames come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    Device(PathBuf),
    Url(Secret),
    Pipeline(Secret),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
            // Passwords can stand anywhere in it.
            Self::Pipeline(_) => f.write_str("the GStreamer pipeline"),
        }
    }
}

impl StreamConfig {
    /// The one source.
    ///
    /// Errors: what is wrong, in words, if there is none or more than one.
    pub(super) fn source(&self) -> Result<Source, String> {
        match (&self.device, &self.url, &self.pipeline) {
            (Some(path), None, None) => Ok(Source::Device(path.clone())),
            (None, Some(url), None) => Ok(Source::Url(url.clone())),
            (None, None, Some(pipeline)) => Ok(Source::Pipeline(pipeline.clone())),
            _ => Err("device, url, pipeline: expected one of them".into()),
        }
    }

    /// Every setting that cannot work.
    pub(in crate::camera) fn check(&self) -> Vec<String> {
        let mut errors: Vec<String> = self.source().err().into_iter().collect();
        if let Some(url) = &self.url
            && !["rtsp://", "rtsps://"].iter().any(|scheme| url.reveal().starts_with(scheme))
        {
            errors.push(format!("url = {url:?}: expected rtsp://… or rtsps://…"));
        }
        if self.pipeline.as_ref().is_some_and(|p| p.reveal().contains("appsink")) {
            errors.push("pipeline: expected none with an appsink: that is added".into());
        }
        let text = [self.url.as_ref(), self.pipeline.as_ref()];
        if text.into_iter().flatten().any(|t| t.reveal().trim().is_empty() || t.reveal().contains('\0')) {
            errors.push("url, pipeline: expected a text".into());
        }
        let asked = self.width.is_some() || self.height.is_some() || self.rate_hz.is_some();
        if asked && self.device.is_none() {
            errors.push("width, height, rate_hz: expected none but for a device".into());
        }
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if let Some(side) = side.filter(|side| !(1..=MAX_SIDE_PX).contains(side)) {
                errors.push(format!("{name} = {side}: expected 1 to {MAX_SIDE_PX}"));
            }
        }
        errors.extend(check_rate(self.rate_hz));
        if !STALL_MS.contains(&self.stall_ms) {
            let (least, most) = (STALL_MS.start(), STALL_MS.end());
            errors.push(format!("stall_ms = {}: expected {least} to {most}", self.stall_ms));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> StreamConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "rtsp://admin:s3cret@10.0.0.9:554/ch1",
            "rtsp://admin:s3cret@cam/with@path",
            "rtsp://admin:s3c/s3cret@cam",
            "rtsp://:s3cret@cam",
            "rtsp://admin:a@s3cret@cam/ch1",
        ] {
            let config = read(&format!("url = '{url}'"));
            let shown = format!("{config:?} {}", config.source().unwrap());
            assert!(!shown.contains("s3c") && shown.contains("***"), "{shown}");
        }
        let two = without_password("got rtsp://a:s3cret@b/c \"rtsp://d:s3cret@e\" end");
        assert_eq!(two, "got rtsp://a:***@b/c \"rtsp://d:***@e\" end");
        for plain in ["rtsp://10.0.0.9:554/ch1", "rtsp://admin@cam/x", "no address", "/dev/video0"] {
            assert_eq!(without_password(plain), plain);
        }
        let pipeline = read("pipeline = 'rtspsrc location=rtsp://c user-pw=s3cret ! decodebin'");
        assert!(!pipeline.source().unwrap().to_string().contains("s3cret"));
    }

    #[test]
    fn exactly_one_source_and_every_senseless_setting_is_named() {
        assert_eq!(read("device = '/dev/video0'\nwidth = 1280").check(), Vec::<String>::new());
        assert_eq!(read("pipeline = 'videotestsrc'").check(), Vec::<String>::new());
        for (text, named) in [
            ("", "device, url, pipeline"),
            ("device = '/dev/video0'\nurl = 'rtsp://a'", "device, url, pipeline"),
            ("url = 'http://a'", "url ="),
            ("pipeline = 'videotestsrc ! appsink'", "pipeline:"),
            ("pipeline = ' '", "url, pipeline"),
            ("url = 'rtsp://a'\nwidth = 8", "width, height, rate_hz"),
            ("device = 'a'\nheight = 0", "height ="),
            ("device = 'a'\nrate_hz = -1.0", "rate_hz"),
            ("device = 'a'\nstall_ms = 1", "stall_ms"),
        ] {
            let errors = read(text).check();
            assert!(errors.len() == 1 && errors[0].starts_with(named), "{text}: {errors:?}");
        }
        let wrong = read("url = 'http://admin:s3cret@cam'").check().join(" ");
        assert!(!wrong.contains("s3cret"), "{wrong}");
    }
}
