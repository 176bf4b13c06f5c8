//! Cross-entropy of a language model's head over labelled rows, without ever holding all logits.
//!
//! Rows are taken some at a time: their logits are computed, turned into the loss and its gradient with respect to the hidden states
//! (and the head, if that trains), and dropped. What stays for the backward pass is as large as the hidden states.

use crate::cpu::is_f32_cpu;
use crate::elementwise;
use crate::linear::{LowRank, RowRanges};
use crate::parallel;
use crate::products::{Operand, product};
use crate::simd::{dispatch, exp_one};
use crate::tape::{Tape, Var};
use candle_core::{CpuStorage, D, DType, InplaceOp1, Layout, Result, Tensor};
use std::cell::RefCell;

/// Most logits held at once. A head's weights are packed anew for every piece, so that pieces of few rows would cost more than they save.
const MAX_LOGITS: usize = 1 << 23;

/// Most rows in a piece.
const MAX_ROWS: usize = 256;

impl Tape {
    /// The rows of x [n, d] (or [.., d], flattened) at `indices`, as [indices, d].
    pub fn select_rows(&self, x: &Var, indices: &[u32]) -> Result<Var> {
        let dims = x.dims().to_vec();
        let flat = x.value().reshape(((), dims[dims.len() - 1]))?;
        let rows = flat.dim(0)?;
        let index = Tensor::new(indices, x.value().device())?;
        let output = flat.contiguous()?.index_select(&index, 0)?;
        Ok(self.record(
            "select_rows",
            &[x],
            output,
            || vec![index],
            move |back| {
                let zeros = Tensor::zeros((rows, back.grad.dim(1)?), back.grad.dtype(), back.grad.device())?;
                Ok(vec![Some(zeros.index_add(&back.saved[0], &back.grad, 0)?.reshape(dims)?)])
            },
        ))
    }

    /// Mean over rows of −log softmax(h Wᵀ + bias)[label], in nats: hidden [n, d], weight [vocabulary, d], bias [vocabulary], labels n.
    /// With no rows at all the loss is 0.
    pub fn cross_entropy(&self, hidden: &Var, weight: &Var, bias: Option<&Var>, labels: &[u32]) -> Result<Var> {
        self.low_rank_cross_entropy(hidden, weight, bias, &[], labels)
    }

    /// [`Tape::cross_entropy`] of a head with low-rank updates: each adds scale · (h Aᵀ) Bᵀ to the logits `rows`. The updates are taken a
    /// few rows at a time like the head itself, so that neither all logits nor W + scale · B A ever exist.
    pub fn low_rank_cross_entropy(
        &self,
        hidden: &Var,
        weight: &Var,
        bias: Option<&Var>,
        updates: &[LowRank],
        labels: &[u32],
    ) -> Result<Var> {
        let reduced: Vec<Var> =
            updates.iter().map(|u| self.linear(u.input.as_ref().unwrap_or(hidden), &u.a, None)).collect::<Result<_>>()?;
        let mut inputs = vec![hidden, weight];
        inputs.extend(bias);
        inputs.extend(reduced.iter().zip(updates).flat_map(|(h, update)| [h, &update.b]));
        let wanted: Vec<bool> = inputs.iter().map(|input| input.needs_grad() && self.is_recording()).collect();
        let head = Head {
            weight: weight.value(),
            bias: bias.map(Var::value),
            updates: updates.iter().zip(&reduced).map(|(u, h)| HeadUpdate::new(h.value(), u)).collect(),
        };
        let pass = head.rows(hidden.value(), labels, &wanted)?;
        drop(head);
        let scale = 1.0 / labels.len().max(1) as f64;
        let loss = pass.losses.iter().sum::<f64>() * scale;
        let loss = Tensor::new(loss, hidden.value().device())?.to_dtype(hidden.value().dtype())?;
        let present: Vec<usize> = (0..inputs.len()).filter(|&i| pass.grads[i].is_some()).collect();
        let saved = pass.grads.into_iter().flatten().collect();
        let count = inputs.len();
        Ok(self.record(
            "cross_entropy",
            &inputs,
            loss,
            || saved,
            move |back| {
                let mut grads = vec![None; count];
                for (i, grad) in present.into_iter().zip(&back.saved) {
                    grads[i] = Some(match is_f32_cpu(grad) {
                        true => elementwise::scale(grad, f64::from(back.grad.to_scalar::<f32>()?) * scale)?,
                        false => grad.broadcast_mul(&(&back.grad * scale)?)?,
                    });
                }
                Ok(grads)
            },
        ))
    }
}

/// log softmax(h Wᵀ + bias)[label] of each row, in nats, with the head's low-rank updates.
pub fn label_log_probs(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, updates: &[LowRank], labels: &[u32]) -> Result<Vec<f64>> {
    let tape = Tape::inference();
    let constant = Var::constant(hidden.clone());
    let reduced: Vec<Var> =
        updates.iter().map(|u| tape.linear(u.input.as_ref().unwrap_or(&constant), &u.a, None)).collect::<Result<_>>()?;
    let updates: Vec<HeadUpdate<'_>> = updates.iter().zip(&reduced).map(|(u, h)| HeadUpdate::new(h.value(), u)).collect();
    let wanted = vec![false; 2 + usize::from(bias.is_some()) + 2 * updates.len()];
    let pass = Head { weight, bias, updates }.rows(hidden, labels, &wanted)?;
    Ok(pass.losses.into_iter().map(|loss| -loss).collect())
}

/// What turns hidden states into logits.
struct Head<'a> {
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    updates: Vec<HeadUpdate<'a>>,
}

/// A low-rank update whose product with A is at hand: [n, rank].
struct HeadUpdate<'a> {
    h: &'a Tensor,
    b: &'a Tensor,
    scale: f64,
    rows: &'a RowRanges,
}

impl<'a> HeadUpdate<'a> {
    fn new(h: &'a Tensor, update: &'a LowRank) -> Self {
        Self { h, b: update.b.value(), scale: update.scale, rows: &update.rows }
    }
}

struct RowPass {
    losses: Vec<f64>,
    /// Gradients of the summed loss with respect to hidden, weight, bias (where there is one), and h and B of each update, where wanted.
    grads: Vec<Option<Tensor>>,
}

/// A gradient to which pieces of the batch contribute: a row each, or a summand each.
enum Gathered {
    Rows(Vec<Tensor>),
    Sum(Option<Tensor>),
}

impl Gathered {
    fn add(&mut self, piece: Tensor) -> Result<()> {
        match self {
            Self::Rows(rows) => rows.push(piece),
            Self::Sum(sum) => {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + piece)?,
                    None => piece,
                })
            }
        }
        Ok(())
    }

    fn finish(self, like: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rows(rows) if !rows.is_empty() => Tensor::cat(&rows, 0),
            Self::Sum(Some(sum)) => Ok(sum),
            _ => like.zeros_like(),
        }
    }
}

impl Head<'_> {
    /// Every input of a pass over `hidden`, in the order of the gradients, and whether its gradient is gathered row by row.
    fn inputs<'b>(&'b self, hidden: &'b Tensor) -> Vec<(&'b Tensor, bool)> {
        let mut inputs = vec![(hidden, true), (self.weight, false)];
        inputs.extend(self.bias.map(|bias| (bias, false)));
        inputs.extend(self.updates.iter().flat_map(|update| [(update.h, true), (update.b, false)]));
        inputs
    }

    fn rows(&self, hidden: &Tensor, labels: &[u32], wanted: &[bool]) -> Result<RowPass> {
        let (rows, _) = hidden.dims2()?;
        let vocabulary = self.weight.dim(0)?;
        if rows != labels.len() {
            candle_core::bail!("cross-entropy: {rows} rows but {} labels", labels.len())
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= vocabulary) {
            candle_core::bail!("cross-entropy: label {label} is outside the vocabulary of {vocabulary}")
        }
        let inputs = self.inputs(hidden);
        let start_of = |&(_, by_rows): &(&Tensor, bool)| if by_rows { Gathered::Rows(Vec::new()) } else { Gathered::Sum(None) };
        let mut gathered: Vec<Option<Gathered>> =
            inputs.iter().zip(wanted).map(|(input, wanted)| wanted.then(|| start_of(input))).collect();
        let mut losses = Vec::with_capacity(rows);
        let pieces = rows.div_ceil((MAX_LOGITS / vocabulary).clamp(1, MAX_ROWS));
        let step = rows.div_ceil(pieces.max(1)).max(1);
        for start in (0..rows).step_by(step) {
            let count = step.min(rows - start);
            let part = hidden.narrow(0, start, count)?;
            let logits = self.logits(&part, start)?;
            let slopes = softmax_losses(logits, &labels[start..start + count], &mut losses, wanted.contains(&true))?;
            if let Some(slopes) = slopes {
                self.differentiate(&part, start, &slopes, &mut gathered)?;
            }
        }
        let finish = |(gathered, (input, _)): (Option<Gathered>, &(&Tensor, bool))| gathered.map(|g| g.finish(input)).transpose();
        Ok(RowPass { losses, grads: gathered.into_iter().zip(&inputs).map(finish).collect::<Result<_>>()? })
    }

    /// Logits of the rows `part` of the hidden states, which begin at row `start`.
    fn logits(&self, part: &Tensor, start: usize) -> Result<Tensor> {
        let tape = Tape::inference();
        let (part, weight) = (Var::constant(part.clone()), Var::constant(self.weight.clone()));
        let mut logits = tape.linear(&part, &weight, self.bias.cloned().map(Var::constant).as_ref())?.value().clone();
        for update in &self.updates {
            let (h, b) = (update.h.narrow(0, start, part.dims()[0])?, Var::constant(update.b.clone()));
            let added = (tape.linear(&Var::constant(h), &b, None)?.value() * update.scale)?;
            let width = logits.dim(1)?;
            logits = (logits + update.rows.spread(&added, width)?)?;
        }
        Ok(logits)
    }

    /// Adds what the rows from `start` contribute to each wanted gradient; `slopes` are those of the logits.
    fn differentiate(&self, part: &Tensor, start: usize, slopes: &Tensor, gathered: &mut [Option<Gathered>]) -> Result<()> {
        let mut wanted = gathered.iter_mut();
        let mut next = || wanted.next().and_then(Option::as_mut);
        if let Some(to_hidden) = next() {
            to_hidden.add(product(Operand::rows(slopes), Operand::rows(self.weight), 1.0)?)?;
        }
        if let Some(to_weight) = next() {
            to_weight.add(product(Operand::columns(slopes), Operand::rows(part), 1.0)?)?;
        }
        if self.bias.is_some()
            && let Some(to_bias) = next()
        {
            to_bias.add(slopes.sum(0)?)?;
        }
        for update in &self.updates {
            let slopes = update.rows.columns_of(slopes)?.contiguous()?;
            if let Some(to_h) = next() {
                to_h.add((slopes.matmul(update.b)? * update.scale)?)?;
            }
            if let Some(to_b) = next() {
                let h = update.h.narrow(0, start, slopes.dim(0)?)?;
                to_b.add((slopes.t()?.matmul(&h)? * update.scale)?)?;
            }
        }
        Ok(())
    }
}

/// Appends each row's loss and, if asked, turns the logits into softmax − one-hot.
fn softmax_losses(logits: Tensor, labels: &[u32], losses: &mut Vec<f64>, slopes: bool) -> Result<Option<Tensor>> {
    if !is_f32_cpu(&logits) {
        let max = logits.max_keepdim(1)?;
        let log_sum = (logits.broadcast_sub(&max)?.exp()?.sum_keepdim(1)?.log()? + max)?;
        let index = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
        let chosen = logits.gather(&index, D::Minus1)?;
        losses.extend((&log_sum - chosen)?.squeeze(1)?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
        let minus_one = (index.ones_like()?.to_dtype(logits.dtype())? * -1.0)?;
        return slopes.then(|| logits.broadcast_sub(&log_sum)?.exp()?.scatter_add(&index, &minus_one, 1)).transpose();
    }
    let op = SoftmaxLosses { labels, losses: RefCell::default() };
    logits.inplace_op1(&op)?;
    losses.extend(op.losses.into_inner());
    Ok(slopes.then_some(logits))
}

/// Turns logits into softmax − one-hot in place, and finds each row's loss.
struct SoftmaxLosses<'a> {
    labels: &'a [u32],
    losses: RefCell<Vec<f64>>,
}

impl InplaceOp1 for SoftmaxLosses<'_> {
    fn name(&self) -> &'static str {
        "softmax_losses"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (rows, vocabulary) = layout.shape().dims2()?;
        let CpuStorage::F32(values) = logits else { candle_core::bail!("expected f32 logits on the cpu") };
        let shared = crate::cpu::Shared::new(&mut values[layout.start_offset()..]);
        let mut found = vec![0.0f64; rows];
        parallel_rows(&mut found, |i, loss| {
            #[allow(unsafe_code)]
            // SAFETY: each task owns its row.
            let row = unsafe { shared.slice(i * vocabulary, vocabulary) };
            *loss = dispatch(
                #[inline(always)]
                || row_loss(row, self.labels[i] as usize),
            );
        });
        self.losses.replace(found);
        Ok(())
    }
}

fn parallel_rows(out: &mut [f64], task: impl Fn(usize, &mut f64) + Sync + Send) {
    let work = out.len() * 4096;
    parallel::for_each_piece(out, 1, work, |i, piece| piece.iter_mut().for_each(|loss| task(i, loss)));
}

/// −log softmax at `label`; the row becomes softmax − one-hot.
#[inline(always)]
fn row_loss(row: &mut [f32], label: usize) -> f64 {
    let max = crate::norm::max(row);
    let chosen = row[label];
    for value in row.iter_mut() {
        *value = exp_one(*value - max);
    }
    let total = crate::norm::sum(row);
    let inverse = 1.0 / total;
    row.iter_mut().for_each(|value| *value *= inverse);
    row[label] -= 1.0;
    f64::from(total).ln() + f64::from(max) - f64::from(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, check_kernel, random};
    use candle_core::Device;

    #[test]
    fn agrees_with_finite_differences_and_the_kernel() -> Result<()> {
        let loss = |t: &Tape, v: &[Var]| t.cross_entropy(&t.select_rows(&v[0], &[4, 0, 4])?, &v[1], v.get(2), &[1, 0, 5]);
        check_gradients(&[&[2, 3, 4], &[6, 4], &[6]], loss)?;
        check_kernel(&[&[2, 3, 4], &[6, 4], &[6]], 1e-5, loss)?;
        check_kernel(&[&[2, 3, 40], &[1000, 40]], 1e-5, loss)
    }

    #[test]
    fn low_rank_updates_agree_with_finite_differences_and_with_the_merged_head() -> Result<()> {
        let update = |v: &[Var], a: usize, rows: RowRanges, input: Option<Var>| LowRank {
            a: v[a].clone(),
            b: v[a + 1].clone(),
            scale: 1.5,
            rows,
            input,
        };
        let loss = |t: &Tape, v: &[Var]| {
            let updates = [update(v, 3, (0..6).into(), None), update(v, 5, (1..4).into(), Some(t.scale(&v[0], 0.5)?))];
            t.low_rank_cross_entropy(&v[0], &v[1], Some(&v[2]), &updates, &[1, 0, 5])
        };
        let shapes: [&[usize]; 7] = [&[3, 4], &[6, 4], &[6], &[2, 4], &[6, 2], &[3, 4], &[3, 3]];
        check_gradients(&shapes, loss)?;
        check_kernel(&shapes, 1e-5, loss)?;
        let [hidden, weight, a, b] = [(300, 8), (9000, 8), (2, 8), (9000, 2)].map(|(n, d)| random(&[n, d], n as u64, DType::F32));
        let labels: Vec<u32> = (0..300).collect();
        let low_rank =
            LowRank { a: Var::constant(a.clone()), b: Var::constant(b.clone()), scale: 0.7, rows: (0..9000).into(), input: None };
        let split = label_log_probs(&hidden, &weight, None, &[low_rank], &labels)?;
        let merged = label_log_probs(&hidden, &(weight + (b.matmul(&a)? * 0.7)?)?, None, &[], &labels)?;
        assert!(split.iter().zip(&merged).all(|(a, b)| (a - b).abs() < 1e-4 * b.abs()));
        Ok(())
    }

    #[test]
    fn no_rows_give_no_loss_and_zero_gradients() -> Result<()> {
        let hidden = crate::Param::trainable("h", random(&[3, 4], 1, DType::F32));
        let tape = Tape::new();
        let rows = tape.select_rows(&tape.param(&hidden), &[])?;
        let weight = Var::constant(random(&[6, 4], 2, DType::F32));
        let loss = tape.cross_entropy(&rows, &weight, None, &[])?;
        assert_eq!(loss.value().to_scalar::<f32>()?, 0.0);
        assert_eq!(tape.backward(&loss)?.get(&hidden).unwrap().abs()?.sum_all()?.to_scalar::<f32>()?, 0.0);
        Ok(())
    }

    #[test]
    fn log_probs_sum_to_one_over_the_vocabulary() -> Result<()> {
        let (hidden, weight) = (random(&[1, 4], 1, DType::F32), random(&[9, 4], 2, DType::F32));
        let mut total = 0.0;
        for label in 0..9 {
            total += label_log_probs(&hidden, &weight, None, &[], &[label])?[0].exp();
        }
        assert!((total - 1.0).abs() < 1e-5, "{total}");
        assert!(label_log_probs(&hidden, &weight, None, &[], &[9]).is_err());
        assert_eq!(hidden.device().location(), Device::Cpu.location());
        Ok(())
    }
}
