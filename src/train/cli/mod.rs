//! The subcommands of `inspect-train`, one file each.

pub mod defects;
pub mod evaluate;
pub mod fit;
