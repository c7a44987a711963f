//! `inspectd`: inspects parts on a production line.
//!
//! The way of a part: trigger → [`camera`] → [`scoring`] → verdict → PLC registers ([`plc`]), inside the
//! deadline; then → [`journal`] → [`mqtt`] and [`archive`], outside it. [`station`] is the only module that
//! knows this order; [`daemon`] puts the pieces together.

pub mod camera;
pub mod plc;
pub mod record;
pub mod scoring;
