//! Spoilt files: good examples of each file that the daemon reads, changed at random by a seed.
//!
//! What must hold stands in `tests/fuzz/files.rs`, which cargo-fuzz uses too.

use std::time::{Duration, Instant};

use super::spoil::Spoil;
use crate::files::TARGETS;

/// How long each kind of file is tried, and how often at least.
const TIME: Duration = Duration::from_secs(2);
const LEAST: u64 = 200;

#[test]
fn spoilt_files_panic_nowhere_and_what_is_accepted_is_safe() {
    for target in &TARGETS {
        let good = (target.good)();
        let (mut spoil, began, mut tried, mut accepted) = (Spoil::new(1), Instant::now(), 0, 0);
        while tried < LEAST || began.elapsed() < TIME {
            let bytes = spoil.one_of(&good);
            tried += 1;
            accepted += u64::from((target.check)(&bytes));
        }
        println!(
            "{}: {tried} spoilt files in {:.1} s, {accepted} accepted",
            target.name,
            began.elapsed().as_secs_f64()
        );
        assert!(accepted < tried, "{}: nothing is refused", target.name);
    }
}

/// The examples are what they are said to be, or the test above shows little. With `FUZZ_CORPUS=FOLDER` they are
/// written there for cargo-fuzz to begin with.
#[test]
fn good_examples_are_accepted() {
    let corpus = std::env::var_os("FUZZ_CORPUS").map(std::path::PathBuf::from);
    for target in &TARGETS {
        let good = (target.good)();
        for (n, example) in good.iter().enumerate() {
            assert!((target.check)(example), "{}, example {n}", target.name);
            if let Some(folder) = corpus.as_ref().map(|corpus| corpus.join(target.name)) {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("good-{n}")), example).unwrap();
            }
        }
    }
}
