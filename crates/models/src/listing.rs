//! What each architecture reads and offers, as Markdown: `docs/models.md` and `peftbench ls models --full` are this text.
//!
//! The keys of the config are asked of the types that read them, and the slots of a model that is built, so that neither can go stale.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::gguf;
use crate::model::{ARCHITECTURES, Architecture, build};
use crate::weights::Shapes;
use peftbench_spec::{Candidate, SlotKind};
use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fmt::Write;

/// The keys that a config's type reads.
pub(crate) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let keys = Cell::new(&[][..]);
    // It notes the keys and gives no value, so that there is nothing to deserialise.
    let _refused = T::deserialize(Keys(&keys)).is_err();
    keys.get()
}

/// A deserialiser that notes which keys are asked for.
struct Keys<'a>(&'a Cell<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        _: V,
    ) -> std::result::Result<V::Value, Error> {
        self.0.set(keys);
        self.deserialize_nothing()
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> std::result::Result<V::Value, Error> {
        self.deserialize_nothing()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

impl Keys<'_> {
    fn deserialize_nothing<T>(self) -> std::result::Result<T, Error> {
        Err(Error::custom("only the keys were asked for"))
    }
}

/// All architectures, as Markdown.
///
/// # Errors
/// Where an architecture's own example cannot be built.
pub fn document() -> Result<String> {
    let types = gguf::supported_types();
    let mut text = format!(
        "# Models\n\n\
         Written by the program (`peftbench ls models --full` prints it too): edit `crates/models/src/model.rs`, not this file.\n\n\
         A model is a Hugging Face folder: `config.json`, and the weights in `model.safetensors`, or in the shards that\n\
         `model.safetensors.index.json` names, as f32, f16 or bf16; it is computed in f32. Architecture `llama` is also read from a `.gguf`\n\
         file (versions 1 to 3, little endian) with numbers of these types: {types}.\n\n\
         Keys of a config that are not listed are not read. A tensor for which the config has no place is an error, but what is computed\n\
         from the config (rotary frequencies, causal masks) is passed over. Dropout of the base itself is not applied.\n\n\
         Slots are where a method attaches; a sweep names them by path, by their last part, or by role. N counts the layers (and experts).\n\
         Beside those listed every raw tensor is a slot of its own, weights and biases of linear layers included.\n"
    );
    for architecture in ARCHITECTURES {
        text += &section(architecture)?;
    }
    Ok(text)
}

fn section(architecture: &Architecture) -> Result<String> {
    let code = |names: &mut dyn Iterator<Item = &str>| names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut text = format!("\n## `{}`\n\n{}.\n\n", architecture.model_type, architecture.summary);
    text += &format!("* Keys read: {}.\n", code(&mut (architecture.keys)().iter().copied()));
    for (key, values) in architecture.fixed {
        text += &format!("* `{key}`, where given, must be {}.\n", code(&mut values.iter().copied()));
    }
    if !architecture.limits.is_empty() {
        text += &format!("* Not supported: {}.\n", architecture.limits);
    }
    text += "\n| slot | kind | role | row parts |\n|---|---|---|---|\n";
    for slot in slots(architecture)? {
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "| `{}` | {} | {} | {} |", slot.path, slot.kind, slot.role, code(&mut slot.parts.iter().map(String::as_str)));
    }
    Ok(text)
}

/// A row of the table.
#[derive(PartialEq)]
struct Slot {
    path: String,
    kind: &'static str,
    role: &'static str,
    parts: Vec<String>,
}

/// The slots of an architecture's example but raw tensors of linear layers, each layer's once.
fn slots(architecture: &Architecture) -> Result<Vec<Slot>> {
    let mut values: Map<String, Value> = architecture.example.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
    values.insert("model_type".to_owned(), architecture.model_type.into());
    let mut model = build(&ModelConfig::from_values(values, architecture.model_type.to_owned())?, &Shapes)?;
    let mut slots: Vec<Slot> = Vec::new();
    let mut linear = String::new();
    for Candidate { path, part_of, role, kind, .. } in model.candidates() {
        let path = path.split('.').map(|part| if part.parse::<usize>().is_ok() { "N" } else { part }).collect::<Vec<_>>().join(".");
        if part_of.is_some() {
            let part = path.rsplit('.').next().unwrap_or_default().to_owned();
            if let Some(slot) = slots.iter_mut().rfind(|slot| slot.path == linear && !slot.parts.contains(&part)) {
                slot.parts.push(part);
            }
            continue;
        }
        if kind == SlotKind::Linear {
            linear.clone_from(&path);
        }
        let within = !linear.is_empty() && path.strip_prefix(linear.as_str()).is_some_and(|rest| matches!(rest, ".weight" | ".bias"));
        let known = slots.iter().any(|slot| slot.path == path && slot.kind == name(kind));
        let listed = known || (kind == SlotKind::Param && within);
        if !listed {
            slots.push(Slot { path, kind: name(kind), role: role.name(), parts: Vec::new() });
        }
    }
    Ok(slots)
}

fn name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Linear => "linear",
        SlotKind::Param => "parameter",
        SlotKind::Sublayer => "sub-layer",
        SlotKind::Prompt => "prompt",
        SlotKind::Prefix => "prefix",
        SlotKind::State => "state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn the_committed_document_is_what_the_program_writes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
        let text = document().unwrap();
        if std::env::var_os("PEFTBENCH_WRITE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/models.md is stale: run this test with PEFTBENCH_WRITE_DOCS=1 and commit what it writes");
    }

    #[test]
    fn the_keys_are_those_of_the_type_that_reads_the_config() {
        for architecture in ARCHITECTURES {
            let keys = (architecture.keys)();
            assert!(keys.contains(&"vocab_size"), "{}", architecture.model_type);
            let number = json!({"vocab_size": [], "model_type": architecture.model_type});
            let config = ModelConfig::from_values(number.as_object().unwrap().clone(), "test".to_owned()).unwrap();
            assert!(build(&config, &Shapes).err().unwrap().to_string().contains("invalid type"), "{}", architecture.model_type);
        }
    }

    #[test]
    fn a_value_that_is_not_computed_is_refused() {
        let llama = ARCHITECTURES.iter().find(|known| known.model_type == "llama").unwrap();
        let mut values: Map<String, Value> = llama.example.iter().map(|&(key, value)| (key.to_owned(), value.into())).collect();
        values.insert("model_type".to_owned(), "llama".into());
        let with = |act: &str| {
            let mut values = values.clone();
            values.insert("hidden_act".to_owned(), act.into());
            build(&ModelConfig::from_values(values, "test".to_owned()).unwrap(), &Shapes).map(drop)
        };
        assert!(with("silu").is_ok());
        assert!(with("gelu").unwrap_err().to_string().contains("`hidden_act` is \"gelu\"; expected `silu` or `swish`"));
    }
}
