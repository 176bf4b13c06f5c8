//! From a sweep file to its cells: the product of the axes in file order, of the groups that change together, and of the seeds.
//!
//! The first axis varies slowest, the seeds fastest. Values go to their fields shorter paths first, so that `method` comes before
//! `method.r` wherever each is written; a shorthand (`"lora"`) becomes a table when an option is set below it, and `method.1.r` names
//! an entry of a list of methods. A table given for `train` is merged into the base's; any other value replaces what was there.

use crate::{exclude, fields, probes};
use peftbench_spec::canonical::canonical_json;
use peftbench_spec::error::Place;
use peftbench_spec::sweep_spec::Axis;
use peftbench_spec::{RunSpec, SpecError, SweepSpec};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;

type Result<T> = std::result::Result<T, SpecError>;

/// More cells than this are a slip of the pen: a year of runs of five minutes each.
const MAX_CELLS: usize = 100_000;

/// How the place of a choice begins that the command line made.
const SET: &str = "--set ";

/// One cell of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The run, as the file has it; defaults of model, task and method are not filled in yet.
    pub spec: RunSpec,
    /// What sets the cell apart, in the order of the factors.
    pub choices: Vec<Choice>,
}

/// The value that one field takes in a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Dotted path of the field.
    pub field: String,
    /// Its value.
    pub value: Value,
    /// Where the sweep says so: `axes.train.lr[1]`, `zip[0].method[2]`, `seeds[0]`, or `--set train.lr`.
    pub place: String,
}

/// All cells, and the exclusions that left none out (most likely a misspelt value).
#[derive(Debug, Clone, PartialEq)]
pub struct Expansion {
    /// The cells, in order.
    pub cells: Vec<Cell>,
    /// Indices into the sweep's exclusions.
    pub idle_excludes: Vec<usize>,
}

/// The cells of a sweep, at least one. Errors name file and line.
pub fn expand(sweep: &SweepSpec) -> Result<Vec<Cell>> {
    expansion(sweep).map(|expansion| expansion.cells)
}

/// As [`expand`], with what was noticed on the way.
pub fn expansion(sweep: &SweepSpec) -> Result<Expansion> {
    let groups = groups(sweep);
    check_fields(sweep, &groups)?;
    let factors = factors(sweep, &groups);
    let total = factors.iter().try_fold(1usize, |total, factor| total.checked_mul(factor.len()));
    let total = total.filter(|&total| total <= MAX_CELLS).ok_or_else(|| {
        let sizes: Vec<String> = factors.iter().map(|factor| factor.len().to_string()).collect();
        located(sweep, SpecError::at("axes", format!("{} cells are more than {MAX_CELLS}: split the sweep", sizes.join(" × "))))
    })?;
    let mut used = vec![false; sweep.exclude.len()];
    let mut cells = Vec::new();
    for index in 0..total {
        let cell = cell_of(sweep, choices(&factors, index))?;
        let hits: Vec<usize> = (0..used.len()).filter(|&i| exclude::leaves_out(&sweep.exclude[i], &cell.spec)).collect();
        hits.iter().for_each(|&i| used[i] = true);
        if hits.is_empty() {
            cells.push(cell);
        }
    }
    if cells.is_empty() {
        return Err(located(sweep, SpecError::at("exclude", format!("leaves out all {total} cells: the grid is empty"))));
    }
    let idle_excludes = (0..used.len()).filter(|&i| !used[i]).collect();
    Ok(Expansion { cells, idle_excludes })
}

fn located(sweep: &SweepSpec, error: SpecError) -> SpecError {
    error.located(&sweep.file, &sweep.source)
}

// Factors and their product.

/// Fields that change together, each with its place in the sweep; an axis is a group of one.
type Group<'a> = Vec<(String, &'a Axis)>;

/// One factor of the product: the ways to choose, each with one or several fields.
type Factor = Vec<Vec<Choice>>;

/// All that varies, in order.
fn groups(sweep: &SweepSpec) -> Vec<Group<'_>> {
    // What `--set` put in is not in the file; the file as written tells the two apart.
    let written = SweepSpec::parse(&sweep.file, &sweep.source).ok();
    let place = |axis: &Axis| {
        let file = written.as_ref()?;
        match file.axes.contains(axis) {
            true => Some(format!("axes.{}", axis.field)),
            false => file.zip.iter().position(|group| group.contains(axis)).map(|i| format!("zip[{i}].{}", axis.field)),
        }
    };
    let placed = |axis| (place(axis).unwrap_or_else(|| format!("{SET}{}", axis.field)), axis);
    let axes = sweep.axes.iter().map(|axis| vec![placed(axis)]);
    let zip = sweep.zip.iter().filter(|group| !group.is_empty()).map(|group| group.iter().map(placed).collect());
    axes.chain(zip).collect()
}

fn factors(sweep: &SweepSpec, groups: &[Group<'_>]) -> Vec<Factor> {
    let choice = |(place, axis): &(String, &Axis), i: usize| {
        let place = if place.starts_with(SET) { place.clone() } else { format!("{place}[{i}]") };
        Choice { field: axis.field.clone(), value: axis.values[i].clone(), place }
    };
    let factor = |group: &Group<'_>| (0..group[0].1.values.len()).map(|i| group.iter().map(|axis| choice(axis, i)).collect()).collect();
    let mut factors: Vec<Factor> = groups.iter().map(factor).collect();
    if !sweep.base.contains_key("seed") && !groups.iter().flatten().any(|(_, axis)| axis.field == "seed") {
        let choice = |(i, seed): (usize, &u64)| vec![Choice { field: "seed".into(), value: json!(seed), place: format!("seeds[{i}]") }];
        factors.push(sweep.seeds.iter().enumerate().map(choice).collect());
    }
    factors
}

/// The choices of the cell at `index`, the last factor varying fastest.
fn choices(factors: &[Factor], mut index: usize) -> Vec<Choice> {
    let mut picked = Vec::with_capacity(factors.len());
    for factor in factors.iter().rev() {
        picked.push(&factor[index % factor.len()]);
        index /= factor.len();
    }
    picked.into_iter().rev().flatten().cloned().collect()
}

// One cell.

/// The cell in which fields take these values, those of the base aside.
pub(crate) fn cell_of(sweep: &SweepSpec, choices: Vec<Choice>) -> Result<Cell> {
    let base = sweep.base.iter().map(|(field, value)| (field.as_str(), value, format!("base.{field}")));
    let chosen = choices.iter().map(|choice| (choice.field.as_str(), &choice.value, choice.place.clone()));
    let depth = |field: &str| field.matches('.').count();
    let mut settings: Vec<_> = base.chain(chosen).collect();
    settings.sort_by_key(|(field, ..)| depth(field));
    let mut run = Value::Object(Map::new());
    for (field, value, place) in settings {
        fields::set(&mut run, field, value.clone()).map_err(|problem| at_place(sweep, &place, problem))?;
    }
    match RunSpec::from_value(run) {
        Ok(spec) => Ok(Cell { spec, choices }),
        Err(error) => Err(blame(sweep, &choices, error)),
    }
}

// Errors.

/// Every field that the sweep speaks of is one that a run has, and none varies twice.
fn check_fields(sweep: &SweepSpec, groups: &[Group<'_>]) -> Result<()> {
    let base = sweep.base.keys().map(|field| (format!("base.{field}"), field));
    let varied = groups.iter().flatten().map(|(place, axis)| (place.clone(), &axis.field));
    let exclude = sweep.exclude.iter().enumerate();
    let exclude = exclude.flat_map(|(i, fields)| fields.iter().map(move |(field, _)| (format!("exclude[{i}].match.{field}"), field)));
    for (place, field) in base.chain(varied).chain(exclude) {
        fields::check(field).map_err(|problem| at_place(sweep, &place, problem))?;
    }
    let varied: Vec<(String, &Axis)> = groups.iter().flatten().cloned().collect();
    for (i, (place, axis)) in varied.iter().enumerate() {
        if let Some((first, _)) = varied[..i].iter().find(|(_, other)| other.field == axis.field) {
            return Err(at_place(sweep, place, format!("also varies in `{first}`: a field can vary in one place only")));
        }
    }
    probes::check(sweep, &varied)
}

impl Cell {
    /// The cell as messages name it: `method = lora, seed = 2`.
    pub fn label(&self) -> String {
        label(&self.choices)
    }

    /// What sets the cell apart, as text: dotted field and value.
    pub fn axes(&self) -> Vec<(String, String)> {
        self.choices.iter().map(|choice| (choice.field.clone(), plain(&choice.value))).collect()
    }

    /// Puts the blame for an error about this cell's run on the line of `sweep` that gave the field, and names the cell.
    pub fn blame(&self, sweep: &SweepSpec, error: SpecError) -> SpecError {
        blame(sweep, &self.choices, error)
    }
}

/// A value as tables and messages show it: strings bare, all else as canonical JSON.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => canonical_json(other).unwrap_or_else(|_| other.to_string()),
    }
}

fn label(choices: &[Choice]) -> String {
    choices.iter().map(|choice| format!("{} = {}", choice.field, plain(&choice.value))).collect::<Vec<_>>().join(", ")
}

fn blame(sweep: &SweepSpec, choices: &[Choice], error: SpecError) -> SpecError {
    let SpecError::Invalid { at: Place { key, source: None }, problem } = error else { return error };
    let spellings = spellings(&key);
    let above = spellings.iter().flat_map(|key| choices.iter().filter_map(move |choice| Some((choice, below(&choice.field, key)?))));
    let giver = above.min_by_key(|(choice, _)| Reverse(choice.field.len()));
    // Where the whole is wrong, what was set in it is the likeliest reason.
    let giver = giver.or_else(|| choices.iter().find(|choice| below(&key, &choice.field).is_some()).map(|choice| (choice, "")));
    let place = match giver {
        Some((choice, rest)) => join(&choice.place, rest, choice.value.is_array()),
        None if key.is_empty() => "base".to_owned(),
        None => {
            let head = key.split(['.', '[']).next().unwrap_or(&key);
            join(&format!("base.{head}"), &key[head.len()..], sweep.base.get(head).is_some_and(Value::is_array))
        }
    };
    let way_out = if key.is_empty() && problem.starts_with("missing field") { "; give it in [base] or as an axis" } else { "" };
    let cell = if choices.is_empty() { String::new() } else { format!(" (in the cell {})", label(choices)) };
    at_place(sweep, &place, format!("{problem}{way_out}{cell}"))
}

/// The ways in which a sweep file may write the key of a run: `method[0].r` as itself, as `method.0.r` and as `method.r`.
fn spellings(key: &str) -> [String; 3] {
    let dotted = key.replace('[', ".").replace(']', "");
    let bare: Vec<&str> = dotted.split('.').filter(|segment| segment.parse::<usize>().is_err()).collect();
    [key.to_owned(), dotted.clone(), bare.join(".")]
}

/// What of `key` is below the dotted `field`; none where `field` does not stand above it.
fn below<'a>(field: &str, key: &'a str) -> Option<&'a str> {
    key.strip_prefix(field).filter(|rest| !field.is_empty() && (rest.is_empty() || rest.starts_with(['.', '['])))
}

/// A method is a list in a run but mostly a single value in a file: the entry's index is kept only where the file has a list too.
fn join(place: &str, rest: &str, is_list: bool) -> String {
    match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((_, after)) if !is_list => format!("{place}{after}"),
        _ => format!("{place}{rest}"),
    }
}

/// An error at a place of the sweep file, or of the command line.
pub(crate) fn at_place(sweep: &SweepSpec, place: &str, problem: String) -> SpecError {
    let error = SpecError::at(place, problem);
    if place.starts_with(SET) { error } else { located(sweep, error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sweep_spec;
    use peftbench_spec::RunId;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn labels(text: &str) -> Vec<String> {
        expand(&sweep_spec(text)).unwrap().iter().map(Cell::label).collect()
    }

    fn error(text: &str) -> String {
        expand(&sweep_spec(text)).unwrap_err().to_string()
    }

    #[test]
    fn the_first_axis_is_slowest_and_the_seeds_are_fastest() {
        let text = "seeds = [7, 8]\naxes = { task = [\"a\", \"b\"] }\n[[zip]]\nmethod = [\"full\", \"lora\"]\ntargets = [\"*\", \"x\"]";
        assert_eq!(
            labels(text),
            [
                "task = a, method = full, targets = *, seed = 7",
                "task = a, method = full, targets = *, seed = 8",
                "task = a, method = lora, targets = x, seed = 7",
                "task = a, method = lora, targets = x, seed = 8",
                "task = b, method = full, targets = *, seed = 7",
                "task = b, method = full, targets = *, seed = 8",
                "task = b, method = lora, targets = x, seed = 7",
                "task = b, method = lora, targets = x, seed = 8",
            ]
        );
        assert_eq!(labels("axes = { seed = [5], task = [\"a\"] }"), ["seed = 5, task = a"]);
        let mut fixed = sweep_spec("");
        fixed.base.insert("seed".into(), json!(4));
        assert_eq!(expand(&fixed).unwrap().iter().map(|cell| cell.spec.seed).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn an_exclusion_that_excludes_nothing_is_noticed() {
        let sweep = sweep_spec("[[exclude]]\nmatch = { method.type = \"ful\" }\n[[exclude]]\nmatch = { seed = 1 }");
        assert_eq!(expansion(&sweep).unwrap().idle_excludes, [0]);
    }

    #[test]
    fn errors_name_the_line_and_the_way_out() {
        for (text, message) in [
            ("[axes]\ntrian.lr = [1]", "s.toml:4: `axes.trian.lr`: `trian` is not a field of a run; did you mean `train`?"),
            ("[axes]\nlr = [1]", "s.toml:4: `axes.lr`: `lr` is not a field of a run; did you mean `train.lr`?"),
            ("[axes]\ntrain.epoch = [1]", "s.toml:4: `axes.train.epoch`: `epoch` is not a field of `train`; did you mean `epochs`?"),
            (
                "[[zip]]\nseed = [1]\nlayers.first = [2]",
                "s.toml:5: `zip[0].layers.first`: `layers` is a value of its own and has no field `first`",
            ),
            ("[[exclude]]\nmatch = { sed = 1 }", "s.toml:4: `exclude[0].match.sed`: `sed` is not a field of a run; did you mean `seed`?"),
            ("[[exclude]]\nmatch = { model = \"m\" }", "s.toml:3: `exclude`: leaves out all 3 cells: the grid is empty"),
            (
                "[axes]\nseed = [1]\n[[zip]]\nseed = [2]",
                "s.toml:6: `zip[0].seed`: also varies in `axes.seed`: a field can vary in one place only",
            ),
            (
                "[axes]\nmethod = [[\"a\", \"b\"]]\n\"method.r\" = [1]",
                "s.toml:5: `axes.method.r[0]`: `method` is a list of 2: say which entry is meant, e.g. `method.0.r`",
            ),
            (
                "seeds = [3]\n[axes]\ntrain.lr = [\n  1e-3,\n  -1,\n]",
                "s.toml:7: `axes.train.lr[1]`: expected a number above 0, found -1 (in the cell train.lr = -1, seed = 3)",
            ),
        ] {
            assert_eq!(error(text), message);
        }
        let huge = (0..7).map(|i| format!("task.x{i} = [{}]", "1,".repeat(10))).collect::<Vec<_>>().join("\n");
        assert!(error(&format!("[axes]\n{huge}")).contains("10 × 10 × 10 × 10 × 10 × 10 × 10 × 3 cells are more than 100000"));
    }

    #[test]
    fn errors_from_the_base_and_from_set_name_their_place() {
        let parse = |text: &str| SweepSpec::parse(std::path::Path::new("s.toml"), text).unwrap();
        let message = |sweep: &SweepSpec| expand(sweep).unwrap_err().to_string();
        let sweep = parse("name = \"s\"\nseeds = [1]\n[base]\nmodel = \"m\"\ntask = \"t\"\n[base.train]\nlr = -1\n");
        assert_eq!(message(&sweep), "s.toml:3: `base`: missing field `method`; give it in [base] or as an axis (in the cell seed = 1)");
        let sweep = parse("name = \"s\"\n[base]\nmodel = \"m\"\ntask = \"t\"\nmethod = \"full\"\nseed = 0\n[base.train]\nlr = -1\n");
        assert_eq!(message(&sweep), "s.toml:8: `base.train.lr`: expected a number above 0, found -1");
        let mut sweep = sweep_spec("seeds = [1]");
        sweep.set("train.lr=0").unwrap();
        assert_eq!(message(&sweep), "`--set train.lr`: expected a number above 0, found 0 (in the cell train.lr = 0, seed = 1)");
        sweep.set("trian.lr=1").unwrap();
        assert_eq!(message(&sweep), "`--set trian.lr`: `trian` is not a field of a run; did you mean `train`?");
    }

    #[test]
    fn blame_finds_who_gave_the_value() {
        let sweep = sweep_spec("seeds = [0]\n[axes]\nmethod = [\n \"full\",\n { type = \"lora\", rnk = 8 },\n]");
        let cells = expand(&sweep).unwrap();
        let message = |cell: &Cell, key: &str| cell.blame(&sweep, SpecError::at(key, "wrong")).to_string();
        let cell = "(in the cell method = {\"rnk\":8,\"type\":\"lora\"}, seed = 0)";
        assert_eq!(message(&cells[1], "method[0].rnk"), format!("s.toml:7: `axes.method[1].rnk`: wrong {cell}"));
        assert_eq!(message(&cells[1], "train.lr"), format!("s.toml:2: `base.train.lr`: wrong {cell}"));

        let place = |axes: &str, key: &str| {
            let sweep = sweep_spec(&format!("seeds = [0]\n[axes]\n{axes}"));
            let error = expand(&sweep).unwrap()[0].blame(&sweep, SpecError::at(key, "wrong")).to_string();
            error.split('`').nth(1).unwrap().to_owned()
        };
        assert_eq!(place("method.r = [8]", "method[0].r"), "axes.method.r[0]");
        assert_eq!(place("method.r = [8]", "method[0].alpha"), "base.method.alpha");
        assert_eq!(place("method.r = [8]", "method"), "axes.method.r[0]");
        let listed = "method = [[\"sdt\", \"lora\"]]\n\"method.1.r\" = [8]";
        assert_eq!(place(listed, "method[1].r"), "axes.method.1.r[0]");
        assert_eq!(place(listed, "method[0].r"), "axes.method[0][0].r");
        assert_eq!(place("targets = [\"in_porj\"]", "targets"), "axes.targets[0]");
    }

    proptest! {
        #[test]
        fn the_grid_is_the_product_and_every_cell_its_own(
            epochs in proptest::collection::btree_set(1u32..50, 1..4),
            batches in proptest::collection::btree_set(1usize..50, 1..4),
            ranks in proptest::collection::btree_set(1u32..50, 1..4),
            seeds in proptest::collection::btree_set(0u64..50, 1..4),
            left_out in 1u32..50,
        ) {
            fn list<T: std::fmt::Debug>(values: &BTreeSet<T>) -> String {
                format!("{:?}", values.iter().collect::<Vec<_>>())
            }
            let (epochs_list, ranks_list) = (list(&epochs), list(&ranks));
            let text = format!(
                "seeds = {}\n[axes]\ntrain.epochs = {epochs_list}\n[[zip]]\nmethod.r = {ranks_list}\ntask.size = {ranks_list}\n\
                 [[zip]]\ntrain.batch_size = {}\n[[exclude]]\nmatch = {{ method.r = {left_out}.0 }}\n",
                list(&seeds), list(&batches)
            );
            let sweep = sweep_spec(&text);
            let kept = ranks.iter().filter(|&&rank| rank != left_out).count();
            let expected = epochs.len() * batches.len() * kept * seeds.len();
            match expand(&sweep) {
                Ok(cells) => {
                    let ids: BTreeSet<_> = cells.iter().map(|cell| RunId::of(&cell.spec).unwrap()).collect();
                    prop_assert_eq!(cells.len(), expected);
                    prop_assert_eq!(ids.len(), expected);
                    prop_assert!(cells.iter().all(|cell| cell.spec.method[0].options["r"] == cell.spec.task.options["size"]));
                }
                Err(error) => prop_assert!(expected == 0, "{error}"),
            }
        }
    }
}
