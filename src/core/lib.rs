//! What `inspectd` and `inspect-train` must agree on, so that a score means the same in both:
//! image decoding and resizing, measures of a surface, the model file and its card, the ONNX scorer, thresholds,
//! verdict.
//!
//! Terms: see README's glossary. A [`image::Image`] is 8-bit HWC; a *card* is what a model file says of
//! itself; a *score* is finite, higher is more anomalous.
//!
//! Never here: threads, clocks, tokio, cameras, a training framework.

pub mod card;
pub mod file;
pub mod image;
pub mod measure;
pub mod model;
pub mod onnx;
pub mod reference;
pub mod resize;
pub mod runtime;
pub mod scorer;
pub mod verdict;
