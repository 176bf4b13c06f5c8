//! Whether a face has an attribute, pixel by pixel (CelebA), in the splits in which it is published.

use super::images::check_scale;
use super::{Content, Goal, NumberSplits, NumberTask, NumberTaskEntry, Sequences, check_sizes};
use crate::error::Result;
use crate::images::celeba::{self, Celeba, FACE, FOLDER};
use crate::source::DataSource;
use crate::tasks;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

/// Faces.
pub(super) const CELEBA: NumberTaskEntry = NumberTaskEntry {
    name: "sequence/celeba",
    summary: "CelebA pixel by pixel: an attribute of faces",
    data: Some(&tasks::celeba::CELEBA),
    build: |task| Ok(Box::new(Options::parse(task).map(|(options, column)| Faces { options, column })?)),
    resolve: |task| task.resolved(&Options::parse(task)?.0),
};

/// Which faces, how they are shown, and what of them is to be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// The attribute, by CelebA's name.
    attribute: String,
    /// Rows and columns of the middle that is kept, before it is made smaller.
    crop: usize,
    /// Rows and columns that are shown.
    size: usize,
    /// Whether colours become grey.
    grey: bool,
    /// Taken from values between 0 and 1.
    mean: f32,
    /// What they are divided by then.
    deviation: f32,
    /// Most training images.
    train: usize,
    /// Most validation images.
    valid: usize,
    /// Most test images.
    test: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attribute: "Smiling".to_owned(),
            crop: FACE,
            size: 32,
            grey: true,
            mean: 0.5,
            deviation: 0.25,
            train: 20_000,
            valid: 1000,
            test: 2000,
        }
    }
}

impl Options {
    /// The options, and the column of the attribute.
    fn parse(task: &Component) -> std::result::Result<(Self, usize), SpecError> {
        let options: Self = task.parse_options()?;
        check_sizes([("train", options.train), ("valid", options.valid), ("test", options.test)])?;
        check_scale(options.mean, options.deviation)?;
        if let Some((name, _)) = [("crop", options.crop), ("size", options.size)].iter().find(|(_, edge)| *edge == 0) {
            return Err(SpecError::at(*name, "expected at least 1, found 0"));
        }
        let column = celeba::attribute("attribute", &options.attribute)?;
        Ok((options, column))
    }
}

struct Faces {
    options: Options,
    column: usize,
}

impl NumberTask for Faces {
    fn name(&self) -> &str {
        CELEBA.name
    }

    fn load(&self, source: &DataSource) -> Result<NumberSplits> {
        let Options { crop, size, grey, mean, deviation, .. } = self.options;
        let celeba = Celeba::open(source, CELEBA.name)?;
        let read = |split: usize, most: usize| -> Result<Sequences> {
            let faces = celeba.some(split, most);
            let images = celeba.images(&faces, crop, size, |face| u8::from(face.attributes[self.column]))?;
            let images = if grey { images.grey() } else { images };
            Ok(Sequences::new(Content::Pixels { images, mean, deviation }, faces.len()))
        };
        Ok(NumberSplits {
            dataset_id: FOLDER.to_owned(),
            revision: source.revision(FOLDER),
            train: read(0, self.options.train)?,
            valid: read(1, self.options.valid)?,
            test: read(2, self.options.test)?,
        })
    }

    fn goal(&self) -> Goal {
        Goal::Class(["no", "yes"].map(|answer| format!("{}: {answer}", self.options.attribute)).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::celeba::tests::folder;
    use serde_json::json;

    #[test]
    fn a_sequence_is_the_small_grey_middle_of_a_face() {
        let (_folder, source) = folder(20);
        let task = |options| (CELEBA.build)(&Component::from_value(&options).unwrap());
        let faces = task(json!({"type": "sequence/celeba", "size": 5, "attribute": "Male"})).unwrap();
        let splits = faces.load(&source).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (12, 4, 4));
        assert_eq!((splits.train.length(), splits.train.channels()), (25, 1));
        assert_eq!((0..4).map(|i| splits.test.label(i)).collect::<Vec<_>>(), [0, 1, 0, 1].map(Some));
        let Goal::Class(classes) = faces.goal() else { panic!("faces have classes") };
        assert_eq!(classes, ["Male: no", "Male: yes"]);
        let colours = task(json!({"type": "sequence/celeba", "size": 5, "grey": false, "train": 2})).unwrap().load(&source).unwrap();
        assert_eq!((colours.train.len(), colours.train.channels()), (2, 3));
        assert!(task(json!({"type": "sequence/celeba", "size": 0})).is_err());
    }
}
