//! Who was there when, as an SVG: a lane for each node, and in it the rounds that
//! it reported.

use std::path::Path;

use plotters::prelude::*;

use crate::Fault;
use crate::story::{Story, What};

const THERE: RGBColor = RGBColor(0xbf, 0xe3, 0xd6);
const GONE: RGBColor = RGBColor(0xe0, 0xe0, 0xe0);
const BEHIND: RGBColor = RGBColor(0xf0, 0xe4, 0x42);
const LYING: RGBColor = RGBColor(0xe8, 0x8a, 0x5a);
const ROUNDS: RGBColor = RGBColor(0x00, 0x72, 0xb2);

/// Height of a lane and of what is around the lanes, in pixels.
const LANE: u32 = 56;
const AROUND: u32 = 120;

/// Draws the lanes over the seconds since the nodes had their inputs.
pub fn draw(path: &Path, title: &str, story: &Story) -> Result<(), Fault> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot write {}: {e}", path.display());
    let mut svg = String::new();
    lanes(&mut svg, title, story).map_err(|e| failed(&e))?;
    std::fs::write(path, svg).map_err(|e| failed(&e).into())
}

type Failed<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn lanes<'a>(svg: &'a mut String, title: &str, story: &Story) -> Result<(), Failed<'a>> {
    let nodes = u32::from(story.roster.nodes());
    let root = SVGBackend::with_string(svg, (1000, AROUND + LANE * nodes)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(62)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..story.online.max(1e-3), 0.0..f64::from(nodes))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|s| format!("{s:.0} s"))
        .label_style(("sans-serif", 14))
        .max_light_lines(1)
        .draw()?;
    for slot in story.roster.slots() {
        // The first node is on top.
        let floor = f64::from(nodes) - f64::from(slot.0) + 0.1;
        let events = story.events.iter().filter(|event| event.slot == slot);
        let changes: Vec<_> = events.map(|event| (event.at, colour(event.what))).collect();
        let starts = std::iter::once((0.0, THERE)).chain(changes.iter().copied());
        let ends = changes.iter().map(|(at, _)| *at).chain([story.online]);
        let block = |((from, colour), to): ((f64, RGBColor), f64)| {
            Rectangle::new([(from, floor), (to.max(from), floor + 0.8)], colour.filled())
        };
        chart.draw_series(starts.zip(ends).map(block))?;
        let height = |round: u32| floor + 0.8 * f64::from(round) / f64::from(story.of.max(1));
        // A process that was started again begins a line of its own.
        let kills: Vec<_> = story.events.iter().filter(|e| e.slot == slot && e.what == What::Killed).collect();
        let life = |at: f64| kills.iter().filter(|kill| kill.at <= at).count();
        for line in story.rounds[slot.index()].chunk_by(|a, b| life(a.0) == life(b.0)) {
            let points = line.iter().map(|(at, round)| (*at, height(*round)));
            chart.draw_series(LineSeries::new(points, ROUNDS.stroke_width(2)))?;
        }
        let (x, y) = chart.backend_coord(&(0.0, floor + 0.4));
        root.draw(&Text::new(slot.to_string(), (x - 56, y - 8), ("sans-serif", 15)))?;
        for event in
            story.events.iter().filter(|e| e.slot == slot && matches!(e.what, What::Killed | What::Lies | What::Lost))
        {
            // Where the line is not.
            let above = 2 * event.round < story.of;
            let (x, y) = chart.backend_coord(&(event.at, floor + if above { 0.8 } else { 0.0 }));
            let text = format!("{}, round {}", event.what.name(), event.round);
            root.draw(&Text::new(text, (x + 3, y + if above { 3 } else { -15 }), ("sans-serif", 12)))?;
        }
    }
    legend(&root)?;
    root.present()
}

fn colour(what: What) -> RGBColor {
    match what {
        What::Killed | What::Lost => GONE,
        What::Started => BEHIND,
        What::CaughtUp => THERE,
        What::Lies => LYING,
    }
}

/// Below the axis, from left to right.
fn legend<'a>(root: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>) -> Result<(), Failed<'a>> {
    let (width, height) = root.dim_in_pixel();
    let y = height as i32 - 20;
    let names = [(THERE, "there"), (GONE, "killed"), (BEHIND, "catching up"), (LYING, "lying")];
    let step = (width as i32 - 90) / (names.len() as i32 + 1);
    for (i, (colour, name)) in (0..).zip(names) {
        let x = 76 + i * step;
        root.draw(&Rectangle::new([(x, y), (x + 18, y + 10)], colour.filled()))?;
        root.draw(&Text::new(name, (x + 24, y - 2), ("sans-serif", 13)))?;
    }
    let x = 76 + names.len() as i32 * step;
    root.draw(&PathElement::new([(x, y + 5), (x + 18, y + 5)], ROUNDS.stroke_width(2)))?;
    root.draw(&Text::new("rounds, of all", (x + 24, y - 2), ("sans-serif", 13)))
}
