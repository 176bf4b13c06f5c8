//! Which entries of E stay: peft's `RankAllocator`.

use super::{AdaLora, Initializer, Triple};
use crate::error::Result;
use crate::method::TrainingStep;
use peftbench_ops::{Gradients, Param, Tensor};
use std::sync::Arc;

/// Scores of all layers. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Allocator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layers: Vec<Layer>,
    /// [1]: 1 as soon as entries have been pruned.
    allocated: Param,
}

/// One layer's tensors, each with the means of its sensitivity and of that's uncertainty.
#[derive(Debug)]
struct Layer {
    triple: Triple,
    /// For A, E and B.
    scores: [Score; 3],
    /// [init_r]: 0 where E is pruned.
    mask: Param,
}

#[derive(Debug)]
struct Score {
    param: Param,
    sensitivity: Param,
    uncertainty: Param,
}

impl Score {
    fn new(param: &Param) -> Result<Self> {
        let zeros = |what: &str| -> Result<Param> { Ok(Param::frozen(format!("{}.{what}", param.name()), param.value().zeros_like()?)) };
        Ok(Self { param: param.clone(), sensitivity: zeros("sensitivity")?, uncertainty: zeros("uncertainty")? })
    }

    /// Takes |value · gradient| into the means; a tensor without a gradient in this step keeps them.
    fn follow(&self, options: &AdaLora, grads: &Gradients, grad_scale: f64) -> Result<()> {
        let Some(grad) = grads.get(&self.param) else { return Ok(()) };
        let now = ((self.param.value() * grad)?.abs()? * grad_scale)?;
        let mean = |before: Tensor, now: &Tensor, beta: f64| (before * beta)? + (now * (1.0 - beta))?;
        let sensitivity = mean(self.sensitivity.value(), &now, options.beta1)?;
        let distance = (&now - &sensitivity)?.abs()?;
        self.uncertainty.set(mean(self.uncertainty.value(), &distance, options.beta2)?)?;
        Ok(self.sensitivity.set(sensitivity)?)
    }

    fn value(&self) -> Result<Tensor> {
        Ok((self.sensitivity.value() * self.uncertainty.value())?)
    }

    fn reset(&self) -> Result<()> {
        self.sensitivity.set(self.sensitivity.value().zeros_like()?)?;
        Ok(self.uncertainty.set(self.uncertainty.value().zeros_like()?)?)
    }
}

impl Allocator {
    pub fn new(triples: Vec<Triple>, init: &Initializer<'_>) -> Result<Self> {
        let layer = |triple: Triple| -> Result<Layer> {
            let mask = Param::frozen(format!("{}.mask", triple.e.name()), init.ones(triple.e.elem_count())?);
            Ok(Layer { scores: [Score::new(&triple.a)?, Score::new(&triple.e)?, Score::new(&triple.b)?], mask, triple })
        };
        let layers = triples.into_iter().map(layer).collect::<Result<_>>()?;
        let allocated = Param::frozen("adalora.allocated", init.zeros(1)?);
        Ok(Self(Arc::new(Inner { layers, allocated })))
    }

    pub fn triples(&self) -> Vec<&Triple> {
        self.0.layers.iter().map(|layer| &layer.triple).collect()
    }

    /// Whether entries have been pruned.
    pub fn has_allocated(&self) -> Result<bool> {
        Ok(self.0.allocated.value().to_vec1::<f32>()? == [1.0])
    }

    pub fn state(&self) -> Vec<Param> {
        let of = |layer: &Layer| {
            let scores = layer.scores.iter().flat_map(|score| [score.sensitivity.clone(), score.uncertainty.clone()]);
            scores.chain([layer.mask.clone()]).collect::<Vec<_>>()
        };
        self.0.layers.iter().flat_map(of).chain([self.0.allocated.clone()]).collect()
    }

    /// What follows an optimizer step of a schedule of `total`.
    pub fn follow(&self, options: &AdaLora, total: u64, made: &TrainingStep<'_>) -> Result<()> {
        let (step, end) = (made.step, total - options.tfinal);
        if step > end {
            return self.apply_masks();
        }
        if step < end {
            for score in self.0.layers.iter().flat_map(|layer| &layer.scores) {
                score.follow(options, made.grads, made.grad_scale)?;
            }
        }
        let due = step > options.tinit && step.is_multiple_of(options.delta_t);
        if due || step == end {
            self.prune(budget(options, self.initial(), self.0.layers.len(), step, total))?;
        }
        if step == end {
            self.0.layers.iter().flat_map(|layer| &layer.scores).try_for_each(Score::reset)?;
        }
        Ok(())
    }

    /// Entries of all E.
    fn initial(&self) -> usize {
        self.0.layers.iter().map(|layer| layer.triple.e.elem_count()).sum()
    }

    /// Keeps the `budget` entries of the highest scores.
    fn prune(&self, budget: usize) -> Result<()> {
        let scores = self.0.layers.iter().map(entry_scores).collect::<Result<Vec<_>>>()?;
        let mut all = scores.concat();
        all.sort_by(f64::total_cmp);
        let pruned = all.len().saturating_sub(budget);
        let Some(&threshold) = pruned.checked_sub(1).and_then(|last| all.get(last)) else { return Ok(()) };
        for (layer, scores) in self.0.layers.iter().zip(scores) {
            let mask: Vec<f32> = scores.iter().map(|score| f32::from(u8::from(*score > threshold))).collect();
            layer.mask.set(Tensor::new(mask, layer.mask.value().device())?)?;
        }
        self.0.allocated.set(self.0.allocated.value().ones_like()?)?;
        self.apply_masks()
    }

    fn apply_masks(&self) -> Result<()> {
        for Layer { triple, mask, .. } in &self.0.layers {
            triple.e.set((triple.e.value() * mask.value().unsqueeze(1)?)?)?;
        }
        Ok(())
    }
}

/// Score of each entry of a layer's E: its own, and the means over its row of A and its column of B.
fn entry_scores(layer: &Layer) -> Result<Vec<f64>> {
    let [a, e, b] = &layer.scores;
    let vectors = (a.value()?.mean(1)? + b.value()?.mean(0)?)?;
    let sum = (e.value()?.squeeze(1)? + vectors)?;
    Ok(sum.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

/// Entries that may stay behind step `step`: all at first, then falling with the cube of what is left of the way.
pub(super) fn budget(options: &AdaLora, initial: usize, layers: usize, step: u64, total: u64) -> usize {
    let target = options.target_r * layers;
    if step <= options.tinit {
        return initial;
    }
    if step > total - options.tfinal {
        return target;
    }
    let left = 1.0 - (step - options.tinit) as f64 / (total - options.tfinal - options.tinit) as f64;
    ((initial - target) as f64 * left.powi(3) + target as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_ops::{DType, Tape};
    use peftbench_spec::seed;

    fn options() -> AdaLora {
        AdaLora { init_r: 3, target_r: 1, tinit: 2, tfinal: 3, total_step: 12, beta1: 0.5, beta2: 0.5, ..AdaLora::default() }
    }

    #[test]
    fn the_budget_falls_from_all_to_the_target() {
        let found: Vec<usize> = (1..=12).map(|step| budget(&options(), 6, 2, step, 12)).collect();
        // 6 − 4 · (1 − (1 − (step − 2) / 7)³), rounded down.
        assert_eq!(found, [6, 6, 4, 3, 2, 2, 2, 2, 2, 2, 2, 2]);
    }

    /// Two layers whose entries matter in known order.
    fn layers() -> Allocator {
        let layer = |l: usize| {
            let tensor = |name: &str, rows: usize, columns: usize| {
                let values: Vec<f32> = (0..rows * columns).map(|i| 0.1 * (1.0 + i as f32 + 5.0 * l as f32)).collect();
                Param::trainable(
                    format!("layers.{l}.lora_{name}"),
                    Tensor::from_vec(values, (rows, columns), &peftbench_ops::device::host()).unwrap(),
                )
            };
            Triple { path: format!("layers.{l}"), a: tensor("A", 3, 2), e: tensor("E", 3, 1), b: tensor("B", 2, 3) }
        };
        Allocator::new(vec![layer(0), layer(1)], &Initializer::on_cpu(&mut seed::stream(0, "allocator"))).unwrap()
    }

    fn entries(allocator: &Allocator) -> Vec<Vec<f32>> {
        allocator.triples().iter().map(|t| t.e.value().flatten_all().unwrap().to_vec1().unwrap()).collect()
    }

    /// A step whose loss is a quarter of the sum of the squares of everything, so that every gradient is half the value.
    fn step(allocator: &Allocator, number: u64) {
        let tape = Tape::new();
        let mut loss = None;
        for param in allocator.triples().iter().flat_map(|t| [&t.a, &t.e, &t.b]) {
            let p = tape.param(param);
            let term = tape.scale(&tape.sum_all(&tape.mul(&p, &p).unwrap()).unwrap(), 0.25).unwrap();
            loss = Some(match loss {
                Some(loss) => tape.add(&loss, &term).unwrap(),
                None => term,
            });
        }
        let grads = tape.backward(&loss.unwrap()).unwrap();
        allocator.follow(&options(), 12, &TrainingStep { step: number, total: 12, grads: &grads, grad_scale: 1.0 }).unwrap();
    }

    #[test]
    fn the_least_entries_go_first_and_stay_away() {
        let allocator = layers();
        let kept = |allocator: &Allocator| -> Vec<usize> {
            entries(allocator).iter().map(|e| e.iter().filter(|value| **value != 0.0).count()).collect()
        };
        (1..=2).for_each(|number| step(&allocator, number));
        assert_eq!(kept(&allocator), [3, 3]);
        assert!(!allocator.has_allocated().unwrap());
        (3..=9).for_each(|number| step(&allocator, number));
        assert_eq!(kept(&allocator), [0, 2], "{:?}", entries(&allocator));
        assert!(allocator.has_allocated().unwrap());
        // The optimizer moves pruned entries; in the final phase they are put back to 0, and nothing else is.
        let e = &allocator.triples()[0].e.clone();
        e.set(Tensor::ones((3, 1), DType::F32, &peftbench_ops::device::host()).unwrap()).unwrap();
        step(&allocator, 10);
        assert_eq!(kept(&allocator), [0, 2]);
    }

    #[test]
    fn a_restored_state_goes_on_alike() {
        let (whole, before, after) = (layers(), layers(), layers());
        (1..=7).for_each(|number| step(&whole, number));
        (1..=4).for_each(|number| step(&before, number));
        let values =
            |allocator: &Allocator| allocator.triples().iter().flat_map(|t| [t.a.clone(), t.e.clone(), t.b.clone()]).collect::<Vec<_>>();
        let pairs = before.state().into_iter().chain(values(&before)).zip(after.state().into_iter().chain(values(&after)));
        pairs.for_each(|(from, to)| to.set(from.value()).unwrap());
        (5..=7).for_each(|number| step(&after, number));
        assert_eq!(entries(&whole), entries(&after));
    }
}
