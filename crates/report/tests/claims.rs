//! Claims on made-up runs: what is read, what is paired, and each verdict.

#![allow(clippy::unwrap_used)]

use peftbench_report::claims::{Evidence, Judgement, Line, Names, Paper, Verdict, judge};
use peftbench_results::rows::{LayerRow, Role, Status};
use peftbench_results::{PredictionRow, RunRow};
use std::path::Path;

/// A paper with two rows, one model and column, and a statement.
const PAPER: &str = r#"
[paper]
id = "p"
title = "A paper"
reference = "nowhere"
where = { arch = "mamba" }

[grades]
S1 = { means = "second-hand", shown = true }
R = { means = "recalled", shown = false }

[rows]
lora = { label = "LoRA", select = { method = "lora" } }
prompt = { label = "Prompt tuning", select = { method = "prompt" } }
ist = { label = "IST", select = { method = "lora", policy = "ist" } }
all = { label = "all layers", select = { method = "lora", policy = "static" } }
unknown = { label = "nobody knows" }

[models]
big = { label = "Mamba-130M", select = { model = "*mamba-130m*" } }

[columns]
glue = { data = "GLUE", metric = "accuracy", measure = "score", unit = "percent", select = { task = "glue/*", train = { epochs = 10 } } }
memory = { data = "any", metric = "memory", measure = "peak_memory", unit = "percent" }

[sources.table]
place = "Table 1"
grade = "S1"
cells = [
  { row = "lora", model = "big", values = { glue = 81.2 } },
  { row = "prompt", model = "big", values = { glue = 63.8 } },
  { row = "ist", model = "big", against = "all", values = { memory = -36.0 } },
]

[[statements]]
id = "s"
text = "LoRA is better"
source = "table"
left = "lora"
right = "prompt"
measure = "score"
expect = "higher"
models = ["big"]
columns = ["glue"]
"#;

fn names() -> Names<'static> {
    Names { methods: vec!["lora", "prompt", "sdt"], policies: vec!["static", "ist"], tasks: vec!["glue/rte", "world/sentiment"] }
}

fn read(text: &str) -> Result<Paper, String> {
    Paper::parse(Path::new("p.toml"), text, &names()).map_err(|error| error.to_string())
}

fn run(method: &str, seed: u64, value: f64) -> RunRow {
    RunRow {
        run_id: format!("{method} {seed}"),
        group_id: method.into(),
        status: Status::Done,
        model: "tiny".into(),
        model_json: r#"{"type":"tiny"}"#.into(),
        model_arch: Some("mamba".into()),
        task: "world/sentiment".into(),
        task_json: r#"{"type":"world/sentiment"}"#.into(),
        method_json: format!(r#"[{{"type":"{method}"}}]"#),
        targets: "default".into(),
        layers: "all".into(),
        policy_json: r#"{"type":"static"}"#.into(),
        seed,
        primary_metric: Some("accuracy".into()),
        primary_value: Some(value),
        primary_higher_is_better: Some(true),
        valid_value: Some(value),
        num_trainable_params: Some(100),
        ..RunRow::default()
    }
}

/// LoRA and prompt tuning with these scores, seed by seed.
fn runs(lora: &[f64], prompt: &[f64]) -> Vec<RunRow> {
    let side = |method: &'static str, values: &[f64]| {
        values.iter().enumerate().map(move |(seed, value)| run(method, seed as u64, *value)).collect::<Vec<_>>()
    };
    side("lora", lora).into_iter().chain(side("prompt", prompt)).collect()
}

/// The only statement of a paper, by these runs.
fn line(paper: &str, runs: Vec<RunRow>) -> Line {
    let mut evidence = Evidence::default();
    evidence.add(runs, &[], &[]);
    judge(&[read(paper).unwrap()], &evidence).papers.remove(0).lines.remove(0)
}

fn here(runs: Vec<RunRow>) -> Judgement {
    line(PAPER, runs).here
}

#[test]
fn a_wrong_key_or_name_is_an_error_with_its_line_and_the_nearest() {
    for (right, wrong, expected) in [
        ("left = \"lora\"", "left = \"lorra\"", "`statements[0].left`: there is no row `lorra`; did you mean `lora`?"),
        ("left = \"lora\"", "left = \"unknown\"", "`statements[0].left`: the row `unknown` has no `select`, so that no run can be meant"),
        (
            "measure = \"score\"\nexpect",
            "measure = \"scor\"\nexpect",
            "`statements[0].measure`: there is no measure `scor`; did you mean `score`?",
        ),
        ("expect = \"higher\"\nmodels", "expcet = \"higher\"\nmodels", "`statements[0].expcet`: unknown key; did you mean `expect`?"),
        (
            "{ method = \"prompt\" }",
            "{ method = \"promt\" }",
            "`rows.prompt.select.method`: there is no method `promt`; did you mean `prompt`?",
        ),
        (
            "{ method = \"prompt\" }",
            "{ metod = \"prompt\" }",
            "`rows.prompt.select`: `metod` is not a field of a run; did you mean `method`?",
        ),
        ("task = \"glue/*\"", "task = \"gleu/*\"", "`columns.glue.select.task`: there is no task `gleu/*`; did you mean `glue/rte`?"),
        ("policy = \"ist\"", "policy = \"isd\"", "`rows.ist.select.policy`: there is no policy `isd`; did you mean `ist`?"),
        (
            "values = { glue = 63.8 }",
            "values = { gleu = 63.8 }",
            "`sources.table.cells[1].values.gleu`: there is no column `gleu`; did you mean `glue`?",
        ),
        ("grade = \"S1\"\ncells", "grade = \"S2\"\ncells", "`sources.table.grade`: there is no grade `S2`; known: `R`, `S1`"),
    ] {
        let (before, after) = PAPER.split_once(right).unwrap();
        let line = 1 + before.matches('\n').count();
        assert_eq!(read(&format!("{before}{wrong}{after}")).unwrap_err(), format!("p.toml:{line}: {expected}"));
    }
    let twice = format!("{PAPER}{}", &PAPER[PAPER.find("[[statements]]").unwrap()..]);
    assert!(read(&twice).unwrap_err().contains("two statements are called `s`"));
}

#[test]
fn a_clear_difference_holds_and_the_reverse_fails() {
    let holds = here(runs(&[0.80, 0.82, 0.81], &[0.60, 0.63, 0.61]));
    assert_eq!((holds.verdict, holds.n_pairs, holds.n_seeds, holds.seeds_missing), (Verdict::Holds, 3, 3, None));
    let difference = holds.difference.unwrap();
    // scipy.stats.ttest_1samp([0.20, 0.19, 0.20], 0): 0.19667, 95 % from 0.18232 to 0.21101.
    assert!(
        (difference.mean - 0.196_667).abs() < 1e-5
            && (difference.low - 0.182_324).abs() < 1e-5
            && (difference.high - 0.211_009).abs() < 1e-5
    );
    assert!((holds.left.unwrap().mean - 0.81).abs() < 1e-9 && holds.p_value_holm.unwrap() < 0.001);
    assert_eq!(here(runs(&[0.60, 0.63, 0.61], &[0.80, 0.82, 0.81])).verdict, Verdict::Fails);
}

#[test]
fn an_interval_that_holds_the_margin_or_too_few_seeds_are_not_enough_and_say_what_is_missing() {
    let wide = here(runs(&[0.80, 0.60, 0.72], &[0.60, 0.63, 0.70]));
    assert_eq!(wide.verdict, Verdict::NotEnoughEvidence);
    assert!(
        wide.reason.starts_with("the interval holds the margin; at this spread it takes about ") && wide.seeds_missing.unwrap() > 3,
        "{}",
        wide.reason
    );
    let few = here(runs(&[0.80, 0.82], &[0.60, 0.63, 0.61]));
    assert_eq!((few.verdict, few.seeds_missing), (Verdict::NotEnoughEvidence, Some(1)));
    assert_eq!(few.reason, "2 of the 3 seeds that a verdict takes: 1 missing; 1 runs have no partner of their seed");
    assert!((few.bare_difference.unwrap() - 0.195).abs() < 1e-9 && few.p_value.is_none());
}

#[test]
fn without_both_sides_nothing_is_compared_and_the_reason_says_which_is_missing() {
    let reason = |runs: Vec<RunRow>| {
        let judgement = here(runs);
        assert_eq!((judgement.verdict, judgement.n_pairs), (Verdict::NotComparable, 0));
        judgement.reason
    };
    assert_eq!(reason(Vec::new()), "no such runs");
    assert_eq!(reason(runs(&[0.8; 3], &[])), "no run of the right side");
    assert_eq!(reason(runs(&[], &[0.8; 3])), "no run of the left side");
    let mut other = runs(&[0.8; 3], &[0.6; 3]);
    other.iter_mut().filter(|run| run.group_id == "prompt").for_each(|run| run.epochs = 7);
    assert_eq!(reason(other), "both sides were run, but no two runs agree in all else");
    let llama = runs(&[0.8; 3], &[0.6; 3]).into_iter().map(|run| RunRow { model_arch: Some("llama".into()), ..run }).collect();
    assert_eq!(reason(llama), "no such runs");
    let failed = runs(&[0.8; 3], &[0.6; 3]).into_iter().map(|run| RunRow { status: Status::Failed, ..run }).collect();
    assert_eq!(reason(failed), "no such runs");
    let probes = runs(&[0.8; 3], &[0.6; 3]).into_iter().map(|run| RunRow { role: Role::Probe, ..run }).collect();
    assert_eq!(reason(probes), "no such runs");
}

/// The runs as if they were of the paper's own.
fn own(runs: Vec<RunRow>, epochs: u64) -> Vec<RunRow> {
    let own = |run: RunRow| RunRow {
        run_id: format!("own {}", run.run_id),
        group_id: format!("own {}", run.group_id),
        model_json: r#"{"type":"state-spaces/mamba-130m-hf"}"#.into(),
        task_json: r#"{"type":"glue/rte"}"#.into(),
        epochs,
        ..run
    };
    runs.into_iter().map(own).collect()
}

#[test]
fn a_verdict_on_the_papers_own_models_is_one_of_its_own() {
    let small = line(PAPER, runs(&[0.80, 0.82, 0.81], &[0.60, 0.63, 0.61]));
    assert_eq!((small.own.verdict, small.own.reason.as_str()), (Verdict::NotComparable, "no run on the paper's own model, Mamba-130M"));
    let reversed = own(runs(&[0.60, 0.63, 0.61], &[0.80, 0.82, 0.81]), 10);
    let both = line(PAPER, runs(&[0.80, 0.82, 0.81], &[0.60, 0.63, 0.61]).into_iter().chain(reversed).collect());
    assert_eq!((both.here.verdict, both.own.verdict), (Verdict::Holds, Verdict::Fails));
    assert_eq!((both.here.n_pairs, both.own.n_pairs), (3, 3));
    // With another budget they are no runs of the paper's own.
    let short = line(PAPER, own(runs(&[0.8; 3], &[0.6; 3]), 2));
    assert_eq!((short.own.verdict, short.here.n_pairs), (Verdict::NotComparable, 3));
    assert!(short.own.reason.contains("another budget"), "{}", short.own.reason);
}

#[test]
fn a_cell_with_too_few_seeds_is_left_out_where_there_is_another() {
    let task = |run: RunRow| RunRow {
        run_id: format!("2 {}", run.run_id),
        group_id: format!("2 {}", run.group_id),
        task_json: r#"{"type":"glue/rte"}"#.into(),
        ..run
    };
    let second = |count: usize| runs(&[0.5, 0.52, 0.51][..count], &[0.60, 0.63, 0.61][..count]).into_iter().map(task);
    let judged = |count| here(runs(&[0.80, 0.82, 0.81], &[0.60, 0.63, 0.61]).into_iter().chain(second(count)).collect());
    let (alone, together) = (judged(1), judged(3));
    assert_eq!((alone.n_pairs, alone.cells.len(), alone.cells_left_out, alone.verdict), (3, 1, 1, Verdict::Holds));
    assert_eq!((together.n_pairs, together.cells.len(), together.cells_left_out), (6, 2, 0));
    assert!((together.difference.unwrap().mean - (0.196_667 - 0.103_333) / 2.0).abs() < 1e-5);
    // Together they hold in the mean, and the second is named.
    assert_eq!((together.verdict, alone.reason.as_str()), (Verdict::Holds, ""));
    assert_eq!(together.reason, "in the mean, and not for tiny on world/sentiment");
}

#[test]
fn many_statements_are_corrected_and_a_lone_one_is_not() {
    // p = 0.03 alone.
    let scores = || runs(&[0.66, 0.70, 0.61], &[0.60, 0.60, 0.56]);
    assert_eq!(here(scores()).verdict, Verdict::Holds);
    let statement = &PAPER[PAPER.find("[[statements]]").unwrap()..];
    let twice = format!("{PAPER}{}", statement.replace("id = \"s\"", "id = \"t\""));
    let second = line(&twice, scores()).here;
    assert_eq!(second.verdict, Verdict::NotEnoughEvidence);
    assert!(second.reason.contains("after correction for 2 statements"), "{}", second.reason);
    assert!((second.p_value_holm.unwrap() - 2.0 * second.p_value.unwrap()).abs() < 1e-12);
}

#[test]
fn items_are_paired_where_they_were_kept() {
    let pair = runs(&[0.75, 0.75, 0.75], &[0.5, 0.5, 0.5]);
    let right = |run: &RunRow, item: usize| item < (if run.group_id == "lora" { 3 } else { 2 });
    let predictions: Vec<PredictionRow> = pair
        .iter()
        .flat_map(|run| {
            (0..4).map(|item| PredictionRow {
                run_id: run.run_id.clone(),
                split: "test".into(),
                item_id: item.to_string(),
                score: Some(f64::from(u8::from(right(run, item)))),
                ..PredictionRow::default()
            })
        })
        .collect();
    let mut evidence = Evidence::default();
    evidence.add(pair.clone(), &predictions, &[]);
    let judged = judge(&[read(PAPER).unwrap()], &evidence).papers.remove(0).lines.remove(0).here;
    // The seeds agree to the last item, yet there are four items only.
    assert_eq!((judged.verdict, judged.cells[0].n_items), (Verdict::NotEnoughEvidence, 4));
    let difference = judged.difference.unwrap();
    assert!((difference.mean - 0.25).abs() < 1e-12 && difference.low < 0.0, "{difference:?}");
    assert_eq!(here(pair).verdict, Verdict::Holds, "without items nothing varies");
}

#[test]
fn of_several_learning_rates_the_best_on_validation_stands() {
    let mut all = runs(&[0.80, 0.82, 0.81], &[0.60, 0.63, 0.61]);
    let worse = runs(&[0.95, 0.96, 0.97], &[]).into_iter().map(|run| RunRow {
        run_id: format!("2 {}", run.run_id),
        group_id: "lora 2".into(),
        lr: 0.5,
        valid_value: Some(0.1),
        ..run
    });
    all.extend(worse);
    let judged = here(all);
    assert_eq!((judged.n_pairs, judged.cells[0].lr), (3, [Some(0.0), Some(0.0)]));
}

#[test]
fn memory_is_compared_by_ratio_and_a_reported_share_is_kept() {
    let paper = PAPER.replace(
        "left = \"lora\"\nright = \"prompt\"\nmeasure = \"score\"\nexpect = \"higher\"",
        "left = \"ist\"\nright = \"all\"\nmeasure = \"peak_memory\"\nexpect = \"lower\"",
    );
    let paper = paper.replace("columns = [\"glue\"]", "columns = [\"memory\"]");
    let side = |policy: &str, bytes: u64| {
        let policy = policy.to_owned();
        (0..3u64).map(move |seed| RunRow {
            run_id: format!("{policy} {seed}"),
            group_id: policy.clone(),
            policy_json: format!(r#"{{"type":"{policy}"}}"#),
            train_peak_bytes: Some(bytes + seed),
            ..run("lora", seed, 0.5)
        })
    };
    let judged = line(&paper, side("ist", 750_000).chain(side("static", 1_000_000)).collect());
    assert!((judged.reported[0].difference + 0.36).abs() < 1e-12);
    assert!((judged.here.difference.unwrap().mean + 0.25).abs() < 1e-5 && judged.here.verdict == Verdict::Holds);
}

#[test]
fn a_budget_of_parameters_leaves_out_what_is_larger_or_smaller() {
    let paper = format!("{PAPER}max_parameter_ratio = 1.1\n");
    let with = |parameters: u64| {
        let mut all = runs(&[0.80, 0.82, 0.81], &[0.60, 0.63, 0.61]);
        all.iter_mut().filter(|run| run.group_id == "lora").for_each(|run| run.num_trainable_params = Some(parameters));
        line(&paper, all).here.verdict
    };
    assert_eq!([with(109), with(112), with(80)], [Verdict::Holds, Verdict::NotComparable, Verdict::NotComparable]);
}

#[test]
fn one_side_alone_is_held_against_the_margin() {
    let paper =
        PAPER.replace("left = \"lora\"\nright = \"prompt\"\nmeasure = \"score\"", "left = \"lora\"\nmeasure = \"importance_agreement\"");
    let importance = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0], [2.0, 1.0, 3.0, 4.0]];
    let layers: Vec<LayerRow> = importance
        .iter()
        .enumerate()
        .flat_map(|(seed, values)| {
            let row = move |(layer, value): (usize, &f64)| LayerRow {
                run_id: format!("lora {seed}"),
                step: 9,
                layer: layer as u64,
                importance: Some(*value),
                ..LayerRow::default()
            };
            values.iter().enumerate().map(row)
        })
        .collect();
    let mut evidence = Evidence::default();
    evidence.add(runs(&[0.8; 3], &[]), &[], &layers);
    let judged = judge(&[read(&paper).unwrap()], &evidence).papers.remove(0).lines.remove(0).here;
    assert_eq!((judged.n_pairs, judged.right), (3, None));
    assert!(judged.difference.unwrap().mean > 0.5);
}

#[test]
fn cells_of_a_grade_that_is_not_shown_give_no_difference() {
    let recalled = PAPER.replace("values = { glue = 63.8 } }", "values = { glue = 63.8 }, grade = \"R\" }");
    let reported = |paper: &str| line(paper, Vec::new()).reported;
    assert!((reported(PAPER)[0].difference - 0.174).abs() < 1e-9);
    assert!(reported(&recalled).is_empty());
}
