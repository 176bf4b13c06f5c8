//! The table of layer policies.

mod drawn;
mod draws;
pub mod fixed;
pub mod greedy;
pub mod guided;
pub mod ist;
pub mod rst;
pub mod sampling;
pub mod share;
#[cfg(test)]
mod testing;

use crate::method::Attachment;
use crate::policy::LayerPolicy;
use peftbench_spec::{Component, SpecError, suggest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a policy is built from, besides its options.
#[derive(Debug, Clone)]
pub struct PolicyContext {
    /// Layers of the model.
    pub num_layers: usize,
    /// Layers with a trained tensor, ascending.
    pub layers: Vec<usize>,
    /// Whether the method has added something to these layers, so that a probe can suppress it.
    pub suppressible: bool,
    /// The run's seed. A policy opens a stream of its own for each step (`policy/<step>`), so that a resumed run draws the same.
    pub seed: u64,
    /// Optimizer steps of the run, where they are known: a plan does not read the data.
    pub total_steps: Option<u64>,
}

impl PolicyContext {
    /// For what a method has attached to a model of `num_layers` layers.
    pub fn new(num_layers: usize, attachment: &Attachment, seed: u64) -> Self {
        let suppressible = attachment.params.iter().any(|p| p.added && p.layer.is_some());
        Self { num_layers, layers: attachment.layers(), suppressible, seed, total_steps: None }
    }

    /// For a run of so many optimizer steps.
    pub fn with_total_steps(self, total_steps: u64) -> Self {
        Self { total_steps: Some(total_steps), ..self }
    }
}

/// The options of a policy, from which it is built.
pub trait PolicyOptions: Serialize + DeserializeOwned {
    /// Checks what does not depend on the model.
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        Ok(())
    }

    /// Builds the policy; an error where the model's layers do not allow what the options ask for.
    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>>;
}

/// A policy's entry.
pub struct PolicyEntry {
    /// Name in specs.
    pub name: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// Builds the policy from its options.
    pub build: fn(&Component, PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>>,
    /// The same component with every default filled in.
    pub resolve: fn(&Component) -> peftbench_spec::error::Result<Component>,
}

/// Every policy, in the order of listings.
pub const POLICIES: &[PolicyEntry] = &[
    entry::<fixed::Fixed>("static", "every attached layer trains at every step"),
    entry::<rst::Rst>("rst", "random sparse tuning: layers drawn evenly at every step"),
    entry::<ist::Ist>("ist", "importance-aware sparse tuning: layers drawn by an importance that probes teach"),
    entry::<rst::Lisa>("lisa", "LISA: layers drawn evenly every few steps"),
    entry::<guided::Owlore>("owlore", "outlier-weighed sampling: layers drawn by the share of outliers in their weights"),
    entry::<guided::Surgical>("surgical", "surgical fine-tuning: the layers with the largest relative gradients"),
    entry::<greedy::Greedy>("greedy", "all layers train, then adapters are removed one by one: which layers matter"),
];

const fn entry<O: PolicyOptions>(name: &'static str, summary: &'static str) -> PolicyEntry {
    PolicyEntry {
        name,
        summary,
        build: |component, context| options::<O>(component)?.build(context),
        resolve: |component| component.resolved(&options::<O>(component)?),
    }
}

fn options<O: PolicyOptions>(component: &Component) -> peftbench_spec::error::Result<O> {
    let options: O = component.parse_options()?;
    options.validate()?;
    Ok(options)
}

fn find(component: &Component) -> peftbench_spec::error::Result<&'static PolicyEntry> {
    let names = || POLICIES.iter().map(|p| p.name).collect::<Vec<_>>();
    let found = POLICIES.iter().find(|p| p.name == component.name);
    found.ok_or_else(|| SpecError::at("type", format!("unknown policy `{}`; {}", component.name, suggest::hint(&component.name, names()))))
}

/// Builds a policy; an unknown name or option is an error with the nearest right one.
pub fn build(component: &Component, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
    (find(component)?.build)(component, context)
}

/// Fills in every default of a policy's options.
pub fn resolve(component: &Component) -> peftbench_spec::error::Result<Component> {
    (find(component)?.resolve)(component)
}
