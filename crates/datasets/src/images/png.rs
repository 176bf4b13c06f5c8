//! PNG files, of the two kinds that data sets of small images have: grey, and red, green and blue, 8 bits a value.

use png::{BitDepth, ColorType, Decoder, Limits};
use std::io::Cursor;

/// Bytes that the decoder may take beside the picture.
const WORKING_MEMORY: usize = 1 << 20;

/// The values of the picture in a PNG file, [row, column, channel], which must have exactly `shape`: rows, columns, and 1 (grey) or 3
/// (red, green, blue) channels. Nothing is taken for a picture of another shape, whatever its header asks for.
///
/// # Errors
/// What is wrong with the file.
pub fn decode(bytes: &[u8], shape: [usize; 3]) -> Result<Vec<u8>, String> {
    let damaged = |error: png::DecodingError| format!("it is no whole PNG file ({error})");
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: WORKING_MEMORY });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    check(decoder.read_header_info().map_err(damaged)?, shape)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    if reader.info().animation_control.is_some() {
        return Err("expected one picture, found an animation".to_owned());
    }
    let mut pixels = vec![0; shape.iter().product()];
    reader.next_frame(&mut pixels).map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    Ok(pixels)
}

fn check(header: &png::Info<'_>, [height, width, channels]: [usize; 3]) -> Result<(), String> {
    let color = if channels == 1 { ColorType::Grayscale } else { ColorType::Rgb };
    let found = (header.height as usize, header.width as usize, header.color_type, header.bit_depth);
    if found == (height, width, color, BitDepth::Eight) {
        return Ok(());
    }
    let (rows, columns, found_color, bits) = found;
    Err(format!(
        "expected a picture of {height} times {width} pixels, {color:?} of 8 bits, found {rows} times {columns}, {found_color:?} of {} bits",
        bits as u8
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by Pillow 13.0.0 (`fixtures/make_images.py`): a picture in colours, the same in grey, and what is not read.
    const COLOURS: &[u8] = include_bytes!("../../fixtures/images/scene.png");
    const GREY: &[u8] = include_bytes!("../../fixtures/images/grey.png");
    const OTHERS: [(&[u8], &str); 4] = [
        (include_bytes!("../../fixtures/images/grey_16.png"), "found 23 times 37, Grayscale of 16 bits"),
        (include_bytes!("../../fixtures/images/palette.png"), "found 23 times 37, Indexed of 8 bits"),
        (include_bytes!("../../fixtures/images/alpha.png"), "found 23 times 37, Rgba of 8 bits"),
        (include_bytes!("../../fixtures/images/bits.png"), "found 23 times 37, Grayscale of 1 bits"),
    ];

    #[test]
    fn pixels_are_those_of_pillow() {
        assert_eq!(decode(COLOURS, [23, 37, 3]).unwrap(), include_bytes!("../../fixtures/images/scene.rgb"));
        // As colours, of which each is the grey.
        let grey: Vec<u8> = include_bytes!("../../fixtures/images/grey_png.rgb").iter().step_by(3).copied().collect();
        assert_eq!(decode(GREY, [23, 37, 1]).unwrap(), grey);
    }

    #[test]
    fn other_sizes_and_kinds_are_named() {
        for (file, expected) in OTHERS.into_iter().chain([(COLOURS, "found 23 times 37, Rgb of 8 bits")]) {
            let message = decode(file, [23, 37, 1]).unwrap_err();
            assert!(message.starts_with("expected a picture of 23 times 37 pixels, Grayscale of 8 bits, ") && message.ends_with(expected));
        }
        assert!(decode(COLOURS, [37, 23, 3]).unwrap_err().contains("of 37 times 23 pixels"));
    }

    #[test]
    fn a_file_that_is_cut_off_or_none_is_refused() {
        for length in 0..COLOURS.len() {
            assert!(decode(&COLOURS[..length], [23, 37, 3]).is_err(), "{length} of {} bytes", COLOURS.len());
        }
        assert!(decode(b"\xff\xd8\xff\xe0", [23, 37, 3]).unwrap_err().starts_with("it is no whole PNG file"));
    }

    /// A header of 2,147,483,647 rows and columns, with the right checksum.
    #[test]
    fn a_header_gets_no_memory_for_what_it_asks() {
        let mut file = COLOURS[..33].to_vec();
        file[16..24].fill(0xff);
        file[16] = 0x7f;
        file[20] = 0x7f;
        let mut checksum = flate2::Crc::new();
        checksum.update(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
        assert!(decode(&file, [23, 37, 3]).unwrap_err().contains("found 2147483647 times 2147483647"));
    }

    proptest! {
        /// Bytes changed anywhere, checksums and all: an error or a picture, never a panic.
        #[test]
        fn changed_bytes_never_panic(changes in prop::collection::vec((0..COLOURS.len(), any::<u8>()), 1..8)) {
            let mut file = COLOURS.to_vec();
            changes.into_iter().for_each(|(at, byte)| file[at] = byte);
            if let Ok(pixels) = decode(&file, [23, 37, 3]) {
                prop_assert_eq!(pixels.len(), 23 * 37 * 3);
            }
        }
    }
}
