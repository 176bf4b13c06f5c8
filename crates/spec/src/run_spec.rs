//! One cell of the grid, fully resolved: everything that can change a run's result, and nothing else.

use crate::component::Component;
use crate::error::{Result, SpecError};
use crate::layers::LayerSelection;
use crate::targets::TargetExpr;
use serde::{Deserialize, Serialize};

/// What one run does. Its canonical JSON is hashed into the run id, so a field belongs here exactly if it can change the result:
/// no paths, no worker counts, no record-keeping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// The base model, e.g. `tiny-mamba`, `state-spaces/mamba-130m-hf`, `smollm2-135m-instruct`.
    pub model: Component,
    /// The task, e.g. `world/sentiment` or `glue/sst2`, with sizes and prompt options.
    pub task: Component,
    /// The PEFT method; several entries are attached together (e.g. SDT on the SSM and LoRA on the projections).
    #[serde(deserialize_with = "one_or_many")]
    pub method: Vec<Component>,
    /// Which slots the method attaches to.
    #[serde(default)]
    pub targets: TargetExpr,
    /// Which layers it attaches to.
    #[serde(default)]
    pub layers: LayerSelection,
    /// Which of the attached layers train at each step.
    #[serde(default = "static_policy")]
    pub policy: Component,
    /// Optimisation and evaluation.
    #[serde(default)]
    pub train: TrainSpec,
    /// The adapter that training starts from, by the hash of its two files, as `peftbench run --init-adapter` puts it here; none for the
    /// method's own start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<String>,
    /// Seed of every random stream of the run.
    #[serde(default)]
    pub seed: u64,
    /// A task of plain text whose loss is measured before and after training: what fine-tuning made the model forget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<Component>,
    /// Whether to run although the test split has more items of the training split than its publishers left in it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_overlap: bool,
    /// Whether the run is scored on the test split at its end. Where not, that split is dropped as soon as it is loaded, and the run is known
    /// by its score on validation: so it is with the probes of `[select.lr]`.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub evaluate_test: bool,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_true(value: &bool) -> bool {
    *value
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

fn static_policy() -> Component {
    Component::named("static")
}

/// A list of components, or one on its own.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Component>, D::Error> {
    use serde::de::Error;
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Array(items) if items.is_empty() => Err(D::Error::custom("expected at least one method")),
        serde_json::Value::Array(items) => items.iter().map(|item| Component::from_value(item).map_err(D::Error::custom)).collect(),
        single => Ok(vec![Component::from_value(&single).map_err(D::Error::custom)?]),
    }
}

/// Learning-rate schedules, by Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Warm-up, then linear decay to 0.
    Linear,
    /// Warm-up, then half a cosine to 0.
    Cosine,
    /// Warm-up, then constant.
    Constant,
}

/// Optimisation and evaluation of a run. Defaults follow the SSM-PEFT recipe (AdamW, linear decay, no weight decay, clip at 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
    /// Passes over the training split.
    pub epochs: u32,
    /// Stop after this many optimizer steps even if epochs remain; 0 for no bound.
    pub max_steps: u64,
    /// Examples a micro-batch.
    pub batch_size: usize,
    /// Micro-batches an optimizer step.
    pub gradient_accumulation: usize,
    /// Examples an evaluation batch.
    pub eval_batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Shape of the learning rate over the run.
    pub lr_scheduler: LrScheduler,
    /// Optimizer steps of linear warm-up, as a fraction of all steps.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// AdamW's term against division by zero.
    pub eps: f64,
    /// Clip the global gradient norm to this; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Keep only each layer's input for the backward pass and run the layer again there: less memory for a third more computation. The result
    /// is the same to the bit; memory and time, which are results too, are not.
    pub gradient_checkpointing: bool,
    /// Longest sequence in tokens, prompt and answer together; longer ones are truncated from the left of the prompt.
    pub max_length: usize,
    /// Use only so many training examples; 0 for all.
    pub train_samples: usize,
    /// Use only so many validation examples; 0 for all.
    pub valid_samples: usize,
    /// Use only so many test examples; 0 for all.
    pub test_samples: usize,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            epochs: 3,
            max_steps: 0,
            batch_size: 8,
            gradient_accumulation: 1,
            eval_batch_size: 32,
            lr: 1e-3,
            lr_scheduler: LrScheduler::Linear,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            max_length: 512,
            train_samples: 0,
            valid_samples: 0,
            test_samples: 0,
        }
    }
}

impl TrainSpec {
    /// Checks every value's range; the error names the field.
    pub fn validate(&self) -> Result<()> {
        let positive = |key: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(SpecError::at(key, format!("expected a number above 0, found {value}"))),
        };
        let within = |key: &str, value: f64, low: f64, high: f64| match value >= low && value < high {
            true => Ok(()),
            false => Err(SpecError::at(key, format!("expected a number from {low} up to but not including {high}, found {value}"))),
        };
        let count = |key: &str, value: usize| match value > 0 {
            true => Ok(()),
            false => Err(SpecError::at(key, "expected at least 1, found 0")),
        };
        positive("lr", self.lr)?;
        positive("eps", self.eps)?;
        within("betas[0]", self.betas[0], 0.0, 1.0)?;
        within("betas[1]", self.betas[1], 0.0, 1.0)?;
        within("warmup_ratio", self.warmup_ratio, 0.0, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, f64::INFINITY)?;
        within("max_grad_norm", self.max_grad_norm, 0.0, f64::INFINITY)?;
        count("epochs", self.epochs as usize)?;
        count("batch_size", self.batch_size)?;
        count("gradient_accumulation", self.gradient_accumulation)?;
        count("eval_batch_size", self.eval_batch_size)?;
        match self.max_length >= 8 {
            true => Ok(()),
            false => Err(SpecError::at("max_length", format!("expected at least 8 tokens, found {}", self.max_length))),
        }
    }
}

impl RunSpec {
    /// Reads a run from JSON data, naming the key of whatever is wrong.
    pub fn from_value(value: serde_json::Value) -> Result<Self> {
        let spec: Self = crate::locate::deserialize(value)?;
        spec.train.validate().map_err(|error| error.below("train"))?;
        Ok(spec)
    }

    /// The method as figures and tables name it: `lora r=8`, `sdt + lora r=8`.
    pub fn method_label(&self) -> String {
        let label = |method: &Component| match method.options.get("r") {
            // OFT's `r = 0` means that the block size decides.
            Some(rank) if *rank != 0 => format!("{} r={rank}", method.name),
            _ => method.name.clone(),
        };
        self.method.iter().map(label).collect::<Vec<_>>().join(" + ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shorthand_and_table_forms_are_one_run() {
        let short = RunSpec::from_value(json!({"model": "m", "task": "t", "method": "full"})).unwrap();
        let long =
            RunSpec::from_value(json!({"model": {"type": "m"}, "task": {"type": "t"}, "method": [{"type": "full"}], "layers": "all"}))
                .unwrap();
        assert_eq!(short, long);
    }

    /// A field that is left out leaves the identity of a run as it was before there was the field.
    #[test]
    fn ids_do_not_change_when_a_field_is_added() {
        let run = json!({"model": "m", "task": "t", "method": {"type": "lora", "r": 8}, "seed": 3});
        let id = |run: &serde_json::Value| crate::RunId::of(&RunSpec::from_value(run.clone()).unwrap()).unwrap();
        assert_eq!(id(&run).as_str(), "64ca78907ab67b31");
        let with = |value: bool| {
            let mut run = run.clone();
            run["evaluate_test"] = value.into();
            id(&run)
        };
        assert_eq!(with(true), id(&run));
        assert_ne!(with(false), id(&run));
    }

    #[test]
    fn unknown_keys_and_bad_values_name_their_place() {
        let spec = |train: serde_json::Value| {
            RunSpec::from_value(json!({"model": "m", "task": "t", "method": "full", "train": train})).unwrap_err().to_string()
        };
        assert_eq!(spec(json!({"epoch": 3})), "`train.epoch`: unknown key; did you mean `epochs`?");
        assert_eq!(spec(json!({"lr": -1.0})), "`train.lr`: expected a number above 0, found -1");
        assert!(spec(json!({"lr": "fast"})).starts_with("`train.lr`: invalid type: string"));
        assert!(spec(json!({"lr_scheduler": "liner"})).contains("`train.lr_scheduler`: unknown"));
    }
}
