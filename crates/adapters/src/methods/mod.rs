//! The table of methods.

pub mod adalora;
pub mod additional_scan;
pub mod bitfit;
pub mod boft;
pub mod bottleneck;
pub mod combined;
pub mod dora;
mod encoder;
pub mod fourierft;
pub mod full;
pub mod hra;
pub mod ia3;
pub mod initial_state;
mod initializer;
pub mod ln_tuning;
pub mod loha;
pub mod lokr;
pub mod lora;
pub mod lora_tensor;
mod lstm;
pub mod miss;
pub mod none;
pub mod oft;
pub mod p_tuning;
mod parts;
pub mod prefix;
pub mod prompt;
pub mod road;
mod rotation;
pub mod sdt;
pub mod selective;
pub mod state_offset;
mod torch_random;
pub mod vera;

use crate::error::Result;
use crate::method::{AdapterParam, Attachment, Method};
use peftbench_models::Network;
use peftbench_models::slots::{ParamSlot, SlotMut};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Tape, Tensor, Var};
use peftbench_spec::{Component, SpecError, suggest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The tensors of an adapter file, by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// From an `adapter_config.json` and the tensors beside it to a method's options, if it is that method's.
pub type Import = fn(&Map<String, Value>, &Tensors) -> peftbench_spec::error::Result<Option<Map<String, Value>>>;

/// A method's entry.
pub struct MethodEntry {
    /// Name in specs.
    pub name: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// Builds the method from its options.
    pub build: fn(&Component) -> peftbench_spec::error::Result<Box<dyn Method>>,
    /// The same component with every default filled in.
    pub resolve: fn(&Component) -> peftbench_spec::error::Result<Component>,
    /// The options of an `adapter_config.json`, if it is this method's.
    pub import: Import,
    /// Path of the type that implements it; its file has the method's prose.
    pub implementation: fn() -> &'static str,
}

const fn entry<T: Options + Method + 'static>(name: &'static str, summary: &'static str) -> MethodEntry {
    let implementation = std::any::type_name::<T>;
    MethodEntry { name, summary, build: build_as::<T>, resolve: resolve_as::<T>, import: import_as::<T>, implementation }
}

/// Every method, in the order of listings.
pub const METHODS: &[MethodEntry] = &[
    entry::<none::None>("none", "zero-shot: the base model as it is"),
    entry::<full::Full>("full", "full fine-tuning: every tensor"),
    entry::<selective::Selective>("selective", "the tensors that the targets name, whole"),
    entry::<bitfit::BitFit>("bitfit", "BitFit: the biases (Ben Zaken et al., 2022)"),
    entry::<lora::Lora>("lora", "LoRA: low-rank updates of linear layers or their row parts (Hu et al., 2022)"),
    entry::<dora::Dora>("dora", "DoRA: LoRA with the magnitude of each row apart (Liu et al., 2024)"),
    entry::<adalora::AdaLora>("adalora", "AdaLoRA: LoRA that prunes ranks where they matter least (Zhang et al., 2023)"),
    entry::<vera::Vera>("vera", "VeRA: scaled random projections that all layers share (Kopiczko et al., 2024)"),
    entry::<loha::Loha>("loha", "LoHa: the elementwise product of two low-rank matrices (Hyeon-Woo et al., 2022)"),
    entry::<lokr::Lokr>("lokr", "LoKr: a Kronecker product (Edalati et al., 2022)"),
    entry::<ia3::Ia3>("ia3", "IA³: a factor for each output, or input, of a layer (Liu et al., 2022)"),
    entry::<oft::Oft>("oft", "OFT: block-diagonal rotation of a layer's input (Qiu et al., 2023)"),
    entry::<boft::Boft>("boft", "BOFT: rotation in butterfly factors (Liu et al., 2024)"),
    entry::<hra::Hra>("hra", "HRA: Householder reflections of a layer's input (Yuan et al., 2024)"),
    entry::<fourierft::FourierFt>("fourierft", "FourierFT: coefficients of the update's Fourier spectrum (Gao et al., 2024)"),
    entry::<miss::Miss>("miss", "MiSS, also called Bone: one update shared by shards of the weight (Kang and Yin, 2024)"),
    entry::<road::Road>("road", "RoAd: rotation and scaling of pairs of a layer's outputs (Liao and Monz, 2024)"),
    entry::<ln_tuning::LnTuning>("ln_tuning", "LN tuning: weights and biases of the normalisation layers (Zhao et al., 2023)"),
    entry::<bottleneck::Series>("series", "series adapters: a bottleneck in front of or behind a layer (Houlsby et al., 2019)"),
    entry::<bottleneck::Parallel>("parallel", "parallel adapters: a bottleneck beside a layer (He et al., 2022)"),
    entry::<prompt::PromptTuning>("prompt", "prompt tuning: virtual tokens in front of the input (Lester et al., 2021)"),
    entry::<p_tuning::PTuning>("p_tuning", "P-tuning: virtual tokens that a small network makes (Liu et al., 2021)"),
    entry::<prefix::PrefixTuning>("prefix", "prefix tuning: virtual keys and values, or inputs of an SSM (Li and Liang, 2021)"),
    entry::<initial_state::InitialState>("initial_state", "the initial state of an SSM, and its convolution's context (arXiv 2410.09016)"),
    entry::<state_offset::StateOffset>("state_offset", "state-offset tuning: a state added where an SSM reads its own (Kang et al., 2025)"),
    entry::<additional_scan::AdditionalScan>(
        "additional_scan",
        "additional-scan: more states for each channel of an SSM (Yoshimura et al., 2025)",
    ),
    entry::<lora_tensor::LoraTensor>("lora_tensor", "LoRA on raw tensors seen as matrices, such as A_log (arXiv 2410.09016)"),
    entry::<sdt::Sdt>("sdt", "SDT: the channels and states of an SSM that a warm-up moves most (arXiv 2410.09016)"),
    entry::<combined::Combined>("combined", "several methods, each with targets and layers of its own"),
];

/// A method's options, by Hugging Face's names where it has one.
pub trait Options: DeserializeOwned + Serialize + Default {
    /// `peft_type` of its `adapter_config.json`; none where there is nothing to save.
    const PEFT_TYPE: Option<&'static str>;

    /// Keys of `adapter_config.json` that may have any value: they say nothing that the options or the tensors do not.
    const IGNORED: &'static [&'static str] = &[];

    /// Checks ranges; an error names the option.
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        Ok(())
    }

    /// Whether an `adapter_config.json` is this method's.
    fn recognises(config: &Map<String, Value>) -> bool {
        Self::PEFT_TYPE.is_some_and(|name| config.get("peft_type").is_some_and(|found| found == name))
    }

    /// The options in an `adapter_config.json`: the keys of these names, unless the method knows better.
    fn from_peft(config: &Map<String, Value>) -> Map<String, Value> {
        same_keys::<Self>(config)
    }

    /// Corrects these options where the tensors beside the config say otherwise.
    fn correct(_options: &mut Map<String, Value>, _tensors: &Tensors) {}
}

/// The entries of an `adapter_config.json` whose keys are options of `T`.
pub(crate) fn same_keys<T: Options>(config: &Map<String, Value>) -> Map<String, Value> {
    let own = serde_json::to_value(T::default()).unwrap_or_default();
    let known = |key: &str| own.get(key).is_some();
    config.iter().filter(|(key, value)| known(key) && !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Keys of any `adapter_config.json` that change nothing here: what is attached where is told by the tensors' names.
const IGNORED: [&str; 20] = [
    "peft_type",
    "peft_version",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "megatron_core",
    "megatron_config",
    "qalora_group_size",
    "ensure_weight_tying",
    "init_weights",
    "init_lora_weights",
    "runtime_config",
    "tensors",
];

fn parse<T: Options>(component: &Component) -> peftbench_spec::error::Result<T> {
    let options: T = component.parse_options()?;
    options.validate()?;
    Ok(options)
}

fn build_as<T: Options + Method + 'static>(component: &Component) -> peftbench_spec::error::Result<Box<dyn Method>> {
    Ok(Box::new(parse::<T>(component)?))
}

fn resolve_as<T: Options>(component: &Component) -> peftbench_spec::error::Result<Component> {
    component.resolved(&parse::<T>(component)?)
}

fn import_as<T: Options>(config: &Map<String, Value>, tensors: &Tensors) -> peftbench_spec::error::Result<Option<Map<String, Value>>> {
    if !T::recognises(config) {
        return Ok(None);
    }
    let mut options = T::from_peft(config);
    T::correct(&mut options, tensors);
    let says_something = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "none",
        Value::Array(list) => !list.is_empty(),
        Value::Object(table) => !table.is_empty(),
        Value::Bool(true) => true,
    };
    let read = |key: &str| options.contains_key(key) || IGNORED.contains(&key) || T::IGNORED.contains(&key);
    match config.iter().find(|(key, value)| !read(key) && says_something(value)) {
        Some((key, value)) => {
            Err(SpecError::at(key.as_str(), format!("`{value}` is not supported; without it the adapter would compute something else")))
        }
        None => Ok(Some(options)),
    }
}

/// The method and options of an `adapter_config.json`, whose `tensors` lie beside it.
///
/// # Errors
/// Where no method has its `peft_type`, or a key asks for something that the method does not do.
pub fn import(config: &Map<String, Value>, tensors: &Tensors) -> peftbench_spec::error::Result<Component> {
    for method in METHODS {
        if let Some(options) = (method.import)(config, tensors)? {
            return Ok(Component { name: method.name.to_owned(), options });
        }
    }
    let found = config.get("peft_type").map_or_else(|| "none".to_owned(), Value::to_string);
    Err(SpecError::at("peft_type", format!("no method here writes adapters of type {found}")))
}

fn find(component: &Component) -> peftbench_spec::error::Result<&'static MethodEntry> {
    let names = || METHODS.iter().map(|m| m.name).collect::<Vec<_>>();
    let found = METHODS.iter().find(|m| m.name == component.name);
    found.ok_or_else(|| SpecError::at("type", format!("unknown method `{}`; {}", component.name, suggest::hint(&component.name, names()))))
}

/// Builds a method; an unknown name or option is an error with the nearest right one.
pub fn build(component: &Component) -> peftbench_spec::error::Result<Box<dyn Method>> {
    (find(component)?.build)(component)
}

/// Fills in every default of a method's options.
pub fn resolve(component: &Component) -> peftbench_spec::error::Result<Component> {
    (find(component)?.resolve)(component)
}

/// Shows every slot to a visitor that may fail; the first error ends the visit.
pub(crate) fn try_visit(model: &mut dyn Network, visitor: &mut dyn FnMut(SlotMut<'_>) -> Result<()>) -> Result<()> {
    let mut outcome = Ok(());
    model.visit_slots(&mut |slot| {
        if outcome.is_ok() {
            outcome = visitor(slot);
        }
    });
    outcome
}

/// A tensor whose dimension `dim` has the size `width`: `part` in the places `rows` of it, `fill` everywhere else.
pub(crate) fn spread(tape: &Tape, part: &Var, dim: usize, rows: &RowRanges, width: usize, fill: f32) -> peftbench_ops::Result<Var> {
    if rows.len() == width {
        return Ok(part.clone());
    }
    let filled = |count: usize| -> peftbench_ops::Result<Var> {
        let mut dims = part.dims().to_vec();
        dims[dim] = count;
        Ok(Var::constant(Tensor::full(fill, dims, part.value().device())?))
    };
    let (mut parts, mut taken, mut end) = (Vec::new(), 0, 0);
    for range in rows.iter() {
        if range.start > end {
            parts.push(filled(range.start - end)?);
        }
        parts.push(tape.narrow(part, dim, taken, range.len())?);
        (taken, end) = (taken + range.len(), range.end);
    }
    if width > end {
        parts.push(filled(width - end)?);
    }
    tape.cat(&parts.iter().collect::<Vec<_>>(), dim)
}

/// Sets the raw tensors that `wanted` accepts trainable: it returns the target term that selected the slot.
pub(crate) fn train_tensors(model: &mut dyn Network, wanted: &dyn Fn(&ParamSlot) -> Option<String>) -> Result<Attachment> {
    let mut params = Vec::new();
    model.visit_slots(&mut |slot| {
        if let SlotMut::Param(slot) = slot
            && let Some(matched_by) = wanted(slot)
        {
            slot.param.set_trainable(true);
            params.push(AdapterParam::own(slot.param.clone(), slot.info.layer, matched_by));
        }
    });
    Ok(Attachment { params, ..Attachment::default() })
}
