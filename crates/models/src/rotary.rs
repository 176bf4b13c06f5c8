//! Rotary position embedding (Su et al., 2021) as a config describes it.

use peftbench_ops::rotary::{RotaryLayout, RotaryTables};
use peftbench_ops::{Device, Result, Tensor};
use serde_json::Value;

/// The frequencies of a model's rotary embedding.
pub(crate) struct Rotary {
    /// Radians a position, one a pair of dimensions.
    frequencies: Vec<f32>,
    layout: RotaryLayout,
}

impl Rotary {
    /// θ^(−2i/dim) for each pair of `dim` dimensions.
    pub fn new(theta: f64, dim: usize, layout: RotaryLayout) -> Self {
        let frequencies = (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim as f64) as f32).collect();
        Self { frequencies, layout }
    }

    /// LLaMA's: the frequencies as `rope_scaling` or the newer `rope_parameters` of a config change them.
    ///
    /// # Errors
    /// Says which scaling is not known, or which of its numbers is missing.
    pub fn scaled(theta: f64, dim: usize, scaling: Option<&Value>) -> std::result::Result<Self, String> {
        let plain = Self::new(theta, dim, RotaryLayout::Halves);
        let Some(scaling) = scaling else { return Ok(plain) };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
        let number = |key: &str| {
            let value = scaling.get(key).and_then(Value::as_f64);
            value.filter(|value| *value > 0.0).ok_or_else(|| format!("rope scaling `{kind}` needs a positive `{key}`"))
        };
        let change: Box<dyn Fn(f64) -> f64> = match kind {
            "default" => return Ok(plain),
            "linear" => {
                let factor = number("factor")?;
                Box::new(move |frequency| frequency / factor)
            }
            "llama3" => {
                let (factor, original) = (number("factor")?, number("original_max_position_embeddings")?);
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                Box::new(move |frequency| llama3(frequency, factor, original, low, high))
            }
            other => return Err(format!("rope scaling `{other}` is not supported; supported: `default`, `linear`, `llama3`")),
        };
        let frequencies = plain.frequencies.iter().map(|&frequency| change(f64::from(frequency)) as f32).collect();
        Ok(Self { frequencies, ..plain })
    }

    /// The tables for these positions: one a token where all sequences of a batch share them, or one a token of each sequence.
    pub fn tables(&self, positions: &[usize], device: &Device) -> Result<RotaryTables> {
        let angles = positions.iter().flat_map(|&position| self.frequencies.iter().map(move |f| position as f32 * f));
        // Hugging Face computes the angles in f32.
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).map(|(sin, cos)| (cos, sin)).unzip();
        let dims = (positions.len(), self.frequencies.len());
        let (cos, sin) = (Tensor::from_vec(cos, dims, device)?, Tensor::from_vec(sin, dims, device)?);
        Ok(RotaryTables { cos, sin, layout: self.layout })
    }
}

/// LLaMA-3's scaling: wavelengths beyond the context it was trained on are stretched by `factor`, short ones kept, and those between
/// blended (Hugging Face's `_compute_llama3_parameters`).
fn llama3(frequency: f64, factor: f64, original: f64, low: f64, high: f64) -> f64 {
    let turns = original * frequency / std::f64::consts::TAU;
    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
    (1.0 - kept) * frequency / factor + kept * frequency
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        // `apply_scaling` of Meta's llama-models, with head_dim 8, rope_theta 500000, factor 8, low 1, high 4, context 64.
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let found = Rotary::scaled(500_000.0, 8, Some(&scaling)).unwrap().frequencies;
        let expected = [1.0, 0.004_700_754, 1.767_767e-4, 6.647_87e-6];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found} {expected}");
        }
    }

    #[test]
    fn an_unknown_or_incomplete_scaling_is_refused() {
        let refused = |scaling: Value| Rotary::scaled(1e4, 8, Some(&scaling)).err().unwrap();
        assert!(refused(json!({"type": "yarn"})).contains("`yarn` is not supported"));
        assert!(refused(json!({"rope_type": "llama3", "factor": 8.0})).contains("`original_max_position_embeddings`"));
    }
}
