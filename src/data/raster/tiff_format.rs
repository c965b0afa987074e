//! TIFF: single images and stacks, either byte order, grey, palette, RGB or several bands, integers and floats.

mod as_stored;

use std::fmt::Display;
use std::io::{BufRead, Read, Seek};

use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{CompressionMethod, PhotometricInterpretation, Tag};
use tiff::{ColorType, TiffError};

use super::{MAX_PAGES, MAX_SIZE_BYTES, Page, Raster, checked_samples, damaged, unsupported};
use crate::data::finding::{Code, Finding};
use crate::error::Result;
use as_stored::AsStored;

/// Up to here f32 holds every integer.
const LARGEST_EXACT: u32 = 1 << 24;

/// The error for what the decoder complains about.
fn failed(page: &Page, error: TiffError) -> crate::Error {
    match error {
        TiffError::UnsupportedError(found) => unsupported(page, format!("this kind of TIFF ({found})")),
        TiffError::LimitsExceeded => {
            let text = "the TIFF file asks for more memory than its pixels can need";
            Finding::new(Code::TooLarge, page, text, "save it again").into_error()
        }
        other => damaged(page, "TIFF", other),
    }
}

fn decoder<R: BufRead + Seek>(page: &Page, source: R) -> Result<Decoder<AsStored<R>>> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_SIZE_BYTES as usize;
    limits.intermediate_buffer_size = MAX_SIZE_BYTES as usize;
    Ok(Decoder::new(AsStored::new(source)).map_err(|error| failed(page, error))?.with_limits(limits))
}

/// How many pages there are.
pub(super) fn pages(file: &Page, source: impl BufRead + Seek) -> Result<usize> {
    let mut decoder = decoder(file, source)?;
    let mut count = 1;
    while decoder.more_images() {
        if count == MAX_PAGES {
            let text = format!("more than {MAX_PAGES} pages");
            return Err(Finding::new(Code::TooLarge, file, text, "split the stack").into_error());
        }
        decoder.next_image().map_err(|error| failed(file, error))?;
        count += 1;
    }
    Ok(count)
}

/// A page of a TIFF file of which the directory has been read.
pub(super) struct Unread<'a, R: Read + Seek> {
    page: &'a Page,
    decoder: Decoder<AsStored<R>>,
    height: usize,
    width: usize,
    /// Samples of a pixel in the file.
    stored: usize,
    /// Of these, without alpha.
    channels: usize,
    bit_depth: u8,
    palette: Option<Vec<[u8; 3]>>,
    white_is_zero: bool,
    /// Samples in memory, with the colours of the palette if they are to be looked up.
    pub(super) samples: usize,
}

pub(super) fn open<R: BufRead + Seek>(
    page: &Page,
    source: R,
    palette_channels: fn(&[[u8; 3]]) -> usize,
) -> Result<Unread<'_, R>> {
    let failed = |error| failed(page, error);
    let mut decoder = decoder(page, source)?;
    match page.index {
        Some(index) => decoder.seek_to_image(index).map_err(failed)?,
        None if decoder.more_images() => {
            let text = "the TIFF file has several pages where one image is wanted";
            let fix = "save each page as an image of its own";
            return Err(Finding::new(Code::SeveralPages, page, text, fix).into_error());
        }
        None => {}
    }
    let photometric = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).map_err(failed)?;
    let is = |interpretation: PhotometricInterpretation| photometric == Some(interpretation.to_u16());
    let white_is_zero = is(PhotometricInterpretation::WhiteIsZero);
    let has_palette = is(PhotometricInterpretation::RGBPalette);
    if white_is_zero || has_palette || is(PhotometricInterpretation::TransparencyMask) {
        as_stored::take_for_grey(&mut decoder, page.index.unwrap_or(0)).map_err(failed)?;
    }

    let (width, height) = decoder.dimensions().map_err(failed)?;
    let colour = decoder.colortype().map_err(failed)?;
    let bit_depth = colour.bit_depth();
    let (stored, channels) = match colour {
        ColorType::Gray(_) => (1, 1),
        ColorType::GrayA(_) => (2, 1),
        ColorType::RGB(_) => (3, 3),
        ColorType::RGBA(_) => (4, 3),
        ColorType::Multiband { num_samples, .. } if has_palette => (usize::from(num_samples), 1),
        ColorType::Multiband { num_samples, .. } => (usize::from(num_samples), usize::from(num_samples)),
        other => return Err(unsupported(page, format!("the TIFF colour type {other:?}"))),
    };
    let palette = if has_palette { Some(colour_map(&mut decoder).map_err(failed)?) } else { None };
    let counted = palette.as_deref().map_or(stored, |palette| palette_channels(palette).max(stored));
    let samples = checked_samples(page, u64::from(height), u64::from(width), counted as u64)?;
    let (height, width) = (height as usize, width as usize);
    Ok(Unread { page, decoder, height, width, stored, channels, bit_depth, palette, white_is_zero, samples })
}

impl<R: BufRead + Seek> Unread<'_, R> {
    /// The bytes of the pixels as they are in the file, uncompressed.
    pub(super) fn stored_bytes(&self) -> u64 {
        let line_bits = (self.width * self.stored * usize::from(self.bit_depth)) as u64;
        self.height as u64 * line_bits.div_ceil(8)
    }

    pub(super) fn decode(self) -> Result<Raster> {
        let Self { page, mut decoder, height, width, stored, channels, bit_depth, palette, white_is_zero, .. } = self;
        let failed = |error| failed(page, error);
        let compression = decoder.find_tag_unsigned::<u16>(Tag::Compression).map_err(failed)?;
        let lossy = [CompressionMethod::JPEG, CompressionMethod::ModernJPEG, CompressionMethod::WebP]
            .iter()
            .any(|method| compression == Some(method.to_u16()));

        let mut decoded = DecodingResult::U8(Vec::new());
        let layout = decoder.read_image_to_buffer(&mut decoded).map_err(failed)?;
        let exact = Exact { page, width, stored };
        let values = match decoded {
            DecodingResult::U8(values) if bit_depth < 8 => {
                unpacked(&values, width * (stored / layout.planes), bit_depth)
            }
            DecodingResult::U8(values) => values.into_iter().map(f32::from).collect(),
            DecodingResult::U16(values) => values.into_iter().map(f32::from).collect(),
            DecodingResult::I8(values) => values.into_iter().map(f32::from).collect(),
            DecodingResult::I16(values) => values.into_iter().map(f32::from).collect(),
            DecodingResult::U32(values) => exact.numbers(&values, |value| value as f32)?,
            DecodingResult::I32(values) => exact.numbers(&values, |value| value as f32)?,
            DecodingResult::U64(values) => exact.numbers(&values, |value| value as f32)?,
            DecodingResult::I64(values) => exact.numbers(&values, |value| value as f32)?,
            DecodingResult::F32(values) => values,
            DecodingResult::F64(values) => {
                exact.check(&values, |value| value.fract() == 0.0 && value.abs() > f64::from(LARGEST_EXACT))?;
                values.into_iter().map(|value| value as f32).collect()
            }
            DecodingResult::F16(_) => return Err(unsupported(page, "a TIFF with 16-bit floating-point samples")),
        };
        let count = height * width * stored;
        if values.len() != count {
            return Err(damaged(page, "TIFF", format!("{} samples instead of {count}", values.len())));
        }
        let values = if layout.planes > 1 { interleaved(&values, stored) } else { values };
        let samples: Vec<f32> = if stored == channels {
            values
        } else {
            values.chunks(stored).flat_map(|pixel| &pixel[..channels]).copied().collect()
        };

        let alpha_dropped = stored > channels;
        let raster =
            Raster { height, width, channels, bit_depth, samples, palette, white_is_zero, alpha_dropped, lossy };
        if let Some(at) = raster.samples.iter().position(|value| !value.is_finite()) {
            let ([x, y], value) = (raster.position(at), raster.samples[at]);
            let text = format!("the value at x={x}, y={y} is {value}");
            return Err(Finding::new(Code::NotFinite, page, text, "replace what is not a number")
                .at(value, [x, y])
                .into_error());
        }
        Ok(raster)
    }
}

/// The colours of a palette: all reds, all greens, all blues, of 16 bits. Some programs write 8-bit values there.
fn colour_map<R: Read + Seek>(decoder: &mut Decoder<R>) -> Result<Vec<[u8; 3]>, TiffError> {
    let map: Vec<u16> = decoder.find_tag_unsigned_vec(Tag::ColorMap)?.unwrap_or_default();
    let shift = if map.iter().all(|&level| level < 256) { 0 } else { 8 };
    let count = map.len() / 3;
    Ok((0..count).map(|index| [0, 1, 2].map(|channel| (map[channel * count + index] >> shift) as u8)).collect())
}

/// Refuses numbers that f32 would merge with their neighbours.
struct Exact<'a> {
    page: &'a Page,
    width: usize,
    stored: usize,
}

impl Exact<'_> {
    fn numbers<T: Copy + Display + Into<i128>>(&self, values: &[T], convert: fn(T) -> f32) -> Result<Vec<f32>> {
        self.check(values, |value| value.into().unsigned_abs() > u128::from(LARGEST_EXACT))?;
        Ok(values.iter().map(|&value| convert(value)).collect())
    }

    fn check<T: Copy + Display>(&self, values: &[T], merged: impl Fn(T) -> bool) -> Result<()> {
        let Some(at) = values.iter().position(|&value| merged(value)) else { return Ok(()) };
        let (pixel, value) = (at / self.stored, values[at]);
        let text = format!("the value {value} is above {LARGEST_EXACT}, beyond which numbers are not told apart");
        let fix = "renumber or rescale and save as 16-bit";
        let position = [pixel % self.width, pixel / self.width];
        Err(Finding::new(Code::NotExact, self.page, text, fix).at(value, position).into_error())
    }
}

/// Samples smaller than a byte, lines starting at a byte, highest bits first; a sample may end in the byte after.
fn unpacked(bytes: &[u8], line_samples: usize, bit_depth: u8) -> Vec<f32> {
    let bits = usize::from(bit_depth);
    let mask = (1 << bits) - 1;
    let line_bytes = (line_samples * bits).div_ceil(8);
    let line = |line: &[u8]| -> Vec<f32> {
        let sample = |i: usize| {
            let (byte, bit) = (i * bits / 8, i * bits % 8);
            let two = u16::from_be_bytes([line[byte], line.get(byte + 1).copied().unwrap_or(0)]);
            f32::from(two >> (16 - bits - bit) & mask)
        };
        (0..line_samples).map(sample).collect()
    };
    bytes.chunks_exact(line_bytes).flat_map(line).collect()
}

/// Whole planes one after another to pixels one after another.
fn interleaved(values: &[f32], planes: usize) -> Vec<f32> {
    let pixels = values.len() / planes;
    (0..pixels).flat_map(|pixel| (0..planes).map(move |plane| values[plane * pixels + pixel])).collect()
}

#[cfg(test)]
mod tests;
