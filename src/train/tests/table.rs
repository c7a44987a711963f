//! The table script with a trainer that answers at once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// Writes a model file and a JSON of figures, and one line a call; fails for the set pcb; of paper_bft the first
/// fit is stopped half-way, which leaves a checkpoint.
const TRAINER: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
case "$*" in *pcb*) echo no pictures; exit 1 ;; esac
while [ $# -gt 0 ]; do
    case $1 in
        --out)
            echo model > "$2"
            case "$2" in
                *paper_bft*) if [ -e "$2.checkpoint" ]; then rm "$2.checkpoint"; else touch "$2.checkpoint"; fi ;;
            esac ;;
        --seed) ;;
        --json) echo '{"good": 10, "defective": 30, "auroc": 0.9'"$(wc -l < "$(dirname "$0")/calls" | tr -d ' ')"',
            "escape_rate": 0.25, "false_reject_rate": 0.1, "provisional": true}' > "$2" ;;
    esac
    shift
done
"#;

fn table(dir: &Path, more: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/table.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).arg("--data").arg(dir).arg("--out").arg(dir.join("out"));
    command.arg("--train").arg(dir.join("train")).args(["--minutes", "0.5", "--seeds", "0,1"]).args(more);
    command.output().unwrap()
}

#[test]
fn what_is_done_is_not_done_again_and_what_is_missing_shows_a_dash() {
    let dir = tempfile::tempdir().unwrap();
    for set in ["bottle", "casting", "pcb"] {
        std::fs::create_dir(dir.path().join(set)).unwrap();
    }
    let trainer = dir.path().join("train");
    std::fs::write(&trainer, TRAINER).unwrap();
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(
        dir.path().join("README.md"),
        "| set | PatchCore |\n| --- | --- |\n| bottle | 0.987 / 0.876 |\n",
    )
    .unwrap();
    let calls = || std::fs::read_to_string(dir.path().join("calls")).unwrap().lines().count();

    let first = table(dir.path(), &["--sets", "bottle"]);
    assert!(first.status.success(), "{first:?}");
    assert_eq!(calls(), 4, "two seeds, fitted and evaluated");
    let both = table(dir.path(), &["--sets", "bottle,casting"]);
    let text = String::from_utf8_lossy(&both.stdout);
    assert_eq!(calls(), 8, "{both:?}");
    let bottle = text.lines().find(|l| l.starts_with("| bottle")).unwrap();
    assert!(bottle.contains("10 / 30") && bottle.contains("0.987") && bottle.contains("0.75"), "{bottle}");
    assert!(bottle.contains("–") && bottle.contains("provisional"), "no floor, no pixels: {bottle}");
    assert!(text.contains("| mean |") && text.contains("4 of 4 fits"), "{text}");
    let casting = std::fs::read_to_string(dir.path().join("calls")).unwrap();
    assert!(casting.lines().any(|l| l.contains("casting") && l.contains("--symmetry rotate")), "{casting}");

    let failed = table(dir.path(), &["--sets", "bottle,pcb"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("pcb-seed0"), "names the log: {failed:?}");
    assert_eq!(calls(), 10, "one call a seed, which failed");
    let rendered = table(dir.path(), &["--sets", "bottle,casting", "--render"]);
    assert_eq!(rendered.stdout, both.stdout);
    assert_eq!(calls(), 10);
}

#[test]
fn the_model_of_a_stopped_fit_is_not_judged_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("paper_bft")).unwrap();
    let trainer = dir.path().join("train");
    std::fs::write(&trainer, TRAINER).unwrap();
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755)).unwrap();
    let first = table(dir.path(), &["--sets", "paper_bft"]);
    let said = String::from_utf8_lossy(&first.stderr);
    assert!(!first.status.success() && said.contains("stopped before its last step"), "{said}");
    assert!(first.stdout.is_empty(), "a stopped fit has no figures: {first:?}");
    let second = table(dir.path(), &["--sets", "paper_bft"]);
    assert!(second.status.success(), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stdout).contains("2 of 2 fits"));
}
