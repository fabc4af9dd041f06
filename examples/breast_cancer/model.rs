//! What the nodes compute, and on what.

use std::collections::BTreeMap;

use beaverdam::ml::{Descent, LogisticRegression, with_intercept};
use beaverdam::program::{Builder, Program, Type};

use crate::Fault;
use crate::data::{BOUND, Data};

pub const LEARNING_RATE: f64 = 0.1;

/// What the nodes compute: they see this and the shapes, never a value.
pub fn program(data: &Data, epochs: u32) -> Result<Program, Fault> {
    let (rows, test_rows, features) = (data.train.labels.len(), data.test.labels.len(), data.features);
    let b = Builder::new();
    let x = b.input("train features", "owner", Type::fixed(-BOUND..=BOUND), [rows, features]);
    let y = b.input("train labels", "owner", Type::bit(), [rows]);
    let unseen = b.input("test features", "owner", Type::fixed(-BOUND..=BOUND), [test_rows, features]);
    let descent = Descent { epochs, learning_rate: LEARNING_RATE, ..Descent::default() };
    let model = LogisticRegression { descent, ..LogisticRegression::default() };
    let fit = model.train(&with_intercept(&x), &y);
    b.output("weights", "owner", &fit.weights);
    b.output("weights of each epoch", "owner", &fit.history);
    b.output("predictions", "owner", &model.predict(&with_intercept(&unseen), &fit.weights));
    Ok(b.finish()?)
}

/// The owner's data by the names of the program. It may look at them: are the
/// declared ranges honest?
pub fn inputs(data: &Data, program: &Program) -> Result<BTreeMap<String, Vec<f64>>, Fault> {
    let inputs = BTreeMap::from([
        ("train features".to_owned(), data.train.features.clone()),
        ("train labels".to_owned(), data.train.labels.clone()),
        ("test features".to_owned(), data.test.features.clone()),
    ]);
    if let Some(seen) = program.dry_run(&inputs)?.declarations.iter().find(|d| !d.holds()) {
        let (least, greatest) = (seen.least, seen.greatest);
        return Err(format!(
            "{} would reach {least} to {greatest}, outside the declared range: train fewer epochs",
            seen.name
        )
        .into());
    }
    Ok(inputs)
}
