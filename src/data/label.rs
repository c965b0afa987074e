//! What a network should say: one number per pixel, a class or an instance, exactly as the file stores it.

use std::path::Path;

use super::finding::{Code, Finding};
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
    /// Whether there are as many values as the size says.
    pub(crate) fn is_whole(&self) -> bool {
        self.height.saturating_mul(self.width) == self.values.len()
    }

    /// [`LabelMap::check`] for functions that return a map.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        assert!(self.is_whole(), "a map of {} x {} pixels has {} values", self.width, self.height, self.values.len());
    }

    /// Refuses a map that is not whole.
    ///
    /// # Errors
    /// [`Error::Usage`] with size and count.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { height, width, values } = self;
        if self.is_whole() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "a map of {width} x {height} pixels has {} values; it needs one for each",
            values.len()
        )))
    }

    /// Reads a PNG or TIFF file: grey values or palette indices as stored, whether 0 is meant to be black or white, and RGB whose three
    /// channels are equal.
    ///
    /// # Errors
    /// As [`Raster::read`]; also [`Error::Finding`] for colours, several bands, lossy compression, and values that are
    /// negative or not whole.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_page(&path.as_ref().into())
    }

    /// Reads an image of a file that may have several.
    ///
    /// # Errors
    /// As [`LabelMap::read`].
    pub fn read_page(page: &Page) -> Result<Self> {
        Self::of_raster(Raster::read(page)?, page)
    }

    /// The labels of which a page has the samples.
    pub(super) fn of_raster(raster: Raster, page: &Page) -> Result<Self> {
        if raster.lossy {
            let text = "the labels are compressed with loss, which invents values";
            let fix = "save them uncompressed or with deflate";
            return Err(Finding::new(Code::LossyLabels, page, text, fix).into_error());
        }
        let (height, width) = (raster.height, raster.width);
        let values = one_band(raster, page)?.into_iter().enumerate();
        // Collected in place: labels take as much memory as their samples did.
        let values = values.map(|(pixel, value)| {
            if value >= 0.0 && value.fract() == 0.0 && f64::from(value) <= f64::from(u32::MAX) {
                return Ok(value as u32);
            }
            let [x, y] = [pixel % width, pixel / width];
            let text = format!("the label at x={x}, y={y} is {value}");
            let fix = "labels are whole numbers from 0: correct the file and save it as 8- or 16-bit grey";
            Err(Finding::new(Code::NotALabel, page, text, fix).at(value, [x, y]).into_error())
        });
        Ok(Self { height, width, values: values.collect::<Result<_>>()? })
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

/// The samples of grey, or of RGB whose three channels are equal.
fn one_band(raster: Raster, page: &Page) -> Result<Vec<f32>> {
    if raster.channels == 1 {
        return Ok(raster.samples);
    }
    if raster.channels != 3 {
        let text = format!("labels have one value per pixel, this file has {}", raster.channels);
        let finding = Finding::new(Code::SeveralBands, page, text, "save the label band alone");
        return Err(finding.of_value(raster.channels).into_error());
    }
    let differs = |pixel: &[f32]| pixel.iter().any(|sample| sample.to_bits() != pixel[0].to_bits());
    if let Some(pixel) = raster.samples.chunks(3).position(differs) {
        let [x, y] = raster.position(3 * pixel);
        let colour: Vec<String> = raster.samples[3 * pixel..][..3].iter().map(ToString::to_string).collect();
        let colour = format!("({})", colour.join(", "));
        let text = format!("the pixel at x={x}, y={y} has the colour {colour}");
        let fix = "labels are numbers, not colours: save the mask as 8-bit grey or indexed colour with one class number per pixel";
        return Err(Finding::new(Code::ColouredLabels, page, text, fix).at(colour, [x, y]).into_error());
    }
    Ok(raster.samples.into_iter().step_by(3).collect())
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

    #[test]
    fn labels_of_several_bands_or_compressed_with_loss_are_refused() {
        let page = Page::from(Path::new("a.tif"));
        let plain = Raster {
            height: 1,
            width: 1,
            channels: 2,
            bit_depth: 8,
            samples: vec![1.0, 1.0],
            palette: None,
            white_is_zero: false,
            alpha_dropped: false,
            lossy: false,
        };
        let message = |raster| LabelMap::of_raster(raster, &page).unwrap_err().to_string();
        let bands = message(plain.clone());
        assert_eq!(bands, "a.tif: labels have one value per pixel, this file has 2; save the label band alone");
        let lossy = message(Raster { lossy: true, ..plain });
        assert!(lossy.contains("compressed with loss, which invents values; save them uncompressed"), "{lossy}");
    }

    #[test]
    fn tiff_labels_are_the_numbers_that_are_stored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tif");
        let encoder = || TiffEncoder::new(File::create(&path).unwrap()).unwrap();
        encoder().write_image::<colortype::GrayI32>(2, 1, &[0, 70_000]).unwrap();
        assert_eq!(LabelMap::read(&path).unwrap().values, [0, 70_000]);
        encoder().write_image::<colortype::GrayI64>(2, 1, &[0, -1]).unwrap();
        let message = LabelMap::read(&path).unwrap_err().to_string();
        assert!(message.contains("the label at x=1, y=0 is -1; labels are whole numbers from 0"), "{message}");
        encoder().write_image::<colortype::Gray64>(2, 1, &[0, 1 << 25]).unwrap();
        let message = LabelMap::read(&path).unwrap_err().to_string();
        assert!(message.contains("the value 33554432 is above 16777216"), "{message}");
    }
}
