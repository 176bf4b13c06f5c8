//! From encoded examples to the tensors of a batch.

use crate::error::Result;
use peftbench_datasets::Encoded;
use peftbench_ops::{Device, Tensor};

/// A right-padded batch. Padding needs no mask: every model here is causal, and a loss row never looks at what follows it.
#[derive(Debug)]
pub struct Batch {
    /// Token ids, [batch, length].
    pub ids: Tensor,
    /// Indices into [batch · length] of the positions whose next token is a label.
    pub rows: Vec<u32>,
    /// The labels.
    pub labels: Vec<u32>,
    /// Tokens, padding included.
    pub tokens: u64,
    /// Padding among them.
    pub padding: u64,
}

/// Joins sequences; the loss is on the tokens from each one's `loss_start`.
pub fn join(sequences: &[&Encoded], device: &Device) -> Result<Batch> {
    let length = sequences.iter().map(|s| s.ids.len()).max().unwrap_or(0);
    let (mut ids, mut rows, mut labels) = (Vec::with_capacity(sequences.len() * length), Vec::new(), Vec::new());
    for (b, sequence) in sequences.iter().enumerate() {
        ids.extend_from_slice(&sequence.ids);
        ids.resize((b + 1) * length, 0);
        for position in sequence.loss_start.max(1)..sequence.ids.len() {
            rows.push((b * length + position - 1) as u32);
            labels.push(sequence.ids[position]);
        }
    }
    let tokens = ids.len() as u64;
    let real: usize = sequences.iter().map(|s| s.ids.len()).sum();
    let ids = Tensor::from_vec(ids, (sequences.len(), length), device)?;
    Ok(Batch { ids, rows, labels, tokens, padding: tokens - real as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_label_tokens_are_rows_and_padding_is_counted() {
        let sequence = |ids: &[u32], prompt_len| Encoded { ids: ids.to_vec(), prompt_len, loss_start: prompt_len, truncated: false };
        let (a, b) = (sequence(&[5, 6, 7, 8], 2), sequence(&[9, 4], 1));
        let batch = join(&[&a, &b], &peftbench_ops::device::host()).unwrap();
        assert_eq!(batch.ids.to_vec2::<u32>().unwrap(), [[5, 6, 7, 8], [9, 4, 0, 0]]);
        assert_eq!((batch.rows, batch.labels), (vec![1, 2, 4], vec![7, 8, 4]));
        assert_eq!((batch.tokens, batch.padding), (8, 2));
    }
}
