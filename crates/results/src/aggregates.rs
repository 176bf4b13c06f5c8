//! `aggregates`: one row per configuration, over its seeds. A configuration is all of a spec but the seed.

use crate::rows::{Column, PredictionRow, Role, Row, RunRow, Status, columns};
use crate::statistics::{
    Interval, IntervalKind, bootstrap_items, bootstrap_seeds_items, mean, median, normal_interval, standard_deviation, t_interval,
};
use peftbench_spec::event::SCHEMA_VERSION;
use peftbench_spec::seed::stream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bootstrap resamples behind an interval of the table.
pub const RESAMPLES: usize = 2000;

/// Per-item test scores by run: item id → score.
pub type ItemScores = BTreeMap<String, BTreeMap<String, f64>>;

/// One configuration over its seeds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AggregateRow {
    /// Version of the tables.
    pub schema_version: u64,
    /// Hash of the spec without its seed.
    pub group_id: String,
    /// Name of the sweep.
    pub sweep: String,
    /// Base model.
    pub model: String,
    /// Base model with its options, canonical JSON.
    pub model_json: String,
    /// Task.
    pub task: String,
    /// Task with its options, canonical JSON.
    pub task_json: String,
    /// Method as figures name it.
    pub method: String,
    /// Method with all options, canonical JSON.
    pub method_json: String,
    /// Target expression.
    pub targets: String,
    /// Layer selection as written.
    pub layers: String,
    /// Layer policy.
    pub policy: String,
    /// Layer policy with its options, canonical JSON.
    pub policy_json: String,
    /// Passes over the training split.
    pub epochs: u64,
    /// Bound on the optimizer steps.
    pub max_steps: Option<u64>,
    /// Examples a micro-batch.
    pub batch_size: u64,
    /// Micro-batches an optimizer step.
    pub gradient_accumulation: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning-rate schedule.
    pub lr_scheduler: String,
    /// Warm-up as a fraction of all steps.
    pub warmup_ratio: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Longest sequence, tokens.
    pub max_length: u64,
    /// Bound on the training examples.
    pub train_samples_limit: Option<u64>,
    /// Seeds with a result.
    pub n_seeds: u64,
    /// These seeds: `0,1,2`.
    pub seeds: String,
    /// Seeds whose run failed.
    pub n_failed: u64,
    /// The task's primary metric.
    pub primary_metric: String,
    /// Whether more of it is better.
    pub primary_higher_is_better: bool,
    /// Mean over the seeds of the primary metric on the test split.
    pub mean: f64,
    /// The same metric of answers that look at no prompt.
    pub test_chance: Option<f64>,
    /// Standard deviation over the seeds; `None` for one seed.
    pub sd: Option<f64>,
    /// Lower end of the 95 % interval of the mean.
    pub ci95_low: Option<f64>,
    /// Upper end.
    pub ci95_high: Option<f64>,
    /// What the interval was made from; `None` where none can be made (one seed, no predictions, no standard error).
    pub interval_kind: Option<IntervalKind>,
    /// Lower end of the bootstrap interval over seeds and items, where predictions are kept and the metric is the mean of item scores.
    pub seeds_items_ci95_low: Option<f64>,
    /// Upper end.
    pub seeds_items_ci95_high: Option<f64>,
    /// Test items.
    pub n_items: Option<u64>,
    /// Mean over the seeds of the primary metric on the validation split.
    pub valid_mean: Option<f64>,
    /// Mean over the seeds of how much the loss on the text of `forgetting` rose in training, where it was measured.
    pub forgetting_loss_rise_mean: Option<f64>,
    /// Median final training loss.
    pub train_loss_final_median: Option<f64>,
    /// Scalars that get an update (median over seeds; a random choice of layers can move it).
    pub num_trainable_params: Option<u64>,
    /// These over the base model's scalars.
    pub trainable_fraction: Option<f64>,
    /// Scalars that the method added.
    pub num_adapter_params: Option<u64>,
    /// Scalars of the base model.
    pub model_num_params: Option<u64>,
    /// Mean number of layers that trained at a step.
    pub layers_active_mean: Option<f64>,
    /// Median training tokens a second.
    pub train_tokens_per_second_median: Option<f64>,
    /// Slowest seed.
    pub train_tokens_per_second_min: Option<f64>,
    /// Fastest seed.
    pub train_tokens_per_second_max: Option<f64>,
    /// Median evaluation tokens a second.
    pub eval_tokens_per_second_median: Option<f64>,
    /// Median of the seeds' median step times.
    pub step_seconds_p50_median: Option<f64>,
    /// Median peak of live heap bytes while training.
    pub train_peak_bytes_median: Option<u64>,
    /// Lowest.
    pub train_peak_bytes_min: Option<u64>,
    /// Highest.
    pub train_peak_bytes_max: Option<u64>,
    /// Median peak of live heap bytes while evaluating.
    pub eval_peak_bytes_median: Option<u64>,
    /// Median bytes of base weights while training.
    pub weights_bytes_median: Option<u64>,
    /// Median bytes of adapter tensors.
    pub adapter_bytes_median: Option<u64>,
    /// Median bytes of gradients.
    pub gradients_bytes_median: Option<u64>,
    /// Median bytes of optimizer state.
    pub optimizer_bytes_median: Option<u64>,
    /// Median bytes the tape keeps.
    pub activations_bytes_median: Option<u64>,
    /// Median bytes of temporary buffers.
    pub workspace_bytes_median: Option<u64>,
    /// Median training time without evaluation.
    pub train_seconds_median: Option<f64>,
    /// Median wall time of the whole run.
    pub total_seconds_median: Option<f64>,
    /// Size of the adapter file.
    pub adapter_file_bytes: Option<u64>,
    /// Examples used for training.
    pub train_samples: Option<u64>,
    /// Examples used for validation.
    pub valid_samples: Option<u64>,
    /// Examples used for the test.
    pub test_samples: Option<u64>,
    /// Optimizer steps the run makes.
    pub total_steps: Option<u64>,
    /// Kind of device.
    pub device: Option<String>,
    /// Threads.
    pub threads: Option<u64>,
}

impl AggregateRow {
    /// Whether the runs trained nothing: the zero-shot reference.
    pub fn is_zero_shot(&self) -> bool {
        self.num_trainable_params == Some(0)
    }

    /// The 95 % interval of the mean, where there is one.
    pub fn interval(&self) -> Option<Interval> {
        Some(Interval { low: self.ci95_low?, high: self.ci95_high? })
    }
}

/// One row per configuration with at least one result, probes aside, sorted by model, task, method, targets, layers, policy, group id. `scores` may
/// lack runs: their groups then have no item-level interval.
pub fn aggregate(runs: &[RunRow], scores: &ItemScores) -> Vec<AggregateRow> {
    let mut groups: BTreeMap<&str, Vec<&RunRow>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.role == Role::Cell) {
        groups.entry(&run.group_id).or_default().push(run);
    }
    let mut rows: Vec<AggregateRow> = groups.into_values().filter_map(|group| group_row(&group, scores)).collect();
    let key = |row: &AggregateRow| {
        let [model, task, method, targets] = [&row.model, &row.task, &row.method, &row.targets].map(String::clone);
        (model, task, method, targets, row.layers.clone(), row.policy.clone(), row.group_id.clone())
    };
    rows.sort_by_cached_key(key);
    rows
}

fn group_row(group: &[&RunRow], scores: &ItemScores) -> Option<AggregateRow> {
    let mut done: Vec<&RunRow> = group.iter().copied().filter(|r| r.status == Status::Done && r.primary_value.is_some()).collect();
    done.sort_by_key(|run| run.seed);
    let first = *done.first()?;
    let values: Vec<f64> = done.iter().filter_map(|run| run.primary_value).collect();
    let mut row = spec_columns(first);
    row.n_seeds = values.len() as u64;
    row.seeds = done.iter().map(|run| run.seed.to_string()).collect::<Vec<_>>().join(",");
    row.n_failed = group.iter().filter(|run| run.status == Status::Failed).count() as u64;
    row.mean = mean(&values)?;
    row.sd = standard_deviation(&values);
    interval_columns(&mut row, &done, &values, scores);
    cost_columns(&mut row, &done);
    Some(row)
}

fn spec_columns(run: &RunRow) -> AggregateRow {
    AggregateRow {
        schema_version: u64::from(SCHEMA_VERSION),
        group_id: run.group_id.clone(),
        sweep: run.sweep.clone(),
        model: run.model.clone(),
        model_json: run.model_json.clone(),
        task: run.task.clone(),
        task_json: run.task_json.clone(),
        method: run.method.clone(),
        method_json: run.method_json.clone(),
        targets: run.targets.clone(),
        layers: run.layers.clone(),
        policy: run.policy.clone(),
        policy_json: run.policy_json.clone(),
        epochs: run.epochs,
        max_steps: run.max_steps,
        batch_size: run.batch_size,
        gradient_accumulation: run.gradient_accumulation,
        lr: run.lr,
        lr_scheduler: run.lr_scheduler.clone(),
        warmup_ratio: run.warmup_ratio,
        weight_decay: run.weight_decay,
        max_length: run.max_length,
        train_samples_limit: run.train_samples_limit,
        primary_metric: run.primary_metric.clone().unwrap_or_default(),
        primary_higher_is_better: run.primary_higher_is_better.unwrap_or(true),
        test_chance: run.test_chance,
        n_items: run.n_items,
        model_num_params: run.model_num_params,
        train_samples: run.train_samples,
        valid_samples: run.valid_samples,
        test_samples: run.test_samples,
        total_steps: run.total_steps,
        device: run.device.clone(),
        threads: run.threads,
        ..AggregateRow::default()
    }
}

/// The interval of the mean: t over seeds that differ; else, from one value, over its test items.
fn interval_columns(row: &mut AggregateRow, done: &[&RunRow], values: &[f64], scores: &ItemScores) {
    let matrix = score_matrix(done, scores);
    if let Some(matrix) = matrix.as_deref().filter(|matrix| matrix.len() > 1) {
        let crossed = bootstrap_seeds_items(matrix, RESAMPLES, &mut stream(0, &format!("seeds_items {}", row.group_id)));
        row.seeds_items_ci95_low = crossed.map(|interval| interval.low);
        row.seeds_items_ci95_high = crossed.map(|interval| interval.high);
    }
    let over_seeds = t_interval(values).filter(|_| row.sd > Some(0.0)).map(|interval| (interval, IntervalKind::SeedsT));
    let over_items = || {
        let scores = matrix.as_deref()?.first()?;
        let interval = bootstrap_items(scores, RESAMPLES, &mut stream(0, &format!("items {}", row.group_id)))?;
        Some((interval, IntervalKind::ItemsBootstrap))
    };
    let from_stderr = || Some((normal_interval(row.mean, done.first()?.primary_stderr?)?, IntervalKind::ItemsNormal));
    if let Some((interval, kind)) = over_seeds.or_else(over_items).or_else(from_stderr) {
        row.ci95_low = Some(interval.low);
        row.ci95_high = Some(interval.high);
        row.interval_kind = Some(kind);
    }
}

/// `scores[seed][item]` where every run kept its predictions on the same items and its metric is the mean of them. Of other metrics
/// (BLEU, Matthews correlation) the items' mean says nothing.
fn score_matrix(done: &[&RunRow], scores: &ItemScores) -> Option<Vec<Vec<f64>>> {
    let by_run: Vec<&BTreeMap<String, f64>> = done.iter().map(|run| scores.get(&run.run_id)).collect::<Option<_>>()?;
    let first = by_run.first()?;
    let same_items = by_run.iter().all(|items| items.len() == first.len() && items.keys().eq(first.keys()));
    let matrix: Vec<Vec<f64>> = by_run.iter().map(|items| items.values().copied().collect()).collect();
    let is_mean = |(row, run): (&Vec<f64>, &&RunRow)| mean(row).zip(run.primary_value).is_some_and(|(a, b)| (a - b).abs() < 1e-6);
    (same_items && matrix.iter().zip(done).all(is_mean)).then_some(matrix)
}

fn cost_columns(row: &mut AggregateRow, done: &[&RunRow]) {
    let numbers = |read: fn(&RunRow) -> Option<f64>| done.iter().filter_map(|run| read(run)).collect::<Vec<f64>>();
    let middle = |read: fn(&RunRow) -> Option<f64>| median(&numbers(read));
    // A median of two counts can end in one half; a byte more or less is no matter.
    let count = |read: fn(&RunRow) -> Option<u64>| {
        median(&done.iter().filter_map(|run| read(run)).map(|v| v as f64).collect::<Vec<_>>()).map(|v| v.round() as u64)
    };
    row.valid_mean = mean(&numbers(|r| r.valid_value));
    row.forgetting_loss_rise_mean = mean(&numbers(|r| Some(r.forgetting_loss_after? - r.forgetting_loss_before?)));
    row.train_loss_final_median = middle(|r| r.train_loss_final);
    row.num_trainable_params = count(|r| r.num_trainable_params);
    row.trainable_fraction = middle(|r| r.trainable_fraction);
    row.num_adapter_params = count(|r| r.num_adapter_params);
    row.layers_active_mean = mean(&numbers(|r| r.layers_active_mean));
    let speeds = numbers(|r| r.train_tokens_per_second);
    row.train_tokens_per_second_median = median(&speeds);
    row.train_tokens_per_second_min = speeds.iter().copied().min_by(f64::total_cmp);
    row.train_tokens_per_second_max = speeds.iter().copied().max_by(f64::total_cmp);
    row.eval_tokens_per_second_median = middle(|r| r.eval_tokens_per_second);
    row.step_seconds_p50_median = middle(|r| r.step_seconds_p50);
    row.train_peak_bytes_median = count(|r| r.train_peak_bytes);
    row.train_peak_bytes_min = done.iter().filter_map(|run| run.train_peak_bytes).min();
    row.train_peak_bytes_max = done.iter().filter_map(|run| run.train_peak_bytes).max();
    row.eval_peak_bytes_median = count(|r| r.eval_peak_bytes);
    row.weights_bytes_median = count(|r| r.weights_bytes);
    row.adapter_bytes_median = count(|r| r.adapter_bytes);
    row.gradients_bytes_median = count(|r| r.gradients_bytes);
    row.optimizer_bytes_median = count(|r| r.optimizer_bytes);
    row.activations_bytes_median = count(|r| r.activations_bytes);
    row.workspace_bytes_median = count(|r| r.workspace_bytes);
    row.train_seconds_median = middle(|r| r.train_seconds);
    row.total_seconds_median = middle(|r| r.total_seconds);
    row.adapter_file_bytes = count(|r| r.adapter_file_bytes);
}

/// Test scores by run from the predictions table: those after the most steps, where a run kept several lists.
pub fn item_scores(predictions: &[PredictionRow]) -> ItemScores {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let test = || predictions.iter().filter(|row| row.split == "test");
    for row in test() {
        let step = last.entry(&row.run_id).or_default();
        *step = row.step.max(*step);
    }
    let mut scores = ItemScores::new();
    for row in test().filter(|row| last.get(row.run_id.as_str()) == Some(&row.step)) {
        if let Some(score) = row.score {
            scores.entry(row.run_id.clone()).or_default().insert(row.item_id.clone(), score);
        }
    }
    scores
}

impl Row for AggregateRow {
    const TABLE: &'static str = "aggregates";
    const COLUMNS: &'static [Column] = {
        use columns::{count, flag, number, text};
        &[
            count("schema_version"),
            text("group_id"),
            text("sweep"),
            text("model"),
            text("model_json"),
            text("task"),
            text("task_json"),
            text("method"),
            text("method_json"),
            text("targets"),
            text("layers"),
            text("policy"),
            text("policy_json"),
            count("epochs"),
            count("max_steps"),
            count("batch_size"),
            count("gradient_accumulation"),
            number("lr"),
            text("lr_scheduler"),
            number("warmup_ratio"),
            number("weight_decay"),
            count("max_length"),
            count("train_samples_limit"),
            count("n_seeds"),
            text("seeds"),
            count("n_failed"),
            text("primary_metric"),
            flag("primary_higher_is_better"),
            number("mean"),
            number("test_chance"),
            number("sd"),
            number("ci95_low"),
            number("ci95_high"),
            text("interval_kind"),
            number("seeds_items_ci95_low"),
            number("seeds_items_ci95_high"),
            count("n_items"),
            number("valid_mean"),
            number("forgetting_loss_rise_mean"),
            number("train_loss_final_median"),
            count("num_trainable_params"),
            number("trainable_fraction"),
            count("num_adapter_params"),
            count("model_num_params"),
            number("layers_active_mean"),
            number("train_tokens_per_second_median"),
            number("train_tokens_per_second_min"),
            number("train_tokens_per_second_max"),
            number("eval_tokens_per_second_median"),
            number("step_seconds_p50_median"),
            count("train_peak_bytes_median"),
            count("train_peak_bytes_min"),
            count("train_peak_bytes_max"),
            count("eval_peak_bytes_median"),
            count("weights_bytes_median"),
            count("adapter_bytes_median"),
            count("gradients_bytes_median"),
            count("optimizer_bytes_median"),
            count("activations_bytes_median"),
            count("workspace_bytes_median"),
            number("train_seconds_median"),
            number("total_seconds_median"),
            count("adapter_file_bytes"),
            count("train_samples"),
            count("valid_samples"),
            count("test_samples"),
            count("total_steps"),
            text("device"),
            count("threads"),
        ]
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, value: f64) -> RunRow {
        RunRow {
            run_id: format!("run{seed}"),
            group_id: "g".into(),
            seed,
            status: Status::Done,
            primary_metric: Some("accuracy".into()),
            primary_value: Some(value),
            primary_stderr: Some(0.05),
            ..RunRow::default()
        }
    }

    fn scores(seed: u64, right: usize, of: usize) -> (String, BTreeMap<String, f64>) {
        (format!("run{seed}"), (0..of).map(|i| (format!("item{i:03}"), f64::from(u8::from(i < right)))).collect())
    }

    #[test]
    fn the_interval_says_what_it_was_made_from() {
        let kind = |runs: &[RunRow], scores: &ItemScores| aggregate(runs, scores)[0].interval_kind;
        let none = ItemScores::new();
        assert_eq!(kind(&[run(0, 0.5), run(1, 0.6)], &none), Some(IntervalKind::SeedsT));
        assert_eq!(kind(&[run(0, 0.5)], &none), Some(IntervalKind::ItemsNormal));
        assert_eq!(kind(&[run(0, 0.5)], &ItemScores::from([scores(0, 50, 100)])), Some(IntervalKind::ItemsBootstrap));
        // Item scores that are not what the metric averages are no help.
        assert_eq!(kind(&[run(0, 0.5)], &ItemScores::from([scores(0, 70, 100)])), Some(IntervalKind::ItemsNormal));
        // Three equal seeds (zero-shot) say nothing of the spread over items.
        assert_eq!(kind(&[run(0, 0.5), run(1, 0.5)], &none), Some(IntervalKind::ItemsNormal));
        assert_eq!(kind(&[RunRow { primary_stderr: None, ..run(0, 0.5) }], &none), None);
    }

    #[test]
    fn failed_runs_are_counted_and_runs_without_a_test_score_make_no_row() {
        let failed = RunRow { status: Status::Failed, primary_value: None, ..run(2, 0.0) };
        let rows = aggregate(&[run(1, 0.6), failed, run(0, 0.5)], &ItemScores::new());
        assert_eq!((rows.len(), rows[0].n_seeds, rows[0].n_failed, rows[0].seeds.as_str()), (1, 2, 1, "0,1"));
        let probe = RunRow { primary_value: None, ..run(0, 0.0) };
        assert!(aggregate(&[probe], &ItemScores::new()).is_empty());
    }

    #[test]
    fn seeds_and_items_together_where_predictions_are_kept() {
        let kept = ItemScores::from([scores(0, 50, 100), scores(1, 60, 100)]);
        let rows = aggregate(&[run(0, 0.5), run(1, 0.6)], &kept);
        assert!(rows[0].seeds_items_ci95_low.is_some_and(|low| low > 0.35 && low < 0.55));
    }
}
