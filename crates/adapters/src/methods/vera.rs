//! VeRA (Kopiczko, Blankevoort and Asano, 2024): y = W x + λ_b ⊙ B (λ_d ⊙ A x), where A and B are random, frozen and shared by all layers,
//! each of which uses as many columns of A and rows of B as it has inputs and outputs; λ_b and λ_d are trained.
//!
//! λ_b starts at 0 and λ_d at `d_initial`, so that the model starts unchanged. Computed as a low-rank update whose A needs no gradient, with λ_b ⊙ B ⊙ λ_d in place of B: what is kept is A x, not x.

use super::initializer::Initializer;
use super::parts::{at_least_one, dropout_rate, finite, linear_config, projection_targets, tensor_name};
use super::{Options, try_visit};
use crate::error::Result;
use crate::method::{AdapterParam, AttachContext, Attachment, Method};
use crate::selection::{Chosen, rows_of};
use peftbench_models::slots::{LinearAdapter, SlotMut};
use peftbench_models::{Network, Pass};
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{Param, Var};
use peftbench_spec::{SlotKind, SpecError, TargetExpr, seed};
use serde::{Deserialize, Serialize};

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vera {
    /// Rank of the shared projections.
    #[serde(alias = "rank")]
    pub r: usize,
    /// Seed of the projections; the run's own seed has no say in them.
    pub projection_prng_key: u64,
    /// Whether the projections are saved with the adapter: always, since no other program could draw the same again.
    pub save_projection: bool,
    /// Dropout on the input of A.
    pub vera_dropout: f64,
    /// How λ_d begins.
    pub d_initial: f64,
}

impl Default for Vera {
    fn default() -> Self {
        Self { r: 256, projection_prng_key: 0, save_projection: true, vera_dropout: 0.0, d_initial: 0.1 }
    }
}

impl Options for Vera {
    const PEFT_TYPE: Option<&'static str> = Some("VERA");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("r", self.r)?;
        dropout_rate("vera_dropout", self.vera_dropout)?;
        finite("d_initial", self.d_initial)?;
        match self.save_projection {
            true => Ok(()),
            false => Err(SpecError::at(
                "save_projection",
                "expected true: random projections that are not in the file cannot be had again; save the adapter with them",
            )),
        }
    }
}

struct Update {
    a: Param,
    b: Param,
    lambda_b: Param,
    lambda_d: Param,
    dropout: f64,
    columns: usize,
    rows: RowRanges,
}

impl LinearAdapter for Update {
    fn updates(&self, pass: &Pass<'_>, x: &Var) -> peftbench_ops::Result<Vec<LowRank>> {
        let tape = pass.tape;
        let a = tape.narrow(&tape.param(&self.a), 1, 0, self.columns)?;
        let b = tape.narrow(&tape.param(&self.b), 0, 0, self.rows.len())?;
        let lambda_b = tape.reshape(&tape.param(&self.lambda_b), &[self.rows.len(), 1])?;
        let b = tape.mul(&tape.mul(&b, &lambda_b)?, &tape.param(&self.lambda_d))?;
        let input = (pass.dropout.is_some() && self.dropout > 0.0).then(|| pass.dropout(x, self.dropout)).transpose()?;
        Ok(vec![LowRank { a, b, scale: 1.0, rows: self.rows.clone(), input }])
    }
}

impl Vera {
    /// The shared A [r, in] and B [out, r], as large as the largest of the chosen layers needs; Kaiming-uniform.
    fn projections(&self, model: &mut dyn Network, chosen: &[Chosen]) -> Result<(Param, Param)> {
        let (mut out, mut input) = (0, 0);
        model.visit_slots(&mut |slot| {
            let SlotMut::Linear(slot) = slot else { return };
            for chosen in chosen.iter().filter(|c| c.slot == slot.info.path) {
                out = out.max(rows_of(chosen, slot).len());
                input = input.max(slot.dims().1);
            }
        });
        let mut draw = |name: &str, rows: usize, columns: usize| -> Result<Param> {
            let bound = (6.0 / columns as f64).sqrt();
            let mut stream = seed::stream(self.projection_prng_key, &format!("vera/{name}"));
            Ok(Param::frozen(format!("base_model.{name}"), Initializer::of(model, &mut stream).uniform((rows, columns), bound)?))
        };
        Ok((draw("vera_A", self.r, input)?, draw("vera_B", out, self.r)?))
    }
}

impl Method for Vera {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let (a, b) = self.projections(model, context.chosen)?;
        let mut params = Vec::new();
        let init = Initializer::of(model, context.init);
        try_visit(model, &mut |slot| {
            let SlotMut::Linear(slot) = slot else { return Ok(()) };
            let path = slot.info.path.clone();
            for chosen in context.chosen.iter().filter(|c| c.slot == path) {
                let rows = rows_of(chosen, slot);
                let name = |which: &str| tensor_name(chosen, &format!("vera_lambda_{which}"));
                let lambda_b = Param::trainable(name("b"), init.zeros(rows.len())?);
                let lambda_d = Param::trainable(name("d"), (init.ones(self.r)? * self.d_initial)?);
                params.extend([lambda_b.clone(), lambda_d.clone()].map(|param| AdapterParam::added(param, chosen)));
                let (a, b, columns) = (a.clone(), b.clone(), slot.dims().1);
                slot.attach(Box::new(Update { a, b, lambda_b, lambda_d, dropout: self.vera_dropout, columns, rows }));
            }
            Ok(())
        })?;
        let config = linear_config("VERA", self, model, context.chosen);
        Ok(Attachment { buffers: vec![a, b], ..Attachment::new(params, config) })
    }
}
