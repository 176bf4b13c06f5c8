//! PEFT methods and layer policies.
//!
//! * [`method`]: the [`Method`] trait; `methods/*.rs` hold one method each, and [`methods::METHODS`] is their table.
//! * [`selection`]: from target and layer expressions to the slots of a model.
//! * [`policy`]: the [`LayerPolicy`] trait; `policies/*.rs` hold one policy each, and [`policies::POLICIES`] is their table.
//! * [`export`] and [`folder`]: adapters in the two-file form of Hugging Face PEFT, out and in; merged weights.
//!
//! A method never names a model and a model never names a method: they meet at the slots of `peftbench-models`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod decompose;
pub mod error;
pub mod export;
pub mod folder;
pub mod method;
pub mod methods;
pub mod policies;
pub mod policy;
pub mod selection;

pub use error::{AdapterError, Result};
pub use folder::AdapterFolder;
pub use method::{AdapterParam, Attachment, Method, Stage};
pub use policy::{Activity, LayerPolicy, Probe};
pub use selection::{Chosen, choose};
