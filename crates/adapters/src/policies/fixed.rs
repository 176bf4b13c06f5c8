//! `static`: every attached layer trains at every step.

use super::PolicyContext;
use crate::error::Result;
use crate::policy::{Activity, LayerPolicy, Probe};
use peftbench_spec::Component;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The policy without a choice.
pub struct Fixed {
    layers: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {}

/// Fills in defaults: there are no options.
pub fn resolve(component: &Component) -> peftbench_spec::error::Result<Component> {
    component.resolved(&component.parse_options::<Options>()?)
}

impl Fixed {
    /// Trains the layers of `context`.
    pub fn new(component: &Component, context: PolicyContext) -> peftbench_spec::error::Result<Self> {
        component.parse_options::<Options>()?;
        Ok(Self { layers: context.layers })
    }
}

impl LayerPolicy for Fixed {
    fn begin_step(&mut self, _step: u64, _probe: &mut dyn Probe) -> Result<Activity> {
        Ok(Activity { active: self.layers.clone(), importance: None })
    }

    fn state(&self) -> Value {
        Value::Null
    }

    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
}
