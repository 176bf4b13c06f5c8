//! The TOML file that describes a sweep: read, checked for its shape, with `--set` overrides applied. The expansion into runs is the
//! `sweep` crate's.

use crate::error::{Result, SpecError};
use crate::lr_selection::{LrSelection, RawLrSelection};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The dotted field of the learning rate.
pub const LR: &str = "train.lr";

/// A sweep as written: a base run, axes to multiply, lists to walk in step, and cells to leave out.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepSpec {
    /// Name of the sweep and of its results folder.
    pub name: String,
    /// What the sweep is for, shown in its report.
    pub description: String,
    /// Fields every run shares.
    pub base: Map<String, Value>,
    /// Dotted field → values; the grid is their product, in file order.
    pub axes: Vec<Axis>,
    /// Groups of fields that change together; each group is one more factor of the product.
    pub zip: Vec<Vec<Axis>>,
    /// Dotted field → value of the cells to leave out.
    pub exclude: Vec<Vec<(String, Value)>>,
    /// Seeds, where no axis gives them.
    pub seeds: Vec<u64>,
    /// How the learning rate is chosen; none where the file gives it.
    pub select_lr: Option<LrSelection>,
    /// The file, for error messages.
    pub file: PathBuf,
    /// Its text, for error messages.
    pub source: String,
}

/// One field and the values it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Dotted path of a run's field, e.g. `train.lr`.
    pub field: String,
    /// At least one value.
    pub values: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    base: Map<String, Value>,
    #[serde(default)]
    axes: Map<String, Value>,
    #[serde(default)]
    zip: Vec<Map<String, Value>>,
    #[serde(default)]
    exclude: Vec<RawExclude>,
    #[serde(default = "three_seeds")]
    seeds: Vec<u64>,
    #[serde(default)]
    select: RawSelect,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSelect {
    lr: Option<RawLrSelection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExclude {
    r#match: Map<String, Value>,
}

fn three_seeds() -> Vec<u64> {
    vec![0, 1, 2]
}

impl SweepSpec {
    /// Reads a sweep file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| SpecError::Unreadable { path: path.to_owned(), problem: e.to_string() })?;
        Self::parse(path, &text)
    }

    /// Parses the text of a sweep file; `path` serves error messages only.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let value = parse_toml(path, text)?;
        Self::from_value(path, text, value).map_err(|error| error.located(path, text))
    }

    fn from_value(path: &Path, text: &str, value: Value) -> Result<Self> {
        let raw: Raw = crate::locate::deserialize(value)?;
        let name_is_plain =
            !raw.name.is_empty() && raw.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !raw.name.starts_with('.');
        if !name_is_plain {
            return Err(SpecError::at(
                "name",
                format!("expected letters, digits, `-`, `_` and `.` (it names a folder), found `{}`", raw.name),
            ));
        }
        let axes = axes_of(raw.axes).map_err(|e| e.below("axes"))?;
        let zip = raw
            .zip
            .into_iter()
            .enumerate()
            .map(|(i, group)| zip_group(group).map_err(|e| e.below(&format!("zip[{i}]"))))
            .collect::<Result<Vec<_>>>()?;
        let exclude = raw.exclude.into_iter().map(|entry| flatten(entry.r#match)).collect();
        if raw.seeds.is_empty() {
            return Err(SpecError::at("seeds", "expected at least one seed, found an empty list"));
        }
        let select_lr = raw.select.lr.map(LrSelection::try_from).transpose().map_err(|e| e.below("select.lr"))?;
        Ok(Self {
            name: raw.name,
            description: raw.description,
            base: raw.base,
            axes,
            zip,
            exclude,
            seeds: raw.seeds,
            select_lr,
            file: path.to_owned(),
            source: text.to_owned(),
        })
    }

    /// Applies `--set field=value`: the field takes this one value in every run, whatever the file says. The value is read as TOML and,
    /// failing that, as a string. A learning rate that is set is not chosen.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (field, value) = parse_assignment(assignment)?;
        let covers = |axis: &Axis| axis.field == field || axis.field.starts_with(&format!("{field}."));
        self.axes.retain(|axis| !covers(axis));
        for group in &mut self.zip {
            group.retain(|axis| !covers(axis));
        }
        self.zip.retain(|group| !group.is_empty());
        if gives_lr(&field, &value) {
            self.select_lr = None;
        }
        if field == "seed" {
            self.axes.push(Axis { field, values: vec![value] });
            return Ok(());
        }
        // As an axis of one value it is applied after the base and after every axis that sets a table above it.
        self.axes.push(Axis { field, values: vec![value] });
        Ok(())
    }
}

/// Whether a field with this value gives the learning rate: it is the rate, or a table `train` with one.
pub fn gives_lr(field: &str, value: &Value) -> bool {
    field == LR || field == "train" && value.get("lr").is_some()
}

/// Splits `field=value` and reads the value.
fn parse_assignment(assignment: &str) -> Result<(String, Value)> {
    let (field, text) =
        assignment.split_once('=').ok_or_else(|| SpecError::at("--set", format!("expected FIELD=VALUE, found `{assignment}`")))?;
    let field = field.trim();
    if field.is_empty() {
        return Err(SpecError::at("--set", format!("expected FIELD=VALUE, found `{assignment}`")));
    }
    Ok((field.to_owned(), parse_value(text)))
}

/// A value as it is given on the command line: TOML, or else a string.
pub(crate) fn parse_value(text: &str) -> Value {
    let parsed: Option<Map<String, Value>> = toml::from_str(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.trim().to_owned()))
}

/// TOML text as JSON data.
pub fn parse_toml(path: &Path, text: &str) -> Result<Value> {
    toml::from_str::<Value>(text).map_err(|error| {
        let line = 1 + error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count());
        SpecError::Syntax { file: path.to_owned(), line, problem: error.message().to_owned() }
    })
}

/// Nested tables down to their arrays, each an axis.
fn axes_of(table: Map<String, Value>) -> Result<Vec<Axis>> {
    let mut axes = Vec::new();
    for (key, value) in table {
        match value {
            Value::Array(values) if values.is_empty() => {
                return Err(SpecError::at(key, "expected at least one value: an empty axis makes an empty grid"));
            }
            Value::Array(values) => axes.push(Axis { field: key, values }),
            Value::Object(inner) => {
                let below = axes_of(inner).map_err(|e| e.below(&key))?;
                axes.extend(below.into_iter().map(|axis| Axis { field: format!("{key}.{}", axis.field), ..axis }));
            }
            other => return Err(SpecError::at(key, format!("expected a list of values, found {other}; a single value belongs in [base]"))),
        }
    }
    Ok(axes)
}

fn zip_group(table: Map<String, Value>) -> Result<Vec<Axis>> {
    let group = axes_of(table)?;
    let Some(first) = group.first() else { return Err(SpecError::at("", "expected at least one field")) };
    match group.iter().find(|axis| axis.values.len() != first.values.len()) {
        Some(other) => Err(SpecError::at(
            other.field.clone(),
            format!(
                "has {} values but `{}` has {}: fields that change together need lists of one length",
                other.values.len(),
                first.field,
                first.values.len()
            ),
        )),
        None => Ok(group),
    }
}

/// Nested tables as dotted fields.
pub(crate) fn flatten(table: Map<String, Value>) -> Vec<(String, Value)> {
    let mut fields = Vec::new();
    for (key, value) in table {
        match value {
            Value::Object(inner) => fields.extend(flatten(inner).into_iter().map(|(below, value)| (format!("{key}.{below}"), value))),
            value => fields.push((key, value)),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWEEP: &str = r#"
name = "s"
[base]
model = "m"
train = { epochs = 2 }
[axes]
seed = [0, 1]
train.lr = [1e-3, 1e-2]
[[zip]]
method = ["full", { type = "lora", r = 8 }]
targets = ["*", ["q_proj", "v_proj"]]
[[exclude]]
match = { method.type = "full", seed = 1 }
"#;

    fn error(text: &str) -> String {
        SweepSpec::parse(Path::new("s.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_whole_form_is_read() {
        let sweep = SweepSpec::parse(Path::new("s.toml"), SWEEP).unwrap();
        assert_eq!(sweep.axes.iter().map(|a| a.field.as_str()).collect::<Vec<_>>(), ["seed", "train.lr"]);
        assert_eq!(sweep.zip[0].len(), 2);
        assert_eq!(sweep.exclude[0], [("method.type".to_owned(), "full".into()), ("seed".to_owned(), 1.into())]);
        assert_eq!(sweep.seeds, [0, 1, 2]);
    }

    #[test]
    fn errors_name_file_line_and_the_way_out() {
        assert_eq!(error("name = \"s\"\n[bsae]\n"), "s.toml:2: `bsae`: unknown key; did you mean `base`?");
        assert_eq!(
            error("name = \"s\"\n[axes]\nseed = []\n"),
            "s.toml:3: `axes.seed`: expected at least one value: an empty axis makes an empty grid"
        );
        assert_eq!(
            error("name = \"s\"\n[axes]\nseed = 3\n"),
            "s.toml:3: `axes.seed`: expected a list of values, found 3; a single value belongs in [base]"
        );
        assert!(error("name = \"s\"\nbase = \n").starts_with("s.toml:2: not valid TOML"));
        assert!(error(&SWEEP.replace("[\"*\", ", "[")).contains("need lists of one length"));
        assert!(error("name = \"a/b\"").contains("it names a folder"));
    }

    #[test]
    fn a_selection_of_learning_rates_is_read_and_gives_way_to_a_rate_that_is_set() {
        let select = "[select.lr]\ngrid = [1e-2, 1e-4, 1e-3]\nprobe = { train.epochs = 1, \"train.train_samples\" = 200 }\n";
        let mut sweep =
            SweepSpec::parse(Path::new("s.toml"), &format!("{}{select}", SWEEP.replace("train.lr = [1e-3, 1e-2]", ""))).unwrap();
        let selection = sweep.select_lr.clone().unwrap();
        assert_eq!(selection.grid, [1e-4, 1e-3, 1e-2]);
        assert_eq!(selection.probe, [("train.epochs".to_owned(), 1.into()), ("train.train_samples".to_owned(), 200.into())]);
        assert_eq!((selection.seeds, selection.per), (None, None));
        sweep.set("train.epochs=1").unwrap();
        assert!(sweep.select_lr.is_some());
        sweep.set("train.lr=1e-3").unwrap();
        assert_eq!(sweep.select_lr, None);
        for (text, problem) in [
            ("grid = [1e-3]", "s.toml:3: `select.lr.grid`: expected at least two different rates"),
            ("grid = [1e-3, 1e-3]", "s.toml:3: `select.lr.grid`: expected at least two different rates"),
            ("grid = [1e-3, -1.0]", "s.toml:3: `select.lr.grid`: expected numbers above 0, found -1"),
            ("grid = [1, 2]\nseeds = []", "s.toml:4: `select.lr.seeds`: expected at least one seed"),
            ("grid = [1, 2]\nper = []", "s.toml:4: `select.lr.per`: expected at least one field"),
            ("grid = [1, 2]\nproob = {}", "s.toml:4: `select.lr.proob`: unknown key; did you mean `probe`?"),
        ] {
            let found = error(&format!("name = \"s\"\n[select.lr]\n{text}"));
            assert!(found.starts_with(problem), "{found}");
        }
    }

    #[test]
    fn set_replaces_axes_and_reads_toml_values() {
        let mut sweep = SweepSpec::parse(Path::new("s.toml"), SWEEP).unwrap();
        sweep.set("train.lr=1e-4").unwrap();
        sweep.set("model=other").unwrap();
        assert_eq!(
            sweep.axes.iter().map(|a| (a.field.as_str(), &a.values)).collect::<Vec<_>>()[1..],
            [("train.lr", &vec![1e-4.into()]), ("model", &vec!["other".into()])]
        );
        assert!(sweep.set("nonsense").is_err());
    }
}
