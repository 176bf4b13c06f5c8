//! Labelled images: read from the files of MNIST (IDX) and CIFAR-10 (binary records), compressed with gzip or not, from CelebA's
//! ([`celeba`]), or drawn ([`drawn`]). [`write`] is the other way.

pub mod celeba;
pub mod drawn;
pub mod jpeg;
pub mod png;
mod resize;
pub mod write;

use crate::error::{DataError, Result};
use crate::source::DataSource;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// The first bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// IDX files of bytes, with one dimension (labels) and with three (images).
const IDX_LABELS: u32 = 0x0801;
const IDX_IMAGES: u32 = 0x0803;

/// Edge of an image of MNIST.
const MNIST_EDGE: usize = 28;

/// Edge of a CIFAR image, and its channels.
const CIFAR_EDGE: usize = 32;
const CIFAR_CHANNELS: usize = 3;

/// Classes of all of these data sets.
const CLASSES: u8 = 10;

/// Images of one size with their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values a pixel: 1 of a grey image, 3 (red, green, blue) of a coloured one.
    pub channels: usize,
    /// [image, row, column, channel].
    pixels: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<u8>,
}

/// How the files of a data set are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`; those of the test begin with `test` or, as published, with `t10k`.
    Idx,
    /// `train*.bin.gz` and `test*.bin.gz`, or as published `data_batch_*.bin` and `test_batch.bin`.
    Cifar,
}

/// The parts of a data set of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// For training.
    Train,
    /// For the test.
    Test,
}

impl Part {
    /// What its files' names may start with in a layout.
    fn starts(self, format: Format) -> [&'static str; 2] {
        match (self, format) {
            (Self::Train, Format::Idx) => ["train", "train"],
            (Self::Test, Format::Idx) => ["test", "t10k"],
            (Self::Train, Format::Cifar) => ["train", "data_batch"],
            (Self::Test, Format::Cifar) => ["test", "test"],
        }
    }
}

impl Format {
    /// The files of one part of the data set that `task` has in the sub-folder `folder` of the data folder: of IDX those of the images and
    /// of the labels, of CIFAR one or several that belong one behind the other.
    ///
    /// # Errors
    /// Where one is missing.
    pub fn files(self, source: &DataSource, task: &str, folder: &str, part: Part) -> Result<Vec<PathBuf>> {
        let find = |endings: &[&str]| {
            let [first, second] = part.starts(self);
            source
                .files_ending(task, folder, first, endings)
                .or_else(|error| source.files_ending(task, folder, second, endings).map_err(|_| error))
        };
        match self {
            Self::Idx => {
                let mut images = find(&["-images-idx3-ubyte.gz", "-images-idx3-ubyte"])?;
                let mut labels = find(&["-labels-idx1-ubyte.gz", "-labels-idx1-ubyte"])?;
                Ok(vec![images.swap_remove(0), labels.swap_remove(0)])
            }
            Self::Cifar => find(&[".bin.gz", ".bin"]),
        }
    }
}

/// Reads one part of the data set that `task` has in the sub-folder `folder` of the data folder.
///
/// # Errors
/// Where no file is there, or one is damaged.
pub fn load(source: &DataSource, task: &str, folder: &str, format: Format, part: Part) -> Result<Images> {
    let files = format.files(source, task, folder, part)?;
    match format {
        Format::Idx => read_idx(&files[0], &files[1]),
        Format::Cifar => {
            let parts = files.iter().map(|path| read_cifar(path)).collect::<Result<Vec<Images>>>()?;
            Ok(parts.into_iter().reduce(Images::followed_by).unwrap_or_default())
        }
    }
}

impl Default for Images {
    /// None.
    fn default() -> Self {
        Self { height: CIFAR_EDGE, width: CIFAR_EDGE, channels: CIFAR_CHANNELS, pixels: Vec::new(), labels: Vec::new() }
    }
}

impl Images {
    /// How many.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of an image: rows · columns · channels.
    pub fn values(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The values of image `index`, [row, column, channel].
    ///
    /// # Panics
    /// Where there is no such image.
    pub fn pixels(&self, index: usize) -> &[u8] {
        &self.pixels[index * self.values()..(index + 1) * self.values()]
    }

    /// These, and behind them others of the same size.
    fn followed_by(mut self, other: Self) -> Self {
        self.pixels.extend(other.pixels);
        self.labels.extend(other.labels);
        self
    }

    /// The middle of each image, `edge` rows and columns of it or all where it has fewer. An odd margin is smaller above and to the left, as
    /// torchvision's `CenterCrop` rounds it (half to even).
    pub fn center_crop(&self, edge: usize) -> Self {
        let (height, width) = (edge.min(self.height), edge.min(self.width));
        let margin = |whole: usize, kept: usize| {
            let (half, odd) = ((whole - kept) / 2, (whole - kept) % 2);
            half + if odd == 1 && half % 2 == 1 { 1 } else { 0 }
        };
        let (top, left) = (margin(self.height, height), margin(self.width, width));
        let mut pixels = Vec::with_capacity(self.len() * height * width * self.channels);
        for index in 0..self.len() {
            let image = self.pixels(index);
            for row in top..top + height {
                let start = (row * self.width + left) * self.channels;
                pixels.extend_from_slice(&image[start..start + width * self.channels]);
            }
        }
        Self { height, width, channels: self.channels, pixels, labels: self.labels.clone() }
    }

    /// Grey images: the luma of ITU-R 601-2, as Pillow's `convert("L")` rounds it.
    pub fn grey(&self) -> Self {
        let luma = |pixel: &[u8]| match *pixel {
            [red, green, blue] => ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16) as u8,
            _ => pixel[0],
        };
        Self { channels: 1, pixels: self.pixels.chunks(self.channels).map(luma).collect(), labels: self.labels.clone(), ..*self }
    }
}

/// Images and labels of two IDX files.
///
/// # Errors
/// Where a file cannot be read, has another type, or has more or less in it than its header says.
pub fn read_idx(images: &Path, labels: &Path) -> Result<Images> {
    let (sizes, pixels) = idx_file(images, IDX_IMAGES)?;
    let (_, label_bytes) = idx_file(labels, IDX_LABELS)?;
    if sizes[0] != label_bytes.len() {
        let problem = format!("expected as many labels as {} has images, {}, found {}", images.display(), sizes[0], label_bytes.len());
        return Err(damaged(labels, problem));
    }
    Ok(Images { height: sizes[1], width: sizes[2], channels: 1, pixels, labels: label_bytes })
}

/// The sizes and bytes of an IDX file of the type `magic`, whose last digit says how many sizes there are.
fn idx_file(path: &Path, magic: u32) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut file = open(path)?;
    let mut number = || -> Result<u32> {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes).map_err(|error| damaged(path, format!("the header is cut off ({error})")))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let found = number()?;
    if found != magic {
        return Err(damaged(path, format!("expected an IDX file of type {magic:#06x}, found {found:#06x}")));
    }
    let sizes: Vec<usize> = (0..magic & 0xff).map(|_| Ok(number()? as usize)).collect::<Result<_>>()?;
    let count = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let Some(count) = count.filter(|&count| count > 0) else { return Err(damaged(path, format!("the sizes {sizes:?} make no data"))) };
    // One byte more than there should be, so that it is seen; and no more, whatever the file unpacks to.
    let mut bytes = Vec::new();
    file.take(count as u64 + 1).read_to_end(&mut bytes).map_err(|error| damaged(path, format!("it cannot be unpacked ({error})")))?;
    match bytes.len() == count {
        true => Ok((sizes, bytes)),
        false => Err(damaged(path, format!("its header promises {count} bytes ({sizes:?}), found {}", Amount(bytes.len(), count)))),
    }
}

/// Images and labels of a file of CIFAR-10's binary records: a label byte, then 1,024 bytes each of red, green and blue.
///
/// # Errors
/// Where the file cannot be read, holds no whole number of records, or a label above 9.
pub fn read_cifar(path: &Path) -> Result<Images> {
    let plane = CIFAR_EDGE * CIFAR_EDGE;
    let record = 1 + CIFAR_CHANNELS * plane;
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(|error| damaged(path, format!("it cannot be unpacked ({error})")))?;
    if bytes.is_empty() || bytes.len() % record != 0 {
        return Err(damaged(path, format!("expected records of {record} bytes, found {} bytes", bytes.len())));
    }
    let mut images = Images::default();
    for (index, record) in bytes.chunks(record).enumerate() {
        if record[0] >= CLASSES {
            return Err(damaged(path, format!("expected a label from 0 to {} in record {index}, found {}", CLASSES - 1, record[0])));
        }
        images.labels.push(record[0]);
        let values = &record[1..];
        images.pixels.extend((0..plane).flat_map(|at| (0..CIFAR_CHANNELS).map(move |channel| values[channel * plane + at])));
    }
    Ok(images)
}

/// How many bytes were found where `.1` were wanted and reading stopped one behind.
struct Amount(usize, usize);

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 > self.1 { f.write_str("more") } else { write!(f, "{}", self.0) }
    }
}

/// The bytes of a file, unpacked where it is compressed.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    let wrong = |error: std::io::Error| DataError::Io { action: "read", path: path.to_owned(), problem: error.to_string() };
    let mut start = Vec::new();
    File::open(path).map_err(wrong)?.take(GZIP.len() as u64).read_to_end(&mut start).map_err(wrong)?;
    let file = BufReader::new(File::open(path).map_err(wrong)?);
    Ok(if start == GZIP { Box::new(BufReader::new(GzDecoder::new(file))) } else { Box::new(file) })
}

fn damaged(path: &Path, problem: String) -> DataError {
    DataError::Damaged { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn idx(magic: u32, sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
        let header = std::iter::once(magic).chain(sizes.iter().copied()).flat_map(u32::to_be_bytes);
        header.chain(bytes.iter().copied()).collect()
    }

    pub(super) fn in_folder(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, DataSource) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let source = DataSource { folder: Some(folder.path().to_owned()) };
        (folder, source)
    }

    #[test]
    fn idx_files_are_read_packed_and_not_by_both_names() {
        let images = idx(IDX_IMAGES, &[2, 2, 3], &(0..12).collect::<Vec<u8>>());
        let labels = idx(IDX_LABELS, &[2], &[7, 3]);
        for (images_name, labels_name) in
            [("test-images-idx3-ubyte.gz", "test-labels-idx1-ubyte"), ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte")]
        {
            let (_folder, source) =
                in_folder(&[(&format!("v/{images_name}"), gzip(&images)), (&format!("v/{labels_name}"), labels.clone())]);
            let found = load(&source, "mnist", "v", Format::Idx, Part::Test).unwrap();
            assert_eq!((found.height, found.width, found.channels, found.len()), (2, 3, 1, 2));
            assert_eq!((found.pixels(1), found.labels.as_slice()), (&[6, 7, 8, 9, 10, 11][..], &[7, 3][..]));
            assert!(load(&source, "mnist", "v", Format::Idx, Part::Train).unwrap_err().to_string().contains("train*-images-idx3-ubyte.gz"));
        }
    }

    #[test]
    fn cifar_records_become_pixels_and_parts_are_joined() {
        let record = |label: u8, value: u8| -> Vec<u8> {
            let mut record = vec![label];
            (0..3).for_each(|channel| record.extend(vec![value + channel; 1024]));
            record
        };
        let (_folder, source) = in_folder(&[
            ("c/data_batch_1.bin", record(4, 10)),
            ("c/data_batch_2.bin", [record(9, 20), record(0, 30)].concat()),
            ("c/test.bin.gz", gzip(&record(1, 40))),
        ]);
        let train = load(&source, "cifar10", "c", Format::Cifar, Part::Train).unwrap();
        assert_eq!(train.labels, [4, 9, 0]);
        assert_eq!(&train.pixels(2)[..6], [30, 31, 32, 30, 31, 32]);
        assert_eq!(load(&source, "cifar10", "c", Format::Cifar, Part::Test).unwrap().labels, [1]);
    }

    #[test]
    fn damaged_files_are_named_and_unpack_no_further_than_their_header() {
        let labels = ("v/train-labels-idx1-ubyte", idx(IDX_LABELS, &[1], &[0]));
        let cases: [(Vec<u8>, &str); 6] = [
            (idx(IDX_LABELS, &[1], &[0]), "type 0x0803, found 0x0801"),
            (idx(IDX_IMAGES, &[1, 2, 2], &[0; 3]), "promises 4 bytes ([1, 2, 2]), found 3"),
            (gzip(&idx(IDX_IMAGES, &[1, 2, 2], &vec![0; 1 << 20])), "found more"),
            (idx(IDX_IMAGES, &[u32::MAX; 3], &[]), "make no data"),
            (idx(IDX_IMAGES, &[2, 1, 1], &[0; 2]), "as many labels"),
            (GZIP.to_vec(), "cut off"),
        ];
        for (bytes, expected) in cases {
            let (_folder, source) = in_folder(&[("v/train-images-idx3-ubyte", bytes), labels.clone()]);
            let message = load(&source, "mnist", "v", Format::Idx, Part::Train).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let (_folder, source) = in_folder(&[("c/train.bin", vec![0; 100])]);
        assert!(load(&source, "cifar10", "c", Format::Cifar, Part::Train).unwrap_err().to_string().contains("records of 3073 bytes"));
    }

    #[test]
    fn crops_are_of_the_middle_and_grey_is_luma() {
        let images = Images { height: 4, width: 4, channels: 1, pixels: (0..16).collect(), labels: vec![0] };
        assert_eq!(images.center_crop(2).pixels(0), [5, 6, 9, 10]);
        assert_eq!(images.center_crop(9), images);
        let colours = Images { height: 1, width: 3, channels: 3, pixels: vec![255, 0, 0, 0, 255, 0, 0, 0, 255], labels: vec![0] };
        // Pillow 11: Image.new("RGB", …).convert("L").
        assert_eq!(colours.grey().pixels(0), [76, 150, 29]);
    }
}
