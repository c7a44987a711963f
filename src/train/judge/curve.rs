//! The gains, drawn as SVG: a row a set, a point a seed, the interval as a line.
//!
//! Never here: HTML.

use plotters::prelude::*;

use super::paired::Gain;
use crate::report::ReportError;
use crate::report::curves::{
    DEFECT_COLOUR, FAINT, GOOD_COLOUR, INK, LABEL_SIZE, Marked, round_marks, short, svg, words,
};

/// Height of a row and of what stands around the rows, plotters' units.
const ROW: u32 = 46;
const AROUND: u32 = 84;
/// Least half width of the axis.
const LEAST: f64 = 0.01;

/// Gains of sets by name, first on top; at least one.
///
/// Errors: [`ReportError::Figure`].
pub fn gains(rows: &[(&str, &Gain)]) -> Result<String, ReportError> {
    let ends = rows.iter().flat_map(|(_, g)| {
        let interval = g.interval.map(|i| [i.low, i.high]);
        g.seeds.iter().copied().chain(interval.into_iter().flatten())
    });
    let reach = ends.filter(|v| v.is_finite()).fold(LEAST, |most, v| most.max(v.abs())) * 1.1;
    let count = rows.len() as f64;
    svg("gains", (900, AROUND + ROW * rows.len() as u32), |area| {
        let x = Marked { marks: round_marks(&(-reach..reach), 9.0, 0.0), range: -reach..reach };
        let y = Marked { range: -0.5..count - 0.5, marks: (0..rows.len()).map(|i| i as f64).collect() };
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(18)
            .y_label_area_size(190)
            .x_label_area_size(50)
            .build_cartesian_2d(x, y)?;
        let name =
            |row: &f64| rows.iter().rev().nth(row.round() as usize).map_or(String::new(), |r| short(r.0));
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(FAINT).light_line_style(TRANSPARENT).axis_style(INK);
        mesh.label_style(words(LABEL_SIZE)).axis_desc_style(words(LABEL_SIZE + 1));
        mesh.x_desc("gain in image average precision").x_label_formatter(&|v| format!("{v:+.2}"));
        mesh.y_label_formatter(&name).draw()?;
        chart.draw_series(LineSeries::new([(0.0, -0.5), (0.0, count - 0.5)], INK.stroke_width(2)))?;
        for (place, (_, gain)) in rows.iter().enumerate() {
            let row = count - 1.0 - place as f64;
            if let Some(i) = gain.interval {
                chart.draw_series(LineSeries::new(
                    [(i.low, row), (i.high, row)],
                    GOOD_COLOUR.stroke_width(3),
                ))?;
            }
            let point = |v: &f64| Circle::new((*v, row + 0.22), 4, DEFECT_COLOUR.mix(0.7).filled());
            chart.draw_series(gain.seeds.iter().filter(|v| v.is_finite()).map(point))?;
            if gain.gain.is_finite() {
                chart.draw_series([Circle::new((gain.gain, row), 6, GOOD_COLOUR.filled())])?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::intervals::Interval;

    #[test]
    fn any_gains_can_be_drawn() {
        let gain = |gain, low, high| Gain {
            gain,
            seeds: vec![gain - 0.1, gain + 0.1],
            interval: Some(Interval { low, high }),
        };
        let none = Gain { gain: f64::NAN, seeds: vec![f64::NAN], interval: None };
        let drawn = gains(&[("gan", &gain(0.1, -0.1, 0.3)), ("a<b", &gain(0.0, 0.0, 0.0)), ("vae", &none)]);
        let drawn = drawn.unwrap();
        assert!(drawn.contains("gan") && drawn.contains("a&lt;b") && drawn.matches("<circle").count() >= 6);
    }
}
