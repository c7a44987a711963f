//! What a shadow run came to, as text for a terminal and as a page with the pictures.
//!
//! Never here: frames that nothing changed of; the page shows what a person has to decide on.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use inspect_core::image::{Image, ImageError};

use super::shadow::{Compared, LOOKED_AT, Said, Shadow, Totals, ViewTotals};
use crate::archive::name::plain;
use crate::archive::paint;

/// Most changed frames on the page; the text and the JSON have all.
pub const MAX_PICTURES: usize = 200;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file cannot be written.
    #[error("report {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture cannot be read or written.
    #[error("report: {0}")]
    Image(#[from] ImageError),
}

fn said(said: Option<&Said>) -> String {
    match said {
        None => "-".to_owned(),
        Some(Said { verdict, score: None, .. }) => (*verdict).to_owned(),
        Some(Said { verdict, score: Some(score), .. }) => format!("{verdict:<6} {score:.3}"),
    }
}

/// A table of the changed verdicts, and the sum.
pub fn text(shadow: &Shadow) -> String {
    let Totals { frames, compared, lossy, unreadable, changed, pass_lost, pass_gained } = shadow.totals;
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let several = shadow
        .frames
        .iter()
        .any(|f| (&f.station, &f.view) != (&shadow.frames[0].station, &shadow.frames[0].view));
    if changed > 0 {
        line(format!(
            "{:>10}  {:<14} {:<14} {:<7} {}",
            "part", "present model", "new model", "then", "truth"
        ));
    }
    for frame in shadow.frames.iter().filter(|frame| frame.changed) {
        let truth = frame.truth.as_deref().unwrap_or("");
        let view = if several { format!("  {} {}", frame.station, frame.view) } else { String::new() };
        let (present, new) = (said(frame.present.as_ref()), said(Some(&frame.new)));
        line(format!("{:>10}  {present:<14} {new:<14} {:<7} {truth}{view}", frame.part, frame.then));
    }
    let rest = changed - pass_lost - pass_gained;
    line(format!(
        "{frames} frames tried, {compared} compared, {changed} verdicts changed: {pass_lost} no longer pass, {pass_gained} pass now, {rest} others"
    ));
    if frames > 0 && shadow.frames.iter().all(|frame| frame.present.is_none()) {
        line("no model that works is in the place: compared with the verdicts of then".to_owned());
    }
    for view in &shadow.views {
        let ViewTotals { view, frames, compared, cut_short } = view;
        if *compared == 0 {
            line(format!("{view}: NOTHING compared, of {frames} frames"));
        }
        if *cut_short {
            line(format!(
                "{view}: looked at the newest {LOOKED_AT} records alone, {frames} frames among them"
            ));
        }
    }
    if lossy > 0 {
        line(format!("{lossy} of the frames are JPEG: their scores differ a little from those of the line"));
    }
    if unreadable > 0 {
        line(format!("{unreadable} frames could not be read"));
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Writes `index.html` with the changed frames, each as frame, the present model's map and the new one's.
/// `maps`: height and width of the present model's map and of the new one's.
///
/// Errors: [`ReportError`].
pub fn write(
    dir: &Path,
    title: &str,
    shadow: &Shadow,
    maps: [(usize, usize); 2],
) -> Result<PathBuf, ReportError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ReportError::Io { path, source }
    };
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let mut rows = String::new();
    for frame in shadow.frames.iter().filter(|frame| frame.changed).take(MAX_PICTURES) {
        row(dir, frame, maps, &mut rows)?;
    }
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:14px sans-serif;margin:2em}}td,th{{padding:4px 8px;text-align:left;vertical-align:top}}\
         img{{max-width:256px;image-rendering:pixelated}}</style>\n<h1>{title}</h1>\n<pre>{}</pre>\n\
         <p>Scores are divided by the model's reject threshold: 1.00 is the limit. In a map black is 0, yellow the \
         limit, red twice that.</p>\n\
         <table><tr><th>part<th>then<th>truth<th>frame<th>present model<th>new model</tr>\n{rows}</table>\n",
        escape(&text(shadow)),
        title = escape(title),
    );
    let path = dir.join("index.html");
    std::fs::write(&path, page).map_err(io(&path))?;
    Ok(path)
}

fn row(
    dir: &Path,
    frame: &Compared,
    maps: [(usize, usize); 2],
    rows: &mut String,
) -> Result<(), ReportError> {
    let recipe = frame.recipe.map(|number| format!("-{number}")).unwrap_or_default();
    let stem = format!("{}-{}-{}{recipe}", plain(&frame.station), plain(&frame.view), frame.part);
    // A copy: the archive may delete its own before anybody looks.
    let picture = format!("{stem}.png");
    Image::read(&frame.picture)?.write_png(&dir.join(&picture))?;
    let map = |said: Option<&Said>, shape, which: &str| -> Result<String, ReportError> {
        let Some(said) = said else { return Ok("-".to_owned()) };
        if said.map.is_empty() {
            return Ok(escape(said.verdict));
        }
        let name = format!("{stem}-{which}.png");
        paint(&said.map, shape, said.limit)?.write_png(&dir.join(&name))?;
        let score = said.score.map(|score| format!(" {score:.3}")).unwrap_or_default();
        Ok(format!("{}{score}<br><img src=\"{}\">", said.verdict, escape(&name)))
    };
    let present = map(frame.present.as_ref(), maps[0], "present")?;
    let new = map(Some(&frame.new), maps[1], "new")?;
    let truth = frame.truth.as_deref().map(escape).unwrap_or_default();
    let _ = writeln!(
        rows,
        "<tr><td>{} {} {}<td>{}<td>{truth}<td><img src=\"{}\"><td>{present}<td>{new}</tr>",
        escape(&frame.station),
        escape(&frame.view),
        frame.part,
        frame.then,
        escape(&picture),
    ); // writing to a String cannot fail
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_in_the_archive_leads_out_of_the_pages_folder() {
        let dir = tempfile::tempdir().unwrap();
        let picture = dir.path().join("frame.png");
        Image::new(8, 8, 1, vec![9; 64]).unwrap().write_png(&picture).unwrap();
        let said = |verdict| Said { verdict, score: Some(1.0), map: vec![0.5; 4], limit: 1.0 };
        let frame = Compared {
            station: "../../s1".into(),
            view: "a/b".into(),
            recipe: None,
            part: 7,
            truth: Some("<script>".into()),
            picture,
            then: "pass",
            present: Some(said("pass")),
            new: said("reject"),
            changed: true,
        };
        let shadow = Shadow { frames: vec![frame], ..Shadow::default() };
        let page = dir.path().join("deep/page");
        let index = write(&page, "t", &shadow, [(2, 2), (2, 2)]).unwrap();
        let made = std::fs::read_dir(&page).unwrap().count();
        assert_eq!(made, 4, "the page, the frame and two maps");
        assert!(page.join("______s1-a_b-7.png").is_file());
        assert!(!std::fs::read_to_string(index).unwrap().contains("<script>"));
    }
}
