//! The learning curve as an SVG: loss and accuracy of each epoch, private
//! training beside training in the clear.

use std::path::Path;

use plotters::prelude::*;

use crate::Fault;
use crate::plain::Score;

const PRIVATE: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const PLAIN: RGBColor = RGBColor(0x00, 0x72, 0xb2);

/// Draws both trainings, one score per epoch.
pub fn draw(path: &Path, private: &[Score], plain: &[Score]) -> Result<(), Fault> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot write {}: {e}", path.display());
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 420)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let (left, right) = root.split_horizontally(480);
        panel(&left, "loss on the training samples", private, plain, SeriesLabelPosition::UpperRight, |s| s.loss)
            .map_err(|e| failed(&e))?;
        panel(&right, "accuracy on the test samples", private, plain, SeriesLabelPosition::LowerRight, |s| s.accuracy)
            .map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    std::fs::write(path, svg).map_err(|e| failed(&e).into())
}

fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    caption: &str,
    private: &[Score],
    plain: &[Score],
    legend: SeriesLabelPosition,
    of: impl Fn(&Score) -> f64,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let values = || private.iter().chain(plain).map(&of);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let room = ((most - least) * 0.1).max(0.005);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.5..private.len() as f64 + 0.5, least - room..most + room)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .x_label_formatter(&|epoch| format!("{epoch:.0}"))
        .label_style(("sans-serif", 15))
        .max_light_lines(1)
        .draw()?;
    let points = |scores: &[Score]| scores.iter().zip(1..).map(|(s, i)| (f64::from(i), of(s))).collect::<Vec<_>>();
    chart
        .draw_series(LineSeries::new(points(plain), PLAIN.stroke_width(4)))?
        .label("in the clear")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], PLAIN.stroke_width(4)));
    chart
        .draw_series(points(private).into_iter().map(|point| Circle::new(point, 4, PRIVATE.filled())))?
        .label("on secret shares")
        .legend(|(x, y)| Circle::new((x + 9, y), 4, PRIVATE.filled()));
    chart
        .configure_series_labels()
        .position(legend)
        .border_style(BLACK.mix(0.2))
        .background_style(WHITE)
        .label_font(("sans-serif", 15))
        .draw()
}
