//! `inspectd`: inspects parts on a production line.
//!
//! The way of a part: trigger → [`camera`] → scorer → verdict → PLC registers, inside the deadline;
//! then → journal → MQTT and archive, outside it. `station` is the only module that knows this order.

pub mod archive;
pub mod camera;
pub mod journal;
pub mod mqtt;
pub mod record;
