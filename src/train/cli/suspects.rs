//! `inspect-train suspects`: the strangest pictures among the goods, to look at before a fit.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use inspect_train::file::write_whole;
use inspect_train::suspects::{SUSPECT_Z, suspects};

use super::pictures::{PictureArgs, check_png, list, write_sheet};

/// List and show the strangest pictures among the goods, before a fit learns from them
///
/// A defective part among the goods teaches that its defect is usual. Each picture is compared, patch by patch,
/// with those of other groups (folders), which takes seconds; z says how many deviations it is stranger than the
/// middle one. A rare good part is strange too: look at the sheet, then leave out what is defective with
/// `fit --exclude`.
#[derive(Args)]
pub struct SuspectsArgs {
    #[command(flatten)]
    pictures: PictureArgs,
    /// The contact sheet to write (PNG): the 60 strangest, each with its name and z; in a red frame: look at it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Also write the names of those that stand out, one a line: delete the good ones, give it to `fit --exclude`
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
}

/// Runs `suspects`.
pub fn run(args: &SuspectsArgs) -> anyhow::Result<()> {
    check_png(&args.out)?;
    let goods = args.pictures.load()?;
    let all = suspects(&goods);
    write_sheet(&goods, &all, &args.out)?;
    let count = list(&all);
    if let Some(path) = &args.list {
        let names: String = all.iter().take(count).map(|s| format!("{}\n", s.name)).collect();
        let text = format!("# z {SUSPECT_Z} and more; delete the lines of good parts\n{names}");
        write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}: {count} of {} pictures stand out (z {SUSPECT_Z} and more)", args.out.display(), all.len());
    Ok(())
}
