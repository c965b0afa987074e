//! The roofline plot: how fast each op is, over how much arithmetic it has for a byte of memory traffic.

use super::{Layer, Measured, Named, Phase, Roof};
use crate::error::{Error, Result};
use crate::ops::REGISTRY;
use plotters::prelude::*;
use std::ops::Range;

/// Told apart by people with any colour vision (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(150, 150, 150),
];

/// The ops of one network as dots, full ones forward and rings backward, under the roof of the device that each was measured on, as the
/// text of an SVG; `None` where there is nothing to draw. One report has a colour for each kind of op, several have one each. Ops
/// without arithmetic have no place on logarithmic axes.
///
/// # Errors
/// [`Error::Usage`] when the drawing library cannot draw it.
pub(super) fn roofline_svg(networks: &[(&Named, &Measured)]) -> Result<Option<String>> {
    let colours = || COLOURS.into_iter().cycle();
    let (mut groups, mut roofs): (Vec<Group<'_>>, Vec<(RGBColor, Roof)>) = (Vec::new(), Vec::new());
    for ((named, network), colour) in networks.iter().zip(colours()) {
        let layers = network.layers.iter().filter(|layer| layer.flops > 0 && layer.seconds.median > 0.0);
        if networks.len() > 1 {
            groups.push(Group { name: &named.name, colour, layers: layers.collect() });
            roofs.extend(named.report.roof.map(|roof| (colour, roof)));
            continue;
        }
        for layer in layers {
            // A gradient is named after its op.
            let kinds = REGISTRY.iter().map(|entry| entry.name).filter(|name| layer.op.starts_with(name));
            let name = kinds.max_by_key(|name| name.len()).unwrap_or(&layer.op);
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.layers.push(layer),
                None => groups.push(Group { name, colour, layers: vec![layer] }),
            }
        }
        groups.iter_mut().zip(colours()).for_each(|(group, colour)| group.colour = colour);
        roofs.extend(named.report.roof.map(|roof| (RGBColor(90, 90, 90), roof)));
    }
    if roofs.is_empty() || groups.iter().all(|group| group.layers.is_empty()) {
        return Ok(None);
    }
    let mut svg = String::new();
    draw(&mut svg, &groups, &roofs)
        .map_err(|problem| Error::Usage(format!("the roofline cannot be drawn: {problem}")))?;
    Ok(Some(svg))
}

/// Dots of one colour.
struct Group<'a> {
    name: &'a str,
    colour: RGBColor,
    layers: Vec<&'a Layer>,
}

/// Billions of operations a second.
fn rate(layer: &Layer) -> f64 {
    layer.flops as f64 / layer.seconds.median / 1e9
}

/// The least and largest value, with room around them on a logarithmic axis.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    least / 2.0..most * 2.0
}

fn draw(svg: &mut String, groups: &[Group<'_>], roofs: &[(RGBColor, Roof)]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let layers = || groups.iter().flat_map(|group| &group.layers);
    let peak = |roof: &Roof| roof.flops_per_second() / 1e9;
    let ridge = |roof: &Roof| roof.flops_per_second() / roof.bytes_per_second();
    let x = around(layers().map(|layer| layer.intensity()).chain(roofs.iter().map(|(_, roof)| ridge(roof))));
    let y = around(layers().map(|layer| rate(layer)).chain(roofs.iter().map(|(_, roof)| peak(roof))));
    let area = SVGBackend::with_string(svg, (1000, 560)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| text(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())
        .map_err(|error| text(&error))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("FLOP per byte")
        .y_desc("GFLOP/s")
        .draw()
        .map_err(|error| text(&error))?;
    for (colour, roof) in roofs {
        let under = |intensity: f64| (intensity, (intensity * roof.bytes_per_second() / 1e9).min(peak(roof)));
        // A memory roof that starts below the plot enters it where it crosses its lower edge.
        let entry = x.start.max(y.start * 1e9 / roof.bytes_per_second());
        let line = [entry, ridge(roof), x.end].map(under);
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2))).map_err(|error| text(&error))?;
    }
    for &Group { name, colour, ref layers } in groups {
        let dots = layers.iter().map(|layer| {
            let style = if layer.phase == Phase::Backward { colour.stroke_width(1) } else { colour.filled() };
            Circle::new((layer.intensity(), rate(layer)), 5, style)
        });
        chart
            .draw_series(dots)
            .map_err(|error| text(&error))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 12, y), 5, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| text(&error))?;
    area.present().map_err(|error| text(&error))
}
