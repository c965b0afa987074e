//! What a network should say: one number per pixel, a class or an instance, exactly as the file stores it.

use std::path::Path;

use super::raster::{Page, Raster, write_grey16, write_indexed};
use crate::error::{Error, Result};
use crate::picture::class_colour;

/// One number per pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width]`.
    pub values: Vec<u32>,
}

impl LabelMap {
    /// Reads a PNG or TIFF file: grey values or palette indices as stored, and RGB whose three channels are equal.
    ///
    /// # Errors
    /// As [`Raster::read`]; also [`Error::Data`] for colours, several bands, lossy compression, and values that are
    /// negative or not whole.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_page(&path.as_ref().into())
    }

    /// Reads an image of a file that may have several.
    ///
    /// # Errors
    /// As [`LabelMap::read`].
    pub fn read_page(page: &Page) -> Result<Self> {
        let raster = Raster::read(page)?;
        if raster.lossy {
            let problem =
                "the labels are compressed with loss, which invents values; save them uncompressed or with deflate";
            return Err(page.error(problem));
        }
        if !matches!(raster.channels, 1 | 3) {
            let bands = raster.channels;
            let problem = format!("labels have one value per pixel, this file has {bands}; save the label band alone");
            return Err(page.error(problem));
        }
        let mut values = Vec::with_capacity(raster.height * raster.width);
        for (pixel, samples) in raster.samples.chunks(raster.channels).enumerate() {
            let (x, y) = (pixel % raster.width, pixel / raster.width);
            let value = samples[0];
            if samples.iter().any(|sample| sample.to_bits() != value.to_bits()) {
                let colour: Vec<String> = samples.iter().map(ToString::to_string).collect();
                let problem = format!(
                    "the pixel at x={x}, y={y} has the colour ({}); labels are numbers, not colours: save the mask as 8-bit \
                     grey or indexed colour with one class number per pixel",
                    colour.join(", ")
                );
                return Err(page.error(problem));
            }
            if value < 0.0 || value.fract() != 0.0 || f64::from(value) > f64::from(u32::MAX) {
                let problem = format!("the label at x={x}, y={y} is {value}; labels are whole numbers from 0");
                return Err(page.error(problem));
            }
            values.push(value as u32);
        }
        Ok(Self { height: raster.height, width: raster.width, values })
    }

    /// Writes class numbers as an 8-bit PNG of indexed colour: a program reads numbers, a person sees a colour for each class.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, [`Error::Data`] for a number above 255.
    pub fn write_classes(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let numbers: Vec<u8> = self.narrowed(path)?;
        let colours: Vec<[u8; 3]> = (0..=u8::MAX).map(|class| class_colour(class.into())).collect();
        write_indexed(path, self.height, self.width, &numbers, &colours)
    }

    /// Writes instance numbers as a 16-bit grey PNG.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, [`Error::Data`] for a number above 65,535.
    pub fn write_instances(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write_grey16(path, self.height, self.width, &self.narrowed(path)?)
    }

    fn narrowed<T: TryFrom<u32>>(&self, path: &Path) -> Result<Vec<T>> {
        let narrow = |(pixel, &value): (usize, &u32)| {
            T::try_from(value).map_err(|_| {
                let (x, y) = (pixel % self.width, pixel / self.width);
                let bits = 8 * size_of::<T>();
                Error::data(path, format!("the label {value} at x={x}, y={y} is too large for {bits} bits"))
            })
        };
        self.values.iter().enumerate().map(narrow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::raster::write_rgb8;
    use std::fs::File;
    use tiff::encoder::{TiffEncoder, colortype};

    #[test]
    fn written_labels_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let classes = LabelMap { height: 2, width: 2, values: vec![0, 1, 2, 255] };
        classes.write_classes(&path).unwrap();
        assert_eq!(LabelMap::read(&path).unwrap(), classes);
        let instances = LabelMap { height: 1, width: 3, values: vec![0, 300, 65_535] };
        instances.write_instances(&path).unwrap();
        assert_eq!(LabelMap::read(&path).unwrap(), instances);
        let message = instances.write_classes(&path).unwrap_err().to_string();
        assert!(message.ends_with("the label 300 at x=1, y=0 is too large for 8 bits"), "{message}");
    }

    #[test]
    fn grey_stored_as_rgb_is_accepted_and_colours_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.png");
        write_rgb8(&path, 1, 2, &[0, 0, 0, 7, 7, 7]).unwrap();
        assert_eq!(LabelMap::read(&path).unwrap().values, [0, 7]);
        write_rgb8(&path, 2, 1, &[0, 0, 0, 255, 0, 0]).unwrap();
        let message = LabelMap::read(&path).unwrap_err().to_string();
        assert!(message.contains("mask.png: the pixel at x=0, y=1 has the colour (255, 0, 0)"), "{message}");
        assert!(message.contains("save the mask as 8-bit grey or indexed colour"), "{message}");
    }

    #[test]
    fn float_labels_must_be_whole_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tif");
        let write = |values: &[f32]| {
            let mut encoder = TiffEncoder::new(File::create(&path).unwrap()).unwrap();
            encoder.write_image::<colortype::Gray32Float>(2, 1, values).unwrap();
        };
        write(&[0.0, 3.0]);
        assert_eq!(LabelMap::read(&path).unwrap().values, [0, 3]);
        for wrong in [0.5, -1.0] {
            write(&[0.0, wrong]);
            let message = LabelMap::read(&path).unwrap_err().to_string();
            assert!(message.contains(&format!("the label at x=1, y=0 is {wrong}")), "{message}");
        }
    }
}
