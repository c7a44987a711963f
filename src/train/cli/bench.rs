//! `inspect-train bench`: how long a training step takes, and where its time goes.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use inspect_core::card::Input;
use inspect_train::bench::{MAX_STEPS, Plan, bench, rendered};
use inspect_train::data::{Colour, Look, check_size, find_goods, load};
use inspect_train::net::Variant;
use inspect_train::torch::Precision;
use tch::Device;

use super::pictures::progress;

/// Time the training step on this machine's processor, by itself or beside PyTorch
///
/// Makes the steps that `fit` makes, on rendered pictures or on yours, and shows where their time goes: `wait`
/// for the thread that makes batches, `input` (batch to tensors), `forward`, `loss`, `backward`, `update`
/// (AdamW and moving average). With --pytorch, PyTorch makes the same step in turn with ours, so that
/// both meet the same load of the machine. Other programs disturb it: look at the range of the rounds.
#[derive(Args)]
pub struct BenchArgs {
    /// Folder of good pictures, as for `fit`; without it, pictures are rendered
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Side of the model's square input, pixels, a multiple of 16
    #[arg(long, default_value_t = 128)]
    size: u32,
    /// Width of the network
    #[arg(long, value_enum, default_value_t = Variant::Xs)]
    variant: Variant,
    /// Channels: 1 (grey) or 3 (RGB); default: those of --data, else 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    channels: Option<u8>,
    /// Threads of the step; one more makes batches
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Timed steps; with --pytorch 21 rounds follow, each a third as long
    #[arg(long, default_value_t = 30, value_name = "N")]
    steps: usize,
    /// In what numbers the network learns; default: bf16 where the processor computes with it, else f32
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Python that has PyTorch: time the same step there as well, and show ours / PyTorch's
    ///
    /// Eager PyTorch with channels_last, ReLU in place, fused AdamW and, for bf16, autocast; the same network
    /// (checked), losses, average, batch size and threads, random pictures that are already in memory. For
    /// the same kernels take the release that inspect-train is built against: torch 2.11.
    #[arg(long, value_name = "PYTHON")]
    pytorch: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `bench`.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        (1..=MAX_STEPS).contains(&args.steps),
        "--steps {}: expected 1 to {MAX_STEPS}",
        args.steps
    );
    anyhow::ensure!(args.channels != Some(2), "--channels 2: expected 1 or 3");
    let (pixels, input) = pictures(args)?;
    let plan = Plan {
        variant: args.variant,
        precision: args.precision.unwrap_or_else(|| Precision::fastest(Device::Cpu)),
        threads: usize::from(args.threads),
        steps: args.steps,
    };
    let report = bench(&pixels, input, plan, args.pytorch.as_deref(), &mut |text| eprintln!("{text}"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).context("the figures cannot be written")?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

fn pictures(args: &BenchArgs) -> anyhow::Result<(Vec<Vec<u8>>, Input)> {
    check_size(args.size)?;
    let Some(dir) = &args.data else {
        let input = Input { width: args.size, height: args.size, channels: args.channels.unwrap_or(1) };
        return Ok((rendered(input), input));
    };
    let colour = match args.channels {
        None => Colour::Auto,
        Some(1) => Colour::Grey,
        Some(_) => Colour::Rgb,
    };
    let look = Look { colour, ..Look::at(args.size) };
    let goods = load(&find_goods(dir)?, &look, &mut progress("reading pictures"))?;
    Ok((goods.pixels, goods.input))
}
