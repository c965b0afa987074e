//! TIFF: single images and stacks, either byte order, grey, RGB or several bands, integers and floats.

use std::io::{BufRead, Seek};
use std::path::Path;

use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{CompressionMethod, Tag};
use tiff::{ColorType, TiffError};

use super::{MAX_PAGES, MAX_SIZE_BYTES, Raster, checked_samples, damaged, unsupported};
use crate::error::{Error, Result};

/// Up to here f32 holds every integer.
const LARGEST_EXACT: u32 = 1 << 24;

/// The error for what the decoder complains about.
fn failed(path: &Path, error: TiffError) -> Error {
    match error {
        TiffError::UnsupportedError(found) => unsupported(path, format!("this kind of TIFF ({found})")),
        TiffError::LimitsExceeded => {
            Error::data(path, "the TIFF file asks for more memory than its pixels can need; save it again")
        }
        other => damaged(path, "TIFF", other),
    }
}

fn decoder<R: BufRead + Seek>(path: &Path, source: R) -> Result<Decoder<R>> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_SIZE_BYTES as usize;
    limits.intermediate_buffer_size = MAX_SIZE_BYTES as usize;
    Ok(Decoder::new(source).map_err(|error| failed(path, error))?.with_limits(limits))
}

/// How many pages there are.
pub(super) fn pages(path: &Path, source: impl BufRead + Seek) -> Result<usize> {
    let mut decoder = decoder(path, source)?;
    let mut count = 1;
    while decoder.more_images() {
        if count == MAX_PAGES {
            return Err(Error::data(path, format!("more than {MAX_PAGES} pages; split the stack")));
        }
        decoder.next_image().map_err(|error| failed(path, error))?;
        count += 1;
    }
    Ok(count)
}

pub(super) fn read(path: &Path, source: impl BufRead + Seek, page: Option<usize>) -> Result<Raster> {
    let failed = |error| failed(path, error);
    let mut decoder = decoder(path, source)?;
    match page {
        Some(page) => decoder.seek_to_image(page).map_err(failed)?,
        None if decoder.more_images() => {
            let problem =
                "the TIFF file has several pages where one image is wanted; save each page as an image of its own";
            return Err(Error::data(path, problem));
        }
        None => {}
    }

    let (width, height) = decoder.dimensions().map_err(failed)?;
    let colour = decoder.colortype().map_err(failed)?;
    let bit_depth = colour.bit_depth();
    let (stored, channels) = match colour {
        ColorType::Gray(_) => (1, 1),
        ColorType::GrayA(_) => (2, 1),
        ColorType::RGB(_) => (3, 3),
        ColorType::RGBA(_) => (4, 3),
        ColorType::Multiband { num_samples, .. } => (usize::from(num_samples), usize::from(num_samples)),
        other => return Err(unsupported(path, format!("the TIFF colour type {other:?}"))),
    };
    let count = checked_samples(path, u64::from(height), u64::from(width), stored as u64)?;
    let (height, width) = (height as usize, width as usize);
    let compression = decoder.find_tag_unsigned::<u16>(Tag::Compression).map_err(failed)?;
    let lossy = [CompressionMethod::JPEG, CompressionMethod::ModernJPEG, CompressionMethod::WebP]
        .iter()
        .any(|method| compression == Some(method.to_u16()));

    let mut decoded = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut decoded).map_err(failed)?;
    let values = match decoded {
        DecodingResult::U8(values) if bit_depth < 8 => unpacked(&values, width * stored, bit_depth),
        DecodingResult::U8(values) => values.into_iter().map(f32::from).collect(),
        DecodingResult::U16(values) => values.into_iter().map(f32::from).collect(),
        DecodingResult::I8(values) => values.into_iter().map(f32::from).collect(),
        DecodingResult::I16(values) => values.into_iter().map(f32::from).collect(),
        DecodingResult::U32(values) => {
            if let Some(value) = values.iter().find(|&&value| value > LARGEST_EXACT) {
                let problem =
                    format!("the value {value} is above {LARGEST_EXACT}; renumber or rescale and save as 16-bit");
                return Err(Error::data(path, problem));
            }
            values.into_iter().map(|value| value as f32).collect()
        }
        DecodingResult::F32(values) => values,
        DecodingResult::F64(values) => values.into_iter().map(|value| value as f32).collect(),
        _ => return Err(unsupported(path, format!("a TIFF with {bit_depth}-bit samples of this type"))),
    };
    if values.len() != count {
        return Err(damaged(path, "TIFF", format!("{} samples instead of {count}", values.len())));
    }
    let values = if layout.planes > 1 { interleaved(&values, stored) } else { values };
    let samples: Vec<f32> = if stored == channels {
        values
    } else {
        values.chunks(stored).flat_map(|pixel| &pixel[..channels]).copied().collect()
    };

    let raster =
        Raster { height, width, channels, bit_depth, samples, palette: None, alpha_dropped: stored > channels, lossy };
    if let Some(at) = raster.samples.iter().position(|value| !value.is_finite()) {
        let (x, y) = raster.position(at);
        let problem = format!("the value at x={x}, y={y} is {}; replace what is not a number", raster.samples[at]);
        return Err(Error::data(path, problem));
    }
    Ok(raster)
}

/// Samples smaller than a byte, lines starting at a byte, highest bits first.
fn unpacked(bytes: &[u8], line_samples: usize, bit_depth: u8) -> Vec<f32> {
    let bits = usize::from(bit_depth);
    let mask = 0xff >> (8 - bits);
    let line_bytes = (line_samples * bits).div_ceil(8);
    let line = |line: &[u8]| -> Vec<f32> {
        (0..line_samples).map(|i| f32::from(line[i * bits / 8] >> (8 - bits - i * bits % 8) & mask)).collect()
    };
    bytes.chunks_exact(line_bytes).flat_map(line).collect()
}

/// Whole planes one after another to pixels one after another.
fn interleaved(values: &[f32], planes: usize) -> Vec<f32> {
    let pixels = values.len() / planes;
    (0..pixels).flat_map(|pixel| (0..planes).map(move |plane| values[plane * pixels + pixel])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Cursor;
    use tiff::encoder::TiffEncoder;
    use tiff::encoder::colortype::{Gray8, Gray16, Gray32, Gray32Float, RGB8, RGBA16};

    /// A file with this entry list: (tag, type, count, value or offset), in the given byte order.
    fn by_hand(big_endian: bool, entries: &[(u16, u16, u32, u32)], pixels: &[u8]) -> Vec<u8> {
        let two = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let four = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut bytes = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        bytes.extend(two(42));
        bytes.extend(four(8 + pixels.len() as u32));
        bytes.extend(pixels);
        bytes.extend(two(entries.len() as u16));
        for &(tag, kind, count, value) in entries {
            bytes.extend(two(tag));
            bytes.extend(two(kind));
            bytes.extend(four(count));
            match kind {
                3 => bytes.extend([two(value as u16), two(0)].concat()),
                _ => bytes.extend(four(value)),
            }
        }
        bytes.extend(four(0));
        bytes
    }

    /// Uncompressed grey, 3 x 2 pixels in one strip.
    fn grey(big_endian: bool, bits: u32, pixels: &[u8]) -> Vec<u8> {
        let entries = [
            (256, 3, 1, 3),
            (257, 3, 1, 2),
            (258, 3, 1, bits),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (277, 3, 1, 1),
            (278, 3, 1, 2),
            (279, 4, 1, pixels.len() as u32),
        ];
        by_hand(big_endian, &entries, pixels)
    }

    fn read_bytes(bytes: &[u8]) -> Result<Raster> {
        read(Path::new("a.tif"), Cursor::new(bytes), None)
    }

    #[test]
    fn both_byte_orders_and_one_bit_are_read_as_stored() {
        let expected = [0.0, 1.0, 256.0, 515.0, 65_534.0, 65_535.0];
        let words = [0_u16, 1, 256, 515, 65_534, 65_535];
        let big: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let little: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(read_bytes(&grey(true, 16, &big)).unwrap().samples, expected);
        assert_eq!(read_bytes(&grey(false, 16, &little)).unwrap().samples, expected);
        let one_bit = read_bytes(&grey(true, 1, &[0b1010_0000, 0b0110_0000])).unwrap();
        assert_eq!((one_bit.bit_depth, one_bit.samples), (1, vec![1.0, 0.0, 1.0, 0.0, 1.0, 1.0]));
    }

    #[test]
    fn encoded_files_of_every_kind_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tif");
        let encoder = || TiffEncoder::new(File::create(&path).unwrap()).unwrap();
        encoder().write_image::<Gray8>(2, 1, &[3, 255]).unwrap();
        assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [3.0, 255.0]);
        encoder().write_image::<Gray16>(2, 1, &[3, 65_535]).unwrap();
        assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [3.0, 65_535.0]);
        encoder().write_image::<Gray32Float>(2, 1, &[0.25, -3.5]).unwrap();
        assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [0.25, -3.5]);
        encoder().write_image::<RGB8>(1, 2, &[1, 2, 3, 4, 5, 6]).unwrap();
        let rgb = Raster::read(&path.as_path().into()).unwrap();
        assert_eq!((rgb.height, rgb.channels, rgb.samples), (2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        encoder().write_image::<RGBA16>(1, 1, &[1, 2, 3, 4]).unwrap();
        let rgba = Raster::read(&path.as_path().into()).unwrap();
        assert_eq!((rgba.alpha_dropped, rgba.samples), (true, vec![1.0, 2.0, 3.0]));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tif");
        let message = || Raster::read(&path.as_path().into()).unwrap_err().to_string();
        let encoder = || TiffEncoder::new(File::create(&path).unwrap()).unwrap();
        encoder().write_image::<Gray32Float>(3, 1, &[0.0, 1.0, f32::NAN]).unwrap();
        assert!(message().contains("a.tif: the value at x=2, y=0 is NaN"), "{}", message());
        encoder().write_image::<Gray32>(1, 1, &[20_000_000]).unwrap();
        assert!(message().contains("the value 20000000 is above 16777216; renumber"), "{}", message());
        let mut pages = encoder();
        pages.write_image::<Gray8>(1, 1, &[1]).unwrap();
        pages.write_image::<Gray8>(1, 1, &[2]).unwrap();
        assert!(message().contains("several pages where one image is wanted; save each page"), "{}", message());
    }

    #[test]
    fn damage_anywhere_is_an_error_or_an_image_but_never_a_panic() {
        let whole = grey(false, 8, &[1, 2, 3, 4, 5, 6]);
        for length in 4..whole.len() - 4 {
            let message = read_bytes(&whole[..length]).unwrap_err().to_string();
            assert!(message.contains("damaged or incomplete TIFF file"), "{length}: {message}");
        }
        for at in 4..whole.len() {
            for value in [0, 1, 2, 7, 64, 255] {
                let mut broken = whole.clone();
                broken[at] = value;
                let _ = read_bytes(&broken);
            }
        }
    }

    #[test]
    fn planes_are_interleaved() {
        assert_eq!(interleaved(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }
}
