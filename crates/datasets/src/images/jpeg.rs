//! JPEG files.

use super::Images;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Most rows and columns of a picture: what a damaged header may ask memory for.
const MAX_EDGE: usize = 8192;

/// The last marker of a file.
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// The picture in a JPEG file, red, green and blue, as one image of the class `label`. A file without colours gives equal values of the
/// three. The decoder is built without vector code, so that every processor gives the same values.
///
/// # Errors
/// What is wrong with the file.
pub fn decode(bytes: &[u8], label: u8) -> Result<Images, String> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_EDGE)
        .set_max_height(MAX_EDGE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let pixels = decoder.decode().map_err(|error| format!("it is no whole JPEG file ({error})"))?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    match pixels.len() == width * height * 3 {
        true => Ok(Images { height, width, channels: 3, pixels, labels: vec![label] }),
        false => Err(format!("expected {width} times {height} pixels of 3 values, found {} values", pixels.len())),
    }
}

/// Rows and columns of the picture in a JPEG file, by its header; its end is looked at, what is between is not decoded.
///
/// # Errors
/// What is wrong with the file.
pub fn size(bytes: &[u8]) -> Result<[usize; 2], String> {
    let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
    decoder.decode_headers().map_err(|error| format!("it is no JPEG file ({error})"))?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    if bytes.ends_with(&END_OF_IMAGE) { Ok([height, width]) } else { Err("it is no whole JPEG file (its end is missing)".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written and read again by Pillow 13.0.0 (libjpeg-turbo; `fixtures/make_images.py`): colours with whole and halved chroma, a
    /// progressive file, one without colours; odd sizes.
    const CASES: [(&str, &[u8], &[u8]); 4] = [
        ("444", include_bytes!("../../fixtures/images/444.jpg"), include_bytes!("../../fixtures/images/444.rgb")),
        ("420", include_bytes!("../../fixtures/images/420.jpg"), include_bytes!("../../fixtures/images/420.rgb")),
        ("progressive", include_bytes!("../../fixtures/images/progressive.jpg"), include_bytes!("../../fixtures/images/progressive.rgb")),
        ("grey", include_bytes!("../../fixtures/images/grey.jpg"), include_bytes!("../../fixtures/images/grey.rgb")),
    ];

    #[test]
    fn pixels_are_those_of_libjpeg_but_for_rounding() {
        for (name, file, expected) in CASES {
            let image = decode(file, 1).unwrap();
            assert_eq!((image.height, image.width, image.len(), image.labels.as_slice()), (23, 37, 1, &[1][..]), "{name}");
            let differences: Vec<u8> = image.pixels(0).iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect();
            let mean = differences.iter().map(|&difference| f64::from(difference)).sum::<f64>() / expected.len() as f64;
            let most = differences.iter().max().unwrap();
            // The standard leaves the rounding of the transform, and of halved chroma between its samples, to the decoder.
            assert!(*most <= 4 && mean < 0.6, "{name}: at most {most}, {mean:.3} in the mean");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_or_none_is_refused() {
        let (_, file, _) = CASES[0];
        for bytes in [&file[..file.len() / 2], &file[..10], b"", b"\x89PNG\r\n\x1a\n"] {
            assert!(decode(bytes, 0).is_err(), "{} bytes", bytes.len());
            assert!(size(bytes).is_err(), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn the_size_is_known_without_decoding() {
        for (name, file, _) in CASES {
            assert_eq!(size(file).unwrap(), [23, 37], "{name}");
        }
    }
}
