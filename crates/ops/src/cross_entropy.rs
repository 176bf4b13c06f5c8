//! Cross-entropy of a language model's head over labelled rows, without ever holding all logits.
//!
//! Rows are taken some at a time: their logits are computed, turned into the loss and its gradient with respect to the hidden states
//! (and the head, if that trains), and dropped. What stays for the backward pass is as large as the hidden states.

use crate::cpu::is_f32_cpu;
use crate::parallel;
use crate::simd::{dispatch, exp_one};
use crate::tape::{Tape, Var};
use candle_core::{CpuStorage, D, DType, Result, Storage, Tensor};

/// Most logits held at once.
const MAX_LOGITS: usize = 1 << 21;

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
        let recording = self.is_recording();
        let mut inputs = vec![hidden, weight];
        inputs.extend(bias);
        let wanted = [hidden.needs_grad() && recording, weight.needs_grad() && recording, bias.is_some_and(Var::needs_grad) && recording];
        let pass = row_pass(hidden.value(), weight.value(), bias.map(Var::value), labels, wanted)?;
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
                    grads[i] = Some(grad.broadcast_mul(&(&back.grad * scale)?)?);
                }
                Ok(grads)
            },
        ))
    }
}

/// log softmax(h Wᵀ + bias)[label] of each row, in nats.
pub fn label_log_probs(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, labels: &[u32]) -> Result<Vec<f64>> {
    let pass = row_pass(hidden, weight, bias, labels, [false; 3])?;
    Ok(pass.losses.into_iter().map(|loss| -loss).collect())
}

struct RowPass {
    losses: Vec<f64>,
    /// Gradients of the summed loss with respect to hidden, weight and bias, where wanted.
    grads: [Option<Tensor>; 3],
}

fn row_pass(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, labels: &[u32], wanted: [bool; 3]) -> Result<RowPass> {
    let (rows, _) = hidden.dims2()?;
    let vocabulary = weight.dim(0)?;
    if rows != labels.len() {
        candle_core::bail!("cross-entropy: {rows} rows but {} labels", labels.len())
    }
    if let Some(label) = labels.iter().find(|&&label| label as usize >= vocabulary) {
        candle_core::bail!("cross-entropy: label {label} is outside the vocabulary of {vocabulary}")
    }
    let mut losses = Vec::with_capacity(rows);
    let mut to_hidden = Vec::new();
    let zeros = |like: &Tensor| like.zeros_like();
    let mut to_weight = wanted[1].then(|| zeros(weight)).transpose()?;
    let mut to_bias = bias.filter(|_| wanted[2]).map(zeros).transpose()?;
    let step = (MAX_LOGITS / vocabulary).clamp(1, 256);
    for start in (0..rows).step_by(step) {
        let count = step.min(rows - start);
        let part = hidden.narrow(0, start, count)?;
        let tape = Tape::inference();
        let constants = (Var::constant(part.clone()), Var::constant(weight.clone()), bias.cloned().map(Var::constant));
        let logits = tape.linear(&constants.0, &constants.1, constants.2.as_ref())?.value().clone();
        drop(constants);
        let slopes = softmax_losses(logits, &labels[start..start + count], &mut losses, wanted.contains(&true))?;
        let Some(slopes) = slopes else { continue };
        if wanted[0] {
            to_hidden.push(slopes.matmul(weight)?);
        }
        if let Some(sum) = &mut to_weight {
            *sum = (&*sum + slopes.t()?.matmul(&part)?)?;
        }
        if let Some(sum) = &mut to_bias {
            *sum = (&*sum + slopes.sum(0)?)?;
        }
    }
    let to_hidden = match wanted[0] {
        true if to_hidden.is_empty() => Some(zeros(hidden)?),
        true => Some(Tensor::cat(&to_hidden, 0)?),
        false => None,
    };
    Ok(RowPass { losses, grads: [to_hidden, to_weight, to_bias] })
}

/// Appends each row's loss and, if asked, turns the logits into softmax − one-hot.
fn softmax_losses(logits: Tensor, labels: &[u32], losses: &mut Vec<f64>, slopes: bool) -> Result<Option<Tensor>> {
    let (rows, vocabulary) = logits.dims2()?;
    if !is_f32_cpu(&logits) {
        let max = logits.max_keepdim(1)?;
        let log_sum = (logits.broadcast_sub(&max)?.exp()?.sum_keepdim(1)?.log()? + max)?;
        let index = Tensor::new(labels, logits.device())?.unsqueeze(1)?;
        let chosen = logits.gather(&index, D::Minus1)?;
        losses.extend((&log_sum - chosen)?.squeeze(1)?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
        let minus_one = (index.ones_like()?.to_dtype(logits.dtype())? * -1.0)?;
        return slopes.then(|| logits.broadcast_sub(&log_sum)?.exp()?.scatter_add(&index, &minus_one, 1)).transpose();
    }
    let mut values = take_f32(logits)?;
    let mut found = vec![0.0f64; rows];
    let shared = crate::cpu::Shared::new(&mut values);
    parallel_rows(&mut found, |i, loss| {
        #[allow(unsafe_code)]
        // SAFETY: each task owns its row.
        let row = unsafe { shared.slice(i * vocabulary, vocabulary) };
        *loss = dispatch(
            #[inline(always)]
            || row_loss(row, labels[i] as usize),
        );
    });
    losses.extend(found);
    slopes.then(|| Tensor::from_vec(values, (rows, vocabulary), &candle_core::Device::Cpu)).transpose()
}

fn parallel_rows(out: &mut [f64], task: impl Fn(usize, &mut f64) + Sync + Send) {
    let work = out.len() * 4096;
    parallel::for_each_piece(out, 1, work, |i, piece| piece.iter_mut().for_each(|loss| task(i, loss)));
}

/// −log softmax at `label`; the row becomes softmax − one-hot.
#[inline(always)]
fn row_loss(row: &mut [f32], label: usize) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
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

/// The values of a tensor that nothing else holds, without keeping two copies for longer than the move.
fn take_f32(tensor: Tensor) -> Result<Vec<f32>> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(values[layout.start_offset()..layout.start_offset() + tensor.elem_count()].to_vec()),
        _ => candle_core::bail!("expected f32 logits on the cpu"),
    }
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
            total += label_log_probs(&hidden, &weight, None, &[label])?[0].exp();
        }
        assert!((total - 1.0).abs() < 1e-5, "{total}");
        assert!(label_log_probs(&hidden, &weight, None, &[9]).is_err());
        assert_eq!(hidden.device().location(), Device::Cpu.location());
        Ok(())
    }
}
