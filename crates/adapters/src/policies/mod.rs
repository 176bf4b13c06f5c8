//! The table of layer policies.

pub mod fixed;

use crate::policy::LayerPolicy;
use peftbench_spec::{Component, SpecError, suggest};

/// What a policy is built from, besides its options.
pub struct PolicyContext {
    /// Layers of the model.
    pub num_layers: usize,
    /// Layers with a trained tensor, ascending.
    pub layers: Vec<usize>,
    /// The run's seed. A policy opens a stream of its own for each step (`policy/<step>`), so that a resumed run draws the same.
    pub seed: u64,
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
pub const POLICIES: &[PolicyEntry] = &[PolicyEntry {
    name: "static",
    summary: "every attached layer trains at every step",
    build: |c, x| Ok(Box::new(fixed::Fixed::new(c, x)?)),
    resolve: fixed::resolve,
}];

fn entry(component: &Component) -> peftbench_spec::error::Result<&'static PolicyEntry> {
    let names = || POLICIES.iter().map(|p| p.name).collect::<Vec<_>>();
    let found = POLICIES.iter().find(|p| p.name == component.name);
    found.ok_or_else(|| SpecError::at("type", format!("unknown policy `{}`; {}", component.name, suggest::hint(&component.name, names()))))
}

/// Builds a policy; an unknown name or option is an error with the nearest right one.
pub fn build(component: &Component, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
    (entry(component)?.build)(component, context)
}

/// Fills in every default of a policy's options.
pub fn resolve(component: &Component) -> peftbench_spec::error::Result<Component> {
    (entry(component)?.resolve)(component)
}
