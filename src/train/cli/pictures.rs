//! The options that say which pictures are good parts and what of them the model sees; loading with progress;
//! the sheet of suspects.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use inspect_core::image::{Image, Roi};
use inspect_train::data::{self, Colour, Goods, Look, MAX_LISTED, MIN_GOODS};
use inspect_train::file::write_whole;
use inspect_train::sheet::{Row, Tile, draw, resized};
use inspect_train::suspects::Suspect;

/// Pause between lines of progress where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);
/// Most pictures on a sheet of suspects.
const MOST_TILES: usize = 60;
/// Of them side by side.
const ACROSS: usize = 6;
/// Their side on the sheet, pixels.
const TILE_PX: u32 = 160;

#[derive(Args)]
pub struct PictureArgs {
    /// Folder of good pictures (subfolder = lot or session), or an MVTec AD folder with train/good in it
    ///
    /// At least 12 pictures; some 30 give a provisional threshold, 100 and more a proven one. Pictures of
    /// one subfolder (or of one `group` in a manifest.csv with the columns file,group) are never on both sides
    /// of the split into fitting and calibration. Links to folders are not followed.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Side of the model's square input, pixels, a multiple of 16
    ///
    /// A defect should still cover 2 pixels after resizing. Time grows with the square.
    #[arg(long, default_value_t = 128)]
    pub size: u32,
    /// Look at this region of each picture only: left, top, width, height in its pixels
    ///
    /// Use it where the part fills a small piece of the picture, always the same: more of --size is left for
    /// the part. The region goes on the model's card, and the daemon cuts its frames the same way unless a
    /// view has a roi of its own. A region that is not square is squeezed to one, as whole pictures are.
    #[arg(long, value_name = "X,Y,W,H", value_parser = roi)]
    pub roi: Option<Roi>,
    /// Ignore what is black in this picture (PNG, as large as the pictures or as --roi); white is inspected
    ///
    /// Use it where a place before the camera changes and says nothing of the part: a belt, a clamp, a
    /// reflection. Defects there are not found. The place is fixed, however the part lies: with --symmetry only
    /// those turned copies are learnt from that leave the mask as it is.
    #[arg(long, value_name = "FILE")]
    pub mask: Option<PathBuf>,
    /// Whether the model sees colour
    ///
    /// `auto`: RGB unless all pictures are grey. `grey` if colour says nothing of the part or drifts with the
    /// light. `rgb` if these pictures happen to be grey and the line's will not be.
    #[arg(long, value_enum, default_value_t, alias = "color")]
    pub colour: Colour,
    /// Leave out the pictures that this file names, one a line (path below --data)
    ///
    /// For defective parts that got among the goods; `suspects --list` writes such a file. Their number goes on
    /// the model's card.
    #[arg(long, value_name = "FILE")]
    pub exclude: Option<PathBuf>,
}

impl PictureArgs {
    /// Finds and loads the goods, and says what the user should know of them.
    pub fn load(&self) -> anyhow::Result<Goods> {
        let mut pictures = data::find_goods(&self.data)?;
        let found = pictures.len();
        if let Some(list) = &self.exclude {
            pictures = data::exclude(&self.data, pictures, list, MIN_GOODS)?;
        }
        let excluded = found - pictures.len();
        let look = Look { size: self.size, roi: self.roi, colour: self.colour, mask: self.mask.clone() };
        let goods = Goods { excluded, ..data::load(&pictures, &look, &mut progress("reading pictures"))? };
        let colour = if goods.input.channels == 1 { "grey" } else { "RGB" };
        let without = if excluded > 0 { format!(" ({excluded} excluded)") } else { String::new() };
        eprintln!("{} good pictures{without}, {colour}, at {}x{}", pictures.len(), self.size, self.size);
        for note in &goods.notes {
            eprintln!("note: {note}");
        }
        Ok(goods)
    }
}

/// "X,Y,W,H" as a region.
fn roi(text: &str) -> Result<Roi, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[x, y, width, height]) if width > 0 && height > 0 => Ok(Roi { x, y, width, height }),
        _ => {
            Err("expected four whole numbers, left,top,width,height in pixels, such as 120,40,512,512".into())
        }
    }
}

/// Tells how much of what is `doing` is done: a bar in a terminal, a line every few seconds elsewhere.
pub fn progress(doing: &'static str) -> impl FnMut(usize, usize) {
    let lines = !std::io::stderr().is_terminal();
    let bar = ProgressBar::new(0).with_prefix(doing);
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (begin, mut last, mut first) = (Instant::now(), Instant::now(), None);
    move |done, of| {
        let first = *first.get_or_insert(done);
        if lines {
            if last.elapsed() >= LINE_PAUSE && done > first {
                last = Instant::now();
                let each = begin.elapsed().as_secs_f64() / (done - first) as f64;
                eprintln!("{doing}: {done} of {of}, {:.0} s left", each * of.saturating_sub(done) as f64);
            }
        } else {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            if done == of {
                bar.finish_and_clear();
            }
        }
    }
}

/// A sheet is a PNG file. Refuses another name before work is spent on it.
pub fn check_png(path: &Path) -> anyhow::Result<()> {
    let png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    anyhow::ensure!(png, "--out {}: expected the name of a .png file", path.display());
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(parent.is_dir(), "--out {}: its folder is not there; make it first", path.display());
    Ok(())
}

/// Writes a sheet whole or not at all.
pub fn write_png(page: &Image, path: &Path) -> anyhow::Result<()> {
    write_whole(path, &page.encode_png()?)
        .with_context(|| format!("{}: the sheet was not written", path.display()))
}

/// Writes the strangest goods as a contact sheet, strangest first.
pub fn write_sheet(goods: &Goods, all: &[Suspect], path: &Path) -> anyhow::Result<()> {
    let tile = |s: &Suspect| {
        let pixels = resized(&goods.pixels[s.index], goods.input, TILE_PX)?;
        let caption = vec![s.name.clone(), format!("z {:.1}", s.z)];
        anyhow::Ok(Tile { pixels, caption, framed: s.stands_out(), ..Tile::default() })
    };
    let tiles = all.iter().take(MOST_TILES).map(tile).collect::<Result<Vec<_>, _>>()?;
    let rows = tiles.chunks(ACROSS).map(|tiles| Row { label: String::new(), tiles: tiles.to_vec() });
    write_png(&draw(&rows.collect::<Vec<_>>(), TILE_PX as usize)?, path)
}

/// Lists those that stand out on standard error. Returns how many do.
pub fn list(all: &[Suspect]) -> usize {
    let out: Vec<&Suspect> = all.iter().take_while(|s| s.stands_out()).collect();
    if out.is_empty() {
        return 0;
    }
    eprintln!(
        "{} of {} good pictures are strange among the others; look whether their parts are good, since a \
         defective one teaches that its defect is usual:",
        out.len(),
        all.len()
    );
    for s in out.iter().take(MAX_LISTED) {
        let group = if s.group == s.name { String::new() } else { format!(" (group {})", s.group) };
        eprintln!("  z {:4.1}  {}{group}", s.z, s.name);
    }
    if out.len() > MAX_LISTED {
        eprintln!("  and {} more", out.len() - MAX_LISTED);
    }
    out.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_four_whole_numbers() {
        assert_eq!(roi("1, 2,3,4"), Ok(Roi { x: 1, y: 2, width: 3, height: 4 }));
        for bad in ["", "1,2,3", "1,2,3,4,5", "1,2,0,4", "-1,2,3,4", "a,b,c,d", "1,2,3,99999999999"] {
            assert!(roi(bad).is_err_and(|e| e.contains("left,top,width,height")), "{bad}");
        }
    }
}
