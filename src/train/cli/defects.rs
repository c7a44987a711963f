//! `inspect-train defects`: made defects to look at and to judge; generators ([`super::generators`]).

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use inspect_train::batches::{Batches, Options, Symmetry};
use inspect_train::defects::{Family, Ground, Random, make};
use inspect_train::sheet::{Row, Tile, draw, from_planes, tinted};
use rand::SeedableRng as _;

use super::generators::{GeneratorArgs, SampleArgs};
use super::pictures::{PictureArgs, check_png, write_png};

/// Pixels that a page is wide, about.
const PAGE_PX: usize = 1600;
/// Fewest and most examples of a family.
const EXAMPLES: (usize, usize) = (2, 8);

#[derive(Args)]
pub struct DefectsArgs {
    #[command(subcommand)]
    command: DefectsCommand,
}

#[derive(Subcommand)]
enum DefectsCommand {
    /// Draw examples of every family of made defects on your goods, on one page
    ///
    /// `fit` makes such defects on the goods and learns to see them. One row a family: each example, and
    /// beside it the same with the mask tinted. Sizes and contrasts vary widely, faint ones among them:
    /// look whether the families are ones that your parts can have, and whether they lie on the part.
    Preview(PreviewArgs),
    Fit(GeneratorArgs),
    Sample(SampleArgs),
    #[command(name = "whatif")]
    WhatIf(super::whatif::WhatIfArgs),
    Judge(super::judge::JudgeArgs),
}

#[derive(Args)]
struct PreviewArgs {
    #[command(flatten)]
    pictures: PictureArgs,
    /// The PNG file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Another seed shows other examples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only these families; default: all
    #[arg(long, value_enum, value_name = "NAME", num_args = 1..)]
    family: Vec<Family>,
    /// How the part may lie in front of the camera, as for `fit`
    #[arg(long, value_enum, default_value_t = Symmetry::None)]
    symmetry: Symmetry,
}

/// Runs `defects`.
pub fn run(args: &DefectsArgs) -> anyhow::Result<()> {
    match &args.command {
        DefectsCommand::Preview(args) => preview(args),
        DefectsCommand::Fit(args) => super::generators::fit(args),
        DefectsCommand::Sample(args) => super::generators::sample(args),
        DefectsCommand::WhatIf(args) => super::whatif::run(args),
        DefectsCommand::Judge(args) => super::judge::run(args),
    }
}

fn preview(args: &PreviewArgs) -> anyhow::Result<()> {
    check_png(&args.out)?;
    let goods = args.pictures.load()?;
    let (side, channels) = (goods.input.width as usize, usize::from(goods.input.channels));
    let families = if args.family.is_empty() { Family::ALL.to_vec() } else { args.family.clone() };
    let examples = (PAGE_PX / (2 * side)).clamp(EXAMPLES.0, EXAMPLES.1);
    let pixels = goods.pixels.iter().map(Vec::as_slice).collect();
    let matters = goods.mask.as_deref();
    let options = Options { symmetry: args.symmetry, seed: args.seed, matters, ..Options::default() };
    let mut batches = Batches::new(pixels, goods.input, options);
    let mut random = Random::seed_from_u64(args.seed);
    let mut rows = Vec::with_capacity(families.len());
    for (k, family) in families.iter().enumerate() {
        let mut tiles = Vec::with_capacity(2 * examples);
        for j in 0..examples {
            let pair = batches.copies((k * examples + j) as u64, 2, true);
            let (good, other) = pair.split_at(pair.len() / 2);
            let ground = Ground { good, other, side, channels, matters };
            let made = make(&mut random, &ground, &[*family]);
            let plain = from_planes(&made.picture, channels);
            let marked = tinted(&plain, &made.mask);
            tiles.extend([plain, marked].map(|pixels| Tile { pixels, ..Tile::default() }));
        }
        rows.push(Row { label: family.to_string(), tiles });
    }
    let page = draw(&rows, side).context("the page is too large; use a smaller --size or fewer families")?;
    write_png(&page, &args.out)?;
    println!("{}: {} families, {examples} examples each", args.out.display(), families.len());
    Ok(())
}
