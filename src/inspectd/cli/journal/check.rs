//! `inspectd journal check`: whether the journal is sound.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::journal::check::{self, Checked};
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: super::Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (dir, run_dir) = args.which.paths()?;
    let mut shown: Option<Progress> = None;
    let checked = check::check(&dir, &run_dir, &mut |done, of| {
        shown.get_or_insert_with(|| Progress::new(of, "records")).show(done);
    });
    if let Some(shown) = shown {
        shown.clear();
    }
    super::super::say(&if args.json {
        serde_json::to_string_pretty(&checked)? + "\n"
    } else {
        words(&checked)
    })?;
    Ok(if checked.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(checked: &Checked) -> String {
    let mut text = format!("journal {}\n", checked.path.display());
    let mut line = |name: &str, words: String| {
        let _ = writeln!(text, "  {name:<10}  {words}");
    };
    if let (Some(journal), Some(schema)) = (&checked.journal, checked.schema) {
        line("name", format!("{journal}, tables of version {schema}"));
        line("records", format!("{}, sequences {} to {}", checked.records, checked.first, checked.last));
    }
    for station in &checked.stations {
        let parts =
            format!("{}: {} parts, {} to {}", station.station, station.parts, station.first, station.last);
        let missing: u64 = station.gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
        line("station", if missing > 0 { format!("{parts}, {missing} numbers missing") } else { parts });
        for gap in station.gaps.iter().take(check::MAX_TOLD) {
            let why = gap
                .explained_by
                .map_or("not explained".to_owned(), |at| format!("see the event at sequence {at}"));
            line("", format!("missing: {} to {}, {why}", gap.from, gap.to));
        }
    }
    for consumer in &checked.consumers {
        line(
            "consumer",
            format!("{}: has all up to {}, {} behind", consumer.name, consumer.sequence, consumer.behind),
        );
    }
    if checked.dropped_undelivered > 0 {
        line("dropped", format!("{} records that not every consumer had", checked.dropped_undelivered));
    }
    if let Some(ring) = &checked.ring {
        line(
            "ring",
            format!("{} parts in hand or not yet taken over, {} of them judged", ring.parts, ring.judged),
        );
    }
    for aside in &checked.put_aside {
        let words =
            format!("{} ({:.1} MB); to read it: --dir {0}", aside.path.display(), aside.bytes as f64 / 1e6);
        line("put aside", words);
    }
    if checked.audit_lines > 0 {
        line("audit", format!("{} lines, each as it was written", checked.audit_lines));
    }
    for note in &checked.notes {
        line("note", note.clone());
    }
    for finding in &checked.findings {
        line(
            "WRONG",
            format!("{}. {}.", finding.what.trim_end_matches('.'), finding.action.trim_end_matches('.')),
        );
    }
    match checked.findings.len() {
        0 => text.push_str("sound\n"),
        count => _ = writeln!(text, "NOT SOUND: {count} findings"),
    }
    text
}
