//! Adapters in the two-file form of Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`. [`crate::folder`] reads
//! them back.

use crate::error::Result;
use crate::method::Attachment;
use peftbench_models::checkpoint::{Storage, to_safetensors};
use peftbench_models::slots::SlotMut;
use peftbench_models::{Merged, Model, Network};
use peftbench_ops::Param;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The two files of an adapter.
pub struct AdapterFiles {
    /// `adapter_config.json`.
    pub config: String,
    /// `adapter_model.safetensors`.
    pub weights: Vec<u8>,
}

/// Serialises what a method has trained. Methods that Hugging Face PEFT does not know carry a `peft_type` of our own.
pub fn adapter_files(attachment: &Attachment, base_model: &str) -> Result<AdapterFiles> {
    let mut config = attachment.peft_config.clone();
    let tables = match &mut config {
        Value::Array(list) => list.as_mut_slice(),
        single => std::slice::from_mut(single),
    };
    for table in tables.iter_mut().filter_map(Value::as_object_mut) {
        table.insert("base_model_name_or_path".to_owned(), base_model.into());
        attachment.forms.iter().for_each(|form| form.complete(table));
    }
    let formed: HashSet<_> = attachment.forms.iter().flat_map(|form| form.params()).map(|param| param.key()).collect();
    let plain = attachment.params.iter().filter(|p| !formed.contains(&p.param.key()));
    let mut tensors: Vec<Param> = plain.map(|p| Param::frozen(p.name_in_file(), p.param.value())).collect();
    for form in &attachment.forms {
        let written = form.write()?;
        for table in tables.iter_mut().filter_map(Value::as_object_mut) {
            rename_tensors(table, &form.params(), written.iter().map(|(name, _)| name));
        }
        tensors.extend(written.into_iter().map(|(name, value)| Param::frozen(name, value)));
    }
    tensors.extend(attachment.buffers.iter().cloned());
    Ok(AdapterFiles { config: format!("{config:#}\n"), weights: to_safetensors(&tensors, Storage::F32)? })
}

/// Puts the names that a form writes in place of its parameters' in the table's list of tensors, where it has one.
fn rename_tensors<'a>(table: &mut Map<String, Value>, params: &[Param], written: impl Iterator<Item = &'a String>) {
    let Some(list) = table.get_mut("tensors").and_then(Value::as_array_mut) else { return };
    let before = list.len();
    list.retain(|name| !params.iter().any(|param| name == param.name()));
    if list.len() < before {
        list.extend(written.map(|name| Value::from(name.as_str())));
    }
}

/// `model.safetensors` of a model into which its adapters have been merged, and whether its config must say `tie_word_embeddings: false`.
pub fn merged_file(model: &mut dyn Model) -> Result<(Vec<u8>, bool)> {
    let Merged { tensors, untied } = model.merged()?;
    let params: Vec<Param> = tensors.into_iter().map(|(name, value)| Param::frozen(name, value)).collect();
    Ok((to_safetensors(&params, Storage::F32)?, untied))
}

/// How Hugging Face names a selection of modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetModules {
    /// `target_modules`: last segments of module paths, or whole paths where these would select too much.
    pub names: Vec<String>,
    /// `layers_to_transform`; none for all layers.
    pub layers: Option<Vec<usize>>,
    /// `fan_in_fan_out`: whether their weights are stored as [in, out], as GPT-2's are.
    pub fan_in_fan_out: bool,
}

impl TargetModules {
    /// Names exactly the modules `paths` among all of `model`.
    pub fn of(model: &mut dyn Network, paths: &[String]) -> Self {
        let wanted: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
        let (mut layer_of, mut fan_in_fan_out) = (BTreeMap::new(), false);
        model.visit_slots(&mut |slot| {
            fan_in_fan_out |= matches!(&slot, SlotMut::Linear(slot) if slot.transposed && wanted.contains(slot.info.path.as_str()));
            layer_of.insert(module_path(&slot.info().path).to_owned(), slot.info().layer);
        });
        let names: BTreeSet<&str> = wanted.iter().map(|path| last_segment(path)).collect();
        let layers: BTreeSet<usize> = wanted.iter().filter_map(|path| layer_of.get(*path).copied().flatten()).collect();
        let selects = |kept: &dyn Fn(Option<usize>) -> bool| {
            let hit = layer_of.iter().filter(|(path, layer)| names.contains(last_segment(path)) && kept(**layer));
            hit.map(|(path, _)| path.as_str()).collect::<BTreeSet<_>>() == wanted
        };
        let owned = |names: &BTreeSet<&str>| names.iter().map(|name| (*name).to_owned()).collect();
        if selects(&|_| true) {
            return Self { names: owned(&names), layers: None, fan_in_fan_out };
        }
        match selects(&|layer| layer.is_some_and(|layer| layers.contains(&layer))) {
            true => Self { names: owned(&names), layers: Some(layers.into_iter().collect()), fan_in_fan_out },
            false => Self { names: owned(&wanted), layers: None, fan_in_fan_out },
        }
    }
}

/// A module's path: that of a linear layer, or of a tensor without its closing `.weight`.
pub fn module_path(slot_path: &str) -> &str {
    slot_path.strip_suffix(".weight").unwrap_or(slot_path)
}

/// What is behind the last dot.
pub fn last_segment(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
