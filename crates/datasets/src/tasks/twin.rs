//! What the tasks of the invented world have in common: their options, and the way from those to rows.
//!
//! A twin is a task of the invented world in the image of a real one. It lies beside it, supplies rows, and shares its format, its examples
//! and its scores.

use super::loading::{Loaded, too_small};
use super::{check_counts, check_difficulty};
use crate::error::Result;
use crate::format::{Format, Options};
use crate::world::rows::{Counts, MakeRows};
use crate::world::{World, WorldSizes};
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// Options of a task of the invented world that have a format besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldOptions {
    /// Training examples.
    pub train: usize,
    /// Validation examples.
    pub valid: usize,
    /// Test examples.
    pub test: usize,
    /// From 0, which is easiest; what each level adds is said where the rows are made.
    pub difficulty: u8,
    /// Which world; the base model must have been pre-trained on it.
    pub world_seed: u64,
    /// How much there is in the world; as in pre-training.
    pub world_sizes: WorldSizes,
}

impl WorldOptions {
    /// The options of a task that asks for `[train, valid, test]` examples by default.
    pub(crate) fn new([train, valid, test]: [usize; 3], difficulty: u8) -> Self {
        Self { train, valid, test, difficulty, world_seed: 0, world_sizes: WorldSizes::default() }
    }

    /// Checks all of them.
    pub(crate) fn check(&self, most_difficult: u8) -> std::result::Result<(), SpecError> {
        self.world_sizes.check()?;
        check_counts(self.counts())?;
        check_difficulty(self.difficulty, most_difficult)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { train: self.train, valid: self.valid, test: self.test }
    }

    pub(crate) fn world(&self) -> World {
        World::with_sizes(self.world_seed, self.world_sizes)
    }
}

/// One task of the invented world.
pub(crate) struct Twin<T> {
    /// Its name in a spec.
    pub(crate) name: &'static str,
    /// Training, validation and test examples by default.
    pub(crate) sizes: [usize; 3],
    /// Level of difficulty by default.
    pub(crate) difficulty: u8,
    /// The hardest level.
    pub(crate) most_difficult: u8,
    /// Its rows at a level of difficulty.
    pub(crate) rows: MakeRows<T>,
}

impl<T> Twin<T> {
    /// Reads the task's options over those of the protocol it names; `format` is the format of a protocol, whose templates may name
    /// `placeholders`.
    pub(crate) fn parse(
        &self,
        task: &Component,
        protocols: &[&'static str],
        format: impl Fn(&'static str) -> Format,
        placeholders: &[&str],
    ) -> std::result::Result<Options<WorldOptions>, SpecError> {
        let own = WorldOptions::new(self.sizes, self.difficulty);
        let options = Options::parse(task, protocols, |protocol| Options { own, format: format(protocol) })?;
        options.format.check(placeholders)?;
        options.own.check(self.most_difficult)?;
        Ok(options)
    }

    /// Makes the rows.
    pub(crate) fn load(&self, options: &WorldOptions) -> Result<Loaded<T>> {
        let rows = (self.rows)(&options.world(), options.counts(), options.difficulty)
            .map_err(|short| too_small(self.name, short, "lower `train`, `valid` or `test`, or raise `difficulty` or `world_sizes`"))?;
        Ok(Loaded::of_world(self.name, options.world_seed, rows))
    }
}
