//! Adapter folders, `adapter_config.json` and `adapter_model.safetensors`, as Hugging Face PEFT or this program has written them.

use crate::error::{AdapterError, Result};
use crate::method::{AttachContext, Attachment, Carried, Method};
use crate::methods;
use crate::selection::choose;
use peftbench_models::Network;
use peftbench_models::checkpoint::Checkpoint;
use peftbench_ops::{Device, Tensor};
use peftbench_spec::{Candidate, Component, LayerSelection, TargetExpr, seed};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// What Hugging Face puts before the path of a module.
pub const PREFIX: &str = "base_model.model.";

/// An adapter that has been read.
pub struct AdapterFolder {
    path: PathBuf,
    configs: Vec<Map<String, Value>>,
    tensors: BTreeMap<String, Tensor>,
}

impl AdapterFolder {
    /// Reads both files.
    ///
    /// # Errors
    /// Where a file is missing or damaged, or the config is no table or list of tables.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |problem: String| AdapterError::Folder { path: path.to_owned(), problem };
        let file = path.join("adapter_config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| {
            wrong(format!("could not read adapter_config.json ({e}); an adapter folder holds it and adapter_model.safetensors"))
        })?;
        let config: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("adapter_config.json is not valid JSON: {e}")))?;
        let list = match config {
            Value::Array(list) => list,
            single => vec![single],
        };
        let table = |value: Value| match value {
            Value::Object(table) => Ok(table),
            other => Err(wrong(format!("expected a table in adapter_config.json, found {other}"))),
        };
        let configs = list.into_iter().map(table).collect::<Result<_>>()?;
        let checkpoint = Checkpoint::open_on_host(&path.join("adapter_model.safetensors"))?;
        let tensors = checkpoint.names().map(|name| Ok((name.to_owned(), checkpoint.read(name)?))).collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), configs, tensors })
    }

    /// Name of the base model that it was trained on, as the config has it.
    pub fn base_model(&self) -> Option<&str> {
        self.configs.first()?.get("base_model_name_or_path")?.as_str()
    }

    /// Refuses the adapter for another base than the one it was trained on, by the last part of their names: a model is known by its
    /// hub's id, its folder or a short name.
    pub fn check_base(&self, model: &str) -> Result<()> {
        let short = |name: &str| name.split('@').next().unwrap_or(name).trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_owned();
        match self.base_model() {
            Some(own) if short(own) != short(model) => Err(self.wrong(format!(
                "it was trained on `{own}`, not on `{model}`; if these are one model, say so in `base_model_name_or_path` of adapter_config.json"
            ))),
            _ => Ok(()),
        }
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The methods in it with their options, one for each table of the config.
    pub fn methods(&self) -> Result<Vec<Component>> {
        self.configs.iter().map(|config| methods::import(config, &self.tensors).map_err(|error| self.wrong(error.to_string()))).collect()
    }

    /// The slots of `model` for which the file has tensors of the `index`th method: each by its whole path, so that whatever chose them
    /// (patterns, layers) need not be known.
    pub fn targets(&self, model: &mut dyn Network, index: usize, method: &dyn Method) -> TargetExpr {
        let mut all = Vec::new();
        model.visit_slots(&mut |slot| all.extend(slot.candidates()));
        let usable: BTreeSet<&str> = all.iter().filter(|c| method.accepts(c)).map(|c: &Candidate| c.path.as_str()).collect();
        let config = &self.configs[index];
        let own: Option<HashSet<&str>> =
            config.get("tensors").and_then(Value::as_array).map(|list| list.iter().filter_map(Value::as_str).collect());
        let names = self.tensors.keys().map(String::as_str).filter(|name| own.as_ref().is_none_or(|own| own.contains(name)));
        let found: BTreeSet<&str> = names.filter(|name| !is_beside(config, name)).filter_map(|name| slot_of(name, &usable)).collect();
        TargetExpr::new(all.iter().filter(|c| found.contains(c.path.as_str())).map(|c| c.path.clone()))
    }

    /// `layers_to_transform` of the `index`th method.
    fn layers(&self, index: usize) -> LayerSelection {
        let list = self.configs[index].get("layers_to_transform").and_then(Value::as_array);
        let indices = list.map(|list| list.iter().filter_map(Value::as_u64).map(|layer| layer as usize).collect::<Vec<_>>());
        indices.filter(|list| !list.is_empty()).map_or(LayerSelection::All, LayerSelection::Indices)
    }

    /// Attaches the adapter to a fresh `model` and sets its tensors.
    pub fn attach(&self, model: &mut dyn Network) -> Result<Attachment> {
        let mut all = Attachment::default();
        for (index, component) in self.methods()?.iter().enumerate() {
            let method = methods::build(component)?;
            let targets = self.targets(model, index, &*method);
            // Where the names tell nothing, as with the one tensor of all prefixes, it is attached wherever it can be.
            let layers = if targets.is_default() { self.layers(index) } else { LayerSelection::All };
            let chosen = choose(model, &component.name, &*method, &targets, &layers, 0)?;
            let init = &mut seed::stream(0, "init");
            // What a run leaves behind is what its last stage has attached.
            let stage = method.stages().len().saturating_sub(1);
            let mut context = AttachContext { chosen: &chosen, stage, carried: &Carried::new(), init, loading: true };
            all = all.join(method.attach(model, &mut context)?);
        }
        self.load_into(&all)?;
        Ok(all)
    }

    /// Sets every tensor of `attachment` from the file.
    ///
    /// # Errors
    /// Where the file lacks one, has another shape of it, or has tensors that are none of the attachment's.
    pub fn load_into(&self, attachment: &Attachment) -> Result<()> {
        let device = attachment.params.first().map(|p| p.param.value().device().clone());
        let mut file = FileTensors { path: self.path.clone(), tensors: self.tensors.clone(), device };
        let mut formed = HashSet::new();
        for form in &attachment.forms {
            form.read(&mut file)?;
            formed.extend(form.params().iter().map(|param| param.key()));
        }
        for p in attachment.params.iter().filter(|p| !formed.contains(&p.param.key())) {
            p.param.set(file.take_shaped(p.name_in_file(), p.param.value().dims())?)?;
        }
        for buffer in &attachment.buffers {
            buffer.set(file.take_shaped(buffer.name(), buffer.value().dims())?)?;
        }
        // peft keeps a copy of the base weight where an embedding or the head is a target.
        match file.tensors.keys().find(|name| !name.ends_with(".base_layer.weight")) {
            Some(name) => Err(self.wrong(format!("tensor `{name}` belongs to nothing that is attached; were the targets others?"))),
            None => Ok(()),
        }
    }

    fn wrong(&self, problem: String) -> AdapterError {
        AdapterError::Folder { path: self.path.clone(), problem }
    }
}

/// Whether a tensor is one of the model's own that was trained beside the adapters.
fn is_beside(config: &Map<String, Value>, name: &str) -> bool {
    let biases = config.get("bias").and_then(Value::as_str).is_some_and(|which| which != "none");
    let saved = config.get("modules_to_save").and_then(Value::as_array);
    let module = crate::export::module_path(name);
    let in_saved =
        |list: &Vec<Value>| list.iter().filter_map(Value::as_str).any(|m| module.strip_suffix(m).is_some_and(|rest| rest.ends_with('.')));
    name.contains(".base_layer.") || (biases && name.ends_with(".bias")) || saved.is_some_and(in_saved)
}

/// The slot that a tensor's name begins with: a module's, or that of its tensor with the same ending.
fn slot_of<'a>(name: &str, usable: &BTreeSet<&'a str>) -> Option<&'a str> {
    let mut path = name.strip_prefix(PREFIX).unwrap_or(name);
    let ending = crate::export::last_segment(path);
    loop {
        let tensor = |ending: &str| usable.get(format!("{path}.{ending}").as_str());
        if let Some(found) = usable.get(path).or_else(|| tensor(ending)).or_else(|| tensor("weight")) {
            return Some(found);
        }
        path = path.rsplit_once('.')?.0;
    }
}

/// The tensors of an adapter file that have not been taken yet.
pub struct FileTensors {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    /// Where those go that are taken.
    device: Option<Device>,
}

impl FileTensors {
    /// Takes the tensor `name`.
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        match self.tensors.remove(name) {
            Some(tensor) => Ok(self.device.as_ref().map_or(Ok(tensor.clone()), |device| tensor.to_device(device))?),
            None => Err(self.wrong(format!("there is no tensor `{name}` (left); the method or the targets are others"))),
        }
    }

    /// Takes the tensor `name`, which must have this shape.
    pub fn take_shaped(&mut self, name: &str, dims: &[usize]) -> Result<Tensor> {
        let tensor = self.take(name)?;
        match tensor.dims() == dims {
            true => Ok(tensor),
            false => Err(self.wrong(format!("tensor `{name}` has shape {:?}, but {dims:?} is attached", tensor.dims()))),
        }
    }

    /// An error of this file.
    pub fn wrong(&self, problem: String) -> AdapterError {
        AdapterError::Folder { path: self.path.clone(), problem }
    }
}
