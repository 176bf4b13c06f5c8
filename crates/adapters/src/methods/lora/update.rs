//! What LoRA attaches to slots.

use peftbench_models::Pass;
use peftbench_models::slots::{LinearAdapter, ParamAdapter};
use peftbench_ops::linear::{LowRank, RowRanges};
use peftbench_ops::{Param, Result, Tensor, Var};

/// The update of one linear layer, or of some of its rows.
pub(crate) struct Update {
    pub a: Param,
    pub b: Param,
    pub scale: f64,
    pub dropout: f64,
    pub rows: RowRanges,
}

impl LinearAdapter for Update {
    fn updates(&self, pass: &Pass<'_>, x: &Var) -> Result<Vec<LowRank>> {
        let input = (pass.dropout.is_some() && self.dropout > 0.0).then(|| pass.dropout(x, self.dropout)).transpose()?;
        Ok(vec![LowRank { a: pass.tape.param(&self.a), b: pass.tape.param(&self.b), scale: self.scale, rows: self.rows.clone(), input }])
    }
}

/// The update of an embedding table's look-ups: A [r, vocabulary], B [hidden, r].
pub(crate) struct LookUp {
    pub a: Param,
    pub b: Param,
    pub scale: f64,
}

impl ParamAdapter for LookUp {
    fn lookup(&self, pass: &Pass<'_>, ids: &Tensor, rows: Var) -> Result<Var> {
        let tape = pass.tape;
        let reduced = tape.embedding_columns(&tape.param(&self.a), ids)?;
        let update = tape.linear(&reduced, &tape.param(&self.b), None)?;
        tape.add(&rows, &tape.scale(&update, self.scale)?)
    }
}
