//! The table of methods.

pub mod bitfit;
pub mod full;
pub mod lora;
pub mod none;
pub mod prompt;
pub mod selective;

use crate::error::Result;
use crate::method::{AdapterParam, Attachment, Method};
use peftbench_models::Model;
use peftbench_models::slots::{ParamSlot, SlotMut};
use peftbench_spec::{Component, SpecError, suggest};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
}

/// Every method, in the order of listings.
pub const METHODS: &[MethodEntry] = &[
    MethodEntry {
        name: "none",
        summary: "zero-shot: the base model as it is",
        build: |c| build_from::<none::None>(c),
        resolve: |c| resolve_as::<none::None>(c),
    },
    MethodEntry {
        name: "full",
        summary: "full fine-tuning: every tensor",
        build: |c| build_from::<full::Full>(c),
        resolve: |c| resolve_as::<full::Full>(c),
    },
    MethodEntry {
        name: "selective",
        summary: "the tensors that the targets name, whole",
        build: |c| build_from::<selective::Selective>(c),
        resolve: |c| resolve_as::<selective::Selective>(c),
    },
    MethodEntry {
        name: "bitfit",
        summary: "BitFit: the biases (Ben Zaken et al., 2022)",
        build: |c| build_from::<bitfit::BitFit>(c),
        resolve: |c| resolve_as::<bitfit::BitFit>(c),
    },
    MethodEntry {
        name: "lora",
        summary: "LoRA: low-rank updates of linear layers or their row parts (Hu et al., 2022)",
        build: |c| build_from::<lora::Lora>(c),
        resolve: |c| resolve_as::<lora::Lora>(c),
    },
    MethodEntry {
        name: "prompt",
        summary: "prompt tuning: virtual tokens in front of the input (Lester et al., 2021)",
        build: |c| build_from::<prompt::PromptTuning>(c),
        resolve: |c| resolve_as::<prompt::PromptTuning>(c),
    },
];

/// Options that can say what is wrong with them.
pub trait Options: DeserializeOwned + Serialize {
    /// Checks ranges; an error names the option.
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        Ok(())
    }
}

fn parse<T: Options>(component: &Component) -> peftbench_spec::error::Result<T> {
    let options: T = component.parse_options()?;
    options.validate()?;
    Ok(options)
}

fn build_from<T: Options + Method + 'static>(component: &Component) -> peftbench_spec::error::Result<Box<dyn Method>> {
    Ok(Box::new(parse::<T>(component)?))
}

fn resolve_as<T: Options>(component: &Component) -> peftbench_spec::error::Result<Component> {
    component.resolved(&parse::<T>(component)?)
}

fn entry(component: &Component) -> peftbench_spec::error::Result<&'static MethodEntry> {
    let names = || METHODS.iter().map(|m| m.name).collect::<Vec<_>>();
    let found = METHODS.iter().find(|m| m.name == component.name);
    found.ok_or_else(|| SpecError::at("type", format!("unknown method `{}`; {}", component.name, suggest::hint(&component.name, names()))))
}

/// Builds a method; an unknown name or option is an error with the nearest right one.
pub fn build(component: &Component) -> peftbench_spec::error::Result<Box<dyn Method>> {
    (entry(component)?.build)(component)
}

/// Fills in every default of a method's options.
pub fn resolve(component: &Component) -> peftbench_spec::error::Result<Component> {
    (entry(component)?.resolve)(component)
}

/// Sets the raw tensors that `wanted` accepts trainable: it returns the target term that selected the slot.
pub(crate) fn train_tensors(model: &mut dyn Model, wanted: &dyn Fn(&ParamSlot) -> Option<String>) -> Result<Attachment> {
    let mut params = Vec::new();
    model.visit_slots(&mut |slot| {
        if let SlotMut::Param(slot) = slot
            && let Some(matched_by) = wanted(slot)
        {
            slot.param.set_trainable(true);
            params.push(AdapterParam { param: slot.param.clone(), layer: slot.info.layer, added: false, matched_by });
        }
    });
    Ok(Attachment { params, ..Attachment::default() })
}
