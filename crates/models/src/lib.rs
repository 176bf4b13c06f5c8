//! Base models for training and decoding, on the tape of `peftbench-ops`.
//!
//! A model is built of [`slots`]: places with a path in the names of the Hugging Face checkpoint, where a method may attach. A slot
//! with nothing attached is just the frozen computation; a model never names a method.
//!
//! * [`model`]: the [`Model`] trait and the table of architectures; [`llama`] and [`mamba`] are its entries.
//! * [`weights`]: where tensors come from: a Hugging Face folder ([`checkpoint`]), a GGUF file ([`gguf`]), or fresh initialisation.
//! * [`cache`] and [`decoding`]: the state between decoded tokens, and greedy decoding.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cache;
pub mod checkpoint;
pub mod config;
pub mod decoding;
pub mod error;
pub mod gguf;
pub mod llama;
pub mod mamba;
pub mod model;
pub mod pass;
pub mod slots;
pub mod weights;

pub use cache::Cache;
pub use error::{ModelError, Result};
pub use model::{Model, load};
pub use pass::Pass;
