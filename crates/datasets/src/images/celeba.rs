//! CelebA (Liu et al. 2015): faces of 178 by 218 pixels with forty attributes each, in the layout in which it is published.
//!
//! `img_align_celeba/000001.jpg` and so on; `list_attr_celeba.txt` (a count, the names, then a file and a 1 or -1 for each name a line);
//! `list_eval_partition.txt` (a file and 0, 1 or 2 a line: training, validation or test).

use super::{Images, damaged, jpeg};
use crate::draw;
use crate::error::{DataError, Result};
use crate::source::DataSource;
use peftbench_spec::seed::stream;
use peftbench_spec::{SpecError, suggest};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Below the data folder.
pub const FOLDER: &str = "vision/celeba";
/// Below that folder: the pictures.
pub const PICTURES: &str = "img_align_celeba";
/// The list of attributes.
pub const ATTRIBUTE_LIST: &str = "list_attr_celeba.txt";
/// The list of splits.
pub const PARTITION_LIST: &str = "list_eval_partition.txt";
/// Rows and columns of the middle that hold the face.
pub const FACE: usize = 178;
/// Rows and columns of a published picture.
pub const SIZE: [usize; 2] = [218, FACE];
/// Of the published splits, in the numbers of `list_eval_partition.txt`.
pub const SPLITS: [&str; 3] = ["train", "valid", "test"];
/// The attributes, in the order of their columns.
pub const ATTRIBUTES: [&str; 40] = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
];

/// One face, not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// The name of its file.
    pub file: String,
    /// Whether it has each of [`ATTRIBUTES`].
    pub attributes: Vec<bool>,
}

/// The faces of the three splits.
#[derive(Debug, Clone)]
pub struct Celeba {
    folder: PathBuf,
    /// Training, validation and test, in the order of the list.
    pub splits: [Vec<Face>; 3],
}

/// The column of the attribute `name`, which the option `key` names.
///
/// # Errors
/// Where there is none of that name.
pub fn attribute(key: &str, name: &str) -> std::result::Result<usize, SpecError> {
    let found = ATTRIBUTES.iter().position(|known| *known == name);
    found.ok_or_else(|| SpecError::at(key, format!("unknown attribute `{name}`; {}", suggest::hint(name, ATTRIBUTES))))
}

/// The lists of attributes and of splits in the data folder.
///
/// # Errors
/// Where one is missing.
pub fn lists(source: &DataSource, task: &str) -> Result<[PathBuf; 2]> {
    let list = |start: &str| Ok::<_, DataError>(source.files_ending(task, FOLDER, start, &[".txt"])?.swap_remove(0));
    Ok([list("list_attr_celeba")?, list("list_eval_partition")?])
}

impl Celeba {
    /// Reads the lists in the data folder; no image is opened.
    ///
    /// # Errors
    /// Where a list is missing or is not as published.
    pub fn open(source: &DataSource, task: &str) -> Result<Self> {
        let [attributes, partition] = lists(source, task)?;
        let mut known = read_attributes(&attributes)?;
        let mut splits: [Vec<Face>; 3] = Default::default();
        for (number, line) in read(&partition)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let split = match fields[..] {
                [_, "0"] => 0,
                [_, "1"] => 1,
                [_, "2"] => 2,
                _ => return Err(damaged(&partition, format!("line {}: expected a file and 0, 1 or 2, found `{line}`", number + 1))),
            };
            let file = fields[0].to_owned();
            let attributes =
                known.remove(&file).ok_or_else(|| damaged(&partition, format!("line {}: {file} has no attributes", number + 1)))?;
            splits[split].push(Face { file, attributes });
        }
        Ok(Self { folder: partition.with_file_name(PICTURES), splits })
    }

    /// At most `most` faces of a split, always the same ones, in the order of the list.
    pub fn some(&self, split: usize, most: usize) -> Vec<&Face> {
        let faces = &self.splits[split];
        draw::subset(&mut stream(0, &format!("celeba/{}", SPLITS[split])), faces.len(), most).into_iter().map(|at| &faces[at]).collect()
    }

    /// The images of `faces`: the middle of `crop` rows and columns, made `size` of each, of the class that `label` says.
    ///
    /// # Errors
    /// Where a file is missing or damaged.
    pub fn images(&self, faces: &[&Face], crop: usize, size: usize, label: impl Fn(&Face) -> u8) -> Result<Images> {
        let mut images = Images { height: size, width: size, ..Images::default() };
        for face in faces {
            let path = self.folder.join(&face.file);
            let bytes = std::fs::read(&path).map_err(|e| DataError::Io { action: "read", path: path.clone(), problem: e.to_string() })?;
            let image = jpeg::decode(&bytes, label(face)).map_err(|problem| damaged(&path, problem))?;
            images = images.followed_by(image.center_crop(crop).resized(size, size));
        }
        Ok(images)
    }
}

/// The two lists while faces are put down in them, in whatever order; they come out in the order of the files' names.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    faces: BTreeMap<String, (usize, Vec<bool>)>,
}

impl Lists {
    /// Faces put down so far.
    pub fn len(&self) -> usize {
        self.faces.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.faces.is_empty()
    }

    /// Puts down a face of split `split`, a number of [`SPLITS`].
    ///
    /// # Errors
    /// Where there is one of its name already.
    pub fn add(&mut self, split: usize, face: Face) -> std::result::Result<(), String> {
        match self.faces.insert(face.file.clone(), (split, face.attributes)) {
            None => Ok(()),
            Some(_) => Err(format!("expected a face of its own, found {} a second time", face.file)),
        }
    }

    /// The text of [`ATTRIBUTE_LIST`].
    pub fn attributes(&self) -> String {
        let mut text = format!("{}\n{} \n", self.faces.len(), ATTRIBUTES.join(" "));
        for (file, (_, attributes)) in &self.faces {
            let values: Vec<&str> = attributes.iter().map(|has| if *has { " 1" } else { "-1" }).collect();
            text += &format!("{file} {}\n", values.join(" "));
        }
        text
    }

    /// The text of [`PARTITION_LIST`].
    pub fn partition(&self) -> String {
        self.faces.iter().map(|(file, (split, _))| format!("{file} {split}\n")).collect()
    }
}

/// Files and whether they have each attribute.
fn read_attributes(path: &Path) -> Result<HashMap<String, Vec<bool>>> {
    let text = read(path)?;
    let mut lines = text.lines().enumerate();
    let names: Vec<&str> = lines.nth(1).map(|(_, line)| line.split_whitespace().collect()).unwrap_or_default();
    if names != ATTRIBUTES {
        return Err(damaged(
            path,
            format!("expected the names of the {} attributes in line 2, found `{}`", ATTRIBUTES.len(), names.join(" ")),
        ));
    }
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let mut fields = line.split_whitespace();
            let file = fields.next().unwrap_or_default().to_owned();
            let value = |field| match field {
                "1" => Some(true),
                "-1" => Some(false),
                _ => None,
            };
            match fields.map(value).collect::<Option<Vec<bool>>>() {
                Some(values) if values.len() == ATTRIBUTES.len() => Ok((file, values)),
                _ => Err(damaged(path, format!("line {}: expected a file and {} times 1 or -1", number + 1, ATTRIBUTES.len()))),
            }
        })
        .collect()
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| DataError::Io { action: "read", path: path.to_owned(), problem: e.to_string() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A data folder of `count` faces, of which three in five are to train on; every second smiles, and the others are male.
    pub(crate) fn folder(count: usize) -> (tempfile::TempDir, DataSource) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(FOLDER);
        std::fs::create_dir_all(place.join("img_align_celeba")).unwrap();
        let (mut attributes, mut partition) = (format!("{count}\n{} \n", ATTRIBUTES.join(" ")), String::new());
        let pictures: [&[u8]; 2] = [include_bytes!("../../fixtures/images/420.jpg"), include_bytes!("../../fixtures/images/grey.jpg")];
        for index in 0..count {
            let file = format!("{:06}.jpg", index + 1);
            let has = |name: &str| match name {
                "Smiling" => index % 2 == 0,
                "Male" => index % 2 == 1,
                _ => false,
            };
            let values: Vec<&str> = ATTRIBUTES.iter().map(|name| if has(name) { " 1" } else { "-1" }).collect();
            attributes += &format!("{file} {}\n", values.join(" "));
            partition += &format!("{file} {}\n", [0, 0, 0, 1, 2][index % 5]);
            std::fs::write(place.join("img_align_celeba").join(&file), pictures[index % 2]).unwrap();
        }
        std::fs::write(place.join("list_attr_celeba.txt"), attributes).unwrap();
        std::fs::write(place.join("list_eval_partition.txt"), partition).unwrap();
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        (folder, source)
    }

    #[test]
    fn faces_are_read_by_the_published_lists() {
        let (_folder, source) = folder(10);
        let celeba = Celeba::open(&source, "celeba").unwrap();
        assert_eq!(celeba.splits.each_ref().map(Vec::len), [6, 2, 2]);
        let files: Vec<&str> = celeba.splits[2].iter().map(|face| face.file.as_str()).collect();
        assert_eq!(files, ["000005.jpg", "000010.jpg"]);
        let smiling = attribute("attribute", "Smiling").unwrap();
        let images = celeba.images(&celeba.some(2, 5), 23, 6, |face| u8::from(face.attributes[smiling])).unwrap();
        assert_eq!((images.height, images.width, images.channels, images.labels.as_slice()), (6, 6, 3, &[1, 0][..]));
        assert_eq!(celeba.some(0, 2), celeba.some(0, 2));
        assert!(attribute("attribute", "Smilling").unwrap_err().to_string().contains("did you mean `Smiling`?"));
    }

    #[test]
    fn lists_that_are_written_are_those_that_are_read() {
        let (folder, source) = folder(10);
        let mut lists = Lists::default();
        for (split, faces) in Celeba::open(&source, "celeba").unwrap().splits.iter().enumerate() {
            faces.iter().rev().for_each(|face| lists.add(split, face.clone()).unwrap());
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(FOLDER).join(name)).unwrap();
        assert_eq!((lists.attributes(), lists.partition()), (read(ATTRIBUTE_LIST), read(PARTITION_LIST)));
        let again = Face { file: "000003.jpg".to_owned(), attributes: vec![false; 40] };
        assert_eq!(lists.add(0, again).unwrap_err(), "expected a face of its own, found 000003.jpg a second time");
    }

    #[test]
    fn lists_and_images_that_are_not_as_published_are_named() {
        let error = |name: &str, text: &str| {
            let (folder, source) = folder(5);
            std::fs::write(folder.path().join(FOLDER).join(name), text).unwrap();
            let celeba = Celeba::open(&source, "celeba");
            celeba.and_then(|celeba| celeba.images(&celeba.some(0, 9), 20, 4, |_| 0)).unwrap_err().to_string()
        };
        let attributes = format!("1\n{}\n000001.jpg 1 -1\n", ATTRIBUTES.join(" "));
        assert!(error("list_attr_celeba.txt", &attributes).contains("line 3: expected a file and 40 times 1 or -1"));
        assert!(error("list_attr_celeba.txt", "1\nYoung\n").contains("names of the 40 attributes in line 2, found `Young`"));
        assert!(error("list_eval_partition.txt", "000001.jpg 3\n").contains("line 1: expected a file and 0, 1 or 2"));
        assert!(error("list_eval_partition.txt", "000009.jpg 0\n").contains("line 1: 000009.jpg has no attributes"));
        assert!(error("img_align_celeba/000001.jpg", "GIF89a").contains("000001.jpg: it is no whole JPEG file"));
    }
}
