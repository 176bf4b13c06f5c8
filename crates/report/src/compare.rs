//! Two ways of fine-tuning side by side: pairs of runs that agree in all else, cell by cell, with a test of each difference.

use crate::claims::fields::Fields;
use crate::claims::measure::Measure;
use crate::claims::pairs::{Sides, Terms, comparisons, zero_shot_comparisons};
use crate::claims::{Evidence, Selection};
use peftbench_results::RunRow;
use peftbench_results::statistics::{Interval, PairedDifference, Stratum, holm, mcnemar_exact, mean, paired_bootstrap, stratified_mean};
use peftbench_spec::seed;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// Both sides of a cell, over the seeds that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The model.
    pub model: String,
    /// The task.
    pub task: String,
    /// What else both sides share that tells this row from others.
    pub shared: BTreeMap<String, String>,
    /// The left side: method, targets, and layers and policy where they are not all and static.
    pub left: String,
    /// The right side.
    pub right: String,
    /// The seeds: those that both sides have, or where one side is a zero-shot run, which has none, those of the other.
    pub seeds: Vec<u64>,
    /// Test items that are paired; 0 where none are.
    pub items: usize,
    /// Mean of the left side over the seeds.
    pub left_mean: f64,
    /// Mean of the right side.
    pub right_mean: f64,
    /// Left less right; of a relative measure as a share of the right.
    pub difference: f64,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// Two-sided p-value of no difference.
    pub p_value: Option<f64>,
    /// The same corrected for all rows (Holm).
    pub p_value_holm: Option<f64>,
    /// What interval and p-value are over.
    pub test: Test,
    /// Whether one side is a zero-shot run: its test items are paired with those of every seed of the other side, and no seeds are.
    pub zero_shot: bool,
}

/// What a difference was tested by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Over seeds and, where they are kept, items: Student's t with the variance of both.
    Seeds,
    /// Over the seeds of the one side that has any and, where they are kept, items: Student's t of their differences from the zero-shot run,
    /// whose score is a constant, with the variance of both. Items are paired, seeds are not.
    TrainedSeeds,
    /// Over the items of one seed, each right or wrong: McNemar's exact test; the interval is a paired bootstrap's.
    Mcnemar,
    /// Over the items of one seed: paired bootstrap.
    Bootstrap,
    /// One seed and no items, or a measure that is the same with every seed.
    Untested,
}

impl Test {
    /// The test in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Seeds => "t, seeds and items",
            Self::TrainedSeeds => "t, trained seeds and items",
            Self::Mcnemar => "McNemar, items",
            Self::Bootstrap => "bootstrap, items",
            Self::Untested => "none",
        }
    }
}

/// A finished run and the evidence that it belongs to.
type Side<'a> = (&'a Evidence, &'a RunRow);

/// Pairs of one cell, a pair a seed.
type Cell<'a> = Vec<[Side<'a>; 2]>;

/// Compares the runs that `left` selects with those that `right` does. Runs are paired that agree in everything but what the two ask for
/// differently, and the learning rate. Where a side has several configurations in a cell, its best on validation counts. A zero-shot run is
/// paired with every seed of what agrees with it in model, task and the items that are read.
pub fn selections(evidence: &Evidence, left: Selection, right: Selection, measure: &'static Measure) -> Vec<Row> {
    let terms = Terms { measure, equal: &[], max_parameter_ratio: None };
    let sides = Sides::new(left, right);
    let mut found = comparisons(&sides, terms, evidence, &|_| true);
    found.extend(zero_shot_comparisons(&sides, terms, evidence));
    let cells = found
        .iter()
        .map(|comparison| comparison.pairs.iter().filter_map(|pair| Some([(evidence, pair.left), (evidence, pair.right?)])).collect());
    rows(cells.collect(), measure)
}

/// Whether there is a finished run of a selection that has the measure.
pub fn has_runs(evidence: &Evidence, selection: &Selection, measure: &Measure) -> bool {
    evidence.has(selection, measure)
}

/// Compares two sets of results, of two machines or versions: every run of one with the run of the same configuration and seed of the other.
pub fn sweeps(left: &Evidence, right: &Evidence, measure: &'static Measure) -> Vec<Row> {
    let mut cells: BTreeMap<&str, Cell<'_>> = BTreeMap::new();
    for run in left.all_runs() {
        if let Some(other) = right.all_runs().find(|other| (&other.group_id, other.seed) == (&run.group_id, run.seed)) {
            cells.entry(&run.group_id).or_default().push([(left, run), (right, other)]);
        }
    }
    rows(cells.into_values().collect(), measure)
}

/// Compares two runs, whatever they differ in but the task.
pub fn runs(evidence: &Evidence, left: &str, right: &str, measure: &'static Measure) -> Vec<Row> {
    let find = |id: &str| evidence.all_runs().find(|run| run.run_id == id).map(|run| (evidence, run));
    let pair = find(left).zip(find(right)).filter(|(left, right)| left.1.task_json == right.1.task_json);
    rows(pair.map(|(left, right)| vec![[left, right]]).into_iter().collect(), measure)
}

fn rows(cells: Vec<Cell<'_>>, measure: &'static Measure) -> Vec<Row> {
    let mut cells: Vec<Measured<'_>> = cells.into_iter().filter_map(|cell| Measured::of(cell, measure)).collect();
    cells.sort_by_key(|cell| (cell.told().model.clone(), cell.told().task.clone(), cell.told().group_id.clone()));
    let varied = varied_fields(&cells);
    let mut rows: Vec<Row> = cells.iter().map(|cell| cell.row(measure, &varied)).collect();
    let corrected = holm(&rows.iter().filter_map(|row| row.p_value).collect::<Vec<_>>());
    for (row, p) in rows.iter_mut().filter(|row| row.p_value.is_some()).zip(corrected) {
        row.p_value_holm = Some(p);
    }
    rows
}

/// Fields that both sides of every cell share and that are not the same in all cells of some model and task. A zero-shot run has no settings
/// of training, so that it shares those of the other side.
fn varied_fields(cells: &[Measured<'_>]) -> BTreeSet<String> {
    let mut values: BTreeMap<[String; 3], BTreeSet<String>> = BTreeMap::new();
    let mut unshared = BTreeSet::new();
    for cell in cells {
        let (run, [left, right]) = (cell.told(), cell.pairs[0].map(|(_, run)| run));
        let one_trains = left.is_zero_shot() != right.is_zero_shot();
        let (fields, right) = (Fields::of(run), Fields::of(right));
        for (field, value) in fields.iter() {
            values.entry([run.model.clone(), run.task.clone(), field.to_owned()]).or_default().insert(value.to_string());
            if !one_trains && right.get(field) != Some(value) {
                unshared.insert(field.to_owned());
            }
        }
    }
    let varied = values.into_iter().filter(|(_, found)| found.len() > 1).map(|([.., field], _)| field);
    varied.filter(|field| !unshared.contains(field)).collect()
}

/// The pairs of a cell that have the measure on both sides, at least one, with its values.
struct Measured<'a> {
    pairs: Cell<'a>,
    left: Vec<f64>,
    right: Vec<f64>,
}

impl<'a> Measured<'a> {
    fn of(cell: Cell<'a>, measure: &Measure) -> Option<Self> {
        let value = |(evidence, run): Side<'_>| (measure.read)(evidence, run);
        let mut measured = Self { pairs: Vec::new(), left: Vec::new(), right: Vec::new() };
        for pair in cell {
            if let (Some(left), Some(right)) = (value(pair[0]), value(pair[1])) {
                measured.pairs.push(pair);
                measured.left.push(left);
                measured.right.push(right);
            }
        }
        (!measured.pairs.is_empty()).then_some(measured)
    }

    /// The run whose settings tell the cell: that of the left side, unless only the right side trains.
    fn told(&self) -> &RunRow {
        trained(&self.pairs[0])
    }

    fn row(&self, measure: &'static Measure, varied: &BTreeSet<String>) -> Row {
        let [(_, left), (_, right)] = self.pairs[0];
        let told = self.told();
        let steps: Vec<f64> = self.left.iter().zip(&self.right).map(|(a, b)| measure.step(*a, *b)).collect();
        let items = if measure.of_items { self.items() } else { Vec::new() };
        let fields = Fields::of(told);
        let average = |values: &[f64]| mean(values).unwrap_or(f64::NAN);
        let Tested { interval, p_value, by } = Tested::of(&steps, &items, measure);
        let one_trains = left.is_zero_shot() != right.is_zero_shot();
        Row {
            model: told.model.clone(),
            task: told.task.clone(),
            shared: varied.iter().filter_map(|field| Some((field.clone(), fields.get(field)?.to_string()))).collect(),
            left: label(left),
            right: label(right),
            seeds: self.pairs.iter().map(|pair| trained(pair).seed).collect(),
            items: items.first().map_or(0, Vec::len),
            left_mean: average(&self.left),
            right_mean: average(&self.right),
            difference: measure.undo(average(&steps)),
            interval: interval.map(|Interval { low, high }| [measure.undo(low), measure.undo(high)]),
            p_value,
            p_value_holm: None,
            test: if by == Test::Seeds && one_trains { Test::TrainedSeeds } else { by },
            zero_shot: one_trains,
        }
    }

    /// Both scores of each item that both runs of a pair have, by seed; nothing where the items are not the same throughout.
    fn items(&self) -> Vec<Vec<[f64; 2]>> {
        let of_pair = |[left, right]: &[Side<'_>; 2]| {
            let (a, b) = (left.0.items(left.1)?, right.0.items(right.1)?);
            a.keys().eq(b.keys()).then(|| a.values().zip(b.values()).map(|(a, b)| [*a, *b]).collect::<Vec<_>>())
        };
        let items: Option<Vec<Vec<[f64; 2]>>> = self.pairs.iter().map(of_pair).collect();
        items.filter(|rows| rows.iter().all(|row| row.len() == rows[0].len())).unwrap_or_default()
    }
}

/// Of a pair the run that trains: the left one, unless only the right one does.
fn trained<'a>([left, right]: &[Side<'a>; 2]) -> &'a RunRow {
    if left.1.is_zero_shot() { right.1 } else { left.1 }
}

/// A difference's interval and p-value, and how they came about.
struct Tested {
    interval: Option<Interval>,
    p_value: Option<f64>,
    by: Test,
}

impl Tested {
    const NOT: Self = Self { interval: None, p_value: None, by: Test::Untested };

    fn of(steps: &[f64], items: &[Vec<[f64; 2]>], measure: &Measure) -> Self {
        match items {
            _ if measure.exact => Self::NOT,
            items if steps.len() > 1 => Self::over_seeds(steps, items),
            [scores] => Self::over_items(scores),
            _ => Self::NOT,
        }
    }

    fn over_seeds(steps: &[f64], items: &[Vec<[f64; 2]>]) -> Self {
        let items = items.iter().map(|row| row.iter().map(|[a, b]| a - b).collect()).collect();
        let found = stratified_mean(&[Stratum { seeds: steps.to_vec(), items }]);
        found.map_or(Self::NOT, |found| Self { interval: Some(found.interval()), p_value: Some(found.p_value(0.0)), by: Test::Seeds })
    }

    fn over_items(scores: &[[f64; 2]]) -> Self {
        let side = |side: usize| scores.iter().map(|pair| pair[side]).collect::<Vec<_>>();
        let found = paired_bootstrap(&side(0), &side(1), RESAMPLES, &mut seed::stream(0, "compare"));
        let Some(PairedDifference { interval, p_value, .. }) = found else { return Self::NOT };
        let only = |which: usize| scores.iter().filter(|pair| pair[which] == 1.0 && pair[1 - which] == 0.0).count() as u64;
        match scores.iter().flatten().all(|score| *score == 0.0 || *score == 1.0) {
            true => Self { interval: Some(interval), p_value: Some(mcnemar_exact(only(0), only(1))), by: Test::Mcnemar },
            false => Self { interval: Some(interval), p_value: Some(p_value), by: Test::Bootstrap },
        }
    }
}

/// What a run trains.
fn label(run: &RunRow) -> String {
    let mut words = vec![run.method.clone()];
    words.extend((run.targets != "default").then(|| run.targets.clone()));
    words.extend((run.layers != "all").then(|| run.layers.clone()));
    words.extend((run.policy != "static").then(|| run.policy.clone()));
    words.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::measure::by_name;
    use peftbench_results::PredictionRow;
    use peftbench_results::rows::Status;
    use serde_json::json;

    fn run(id: &str, method: &str, seed: u64, value: f64) -> RunRow {
        RunRow {
            run_id: id.into(),
            group_id: method.into(),
            status: Status::Done,
            method: method.into(),
            method_json: format!(r#"[{{"type":"{method}"}}]"#),
            task: "t".into(),
            task_json: r#"{"type":"t"}"#.into(),
            model: "m".into(),
            targets: "default".into(),
            layers: "all".into(),
            policy: "static".into(),
            num_trainable_params: Some(1),
            seed,
            primary_value: Some(value),
            primary_higher_is_better: Some(true),
            ..RunRow::default()
        }
    }

    fn predictions(run_id: &str, scores: &[f64]) -> Vec<PredictionRow> {
        let row = |(i, score): (usize, &f64)| PredictionRow {
            run_id: run_id.into(),
            split: "test".into(),
            item_id: format!("{i:03}"),
            score: Some(*score),
            ..PredictionRow::default()
        };
        scores.iter().enumerate().map(row).collect()
    }

    fn selection(method: &str) -> Selection {
        serde_json::from_value(json!({ "method": method })).unwrap()
    }

    #[test]
    fn one_seed_is_tested_over_its_items_by_mcnemar() {
        // Both right on 60 of 100 items, only the left one on 15, only the right one on 5.
        let left: Vec<f64> = (0..100).map(|i| f64::from(i < 75)).collect();
        let right: Vec<f64> = (0..100).map(|i| f64::from(i < 60 || (75..80).contains(&i))).collect();
        let mut evidence = Evidence::default();
        let kept = [predictions("a", &left), predictions("b", &right)].concat();
        evidence.add(vec![run("a", "lora", 0, 0.75), run("b", "dora", 0, 0.65)], &kept, &[]);
        let score = by_name("score").unwrap();
        let rows = selections(&evidence, selection("lora"), selection("dora"), score);
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.test, row.items, &row.left[..], &row.right[..]), (Test::Mcnemar, 100, "lora", "dora"));
        assert!((row.difference - 0.1).abs() < 1e-12);
        // scipy.stats.binomtest(5, 20).pvalue
        assert!((row.p_value.unwrap() - 0.041_389_465_332_031_25).abs() < 1e-12, "{row:?}");
        assert_eq!(row.p_value_holm, row.p_value);
        assert!(row.interval.unwrap()[0] > 0.0);
        assert_eq!(runs(&evidence, "a", "b", score)[0].difference, row.difference);
        assert!(runs(&evidence, "a", "nobody", score).is_empty());
    }

    #[test]
    fn a_zero_shot_run_is_paired_by_item_with_every_seed_of_the_other_side() {
        let zero_shot = || RunRow { num_trainable_params: Some(0), max_length: 0, ..run("z", "none", 0, 0.5) };
        let settings =
            |id: String, seed, value, epochs| RunRow { epochs, group_id: format!("lora{epochs}"), ..run(&id, "lora", seed, value) };
        let trained = |epochs: u64| {
            [0.9, 0.8, 0.85].into_iter().zip(3..).map(move |(value, seed)| settings(format!("{epochs}.{seed}"), seed, value, epochs))
        };
        let score = by_name("score").unwrap();
        let mut evidence = Evidence::default();
        evidence.add(trained(2).chain(trained(4)).chain([zero_shot()]).collect(), &[], &[]);
        assert_eq!(evidence.runs().count(), 6, "no claim sees a zero-shot run");
        let rows = selections(&evidence, selection("lora"), selection("none"), score);
        let found: Vec<_> = rows.iter().map(|row| (&row.seeds[..], row.shared["train.epochs"].as_str(), row.test, row.zero_shot)).collect();
        assert_eq!(found, [(&[3, 4, 5][..], "2", Test::TrainedSeeds, true), (&[3, 4, 5], "4", Test::TrainedSeeds, true)]);
        // scipy.stats.ttest_1samp([.9, .8, .85], .5).pvalue
        assert!((rows[0].p_value.unwrap() - 0.006_734_083_335_155_556).abs() < 1e-9, "{:?}", rows[0]);
        assert!((rows[0].difference - 0.35).abs() < 1e-12 && (&rows[0].left[..], &rows[0].right[..]) == ("lora", "none"));
        let turned = selections(&evidence, selection("none"), selection("lora"), score);
        assert!(turned.len() == 2 && turned[0].seeds == [3, 4, 5] && (turned[0].difference + 0.35).abs() < 1e-12);
        // Only where the method is what they are asked to differ in, and by no measure of training.
        let layers = |layers: &str| serde_json::from_value::<Selection>(json!({ "layers": layers })).unwrap();
        assert!(selections(&evidence, layers("all"), layers("first:25%"), score).is_empty());
        assert!(selections(&evidence, selection("lora"), selection("none"), by_name("learning_rate").unwrap()).is_empty());
        assert_eq!(runs(&evidence, "2.3", "z", score)[0].test, Test::Untested);
    }

    #[test]
    fn the_items_of_a_zero_shot_run_are_in_the_interval_of_several_seeds_and_in_mcnemars_test_of_one() {
        let right = |from: usize, to: usize| (0..100).map(|i| f64::from(u8::from((from..to).contains(&i)))).collect::<Vec<f64>>();
        let (zero, seeds) = (right(0, 50), [right(0, 80), right(0, 82), right(0, 78)]);
        let score = by_name("score").unwrap();
        let compared = |seeds: &[Vec<f64>], with_items: bool| {
            let mut all = vec![RunRow { num_trainable_params: Some(0), ..run("z", "none", 0, 0.5) }];
            let mut kept = predictions("z", &zero);
            for (seed, items) in seeds.iter().enumerate() {
                all.push(run(&format!("l{seed}"), "lora", seed as u64 + 1, mean(items).unwrap()));
                kept.extend(predictions(&format!("l{seed}"), items));
            }
            let mut evidence = Evidence::default();
            evidence.add(all, if with_items { &kept } else { &[] }, &[]);
            selections(&evidence, selection("lora"), selection("none"), score).remove(0)
        };
        let (with, without, one) = (compared(&seeds, true), compared(&seeds, false), compared(&seeds[..1], true));
        let width = |row: &Row| row.interval.unwrap()[1] - row.interval.unwrap()[0];
        assert_eq!((with.items, without.items, with.test), (100, 0, Test::TrainedSeeds));
        // Of the mean difference: .02² / 3 over seeds; over items the sample variance of their means over seeds, by 100.
        assert!(width(&with) > 1.5 * width(&without), "{with:?} {without:?}");
        // 30 items that only LoRA has right: scipy.stats.binomtest(0, 30).pvalue
        assert_eq!((one.test, one.zero_shot, &one.seeds[..]), (Test::Mcnemar, true, &[1][..]));
        assert!((one.p_value.unwrap() / 1.862_645_149_230_957e-9 - 1.0).abs() < 1e-9, "{one:?}");
    }

    #[test]
    fn two_models_are_compared_zero_shot() {
        let zero_shot = |model: &str, value| RunRow {
            num_trainable_params: Some(0),
            model: model.into(),
            model_json: format!(r#"{{"type":"{model}"}}"#),
            model_arch: Some(model.into()),
            group_id: model.into(),
            ..run(model, "none", 0, value)
        };
        let mut evidence = Evidence::default();
        evidence.add(vec![zero_shot("a", 0.5), zero_shot("b", 0.25)], &[], &[]);
        let model = |model: &str| serde_json::from_value::<Selection>(json!({ "method": "none", "model": model })).unwrap();
        let rows = selections(&evidence, model("a"), model("b"), by_name("score").unwrap());
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.difference, row.zero_shot, row.test), (0.25, false, Test::Untested));
    }

    #[test]
    fn several_seeds_are_tested_over_seeds_and_rows_are_corrected_together() {
        let mut evidence = Evidence::default();
        let mut all = Vec::new();
        for (task, left) in [("t", [0.9, 0.8, 0.85]), ("u", [0.5, 0.6, 0.4])] {
            for (seed, value) in left.into_iter().enumerate() {
                for (method, value) in [("lora", value), ("full", 0.5 + 0.01 * seed as f64)] {
                    all.push(RunRow {
                        run_id: format!("{task}{method}{seed}"),
                        group_id: format!("{task}{method}"),
                        task: task.into(),
                        task_json: format!(r#"{{"type":"{task}"}}"#),
                        ..run("", method, seed as u64, value)
                    });
                }
            }
        }
        evidence.add(all, &[], &[]);
        let score = by_name("score").unwrap();
        let rows = selections(&evidence, selection("lora"), selection("full"), score);
        let found: Vec<_> = rows.iter().map(|row| (&row.task[..], row.seeds.len(), row.test)).collect();
        assert_eq!(found, [("t", 3, Test::Seeds), ("u", 3, Test::Seeds)]);
        // scipy.stats.ttest_rel([.9, .8, .85], [.5, .51, .52]).pvalue
        assert!((rows[0].p_value.unwrap() - 0.008_820_772_703_932_486).abs() < 1e-9, "{:?}", rows[0]);
        assert!((rows[0].p_value_holm.unwrap() - 2.0 * rows[0].p_value.unwrap()).abs() < 1e-12);
        let count = selections(&evidence, selection("lora"), selection("full"), by_name("trainable_parameters").unwrap());
        assert_eq!((count[0].test, count[0].p_value, count[0].difference), (Test::Untested, None, 0.0));
        let same = sweeps(&evidence, &evidence, score);
        assert!(same.len() == 4 && same.iter().all(|row| row.difference == 0.0 && row.left == row.right));
    }
}
