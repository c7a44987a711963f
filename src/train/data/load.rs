//! From picture files to the model's input, on all cores, in order.
//!
//! Every picture goes the daemon's way: cut to the region, resized, grey or RGB. All pictures are read before
//! an error is returned, so that every bad one is named at once.
//!
//! Never here: preprocessing of its own; a guess at a picture that cannot be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use inspect_core::card::{Card, Input, MAX_INPUT_SIDE_PX};
use inspect_core::image::{Image, ImageError, Roi, luma};
use inspect_core::model::hex;
use inspect_core::resize::Resizer;
use sha2::{Digest, Sha256};

use super::find::duplicate_notes;
use super::mask::read_mask;
use super::{DataError, Goods, MAX_FILE_BYTES, MAX_GOODS_BYTES, MAX_LISTED, MEMORY_SHARE, Picture};

/// Mean difference between colour channels (0 to 255) up to which a picture counts as grey.
const GREY_DIFFERENCE: f64 = 1.0;
/// Up to here no picture has levels enough (12 bits stored in 16 reach 15).
const DARK: u8 = 16;
/// Up to here it is worth a note (14 bits stored in 16 reach 63).
const DIM: u8 = 64;
/// Most threads that read pictures; each may hold one decoded file.
const MAX_READERS: usize = 16;

/// Which channels the model gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Colour {
    /// Grey if all pictures are grey, else RGB.
    #[default]
    Auto,
    /// Grey always: colour says nothing of the part, or changes with the light.
    Grey,
    /// RGB always: the line's camera is a colour camera although these pictures are grey.
    Rgb,
}

/// What of the pictures the model gets to see.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Side of the model's square input, pixels.
    pub size: u32,
    /// The region of each picture, in its own pixels; `None`: the whole.
    pub roi: Option<Roi>,
    /// Grey or RGB.
    pub colour: Colour,
    /// A picture of what matters (white) and what is ignored (black).
    pub mask: Option<PathBuf>,
}

impl Look {
    /// Whole pictures at `size` x `size` pixels, grey or RGB as they are.
    pub fn at(size: u32) -> Self {
        Self { size, ..Self::default() }
    }
}

/// Reads one picture as the daemon would see it: `roi` of it (the card's; `None`: the whole) as `input`.
/// Shape: `[input.height, input.width, input.channels]`.
///
/// Errors: [`DataError::Bad`], which names the file.
pub fn load_one(
    path: &Path,
    roi: Option<Roi>,
    input: Input,
    resizer: &mut Resizer,
) -> Result<Vec<u8>, DataError> {
    let mut pixels = vec![0; input.bytes()];
    let read = read(path).and_then(|(image, _)| {
        resizer.run(&image, roi, input, &mut pixels).map_err(|e| reason(path, &e))?;
        Ok(pixels)
    });
    read.map_err(|reason| DataError::Bad { count: 1, listed: vec![reason] })
}

/// Whether a model can have that side, pixels. Errors: [`DataError::Size`].
pub fn check_size(size: u32) -> Result<(), DataError> {
    let fits = size.is_multiple_of(16) && (32..=MAX_INPUT_SIDE_PX).contains(&size);
    if fits { Ok(()) } else { Err(DataError::Size { got: size }) }
}

/// Loads pictures; `report` is told how many of how many are read.
///
/// Errors: [`DataError::Size`]; [`DataError::Memory`]; [`DataError::Bad`] with every file that cannot be read
/// or does not hold the region; [`DataError::Mask`]; [`DataError::Dark`].
pub fn load(
    pictures: &[Picture],
    look: &Look,
    report: &mut dyn FnMut(usize, usize),
) -> Result<Goods, DataError> {
    let size = look.size;
    check_size(size)?;
    let channels = if look.colour == Colour::Grey { 1 } else { 3 };
    let input = Input { width: size, height: size, channels };
    let mut read = read_all(pictures, look.roi, input, report)?;
    let channels = match look.colour {
        Colour::Auto if read.iter().all(|r| r.grey) => 1,
        _ => channels,
    };
    if channels == 1 && input.channels == 3 {
        // What the daemon's preprocessing does: resize first, then luma.
        for r in &mut read {
            r.pixels = r.pixels.chunks_exact(3).map(|c| luma([c[0], c[1], c[2]])).collect();
        }
    }
    let input = Input { channels, ..input };
    let mut sizes = BTreeMap::<(u32, u32), usize>::new();
    read.iter().for_each(|r| *sizes.entry(r.size).or_default() += 1);
    let mut notes = size_notes(&sizes, look);
    notes.extend(colour_notes(&read, look.colour));
    let mask = match &look.mask {
        Some(path) => read_mask(path, &sizes, look.roi, input)?,
        None => None,
    };
    notes.extend(mask_note(look, mask.as_deref()));
    let mut goods = collect(pictures, read, input, look.roi, notes)?;
    goods.mask = mask;
    Ok(goods)
}

/// Loads pictures as the model of `card` sees them.
///
/// Errors: as [`load`].
pub fn load_for(
    pictures: &[Picture],
    card: &Card,
    report: &mut dyn FnMut(usize, usize),
) -> Result<Goods, DataError> {
    let roi = card.preprocessing.roi;
    let read = read_all(pictures, roi, card.input, report)?;
    collect(pictures, read, card.input, roi, Vec::new())
}

/// One picture, read.
struct Read {
    pixels: Vec<u8>,
    file_sha256: [u8; 32],
    grey: bool,
    /// Width and height of the file's picture, pixels.
    size: (u32, u32),
}

fn collect(
    pictures: &[Picture],
    read: Vec<Read>,
    input: Input,
    roi: Option<Roi>,
    mut notes: Vec<String>,
) -> Result<Goods, DataError> {
    let brightest = read.iter().flat_map(|r| r.pixels.iter().copied()).max().unwrap_or(0);
    if brightest <= DARK {
        return Err(DataError::Dark { got: read.len(), brightest });
    }
    if brightest <= DIM {
        notes.push(format!(
            "the brightest pixel of all pictures is {brightest} of 255. If the camera stores 14 bits or fewer in \
             16, scale them to the full range: most levels are lost."
        ));
    }
    let names: Vec<String> = pictures.iter().map(|p| p.name.clone()).collect();
    let groups: Vec<String> = pictures.iter().map(|p| p.group.clone()).collect();
    let digests: Vec<[u8; 32]> = read.iter().map(|r| Sha256::digest(&r.pixels).into()).collect();
    notes.extend(duplicate_notes(&groups, &names, &digests));
    let mut files: Vec<[u8; 32]> = read.iter().map(|r| r.file_sha256).collect();
    files.sort_unstable();
    let sha256 = hex(&Sha256::digest(files.concat()));
    let pixels = read.into_iter().map(|r| r.pixels).collect();
    Ok(Goods { names, roi, sha256, notes, ..Goods::new(input, pixels, groups) })
}

/// Reads all pictures on several threads; the result is in the order of `pictures`.
fn read_all(
    pictures: &[Picture],
    roi: Option<Roi>,
    input: Input,
    report: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Read>, DataError> {
    check_memory(pictures.len(), input.width, input.bytes())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let readers = cores.min(MAX_READERS).min(pictures.len());
    let next = AtomicUsize::new(0);
    let mut read: Vec<Option<Read>> = Vec::new();
    read.resize_with(pictures.len(), || None);
    let mut bad = BTreeMap::new();
    std::thread::scope(|scope| {
        let (send, receive) = channel();
        for _ in 0..readers {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                let mut resizer = Resizer::default();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(picture) = pictures.get(i) else { return };
                    if send.send((i, read_one(&picture.path, roi, input, &mut resizer))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (done, (i, result)) in receive.into_iter().enumerate() {
            match result {
                Ok(one) => read[i] = Some(one),
                Err(reason) => drop(bad.insert(i, reason)),
            }
            report(done + 1, pictures.len());
        }
    });
    let read: Vec<Read> = read.into_iter().flatten().collect();
    if read.len() < pictures.len() {
        let count = pictures.len() - read.len();
        return Err(DataError::Bad { count, listed: bad.into_values().take(MAX_LISTED).collect() });
    }
    Ok(read)
}

/// Whether `got` pictures of `each` bytes at the size `size` fit. Errors: [`DataError::Memory`].
pub fn check_memory(got: usize, size: u32, each: usize) -> Result<(), DataError> {
    let most_bytes = match memory_bytes() {
        Some(bytes) => MAX_GOODS_BYTES.min((bytes as f64 * MEMORY_SHARE) as u64),
        None => MAX_GOODS_BYTES,
    };
    let each = each as u64;
    let bytes = each.saturating_mul(got as u64);
    if bytes > most_bytes {
        let fit = most_bytes / each.max(1);
        return Err(DataError::Memory { got, size, bytes, most_bytes, fit });
    }
    Ok(())
}

/// The machine's memory, where Linux says it.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A whole picture file. Errors: in words, with the file's name.
pub fn read(path: &Path) -> Result<(Image, Vec<u8>), String> {
    let io = |e: std::io::Error| format!("{}: {e}", path.display());
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        return Err(format!("{}: is no ordinary file", path.display()));
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(format!("{}: {} bytes, expected at most {MAX_FILE_BYTES}", path.display(), about.len()));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let image = Image::decode(&bytes, path).map_err(|e| reason(path, &e))?;
    Ok((image, bytes))
}

fn read_one(path: &Path, roi: Option<Roi>, input: Input, resizer: &mut Resizer) -> Result<Read, String> {
    let (image, bytes) = read(path)?;
    let mut pixels = vec![0; input.bytes()];
    resizer.run(&image, roi, input, &mut pixels).map_err(|e| reason(path, &e))?;
    Ok(Read {
        grey: input.channels == 1 || is_grey(&pixels),
        pixels,
        file_sha256: Sha256::digest(&bytes).into(),
        size: (image.width(), image.height()),
    })
}

/// An image error with the file's name exactly once.
fn reason(path: &Path, error: &ImageError) -> String {
    match error {
        ImageError::Io { .. } | ImageError::Decode { .. } => error.to_string(),
        ImageError::Shape { .. } | ImageError::Roi { .. } => format!("{}: {error}", path.display()),
    }
}

/// Whether a picture's colours are grey but for noise. Shape: `[H, W, 3]`.
pub(crate) fn is_grey(rgb: &[u8]) -> bool {
    let difference = |c: &[u8]| f64::from(c[0].abs_diff(c[1]).max(c[1].abs_diff(c[2])));
    let sum: f64 = rgb.chunks_exact(3).map(difference).sum();
    sum / (rgb.len() as f64 / 3.0) <= GREY_DIFFERENCE
}

fn colour_notes(read: &[Read], colour: Colour) -> Option<String> {
    let grey = read.iter().filter(|r| r.grey).count();
    (colour == Colour::Auto && grey > 0 && grey < read.len()).then(|| {
        format!(
            "{grey} of {} pictures are grey, the others colour; the model is RGB. If colour says nothing of the \
             part, --colour grey treats them alike; if one camera took them, look for foreign files.",
            read.len()
        )
    })
}

/// One that is black where it should be white is told by its share.
fn mask_note(look: &Look, mask: Option<&[f32]>) -> Option<String> {
    look.mask.as_ref()?;
    let Some(mask) = mask else { return Some("--mask is white everywhere, so nothing is ignored".into()) };
    let ignored = mask.iter().filter(|m| **m == 0.0).count() as f64 / mask.len() as f64;
    Some(format!(
        "--mask: {:.0} % of each picture is ignored (black), the rest is inspected",
        ignored * 100.0
    ))
}

fn size_notes(sizes: &BTreeMap<(u32, u32), usize>, look: &Look) -> Vec<String> {
    let (mut notes, size) = (Vec::new(), look.size);
    if let (true, Some((first, _)), Some((last, _))) =
        (sizes.len() > 1, sizes.first_key_value(), sizes.last_key_value())
    {
        let treated = match look.roi {
            Some(_) => "--roi cuts the same pixels out of each".to_owned(),
            None => format!("each is squeezed to {size}x{size}"),
        };
        notes.push(format!(
            "the pictures have {} different sizes ({}x{} to {}x{} pixels); {treated}. \
             If one camera took them, look for foreign files among them.",
            sizes.len(),
            first.0,
            first.1,
            last.0,
            last.1,
        ));
    }
    let small = match look.roi {
        Some(roi) => roi.width < size || roi.height < size,
        None => sizes.keys().any(|&(w, h)| w < size || h < size),
    };
    if small {
        notes.push(format!(
            "some pictures are smaller than --size {size} and are enlarged; a smaller --size loses nothing."
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, width: u32, height: u32, channels: u8) -> Picture {
        let of = |i: u32| (i * 31 % 251) as u8;
        let data = (0..width * height * u32::from(channels)).map(of).collect();
        let path = dir.join(name);
        Image::new(width, height, channels, data).unwrap().write_png(&path).unwrap();
        Picture { path, name: name.into(), group: name.into() }
    }

    fn loaded(pictures: &[Picture], look: &Look) -> Result<Goods, DataError> {
        load(pictures, look, &mut |_, _| {})
    }

    #[test]
    fn order_and_digest_do_not_depend_on_the_threads_and_progress_reaches_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let pictures: Vec<_> =
            (0..40).map(|i| write(dir.path(), &format!("{i:02}.png"), 40 + i, 40, 1)).collect();
        let mut last = (0, 0);
        let goods = load(&pictures, &Look::at(32), &mut |done, of| last = (done, of)).unwrap();
        assert_eq!(last, (40, 40));
        for (picture, pixels) in pictures.iter().zip(&goods.pixels) {
            let one = load_one(&picture.path, None, goods.input, &mut Resizer::default()).unwrap();
            assert_eq!(&one, pixels, "{}", picture.name);
        }
        let again = loaded(&pictures, &Look::at(64)).unwrap();
        assert_eq!(goods.sha256, again.sha256);
        assert_ne!(goods.sha256, loaded(&pictures[1..], &Look::at(64)).unwrap().sha256);
    }

    #[test]
    fn colour_is_what_was_asked_for_and_a_mixture_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let grey = write(dir.path(), "g.png", 40, 40, 1);
        let rgb = write(dir.path(), "c.png", 40, 40, 3);
        let channels = |pictures: &[&Picture], colour| {
            let pictures: Vec<Picture> = pictures.iter().map(|p| (*p).clone()).collect();
            let goods = loaded(&pictures, &Look { colour, ..Look::at(32) }).unwrap();
            assert!(goods.pixels.iter().all(|p| p.len() == goods.input.bytes()));
            (goods.input.channels, goods.notes.iter().any(|n| n.contains("1 of 2 pictures are grey")))
        };
        assert_eq!(channels(&[&grey], Colour::Auto), (1, false));
        assert_eq!(channels(&[&grey], Colour::Rgb), (3, false));
        assert_eq!(channels(&[&grey, &rgb], Colour::Auto), (3, true));
        assert_eq!(channels(&[&grey, &rgb], Colour::Grey), (1, false));
    }

    #[test]
    fn a_region_is_what_the_daemon_would_cut_out() {
        let dir = tempfile::tempdir().unwrap();
        let picture = write(dir.path(), "a.png", 80, 60, 1);
        let roi = Roi { x: 10, y: 20, width: 32, height: 32 };
        let goods = loaded(std::slice::from_ref(&picture), &Look { roi: Some(roi), ..Look::at(32) }).unwrap();
        let cut = Image::read(&picture.path).unwrap().crop(roi).unwrap();
        assert_eq!(goods.pixels[0], cut.data());
        assert_eq!(goods.roi, Some(roi));
        let off = Look { roi: Some(Roi { x: 60, ..roi }), ..Look::at(32) };
        let error = loaded(&[picture], &off).unwrap_err().to_string();
        assert!(error.contains("a.png") && error.contains("80x60"), "{error}");
    }

    #[test]
    fn every_bad_picture_is_named_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut pictures: Vec<_> =
            (0..3).map(|i| write(dir.path(), &format!("ok{i}.png"), 40, 40, 1)).collect();
        for i in 0..MAX_LISTED + 5 {
            let name = format!("bad{i:02}.png");
            let path = dir.path().join(&name);
            std::fs::write(&path, b"").unwrap();
            pictures.push(Picture { path, group: name.clone(), name });
        }
        let error = loaded(&pictures, &Look::at(32)).unwrap_err().to_string();
        assert!(error.contains("25 pictures cannot be used") && error.contains("and 5 more"), "{error}");
        assert!(error.contains("bad00.png") && error.contains("bad19.png") && !error.contains("bad20.png"));
    }

    #[test]
    fn pictures_that_do_not_fit_into_memory_are_refused_before_they_are_read() {
        let input = Input { width: 4096, height: 4096, channels: 3 };
        let error = check_memory(100_000, 4096, input.bytes()).unwrap_err();
        let DataError::Memory { fit, most_bytes, .. } = &error else { panic!("{error}") };
        assert!(*fit * 4096 * 4096 * 3 <= *most_bytes && *fit > 0, "{error}");
        assert!(error.to_string().contains("pictures fit"), "{error}");
        assert!(check_memory(100, 128, 128 * 128 * 3).is_ok());
    }

    #[test]
    fn almost_black_pictures_are_refused_with_the_likely_cause() {
        let dir = tempfile::tempdir().unwrap();
        let of = |level: u8| {
            let path = dir.path().join(format!("{level}.png"));
            Image::new(40, 40, 1, vec![level; 1600]).unwrap().write_png(&path).unwrap();
            loaded(&[Picture { path, name: "a".into(), group: "a".into() }], &Look::at(32))
        };
        let error = of(15).unwrap_err().to_string();
        assert!(error.contains("12-bit"), "{error}");
        assert!(of(60).unwrap().notes.iter().any(|n| n.contains("14 bits")));
        assert!(of(200).unwrap().notes.is_empty());
    }
}
