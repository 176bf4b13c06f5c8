//! Twins of the invented world: its sentences, pairs of sentences and pictures, put as the SSM-PEFT paper's code puts GLUE and CIFAR-10.
//!
//! No instruction stands before them, because the models for this world are tiny.

use super::super::TaskEntry;
use super::super::twin::{Twin, WorldOptions};
use super::{ACCURACY, Classification, LabelledTexts, Shape};
use crate::format::Options;
use crate::world::pictures::Shape as Figure;
use crate::world::{opinion, rows};
use peftbench_spec::{Component, SpecError};

/// In the image of `glue/sst2`.
pub const SENTIMENT: TaskEntry = entry("world/sentiment", "whether a sentence of the invented world praises or blames, as glue/sst2 asks");
/// In the image of `glue/cola`.
pub const ACCEPTABILITY: TaskEntry =
    entry("world/acceptability", "whether a sentence of the invented world has no mistake, as glue/cola asks");
/// In the image of `glue/rte`.
pub const ENTAILMENT: TaskEntry = entry("world/entailment", "whether a claim follows from a text of the invented world, as glue/rte asks");
/// In the image of `glue/mrpc`.
pub const PARAPHRASE: TaskEntry =
    entry("world/paraphrase", "whether two sentences of the invented world tell of one event, as glue/mrpc asks");
/// In the image of `cifar10`.
pub const PICTURES: TaskEntry = entry("world/pictures", "the shape in a picture of the invented world, as cifar10 asks");

const PICTURE: Shape = Shape { texts: &["pixels"], labels: &Figure::NAMES, metrics: ACCURACY };

static TWINS: [(Twin<LabelledTexts>, Shape); 5] = [
    (Twin { most_difficult: opinion::MOST_DIFFICULT, ..twin(SENTIMENT.name, 3, rows::sentiment::sentiment) }, super::SENTIMENT),
    (twin(ACCEPTABILITY.name, 2, rows::acceptability::acceptability), super::ACCEPTABILITY),
    (twin(ENTAILMENT.name, 1, rows::entailment::entailment), super::INFERENCE),
    (twin(PARAPHRASE.name, 1, rows::paraphrase::paraphrase), super::PARAPHRASE),
    (twin(PICTURES.name, 1, rows::pictures::pictures), PICTURE),
];

const fn twin(name: &'static str, difficulty: u8, rows: rows::MakeRows<LabelledTexts>) -> Twin<LabelledTexts> {
    Twin { name, sizes: [1000, 200, 500], difficulty, most_difficult: rows::MOST_DIFFICULT, rows }
}

const fn entry(name: &'static str, summary: &'static str) -> TaskEntry {
    TaskEntry {
        name,
        summary,
        protocols: &[],
        published: None,
        known_overlap: 0,
        build: |task| {
            let (twin, shape, Options { own, format }) = parse(task)?;
            Ok(Box::new(Classification { name: twin.name, shape, format, rows: Box::new(move |_| twin.load(&own)) }))
        },
        resolve: |task| parse(task)?.2.resolved(task),
    }
}

fn parse(task: &Component) -> std::result::Result<(&'static Twin<LabelledTexts>, Shape, Options<WorldOptions>), SpecError> {
    let found = TWINS.iter().find(|(twin, _)| twin.name == task.name);
    let (twin, shape) = found.ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
    Ok((twin, *shape, twin.parse(task, &[], |_| shape.format(), &shape.placeholders())?))
}
