//! Several updates of one layer as the one that Hugging Face PEFT knows: ranks stacked, B with a block for each.
//!
//! Row parts: with A = [A_x; A_z] and B = [[B_x, 0], [0, B_z]], B A is what the parts do together.
//!
//! PiSSA and OLoRA take s · B₀ A₀ from the base weight. Relative to the original base the update is s · (B A − B₀ A₀), a LoRA of twice
//! the rank with A = [A; A₀] and B = [B, −B₀]: what peft's `path_initial_model_for_weight_conversion` writes.

use super::attach::Trained;
use crate::error::Result;
use crate::folder::{FileTensors, PREFIX};
use crate::method::FileForm;
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Tensor};

/// The updates of one layer.
pub(crate) struct Stacked {
    path: String,
    out: usize,
    updates: Vec<Trained>,
}

impl std::fmt::Debug for Stacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} updates of {} as one", self.updates.len(), self.path)
    }
}

impl Stacked {
    /// The updates of the layer `path` with `out` rows; there is at least one.
    pub fn new(path: &str, out: usize, updates: Vec<Trained>) -> Self {
        Self { path: path.to_owned(), out, updates }
    }

    /// Rank of the one update.
    pub fn rank(&self) -> usize {
        self.updates.iter().map(|u| u.size.rank * (1 + usize::from(u.taken.is_some()))).sum()
    }

    /// Factor of the one update; the updates' own, relative to it, go into B.
    pub fn scale(&self) -> f64 {
        self.updates.first().map_or(1.0, |update| update.scale)
    }

    fn name(&self, which: &str) -> String {
        format!("{PREFIX}{}.lora_{which}.weight", self.path)
    }

    /// B of one update as it stands in the file, and back.
    fn rescaled(&self, b: &Tensor, factor: f64) -> Result<Tensor> {
        // A factor of 1 must keep every bit.
        Ok(if factor == 1.0 { b.clone() } else { (b * factor)? })
    }
}

impl FileForm for Stacked {
    fn params(&self) -> Vec<Param> {
        self.updates.iter().flat_map(|update| [update.a.clone(), update.b.clone()]).collect()
    }

    fn write(&self) -> Result<Vec<(String, Tensor)>> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for update in &self.updates {
            let factor = update.scale / self.scale();
            a.push(update.a.value());
            b.push(spread_rows(&self.rescaled(&update.b.value(), factor)?, &update.rows, self.out)?);
            if let Some((first_a, first_b)) = &update.taken {
                a.push(first_a.clone());
                b.push(spread_rows(&(first_b * -factor)?, &update.rows, self.out)?);
            }
        }
        Ok(vec![(self.name("A"), Tensor::cat(&a, 0)?), (self.name("B"), Tensor::cat(&b, 1)?)])
    }

    fn read(&self, file: &mut FileTensors) -> Result<()> {
        let (a, b) = (file.take(&self.name("A"))?, file.take(&self.name("B"))?);
        let own: usize = self.updates.iter().map(|update| update.size.rank).sum();
        // An adapter that peft has saved without converting it has nothing but its own ranks.
        let converted = a.dim(0)? != own || own == self.rank();
        let expected = if converted { self.rank() } else { own };
        let columns = self.updates.first().map_or(0, |update| update.a.value().dims()[1]);
        if a.dims() != [expected, columns] || b.dims() != [self.out, expected] {
            let problem = format!("the LoRA on `{}` has shapes {:?} and {:?}", self.path, a.dims(), b.dims());
            return Err(file.wrong(format!("{problem}, but [{expected}, {columns}] and [{}, {expected}] are attached", self.out)));
        }
        let mut start = 0;
        for update in &self.updates {
            let rank = update.size.rank;
            let block = b.narrow(1, start, rank)?;
            let part = rows_of(&block, &update.rows)?;
            let rest = (&block - spread_rows(&part, &update.rows, self.out)?)?.abs()?.sum_all()?.to_scalar::<f32>()?;
            if rest != 0.0 {
                let problem = format!("the LoRA on `{}` changes rows outside the attached parts; attach it to the whole layer", self.path);
                return Err(file.wrong(problem));
            }
            update.a.set(a.narrow(0, start, rank)?.contiguous()?)?;
            update.b.set(self.rescaled(&part, self.scale() / update.scale)?.contiguous()?)?;
            start += rank * (1 + usize::from(converted && update.taken.is_some()));
        }
        Ok(())
    }
}

/// The rows `rows` of a matrix [out, n].
pub(crate) fn rows_of(matrix: &Tensor, rows: &RowRanges) -> Result<Tensor> {
    let parts = rows.iter().map(|range| matrix.narrow(0, range.start, range.len())).collect::<peftbench_ops::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// The inverse of [`rows_of`]: `part` [rows, n] in a matrix [out, n] of zeros.
pub(crate) fn spread_rows(part: &Tensor, rows: &RowRanges, out: usize) -> Result<Tensor> {
    let columns = part.dim(1)?;
    let zeros = |count: usize| Tensor::zeros((count, columns), part.dtype(), part.device());
    let (mut pieces, mut taken, mut end) = (Vec::new(), 0, 0);
    for range in rows.iter() {
        pieces.extend([zeros(range.start - end)?, part.narrow(0, taken, range.len())?]);
        (taken, end) = (taken + range.len(), range.end);
    }
    pieces.push(zeros(out - end)?);
    pieces.retain(|piece| piece.elem_count() > 0);
    Ok(Tensor::cat(&pieces, 0)?)
}
