//! The primary metric against the number of trainable parameters.

use super::scatter::{Cost, draw};
use super::{Drawing, Figure, Value};
use crate::axis::short_count;
use crate::data::{Cell, Data};

/// Primary metric against trainable parameters, logarithmic, with the Pareto front.
pub(super) struct Parameters;

impl Figure for Parameters {
    fn id(&self) -> &'static str {
        "accuracy-parameters"
    }

    fn title(&self) -> &'static str {
        "Test score against trainable parameters"
    }

    fn reading(&self) -> &'static str {
        "Up and to the left is better. Trainable parameters are the scalars that get an update in at least one step."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let cost = Cost {
            value: &trainable,
            axis: "trainable parameters (logarithmic)",
            column: "num_trainable_params",
            logarithmic: true,
            format: &|value, _| short_count(value),
            spread: "",
        };
        let (scene, csv) = draw(data, self.title(), &cost)?;
        Some(Drawing { scene, csv })
    }
}

fn trainable(cell: &Cell) -> Option<Value> {
    Some(Value { center: cell.row.num_trainable_params.filter(|&count| count > 0)? as f64, ends: None })
}
