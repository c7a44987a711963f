//! The page: one HTML file with everything in it, for the screen and for paper.
//!
//! Never here: figures of its own; scripts; unescaped text of others (`maud` escapes all that is not marked).

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figures::{Arm, CopiesReport, FitsReport, Gains, Report, SetReport, Spread, Spreads, Worth};
use super::paired::Gain;
use super::sets::{Crop, Set};
use super::{JSON_NAME, Judged, KEY_NAME, blind, curve, obeyed};
use crate::data::DataError;
use crate::evaluate::EvaluateError;
use crate::metrics::intervals::Interval;
use crate::report::ReportError;
use crate::report::page::STYLE;
use crate::report::pictures::jpeg_uri;
use crate::sheet::{Row, Tile, draw};

/// Pictures side by side on a sheet, their side in pixels, and rows of a set.
const ACROSS: usize = 10;
const TILE_PX: u32 = 88;
const MAX_ROWS: usize = 3;

/// The whole page.
///
/// Errors: [`ReportError`] if a figure or a sheet cannot be drawn.
pub fn html(judged: &Judged) -> Result<String, ReportError> {
    let report = &judged.report;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Made defects, judged" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (top(report))
                main {
                    (verdicts(report))
                    aside {
                        h2 { "What this does not show" }
                        ul { @for sentence in &report.not_shown { li { (sentence) } } }
                    }
                    (fits(report)?)
                    (likeness(report))
                    (obeyed::page::section(report))
                    (pictures(judged)?)
                    (pairs(judged)?)
                    (definitions())
                }
                footer {
                    "Made by inspect-train " (report.version) " defects judge. The same figures are in "
                    code { (JSON_NAME) } "; the blind sheet's key is in " code { (KEY_NAME) } "."
                }
            }
        }
    };
    Ok(page.into_string())
}

fn top(report: &Report) -> Markup {
    html! {
        header {
            h1 { "Made defects, judged" }
            p.soft {
                "Against " (report.real.crops) " real defects of " (report.real.classes.len()) " class(es), "
                (report.judged.strftime("%Y-%m-%d %H:%M UTC")) br;
                "Pictures " code { (report.data) } br;
                "Compared as pictures of " (report.space.picture_px[0]) " x " (report.space.picture_px[1]) " pixels" br;
                "Feature space: " (report.space.name) ", SHA-256 " code { (report.space.sha256) }
                @if report.stopped { br; b { "Stopped before all fits were done." } }
            }
        }
    }
}

fn verdicts(report: &Report) -> Markup {
    html! {
        section.tiles {
            @for set in report.sets.iter().filter(|s| s.verdict != Worth::Baseline && s.set.name != "procedural") {
                div.tile.bad[set.verdict != Worth::Proven] {
                    span.name { (set.set.name) }
                    b { (match set.verdict {
                        Worth::Proven => "Proven",
                        Worth::Harmful => "Harmful",
                        Worth::NotProven => "Not proven",
                        Worth::NotMeasured | Worth::Baseline => "Not measured",
                    }) }
                    @if let Some(gain) = &set.gain { span { "image AP " (sure(&gain.shown.image_precision)) } }
                    span { (set.verdict.meaning()) }
                }
            }
        }
    }
}

fn between(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "no interval".into(), |i| format!("{:+.3} to {:+.3}", i.low, i.high))
}

fn sure(gain: &Gain) -> String {
    if gain.gain.is_finite() {
        format!("{:+.3} ({})", gain.gain, between(gain.interval))
    } else {
        "–".into()
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| "–".into(), |v| format!("{v:.digits$}"))
}

fn spread(spread: Option<Spread>) -> String {
    match spread {
        Some(s) if s.mean.is_finite() => format!("{:.3} ({:.3} to {:.3})", s.mean, s.min, s.max),
        _ => "–".into(),
    }
}

fn fits(report: &Report) -> Result<Markup, ReportError> {
    let Some(fits) = &report.fits else { return Ok(html! {}) };
    let gains: Vec<(&SetReport, &super::figures::SetGain)> =
        report.sets.iter().filter_map(|s| Some((s, s.gain.as_ref()?))).collect();
    let rows: Vec<(&str, &Gain)> =
        gains.iter().map(|(s, g)| (s.set.name.as_str(), &g.shown.image_precision)).collect();
    let figure = if rows.is_empty() { None } else { Some(PreEscaped(curve::gains(&rows)?)) };
    Ok(html! {
        section {
            h2 { "Learnt from made defects, asked about real ones" }
            p { (protocol(fits)) }
            @if let Some(figure) = figure {
                figure role="img" aria-label="Gains over the baseline" {
                    (figure)
                    figcaption {
                        "Gain over " (fits.against) ": the mean (large point) with its interval at "
                        (format!("{:.1} %", fits.confidence * 100.0))
                        ", above it each seed. Proven: the line lies right of 0, and with a class left out not left of it."
                    }
                }
            }
            table {
                thead { tr { th { "Gain" } th.n { "Image AP" } th.n { "Image AUROC" } th.n { "Pixel AP" } } }
                tbody { @for (set, gain) in &gains {
                    (gain_row(&set.set.name, &gain.shown))
                    @if let Some(left_out) = &gain.left_out {
                        (gain_row(&format!("{}, class left out", set.set.name), left_out))
                    }
                } }
            }
            table {
                thead { tr { th { "Mean (least to largest) over seeds" } th.n { "Image AP" } th.n { "Image AUROC" } th.n { "Pixel AP" } } }
                tbody { @for arm in &fits.arms {
                    (arm_row(&arm_name(arm), &arm.shown))
                    @if let Some(left_out) = &arm.left_out {
                        (arm_row(&format!("{}, class left out", arm_name(arm)), left_out))
                    }
                } }
            }
        }
    })
}

fn gain_row(name: &str, gains: &Gains) -> Markup {
    html! { tr {
        th scope="row" { (name) }
        td.n { (sure(&gains.image_precision)) } td.n { (sure(&gains.image_auroc)) }
        td.n { (gains.pixel_precision.as_ref().map_or_else(|| "–".into(), sure)) }
    } }
}

fn arm_name(arm: &Arm) -> String {
    if arm.name == "procedural" { arm.name.clone() } else { format!("procedural and {}", arm.name) }
}

fn arm_row(name: &str, figures: &Spreads) -> Markup {
    html! { tr {
        th scope="row" { (name) }
        td.n { (spread(Some(figures.image_precision))) } td.n { (spread(Some(figures.image_auroc))) }
        td.n { (spread(figures.pixel_precision)) }
    } }
}

fn protocol(fits: &FitsReport) -> String {
    let classes = if fits.left_out.is_empty() {
        "All made defects were learnt from, of whatever class.".to_owned()
    } else {
        format!(
            "First all made defects were learnt from, then each class was left out in turn ({}) and asked about.",
            fits.left_out.join(", ")
        )
    };
    format!(
        "{} fits over {} seed(s): {} steps at {} px, width {}; in the end {:.0} % of the damaged pictures are made ones. \
         {classes} Judged on {} good pictures and {} real defects that no fit saw; the same seeds and pictures in every arm.",
        fits.fits,
        fits.seeds,
        fits.steps,
        fits.size_px,
        fits.variant,
        fits.made_share * 100.0,
        fits.good,
        fits.defective
    )
}

fn likeness(report: &Report) -> Markup {
    let row = |set: &SetReport| {
        let kid = set.kid.map_or_else(|| "–".into(), |k| format!("{:.3} ± {:.3}", k.value, k.standard_error));
        let told = set.two_sample.map_or_else(
            || "–".into(),
            |t| {
                let sure =
                    t.interval.map(|i| format!(" ({:.2} to {:.2})", i.low, i.high)).unwrap_or_default();
                format!("{:.2}{sure}, p {:.3}", t.accuracy, t.p_value)
            },
        );
        let copies =
            |c: &CopiesReport| format!("{} of {}; {:.2}", c.count, set.set.crops - set.set.pasted, c.nearer);
        let pasted = (set.set.pasted > 0).then(|| format!(" ({} pasted)", set.set.pasted));
        html! { tr {
            th scope="row" { (set.set.name) } td.n { (set.set.crops) (pasted.unwrap_or_default()) }
            td.n { (kid) }
            td.n { (number(set.density_coverage.map(|d| d.density), 2)) }
            td.n { (number(set.density_coverage.map(|d| d.coverage), 2)) }
            td.n { (told) }
            td.n { (set.copies.as_ref().map_or_else(|| "–".into(), copies)) }
            td.n { (number(set.diversity.map(|d| d.ratio), 2)) }
        } }
    };
    html! {
        section {
            h2 { "Compared with real defects" }
            table {
                thead { tr {
                    th { "Set" } th.n { "Crops" } th.n { "KID" } th.n { "Density" } th.n { "Coverage" }
                    th.n { "Told from real" } th.n { "Copies; nearer" } th.n { "Diversity" }
                } }
                tbody { @for set in &report.sets { (row(set)) } }
            }
            p.note { "None of these decides: a set may look real and teach nothing, or look made and teach much." }
        }
    }
}

fn image(error: inspect_core::image::ImageError) -> ReportError {
    ReportError::Evaluate(EvaluateError::Data(DataError::from(error)))
}

fn tile(crop: &Crop) -> Result<Tile, ReportError> {
    let pixels = blind::tile(crop, TILE_PX).map_err(image)?;
    Ok(Tile { pixels, caption: vec![crop.class.clone()], ..Tile::default() })
}

fn sheet(rows: &[Row]) -> Result<String, ReportError> {
    let page = draw(rows, TILE_PX as usize).map_err(image)?;
    jpeg_uri(page.data(), page.width(), page.height())
}

/// Crops of a set, evenly over it.
fn rows_of(set: &Set) -> Result<Vec<Row>, ReportError> {
    let most = ACROSS * MAX_ROWS;
    let step = set.crops.len().div_ceil(most).max(1);
    let tiles = set.crops.iter().step_by(step).map(tile).collect::<Result<Vec<_>, _>>()?;
    Ok(tiles.chunks(ACROSS).map(|tiles| Row { label: String::new(), tiles: tiles.to_vec() }).collect())
}

fn pictures(judged: &Judged) -> Result<Markup, ReportError> {
    let mut shown = Vec::new();
    for set in std::iter::once(&judged.real).chain(&judged.sets) {
        shown.push((set, sheet(&rows_of(set)?)?));
    }
    Ok(html! {
        section {
            h2 { "Pictures" }
            @for (set, uri) in shown {
                figure {
                    img src=(uri) alt={ "Crops of " (set.name) } style="max-width:100%";
                    figcaption { b { (set.name) } ": " (set.crops.len()) " crops around the masks" }
                }
            }
        }
    })
}

fn pairs(judged: &Judged) -> Result<Markup, ReportError> {
    let from = judged.trained.as_ref().unwrap_or(&judged.real);
    let find = |set: &'_ Set, name: &str| set.crops.iter().position(|c| c.name == name);
    let mut shown = Vec::new();
    for (set, report) in judged.sets.iter().zip(&judged.report.sets).skip(1) {
        let Some(copies) = &report.copies else { continue };
        let (mut made, mut trained) = (Vec::new(), Vec::new());
        for pair in copies.pairs.iter().take(ACROSS) {
            let (Some(a), Some(b)) = (find(set, &pair.made), find(from, &pair.trained)) else { continue };
            let caption = vec![format!("{:.2}", pair.distance)];
            made.push(Tile { caption, framed: pair.copy, ..tile(&set.crops[a])? });
            trained.push(tile(&from.crops[b])?);
        }
        let row = |label: &str, tiles| Row { label: label.into(), tiles };
        shown.push((set, sheet(&[row("made", made), row("nearest real", trained)])?));
    }
    Ok(html! {
        section {
            h2 { "Nearest to a real defect that could have been copied" }
            @for (set, uri) in shown {
                figure {
                    img src=(uri) alt={ "Nearest pairs of " (set.name) } style="max-width:100%";
                    figcaption { b { (set.name) } ": framed are those nearer than 95 % of real ones are" }
                }
            }
        }
    })
}

fn definitions() -> Markup {
    let words = [
        (
            "Image AP, pixel AP",
            "average precision over pictures and over pixels of their masks; 1 is perfect",
        ),
        (
            "KID",
            "squared kernel distance between the sets in the stated space; around 0 for sets of one kind, ± its standard error",
        ),
        ("Density", "how densely made defects lie where real ones do; about 1 for sets of one kind"),
        ("Coverage", "share of the real defects that have a made one in their neighbourhood"),
        (
            "Told from real",
            "accuracy of a small classifier on groups that it has not seen; 0.5 is chance. p: chance of that if labels meant nothing",
        ),
        (
            "Copies",
            "made defects, pasted ones left out, nearer to a training defect than 95 % of real ones that were not trained on",
        ),
        (
            "Pasted",
            "real defects put on goods, of classes of too few to learn from: the generator did not draw them",
        ),
        (
            "Nearer",
            "chance that a made defect lies nearer to its training defect than a real one that was not trained on; 0.5 is as new, 1 is copied",
        ),
        ("Diversity", "mean distance of two made defects of a class over that of two real ones"),
    ];
    html! { section { h2 { "What the words mean" } dl { @for (word, meaning) in words { dt { (word) } dd { (meaning) } } } } }
}
