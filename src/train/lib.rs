//! `inspect-train`: fits the anomaly model of `inspectd` on pictures of good parts and writes one
//! `.onnx` file, which the daemon loads as it is.
//!
//! The way of a fit: [`data`] finds and loads the goods, [`split`] deals them out by group, [`fit`] is
//! the training loop over [`net`] (the network, written once) and [`defects`] (made defects),
//! [`calibrate`] sets the thresholds, [`onnx`] writes the same network and [`export`] the file.
//! [`evaluate`] judges a finished file on labelled pictures ([`truth`]) with the daemon's own scorer, and
//! [`report`] shows it; [`floor`] is the linear method that a model has to beat. [`bench`] says where the time of a
//! step goes.
//!
//! Terms: README's glossary. *Goods*: pictures of good parts. *Group*: pictures that belong together
//! (lot, shift, session) and therefore never stand on both sides of a split.
//!
//! Never here: the test split, except in [`evaluate`] and [`floor`]; preprocessing of its own (it is
//! inspect-core's, so that training and inspection see the same pixels).

pub mod batches;
pub mod bench;
pub mod calibrate;
pub mod checkpoint;
pub mod data;
pub mod defects;
pub mod evaluate;
pub mod export;
pub mod file;
pub mod fit;
pub mod floor;
pub mod infer;
pub mod learn;
pub mod loss;
pub mod metrics;
pub mod net;
pub mod onnx;
pub mod optimiser;
pub mod phase;
pub mod pose;
pub mod real;
pub mod recalibrate;
pub mod report;
pub mod score;
pub mod sheet;
pub mod split;
pub mod suspects;
pub mod threads;
pub mod torch;
pub mod truth;
pub mod withhold;
