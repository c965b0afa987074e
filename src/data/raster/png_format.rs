//! PNG: any colour type and bit depth in, 8- and 16-bit out.

use std::fs::File;
use std::io::{BufRead, BufWriter, Seek, Write};
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Limits, Reader, Transformations};

use super::{MAX_SIZE_BYTES, Page, Raster, checked_samples, damaged, too_large};
use crate::error::{Error, Result};

/// A PNG file of which the header has been read.
pub(super) struct Unread<'a, R: BufRead + Seek> {
    page: &'a Page,
    reader: Reader<R>,
    palette: Option<Vec<[u8; 3]>>,
    /// Samples in memory, with the colours of the palette if they are to be looked up.
    pub(super) samples: usize,
}

fn failed(page: &Page, error: DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => {
            too_large(page, format!("the PNG file needs more than {} MiB", MAX_SIZE_BYTES >> 20))
        }
        other => damaged(page, "PNG", other),
    }
}

/// Samples of a pixel in the file, and of these without alpha.
fn channels(color: ColorType) -> (usize, usize) {
    match color {
        ColorType::Grayscale | ColorType::Indexed => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgb => (3, 3),
        ColorType::Rgba => (4, 3),
    }
}

pub(super) fn open<R: BufRead + Seek>(
    page: &Page,
    source: R,
    palette_channels: fn(&[[u8; 3]]) -> usize,
) -> Result<Unread<'_, R>> {
    let mut decoder = Decoder::new_with_limits(source, Limits { bytes: MAX_SIZE_BYTES as usize });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let reader = decoder.read_info().map_err(|error| failed(page, error))?;
    let info = reader.info();
    let palette = (info.color_type == ColorType::Indexed).then(|| {
        let bytes = info.palette.as_deref().unwrap_or_default();
        bytes.as_chunks::<3>().0.to_vec()
    });
    let counted = palette.as_deref().map_or(channels(info.color_type).0, palette_channels);
    let samples = checked_samples(page, info.height.into(), info.width.into(), counted as u64)?;
    Ok(Unread { page, reader, palette, samples })
}

impl<R: BufRead + Seek> Unread<'_, R> {
    /// The bytes of the pixels as they are in the file.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.reader.output_buffer_size().map_or(u64::MAX, |bytes| bytes as u64)
    }

    pub(super) fn decode(self) -> Result<Raster> {
        let Self { page, mut reader, palette, .. } = self;
        let failed = |error| failed(page, error);
        let info = reader.info();
        let (png_width, bit_depth) = (info.width, info.bit_depth as u8);
        let (height, width) = (info.height as usize, png_width as usize);
        let (stored, channels) = channels(info.color_type);
        let overflow = || damaged(page, "PNG", "its size overflows");
        let mut bytes = vec![0; reader.output_buffer_size().ok_or_else(overflow)?];
        let line_size = reader.output_line_size(png_width).ok_or_else(overflow)?;
        reader.next_frame(&mut bytes).map_err(failed)?;
        // Reads the trailing checksum and end marker: a file cut off after its last pixel is damaged too.
        reader.finish().map_err(failed)?;

        let mut samples = Vec::with_capacity(height * width * channels);
        for line in bytes.chunks_exact(line_size) {
            for x in 0..width {
                samples.extend((0..channels).map(|channel| sample(line, x * stored + channel, bit_depth)));
            }
        }
        let alpha_dropped = stored > channels;
        Ok(Raster {
            height,
            width,
            channels,
            bit_depth,
            samples,
            palette,
            white_is_zero: false,
            alpha_dropped,
            lossy: false,
        })
    }
}

/// Sample `index` of a line: big-endian, and from the highest bit down where samples are smaller than a byte.
fn sample(line: &[u8], index: usize, bit_depth: u8) -> f32 {
    let bits = usize::from(bit_depth);
    if bits == 16 {
        return f32::from(u16::from_be_bytes([line[2 * index], line[2 * index + 1]]));
    }
    let first_bit = index * bits;
    let shift = 8 - bits - first_bit % 8;
    f32::from(line[first_bit / 8] >> shift & (0xff >> (8 - bits)))
}

/// Writes an 8-bit grey PNG from `[height, width]` values.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, [`Error::Usage`] when the values do not fill the image.
pub fn write_grey8(path: &Path, height: usize, width: usize, values: &[u8]) -> Result<()> {
    write(path, [height, width, 1], ColorType::Grayscale, BitDepth::Eight, values, None)
}

/// Writes an 8-bit PNG from `[height, width]` indices of these colours.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, [`Error::Usage`] when the values do not fill the image.
pub fn write_indexed(path: &Path, height: usize, width: usize, values: &[u8], palette: &[[u8; 3]]) -> Result<()> {
    write(path, [height, width, 1], ColorType::Indexed, BitDepth::Eight, values, Some(palette))
}

/// Writes a 16-bit grey PNG from `[height, width]` values.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, [`Error::Usage`] when the values do not fill the image.
pub fn write_grey16(path: &Path, height: usize, width: usize, values: &[u16]) -> Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    write(path, [height, width, 2], ColorType::Grayscale, BitDepth::Sixteen, &bytes, None)
}

/// The bytes of an 8-bit RGB PNG from `[height, width, 3]` values.
///
/// # Errors
/// [`Error::Usage`] when the values do not fill the image.
pub fn encode_rgb8(height: usize, width: usize, values: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let name = Path::new("picture");
    encode(&mut bytes, name, [height, width, 3], ColorType::Rgb, BitDepth::Eight, values, None)?;
    Ok(bytes)
}

/// Writes an 8-bit RGB PNG from `[height, width, 3]` values.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written, [`Error::Usage`] when the values do not fill the image.
pub fn write_rgb8(path: &Path, height: usize, width: usize, values: &[u8]) -> Result<()> {
    write(path, [height, width, 3], ColorType::Rgb, BitDepth::Eight, values, None)
}

fn write(
    path: &Path,
    size: [usize; 3],
    colour: ColorType,
    depth: BitDepth,
    bytes: &[u8],
    palette: Option<&[[u8; 3]]>,
) -> Result<()> {
    let file = File::create(path).map_err(|source| Error::io("create", path, source))?;
    let mut buffered = BufWriter::new(file);
    encode(&mut buffered, path, size, colour, depth, bytes, palette)?;
    buffered.flush().map_err(|source| Error::io("write", path, source))
}

/// Writes a PNG whose errors name `path`.
fn encode(
    sink: impl Write,
    path: &Path,
    [height, width, pixel_bytes]: [usize; 3],
    colour: ColorType,
    depth: BitDepth,
    bytes: &[u8],
    palette: Option<&[[u8; 3]]>,
) -> Result<()> {
    if bytes.len() != height * width * pixel_bytes || bytes.is_empty() {
        let found = bytes.len();
        let problem = format!("{width} x {height} pixels of {pixel_bytes} bytes cannot be written from {found} bytes");
        return Err(Error::Usage(format!("{}: {problem}", path.display())));
    }
    let (Ok(png_width), Ok(png_height)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(Error::Usage(format!("{}: {width} x {height} pixels are too many for a PNG", path.display())));
    };
    let failed = |error: EncodingError| match error {
        EncodingError::IoError(source) => Error::io("write", path, source),
        other => Error::data(path, format!("cannot be encoded as PNG: {other}")),
    };
    let mut encoder = Encoder::new(sink, png_width, png_height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if let Some(palette) = palette {
        encoder.set_palette(palette.as_flattened());
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(bytes).map_err(failed)?;
    writer.finish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(folder: &Path, colour: ColorType, depth: BitDepth, width: u32, height: u32, data: &[u8]) -> Raster {
        let path = folder.join("a.png");
        let mut encoder = Encoder::new(File::create(&path).unwrap(), width, height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        Raster::read(&path.as_path().into()).unwrap()
    }

    #[test]
    fn every_bit_depth_is_read_as_stored() {
        let folder = tempfile::tempdir().unwrap();
        let read = |depth, data: &[u8]| encoded(folder.path(), ColorType::Grayscale, depth, 3, 2, data).samples;
        assert_eq!(read(BitDepth::One, &[0b1010_0000, 0b0110_0000]), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(read(BitDepth::Two, &[0b0001_1000, 0b1110_0100]), [0.0, 1.0, 2.0, 3.0, 2.0, 1.0]);
        assert_eq!(read(BitDepth::Four, &[0x1f, 0x20, 0x03, 0xe0]), [1.0, 15.0, 2.0, 0.0, 3.0, 14.0]);
        assert_eq!(read(BitDepth::Eight, &[0, 1, 2, 127, 128, 255]), [0.0, 1.0, 2.0, 127.0, 128.0, 255.0]);
        let sixteen: Vec<u8> = [0_u16, 1, 256, 32_768, 65_534, 65_535].iter().flat_map(|v| v.to_be_bytes()).collect();
        assert_eq!(read(BitDepth::Sixteen, &sixteen), [0.0, 1.0, 256.0, 32_768.0, 65_534.0, 65_535.0]);
    }

    #[test]
    fn palette_indices_survive_and_alpha_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let indexed = encoded(folder.path(), ColorType::Indexed, BitDepth::Two, 3, 1, &[0b0110_1100]);
        assert_eq!(indexed.samples, [1.0, 2.0, 3.0]);
        assert_eq!(indexed.palette.unwrap()[1], [255, 0, 0]);

        let rgba = encoded(folder.path(), ColorType::Rgba, BitDepth::Eight, 2, 1, &[1, 2, 3, 99, 4, 5, 6, 99]);
        assert_eq!((rgba.channels, rgba.alpha_dropped), (3, true));
        assert_eq!(rgba.samples, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);

        let grey = encoded(folder.path(), ColorType::GrayscaleAlpha, BitDepth::Eight, 2, 1, &[7, 99, 8, 99]);
        assert_eq!((grey.channels, grey.alpha_dropped), (1, true));
        assert_eq!(grey.samples, [7.0, 8.0]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_grey16(&path, 2, 2, &[0, 1, 256, 65_535]).unwrap();
        let raster = Raster::read(&path.as_path().into()).unwrap();
        assert_eq!((raster.bit_depth, raster.samples), (16, vec![0.0, 1.0, 256.0, 65_535.0]));
        write_rgb8(&path, 1, 2, &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let message = write_grey8(&path, 2, 2, &[0; 3]).unwrap_err().to_string();
        assert!(message.contains("2 x 2 pixels of 1 bytes cannot be written from 3 bytes"), "{message}");
    }

    #[test]
    fn truncation_anywhere_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.png");
        let values: Vec<u8> = (0..64 * 64).map(|i| (i * i % 251) as u8).collect();
        write_grey8(&path, 64, 64, &values).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in (8..whole.len() - 1).step_by(37).chain([whole.len() - 12, whole.len() - 1]) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let message = Raster::read(&path.as_path().into()).unwrap_err().to_string();
            assert!(message.contains("cut.png: damaged or incomplete PNG file"), "{length}: {message}");
        }
    }
}
