//! Labelled images into the files that [`super::load`] reads, one image after the other, so that a data set need not be in memory.

use super::{CIFAR_CHANNELS, CIFAR_EDGE, CLASSES, Format, IDX_IMAGES, IDX_LABELS, MNIST_EDGE};
use std::io::{self, Write};

impl Format {
    /// Names of the files of the part that begins with `start` (`train`, `test`), compressed.
    pub fn file_names(self, start: &str) -> Vec<String> {
        match self {
            Self::Idx => vec![format!("{start}-images-idx3-ubyte.gz"), format!("{start}-labels-idx1-ubyte.gz")],
            Self::Cifar => vec![format!("{start}.bin.gz")],
        }
    }

    /// Rows, columns and channels of the published images.
    pub fn shape(self) -> [usize; 3] {
        match self {
            Self::Idx => [MNIST_EDGE, MNIST_EDGE, 1],
            Self::Cifar => [CIFAR_EDGE, CIFAR_EDGE, CIFAR_CHANNELS],
        }
    }
}

/// The class that `label` says, if it is one of the ten.
pub fn class(label: i64) -> Option<u8> {
    u8::try_from(label).ok().filter(|&class| class < CLASSES)
}

/// The files of one part of a data set while they are written.
#[derive(Debug)]
pub struct Writer<W> {
    format: Format,
    files: Vec<W>,
}

impl<W: Write> Writer<W> {
    /// Begins the files of [`Format::file_names`], in that order, for `count` images.
    ///
    /// # Errors
    /// Where one cannot be written to.
    pub fn begin(format: Format, mut files: Vec<W>, count: u32) -> io::Result<Self> {
        if format == Format::Idx {
            let [height, width, _] = format.shape().map(|size| size as u32);
            for (file, header) in files.iter_mut().zip([&[IDX_IMAGES, count, height, width][..], &[IDX_LABELS, count]]) {
                header.iter().try_for_each(|number| file.write_all(&number.to_be_bytes()))?;
            }
        }
        Ok(Self { format, files })
    }

    /// Writes an image of [`Format::shape`], [row, column, channel], and its class.
    ///
    /// # Errors
    /// Where a file cannot be written to.
    pub fn push(&mut self, pixels: &[u8], class: u8) -> io::Result<()> {
        match (self.format, &mut self.files[..]) {
            (Format::Idx, [images, labels, ..]) => images.write_all(pixels).and_then(|()| labels.write_all(&[class])),
            (_, files) => {
                let planes = (0..CIFAR_CHANNELS).flat_map(|channel| pixels.iter().skip(channel).step_by(CIFAR_CHANNELS));
                let record: Vec<u8> = std::iter::once(&class).chain(planes).copied().collect();
                files.iter_mut().try_for_each(|file| file.write_all(&record))
            }
        }
    }

    /// The files, all written.
    pub fn into_files(self) -> Vec<W> {
        self.files
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Part, load, tests::in_folder};
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for format in [Format::Idx, Format::Cifar] {
            let values: usize = format.shape().iter().product();
            let image = |index: usize| (0..values).map(|at| (at * (index + 3) % 251) as u8).collect::<Vec<u8>>();
            let names = format.file_names("train");
            let mut writer = Writer::begin(format, vec![Vec::new(); names.len()], 3).unwrap();
            (0..3).for_each(|index| writer.push(&image(index), 9 - index as u8).unwrap());
            let paths: Vec<String> = names.iter().map(|name| format!("v/{name}")).collect();
            let files: Vec<(&str, Vec<u8>)> = paths.iter().map(String::as_str).zip(writer.into_files()).collect();
            let (_folder, source) = in_folder(&files);
            let images = load(&source, "mnist", "v", format, Part::Train).unwrap();
            assert_eq!(([images.height, images.width, images.channels], images.labels.as_slice()), (format.shape(), &[9, 8, 7][..]));
            (0..3).for_each(|index| assert_eq!(images.pixels(index), image(index)));
        }
    }

    #[test]
    fn a_class_is_one_of_ten() {
        assert_eq!([-1, 0, 9, 10, 256].map(class), [None, Some(0), Some(9), None, None]);
    }
}
