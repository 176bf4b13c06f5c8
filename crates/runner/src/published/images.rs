//! Published images into the files that tasks read, one image after the other: no data set is held whole.

use super::{Source, Written};
use crate::error::{Result, RunError};
use crate::files::{AtomicFile, write_atomically};
use crate::hub::rows::{self, ImageRow};
use flate2::Compression;
use flate2::write::GzEncoder;
use peftbench_datasets::images::celeba::{self, Face, Lists};
use peftbench_datasets::images::write::Writer;
use peftbench_datasets::images::{Format, jpeg, png};
use peftbench_datasets::tasks::published::{ImageLayout, PublishedImages, PublishedSplit, answer, class};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes the images of a data set into `folder`.
pub(super) fn put(source: &Source<'_>, images: &PublishedImages, folder: &Path) -> Result<Written> {
    match images.layout {
        ImageLayout::Classes(format) => put_classes(source, images, format, folder),
        ImageLayout::Celeba => put_faces(source, images, folder),
    }
}

fn put_classes(source: &Source<'_>, images: &PublishedImages, format: Format, folder: &Path) -> Result<Written> {
    let failed = |e: io::Error| RunError::file("write", folder, e);
    let label = source.published.columns.first().copied().unwrap_or_default();
    let mut written = Written::default();
    for split in source.published.splits {
        let names = format.file_names(split.file);
        let files = names.iter().map(|name| Packed::create(&folder.join(name))).collect::<Result<Vec<Packed>>>()?;
        let mut writer = Writer::begin(format, files, count(source, split)?).map_err(failed)?;
        let read = |row: &ImageRow| Ok((png::decode(&row.bytes, format.shape())?, class(&row.known, label)?));
        let rows = each(source, images, split, read, |_, (pixels, class)| writer.push(&pixels, class).map_err(failed))?;
        for (name, file) in names.into_iter().zip(writer.into_files()) {
            written.note(name, rows, file.finish()?);
        }
        written.rows += rows;
    }
    Ok(written)
}

/// CelebA. The lists come last: without them no task reads a picture, so that those need no care of their own against a kill.
fn put_faces(source: &Source<'_>, images: &PublishedImages, folder: &Path) -> Result<Written> {
    let pictures = folder.join(celeba::PICTURES);
    fs::create_dir_all(&pictures).map_err(|e| RunError::file("create the folder", &pictures, e))?;
    let (mut written, mut lists, mut hasher) = (Written::default(), Lists::default(), blake3::Hasher::new());
    for (number, split) in source.published.splits.iter().enumerate() {
        let read = |row: &ImageRow| {
            let face = face(row, source.published.columns, lists.len() + 1)?;
            let path = pictures.join(&face.file);
            lists.add(number, face).map(|()| path)
        };
        written.rows += each(source, images, split, read, |row, path| {
            hasher.update(&row.bytes);
            fs::write(&path, &row.bytes).map_err(|e| RunError::file("write", path, e))
        })?;
    }
    written.note(celeba::PICTURES.to_owned(), written.rows, hasher.finalize());
    for (name, text) in [(celeba::ATTRIBUTE_LIST, lists.attributes()), (celeba::PARTITION_LIST, lists.partition())] {
        write_atomically(&folder.join(name), text.as_bytes())?;
        written.note(name.to_owned(), written.rows, blake3::hash(text.as_bytes()));
    }
    Ok(written)
}

/// A face by its published name; one that has lost it gets the number `number`, which is its own where the faces come in their order.
fn face(row: &ImageRow, attributes: &[&str], number: usize) -> std::result::Result<Face, String> {
    let size = jpeg::size(&row.bytes)?;
    if size != celeba::SIZE {
        let [[height, width], [rows, columns]] = [celeba::SIZE, size];
        return Err(format!("expected a picture of {height} times {width} pixels, found {rows} times {columns}"));
    }
    let is_published = |name: &&str| {
        name.strip_suffix(".jpg").is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let file = row.path.as_deref().filter(is_published).map_or_else(|| format!("{number:06}.jpg"), str::to_owned);
    let attributes = attributes.iter().map(|column| answer(&row.known, column)).collect::<std::result::Result<_, _>>()?;
    Ok(Face { file, attributes })
}

/// How many images a split has.
fn count(source: &Source<'_>, split: &PublishedSplit) -> Result<u32> {
    source.files(split).iter().map(|(name, path)| rows::count(path).map_err(|problem| source.wrong(name, &problem))).sum()
}

/// Reads every image of a split, in the order of its files, and puts it somewhere; returns how many there are. What `read` complains of is
/// said with the file and the row.
fn each<T>(
    source: &Source<'_>,
    images: &PublishedImages,
    split: &PublishedSplit,
    mut read: impl FnMut(&ImageRow) -> std::result::Result<T, String>,
    mut put: impl FnMut(&ImageRow, T) -> Result<()>,
) -> Result<usize> {
    let mut total = 0;
    for (name, path) in source.files(split) {
        let rows = rows::images(&path, images.column, source.published.columns).map_err(|problem| source.wrong(&name, &problem))?;
        for (index, row) in rows.enumerate() {
            let wrong = |problem: String| source.wrong(&name, &format!("row {}: {problem}", index + 1));
            let row = row.map_err(wrong)?;
            put(&row, read(&row).map_err(wrong)?)?;
            total += 1;
        }
    }
    Ok(total)
}

/// A file compressed with gzip. Its hash is that of its content, whatever the compression makes of it.
struct Packed {
    file: GzEncoder<AtomicFile>,
    hasher: blake3::Hasher,
    path: PathBuf,
}

impl Packed {
    fn create(path: &Path) -> Result<Self> {
        let file = GzEncoder::new(AtomicFile::create(path)?, Compression::default());
        Ok(Self { file, hasher: blake3::Hasher::new(), path: path.to_owned() })
    }

    fn finish(self) -> Result<blake3::Hash> {
        let path = self.path;
        self.file.finish().map_err(|e| RunError::file("write", path, e))?.finish()?;
        Ok(self.hasher.finalize())
    }
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::put;
    use crate::fetch::has_data;
    use crate::hub::HubSettings;
    use peftbench_datasets::images::celeba::{self, ATTRIBUTES, Celeba};
    use peftbench_datasets::images::{Format, Part, load};
    use peftbench_datasets::{DataSource, TaskEntry, numbers, tasks};
    use peftbench_spec::Component;
    use std::fs;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// Written by pyarrow 26.0.1 and Pillow 13.0.0 (tests/fixtures/make_image_parquet.py).
    const COLOURS: &[u8] = include_bytes!("../../tests/fixtures/colours.parquet");
    const GREY: &[u8] = include_bytes!("../../tests/fixtures/grey.parquet");
    const WRONG: &[u8] = include_bytes!("../../tests/fixtures/wrong.parquet");
    const FACES: &[u8] = include_bytes!("../../tests/fixtures/faces.parquet");

    /// A hub's cache that has files of the data of a task, and an empty data folder.
    struct Place {
        cache: TempDir,
        data: TempDir,
        task: &'static TaskEntry,
        snapshot: PathBuf,
    }

    impl Place {
        fn new(task: &str, files: &[(&str, &[u8])]) -> Self {
            let (cache, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let task = tasks::entry(&Component::named(task)).unwrap();
            let repository = cache.path().join(format!("datasets--{}", task.published.unwrap().hub.replace('/', "--")));
            let snapshot = repository.join("snapshots/c0ffee");
            fs::create_dir_all(repository.join("refs")).unwrap();
            fs::write(repository.join("refs/main"), "c0ffee").unwrap();
            let place = Self { cache, data, task, snapshot };
            files.iter().for_each(|(name, bytes)| place.write(name, bytes));
            place
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            fs::create_dir_all(self.snapshot.join(name).parent().unwrap()).unwrap();
            fs::write(self.snapshot.join(name), bytes).unwrap();
        }

        fn put(&self) -> crate::error::Result<usize> {
            let settings = HubSettings { cache: self.cache.path().to_owned(), endpoint: None, token: None, offline: true };
            put(self.task.name, self.task.published.unwrap(), self.data.path(), &settings)
        }

        fn has_data(&self) -> bool {
            has_data(self.task, self.data.path())
        }

        fn source(&self) -> DataSource {
            DataSource { folder: Some(self.data.path().to_owned()) }
        }

        fn origin(&self, folder: &str) -> serde_json::Value {
            serde_json::from_str(&fs::read_to_string(self.data.path().join(folder).join("origin.json")).unwrap()).unwrap()
        }
    }

    /// The picture that the script made.
    fn picture(index: usize, [height, width, channels]: [usize; 3]) -> Vec<u8> {
        let value = |row: usize, column: usize, channel: usize| ((50 * index + 7 * row + 3 * column + 11 * channel) % 256) as u8;
        (0..height * width * channels).map(|at| value(at / channels / width, at / channels % width, at % channels)).collect()
    }

    #[test]
    fn pictures_with_classes_are_what_tasks_load_from_two_files_one_behind_the_other() {
        let place = Place::new(
            "cifar10",
            &[
                ("plain_text/train-00000-of-00002.parquet", COLOURS),
                ("plain_text/train-00001-of-00002.parquet", COLOURS),
                ("plain_text/test-00000-of-00001.parquet", COLOURS),
            ],
        );
        assert!(!place.has_data());
        assert_eq!(place.put().unwrap(), 12);
        assert!(place.has_data());
        let train = load(&place.source(), "cifar10", "vision/cifar10", Format::Cifar, Part::Train).unwrap();
        assert_eq!(train.labels, [0, 3, 6, 9, 0, 3, 6, 9]);
        (0..8).for_each(|index| assert_eq!(train.pixels(index), picture(index % 4, [32, 32, 3]), "{index}"));
        let splits = tasks::build(&Component::named("cifar10")).unwrap().load(&place.source()).unwrap();
        assert_eq!((splits.test.len(), splits.revision.as_deref()), (4, Some("uoft-cs/cifar10@c0ffee")));
        let sequences = numbers::find(&Component::named("sequence/cifar10")).unwrap();
        let sequences = (sequences.build)(&Component::named("sequence/cifar10")).unwrap().load(&place.source()).unwrap();
        assert_eq!((sequences.test.len(), sequences.revision.as_deref()), (4, Some("uoft-cs/cifar10@c0ffee")));
    }

    #[test]
    fn a_hash_is_of_what_is_in_a_file_and_data_is_equal_wherever_it_came_from() {
        let place = Place::new("mnist", &[("mnist/train-0.parquet", GREY), ("mnist/test-0.parquet", GREY)]);
        assert_eq!(place.put().unwrap(), 6);
        let own = tempfile::tempdir().unwrap();
        fs::create_dir_all(own.path().join("vision/mnist")).unwrap();
        let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
        let images = [numbers(&[0x0803, 3, 28, 28]), (0..3).flat_map(|index| picture(index, [28, 28, 1])).collect()].concat();
        let labels = [numbers(&[0x0801, 3]), vec![9, 8, 7]].concat();
        let origin = place.origin("vision/mnist");
        for start in ["train", "t10k"] {
            fs::write(own.path().join(format!("vision/mnist/{start}-images-idx3-ubyte")), &images).unwrap();
            fs::write(own.path().join(format!("vision/mnist/{start}-labels-idx1-ubyte")), &labels).unwrap();
        }
        for (file, content) in [("train-images-idx3-ubyte.gz", &images), ("test-labels-idx1-ubyte.gz", &labels)] {
            assert_eq!(origin["files"][file]["blake3"], blake3::hash(content).to_hex().to_string(), "{file}");
            assert_eq!(origin["files"][file]["rows"], 3);
        }
        // One's own files under their published names are found, too, and their hash is the same.
        assert!(has_data(place.task, own.path()));
        let hash = |source: &DataSource| tasks::build(&Component::named("mnist")).unwrap().load(source).unwrap().hash();
        assert_eq!(hash(&place.source()), hash(&DataSource { folder: Some(own.path().to_owned()) }));
    }

    #[test]
    fn faces_keep_their_files_and_get_the_published_lists() {
        let files = ["data/train-0.parquet", "data/validation-0.parquet", "data/test-0.parquet"].map(|name| (name, FACES));
        let place = Place::new("celeba", &files);
        assert_eq!(place.put().unwrap(), 9);
        assert!(place.has_data());
        let celeba = Celeba::open(&place.source(), "celeba").unwrap();
        assert_eq!(celeba.splits.each_ref().map(Vec::len), [3, 3, 3]);
        assert_eq!((celeba.splits[0][0].file.as_str(), celeba.splits[2][2].file.as_str()), ("000001.jpg", "000009.jpg"));
        let has: Vec<bool> = (0..ATTRIBUTES.len()).map(|place| place % 2 == 1).collect();
        assert_eq!(celeba.splits[1][0].attributes, has);
        // The bytes are those that Pillow wrote, which stand in the Parquet file as they are but for its compression.
        let rows = crate::hub::rows::images(&place.snapshot.join("data/test-0.parquet"), "image", &[]).unwrap();
        for (face, row) in celeba.splits[2].iter().zip(rows) {
            let path = place.data.path().join(celeba::FOLDER).join(celeba::PICTURES).join(&face.file);
            assert_eq!(fs::read(path).unwrap(), row.unwrap().bytes);
        }
        let splits = tasks::build(&Component::named("celeba")).unwrap().load(&place.source()).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (3, 3, 3));
        assert_eq!(splits.revision.as_deref(), Some("tpremoli/CelebA-attrs@c0ffee"));
        assert_eq!(place.origin(celeba::FOLDER)["files"]["list_eval_partition.txt"]["rows"], 9);
        // Without a list the data is not there, and fetching makes it whole.
        fs::remove_file(place.data.path().join(celeba::FOLDER).join(celeba::PARTITION_LIST)).unwrap();
        assert!(!place.has_data());
        assert_eq!(place.put().unwrap(), 9);
        assert!(place.has_data());
    }

    #[test]
    fn what_is_not_as_described_is_named_with_file_and_row_and_nothing_is_there() {
        let error = |task: &str, files: [&str; 3], bytes: &[u8]| {
            let place = Place::new(task, &files.map(|name| (name, bytes)));
            let error = place.put().unwrap_err().to_string();
            assert!(!place.has_data(), "{error}");
            error
        };
        let mnist = ["mnist/train-0.parquet", "mnist/test-0.parquet", "mnist/other.parquet"];
        let fashion = ["fashion_mnist/train-0.parquet", "fashion_mnist/test-0.parquet", "README.md"];
        let cifar = ["plain_text/train-0.parquet", "plain_text/test-0.parquet", "README.md"];
        let faces = ["data/train-0.parquet", "data/validation-0.parquet", "data/test-0.parquet"];
        let found = error("mnist", mnist, COLOURS);
        assert!(found.contains("mnist/train-0.parquet: row 1: column `image`: expected a group"), "{found}");
        let found = error("mnist", mnist, WRONG);
        assert!(found.contains("mnist/train-0.parquet: row 2: expected a picture of 28 times 28 pixels, Grayscale of 8 bits"), "{found}");
        let found = error("fashion_mnist", fashion, FACES);
        assert!(found.contains("row 1: it is no whole PNG file"), "{found}");
        let found = error("cifar10", cifar, &COLOURS[..COLOURS.len() / 2]);
        assert!(found.contains("plain_text/train-0.parquet: "), "{found}");
        let found = error("celeba", faces, GREY);
        assert!(found.contains("data/train-0.parquet: row 1: it is no JPEG file"), "{found}");
    }
}
