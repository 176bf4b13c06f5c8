//! Which layers were drawn, and when again.

use super::PolicyContext;
use crate::error::{AdapterError, Result};
use peftbench_spec::seed::{self, Stream};
use serde_json::Value;

/// A set of layers that is drawn every few steps, each time from a stream of its own.
pub struct Draws {
    context: PolicyContext,
    interval: u64,
    /// Layers drawn last; none before the first step.
    drawn: Option<Vec<usize>>,
}

impl Draws {
    /// Draws among the layers of `context`, every `interval` steps.
    pub fn new(context: PolicyContext, interval: u64) -> Self {
        Self { context, interval, drawn: None }
    }

    /// The layers that may be drawn, ascending.
    pub fn layers(&self) -> &[usize] {
        &self.context.layers
    }

    /// What the policy was built with.
    pub fn context(&self) -> &PolicyContext {
        &self.context
    }

    /// Whether layers are drawn in `step`.
    pub fn due(&self, step: u64) -> bool {
        self.drawn.is_none() || (step - 1).is_multiple_of(self.interval)
    }

    /// The layers of `step` (from 1), and whether they were drawn in it. `draw` gives indices into [`Draws::layers`], ascending.
    pub fn at(&mut self, step: u64, draw: impl FnOnce(&mut Stream) -> Vec<usize>) -> (Vec<usize>, bool) {
        if let (false, Some(drawn)) = (self.due(step), &self.drawn) {
            return (drawn.clone(), false);
        }
        let indices = draw(&mut self.stream("policy", step));
        let drawn: Vec<usize> = indices.into_iter().map(|i| self.context.layers[i]).collect();
        self.drawn = Some(drawn.clone());
        (drawn, true)
    }

    /// The stream of one use in one step.
    pub fn stream(&self, name: &str, step: u64) -> Stream {
        seed::stream(self.context.seed, &format!("{name}/{step}"))
    }

    /// What a resumed run needs.
    pub fn state(&self) -> Value {
        serde_json::json!(self.drawn)
    }

    /// Takes up a state.
    pub fn restore(&mut self, state: &Value) -> Result<()> {
        self.drawn = serde_json::from_value(state.clone()).map_err(|error| damaged(&error))?;
        Ok(())
    }
}

/// The error for a state that no policy has written.
pub fn damaged(error: &serde_json::Error) -> AdapterError {
    AdapterError::DamagedState { problem: error.to_string() }
}
