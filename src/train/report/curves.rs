//! The figures of the page, drawn as SVG: score histograms, scores by class, ROC, precision and recall.
//!
//! Goods are blue, defectives orange in every figure, and never told apart by colour alone.
//! Scores are shown divided by the reject threshold: 1.00 is the limit.
//!
//! Never here: HTML, files.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::{PictureScore, Report, ReportError};
use crate::metrics::{Step, steps};

pub(crate) const GOOD_COLOUR: RGBColor = RGBColor(31, 95, 160);
pub(crate) const DEFECT_COLOUR: RGBColor = RGBColor(208, 88, 18);
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
pub(crate) const FAINT: RGBColor = RGBColor(222, 226, 232);
/// Size of labels, plotters' units (about 1.25 of a pixel of the figure's width of 900).
pub(crate) const LABEL_SIZE: u32 = 17;
/// Bars of a histogram.
const BARS: usize = 48;
/// Scores that spread over more than this factor are drawn on a logarithmic axis.
const LOG_FROM: f64 = 8.0;
/// Most points of one class; more are thinned evenly by rank, lowest and highest stay.
const MAX_POINTS: usize = 400;
/// Most vertices of a curve.
const MAX_VERTICES: usize = 2_000;
/// Most characters of a class name beside its points.
const MAX_NAME_CHARS: usize = 22;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

pub(crate) fn svg(
    figure: &'static str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, ReportError> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    let drawn = area.fill(&WHITE).and_then(|()| draw(&area)).and_then(|()| area.present());
    drop(area);
    drawn.map_err(|e| ReportError::Figure { figure, reason: e.to_string() })?;
    Ok(text)
}

pub(crate) fn words(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// An axis with marks where we want them; plotters' own choice knows no logarithms and no class names.
#[derive(Clone)]
pub(crate) struct Marked {
    pub range: Range<f64>,
    pub marks: Vec<f64>,
}

impl Ranged for Marked {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Marked {
    fn format(value: &f64) -> String {
        format!("{value:.1}")
    }
}

/// The axis of scores: linear, or logarithmic where they spread far.
struct ScoreAxis {
    log: bool,
    range: Range<f64>,
}

impl ScoreAxis {
    fn new(report: &Report) -> Self {
        let relative = report.scores.iter().map(|s| report.relative(s.score));
        Self::over(relative.chain([report.relative(report.thresholds.review)]))
    }

    /// Holds all the values and the limit, 1.
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let all = values.chain([1.0]);
        let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let log = low > 0.0 && high / low > LOG_FROM;
        let (low, high) = if log { (low.ln(), high.ln()) } else { (low, high) };
        let margin = ((high - low) * 0.03).max(high.abs() * 1e-3).max(1e-9);
        Self { log, range: low - margin..high + margin }
    }

    fn coordinate(&self) -> Marked {
        Marked { range: self.range.clone(), marks: self.marks() }
    }

    fn place(&self, relative: f64) -> f64 {
        if self.log { relative.ln() } else { relative }
    }

    fn label(&self, place: f64) -> String {
        let value = if self.log { place.exp() } else { place };
        let size = value.abs();
        let text = match size {
            s if s == 0.0 || (0.001..1e5).contains(&s) => format!("{value:.3}"),
            _ => return format!("{value:.0e}"),
        };
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// Round values inside the range: 1, 2, 5 of every decade, or of every few where there are many.
    fn marks(&self) -> Vec<f64> {
        let inside = |v: &f64| self.range.contains(v);
        if self.log {
            let [first, last] =
                [self.range.start, self.range.end].map(|p| (p / std::f64::consts::LN_10).floor());
            let stride = ((last - first) / 8.0).ceil().max(1.0) as usize;
            let digits: &[f64] = match self.range.end - self.range.start {
                span if span < 2.5 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], // about a decade
                span if span < 9.0 => &[1.0, 2.0, 5.0],
                _ => &[1.0],
            };
            let decades = (first as i32..=last as i32).step_by(stride);
            decades
                .flat_map(|d| digits.iter().map(move |m| (m * 10f64.powi(d)).ln()))
                .filter(inside)
                .collect()
        } else {
            round_marks(&self.range, 9.0, 0.0)
        }
    }
}

/// At most so many round values in a range (1, 2 or 5 times a power of ten apart), `least` apart or more.
pub(crate) fn round_marks(range: &Range<f64>, most: f64, least: f64) -> Vec<f64> {
    let span = range.end - range.start;
    let decade = 10f64.powf((span / most).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade);
    let step = steps.into_iter().find(|s| span / s <= most && *s >= least).unwrap_or(span).max(least);
    let first = (range.start / step).ceil();
    (0..=most as i32).map(|i| (first + f64::from(i)) * step).filter(|v| range.contains(v)).collect()
}

fn scores(report: &Report, wanted: impl Fn(&PictureScore) -> bool) -> Vec<f64> {
    report.scores.iter().filter(|s| wanted(s)).map(|s| report.relative(s.score)).collect()
}

/// Histograms of goods and of defectives under one axis, with both thresholds.
pub fn histogram(report: &Report) -> Result<String, ReportError> {
    let axis = ScoreAxis::new(report);
    let good = scores(report, PictureScore::is_good);
    let defective = scores(report, |s| !s.is_good());
    svg("score histogram", (900, 440), |area| {
        let (upper, lower) = area.split_vertically(196);
        bars(&upper, &axis, report, "good parts", &good, GOOD_COLOUR, false)?;
        bars(&lower, &axis, report, "defective parts", &defective, DEFECT_COLOUR, true)
    })
}

fn bars(
    area: &Area<'_>,
    axis: &ScoreAxis,
    report: &Report,
    name: &str,
    values: &[f64],
    colour: RGBColor,
    lowest: bool,
) -> Drawn {
    // The limit lies between two bars, so that none holds parts from either side of it.
    let width = (axis.range.end - axis.range.start) / BARS as f64;
    let limit = axis.place(1.0);
    let start = limit - ((limit - axis.range.start) / width).ceil() * width;
    let mut counts = [0u32; BARS + 1];
    for v in values {
        let bar = ((limit - axis.place(*v)) / width).floor(); // at the limit is still on the passing side
        let bar = ((limit - start) / width).round() - 1.0 - bar;
        counts[(bar.max(0.0) as usize).min(BARS)] += 1;
    }
    let top = f64::from(counts.iter().copied().max().unwrap_or(0).max(1)) * 1.25;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(18)
        .y_label_area_size(66)
        .x_label_area_size(if lowest { 50 } else { 8 })
        .build_cartesian_2d(
            axis.coordinate(),
            Marked { marks: round_marks(&(0.0..top), 5.0, 1.0), range: 0.0..top },
        )?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(FAINT).axis_style(INK);
    mesh.y_desc(format!("{name} ({})", values.len())).label_style(words(LABEL_SIZE));
    mesh.axis_desc_style(words(LABEL_SIZE + 1)).y_label_formatter(&|v| format!("{v:.0}"));
    let label = |v: &f64| axis.label(*v);
    if lowest {
        mesh.x_desc("score / reject threshold").x_label_formatter(&label);
    } else {
        mesh.x_labels(0).x_label_formatter(&|_| String::new());
    }
    mesh.draw()?;
    let bar = |(i, &count): (usize, &u32)| {
        let left = start + i as f64 * width;
        let corners = [(left, 0.0), (left + width * 0.92, f64::from(count))];
        Rectangle::new(corners, colour.mix(0.85).filled())
    };
    chart.draw_series(counts.iter().enumerate().filter(|(_, c)| **c > 0).map(bar))?;
    limits(&mut chart, axis, report, top, !lowest)
}

/// Both thresholds as upright lines; one line where they are the same.
fn limits<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    axis: &ScoreAxis,
    report: &Report,
    top: f64,
    named: bool,
) -> Drawn
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let review = report.relative(report.thresholds.review);
    let both = report.thresholds.review < report.thresholds.reject;
    let line = |at: f64| [(axis.place(at), 0.0), (axis.place(at), top)];
    // The names stand on either side, away from each other.
    let name = |text: String, at: f64, to_right: bool| {
        let text_width = text.len() as i32 * 8;
        let shift = if to_right { 5 } else { -text_width - 5 };
        EmptyElement::at((axis.place(at), top)) + Text::new(text, (shift, 3), words(LABEL_SIZE))
    };
    chart.draw_series(LineSeries::new(line(1.0), INK.stroke_width(2)))?;
    if both && (!axis.log || review > 0.0) {
        chart.draw_series(DashedLineSeries::new(line(review), 6, 4, INK.stroke_width(2)))?;
        if named {
            chart.draw_series([name(format!("review {review:.2}"), review, false)])?;
        }
    }
    if named {
        let text = if both { "reject 1.00" } else { "limit 1.00" };
        chart.draw_series([name(text.into(), 1.0, true)])?;
    }
    Ok(())
}

/// Every score as a point, a row for each class.
pub fn by_class(report: &Report) -> Result<String, ReportError> {
    let axis = ScoreAxis::new(report);
    let mut names: Vec<&str> = vec![crate::truth::GOOD];
    names.extend(report.classes.iter().map(|c| c.class.as_str()));
    let rows = names.len() as f64;
    svg("scores by class", (900, 76 + 44 * names.len() as u32), |area| {
        let y = Marked { range: -0.5..rows - 0.5, marks: (0..names.len()).map(|i| i as f64).collect() };
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(18)
            .y_label_area_size(190)
            .x_label_area_size(50)
            .build_cartesian_2d(axis.coordinate(), y)?;
        let row_name =
            |row: &f64| names.iter().rev().nth(row.round() as usize).map_or_else(String::new, |n| short(n));
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().bold_line_style(FAINT).light_line_style(TRANSPARENT).axis_style(INK);
        mesh.label_style(words(LABEL_SIZE))
            .axis_desc_style(words(LABEL_SIZE + 1))
            .x_desc("score / reject threshold");
        mesh.x_label_formatter(&|v| axis.label(*v)).y_label_formatter(&row_name).draw()?;
        for (place, name) in names.iter().enumerate() {
            let row = rows - 1.0 - place as f64;
            let mut values = scores(report, |s| s.class == *name);
            values.sort_by(f64::total_cmp);
            let colour = if place == 0 { GOOD_COLOUR } else { DEFECT_COLOUR };
            let point = |(i, v): (usize, f64)| {
                // Spread over the row by a fixed pattern, so that equal scores stay apart.
                let aside = ((i * 7) % 11) as f64 / 11.0 - 0.45;
                Circle::new((axis.place(v), row + aside * 0.6), 3, colour.mix(0.6).filled())
            };
            chart.draw_series(thinned(&values, MAX_POINTS).into_iter().enumerate().map(point))?;
        }
        let upright = |at: f64| [(axis.place(at), -0.5), (axis.place(at), rows - 0.5)];
        chart.draw_series(LineSeries::new(upright(1.0), INK.stroke_width(2)))?;
        let review = report.relative(report.thresholds.review);
        if report.thresholds.review < report.thresholds.reject && (!axis.log || review > 0.0) {
            chart.draw_series(DashedLineSeries::new(upright(review), 6, 4, INK.stroke_width(2)))?;
        }
        Ok(())
    })
}

pub(crate) fn short(name: &str) -> String {
    if name.chars().count() <= MAX_NAME_CHARS {
        return name.to_owned();
    }
    name.chars().take(MAX_NAME_CHARS - 1).chain(['…']).collect()
}

/// At most `most` of the values, evenly by place, the first and the last among them.
fn thinned<T: Copy>(values: &[T], most: usize) -> Vec<T> {
    if values.len() <= most {
        return values.to_vec();
    }
    (0..most).map(|i| values[i * (values.len() - 1) / (most - 1)]).collect()
}

fn curve_steps(report: &Report) -> Vec<Step> {
    let of = |good: bool| -> Vec<f32> {
        report.scores.iter().filter(|s| s.is_good() == good).map(|s| s.score).collect()
    };
    steps(&of(true), &of(false))
}

/// Points where the line runs today: (name, defectives flagged, goods flagged).
fn operating_points(report: &Report) -> Vec<(&'static str, usize, usize)> {
    let (good, defective) = (report.confusion.good, report.confusion.defective);
    let rejects = ("reject threshold", defective.reject, good.reject);
    if report.thresholds.review < report.thresholds.reject {
        let flagged = (defective.review + defective.reject, good.review + good.reject);
        vec![("review threshold", flagged.0, flagged.1), rejects]
    } else {
        vec![rejects]
    }
}

/// Recall over false-reject rate.
pub fn roc(report: &Report) -> Result<String, ReportError> {
    let (good, defective) = (report.good as f64, report.defective as f64);
    let place = |found: usize, alarms: usize| (alarms as f64 / good, found as f64 / defective);
    let mut line = vec![(0.0, 0.0)];
    line.extend(curve_steps(report).iter().map(|s| place(s.found, s.alarms)));
    let points =
        operating_points(report).into_iter().map(|(name, found, alarms)| (name, place(found, alarms)));
    square(
        "ROC curve",
        ["false-reject rate", "recall"],
        &line,
        &points.collect::<Vec<_>>(),
        Some([(0.0, 0.0), (1.0, 1.0)]),
    )
}

/// Precision over recall.
pub fn precision_recall(report: &Report) -> Result<String, ReportError> {
    let defective = report.defective as f64;
    let line: Vec<(f64, f64)> =
        curve_steps(report).iter().map(|s| (s.found as f64 / defective, s.precision())).collect();
    let share = defective / (report.good as f64 + defective);
    // Where nothing is flagged there is no precision.
    let flagging = operating_points(report).into_iter().filter(|(_, found, alarms)| found + alarms > 0);
    let points = flagging.map(|(name, found, alarms)| {
        (name, (found as f64 / defective, found as f64 / (found + alarms) as f64))
    });
    let chance = Some([(0.0, share), (1.0, share)]);
    square("PR curve", ["recall", "precision"], &line, &points.collect::<Vec<_>>(), chance)
}

fn square(
    figure: &'static str,
    names: [&str; 2],
    line: &[(f64, f64)],
    points: &[(&'static str, (f64, f64))],
    chance: Option<[(f64, f64); 2]>,
) -> Result<String, ReportError> {
    svg(figure, (450, 420), |area| {
        let axis = || Marked { range: -0.02..1.02, marks: (0..=5).map(|i| f64::from(i) / 5.0).collect() };
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .y_label_area_size(64)
            .x_label_area_size(50)
            .build_cartesian_2d(axis(), axis())?;
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(words(LABEL_SIZE));
        mesh.axis_desc_style(words(LABEL_SIZE + 1)).x_desc(names[0]).y_desc(names[1]);
        mesh.draw()?;
        if let Some(chance) = chance {
            chart.draw_series(DashedLineSeries::new(chance, 4, 4, INK.mix(0.5).stroke_width(1)))?;
        }
        chart.draw_series(LineSeries::new(thinned(line, MAX_VERTICES), GOOD_COLOUR.stroke_width(2)))?;
        for (i, (name, at)) in points.iter().enumerate() {
            // Filled: the reject threshold; hollow: the review threshold.
            let style =
                if i + 1 == points.len() { DEFECT_COLOUR.filled() } else { DEFECT_COLOUR.stroke_width(2) };
            chart
                .draw_series([Circle::new(*at, 6, style)])?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 6, style));
        }
        let mut legend = chart.configure_series_labels();
        legend.position(SeriesLabelPosition::LowerRight).label_font(words(LABEL_SIZE));
        legend.background_style(WHITE.mix(0.9)).border_style(FAINT).draw()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_scores_get_an_axis_with_the_limit_and_some_round_marks() {
        let cases: [&[f64]; 8] = [
            &[],
            &[1.0, 1.0],
            &[0.5, 0.9, 1.3],
            &[0.1, 20.0],
            &[1e-30, 1e30],
            &[-5.0, 0.0, 3.0],
            &[-1e30, 1e30],
            &[0.999_999, 1.000_001],
        ];
        for values in cases {
            let axis = ScoreAxis::over(values.iter().copied());
            let places = values.iter().chain([&1.0]).map(|v| axis.place(*v));
            for place in places {
                assert!(axis.range.contains(&place), "{values:?}: {place} not in {:?}", axis.range);
            }
            let marks = axis.marks();
            assert!((1..=20).contains(&marks.len()), "{values:?}: {marks:?}");
            assert!(marks.iter().all(|m| axis.range.contains(m) && !axis.label(*m).is_empty()));
        }
        let axis = ScoreAxis::over([0.1, 20.0].into_iter());
        let labels: Vec<String> = axis.marks().iter().map(|m| axis.label(*m)).collect();
        assert_eq!(labels, ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]);
    }

    #[test]
    fn counts_are_marked_at_whole_numbers() {
        assert_eq!(round_marks(&(0.0..1.25), 5.0, 1.0), [0.0, 1.0]);
        assert_eq!(round_marks(&(0.0..19.0), 5.0, 1.0), [0.0, 5.0, 10.0, 15.0]);
    }

    #[test]
    fn thinning_keeps_first_and_last() {
        let values: Vec<usize> = (0..1000).collect();
        let kept = thinned(&values, 10);
        assert_eq!((kept.len(), kept[0], kept[9]), (10, 0, 999));
        assert_eq!(thinned(&values[..3], 10), [0, 1, 2]);
        assert_eq!(short("a name that is much longer than a row"), "a name that is much l…");
    }
}
