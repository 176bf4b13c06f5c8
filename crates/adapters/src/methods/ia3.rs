//! IA³ (Liu et al., 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning", section 3.3): a
//! trained factor for each output of a layer, y = l ⊙ (W x + b), or for each input of a feed-forward layer, y = W (l ⊙ x) + b.
//!
//! The factors start at 1. The weight is not copied. A step keeps the layer's output before the scaling, or its input.

use super::initializer::Initializer;
use super::parts::{attach_linear, entries, linear_config, refuse_part, tensor_name};
use super::{Options, spread};
use crate::error::Result;
use crate::export::TargetModules;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Var};
use peftbench_spec::{Candidate, Role, SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3 {
    /// Which of the targets scale their input: target terms, or none. Where absent, the layers that close an MLP (`role:down_proj`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedforward_modules: Option<Vec<String>>,
}

impl Options for Ia3 {
    const PEFT_TYPE: Option<&'static str> = Some("IA3");
    const IGNORED: &'static [&'static str] = &["init_ia3_weights"];

    fn from_peft(config: &Map<String, Value>) -> Map<String, Value> {
        entries(config, &["feedforward_modules"])
    }
}

impl Ia3 {
    /// Paths of the chosen slots that scale their input.
    fn feedforward(&self, chosen: &[Chosen]) -> Result<BTreeSet<String>> {
        let terms = match self.feedforward_modules.as_deref() {
            None => return Ok(chosen.iter().filter(|c| c.role == Role::DownProj).map(Chosen::path).collect()),
            Some([]) => return Ok(BTreeSet::new()),
            Some(terms) => TargetExpr::new(terms),
        };
        let candidate = |c: &Chosen| Candidate {
            path: c.path(),
            part_of: c.part.as_ref().map(|_| c.slot.clone()),
            layer: c.layer,
            role: c.role,
            kind: SlotKind::Linear,
        };
        let candidates: Vec<Candidate> = chosen.iter().map(candidate).collect();
        match terms.select(&candidates) {
            Ok(matches) => Ok(matches.iter().map(|m| candidates[m.candidate].path.clone()).collect()),
            Err(error) => Err(SpecError::at("feedforward_modules", format!("not among the targets: {error}")).into()),
        }
    }

    fn attach_to(slot: &mut LinearSlot, chosen: &Chosen, feedforward: bool, init: &Initializer<'_>) -> Result<Vec<Param>> {
        let (out, input) = slot.dims();
        let part = chosen.part.as_ref().and_then(|name| slot.parts.iter().find(|part| part.name == name));
        let rows = part.map_or_else(|| (0..out).into(), |part| part.rows.clone());
        if feedforward {
            refuse_part("ia3", chosen)?;
        }
        let dims = if feedforward { (1, input) } else { (rows.len(), 1) };
        let factors = Param::trainable(tensor_name(chosen, "ia3_l"), init.ones(dims)?);
        slot.attach(Box::new(Scaling { factors: factors.clone(), feedforward, rows, out, layer: chosen.layer }));
        Ok(vec![factors])
    }
}

/// The factors of one layer.
struct Scaling {
    factors: Param,
    feedforward: bool,
    /// The outputs that have a factor, of so many.
    rows: RowRanges,
    out: usize,
    layer: Option<usize>,
}

impl Scaling {
    fn apply(&self, pass: &Pass<'_>, x: &Var) -> peftbench_ops::Result<Var> {
        let tape = pass.tape;
        let mut factors = tape.reshape(&tape.param(&self.factors), &[self.factors.elem_count()])?;
        if !self.feedforward {
            factors = spread(tape, &factors, 0, &self.rows, self.out, 1.0)?;
        }
        let scale = pass.scale_of(self.layer);
        if scale != 1.0 {
            let rest = factors.value().ones_like()? * (1.0 - scale);
            factors = tape.add(&tape.scale(&factors, scale)?, &Var::constant(rest?))?;
        }
        tape.scale_columns(x, &factors)
    }
}

impl LinearAdapter for Scaling {
    fn input(&self, pass: &Pass<'_>, x: Var) -> peftbench_ops::Result<Var> {
        if self.feedforward { self.apply(pass, &x) } else { Ok(x) }
    }

    fn output(&self, pass: &Pass<'_>, _x: &Var, y: Var) -> peftbench_ops::Result<Var> {
        if self.feedforward { Ok(y) } else { self.apply(pass, &y) }
    }
}

impl Method for Ia3 {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        match arch {
            "mamba" | "falcon_mamba" => TargetExpr::new(["in_proj", "x_proj"]),
            "mamba2" => TargetExpr::new(["in_proj"]),
            "llama" | "qwen2" => TargetExpr::new(["k_proj", "v_proj", "down_proj"]),
            "gptj" => TargetExpr::new(["q_proj", "v_proj", "fc_out"]),
            "bloom" => TargetExpr::new(["query_key_value", "mlp.dense_4h_to_h"]),
            "gpt2" => TargetExpr::new(["c_attn", "mlp.c_proj"]),
            "opt" => TargetExpr::new(["q_proj", "k_proj", "fc2"]),
            _ => TargetExpr::new(["role:linear"]),
        }
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let feedforward = self.feedforward(context.chosen)?;
        let params = attach_linear(model, context, "ia3", &mut |slot, chosen, init| {
            Self::attach_to(slot, chosen, feedforward.contains(&chosen.path()), init)
        })?;
        let mut peft_config = linear_config("IA3", &json!({ "init_ia3_weights": true }), model, context.chosen);
        peft_config["feedforward_modules"] = json!(TargetModules::of(model, &feedforward.into_iter().collect::<Vec<_>>()).names);
        Ok(Attachment::new(params, peft_config))
    }
}
