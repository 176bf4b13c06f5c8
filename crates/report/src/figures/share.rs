//! The primary metric against the share of the numbers that train.

use super::scatter::{Cost, draw};
use super::{Drawing, Figure, Value};
use crate::axis::significant;
use crate::data::{Cell, Data};

/// Primary metric against trainable parameters in percent of the base's, logarithmic, with the Pareto front: the axis of the papers.
pub(super) struct Share;

impl Figure for Share {
    fn id(&self) -> &'static str {
        "accuracy-share"
    }

    fn title(&self) -> &'static str {
        "Test score against the share that trains"
    }

    fn reading(&self) -> &'static str {
        "Left is cheaper. The share is in percent of the base's scalars; a scalar trains if it gets an update in at least one step."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let cost = Cost {
            value: &share,
            axis: "trainable, % of the base (logarithmic)",
            column: "trainable_percent",
            logarithmic: true,
            format: &|value, _| significant(value),
            spread: "",
        };
        let (scene, csv) = draw(data, self.title(), &cost)?;
        Some(Drawing { scene, csv })
    }
}

fn share(cell: &Cell) -> Option<Value> {
    Some(Value { center: 100.0 * cell.row.trainable_fraction.filter(|&share| share > 0.0)?, ends: None })
}
