//! How far policies agree on which layers matter.

use super::dots::{Block, Column, Points, RowLabel, draw, plain};
use super::{Drawing, Figure, Value};
use crate::canvas::Canvas;
use crate::csv_text::{CsvText, field};
use crate::data::{Cell, Data};
use peftbench_results::rows::LayerRow;
use peftbench_results::statistics::{mean, spearman, t_interval};
use std::collections::BTreeMap;

/// Rank correlation of the importance that two policies give to the same layers, seed by seed.
pub(super) struct Importance;

/// The last importance of each layer, by seed.
type BySeed = BTreeMap<u64, Vec<f64>>;

/// Two policies on one model, task, method and target.
struct Pair<'a> {
    first: &'a Cell,
    second: &'a Cell,
    /// Seed and correlation, ascending.
    correlations: Vec<(u64, f64)>,
}

impl Figure for Importance {
    fn id(&self) -> &'static str {
        "importance"
    }

    fn title(&self) -> &'static str {
        "Do policies agree on which layers matter?"
    }

    fn reading(&self) -> &'static str {
        "Each row compares the importance that two policies gave to the layers at the end of training, by Spearman's rank correlation over the layers: \
         1 is the same order, 0 none in common, −1 the reverse."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let pairs = pairs(data);
        if pairs.is_empty() {
            return None;
        }
        let mut canvas = Canvas::new(self.title(), &data.subtitle(pairs.iter().flat_map(|pair| [pair.first, pair.second])));
        let mut csv = CsvText::new(&["model", "task", "method", "targets", "first", "second", "seed", "rank_correlation"]);
        let mut alike: BTreeMap<[&str; 4], Vec<&Pair<'_>>> = BTreeMap::new();
        for pair in &pairs {
            let place = &pair.first.place;
            alike.entry([&place.model, &place.task, &place.method, &place.targets]).or_default().push(pair);
        }
        let blocks: Vec<Block<'_>> = alike.into_iter().map(|(shared, pairs)| block(data, shared, &pairs)).collect();
        draw(&mut canvas, &blocks);
        for pair in &pairs {
            let place = &pair.first.place;
            for (seed, correlation) in &pair.correlations {
                let texts =
                    [&place.model, &place.task, &place.method, &place.targets, &place.layers, &pair.second.place.layers].map(Clone::clone);
                csv.push(texts.into_iter().chain([seed.to_string(), field(Some(*correlation))]).collect());
            }
        }
        let note = "Points are means over seeds, whiskers the 95 % t interval over seeds; a hollow point is of one seed.";
        Some(Drawing { scene: canvas.finish(note), csv })
    }
}

/// The pairs that share model, task, method and targets.
fn block<'a>(data: &Data, [model, task, method, targets]: [&str; 4], pairs: &[&Pair<'_>]) -> Block<'a> {
    let label = |pair: &&Pair<'_>| {
        let short = |cell: &Cell| cell.place.layers.trim_start_matches("all · ").to_owned();
        format!("{}  ~  {}", short(pair.first), short(pair.second))
    };
    let rows = pairs.iter().map(|pair| RowLabel { group: String::new(), look: None, label: label(pair) }).collect();
    let points = |pair: &&Pair<'_>| {
        let values: Vec<f64> = pair.correlations.iter().map(|(_, correlation)| *correlation).collect();
        let ends = t_interval(&values).map(|interval| (interval.low.max(-1.0), interval.high.min(1.0)));
        let look = data.look(&pair.first.place.method);
        mean(&values).map_or_else(|| Points::Absent("no order".to_owned()), |center| Points::Some(vec![(look, Value { center, ends })]))
    };
    let column = Column {
        title: format!("{task} · {method} on {targets}"),
        axis: "rank correlation over the layers".to_owned(),
        range: (-1.0, 1.0),
        reference: Some(Value { center: 0.0, ends: None }),
        chance: None,
        format: &plain,
        cells: pairs.iter().map(points).collect(),
    };
    Block { title: model.to_owned(), rows, columns: vec![column] }
}

/// Every two cells that differ in their policy only, both with an importance.
fn pairs(data: &Data) -> Vec<Pair<'_>> {
    let known: Vec<(&Cell, BySeed)> =
        data.trained().map(|cell| (cell, importance(data, cell))).filter(|(_, seeds)| !seeds.is_empty()).collect();
    let mut pairs = Vec::new();
    for (i, (first, a)) in known.iter().enumerate() {
        for (second, b) in &known[i + 1..] {
            let same = |x: &Cell, y: &Cell| {
                let key = |cell: &Cell| {
                    (cell.place.model.clone(), cell.place.task.clone(), cell.place.method.clone(), cell.place.targets.clone())
                };
                key(x) == key(y)
            };
            let correlations: Vec<(u64, f64)> =
                a.iter().filter_map(|(seed, values)| Some((*seed, spearman(values, b.get(seed)?)?))).collect();
            if same(first, second) && !correlations.is_empty() {
                pairs.push(Pair { first, second, correlations });
            }
        }
    }
    pairs
}

/// The importance of each layer at the last step at which it was recorded.
fn importance(data: &Data, cell: &Cell) -> BySeed {
    let mut seeds = BySeed::new();
    for run in data.runs.iter().filter(|run| run.group_id == cell.row.group_id) {
        let rows: Vec<&LayerRow> = data.layers.iter().filter(|row| row.run_id == run.run_id && row.importance.is_some()).collect();
        let Some(last) = rows.iter().map(|row| row.step).max() else { continue };
        let mut layers: Vec<(u64, f64)> =
            rows.iter().filter(|row| row.step == last).filter_map(|row| Some((row.layer, row.importance?))).collect();
        layers.sort_by_key(|(layer, _)| *layer);
        seeds.insert(run.seed, layers.into_iter().map(|(_, importance)| importance).collect());
    }
    seeds
}
