//! How good the channels and states are that a ranking selects, where every choice of them has been tried out.

use super::dots::{Block, Column, Points, RowLabel, draw, plain};
use super::{Drawing, Figure, Value};
use crate::axis::range_of;
use crate::canvas::{Canvas, Key};
use crate::csv_text::{CsvText, field};
use crate::data::{Cell, Data, Place};
use crate::labels::Labels;
use crate::style::Look;
use peftbench_results::RunRow;
use peftbench_results::statistics::{mean, t_interval};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

/// The rank of each ranking's choice among all choices of as many channels and states, over tasks and seeds.
pub(super) struct SelectionRank;

/// What a run trains of the state spaces: layer, channel, state.
type Choice = BTreeSet<(u64, u64, Option<u64>)>;

/// A run of SDT that is done.
struct Run<'a> {
    row: &'a RunRow,
    place: Place,
    /// What it was ranked by: its name, and with the options that matter to it as a component; none where the choice was named.
    ranking: Option<(String, String)>,
    choice: Choice,
}

impl Run<'_> {
    /// What it was ranked by, with the options in which it differs from its namesakes.
    fn label<'l>(&'l self, labels: &'l Labels) -> &'l str {
        self.ranking.as_ref().map_or("", |(_, json)| labels.get(json))
    }
}

/// What a ranking achieved on one task and seed.
struct Achieved<'a> {
    run: &'a Run<'a>,
    /// 1 is the best choice; choices alike share their ranks.
    rank: f64,
    /// How far from the best score, in units of the mean choice's distance.
    regret: f64,
    /// All choices that were tried.
    choices: usize,
}

impl Figure for SelectionRank {
    fn id(&self) -> &'static str {
        "selection-rank"
    }

    fn title(&self) -> &'static str {
        "How good is what a ranking selects?"
    }

    fn reading(&self) -> &'static str {
        "Every choice of so many channels and states was trained with the same budget. Left: the rank of a ranking's choice among all of them, 1 is the best. \
         Right: how far its test score is from the best one, where 1 is the distance of the mean choice. Dotted: what a draw gets in expectation."
    }

    fn draw(&self, data: &Data) -> Option<Drawing> {
        let runs = runs(data);
        let achieved = achieved(&runs);
        if achieved.is_empty() {
            return None;
        }
        let labels = Labels::of(achieved.iter().filter_map(|a| a.run.ranking.as_ref()).map(|(name, json)| (name.as_str(), json.as_str())));
        let shown: BTreeSet<&str> = achieved.iter().map(|a| a.run.row.group_id.as_str()).collect();
        let cells: Vec<&Cell> = data.trained().filter(|cell| shown.contains(cell.row.group_id.as_str())).collect();
        let mut canvas = Canvas::new(self.title(), &data.subtitle(cells.iter().copied()));
        let mut csv = CsvText::new(&["model", "task", "targets", "ranking", "seed", "rank", "choices", "regret", "test_score"]);
        // Ranks among different numbers of choices are not put together.
        let mut groups: BTreeMap<(&str, &str, usize), Vec<&Achieved<'_>>> = BTreeMap::new();
        achieved.iter().for_each(|a| groups.entry((&a.run.place.model, &a.run.place.targets, a.choices)).or_default().push(a));
        let blocks: Vec<Block<'_>> = groups.iter().map(|(group, achieved)| block(*group, achieved, &labels)).collect();
        canvas.legend(&[(Key::Interval, "mean with its 95 % interval".to_owned()), (Key::Dotted, "a draw, in expectation".to_owned())]);
        draw(&mut canvas, &blocks);
        for a in &achieved {
            let (place, row) = (&a.run.place, a.run.row);
            let ranking = a.run.label(&labels).to_owned();
            let numbers = [row.seed.to_string(), a.rank.to_string(), a.choices.to_string(), a.regret.to_string(), field(row.primary_value)];
            csv.push([place.model.clone(), place.task.clone(), place.targets.clone(), ranking].into_iter().chain(numbers).collect());
        }
        let note = "Points are means over tasks and seeds, whiskers the 95 % t interval over them; a hollow point is a single one.";
        Some(Drawing { scene: canvas.finish(note), csv })
    }
}

fn block<'a>((model, targets, choices): (&str, &str, usize), achieved: &[&Achieved<'_>], labels: &Labels) -> Block<'a> {
    let mut by_ranking: BTreeMap<&str, Vec<&Achieved<'_>>> = BTreeMap::new();
    for a in achieved {
        by_ranking.entry(a.run.label(labels)).or_default().push(a);
    }
    let mut rankings: Vec<(&str, Vec<&Achieved<'_>>)> = by_ranking.into_iter().collect();
    let mean_rank = |achieved: &[&Achieved<'_>]| mean(&achieved.iter().map(|a| a.rank).collect::<Vec<_>>()).unwrap_or(f64::INFINITY);
    rankings.sort_by(|a, b| mean_rank(&a.1).total_cmp(&mean_rank(&b.1)));
    let values = |read: &dyn Fn(&Achieved<'_>) -> f64| -> Vec<Value> {
        rankings.iter().map(|(_, achieved)| over_tasks(&achieved.iter().map(|a| read(a)).collect::<Vec<_>>())).collect()
    };
    let column = |title: String, axis: &str, range: (f64, f64), chance: f64, values: &[Value]| {
        let cut = |value: &Value| Value { ends: value.ends.map(|(low, high)| (low.max(range.0), high.min(range.1))), ..*value };
        let cells = values.iter().map(|value| Points::Some(vec![(Look::of(0), cut(value))])).collect();
        Column { title, axis: axis.to_owned(), range, reference: None, chance: Some(chance), format: &plain, cells }
    };
    let (ranks, regrets) = (values(&|a| a.rank), values(&|a| a.regret));
    let most = range_of(regrets.iter().flat_map(Value::extent).chain([0.0, 1.0])).1;
    let count = choices as f64;
    let columns = vec![
        column(format!("Rank among {choices} choices"), "rank (1 is the best)", (1.0, count), (1.0 + count) / 2.0, &ranks),
        column("Distance from the best".to_owned(), "distance (mean choice: 1)", (0.0, most), 1.0, &regrets),
    ];
    let rows = rankings.iter().map(|(label, _)| RowLabel { group: String::new(), look: None, label: (*label).to_owned() }).collect();
    Block { title: format!("{model} on {targets}"), rows, columns }
}

/// The mean, with its t interval.
fn over_tasks(values: &[f64]) -> Value {
    Value { center: mean(values).unwrap_or(f64::NAN), ends: t_interval(values).map(|interval| (interval.low, interval.high)) }
}

/// Runs of SDT with their choices.
fn runs(data: &Data) -> Vec<Run<'_>> {
    let mut choices: BTreeMap<&str, Choice> = BTreeMap::new();
    for row in data.dimensions.iter().filter(|row| row.trained) {
        choices.entry(&row.run_id).or_default().insert((row.layer, row.channel, row.state));
    }
    let run = |row| {
        let ranking = ranking(row)?;
        Some(Run { row, place: data.place_of_run(row), ranking, choice: choices.get(row.run_id.as_str())?.clone() })
    };
    data.runs.iter().filter(|row| row.primary_value.is_some()).filter_map(run).collect()
}

/// What a run of SDT has ranked by, as in [`Run::ranking`]; none at all where it is no run of SDT.
fn ranking(row: &RunRow) -> Option<Option<(String, String)>> {
    let methods: Json = serde_json::from_str(&row.method_json).ok()?;
    let entries = |value: &Json| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let nested = |method: Json| method.get("methods").map_or_else(|| vec![method.clone()], entries);
    let is_sdt = |method: &Json| method.get("type").and_then(Json::as_str) == Some("sdt");
    let sdt = entries(&methods).into_iter().flat_map(nested).find(is_sdt)?;
    if sdt.get("channels").is_some() {
        return Some(None);
    }
    let name = sdt.get("ranking")?.as_str()?.to_owned();
    let options =
        ["warmup_scope", "warmup_steps", "reset_after_warmup"].into_iter().filter_map(|key| Some((key.to_owned(), sdt.get(key)?.clone())));
    let component: Map<String, Json> = [("type".to_owned(), name.clone().into())].into_iter().chain(options).collect();
    Some(Some((name, Json::Object(component).to_string())))
}

/// Ranks every choice that a ranking made among those that were named with the same task, seed, and all else.
fn achieved<'a>(runs: &'a [Run<'a>]) -> Vec<Achieved<'a>> {
    type Setting<'a> = (&'a str, &'a str, &'a str, &'a str, u64, u64);
    let setting = |run: &'a Run<'a>| -> Setting<'a> {
        let place = &run.place;
        (&place.model, &place.task, &place.targets, &place.layers, run.row.seed, run.row.lr.to_bits())
    };
    let mut named: BTreeMap<Setting<'_>, BTreeMap<&Choice, f64>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.ranking.is_none()) {
        named.entry(setting(run)).or_default().insert(&run.choice, loss(run.row));
    }
    let ranked = |run: &'a Run<'a>| {
        run.ranking.as_ref()?;
        let all = named.get(&setting(run))?;
        let own = *all.get(&run.choice)?;
        let losses: Vec<f64> = all.iter().filter(|(choice, _)| choice.len() == run.choice.len()).map(|(_, loss)| *loss).collect();
        let better = losses.iter().filter(|loss| **loss < own).count() as f64;
        let alike = losses.iter().filter(|loss| **loss == own).count() as f64;
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let gap = mean(&losses)? - best;
        // Where every choice is as good as another there is no order.
        (gap > 0.0).then(|| Achieved { run, rank: better + (alike + 1.0) / 2.0, regret: (own - best) / gap, choices: losses.len() })
    };
    runs.iter().filter_map(ranked).collect()
}

/// The test score as something to be made small.
fn loss(row: &RunRow) -> f64 {
    let value = row.primary_value.unwrap_or(f64::NAN);
    if row.primary_higher_is_better == Some(true) { -value } else { value }
}
