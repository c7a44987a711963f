//! `inspect-train split`: real defects for training, taken out of the test split.

use std::path::PathBuf;

use clap::Args;
use inspect_train::withhold::{plan, write};

/// Take real defects out of the test split to train on; the rest is what is judged
///
/// Writes OUT/real (class folders, ground_truth, boxes.csv) for `fit --real` and OUT/rest in the MVTec AD
/// layout for `fit --data` and `evaluate --data`. Groups (manifest.csv with the columns file,group; else the folder
/// below the class) move whole; the last group of a class stays. --data is left as it is; pictures are hard links
/// where the disk allows it, so do not edit them. Compare models with and without real defects on OUT/rest alone.
#[derive(Args)]
pub struct SplitArgs {
    /// Folder in the MVTec AD layout: train/good, test/good, test/<class>
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// At least so many pictures of each class of defect, as far as its groups allow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    real: u32,
    /// Folder to write, new or empty, not inside --data
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of the choice of groups
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs `split`.
pub fn run(args: &SplitArgs) -> anyhow::Result<()> {
    let plan = plan(&args.data, args.real as usize, args.seed)?;
    write(&plan, &args.data, &args.out)?;
    print!("{}", plan.told());
    println!("{0}/real, {0}/rest, {0}/split.json: written", args.out.display());
    Ok(())
}
