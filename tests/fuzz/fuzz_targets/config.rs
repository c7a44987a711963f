//! Any bytes as a file of this kind, see `../files.rs`.

#![no_main]

#[path = "../files.rs"]
mod files;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    files::config(data);
});
