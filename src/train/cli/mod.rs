//! The subcommands of `inspect-train`, one file each.

mod ask;
pub mod backbone;
pub mod bench;
pub mod calibrate;
pub mod defects;
pub mod evaluate;
pub mod fit;
pub mod generators;
pub mod judge;
mod made;
mod pictures;
pub mod split;
mod stop;
pub mod suspects;
pub mod whatif;
