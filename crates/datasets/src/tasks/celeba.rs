//! Faces as text: the values of the pixels as numbers with a space between, and whether the face has an attribute (CelebA).
//!
//! The SSM-PEFT paper has accuracies on CelebA, and its released code nothing of it: neither which attributes were asked for nor the size
//! of the images is known. What stands here is the format of its CIFAR-10 (`super::images`), as many numbers to an image, and the attributes
//! to ask for as an option. With all forty, an item is a face and an attribute.

use super::classification::{Classification, LabelledTexts, Shape};
use super::images::as_text;
use super::loading::Loaded;
use super::published::{Form, ImageLayout, Published, PublishedImages, PublishedSplit};
use super::{LIKELIHOOD, SSM_PEFT, TaskEntry, WHOLE_SPLIT};
use crate::error::Result;
use crate::format::{Format, Options};
use crate::images::celeba::{self, ATTRIBUTES, Celeba, FACE, FOLDER, SPLITS};
use crate::metrics::accuracy;
use crate::source::DataSource;
use crate::world::rows::SplitRows;
use peftbench_spec::{Component, SpecError};
use serde::{Deserialize, Serialize};

const SHAPE: Shape = Shape { texts: &["attribute", "pixels"], labels: &["no", "yes"], metrics: &[accuracy::NAME] };
const PROMPT: &str = "Decide if the face in the following image has the attribute {attribute}: no (0), yes (1): {pixels}###";
const PROTOCOLS: &[&str] = &[LIKELIHOOD, SSM_PEFT];

/// `celeba`: attributes of faces (Liu et al. 2015).
pub const CELEBA: TaskEntry = TaskEntry {
    name: "celeba",
    summary: "attributes of faces (CelebA), as numbers in text",
    protocols: PROTOCOLS,
    published: Some(&Published {
        hub: "tpremoli/CelebA-attrs",
        revision: "main",
        licence: "CelebA's own: research without profit, and not to be given away again",
        splits: &[
            PublishedSplit { file: "train", from: "data/train-" },
            PublishedSplit { file: "valid", from: "data/validation-" },
            PublishedSplit { file: "test", from: "data/test-" },
        ],
        columns: &ATTRIBUTES,
        form: Form::Images(PublishedImages { column: "image", folder: FOLDER, layout: ImageLayout::Celeba }),
    }),
    known_overlap: 0,
    build: |task| {
        let Options { own, format } = parse(task)?;
        let rows = move |source: &DataSource| load(source, &own);
        Ok(Box::new(Classification { name: CELEBA.name, shape: SHAPE, format, rows: Box::new(rows) }))
    },
    resolve: |task| parse(task)?.resolved(task),
};

/// Options of CelebA that have a format besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CelebaOptions {
    /// The attributes to ask for, by CelebA's names; all forty where there are none.
    pub attributes: Vec<String>,
    /// Rows and columns of the middle that is kept, before it is made smaller.
    pub crop: usize,
    /// Rows and columns that are shown.
    pub size: usize,
    /// Most faces to train on.
    pub train: usize,
    /// Most faces for validation.
    pub valid: usize,
    /// Most faces for the test.
    pub test: usize,
}

fn parse(task: &Component) -> std::result::Result<Options<CelebaOptions>, SpecError> {
    let options = Options::parse(task, PROTOCOLS, |protocol| {
        let [train, valid, test] = if protocol == SSM_PEFT { [WHOLE_SPLIT; 3] } else { [20_000, 1000, 2000] };
        let own = CelebaOptions { attributes: vec!["Smiling".to_owned()], crop: FACE, size: 24, train, valid, test };
        Options { own, format: Format { prompt: PROMPT.to_owned(), ..SHAPE.format() } }
    })?;
    options.format.check(&SHAPE.placeholders())?;
    let own = &options.own;
    columns(own)?;
    for (name, value) in [("crop", own.crop), ("size", own.size), ("train", own.train), ("test", own.test)] {
        if value == 0 {
            return Err(SpecError::at(name, "expected at least 1, found 0"));
        }
    }
    Ok(options)
}

/// The columns of the attributes that are asked for.
fn columns(options: &CelebaOptions) -> std::result::Result<Vec<usize>, SpecError> {
    match options.attributes.is_empty() {
        true => Ok((0..ATTRIBUTES.len()).collect()),
        false => options.attributes.iter().map(|name| celeba::attribute("attributes", name)).collect(),
    }
}

fn load(source: &DataSource, options: &CelebaOptions) -> Result<Loaded<LabelledTexts>> {
    let celeba = Celeba::open(source, CELEBA.name)?;
    let asked = columns(options)?;
    let read = |split: usize, most: usize| -> Result<Vec<LabelledTexts>> {
        let faces = celeba.some(split, most);
        let images = celeba.images(&faces, options.crop, options.size, |_| 0)?;
        let row = |(index, face): (usize, &&celeba::Face)| {
            let (file, has) = (face.file.clone(), face.attributes.clone());
            let pixels = as_text(images.pixels(index));
            asked.iter().map(move |&attribute| LabelledTexts {
                id: format!("{file}:{}", ATTRIBUTES[attribute]),
                texts: vec![ATTRIBUTES[attribute].replace('_', " "), pixels.clone()],
                label: usize::from(has[attribute]),
            })
        };
        Ok(faces.iter().enumerate().flat_map(row).collect())
    };
    let rows = SplitRows { train: read(0, options.train)?, valid: read(1, options.valid)?, test: read(2, options.test)? };
    let counts: Vec<String> = SPLITS.iter().zip(&celeba.splits).map(|(name, faces)| format!("{} {name}", faces.len())).collect();
    let dataset_id = format!("{} ({FOLDER}, faces: {})", CELEBA.name, counts.join(", "));
    Ok(Loaded { dataset_id, revision: source.revision(FOLDER), rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::celeba::tests::folder;
    use crate::tasks::{build, tests::check_splits};
    use serde_json::json;

    #[test]
    fn a_face_is_its_pixels_and_each_attribute_an_item() {
        let (_folder, source) = folder(20);
        let load = |task: serde_json::Value| {
            let task = build(&Component::from_value(&task).unwrap()).unwrap();
            let splits = task.load(&source).unwrap();
            check_splits(task.as_ref(), &splits);
            splits
        };
        let splits = load(json!({"type": "celeba", "crop": 20, "size": 2}));
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (12, 4, 4));
        let example = &splits.test[0];
        assert_eq!(example.id, "000005.jpg:Smiling");
        let start = "Decide if the face in the following image has the attribute Smiling: no (0), yes (1): ";
        let pixels = example.prompt.strip_prefix(start).unwrap().strip_suffix("###").unwrap();
        let values: Vec<u8> = pixels.split(' ').map(|value| value.parse().unwrap()).collect();
        assert_eq!((values.len(), example.answer.as_str(), example.choices.len()), (12, "1", 2));
        // The file without colours has three equal values a pixel.
        let grey: Vec<&str> = splits.test[1].prompt.rsplit(": ").next().unwrap().split(' ').collect();
        assert!(grey[0] == grey[1] && grey[1] == grey[2], "{grey:?}");
        let all = load(json!({"type": "celeba", "attributes": [], "size": 2, "train": 3}));
        assert_eq!((all.train.len(), all.test.len()), (3 * 40, 4 * 40));
        assert_eq!((all.test[20].id.as_str(), all.test[20].answer.as_str()), ("000005.jpg:Male", "0"));
        assert!(all.test[0].prompt.contains("the attribute 5 o Clock Shadow: "));
    }

    #[test]
    fn options_are_checked() {
        let error = |task| build(&Component::from_value(&task).unwrap()).err().unwrap().to_string();
        assert_eq!(
            error(json!({"type": "celeba", "attributes": ["Yong"]})),
            "`attributes`: unknown attribute `Yong`; did you mean `Young`?"
        );
        assert_eq!(error(json!({"type": "celeba", "size": 0})), "`size`: expected at least 1, found 0");
    }
}
