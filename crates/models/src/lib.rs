//! Base models for training and decoding, on the tape of `peftbench-ops`.
//!
//! A model is built of [`slots`]: places with a path in the names of the Hugging Face checkpoint, where a method may attach. A slot
//! with nothing attached is just the frozen computation; a model never names a method.
//!
//! * [`model`]: the [`Model`] trait and the table of architectures. Each is a `Decoder` in a file of its own, in the frame of `causal_lm`.
//! * [`weights`]: where tensors come from: a Hugging Face folder ([`checkpoint`]), a GGUF file ([`gguf`]), or fresh initialisation.
//! * [`merge`]: base weights with what is attached worked into them.
//! * [`cache`] and [`decoding`]: the state between decoded tokens; greedy decoding, sampling and beam search.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod attention;
mod block;
mod bloom;
mod builder;
pub mod cache;
mod causal_lm;
pub mod checkpoint;
pub mod column_weights;
pub mod config;
pub mod decoding;
pub mod error;
mod experts;
mod fused_attention;
pub mod gguf;
mod gpt2;
mod gptj;
mod jamba;
mod layer;
pub mod listing;
mod llama;
mod mamba;
mod mamba2;
pub mod merge;
mod mixer;
mod mlp;
pub mod model;
mod norm;
mod opt;
pub mod pass;
mod positions;
mod rotary;
pub mod s4d;
pub mod slots;
mod ssm_state;
pub mod weights;

pub use cache::Cache;
pub use error::{ModelError, Result};
pub use merge::Merged;
pub use model::{Model, Network, load};
pub use pass::Pass;
