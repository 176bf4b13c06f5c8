//! What a training step keeps for its backward pass, by the layers that train: a row a configuration.

use super::{Heading, TextTable};
use crate::axis::mebibytes;
use crate::data::{Cell, Data};
use peftbench_results::StepRow;
use std::collections::BTreeSet;

/// File name without extension, and name for `--only`.
pub const ID: &str = "activations";

/// The table; none where no step was recorded.
pub fn table(data: &Data) -> Option<TextTable> {
    let rows: Vec<Vec<String>> = data.trained().filter_map(|cell| fields(data, cell)).collect();
    if rows.is_empty() {
        return None;
    }
    let heading = |title: &str, numeric| Heading { title: title.to_owned(), numeric };
    let texts = ["model", "task", "method", "targets", "layers"].map(|title| heading(title, false));
    let numbers = ["layers active (mean)", "activations, mean (MiB)", "activations, peak (MiB)", "step, peak (MiB)", "tokens/s"];
    Some(TextTable {
        caption: format!("Memory of the training steps of the sweep {} by the layers that train.", data.sweep),
        columns: texts.into_iter().chain(numbers.map(|title| heading(title, true))).collect(),
        rows,
        note: "Activations are the bytes that the tape keeps for the backward pass of a step; mean and peak over the steps of all seeds, since under a \
               policy every step keeps another number of layers. The step's peak is the highest live heap, base weights included."
            .to_owned(),
    })
}

fn fields(data: &Data, cell: &Cell) -> Option<Vec<String>> {
    let runs: BTreeSet<&str> = data.runs.iter().filter(|run| run.group_id == cell.row.group_id).map(|run| run.run_id.as_str()).collect();
    let steps: Vec<&StepRow> = data.steps.iter().filter(|step| step.stage == "train" && runs.contains(step.run_id.as_str())).collect();
    if steps.is_empty() {
        return None;
    }
    let mean = |value: &dyn Fn(&StepRow) -> u64| steps.iter().map(|step| value(step) as f64).sum::<f64>() / steps.len() as f64;
    let highest = |value: &dyn Fn(&StepRow) -> u64| steps.iter().map(|step| value(step)).max().unwrap_or(0);
    let place = &cell.place;
    let texts = [&place.model, &place.task, &place.method, &place.targets, &place.layers].map(Clone::clone);
    let numbers = [
        format!("{:.2}", mean(&|step| step.layers_active)),
        format!("{:.2}", mean(&|step| step.activation_bytes) * mebibytes(1)),
        format!("{:.2}", mebibytes(highest(&|step| step.activation_bytes))),
        format!("{:.2}", mebibytes(highest(&|step| step.peak_bytes))),
        cell.row.train_tokens_per_second_median.map_or_else(|| "–".to_owned(), |speed| format!("{speed:.0}")),
    ];
    Some(texts.into_iter().chain(numbers).collect())
}
