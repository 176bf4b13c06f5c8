//! Images as sequences of pixels: the class of a handwritten digit, a garment, an object, or a drawn figure (the experiments on S4 of
//! arXiv 2410.09016 have MNIST and CIFAR-10).

use super::{Content, Goal, NumberSplits, NumberTask, NumberTaskEntry, Sequences, check_sizes};
use crate::draw;
use crate::error::Result;
use crate::images::{Format, Images, Part, drawn, load};
use crate::source::DataSource;
use crate::tasks::images;
use peftbench_spec::seed::stream;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// Handwritten digits.
pub(super) const MNIST: NumberTaskEntry = NumberTaskEntry {
    name: "sequence/mnist",
    summary: "MNIST pixel by pixel: handwritten digits",
    data: Some(&images::MNIST),
    build: |task| FileTask::build(&DIGITS, task),
    resolve: |task| task.resolved(&FileOptions::parse(task)?),
};

/// Garments.
pub(super) const FASHION_MNIST: NumberTaskEntry = NumberTaskEntry {
    name: "sequence/fashion_mnist",
    summary: "Fashion-MNIST pixel by pixel: garments",
    data: Some(&images::FASHION_MNIST),
    build: |task| FileTask::build(&GARMENTS, task),
    resolve: |task| task.resolved(&FileOptions::parse(task)?),
};

/// Objects.
pub(super) const CIFAR10: NumberTaskEntry = NumberTaskEntry {
    name: "sequence/cifar10",
    summary: "CIFAR-10 pixel by pixel: animals and vehicles",
    data: Some(&images::CIFAR10),
    build: |task| FileTask::build(&OBJECTS, task),
    resolve: |task| task.resolved(&FileOptions::parse(task)?),
};

/// Drawn figures.
pub(super) const DRAWN: NumberTaskEntry = NumberTaskEntry {
    name: "sequence/drawn",
    summary: "drawn figures under noise, pixel by pixel; needs no files",
    data: None,
    build: |task| Ok(Box::new(DrawnTask(DrawnOptions::parse(task)?))),
    resolve: |task| task.resolved(&DrawnOptions::parse(task)?),
};

/// A data set in the data folder.
struct DataSet {
    name: &'static str,
    folder: &'static str,
    format: Format,
    classes: [&'static str; 10],
}

const DIGITS: DataSet = DataSet {
    name: MNIST.name,
    folder: images::MNIST_FOLDER,
    format: Format::Idx,
    classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
};

const GARMENTS: DataSet = DataSet {
    name: FASHION_MNIST.name,
    folder: images::FASHION_MNIST_FOLDER,
    format: Format::Idx,
    classes: ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"],
};

const OBJECTS: DataSet = DataSet {
    name: CIFAR10.name,
    folder: images::CIFAR10_FOLDER,
    format: Format::Cifar,
    classes: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
};

/// How pixels become numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileOptions {
    /// Edge of the middle that is kept; 0 for all.
    crop: usize,
    /// Whether colours become grey, as in the released code's default.
    grey: bool,
    /// Taken from values between 0 and 1.
    mean: f32,
    /// What they are divided by then.
    deviation: f32,
    /// Images held out of the training files for validation, as a share (the released code: a tenth).
    valid_share: f64,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { crop: 0, grey: true, mean: 0.5, deviation: 0.25, valid_share: 0.1 }
    }
}

impl FileOptions {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        check_scale(options.mean, options.deviation)?;
        match options.valid_share > 0.0 && options.valid_share < 1.0 {
            true => Ok(options),
            false => Err(SpecError::at("valid_share", format!("expected a share between 0 and 1, found {}", options.valid_share))),
        }
    }

    fn prepare(&self, images: Images) -> Images {
        let images = if self.grey { images.grey() } else { images };
        if self.crop > 0 { images.center_crop(self.crop) } else { images }
    }
}

pub(super) fn check_scale(mean: f32, deviation: f32) -> std::result::Result<(), SpecError> {
    if !mean.is_finite() {
        return Err(SpecError::at("mean", format!("expected a finite number, found {mean}")));
    }
    match deviation.is_finite() && deviation > 0.0 {
        true => Ok(()),
        false => Err(SpecError::at("deviation", format!("expected a number above 0, found {deviation}"))),
    }
}

struct FileTask {
    set: &'static DataSet,
    options: FileOptions,
}

impl FileTask {
    fn build(set: &'static DataSet, task: &Component) -> std::result::Result<Box<dyn NumberTask>, SpecError> {
        Ok(Box::new(Self { set, options: FileOptions::parse(task)? }))
    }
}

impl NumberTask for FileTask {
    fn name(&self) -> &str {
        self.set.name
    }

    fn load(&self, source: &DataSource) -> Result<NumberSplits> {
        let read = |part| load(source, self.set.name, self.set.folder, self.set.format, part);
        let part = |part| read(part).map(|images| self.options.prepare(images));
        let (images, test) = (part(Part::Train)?, part(Part::Test)?);
        let content =
            |images: &Images| Content::Pixels { images: images.clone(), mean: self.options.mean, deviation: self.options.deviation };
        let count = images.len();
        let held = draw::subset(&mut stream(0, "hold-out"), count, (count as f64 * self.options.valid_share).ceil() as usize);
        let stay = (0..count).filter(|index| held.binary_search(index).is_err()).collect();
        Ok(NumberSplits {
            dataset_id: self.set.folder.to_owned(),
            revision: source.revision(self.set.folder),
            train: Sequences { content: content(&images), indices: stay },
            valid: Sequences { content: content(&images), indices: held },
            test: Sequences::new(content(&test), test.len()),
        })
    }

    fn goal(&self) -> Goal {
        Goal::Class(self.set.classes.map(str::to_owned).to_vec())
    }
}

/// Options of `sequence/drawn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DrawnOptions {
    /// Training images.
    train: usize,
    /// Validation images.
    valid: usize,
    /// Test images.
    test: usize,
    /// Rows and columns.
    edge: usize,
    /// Width of the noise on every pixel, up to 255.
    noise: u8,
    /// Which images.
    seed: u64,
    /// Taken from values between 0 and 1.
    mean: f32,
    /// What they are divided by then.
    deviation: f32,
}

impl Default for DrawnOptions {
    fn default() -> Self {
        Self { train: 2000, valid: 300, test: 500, edge: 12, noise: 100, seed: 0, mean: 0.5, deviation: 0.25 }
    }
}

impl DrawnOptions {
    fn parse(task: &Component) -> std::result::Result<Self, SpecError> {
        let options: Self = task.parse_options()?;
        check_sizes([("train", options.train), ("valid", options.valid), ("test", options.test)])?;
        check_scale(options.mean, options.deviation)?;
        match (8..=64).contains(&options.edge) {
            true => Ok(options),
            false => Err(SpecError::at("edge", format!("expected 8 to 64 pixels, found {}", options.edge))),
        }
    }
}

struct DrawnTask(DrawnOptions);

impl NumberTask for DrawnTask {
    fn name(&self) -> &str {
        DRAWN.name
    }

    fn load(&self, _source: &DataSource) -> Result<NumberSplits> {
        let DrawnOptions { train, valid, test, edge, noise, seed, mean, deviation } = self.0;
        let split = |part: &str, count| {
            let images = drawn::draw(seed, part, count, edge, noise);
            Sequences::new(Content::Pixels { images, mean, deviation }, count)
        };
        Ok(NumberSplits {
            dataset_id: format!("drawn figures, seed {seed}"),
            revision: None,
            train: split("train", train),
            valid: split("valid", valid),
            test: split("test", test),
        })
    }

    fn goal(&self) -> Goal {
        Goal::Class(drawn::FIGURES.map(str::to_owned).to_vec())
    }
}
