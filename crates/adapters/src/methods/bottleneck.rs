//! Bottleneck adapters, as LLM-Adapters (Hu et al., 2023) and the code of IST (arXiv 2410.11772) define them: U f(D x) with D [bottleneck, width]
//! and U [width, bottleneck], without biases, beside a layer or behind it.
//!
//! * *Series* (Houlsby et al., 2019): h + scaling · U f(D h). On a layer that a sub-layer begins with (q, k, v, gate, up, in_proj) h is its input;
//!   on one that a sub-layer ends with (o, down, out_proj), and on a sub-layer, h is its output.
//! * *Parallel* (He et al., 2022): y + scaling · U f(D x) for a layer or sub-layer from x to y.
//!
//! U starts at zero and D Kaiming-uniform (`"mam_adapter"`), so that the model starts unchanged; LLM-Adapters' own default is `"bert"`, normal with
//! deviation 0.02 for both. A step keeps x or h, and the bottleneck's activation.

use super::Options;
use super::initializer::Initializer;
use super::parts::{at_least_one, dropout_rate, finite, refuse_part, unsupported};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, SlotMut, SublayerAdapter};
use peftbench_models::{Network, Pass};
use peftbench_ops::activation::Activation;
use peftbench_ops::{Param, Var};
use peftbench_spec::{Role, SlotKind, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Options, by LLM-Adapters' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bottleneck {
    /// Width of the bottleneck.
    pub bottleneck_size: usize,
    /// f: `"tanh"`, `"relu"`, `"gelu"` or `"swish"`.
    pub non_linearity: NonLinearity,
    /// Dropout on the adapter's input.
    pub adapter_dropout: f64,
    /// Factor of the adapter's output.
    pub scaling: f64,
    /// The start of D and U: `"mam_adapter"` or `"bert"`.
    pub init_weights: Start,
}

/// The activation in the bottleneck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // Each name is the activation's.
pub enum NonLinearity {
    Tanh,
    Relu,
    Gelu,
    #[serde(alias = "silu")]
    Swish,
}

/// The start of an adapter's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// D Kaiming-uniform with a = √5, U zero.
    MamAdapter,
    /// Both normal with deviation 0.02.
    Bert,
}

impl Default for Bottleneck {
    fn default() -> Self {
        Self {
            bottleneck_size: 256,
            non_linearity: NonLinearity::Tanh,
            adapter_dropout: 0.0,
            scaling: 1.0,
            init_weights: Start::MamAdapter,
        }
    }
}

impl Bottleneck {
    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("bottleneck_size", self.bottleneck_size)?;
        finite("scaling", self.scaling)?;
        dropout_rate("adapter_dropout", self.adapter_dropout)
    }

    /// The adapter from `input` to `output` columns at a chosen slot.
    fn make(&self, input: usize, output: usize, chosen: &Chosen, place: Place, init: &mut Initializer<'_>) -> Result<Adapter> {
        let size = self.bottleneck_size;
        let (down, up) = match self.init_weights {
            Start::MamAdapter => (init.kaiming_uniform(size, input)?, init.zeros((output, size))?),
            Start::Bert => (init.normal((size, input), 0.02)?, init.normal((output, size), 0.02)?),
        };
        // A sub-layer and a layer in it may both have one.
        let name = |which: &str| format!("base_model.model.{}.adapter_{which}.weight", chosen.path());
        let (down, up) = (Param::trainable(name("down"), down), Param::trainable(name("up"), up));
        Ok(Adapter { down, up, options: self.clone(), place, layer: chosen.layer })
    }

    fn attach(&self, method: &str, parallel: bool, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Vec<AdapterParam>> {
        let hidden = model.hidden_size();
        let init = &mut Initializer::of(model, context.init);
        let mut found: Result<Vec<AdapterParam>> = Ok(Vec::new());
        model.visit_slots(&mut |mut slot| {
            let kind = match &slot {
                SlotMut::Linear(_) => SlotKind::Linear,
                SlotMut::Sublayer(_) => SlotKind::Sublayer,
                _ => return,
            };
            let info = slot.info().clone();
            for chosen in context.chosen.iter().filter(|c| c.slot == info.path) {
                let Ok(params) = &mut found else { return };
                let place = Place::of(parallel, kind, info.role);
                let made = match &mut slot {
                    SlotMut::Linear(linear) => self.make_linear(method, linear.dims(), chosen, place, init),
                    _ => self.make(hidden, hidden, chosen, place, init),
                };
                match made {
                    Ok(adapter) => {
                        params.extend([&adapter.down, &adapter.up].map(|param| AdapterParam::added(param.clone(), chosen)));
                        match &mut slot {
                            SlotMut::Linear(slot) => slot.attach(Box::new(adapter)),
                            SlotMut::Sublayer(slot) => slot.attach(Box::new(adapter)),
                            _ => {}
                        }
                    }
                    Err(error) => found = Err(error),
                }
            }
        });
        found
    }

    fn make_linear(
        &self,
        method: &str,
        (out, input): (usize, usize),
        chosen: &Chosen,
        place: Place,
        init: &mut Initializer<'_>,
    ) -> Result<Adapter> {
        refuse_part(method, chosen)?;
        if chosen.role == Role::LmHead {
            return Err(unsupported(method, "does not adapt the head; take it away with `!lm_head`"));
        }
        let (from, to) = match place {
            Place::Input => (input, input),
            Place::Output => (out, out),
            Place::Beside => (input, out),
        };
        self.make(from, to, chosen, place, init)
    }

    fn config(&self, peft_type: &str) -> Value {
        let mut config = json!({ "peft_type": peft_type });
        if let (Some(config), Ok(Value::Object(options))) = (config.as_object_mut(), serde_json::to_value(self)) {
            config.extend(options);
        }
        config
    }
}

/// Where an adapter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In front of the layer.
    Input,
    /// Behind it.
    Output,
    /// From its input to its output.
    Beside,
}

impl Place {
    fn of(parallel: bool, kind: SlotKind, role: Role) -> Self {
        let closes = matches!(role, Role::OProj | Role::DownProj | Role::OutProj);
        match (parallel, kind) {
            (true, _) => Self::Beside,
            (false, SlotKind::Linear) if !closes => Self::Input,
            _ => Self::Output,
        }
    }
}

/// One adapter.
struct Adapter {
    /// [bottleneck, in].
    down: Param,
    /// [out, bottleneck].
    up: Param,
    options: Bottleneck,
    place: Place,
    layer: Option<usize>,
}

impl Adapter {
    /// base + scaling · U f(D x).
    fn add(&self, pass: &Pass<'_>, base: &Var, x: &Var) -> peftbench_ops::Result<Var> {
        let (tape, options) = (pass.tape, &self.options);
        let down = tape.linear(&pass.dropout(x, options.adapter_dropout)?, &tape.param(&self.down), None)?;
        let active = match options.non_linearity {
            NonLinearity::Tanh => tape.tanh(&down)?,
            NonLinearity::Relu => tape.activation(&down, Activation::Relu)?,
            NonLinearity::Gelu => tape.activation(&down, Activation::Gelu)?,
            NonLinearity::Swish => tape.activation(&down, Activation::Silu)?,
        };
        let up = tape.scale(&tape.param(&self.up), options.scaling * pass.scale_of(self.layer))?;
        tape.add(base, &tape.linear(&active, &up, None)?)
    }
}

impl LinearAdapter for Adapter {
    fn input(&self, pass: &Pass<'_>, x: Var) -> peftbench_ops::Result<Var> {
        if self.place == Place::Input { self.add(pass, &x, &x) } else { Ok(x) }
    }

    fn output(&self, pass: &Pass<'_>, x: &Var, y: Var) -> peftbench_ops::Result<Var> {
        match self.place {
            Place::Input => Ok(y),
            Place::Output => self.add(pass, &y, &y),
            Place::Beside => self.add(pass, &y, x),
        }
    }

    fn is_affine(&self) -> bool {
        false
    }
}

impl SublayerAdapter for Adapter {
    fn output(&self, pass: &Pass<'_>, x: &Var, y: Var) -> peftbench_ops::Result<Var> {
        LinearAdapter::output(self, pass, x, y)
    }
}

const KINDS: &[SlotKind] = &[SlotKind::Linear, SlotKind::Sublayer];

/// The series adapter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Series(pub Bottleneck);

impl Options for Series {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_SERIES");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.0.validate()
    }
}

impl Method for Series {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        KINDS
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        match arch {
            "mamba" | "mamba2" | "falcon_mamba" => TargetExpr::new(["out_proj"]),
            "llama" | "qwen2" => TargetExpr::new(["down_proj"]),
            "gptj" => TargetExpr::new(["fc_out"]),
            "bloom" => TargetExpr::new(["dense_4h_to_h"]),
            "opt" => TargetExpr::new(["fc2"]),
            "gpt2" => TargetExpr::new(["mlp.c_proj"]),
            _ => TargetExpr::new(["role:linear"]),
        }
    }

    fn starts_as_base(&self) -> bool {
        self.0.init_weights == Start::MamAdapter
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        Ok(Attachment::new(self.0.attach("series", false, model, context)?, self.0.config("PEFTBENCH_SERIES")))
    }
}

/// The parallel adapter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parallel(pub Bottleneck);

impl Options for Parallel {
    const PEFT_TYPE: Option<&'static str> = Some("PEFTBENCH_PARALLEL");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        self.0.validate()
    }
}

impl Method for Parallel {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        KINDS
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        match arch {
            "mamba" | "mamba2" | "falcon_mamba" => TargetExpr::new(["in_proj", "out_proj"]),
            "llama" | "qwen2" => TargetExpr::new(["up_proj", "down_proj"]),
            "gptj" => TargetExpr::new(["fc_in", "fc_out"]),
            "bloom" => TargetExpr::new(["dense_h_to_4h", "dense_4h_to_h"]),
            "opt" => TargetExpr::new(["fc1", "fc2"]),
            "gpt2" => TargetExpr::new(["c_fc", "mlp.c_proj"]),
            _ => TargetExpr::new(["role:linear"]),
        }
    }

    fn starts_as_base(&self) -> bool {
        self.0.init_weights == Start::MamAdapter
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        Ok(Attachment::new(self.0.attach("parallel", true, model, context)?, self.0.config("PEFTBENCH_PARALLEL")))
    }
}
