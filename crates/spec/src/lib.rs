//! Pure data of peftbench: what a sweep and a run *are*, with no tensor, table or process in sight.
//!
//! * [`sweep_spec`]: the TOML file a person writes; [`run_spec`]: one cell of its grid, fully resolved.
//! * [`canonical`]: the canonical JSON of a run and the [`RunId`] made from it.
//! * [`lr_selection`]: how a sweep chooses learning rates, and the record of what it chose.
//! * [`targets`] and [`layers`]: the two selector languages.
//! * [`manifest`] and [`event`]: what a run leaves behind, and in which order it says it.
//! * [`seed`]: named random streams derived from one seed.
//!
//! Every other crate may depend on this one; it depends on none of them.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod canonical;
pub mod component;
pub mod error;
pub mod event;
pub mod layers;
pub mod locate;
pub mod lr_selection;
pub mod manifest;
pub mod run_spec;
pub mod seed;
pub mod suggest;
pub mod sweep_spec;
pub mod targets;

pub use canonical::RunId;
pub use component::Component;
pub use error::SpecError;
pub use event::Event;
pub use layers::LayerSelection;
pub use lr_selection::LrSelection;
pub use manifest::Manifest;
pub use run_spec::{LrScheduler, RunSpec, TrainSpec};
pub use sweep_spec::SweepSpec;
pub use targets::{Candidate, Role, SlotKind, TargetExpr};
