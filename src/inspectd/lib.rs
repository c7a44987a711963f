//! `inspectd`: inspects parts on a production line.
//!
//! The way of a part: trigger → [`camera`] → [`scoring`] → verdict → PLC registers ([`plc`]), inside the
//! deadline; then → [`journal`] → [`mqtt`] and [`archive`], outside it. [`station`] is the only module that
//! knows this order; [`daemon`] puts the pieces together.

pub mod archive;
pub mod audit;
pub mod camera;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cores;
pub mod daemon;
pub mod drift;
pub mod faults;
pub mod folder;
pub mod front;
pub mod gate;
pub mod journal;
pub mod labelled;
pub mod models;
pub mod mqtt;
pub mod plc;
pub mod progress;
pub mod recipe;
pub mod record;
pub mod replay;
pub mod scorers;
pub mod scoring;
pub mod secret;
pub mod station;
pub mod status;
pub mod supervise;
pub mod thresholds;
pub mod wall;
