//! `inspectd journal export`: the records as a file for other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::journal::JournalReader;
use crate::journal::export::{Format, Wanted, export};
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: super::Which,
    #[command(flatten)]
    records: super::Records,
    /// As what.
    #[arg(long, value_enum)]
    format: FormatWord,
    /// The file; replaced if it is there, once the new one is whole.
    #[arg(long)]
    out: PathBuf,
    /// From this time on: 2026-07-01, 2026-07-01T06:00 (this machine's zone), or with a zone, 2026-07-01T06:00:00Z.
    #[arg(long, value_parser = time)]
    from: Option<Timestamp>,
    /// Before this time.
    #[arg(long, value_parser = time)]
    to: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FormatWord {
    /// For spreadsheets: a row for each inspection (or, with --kind event, each event).
    Csv,
    /// Each record as MQTT publishes it, one a line.
    Jsonl,
    /// For data frames: as CSV, with types.
    Parquet,
}

fn time(text: &str) -> Result<Timestamp, String> {
    let here = |civil: DateTime| civil.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp());
    let stated = text.parse::<Timestamp>().ok();
    stated
        .or_else(|| here(text.parse::<DateTime>().ok()?))
        .or_else(|| here(text.parse::<Date>().ok()?.to_datetime(jiff::civil::Time::midnight())))
        .ok_or_else(|| {
            "expected a time such as 2026-07-01, 2026-07-01T06:00 or 2026-07-01T06:00:00Z".to_owned()
        })
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (path, _) = args.which.paths()?;
    let path = if path.is_dir() { path.join("journal.db") } else { path };
    let reader = JournalReader::open_damaged(&path)?;
    let wanted = Wanted {
        format: match args.format {
            FormatWord::Csv => Format::Csv,
            FormatWord::Jsonl => Format::Jsonl,
            FormatWord::Parquet => Format::Parquet,
        },
        kind: args.records.kind.map(super::KindWord::kind),
        station: args.records.station.clone(),
        from: args.from,
        to: args.to,
    };
    let mut shown: Option<Progress> = None;
    let exported = export(&reader, &wanted, &args.out, &mut |done, of| {
        shown.get_or_insert_with(|| Progress::new(of, "records")).show(done);
    })
    .with_context(|| format!("journal {}", path.display()))?;
    if let Some(shown) = shown {
        shown.clear();
    }
    let (out, records) = (args.out.display(), exported.records);
    let mut text = format!("{out}: {records} records\n");
    if exported.not_understood > 0 {
        text += &format!("{} records are not of this version of inspectd\n", exported.not_understood);
    }
    for place in &exported.unreadable {
        let on = place
            .next
            .map_or("nothing after it can be read".to_owned(), |next| format!("it goes on with {next}"));
        text += &format!(
            "the journal is damaged after sequence {} ({}): {on}. The sqlite3 program's .recover may find more\n",
            place.after, place.reason
        );
    }
    super::super::say(&text)?;
    Ok(if exported.unreadable.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
