//! The confusion matrix as an SVG.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Fault;
use crate::data::CLASSES;

/// Images by their label and what was predicted for them.
pub struct Confusion([[usize; CLASSES]; CLASSES]);

impl Confusion {
    pub fn of(labels: &[usize], predicted: &[usize]) -> Self {
        let mut counts = [[0; CLASSES]; CLASSES];
        labels.iter().zip(predicted).for_each(|(label, found)| counts[*label][*found] += 1);
        Self(counts)
    }

    /// Draws it: a row for each label, a column for each prediction.
    pub fn draw(&self, path: &Path, caption: &str) -> Result<(), Fault> {
        let failed = |e: &dyn std::fmt::Display| format!("cannot write {}: {e}", path.display());
        let mut svg = String::new();
        self.picture(&mut svg, caption).map_err(|e| failed(&e))?;
        std::fs::write(path, svg).map_err(|e| failed(&e).into())
    }

    fn picture<'a>(
        &self,
        svg: &'a mut String,
        caption: &str,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        const CELL: i32 = 48;
        const LEFT: i32 = 72;
        const TOP: i32 = 84;
        let side = CELL * CLASSES as i32;
        let root =
            SVGBackend::with_string(svg, ((LEFT + side + 24) as u32, (TOP + side + 24) as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let font = |size: i32| ("sans-serif", size).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Center));
        let middle = LEFT + side / 2;
        root.draw(&Text::new(caption.to_owned(), (middle, 18), font(18)))?;
        root.draw(&Text::new("predicted", (middle, 44), font(15)))?;
        let turned = font(15).transform(FontTransform::Rotate270);
        root.draw(&Text::new("label", (20, TOP + side / 2), turned))?;
        for i in 0..CLASSES {
            let at = CELL * i as i32 + CELL / 2;
            root.draw(&Text::new(i.to_string(), (LEFT + at, TOP - 16), font(15)))?;
            root.draw(&Text::new(i.to_string(), (LEFT - 16, TOP + at), font(15)))?;
        }
        let most = self.0.iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
        for (label, row) in self.0.iter().enumerate() {
            for (found, count) in row.iter().enumerate() {
                let (x, y) = (LEFT + CELL * found as i32, TOP + CELL * label as i32);
                let corners = [(x, y), (x + CELL, y + CELL)];
                // Right ones blue, wrong ones orange; each that is there can be seen.
                let hue = if label == found { RGBColor(0x00, 0x72, 0xb2) } else { RGBColor(0xd5, 0x5e, 0x00) };
                let weight = if *count == 0 { 0.0 } else { 0.2 + 0.6 * *count as f64 / most };
                root.draw(&Rectangle::new(corners, hue.mix(weight).filled()))?;
                root.draw(&Rectangle::new(corners, BLACK.mix(0.15)))?;
                if *count > 0 {
                    root.draw(&Text::new(count.to_string(), (x + CELL / 2, y + CELL / 2), font(15)))?;
                }
            }
        }
        root.present()
    }
}
