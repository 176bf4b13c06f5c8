//! FourierFT (Gao et al., 2024, "Parameter-efficient fine-tuning with discrete Fourier transform"): ΔW = scaling · Re(IDFT₂(F)), where the
//! trained coefficients are the only non-zero elements of the spectrum F [out, in], at frequencies drawn once from a seed.
//!
//! The coefficients start standard normal, as in peft, or at zero.
//!
//! With d_out, d_in the dimensions and (u, v) the frequencies, ΔW[p, q] = scaling / (d_out d_in) Σ c cos(2π (u p / d_out + v q / d_in)). It is
//! summed over the coefficients of a row of F first and then, as one matrix product, over the rows that have any. A step keeps the input;
//! W + ΔW is computed again in the backward pass.
//!
//! The frequencies are those that Hugging Face draws from `random_loc_seed` with torch's generator, and need no place in the adapter file.

use super::Options;
use super::initializer::Initializer;
use super::parts::{at_least_one, attach_linear, finite, linear_config, projection_targets, refuse_part, tensor_name};
use super::torch_random::random_permutation;
use crate::error::Result;
use crate::method::{AttachContext, Attachment, Method};
use crate::selection::Chosen;
use peftbench_models::slots::{LinearAdapter, LinearSlot};
use peftbench_models::{Network, Pass};
use peftbench_ops::candle_fn::DerivedWeight;
use peftbench_ops::{DType, Device, Param, Tensor};
use peftbench_spec::{SlotKind, SpecError, TargetExpr};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::f64::consts::TAU;
use std::rc::Rc;
use std::sync::Arc;

/// Options, by Hugging Face's names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FourierFt {
    /// Trained coefficients a layer.
    pub n_frequency: usize,
    /// Factor of ΔW.
    pub scaling: f64,
    /// Seed of the frequencies.
    pub random_loc_seed: u64,
    /// Start at zero; otherwise at standard normal coefficients, Hugging Face's default.
    pub init_weights: bool,
}

impl Default for FourierFt {
    fn default() -> Self {
        Self { n_frequency: 1000, scaling: 150.0, random_loc_seed: 777, init_weights: false }
    }
}

impl Options for FourierFt {
    const PEFT_TYPE: Option<&'static str> = Some("FOURIERFT");

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        at_least_one("n_frequency", self.n_frequency)?;
        finite("scaling", self.scaling)?;
        match u32::try_from(self.random_loc_seed) {
            Ok(_) => Ok(()),
            Err(_) => Err(SpecError::at("random_loc_seed", format!("expected a number below 2^32, found {}", self.random_loc_seed))),
        }
    }
}

/// The waves of all layers of one shape.
struct Waves {
    /// cos and −sin of 2π u p / d_out for each distinct row u of the spectrum, [d_out, 2 rows], times 1 / (d_out d_in).
    rows: Tensor,
    /// cos and sin of 2π v q / d_in for each coefficient, [n, d_in] each.
    cosines: Tensor,
    sines: Tensor,
    /// The distinct row of each coefficient.
    row_of: Tensor,
}

impl Waves {
    fn new(out: usize, input: usize, frequencies: &[usize], device: &Device) -> Result<Self> {
        let mut rows: BTreeMap<usize, u32> = frequencies.iter().map(|f| (f / input, 0)).collect();
        rows.values_mut().zip(0..).for_each(|(index, i)| *index = i);
        let row_of: Vec<u32> = frequencies.iter().map(|f| rows[&(f / input)]).collect();
        // The product of frequency and position is reduced to one period before it becomes a float.
        let angle = |frequency: usize, position: usize, period: usize| TAU * (frequency * position % period) as f64 / period as f64;
        let factor = 1.0 / (out * input) as f64;
        let across = |wave: fn(f64) -> f64| {
            let values: Vec<f64> = (0..out).flat_map(|p| rows.keys().map(move |&u| wave(angle(u, p, out)))).collect();
            Tensor::from_vec(values, (out, rows.len()), device)
        };
        let across = (Tensor::cat(&[&across(f64::cos)?, &across(|a| -a.sin())?], 1)? * factor)?.to_dtype(DType::F32)?;
        let along = |wave: fn(f64) -> f64| {
            let values: Vec<f32> =
                frequencies.iter().flat_map(|f| (0..input).map(move |q| wave(angle(f % input, q, input)) as f32)).collect();
            Tensor::from_vec(values, (frequencies.len(), input), device)
        };
        let row_of = Tensor::from_vec(row_of, frequencies.len(), device)?;
        Ok(Self { rows: across, cosines: along(f64::cos)?, sines: along(f64::sin)?, row_of })
    }

    /// ΔW [out, in] without the scaling, from the coefficients [n].
    fn delta(&self, coefficients: &Tensor) -> peftbench_ops::Result<Tensor> {
        let coefficients = coefficients.unsqueeze(1)?;
        let rows = self.rows.dim(1)? / 2;
        let zeros = Tensor::zeros((rows, self.cosines.dim(1)?), DType::F32, coefficients.device())?;
        let sum = |waves: &Tensor| zeros.index_add(&self.row_of, &waves.broadcast_mul(&coefficients)?, 0);
        self.rows.matmul(&Tensor::cat(&[&sum(&self.cosines)?, &sum(&self.sines)?], 0)?)
    }
}

/// The spectrum of one layer.
struct Spectrum {
    coefficients: Param,
    waves: Arc<Waves>,
    scaling: f64,
    layer: Option<usize>,
}

impl LinearAdapter for Spectrum {
    fn derive(&self, pass: &Pass<'_>) -> Option<DerivedWeight> {
        let (waves, scale) = (self.waves.clone(), self.scaling * pass.scale_of(self.layer));
        let function = move |weight: &Tensor, params: &[Tensor]| weight + (waves.delta(&params[0])? * scale)?;
        Some(DerivedWeight { params: vec![pass.tape.param(&self.coefficients)], function: Rc::new(function) })
    }
}

impl FourierFt {
    fn attach_to(
        &self,
        slot: &mut LinearSlot,
        chosen: &Chosen,
        init: &mut Initializer<'_>,
        shared: &mut HashMap<(usize, usize), Arc<Waves>>,
    ) -> Result<Vec<Param>> {
        refuse_part("fourierft", chosen)?;
        let (out, input) = slot.dims();
        if self.n_frequency > out * input {
            let problem = format!("{} coefficients are more than the elements of `{}` [{out}, {input}]", self.n_frequency, chosen.path());
            return Err(SpecError::at("n_frequency", problem).into());
        }
        let waves = match shared.get(&(out, input)) {
            Some(waves) => waves.clone(),
            None => {
                let frequencies = random_permutation(out * input, self.n_frequency, self.random_loc_seed);
                Arc::new(Waves::new(out, input, &frequencies, slot.weight.param.value().device())?)
            }
        };
        shared.insert((out, input), waves.clone());
        let dims = [self.n_frequency];
        let start = if self.init_weights { init.zeros(&dims)? } else { init.normal(&dims, 1.0)? };
        let coefficients = Param::trainable(tensor_name(chosen, "fourierft_spectrum"), start);
        slot.attach(Box::new(Spectrum { coefficients: coefficients.clone(), waves, scaling: self.scaling, layer: chosen.layer }));
        Ok(vec![coefficients])
    }
}

impl Method for FourierFt {
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[SlotKind::Linear]
    }

    fn default_targets(&self, arch: &str) -> TargetExpr {
        projection_targets(arch)
    }

    fn starts_as_base(&self) -> bool {
        self.init_weights
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let mut shared = HashMap::new();
        let params = attach_linear(model, context, "fourierft", &mut |slot, chosen, init| self.attach_to(slot, chosen, init, &mut shared))?;
        Ok(Attachment::new(params, linear_config("FOURIERFT", self, model, context.chosen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_by_rows_is_the_sum_over_all_coefficients() {
        let (out, input) = (5, 6);
        let frequencies = random_permutation(out * input, 9, 3);
        let coefficients: Vec<f32> = (0..9).map(|i| i as f32 - 4.0).collect();
        let found = Waves::new(out, input, &frequencies, &peftbench_ops::device::host()).unwrap();
        let found = found
            .delta(&Tensor::from_vec(coefficients.clone(), 9, &peftbench_ops::device::host()).unwrap())
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (p, row) in found.iter().enumerate() {
            for (q, &value) in row.iter().enumerate() {
                let wave = |(f, c): (&usize, &f32)| {
                    let (u, v) = (f / input, f % input);
                    f64::from(*c) * (TAU * ((u * p) as f64 / out as f64 + (v * q) as f64 / input as f64)).cos()
                };
                let expected = frequencies.iter().zip(&coefficients).map(wave).sum::<f64>() / (out * input) as f64;
                assert!((f64::from(value) - expected).abs() < 1e-6, "[{p}, {q}]: {value}, expected {expected}");
            }
        }
    }
}
