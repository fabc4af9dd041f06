//! Curves as an SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::Fault;

/// One curve.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [RGBColor; 3] = [RGBColor(0xd5, 0x5e, 0x00), RGBColor(0x00, 0x72, 0xb2), RGBColor(0x00, 0x9e, 0x73)];

/// Draws curves over one pair of axes; if they are logarithmic, their labels
/// are what was measured, not its logarithm.
pub fn draw(path: &Path, (x, y): (&str, &str), logarithmic: bool, curves: &[Curve]) -> Result<(), Fault> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot write {}: {e}", path.display());
    let scaled = |v: f64| if logarithmic { v.max(1e-9).log10() } else { v };
    // Not the last digits of a float: three are more than an axis can show.
    let shown = |v: &f64| if logarithmic { power(*v) } else { format!("{}", (v * 1e3).round() / 1e3) };
    let all = || curves.iter().flat_map(|c| &c.points).map(|(x, y)| (scaled(*x), scaled(*y)));
    let range = |of: fn((f64, f64)) -> f64| {
        let (least, most) = all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let room = ((most - least) * 0.08).max(0.01);
        least - room..most + room
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (560, 360)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(range(|p| p.0), range(|p| p.1))
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .x_label_formatter(&shown)
            .y_label_formatter(&shown)
            .label_style(("sans-serif", 14))
            .max_light_lines(1)
            .draw()
            .map_err(|e| failed(&e))?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<_> = curve.points.iter().map(|(x, y)| (scaled(*x), scaled(*y))).collect();
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
                .map_err(|e| failed(&e))?
                .label(curve.name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            let dots = points.into_iter().map(|point| Circle::new(point, 4, colour.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK.mix(0.2))
            .background_style(WHITE)
            .label_font(("sans-serif", 14))
            .draw()
            .map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    std::fs::write(path, svg).map_err(|e| failed(&e).into())
}

/// 10 to this power, in few characters.
fn power(log: f64) -> String {
    let value = 10f64.powf(log);
    if (0.01..10_000.0).contains(&value) { format!("{value:.2}") } else { format!("{value:.0e}") }
}
