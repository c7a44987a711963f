//! Models enter service by a gate.
//!
//! Terms. A *place* is a model file that the configuration or a recipe names. The *gate* is what a model has to pass
//! before it is put there. Its *history* keeps the models that were there before. A *shadow run* scores archived frames
//! with the new model and the present one.
//!
//! The daemon takes what lies in a place, and where a key is set only what is signed with it: copying a file over a
//! place does not get around the gate's first step.
//!
//! Never here: the running daemon, which looks at its places anew when it is told to (see [`reload`]).

pub mod config;
pub mod gate;
pub mod history;
pub mod place;
pub mod reload;
pub mod report;
pub mod shadow;
pub mod signature;

pub use config::ModelsConfig;
