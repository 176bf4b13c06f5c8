//! `peftbench inspect`: what a target expression selects in a model.

use crate::args::ModelArgs;
use crate::exit::Exit;
use crate::slot_table::{self, Line};
use crate::text_table::{self, number, text};
use crate::{model_files, output};
use anyhow::Context;
use clap::Args;
use peftbench_adapters::{choose, methods};
use peftbench_models::Network;
use peftbench_models::slots::SlotMut;
use peftbench_runner::RunError;
use peftbench_spec::{Candidate, Component, LayerSelection, TargetExpr};
use peftbench_sweep::units::Count;
use std::collections::HashMap;

/// Shows what targets select in a model, with shapes and counts; without targets, every slot there is
#[derive(Debug, Args)]
pub struct Inspect {
    /// A model's name, folder or .gguf file
    #[arg(value_name = "MODEL")]
    model: String,
    /// Terms of a target expression: suffixes (`q_proj`, `in_proj.x`), globs over paths, `role:…`, `group:…`, any of them after `!`
    #[arg(long, value_name = "EXPR", num_args = 1..)]
    targets: Vec<String>,
    /// Layers: `all`, `0,3,8-11`, `first:25%`, `last:4`, `even:8`, `random:8`
    #[arg(long, value_name = "L", default_value = "all")]
    layers: String,
    /// Seed of a random choice of layers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Only slots that this method attaches to; without `--targets`, those it takes by default
    #[arg(long, value_name = "M")]
    method: Option<String>,
    #[command(flatten)]
    models: ModelArgs,
}

/// Selects and prints. Weights are not read.
pub fn run(verb: &Inspect) -> anyhow::Result<Exit> {
    let files = verb.models.environment().find_model(&verb.model)?;
    let mut model = model_files::shapes(&files.path)?;
    let selected = select(verb, &mut *model)?;
    let shapes = shapes(&mut *model);
    let lines: Vec<Line> = selected.iter().map(|slot| line(slot, &shapes)).collect();
    let columns =
        [text("slot"), text("layers"), text("kind"), text("role"), text("shape"), text("matched by"), number("count"), number("scalars")];
    let rows: Vec<Vec<String>> = slot_table::group(&lines)
        .into_iter()
        .map(|group| {
            let mut row = vec![group.pattern, group.layers];
            row.extend(group.details);
            row.extend([group.count.to_string(), Count(group.scalars).to_string()]);
            row
        })
        .collect();
    output::print(&text_table::render(&columns, &rows))?;
    let (arch, layers, total) = (model.arch(), model.num_layers(), Count(model_files::num_params(&mut *model)));
    output::print(&format!("\n{} slots of {}: {arch}, {layers} layers, {total} parameters\n", lines.len(), files.path.display()))?;
    Ok(Exit::Done)
}

/// One selected slot or row part.
struct Selected {
    candidate: Candidate,
    term: String,
}

fn select(verb: &Inspect, model: &mut dyn Network) -> anyhow::Result<Vec<Selected>> {
    let candidates = model.candidates();
    let layers: LayerSelection = verb.layers.parse()?;
    let targets = if verb.targets.is_empty() { TargetExpr::default() } else { TargetExpr::new(verb.targets.iter().cloned()) };
    if let Some(name) = &verb.method {
        return by_method(name, model, &targets, &layers, verb.seed, &candidates);
    }
    let terms: Vec<Option<String>> = match targets.is_default() {
        true => vec![Some("-".to_owned()); candidates.len()],
        false => {
            let mut terms = vec![None; candidates.len()];
            for found in targets.select(&candidates)? {
                terms[found.candidate] = Some(found.term);
            }
            terms
        }
    };
    let kept = layers.resolve(model.num_layers(), verb.seed)?;
    let in_layers = |candidate: &Candidate| candidate.layer.map_or(layers == LayerSelection::All, |layer| kept.contains(&layer));
    let selected = candidates.into_iter().zip(terms).filter(|(candidate, _)| in_layers(candidate));
    Ok(selected.filter_map(|(candidate, term)| Some(Selected { candidate, term: term? })).collect())
}

/// What a method takes, by its own rules.
fn by_method(
    name: &str,
    model: &mut dyn Network,
    targets: &TargetExpr,
    layers: &LayerSelection,
    seed: u64,
    candidates: &[Candidate],
) -> anyhow::Result<Vec<Selected>> {
    let method = methods::build(&Component::named(name)).map_err(|error| error.below("--method"))?;
    let chosen = choose(model, name, &*method, targets, layers, seed).map_err(RunError::from)?;
    let found = |path: &str| candidates.iter().find(|candidate| candidate.path == path && method.slot_kinds().contains(&candidate.kind));
    let selected = chosen.into_iter().map(|slot| {
        let candidate = found(&slot.path()).cloned().with_context(|| format!("`{}` is no slot of the model", slot.path()))?;
        Ok(Selected { candidate, term: slot.matched_by })
    });
    selected.collect()
}

/// Shapes of all slots that hold a tensor, by path; of a row part, those of its rows.
fn shapes(model: &mut dyn Network) -> HashMap<String, Vec<usize>> {
    let mut shapes = HashMap::new();
    model.visit_slots(&mut |slot| match slot {
        SlotMut::Linear(slot) => {
            let (out, input) = slot.dims();
            shapes.insert(slot.info.path.clone(), vec![out, input]);
            for part in &slot.parts {
                shapes.insert(format!("{}.{}", slot.info.path, part.name), vec![part.rows.len(), input]);
            }
        }
        SlotMut::Param(slot) => {
            shapes.insert(slot.info.path.clone(), slot.param.value().dims().to_vec());
        }
        _ => {}
    });
    shapes
}

fn line(slot: &Selected, shapes: &HashMap<String, Vec<usize>>) -> Line {
    let Candidate { path, layer, role, kind, .. } = &slot.candidate;
    let shape = shapes.get(path);
    let shown = shape.map_or_else(|| "-".to_owned(), |shape| format!("{shape:?}"));
    let details = vec![format!("{kind:?}").to_lowercase(), role.name().to_owned(), shown, slot.term.clone()];
    Line { path: path.clone(), layer: *layer, details, scalars: shape.map_or(0, |shape| shape.iter().product::<usize>() as u64) }
}
