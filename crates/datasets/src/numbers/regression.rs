//! `sequence/regression`: what a small random network makes of a sequence of whole numbers (the synthetic experiment on S4 of
//! arXiv 2410.09016: a deep S4D is brought to compute what another one with one layer does).

use super::{Content, Goal, NumberSplits, NumberTask, NumberTaskEntry, Sequences, check_sizes};
use crate::error::Result;
use crate::source::DataSource;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The entry.
pub(super) const REGRESSION: NumberTaskEntry = NumberTaskEntry {
    name: "sequence/regression",
    summary: "what a random S4D of one layer makes of sequences of whole numbers (arXiv 2410.09016)",
    data: None,
    build: |task| Ok(Box::new(Regression(Options::parse(task)?))),
    resolve: |task| task.resolved(&Options::parse(task)?),
};

/// Options; the defaults are those of the released code but for the number of sequences, which it draws afresh in each step (4,000 a step).
/// Here, too, a training sequence is read once where the run has one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Training sequences.
    train: usize,
    /// Validation sequences.
    valid: usize,
    /// Test sequences.
    test: usize,
    /// Steps of a sequence.
    length: usize,
    /// Numbers a step; the width of the network that is trained.
    channels: usize,
    /// Numbers are whole and below this.
    below: u32,
    /// Layers of the teacher.
    target_layers: usize,
    /// States of a channel of the teacher.
    target_states: usize,
    /// Seed of the teacher and of the sequences.
    target_seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            train: 4000,
            valid: 64,
            test: 256,
            length: 200,
            channels: 64,
            below: 10,
            target_layers: 1,
            target_states: 8,
            target_seed: 123,
        }
    }
}

impl Options {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        check_sizes([("train", options.train), ("valid", options.valid), ("test", options.test)])?;
        let counts = [
            ("length", options.length),
            ("channels", options.channels),
            ("below", options.below as usize),
            ("target_layers", options.target_layers),
            ("target_states", options.target_states),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            None => Ok(options),
            Some((name, _)) => Err(SpecError::at(*name, "expected at least 1, found 0")),
        }
    }
}

struct Regression(Options);

impl NumberTask for Regression {
    fn name(&self) -> &str {
        REGRESSION.name
    }

    fn load(&self, _source: &DataSource) -> Result<NumberSplits> {
        let Options { train, valid, test, length, channels, below, target_seed: seed, .. } = self.0;
        let split = |split, count| Sequences::new(Content::Integers { seed, split, below, length, channels }, count);
        Ok(NumberSplits {
            dataset_id: format!("regression on S4D of {} layers, seed {seed}", self.0.target_layers),
            revision: None,
            train: split("train", train),
            valid: split("valid", valid),
            test: split("test", test),
        })
    }

    fn goal(&self) -> Goal {
        let config = json!({
            "model_type": "s4d",
            "problem_type": "regression",
            "hidden_size": self.0.channels,
            "state_size": self.0.target_states,
            "num_hidden_layers": self.0.target_layers,
            "initialization": "random",
        });
        let Value::Object(config) = config else { unreachable!("an object was written") };
        Goal::Teacher { config, seed: self.0.target_seed }
    }
}
