//! The probes of `[select.lr]`: which runs try out which learning rates, for which cells.

use crate::expand::{Cell, Choice, at_place, cell_of, expand, plain};
use crate::fields;
use crate::plan;
use peftbench_spec::error::Place;
use peftbench_spec::sweep_spec::{Axis, LR, gives_lr};
use peftbench_spec::{LrSelection, RunSpec, SpecError, SweepSpec};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, SpecError>;

/// Fields that probes and `per` cannot name.
const OWN: [(&str, &str); 3] = [
    (LR, "it is what is chosen, from `select.lr.grid`"),
    ("seed", "probes have `select.lr.seeds`"),
    ("evaluate_test", "a probe never reads the test split"),
];

/// Checks what `[select.lr]` says of fields, and that nothing else gives the rate. `varied`: what varies in the sweep, with its place.
pub(crate) fn check(sweep: &SweepSpec, varied: &[(String, &Axis)]) -> Result<()> {
    let Some(selection) = &sweep.select_lr else { return Ok(()) };
    let probe = selection.probe.iter().map(|(field, _)| (format!("select.lr.probe.{field}"), field));
    let per = selection.per.iter().flatten().enumerate().map(|(i, field)| (format!("select.lr.per[{i}]"), field));
    for (place, field) in probe.chain(per) {
        fields::check(field).map_err(|problem| at_place(sweep, &place, problem))?;
        if let Some((_, why)) = OWN.iter().find(|(own, _)| own == field) {
            return Err(at_place(sweep, &place, format!("`{field}` has no place here: {why}")));
        }
    }
    let fixed = sweep.base.iter().find(|(field, value)| gives_lr(field, value)).map(|(field, _)| match field.as_str() {
        LR => "base.train.lr".to_owned(),
        table => format!("base.{table}.lr"),
    });
    let varied =
        || varied.iter().find(|(_, axis)| axis.values.iter().any(|value| gives_lr(&axis.field, value))).map(|(place, _)| place.clone());
    match fixed.or_else(varied) {
        None => Ok(()),
        Some(place) => {
            let problem =
                format!("the learning rate is also chosen, by `[select.lr]` in {}: leave out one of the two", line(sweep, "select.lr"));
            Err(at_place(sweep, &place, problem))
        }
    }
}

/// Where the file has `key`: `line 12`.
fn line(sweep: &SweepSpec, key: &str) -> String {
    match at_place(sweep, key, String::new()) {
        SpecError::Invalid { at: Place { source: Some((_, line)), .. }, .. } => format!("line {line}"),
        _ => "the same file".to_owned(),
    }
}

/// The cell with the learning rate at this index of the grid.
pub(crate) fn with_rate(sweep: &SweepSpec, selection: &LrSelection, cell: &Cell, index: usize) -> Result<Cell> {
    cell_of(sweep, [cell.choices.clone(), vec![rate(selection, index)]].concat())
}

fn rate(selection: &LrSelection, index: usize) -> Choice {
    Choice { field: LR.to_owned(), value: json!(selection.grid[index]), place: "select.lr.grid".to_owned() }
}

/// The probes of a cell at the lowest rate, one a seed. `first_seed` is the sweep's.
pub(crate) fn probe_cells(sweep: &SweepSpec, selection: &LrSelection, cell: &Cell, first_seed: u64) -> Result<Vec<Cell>> {
    let probe = |seed: Choice| {
        let set = selection.probe.iter().map(|(field, value)| {
            let place = format!("select.lr.probe.{field}");
            Choice { field: field.clone(), value: value.clone(), place }
        });
        let own: Vec<Choice> = set.chain([rate(selection, 0), seed]).collect();
        let covered = |field: &str| own.iter().any(|choice| field == choice.field || field.starts_with(&format!("{}.", choice.field)));
        let kept = cell.choices.iter().filter(|choice| !covered(&choice.field)).cloned();
        let probe = cell_of(sweep, kept.chain(own.iter().cloned()).collect())?;
        // Forgetting is measured on a test split, too.
        let spec = RunSpec { evaluate_test: false, forgetting: None, ..probe.spec };
        Ok(Cell { spec, ..probe })
    };
    let seed = |seed: u64, place: String| Choice { field: "seed".into(), value: json!(seed), place };
    match &selection.seeds {
        Some(seeds) => seeds.iter().enumerate().map(|(i, &value)| probe(seed(value, format!("select.lr.seeds[{i}]")))).collect(),
        None => Ok(vec![probe(seed(first_seed, "seeds".to_owned()))?]),
    }
}

/// All that a sweep may run, as its file has it: its cells, and the probes that choose their learning rates. Errors name file and line.
///
/// Whether a cell trains by a rate is not known here: one that does not has probes all the same.
pub fn cells_and_probes(sweep: &SweepSpec) -> Result<Vec<Cell>> {
    let mut cells = expand(sweep)?;
    if let Some(selection) = &sweep.select_lr {
        let first_seed = cells[0].spec.seed;
        let probes = cells.iter().map(|cell| probe_cells(sweep, selection, cell, first_seed)).collect::<Result<Vec<_>>>()?;
        cells.extend(probes.into_iter().flatten());
    }
    Ok(cells)
}

/// The fields in which the cells of a choice agree, with the values of this resolved run.
pub(crate) fn cells_with(selection: &LrSelection, spec: &RunSpec) -> Result<Value> {
    let mut run = serde_json::to_value(spec).map_err(|error| SpecError::at("", error.to_string()))?;
    if let Value::Object(fields) = &mut run {
        fields.remove("seed");
        fields.get_mut("train").and_then(Value::as_object_mut).map(|train| train.remove("lr"));
    }
    let Some(fields) = &selection.per else { return Ok(run) };
    Ok(Value::Object(fields.iter().map(|field| (field.clone(), fields::get(&run, field))).collect()))
}

/// What the cells of a choice have in common, for people.
pub(crate) fn label(selection: &LrSelection, cells_with: &Value, spec: &RunSpec) -> String {
    let Some(fields) = &selection.per else { return plan::setting(spec) };
    let short = |field: &String| match field.as_str() {
        "model" => spec.model.name.clone(),
        "task" => spec.task.name.clone(),
        "method" => spec.method_label(),
        "targets" => spec.targets.label(),
        "layers" => format!("layers {}", spec.layers),
        "policy" => spec.policy.name.clone(),
        other => format!("{other} {}", plain(&cells_with[other])),
    };
    fields.iter().map(short).collect::<Vec<_>>().join(" · ")
}
