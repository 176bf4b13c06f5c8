//! Exact-set match, execution accuracy and hardness against Spider's official evaluators (`fixtures/make_spider.py`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_datasets::metrics::{self, Item, Scores};
use peftbench_datasets::sql::hardness::Hardness;
use peftbench_datasets::sql::query::Query;
use peftbench_datasets::sql::{Database, Limits, Sandbox, spider_databases};
use peftbench_spec::Component;
use serde::Deserialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// Hardness of the gold query, exact-set match, execution match.
type Outcome = (String, u8, u8);

fn fixture<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn score(name: &str, items: &[Item]) -> Scores {
    metrics::build(&Component::named(name)).unwrap().score(items).unwrap()
}

/// A gold query, a prediction and their database.
struct Case {
    gold: [String; 1],
    predicted: String,
    database: Database,
}

impl Case {
    fn item(&self) -> Item<'_> {
        Item { database: Some(&self.database), ..Item::new(&self.predicted, &self.gold) }
    }
}

/// Scores the cases and holds every one to its outcome.
fn check(cases: &[Case], outcomes: &[Outcome]) {
    let items: Vec<Item> = cases.iter().map(Case::item).collect();
    let (exact, executed) = (score("exact_set_match", &items), score("exec_accuracy", &items));
    for (k, (case, (_, same, gives))) in cases.iter().zip(outcomes).enumerate() {
        assert_eq!(exact.items[k], f64::from(*same), "exact-set match of\n{}\n{}", case.gold[0], case.predicted);
        assert_eq!(executed.items[k], f64::from(*gives), "execution of\n{}\n{}", case.gold[0], case.predicted);
    }
    for class in Hardness::ALL.map(Hardness::name) {
        let of_class: Vec<&Outcome> = outcomes.iter().filter(|(hardness, ..)| hardness == class).collect();
        for (scores, name, hits) in [
            (&exact, "exact_set_match", of_class.iter().map(|(_, same, _)| usize::from(*same)).sum::<usize>()),
            (&executed, "exec_accuracy", of_class.iter().map(|(.., gives)| usize::from(*gives)).sum()),
        ] {
            let value = scores.values.iter().find(|value| value.name == format!("{name}.{class}"));
            let found = value.map_or((0, 0), |value| (value.n_items, (value.value * value.n_items as f64).round() as usize));
            assert_eq!(found, (of_class.len(), hits), "{name}.{class}");
        }
    }
}

#[derive(Deserialize)]
struct Made {
    script: String,
    columns: Vec<(String, String)>,
    keys: Vec<[usize; 2]>,
    cases: Vec<MadeCase>,
}
#[derive(Deserialize)]
struct MadeCase {
    gold: String,
    predicted: String,
    outcome: Outcome,
}

#[test]
fn made_queries_have_the_outcome_that_the_official_evaluator_gives_them() {
    let made: Made = fixture("spider.json");
    assert!(made.cases.len() >= 900);
    let database = Database::script("made", made.script).with_foreign_keys(&made.columns, &made.keys);
    let outcomes: Vec<Outcome> = made.cases.iter().map(|case| case.outcome.clone()).collect();
    let schema = Sandbox::open(&database, Limits::default()).unwrap().schema().clone();
    for case in &made.cases {
        let hardness = Hardness::of(&Query::parse(&case.gold, &schema).expect(&case.gold)).name();
        assert_eq!(hardness, case.outcome.0, "{}", case.gold);
    }
    let case = |case: MadeCase| Case { gold: [case.gold], predicted: case.predicted, database: database.clone() };
    check(&made.cases.into_iter().map(case).collect::<Vec<_>>(), &outcomes);
}

#[test]
fn a_reference_that_fails_or_cannot_be_read_is_an_error() {
    let case = Case {
        gold: ["SELECT nothing FROM nowhere".to_owned()],
        predicted: String::new(),
        database: Database::script("x", "CREATE TABLE t (a)"),
    };
    for name in ["exact_set_match", "exec_accuracy"] {
        let error = metrics::build(&Component::named(name)).unwrap().score(&[case.item()]).unwrap_err().to_string();
        assert!(error.starts_with("item 1: the reference query `SELECT nothing FROM nowhere` cannot be scored against"), "{error}");
    }
}

/// The changes that `make_spider.py` makes to gold queries, by their numbers there.
fn change(number: usize, query: &str) -> String {
    let replace = |from: &str, to: &str| query.replace(from, to);
    match number {
        0 => query.to_owned(),
        1 => query.to_lowercase(),
        2 => replace("DISTINCT", ""),
        3 => replace("DESC", "ASC"),
        4 => replace(" AND ", " OR "),
        5 => replace("count(*)", "sum(1)"),
        6 => replace(">", ">="),
        7 => replace("max(", "min("),
        8 => format!("{query} LIMIT 1"),
        9 => replace("JOIN", "LEFT JOIN"),
        10 => replace("SELECT ", "SELECT DISTINCT "),
        11 => replace("LIKE", "NOT LIKE"),
        12 => replace("=", "= "),
        13 => replace("=", "> ="),
        14 => replace("'", "\""),
        15 => format!("{query} ;"),
        16 => replace("UNION", "INTERSECT"),
        17 => replace("avg(", "sum("),
        other => panic!("no change {other}"),
    }
}

#[derive(Deserialize)]
struct Dev {
    /// Line of dev.jsonl, number of the change, outcome.
    changed: Vec<(usize, usize, String, u8, u8)>,
    /// Line of the gold query, line of the prediction, outcome.
    swapped: Vec<(usize, usize, String, u8, u8)>,
}

#[derive(Deserialize)]
struct Row {
    db_id: String,
    query: String,
}

/// Over Spider's own queries and databases, where PEFTBENCH_DATA names the folder; elsewhere the made queries above cover the same code.
#[test]
fn the_dev_set_has_the_outcomes_that_the_official_evaluator_gives_it() {
    let Some(folder) = std::env::var_os("PEFTBENCH_DATA") else { return };
    let folder = Path::new(&folder).join("spider");
    let databases = spider_databases(&folder).unwrap();
    let text = std::fs::read_to_string(folder.join("dev.jsonl")).unwrap();
    let rows: Vec<Row> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let case = |gold: &Row, predicted: String| Case { gold: [gold.query.clone()], predicted, database: databases[&gold.db_id].clone() };

    let gold: Vec<Case> = rows.iter().map(|row| case(row, row.query.clone())).collect();
    let items: Vec<Item> = gold.iter().map(Case::item).collect();
    let start = Instant::now();
    let values = [score("exact_set_match", &items), score("exec_accuracy", &items)].map(|scores| scores.values[0].value);
    let taken = start.elapsed();
    println!("{} gold queries scored in {taken:?}", rows.len());
    assert_eq!((rows.len(), values), (1034, [1.0, 1.0]));
    assert!(taken < Duration::from_secs(20), "{taken:?}");

    let dev: Dev = fixture("spider_dev.json");
    let changed = dev.changed.into_iter().map(|(line, number, hardness, same, gives)| {
        let row = &rows[line];
        (case(row, change(number, &row.query)), (hardness, same, gives))
    });
    let swapped = dev
        .swapped
        .into_iter()
        .map(|(line, other, hardness, same, gives)| (case(&rows[line], rows[other].query.clone()), (hardness, same, gives)));
    let (cases, outcomes): (Vec<Case>, Vec<Outcome>) = changed.chain(swapped).unzip();
    check(&cases, &outcomes);
}
