//! Losses and scores over the steps, as an SVG.

use crate::error::{Error, Result};
use plotters::prelude::*;

/// A line of a plot: a name, and points (step, value).
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What the line shows.
    pub name: String,
    /// Points in order.
    pub points: Vec<(f64, f64)>,
}

/// One or two values such as losses (left axis), and up to three scores between 0 and 1 (right axis), over the steps, as the text of an
/// SVG.
///
/// # Errors
/// [`Error::Usage`] when the drawing library cannot draw them.
pub fn curve_svg(losses: &[Curve], scores: &[Curve]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, losses, scores).map_err(|problem| Error::Usage(format!("the curve cannot be drawn: {problem}")))?;
    Ok(svg)
}

/// The colours of the losses.
const LOSSES: [RGBColor; 2] = [RGBColor(0, 114, 178), RGBColor(90, 90, 90)];

/// The colours of the scores.
const SCORES: [RGBColor; 3] = [RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

fn draw(svg: &mut String, losses: &[Curve], scores: &[Curve]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let points = |curves: &'_ [Curve]| curves.iter().flat_map(|curve| curve.points.clone()).collect::<Vec<_>>();
    let (lost, scored) = (points(losses), points(scores));
    let last = lost.iter().chain(&scored).map(|point| point.0).fold(1.0, f64::max);
    let highest = lost.iter().map(|point| point.1).filter(|value| value.is_finite()).fold(1e-6, f64::max);
    // The name of an axis is that of its curve, or what all are.
    let axis = |curves: &[Curve], all: &str| match curves {
        [curve] => curve.name.clone(),
        _ => all.to_owned(),
    };
    let area = SVGBackend::with_string(svg, (900, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| text(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .right_y_label_area_size(if scores.is_empty() { 0 } else { 56 })
        .build_cartesian_2d(0.0..last, 0.0..1.05 * highest)
        .map_err(|error| text(&error))?
        .set_secondary_coord(0.0..last, 0.0..1.0);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("step")
        .y_desc(axis(losses, "loss"))
        .x_label_formatter(&|step| format!("{step:.0}"))
        .draw()
        .map_err(|error| text(&error))?;
    if !scores.is_empty() {
        chart.configure_secondary_axes().y_desc(axis(scores, "scores")).draw().map_err(|error| text(&error))?;
    }
    for (width, (loss, colour)) in (1..).zip(losses.iter().zip(LOSSES)) {
        let points = loss.points.iter().copied().filter(|point| point.1.is_finite());
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(width)))
            .map_err(|error| text(&error))?
            .label(&loss.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(width)));
    }
    for (score, colour) in scores.iter().zip(SCORES) {
        chart
            .draw_secondary_series(LineSeries::new(score.points.iter().copied(), colour.stroke_width(2)))
            .map_err(|error| text(&error))?
            .label(&score.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| text(&error))?;
    area.present().map_err(|error| text(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_even_when_there_is_little_to_draw() {
        let curve = |points: &[(f64, f64)]| Curve { name: "value".into(), points: points.to_vec() };
        let mut svg = String::new();
        let scores = [curve(&[(3.0, 0.9)]), curve(&[])];
        let losses = [curve(&[(1.0, 2.0), (2.0, f64::NAN), (3.0, 0.5)]), curve(&[(2.0, 3.0), (3.0, 4.0)])];
        draw(&mut svg, &losses, &scores).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("polyline") && !svg.contains("NaN"));
        assert!(svg.contains("#0072B2") && svg.contains("#5A5A5A"), "each loss has a line");
        assert!(svg.contains("4.0\n"), "the axis reaches the highest of both");
        let mut svg = String::new();
        draw(&mut svg, &[curve(&[])], &[]).unwrap();
        assert!(svg.contains("</svg>"));
    }
}
