//! Differentiable operators for parameter-efficient fine-tuning on candle tensors, and exact accounting of the memory they take.
//!
//! candle's own autograd computes and keeps a gradient for every frozen weight and cuts the graph in silence at several fused
//! operators. Here a [`Tape`] records explicit nodes instead: each knows which inputs need a gradient and exactly which tensors it
//! keeps for the backward pass, and drops them as soon as it has been differentiated.
//!
//! * [`tape`]: the tape, its variables and gradients; [`param`]: named tensors that may be trained.
//! * [`elementary`]: small operators from which a new method is written in plain lines; [`candle_fn`]: closures of candle's operators;
//!   [`columns`] and [`inverse`]: what rotations and scalings of activations need; [`routing`]: what a mixture of experts needs.
//! * [`linear`], [`norm`], [`layer_norm`], [`activation`], [`swiglu`], [`rotary`], [`attention`], [`conv`], [`scan`], [`ssd`], [`s4d`],
//!   [`cross_entropy`], [`embedding`], [`dropout`]: fused operators, where the time and the memory go. Each runs a vectorised kernel on
//!   f32 CPU tensors and a composition of candle operators on any other type or device.
//! * [`adamw`]: the optimizer's update.
//! * [`device`]: where tensors lie and how that is chosen.
//! * [`memory`]: the counting allocator; [`mapped`]: read-only file maps; [`clock`]: processor time.
//!
//! This is the only crate of the workspace that holds `unsafe` code.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod candle_fn;
pub mod clock;
pub mod columns;
mod complex;
pub mod conv;
mod cpu;
pub mod cross_entropy;
pub mod device;
mod diagonal_scan;
mod diagonal_scan_kernel;
pub mod dropout;
pub mod elementary;
mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod inverse;
pub mod key_values;
pub mod layer_norm;
pub mod linear;
pub mod mapped;
pub mod memory;
pub mod norm;
mod panels;
pub mod parallel;
pub mod param;
mod products;
pub mod rotary;
pub mod routing;
pub mod s4d;
pub mod scan;
mod scan_kernel;
mod scan_step;
mod simd;
mod small_product;
pub mod ssd;
mod ssd_backward;
mod ssd_kernel;
pub mod swiglu;
pub mod tape;
#[cfg(test)]
mod testing;

pub use candle_core::{D, DType, Device, Error, Result, Shape, Tensor};
pub use candle_core::{quantized, safetensors};
pub use param::Param;
pub use tape::{Gradients, Meter, Tape, Var};
