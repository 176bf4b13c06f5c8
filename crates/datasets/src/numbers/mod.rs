//! Tasks over sequences of numbers, for networks that read no tokens (S4D): images pixel by pixel, and the regression of one sequence on
//! another.
//!
//! A new one is a file here and a line in [`NUMBER_TASKS`]. Their names are among those of [`crate::tasks`] in specs and listings.

mod celeba;
mod images;
mod regression;

use crate::draw;
use crate::error::Result;
use crate::images::Images;
use crate::source::DataSource;
use crate::tasks::TaskEntry;
use peftbench_spec::seed::stream;
use peftbench_spec::{Component, SpecError};
use serde_json::{Map, Value};

/// A task over sequences of numbers.
pub trait NumberTask: Send + Sync {
    /// Its name in [`NUMBER_TASKS`].
    fn name(&self) -> &str;

    /// Reads or makes the sequences. Equal options and files give equal sequences.
    fn load(&self, source: &DataSource) -> Result<NumberSplits>;

    /// What a network is to make of a sequence.
    fn goal(&self) -> Goal;
}

/// What a network is to make of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// Its class, one of these. Scored by accuracy.
    Class(Vec<String>),
    /// What a teacher makes of it: a network of this config, with fresh weights from this seed. Scored by mean squared error.
    Teacher {
        /// `config.json` of the teacher.
        config: Map<String, Value>,
        /// Seed of its weights.
        seed: u64,
    },
}

/// A line of the table of tasks over numbers.
#[derive(Clone, Copy)]
pub struct NumberTaskEntry {
    /// Name in a spec.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// The task in words whose files it reads, if it reads any.
    pub data: Option<&'static TaskEntry>,
    /// Builds it from its options.
    pub build: fn(&Component) -> std::result::Result<Box<dyn NumberTask>, SpecError>,
    /// Fills in every default.
    pub resolve: fn(&Component) -> std::result::Result<Component, SpecError>,
}

/// Every task over numbers.
pub const NUMBER_TASKS: &[NumberTaskEntry] =
    &[regression::REGRESSION, images::DRAWN, images::MNIST, images::FASHION_MNIST, images::CIFAR10, celeba::CELEBA];

/// The entry that `task` names, if it is one over numbers.
pub fn find(task: &Component) -> Option<&'static NumberTaskEntry> {
    NUMBER_TASKS.iter().find(|entry| entry.name == task.name)
}

/// The sequences of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberSplits {
    /// Which data this is, for the record.
    pub dataset_id: String,
    /// The commit on the hub it came from, where that is known.
    pub revision: Option<String>,
    /// Sequences to train on.
    pub train: Sequences,
    /// Sequences for choices.
    pub valid: Sequences,
    /// Sequences for the reported number.
    pub test: Sequences,
}

impl NumberSplits {
    /// BLAKE3 over all that the sequences are made of, as 64 hex digits.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("peftbench number splits 1");
        [&self.train, &self.valid, &self.test].into_iter().for_each(|split| split.hash_into(&mut hasher));
        hasher.finalize().to_hex().to_string()
    }

    /// Drops the test split.
    pub fn drop_test(&mut self) {
        self.test.indices.clear();
    }

    /// Keeps at most this many sequences of each split; 0 keeps all. As [`crate::Splits::limit`].
    pub fn limit(&mut self, train: usize, valid: usize, test: usize) {
        let splits =
            [(&mut self.train, "limit/train", train), (&mut self.valid, "limit/valid", valid), (&mut self.test, "limit/test", test)];
        for (split, name, count) in splits {
            if count > 0 && count < split.len() {
                let chosen = draw::subset(&mut stream(0, name), split.len(), count);
                split.indices = chosen.into_iter().map(|i| split.indices[i]).collect();
            }
        }
    }
}

/// Sequences of one length and width.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequences {
    content: Content,
    /// Which of the content's sequences these are, in order.
    indices: Vec<usize>,
}

/// Where the numbers come from.
#[derive(Debug, Clone, PartialEq)]
enum Content {
    /// Whole numbers, each as likely as another, drawn again whenever they are read: a large training set takes no memory.
    Integers { seed: u64, split: &'static str, below: u32, length: usize, channels: usize },
    /// The pixels of images, row by row, as (value / 255 − mean) / deviation.
    Pixels { images: Images, mean: f32, deviation: f32 },
}

impl Sequences {
    fn new(content: Content, count: usize) -> Self {
        Self { content, indices: (0..count).collect() }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Steps of each.
    pub fn length(&self) -> usize {
        match &self.content {
            Content::Integers { length, .. } => *length,
            Content::Pixels { images, .. } => images.height * images.width,
        }
    }

    /// Numbers a step.
    pub fn channels(&self) -> usize {
        match &self.content {
            Content::Integers { channels, .. } => *channels,
            Content::Pixels { images, .. } => images.channels,
        }
    }

    /// Appends the numbers of sequence `index`, [length, channels], to `numbers`.
    ///
    /// # Panics
    /// Where there is no such sequence.
    pub fn read(&self, index: usize, numbers: &mut Vec<f32>) {
        let index = self.indices[index];
        match &self.content {
            Content::Integers { seed, split, below, length, channels } => {
                let mut stream = stream(*seed, &format!("sequence/{split}/{index}"));
                numbers.extend((0..length * channels).map(|_| draw::below(&mut stream, *below as usize) as f32));
            }
            Content::Pixels { images, mean, deviation } => {
                numbers.extend(images.pixels(index).iter().map(|&value| (f32::from(value) / 255.0 - mean) / deviation));
            }
        }
    }

    /// The class of sequence `index`, where it has one.
    ///
    /// # Panics
    /// Where there is no such sequence.
    pub fn label(&self, index: usize) -> Option<u32> {
        match &self.content {
            Content::Integers { .. } => None,
            Content::Pixels { images, .. } => Some(u32::from(images.labels[self.indices[index]])),
        }
    }

    /// A name of sequence `index` that is unique within its split.
    pub fn id(&self, index: usize) -> String {
        self.indices[index].to_string()
    }

    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let mut number = |number: u64| {
            hasher.update(&number.to_le_bytes());
        };
        number(self.len() as u64);
        self.indices.iter().for_each(|&index| number(index as u64));
        match &self.content {
            Content::Integers { seed, split, below, length, channels } => {
                [*seed, u64::from(*below), *length as u64, *channels as u64].into_iter().for_each(number);
                hasher.update(split.as_bytes());
            }
            Content::Pixels { images, mean, deviation } => {
                [images.height, images.width, images.channels].into_iter().for_each(|size| number(size as u64));
                [mean, deviation].into_iter().for_each(|value| number(u64::from(value.to_bits())));
                (0..images.len()).for_each(|index| {
                    hasher.update(images.pixels(index));
                });
                hasher.update(&images.labels);
            }
        }
    }
}

/// Checks the sizes of splits that are made here.
fn check_sizes(sizes: [(&str, usize); 3]) -> std::result::Result<(), SpecError> {
    match sizes.iter().find(|(_, count)| !(1..=1_000_000).contains(count)) {
        None => Ok(()),
        Some((name, count)) => Err(SpecError::at(*name, format!("expected 1 to 1000000 sequences, found {count}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn made_tasks_repeat_share_nothing_between_splits_and_are_limited_by_draw() {
        for name in ["sequence/regression", "sequence/drawn"] {
            let component = Component::named(name);
            let entry = find(&component).unwrap();
            let resolved = (entry.resolve)(&component).unwrap();
            assert_eq!((entry.resolve)(&resolved).unwrap(), resolved);
            let task = (entry.build)(&resolved).unwrap();
            let mut splits = task.load(&DataSource::default()).unwrap();
            assert_eq!(splits.hash(), task.load(&DataSource::default()).unwrap().hash());
            let read = |split: &Sequences| {
                let all = (0..split.len().min(100)).map(|i| {
                    let mut numbers = Vec::new();
                    split.read(i, &mut numbers);
                    assert_eq!(numbers.len(), split.length() * split.channels());
                    numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                });
                all.collect::<HashSet<_>>()
            };
            let (train, test) = (read(&splits.train), read(&splits.test));
            assert!(train.len() == 100 && train.is_disjoint(&test), "{name}");
            let before = splits.hash();
            splits.limit(7, 0, 3);
            assert_eq!((splits.train.len(), splits.test.len()), (7, 3));
            assert_ne!(splits.hash(), before);
        }
    }

    /// Over the real files, where PEFTBENCH_DATA names their folder.
    #[test]
    fn real_images_load_whole() {
        let Some(folder) = std::env::var_os("PEFTBENCH_DATA") else { return };
        let source = DataSource { folder: Some(folder.into()) };
        let mut loaded = 0;
        for entry in NUMBER_TASKS.iter().filter(|entry| !["sequence/regression", "sequence/drawn"].contains(&entry.name)) {
            let splits = match (entry.build)(&Component::named(entry.name)).unwrap().load(&source) {
                Ok(splits) => splits,
                // No copy has all of them; what is there must load.
                Err(crate::DataError::MissingFile { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            assert!(splits.train.len() >= 4000 && splits.test.len() >= 1000, "{}", entry.name);
            assert!((0..splits.test.len()).all(|i| splits.test.label(i).is_some_and(|label| label < 10)));
            loaded += 1;
        }
        assert!(loaded >= 3, "{loaded} loaded");
    }
}
