//! The subcommands of `inspect-train`, one file each.

pub mod backbone;
pub mod bench;
pub mod calibrate;
pub mod defects;
pub mod evaluate;
pub mod fit;
pub mod generators;
pub mod judge;
mod pictures;
pub mod split;
pub mod suspects;
