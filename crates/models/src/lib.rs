//! Base models for training and decoding, on the tape of `peftbench-ops`.
//!
//! A model is built of [`slots`]: places with a path in the names of the Hugging Face checkpoint, where a method may attach. A slot
//! with nothing attached is just the frozen computation; a model never names a method.
//!
//! * [`model`]: the [`Model`] trait and the table of architectures. Each is a `Decoder` in a file of its own, in the frame of `causal_lm`.
//! * [`weights`]: where tensors come from: a Hugging Face folder ([`checkpoint`]), a GGUF file ([`gguf`]), or fresh initialisation.
//! * [`cache`] and [`decoding`]: the state between decoded tokens, and greedy decoding.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod attention;
mod builder;
pub mod cache;
mod causal_lm;
pub mod checkpoint;
pub mod config;
pub mod decoding;
pub mod error;
pub mod gguf;
mod llama;
mod mamba;
mod mixer;
mod mlp;
pub mod model;
mod norm;
pub mod pass;
mod rotary;
pub mod slots;
pub mod weights;

pub use cache::Cache;
pub use error::{ModelError, Result};
pub use model::{Model, load};
pub use pass::Pass;
