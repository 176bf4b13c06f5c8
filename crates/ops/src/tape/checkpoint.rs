//! Activation checkpointing (Chen et al., 2016): a block keeps its inputs only and is run again in the backward pass.
//!
//! The second run goes on a tape of its own, whose leaves continue the sums of the outer tape's: contributions to a gradient are added
//! in the very order in which they would be without checkpointing, so that not a bit differs.

use super::backward::Walk;
use super::{Kind, Leaf, Mode, Recording, Tape, Var};
use candle_core::{Result, Tensor};
use std::cell::RefCell;

/// A block: it computes its output from the inputs and from parameters, on any tape.
pub(super) type Block = Box<dyn Fn(&Tape, &[Var]) -> Result<Var>>;

impl Tape {
    /// block(tape, inputs), of which only the inputs are kept: the block is run once more when it is differentiated.
    ///
    /// Each run must do the same, with the same parameters: a dropout in it takes a seed that the block holds, not one drawn anew.
    /// What it computes with but does not own in the end (masks, tables) it captures as tensors; whatever needs a gradient must be an input
    /// or a parameter taken with [`Tape::param`] of the tape it is given.
    pub fn checkpoint<F>(&self, inputs: &[&Var], block: F) -> Result<Var>
    where
        F: Fn(&Tape, &[Var]) -> Result<Var> + 'static,
    {
        let Some(recording) = self.recording() else {
            let inputs: Vec<Var> = inputs.iter().map(|input| (*input).clone()).collect();
            return block(self, &inputs);
        };
        let watching = Tape(Mode::Watch(RefCell::default()));
        let detached: Vec<Var> = inputs.iter().map(|input| input.detach()).collect();
        let output = block(&watching, &detached)?.value;
        let Mode::Watch(params) = watching.0 else { return Ok(Var::constant(output)) };
        let mut recording = recording.borrow_mut();
        let mut nodes: Vec<Option<usize>> = inputs.iter().map(|input| input.node).collect();
        nodes.extend(params.into_inner().iter().map(|param| Some(recording.leaf(param))));
        if nodes.iter().all(Option::is_none) {
            return Ok(recording.give(output, None));
        }
        let saved = recording.save(detached.into_iter().map(|input| input.value).collect());
        let kind = Kind::Checkpoint { scope: recording.scope, saved, block: Box::new(block) };
        let node = recording.push(nodes, kind);
        Ok(recording.give(output, Some(node)))
    }

    /// A tape with a leaf for each input that needs a gradient, and the inputs on it.
    fn for_block(values: &[Tensor], nodes: &[Option<usize>]) -> (Self, Vec<Var>) {
        let mut recording = Recording { scopes: vec!["block".to_owned()], ..Recording::default() };
        let mut input = |(i, (value, node)): (usize, (&Tensor, &Option<usize>))| {
            let node = node.map(|_| recording.push(Vec::new(), Kind::Leaf(Leaf::Input(i))));
            Var { node, ..Var::constant(value.clone()) }
        };
        let inputs = values.iter().zip(nodes).enumerate().map(&mut input).collect();
        (Self(Mode::Record(RefCell::new(recording))), inputs)
    }
}

impl Walk {
    /// Runs a block again and walks back through it; `nodes` are those of its inputs, then those of its parameters.
    pub(super) fn rerun(
        &mut self,
        block: &dyn Fn(&Tape, &[Var]) -> Result<Var>,
        saved: &[Tensor],
        nodes: &[Option<usize>],
        grad: Tensor,
    ) -> Result<()> {
        let (tape, inputs) = Tape::for_block(saved, nodes);
        let output = block(&tape, &inputs)?;
        let input_leaves: Vec<Option<usize>> = inputs.iter().map(|input| input.node).collect();
        drop(inputs);
        let (Mode::Record(recording), Some(last)) = (tape.0, output.node) else { return Ok(()) };
        drop(output);
        let mut inner = Walk::new(recording.into_inner());
        for (leaf, node) in input_leaves.iter().zip(nodes) {
            if let (Some(leaf), Some(node)) = (leaf, node) {
                inner.pending[*leaf] = std::mem::take(&mut self.pending[*node]);
            }
        }
        for (key, leaf) in &inner.leaves {
            let Some(node) = self.leaves.get(key).filter(|node| nodes.contains(&Some(**node))) else {
                candle_core::bail!("checkpoint: the block took other trained parameters when it was run again")
            };
            inner.pending[*leaf] = std::mem::take(&mut self.pending[*node]);
        }
        inner.add(last, grad)?;
        inner.run(&mut |leaf, gathered, dims| {
            let node = match leaf {
                Leaf::Param(param) => self.leaves.get(&param.key()).copied(),
                Leaf::Input(i) => nodes[i],
            };
            if let Some(node) = node {
                self.take_over(node, gathered, dims);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::random;
    use crate::{DType, Gradients, Param, Result, Tape, Var};

    /// Parameters of a two-layer block, one of them shared by all blocks.
    struct Net {
        blocks: Vec<[Param; 2]>,
        shared: Param,
        frozen: Param,
    }

    const WIDTH: usize = 24;

    impl Net {
        fn new() -> Self {
            let square = |name: &str, seed| Param::trainable(name, (random(&[WIDTH, WIDTH], seed, DType::F32) * 0.2).unwrap());
            let block = |i: u64| [square("a", 10 * i), Param::trainable("norm", random(&[WIDTH], 10 * i + 1, DType::F32))];
            Self {
                blocks: (0..3).map(block).collect(),
                shared: square("shared", 99),
                frozen: Param::frozen("frozen", square("f", 98).value()),
            }
        }

        /// x + tanh(dropout(norm(x)) A Sᵀ F S), with halves of x taken apart and joined again.
        fn block(&self, i: usize) -> impl Fn(&Tape, &[Var]) -> Result<Var> + 'static {
            let ([a, norm], shared, frozen) = (self.blocks[i].clone(), self.shared.clone(), self.frozen.clone());
            move |tape, inputs| {
                let x = &inputs[0];
                let halves = tape.split(x, 1, &[WIDTH / 2, WIDTH / 2])?;
                let joined = tape.cat(&[&halves[1], &halves[0]], 1)?;
                let h = tape.dropout(&tape.rms_norm(&joined, &tape.param(&norm), 1e-5)?, 0.2, 7 + i as u64)?;
                let h = tape.linear(&h, &tape.param(&a), None)?;
                let h = tape.linear(&h, &tape.param(&shared), None)?;
                let h = tape.linear(&h, &tape.param(&frozen), None)?;
                let h = tape.tanh(&tape.linear(&h, &tape.param(&shared), None)?)?;
                tape.add(x, &h)
            }
        }

        fn run(&self, checkpoint: bool) -> Result<(Gradients, u64)> {
            let tape = Tape::new();
            let start = Param::trainable("x", random(&[5, WIDTH], 5, DType::F32));
            let mut x = tape.linear(&tape.param(&start), &tape.param(&self.shared), None)?;
            for i in 0..self.blocks.len() {
                x = match checkpoint {
                    true => tape.checkpoint(&[&x], self.block(i))?,
                    false => self.block(i)(&tape, &[x])?,
                };
            }
            let loss = tape.sum_all(&tape.mul(&x, &x)?)?;
            drop(x);
            let saved = tape.saved_bytes().into_iter().filter(|((_, name), _)| *name != "mul").map(|(_, bytes)| bytes).sum();
            Ok((tape.backward(&loss)?, saved))
        }
    }

    fn bits(grads: &Gradients) -> Vec<(String, Vec<u32>)> {
        let of = |tensor: &crate::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
        grads.iter().map(|(param, grad)| (param.name().to_owned(), of(grad))).collect()
    }

    #[test]
    fn gradients_have_the_same_bits_and_order_as_without() -> Result<()> {
        let net = Net::new();
        let ((plain, plain_bytes), (checkpointed, bytes)) = (net.run(false)?, net.run(true)?);
        assert_eq!(plain.len(), 8);
        assert_eq!(bits(&plain), bits(&checkpointed));
        // The input of each block.
        assert_eq!(bytes, (3 * 5 * WIDTH * 4) as u64);
        assert!(plain_bytes > 3 * bytes, "{plain_bytes} {bytes}");
        Ok(())
    }

    #[test]
    fn blocks_may_lie_within_blocks() -> Result<()> {
        let net = Net::new();
        let run = |nested: bool| {
            let tape = Tape::new();
            let x = tape.param(&Param::trainable("x", random(&[5, WIDTH], 5, DType::F32)));
            let (first, second) = (net.block(0), std::rc::Rc::new(net.block(1)));
            let x = match nested {
                false => second(&tape, &[first(&tape, &[x])?])?,
                true => tape.checkpoint(&[&x], move |tape, inputs| {
                    let second = second.clone();
                    tape.checkpoint(&[&first(tape, inputs)?], move |tape, inputs| second(tape, inputs))
                })?,
            };
            let loss = tape.sum_all(&x)?;
            tape.backward(&loss)
        };
        assert_eq!(bits(&run(false)?), bits(&run(true)?));
        Ok(())
    }

    #[test]
    fn a_block_in_which_nothing_trains_is_not_recorded() -> Result<()> {
        let net = Net::new();
        net.blocks.iter().flatten().chain([&net.shared]).for_each(|param| param.set_active(false));
        let tape = Tape::new();
        let x = Var::constant(random(&[5, WIDTH], 5, DType::F32));
        let y = tape.checkpoint(&[&x], net.block(0))?;
        assert!(!y.needs_grad());
        assert!(tape.saved_bytes().is_empty());
        // Without a tape the block is simply run.
        let inferred = Tape::inference().checkpoint(&[&x], net.block(0))?;
        assert_eq!(inferred.value().to_vec2::<f32>()?, y.value().to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn a_block_that_trains_something_else_when_run_again_is_an_error() -> Result<()> {
        let net = Net::new();
        net.blocks[0][0].set_active(false);
        let tape = Tape::new();
        let y = tape.checkpoint(&[&Var::constant(random(&[5, WIDTH], 5, DType::F32))], net.block(0))?;
        net.blocks[0][0].set_active(true);
        let loss = tape.sum_all(&y)?;
        let error = tape.backward(&loss).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("other trained parameters"), "{error}");
        Ok(())
    }
}
