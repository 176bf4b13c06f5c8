//! The pages of `docs/methods`: prose from the head of a method's file, options from its type, and what the code answers when it is asked.
//! They must be what is committed; `PEFTBENCH_WRITE_DOCS=1` writes them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bases;

use bases::{attach, small};
use peftbench_adapters::Attachment;
use peftbench_adapters::methods::{self, METHODS, MethodEntry};
use peftbench_models::config::ModelConfig;
use peftbench_models::model::{self, ARCHITECTURES};
use peftbench_models::weights::Shapes;
use peftbench_spec::{Component, SlotKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The source of a method, and the name of the type of its options.
fn source(entry: &MethodEntry) -> (String, String) {
    let path = (entry.implementation)().strip_prefix("peftbench_adapters::methods::").unwrap();
    let (module, name) = path.split_once("::").unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/methods");
    let files = [folder.join(format!("{module}.rs")), folder.join(module).join("mod.rs")];
    let file = files.iter().find(|file| file.is_file()).unwrap();
    (std::fs::read_to_string(file).unwrap(), name.to_owned())
}

/// The comment at the head of a file.
fn prose(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

/// Name and comment of every option of the type `name`; a type that wraps another has the other's.
fn options(source: &str, name: &str) -> Vec<(String, String)> {
    let wrapped = format!("pub struct {name}(pub ");
    if let Some(start) = source.find(&wrapped) {
        let inner = &source[start + wrapped.len()..];
        return options(source, &inner[..inner.find(')').unwrap()]);
    }
    let Some(start) = source.find(&format!("pub struct {name} {{\n")) else { return Vec::new() };
    let (mut found, mut comment, mut renamed) = (Vec::new(), String::new(), None);
    for line in source[start..].lines().skip(1).map(str::trim).take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("///") {
            comment.push_str(text);
        } else if let Some(rest) = line.strip_prefix("#[serde(rename = \"") {
            renamed = rest.split('"').next().map(str::to_owned);
        } else if let Some(field) = line.strip_prefix("pub ") {
            let field = field.split(':').next().unwrap().to_owned();
            found.push((renamed.take().unwrap_or(field), std::mem::take(&mut comment).trim().to_owned()));
        }
    }
    found
}

fn options_section(entry: &MethodEntry) -> String {
    let (source, name) = source(entry);
    let rows = options(&source, &name);
    if rows.is_empty() {
        return "It has no options.\n".to_owned();
    }
    let defaults = methods::resolve(&Component::named(entry.name)).map(|component| component.options).unwrap_or_default();
    let mut text = "| option | default | |\n|---|---|---|\n".to_owned();
    for (name, comment) in rows {
        let default = defaults.get(&name).map_or_else(|| "–".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(text, "| `{name}` | {default} | {comment} |");
    }
    text
}

/// What it attaches to, where it does by default, and where it cannot.
fn slots_section(entry: &MethodEntry) -> String {
    let method = methods::build(&small(entry.name)).unwrap();
    let kinds: Vec<String> = method.slot_kinds().iter().map(|kind: &SlotKind| format!("{kind:?}").to_lowercase()).collect();
    let mut text = match kinds.is_empty() {
        true if entry.name == "combined" => "Where its entries do.\n".to_owned(),
        true => "It has a place of its own and takes no targets.\n".to_owned(),
        false => format!("It attaches to slots of the kind {}.\n", kinds.join(" and ")),
    };
    let mut by_targets: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for architecture in ARCHITECTURES {
        by_targets.entry(method.default_targets(architecture.model_type).label()).or_default().push(architecture.model_type);
    }
    if !kinds.is_empty() {
        text += "Default targets:\n\n";
        let all = by_targets.len() == 1;
        for (targets, architectures) in by_targets {
            let on = if all { String::new() } else { format!(" on {}", architectures.join(", ")) };
            let _ = writeln!(text, "* `{targets}`{on}");
        }
    }
    // Models without SSM layers all say the same.
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for base in bases::all() {
        if let Err(error) = attach(&mut *bases::base(&base), &small(entry.name), &[], "all", 0) {
            refused.entry(error.to_string()).or_default().push(format!("`{base}`"));
        }
    }
    if !refused.is_empty() {
        text += "\nOf the test models it refuses:\n\n";
        refused.iter().for_each(|(error, bases)| {
            let _ = writeln!(text, "* {}: {error}", bases.join(", "));
        });
    }
    text
}

/// Mamba-130M, and a LLaMA of about as many parameters.
fn shapes() -> [(&'static str, Value); 2] {
    let mamba = json!({"model_type": "mamba", "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "time_step_rank": 48});
    let llama = json!({"model_type": "llama", "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 12});
    [("Mamba-130M", mamba), ("a LLaMA of 12 layers and width 768", llama)]
}

/// The tensors that train with default options, those of the first layer one by one.
fn trained_section(entry: &MethodEntry) -> String {
    let mut text = String::new();
    for (name, config) in shapes() {
        let Value::Object(config) = config else { unreachable!() };
        let mut model = model::build(&ModelConfig::from_values(config, name.to_owned()).unwrap(), &Shapes).unwrap();
        let Ok(attachment) = attach(&mut *model, &Component::named(entry.name), &[], "all", 0) else { continue };
        if attachment.params.is_empty() {
            continue;
        }
        let total: u64 = model.params().iter().map(|p| p.elem_count() as u64).sum();
        let share = 100.0 * attachment.num_trainable() as f64 / (total + attachment.num_added()) as f64;
        let _ = writeln!(text, "On {name}, with the options above: {} numbers, {share:.4} %.\n", attachment.num_trainable());
        text += &tensors(&attachment);
    }
    text
}

fn tensors(attachment: &Attachment) -> String {
    let in_layers = attachment.params.iter().any(|p| p.layer.is_some());
    let shown = attachment.params.iter().filter(|p| !in_layers || p.layer == Some(0));
    let mut text = "| tensor | shape |\n|---|---|\n".to_owned();
    for p in shown {
        let name = p.param.name().trim_start_matches("base_model.model.");
        let _ = writeln!(text, "| `{name}` | {:?} |", p.param.value().dims());
    }
    if in_layers {
        text += "\n(Of the first layer; the others have the same.)\n";
    }
    text + "\n"
}

/// How it starts, ends up in files, and merges.
fn facts_section(entry: &MethodEntry) -> String {
    let method = methods::build(&small(entry.name)).unwrap();
    let fitting = bases::all().into_iter().find_map(|base| {
        let mut model = bases::base(&base);
        let attachment = attach(&mut *model, &small(entry.name), &[], "all", 0).ok()?;
        bases::perturb(&attachment);
        Some((model, attachment))
    });
    let (mut model, attachment) = fitting.unwrap();
    let start = if method.starts_as_base() { "computes what the base does" } else { "differs from the base" };
    let peft_type = attachment.peft_config.get("peft_type").and_then(Value::as_str);
    let file = match peft_type {
        Some(own) if own.starts_with("PEFTBENCH_") => format!("`peft_type` `{own}`, which Hugging Face PEFT does not know"),
        Some(known) => format!("`peft_type` `{known}`, as Hugging Face PEFT writes and reads it"),
        None => "one table of each entry".to_owned(),
    };
    let merges = if model.merged().is_ok() { "yes" } else { "no: it is no function of a weight" };
    format!("* Before training the model {start}.\n* Adapter file: {file}.\n* Can be merged into the base: {merges}.\n")
}

/// A measured line of `docs/methods/cost.csv`.
struct Cost {
    model: String,
    method: String,
    time: String,
    memory: String,
}

fn costs() -> Vec<Cost> {
    let text = std::fs::read_to_string(repository().join("docs/methods/cost.csv")).unwrap();
    let line = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let [model, method, _, time, memory] = cells[..] else { panic!("docs/methods/cost.csv: `{line}` has no five cells") };
        Cost { model: model.to_owned(), method: method.to_owned(), time: time.to_owned(), memory: memory.to_owned() }
    };
    text.lines().skip(1).map(line).collect()
}

fn cost_section(entry: &MethodEntry) -> String {
    let rows: Vec<String> = costs()
        .into_iter()
        .filter(|cost| cost.method == entry.name)
        .map(|cost| {
            format!(
                "* `{}`: {} times the time of a LoRA step, {} times its memory beyond the weights\n",
                cost.model, cost.time, cost.memory
            )
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("\n## Cost\n\n{}\n[How this was measured, and what stands out](cost.md).\n", rows.concat()),
    }
}

fn page(entry: &MethodEntry) -> String {
    let mut text = format!("# `{}`\n\n{}", entry.name, prose(&source(entry).0));
    if entry.name == "none" {
        return text;
    }
    text +=
        &format!("\n## Options\n\n{}\n## Where\n\n{}\n## Facts\n\n{}", options_section(entry), slots_section(entry), facts_section(entry));
    let trained = trained_section(entry);
    if !trained.is_empty() {
        text += &format!("\n## What trains\n\n{}", trained.trim_end_matches('\n'));
        text.push('\n');
    }
    text + &cost_section(entry)
}

/// The list of all methods, with their cost.
fn index() -> String {
    let costs = costs();
    let mut models: Vec<&str> = costs.iter().map(|cost| cost.model.as_str()).collect();
    models.dedup();
    let mut text = "# Methods\n\nWritten by the program from `crates/adapters/src/methods`: edit the file of a method, not its page, and write the pages again with\n\
        `PEFTBENCH_WRITE_DOCS=1 cargo test --release -p peftbench-adapters --test method_pages`. To add a method see\n[the guide](../guides/add-a-method.md).\n\n\
        Time and memory beyond the weights are those of a training step relative to LoRA's; [cost.md](cost.md) says how they were measured and\nwhat stands out.\n\n"
        .to_owned();
    let heads: Vec<String> = models.iter().flat_map(|model| [format!("{model} time"), "memory".to_owned()]).collect();
    let _ = writeln!(text, "| method | | {} |\n|---|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for entry in METHODS {
        let of = |model: &&str| costs.iter().find(|cost| cost.model == **model && cost.method == entry.name);
        let cells = models.iter().flat_map(|model| {
            let cost = of(model);
            [cost.map_or("", |cost| &cost.time).to_owned(), cost.map_or("", |cost| &cost.memory).to_owned()]
        });
        let _ = writeln!(text, "| [`{0}`]({0}.md) | {1} | {2} |", entry.name, entry.summary, cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

#[test]
fn the_committed_pages_are_what_the_code_says() {
    let folder = repository().join("docs/methods");
    let mut pages: BTreeMap<String, String> = METHODS.iter().map(|entry| (format!("{}.md", entry.name), page(entry))).collect();
    pages.insert("README.md".to_owned(), index());
    if std::env::var_os("PEFTBENCH_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        pages.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
    }
    let stale = |(name, text): &(&String, &String)| std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(*text);
    let stale: Vec<&String> = pages.iter().filter(stale).map(|(name, _)| name).collect();
    assert!(stale.is_empty(), "docs/methods: {stale:?} are stale: run this test with PEFTBENCH_WRITE_DOCS=1 and commit what it writes");
    // Written by hand, and nothing else.
    let by_hand = ["cost.md".to_owned(), "cost.csv".to_owned()];
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let lost: Vec<String> = names.filter(|name| !pages.contains_key(name) && !by_hand.contains(name)).collect();
    assert!(lost.is_empty(), "docs/methods: {lost:?} are no method's");
}

#[test]
fn every_option_of_every_method_has_its_line_on_the_page() {
    for entry in METHODS.iter().filter(|entry| entry.name != "combined") {
        let resolved = methods::resolve(&small(entry.name)).unwrap();
        let (source, name) = source(entry);
        let listed = options(&source, &name);
        for key in resolved.options.keys() {
            let comment = listed.iter().find(|(listed, _)| listed == key).map(|(_, comment)| comment.as_str());
            assert!(comment.is_some_and(|comment| !comment.is_empty()), "{}: `{key}` is not on the page", entry.name);
        }
    }
}
