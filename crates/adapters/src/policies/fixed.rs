//! `static`: every attached layer trains at every step.

use super::{PolicyContext, PolicyOptions};
use crate::error::Result;
use crate::policy::{Activity, LayerPolicy, Probe};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The policy without a choice and without options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {}

struct All {
    layers: Vec<usize>,
}

impl PolicyOptions for Fixed {
    fn build(self, context: PolicyContext) -> peftbench_spec::error::Result<Box<dyn LayerPolicy>> {
        Ok(Box::new(All { layers: context.layers }))
    }
}

impl LayerPolicy for All {
    fn begin_step(&mut self, _step: u64, _probe: &mut dyn Probe) -> Result<Activity> {
        Ok(Activity { active: self.layers.clone(), ..Activity::default() })
    }

    fn state(&self) -> Value {
        Value::Null
    }

    fn restore(&mut self, _state: &Value) -> Result<()> {
        Ok(())
    }
}
