//! What a network sees: the samples of an image, then the same with the gain and offset of the camera taken out.

use std::path::Path;

use super::finding::{Code, Finding};
use super::raster::{Page, Raster, Unread, colour_channels};
use crate::error::Result;

/// An image of any bit depth, channels last.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 for grey, 3 for RGB, any number for a TIFF of several bands.
    pub channels: usize,
    /// Bits of a sample in the file: 8 and 16 are usual, 32 means floating point.
    pub bit_depth: u8,
    /// `[height, width, channels]`, as in the file until [`Image::normalise`].
    pub pixels: Vec<f32>,
    /// Whether the file has an alpha channel, which is not among `channels`.
    pub alpha_dropped: bool,
}

impl Image {
    /// Reads a PNG or TIFF file. Palettes are replaced by their colours, those of greys only by one channel; 1-bit images keep the
    /// values 0 and 1. TIFF of which 0 is white is inverted, so that the image is as it is meant to be seen: `2^bits − 1 − v`, or
    /// `1 − v` beyond 16 bits.
    ///
    /// # Errors
    /// As [`Raster::read`]; also [`Error::Finding`](crate::Error::Finding) when a palette index has no colour, or the colours would take
    /// more memory than an image may.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_page(&path.as_ref().into())
    }

    /// Reads an image of a file that may have several.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn read_page(page: &Page) -> Result<Self> {
        Self::of_raster(Unread::open_for_colours(page)?.decode()?, page)
    }

    /// The image of which a page has the samples.
    pub(super) fn of_raster(mut raster: Raster, page: &Page) -> Result<Self> {
        if let Some(palette) = raster.palette.take() {
            look_up(&mut raster, &palette, page)?;
        }
        if raster.white_is_zero {
            let white = white(raster.bit_depth);
            raster.samples.iter_mut().for_each(|sample| *sample = white - *sample);
        }
        let Raster { height, width, channels, bit_depth, samples, alpha_dropped, .. } = raster;
        Ok(Self { height, width, channels, bit_depth, pixels: samples, alpha_dropped })
    }

    /// Whether there are as many values as the size says.
    pub(crate) fn is_whole(&self) -> bool {
        self.height.saturating_mul(self.width).saturating_mul(self.channels) == self.pixels.len()
    }

    /// The smallest and the largest value.
    pub fn range(&self) -> (f32, f32) {
        self.pixels.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
    }

    /// Shifts and scales each channel to zero mean and unit variance over the image: `(v − mean) / deviation`, with the
    /// population variance, in f64. A constant channel becomes zeros.
    ///
    /// This is what the network is trained on and must be given. It makes an 8-bit image, a 16-bit image that uses a tenth
    /// of its range, and a dim exposure of the same cells look alike; what it takes away, absolute brightness, rarely
    /// says which pixels are cell.
    pub fn normalise(&mut self) {
        let count = (self.height * self.width) as f64;
        for channel in 0..self.channels {
            let values = || self.pixels.iter().skip(channel).step_by(self.channels);
            let mean = values().map(|&v| f64::from(v)).sum::<f64>() / count;
            let variance = values().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
            let first = self.pixels.get(channel).copied();
            let constant = values().all(|&v| Some(v) == first);
            let scale = if constant { 0.0 } else { variance.sqrt().recip() };
            for value in self.pixels.iter_mut().skip(channel).step_by(self.channels) {
                *value = ((f64::from(*value) - mean) * scale) as f32;
            }
        }
    }
}

/// The largest value of samples of so many bits, `2^bits − 1`; 1 beyond 16 bits.
pub(super) fn white(bit_depth: u8) -> f32 {
    if bit_depth <= 16 { ((1_u32 << bit_depth) - 1) as f32 } else { 1.0 }
}

/// Replaces palette indices by their colours, in place.
fn look_up(raster: &mut Raster, palette: &[[u8; 3]], page: &Page) -> Result<()> {
    if let Some(at) = raster.samples.iter().position(|&index| index as usize >= palette.len()) {
        let (known, index, [x, y]) = (palette.len(), raster.samples[at], raster.position(at));
        let text = format!("the palette has {known} colours, but the pixel at x={x}, y={y} is {index}");
        return Err(Finding::new(Code::MissingColour, page, text, "save it again").at(index, [x, y]).into_error());
    }
    let (channels, pixels) = (colour_channels(palette), raster.samples.len());
    raster.samples.resize(channels * pixels, 0.0);
    // From the last pixel on, so that no index is overwritten before it is looked up.
    for pixel in (0..pixels).rev() {
        let colour = palette[raster.samples[pixel] as usize];
        let samples = &mut raster.samples[channels * pixel..][..channels];
        samples.iter_mut().zip(colour).for_each(|(sample, level)| *sample = f32::from(level));
    }
    (raster.channels, raster.bit_depth) = (channels, 8);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::raster::{write_grey16, write_rgb8};
    use png::{BitDepth, ColorType, Encoder};

    fn image(channels: usize, pixels: Vec<f32>) -> Image {
        Image { height: 1, width: pixels.len() / channels, channels, bit_depth: 8, pixels, alpha_dropped: false }
    }

    #[test]
    fn grey_and_colour_keep_their_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_grey16(&path, 1, 2, &[300, 65_535]).unwrap();
        let grey = Image::read(&path).unwrap();
        assert_eq!((grey.channels, grey.bit_depth, grey.range()), (1, 16, (300.0, 65_535.0)));
        write_rgb8(&path, 1, 2, &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(Image::read(&path).unwrap().pixels, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn palettes_become_colours_and_missing_colours_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (palette, data) in [(vec![0, 0, 0, 10, 20, 30], [0, 1]), (vec![0, 0, 0], [0, 1])] {
            let complete = palette.len() == 6;
            let mut encoder = Encoder::new(std::fs::File::create(&path).unwrap(), 2, 1);
            encoder.set_color(ColorType::Indexed);
            encoder.set_depth(BitDepth::Eight);
            encoder.set_palette(palette);
            encoder.write_header().unwrap().write_image_data(&data).unwrap();
            if complete {
                let image = Image::read(&path).unwrap();
                assert_eq!((image.channels, image.pixels), (3, vec![0.0, 0.0, 0.0, 10.0, 20.0, 30.0]));
            } else {
                let message = Image::read(&path).unwrap_err().to_string();
                assert!(message.contains("the palette has 1 colours, but the pixel at x=1, y=0 is 1"), "{message}");
            }
        }
    }

    #[test]
    fn a_palette_of_greys_is_one_channel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        crate::data::raster::write_indexed(&path, 1, 3, &[2, 0, 1], &[[0; 3], [90; 3], [255; 3]]).unwrap();
        let image = Image::read(&path).unwrap();
        assert_eq!((image.channels, image.bit_depth, image.pixels), (1, 8, vec![255.0, 0.0, 90.0]));
    }

    #[test]
    fn an_image_of_which_0_is_white_is_inverted() {
        for (bit_depth, samples, expected) in
            [(1, [0.0, 1.0], [1.0, 0.0]), (16, [0.0, 65_000.0], [65_535.0, 535.0]), (32, [0.25, 1.0], [0.75, 0.0])]
        {
            let raster = Raster {
                height: 1,
                width: 2,
                channels: 1,
                bit_depth,
                samples: samples.to_vec(),
                palette: None,
                white_is_zero: true,
                alpha_dropped: false,
                lossy: false,
            };
            assert_eq!(Image::of_raster(raster, &Path::new("a.tif").into()).unwrap().pixels, expected);
        }
    }

    #[test]
    fn every_channel_gets_zero_mean_and_unit_variance() {
        let mut image = image(2, vec![1.0, 1000.0, 2.0, 3000.0, 6.0, 2000.0]);
        image.normalise();
        for channel in 0..2 {
            let values: Vec<f32> = image.pixels.iter().skip(channel).step_by(2).copied().collect();
            let mean = values.iter().sum::<f32>() / 3.0;
            let variance = values.iter().map(|v| v * v).sum::<f32>() / 3.0;
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn gain_and_offset_do_not_matter() {
        let values: Vec<f32> = (0..50).map(|i| (i * i % 17) as f32).collect();
        let mut plain = image(1, values.clone());
        let mut scaled = image(1, values.iter().map(|v| 200.0 * v + 900.0).collect());
        plain.normalise();
        scaled.normalise();
        assert!(plain.pixels.iter().zip(&scaled.pixels).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_constant_image_becomes_zeros() {
        let mut image = image(1, vec![0.1; 7]);
        image.normalise();
        assert_eq!(image.pixels, [0.0; 7]);
    }
}
