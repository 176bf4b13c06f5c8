//! The primary metric against peak training memory.

use super::scatter::{Cost, draw};
use super::{Drawing, Figure, Value};
use crate::axis::{decimals, mebibytes};
use crate::data::{Cell, Data};

/// Primary metric against peak memory, with the Pareto front.
pub(super) struct Memory;

impl Figure for Memory {
    fn id(&self) -> &'static str {
        "accuracy-memory"
    }

    fn title(&self) -> &'static str {
        "Test score against peak training memory"
    }

    fn reading(&self) -> &'static str {
        "Up and to the left is better. Memory is the highest number of live heap bytes during training (weights, adapter, gradients, \
         optimizer, activations, buffers), without evaluation and without what the process reserves beyond it."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let cost = Cost {
            value: &peak,
            axis: "peak training memory (MiB)",
            column: "train_peak_mebibytes_median",
            logarithmic: false,
            format: &decimals,
            spread: "Horizontal whiskers reach from the lowest to the highest seed. ",
        };
        let (scene, csv) = draw(data, self.title(), &cost)?;
        Some(Drawing { scene, csv })
    }
}

fn peak(cell: &Cell) -> Option<Value> {
    let row = &cell.row;
    let ends = row.train_peak_bytes_min.zip(row.train_peak_bytes_max).filter(|_| row.n_seeds > 1);
    let ends = ends.map(|(low, high)| (mebibytes(low), mebibytes(high)));
    Some(Value { center: mebibytes(row.train_peak_bytes_median?), ends })
}
