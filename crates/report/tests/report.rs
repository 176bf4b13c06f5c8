//! The whole way: events → fragments → tables → figures, text tables and page.

#![allow(clippy::unwrap_used)]

#[path = "../../results/tests/synthetic/mod.rs"]
mod synthetic;

use peftbench_report::claims::{Evidence, Names, Paper, judge};
use peftbench_report::data::{Claims, Data};
use peftbench_report::figures::FIGURES;
use peftbench_report::scene::Bounds;
use peftbench_report::{ReportError, ReportOptions, write_report};
use peftbench_results::collect;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use synthetic::{Size, write_choices, write_probes, write_sweep};

fn sweep(size: &Size) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("synthetic");
    write_sweep(&path, size);
    if size.models > 0 {
        write_choices(&path, size);
        write_probes(&path, size);
    }
    (folder, path)
}

/// A paper about the made-up sweep.
const PAPER: &str = r#"
[paper]
id = "made-up"
title = "A made-up paper"
reference = "nowhere"
[grades]
A = { means = "made up", shown = true }
[rows]
lora = { label = "LoRA", select = { method = "lora", layers = "all" } }
dora = { label = "DoRA", select = { method = "dora", layers = "all" } }
full = { label = "Full fine-tuning", select = { method = "full" } }
[models]
large = { label = "A larger model", select = { model = "large" } }
[columns]
task = { data = "A harder task", metric = "accuracy", measure = "score", unit = "percent", select = { task = "hard" } }
[sources.table]
place = "Table 1"
grade = "A"
cells = [
  { row = "lora", model = "large", values = { task = 70.5 } },
  { row = "dora", model = "large", values = { task = 72.0 } },
]
[[statements]]
id = "dora-over-lora"
text = "DoRA beats LoRA"
source = "table"
left = "dora"
right = "lora"
measure = "score"
expect = "higher"
equal = ["method.r"]
models = ["large"]
columns = ["task"]
[[statements]]
id = "lora-saves-memory"
text = "LoRA takes less memory than training everything"
source = "table"
left = "lora"
right = "full"
measure = "peak_memory"
expect = "lower"
"#;

fn paper() -> Paper {
    let names = Names { methods: vec!["lora", "dora", "full"], policies: vec!["static"], tasks: vec!["hard"] };
    Paper::parse(Path::new("paper.toml"), PAPER, &names).unwrap()
}

fn everything() -> ReportOptions {
    ReportOptions { papers: vec![paper()], ..ReportOptions::default() }
}

/// Bytes of all files of the report.
fn bytes(sweep: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = ["figures", "report", "tables"].iter().flat_map(|folder| fs::read_dir(sweep.join(folder)).unwrap());
    files.map(|entry| entry.unwrap().path()).map(|path| (path.strip_prefix(sweep).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_report_has_every_figure_in_three_forms_and_is_the_same_twice() {
    let (_folder, path) = sweep(&Size::SMALL);
    let written = write_report(&path, &everything()).unwrap();
    assert_eq!(written.empty, [""; 0]);
    assert_eq!(written.figures.len(), 3 * FIGURES.len());
    assert!(written.figures.iter().chain(&written.tables).all(|file| file.metadata().is_ok_and(|m| m.len() > 100)));
    let once = bytes(&path);
    write_report(&path, &everything()).unwrap();
    assert!(once == bytes(&path), "two reports of the same results differ");
    let (_other_folder, other) = sweep(&Size::SMALL);
    write_report(&other, &everything()).unwrap();
    assert!(once == bytes(&other), "the report depends on where it was made");
}

#[test]
fn the_page_is_whole_and_stands_alone() {
    let (_folder, path) = sweep(&Size::SMALL);
    write_report(&path, &everything()).unwrap();
    let page = fs::read_to_string(path.join("report/index.html")).unwrap();
    assert_eq!(page.matches("<svg ").count(), FIGURES.len());
    for outside in ["src=\"http", "href=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("nan_loss") && page.contains("allocation of 1.5 GiB failed at step 6"));
    assert!(page.contains("peftbench rerun "));
    assert!(page.contains("A made-up sweep"));
    // Two seeds are too few for a verdict.
    assert!(page.contains("DoRA beats LoRA") && page.contains("2 of the 3 seeds that a verdict takes: 1 missing"));
    assert!(page.contains("no run on the paper&#x27;s own model, A larger model"), "{page}");
    for link in page.split("href=\"../").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(path.join(link).is_file(), "the page links to {link}, which is not there");
    }
    for anchor in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert_eq!(page.matches(&format!(" id=\"{anchor}\"")).count(), 1, "the page links to its own part {anchor}");
    }
    // Every table that scrolls can be scrolled by keyboard, and is named.
    assert_eq!(
        page.matches("class=\"scroll\"").count(),
        page.matches("class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=").count()
    );
}

#[test]
fn names_from_outside_are_escaped() {
    let (_folder, path) = sweep(&Size::SMALL);
    fs::write(path.join("sweep.toml"), "name = \"synthetic\"\ndescription = \"a <script>alert(1)</script> & more\"\n").unwrap();
    write_report(&path, &everything()).unwrap();
    let page = fs::read_to_string(path.join("report/index.html")).unwrap();
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert"));
}

#[test]
fn only_makes_one_figure_and_an_unknown_one_is_an_error_with_the_nearest() {
    let (_folder, path) = sweep(&Size::SMALL);
    let only = |name: &str| write_report(&path, &ReportOptions { only: Some(name.to_owned()), ..everything() });
    let written = only("accuracy").unwrap();
    assert_eq!((written.figures.len(), written.tables.len(), written.page), (3, 0, None));
    assert_eq!(only("results").unwrap().tables.len(), 3);
    assert_eq!(only("acuracy").unwrap_err().to_string(), "unknown figure or table `acuracy`; did you mean `accuracy`?");
}

#[test]
fn a_sweep_without_results_says_how_its_runs_stand() {
    let (_folder, path) = sweep(&Size { models: 0, ..Size::SMALL });
    let error = write_report(&path, &everything()).unwrap_err();
    assert!(matches!(error, ReportError::NothingFinished { runs: 4, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("none of the 4 runs has a result yet") && text.contains("1 failed") && text.contains("an error: nan_loss"),
        "{text}"
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(write_report(empty.path(), &everything()).unwrap_err().to_string().contains("no runs here"));
}

#[test]
fn a_folder_of_tables_without_runs_still_gives_a_report() {
    let (_folder, path) = sweep(&Size::SMALL);
    write_report(&path, &everything()).unwrap();
    let once = bytes(&path);
    fs::remove_dir_all(path.join("runs")).unwrap();
    write_report(&path, &everything()).unwrap();
    assert!(once == bytes(&path));
}

#[test]
fn no_text_of_any_figure_overlaps_another_or_leaves_the_picture() {
    for size in [Size::SMALL, Size::LARGE] {
        let (_folder, path) = sweep(&Size { seeds: 2, steps: 12, ..size });
        let collected = collect(&path).unwrap();
        peftbench_report::fonts::register().unwrap();
        let mut data = Data::read(&path, &collected).unwrap();
        data.claims = Some(Claims { papers: vec![paper()], scoreboard: judge(&[paper()], &Evidence::read(&[&path]).unwrap()) });
        for figure in FIGURES.iter().map(|make| make()) {
            let scene = figure.draw(&data).unwrap().scene;
            let picture = Bounds { left: 0.0, top: 0.0, right: scene.width, bottom: scene.height };
            let texts: Vec<_> = scene.texts().collect();
            for (index, text) in texts.iter().enumerate() {
                assert!(picture.contains(&text.bounds()), "{}: `{}` leaves the picture", figure.id(), text.text);
                for other in &texts[..index] {
                    assert!(!text.bounds().overlaps(&other.bounds()), "{}: `{}` overlaps `{}`", figure.id(), text.text, other.text);
                }
            }
        }
    }
}

#[test]
fn without_claims_a_report_has_neither_their_figures_nor_their_section() {
    let (_folder, path) = sweep(&Size::SMALL);
    let written = write_report(&path, &ReportOptions::default()).unwrap();
    assert_eq!(written.empty, ["claims", "paper-cells"]);
    assert!(!fs::read_to_string(path.join("report/index.html")).unwrap().contains("What the papers claim"));
}

#[test]
fn what_a_paper_reports_stands_beside_what_was_measured_and_on_no_axis_with_it() {
    let (_folder, path) = sweep(&Size { seeds: 3, ..Size::SMALL });
    write_report(&path, &everything()).unwrap();
    let csv = |name: &str| fs::read_to_string(path.join(format!("figures/{name}.csv"))).unwrap();
    let (cells, claims) = (csv("paper-cells"), csv("claims"));
    assert!(cells.contains("made-up,lora,reported,large,task,\"accuracy, %\",70.5,,,,\n"), "{cells}");
    assert_eq!(cells.lines().filter(|line| line.starts_with("made-up,dora,measured,tiny-mamba,world/sentiment,accuracy,")).count(), 1);
    assert!(!cells.contains("full"), "a row that the paper has no cell of");
    let line =
        claims.lines().find(|line| line.starts_with("made-up,lora-saves-memory,peak_memory,lora / full - 1 < 0 %,here,holds,")).unwrap();
    assert!(line.contains(",3,") && line.split(',').nth(9).unwrap().starts_with("-0."), "{line}");
    assert!(claims.contains("made-up,dora-over-lora,score,dora - lora > 0,own,not comparable,"), "{claims}");
}

#[test]
fn a_choice_has_the_rank_that_its_score_has_among_all() {
    let (_folder, path) = sweep(&Size::SMALL);
    write_report(&path, &ReportOptions { only: Some("selection-rank".to_owned()), ..everything() }).unwrap();
    let text = fs::read_to_string(path.join("figures/selection-rank.csv")).unwrap();
    let ranks = |ranking: &str| -> Vec<&str> {
        let rows = text.lines().filter(|line| line.contains(ranking));
        rows.map(|line| line.split(',').nth(5).unwrap()).collect()
    };
    // One took the last of the four channels, which is the best; the other the first with one seed, and the second with another.
    let mut second = ranks("magnitude");
    second.sort_unstable();
    assert_eq!((ranks("delta_a_log"), second), (vec!["1", "1"], vec!["3", "4"]), "{text}");
    assert!(text.lines().skip(1).all(|line| line.split(',').nth(6) == Some("4")), "{text}");
}

#[test]
fn probes_are_in_the_figure_of_learning_rates_and_in_no_other_result() {
    let (_folder, with) = sweep(&Size::SMALL);
    let folder = tempfile::tempdir().unwrap();
    let without = folder.path().join("synthetic");
    write_sweep(&without, &Size::SMALL);
    write_choices(&without, &Size::SMALL);
    for path in [&with, &without] {
        write_report(path, &everything()).unwrap();
    }
    let (with, without) = (bytes(&with), bytes(&without));
    let tables = ["runs", "select", "steps", "evals", "memory", "layers", "dimensions", "params"]
        .map(|name| PathBuf::from(format!("tables/{name}.parquet")));
    let own = |path: &&PathBuf| {
        !tables.contains(path) && !path.starts_with("report") && path.file_stem().is_none_or(|name| name != "learning-rates")
    };
    assert_eq!(with.keys().filter(own).collect::<Vec<_>>(), without.keys().filter(own).collect::<Vec<_>>());
    for path in with.keys().filter(own) {
        assert!(with[path] == without[path], "{} has something of a probe", path.display());
    }
    let csv = String::from_utf8(with[Path::new("figures/learning-rates.csv")].clone()).unwrap();
    assert_eq!(csv.lines().count(), 1 + 10);
    assert!(csv.contains(",failed,false,,") && csv.contains(",done,true,highest,"), "{csv}");
    let page = String::from_utf8(with[Path::new("report/index.html")].clone()).unwrap();
    assert!(page.contains("chosen by 10 probe runs") && page.contains("no learning rate") && page.contains("id=\"learning-rates\""));
}

/// Writes two sweeps for a person to look at, a whole paper's worth and the smallest with one seed:
/// `SHOW=some/folder cargo test --release -p peftbench-report -- --ignored`.
#[test]
#[ignore = "writes a folder to look at; set SHOW to its path"]
fn show() {
    let path = PathBuf::from(std::env::var("SHOW").unwrap());
    for (name, size) in [("large", Size::LARGE), ("small", Size { seeds: 1, ..Size::SMALL })] {
        write_sweep(&path.join(name), &size);
        write_probes(&path.join(name), &size);
        write_report(&path.join(name), &everything()).unwrap();
    }
}
