//! The pixels of PNG and TIFF files as they are stored: the one place that decodes and encodes image files.
//!
//! Images and labels are read by the same code, which neither expands palettes nor scales 1-bit values nor inverts those of which 0
//! is white: what a sample means is decided by [`Image`](super::Image) and [`LabelMap`](super::LabelMap).

mod png_format;
mod tiff_format;

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::finding::{Code, Finding};
use crate::error::{Error, Result};
use crate::file;

pub use png_format::{encode_rgb8, write_grey8, write_grey16, write_indexed, write_rgb8};

/// What a file name must end in to be taken for an image, lower case.
pub const EXTENSIONS: [&str; 3] = ["png", "tif", "tiff"];

/// The longest side of an image.
pub const MAX_SIDE: u64 = 65_535;

/// The most memory that the samples of one image may take, with the colours of a palette looked up. While one is decoded, its bytes
/// as they are in the file are there beside them.
pub const MAX_SIZE_BYTES: u64 = 1 << 30;

/// The most memory that several images may take together while they are decoded at the same time; one that takes more by itself is decoded
/// alone.
pub(super) const MAX_DECODING_BYTES: u64 = 2 * MAX_SIZE_BYTES;

/// The most pages of a TIFF stack.
pub const MAX_PAGES: usize = 10_000;

/// The samples of an image file, unscaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Raster {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Samples of a pixel: 1 for grey and for palette indices, 3 for RGB. Alpha is not among them.
    pub channels: usize,
    /// Bits of a sample in the file.
    pub bit_depth: u8,
    /// `[height, width, channels]`. Integers are exact: those beyond 2²⁴ are refused.
    pub samples: Vec<f32>,
    /// The colours that the samples are indices of.
    pub palette: Option<Vec<[u8; 3]>>,
    /// Whether 0 is meant to be white, as TIFF allows for grey.
    pub white_is_zero: bool,
    /// Whether the file has an alpha channel, which is dropped.
    pub alpha_dropped: bool,
    /// Whether the compression changes values, as JPEG inside TIFF does.
    pub lossy: bool,
}

/// One image of a file: the file itself, or a page of a TIFF stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// The file.
    pub path: PathBuf,
    /// The page, from 0, of a file that has several.
    pub index: Option<usize>,
}

impl Page {
    /// The images of a file, in their order.
    ///
    /// # Errors
    /// As [`Raster::read`], as far as it shows without reading pixels; [`Error::Finding`] for more than [`MAX_PAGES`].
    pub fn of_file(path: &Path) -> Result<Vec<Self>> {
        let file = Self::from(path);
        let count = match open(&file)? {
            (Format::Png, _) => 1,
            (Format::Tiff, reader) => tiff_format::pages(&file, reader)?,
        };
        let index = |page| (count > 1).then_some(page);
        Ok((0..count).map(|page| Self { path: path.to_owned(), index: index(page) }).collect())
    }

    /// What to call it: the file's name without its extension, and the page: `stack-0007`.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        self.index.map_or(stem.clone(), |page| format!("{stem}-{page:04}"))
    }

    /// An [`Error::Data`] about it.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        Error::data(&self.path, self.index.map_or(problem.clone(), |page| format!("page {page}: {problem}")))
    }
}

impl From<&Path> for Page {
    /// The only image of a file.
    fn from(path: &Path) -> Self {
        Self { path: path.to_owned(), index: None }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.index.map_or(Ok(()), |page| write!(f, " page {page}"))
    }
}

enum Format {
    Png,
    Tiff,
}

/// Opens a file and recognises its format by its first bytes.
fn open(page: &Page) -> Result<(Format, BufReader<File>)> {
    let path = &page.path;
    let failed = |source| Error::io("read", path, source);
    let mut reader = BufReader::new(file::open(path)?);
    let mut start = Vec::with_capacity(START_BYTES as usize);
    reader.by_ref().take(START_BYTES).read_to_end(&mut start).map_err(failed)?;
    reader.seek(SeekFrom::Start(0)).map_err(failed)?;
    match start.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Ok((Format::Png, reader)),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok((Format::Tiff, reader)),
        _ => Err(foreign(page, &start).into_error()),
    }
}

impl Raster {
    /// Reads an image of a PNG or TIFF file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Finding`] when it is of another format, damaged, larger than
    /// [`MAX_SIDE`] or [`MAX_SIZE_BYTES`], has several pages and none is named, or stores samples in a way that is not supported.
    pub fn read(page: &Page) -> Result<Self> {
        Unread::open(page)?.decode()
    }

    /// Column and row of the pixel that holds a sample.
    pub(super) fn position(&self, sample: usize) -> [usize; 2] {
        let pixel = sample / self.channels;
        [pixel % self.width, pixel / self.width]
    }
}

/// An image of a file of which the header has been read and the pixels have not.
pub(super) struct Unread<'a>(Header<'a>);

enum Header<'a> {
    Png(Box<png_format::Unread<'a, BufReader<File>>>),
    Tiff(Box<tiff_format::Unread<'a, BufReader<File>>>),
}

impl<'a> Unread<'a> {
    /// What is read as it is stored.
    ///
    /// # Errors
    /// As [`Raster::read`], as far as it shows without reading pixels.
    pub(super) fn open(page: &'a Page) -> Result<Self> {
        Self::counting(page, |_| 1)
    }

    /// What is read to look its colours up: an image that is too large with them is refused before anything is allocated for it.
    ///
    /// # Errors
    /// As [`Unread::open`].
    pub(super) fn open_for_colours(page: &'a Page) -> Result<Self> {
        Self::counting(page, colour_channels)
    }

    fn counting(page: &'a Page, palette_channels: fn(&[[u8; 3]]) -> usize) -> Result<Self> {
        Ok(Self(match open(page)? {
            (Format::Png, reader) => Header::Png(Box::new(png_format::open(page, reader, palette_channels)?)),
            (Format::Tiff, reader) => Header::Tiff(Box::new(tiff_format::open(page, reader, palette_channels)?)),
        }))
    }

    /// What decoding it takes: its samples, and beside them its bytes as they are in the file.
    pub(super) fn decoding_bytes(&self) -> u64 {
        let (samples, stored) = match &self.0 {
            Header::Png(image) => (image.samples, image.stored_bytes()),
            Header::Tiff(image) => (image.samples, image.stored_bytes()),
        };
        stored.saturating_add((samples * size_of::<f32>()) as u64)
    }

    /// Reads the pixels.
    ///
    /// # Errors
    /// As [`Raster::read`].
    pub(super) fn decode(self) -> Result<Raster> {
        match self.0 {
            Header::Png(image) => image.decode(),
            Header::Tiff(image) => image.decode(),
        }
    }
}

/// The channels of the colours of a palette: 1 where all are grey.
pub(super) fn colour_channels(palette: &[[u8; 3]]) -> usize {
    if palette.iter().all(|[red, green, blue]| red == green && green == blue) { 1 } else { 3 }
}

/// How much of a file is looked at to recognise its format.
const START_BYTES: u64 = 24;

/// Why a file that starts like this is not read.
fn foreign(page: &Page, start: &[u8]) -> Finding {
    let (text, fix) = match start {
        [] => ("the file is empty", "save it again"),
        [0xff, 0xd8, 0xff, ..] => (
            "this is a JPEG file, whose compression changes values",
            "go back to the original and save it as PNG or TIFF",
        ),
        _ if start.starts_with(b"version https://git-lfs") => {
            ("this is a Git LFS pointer, not the image itself", "fetch the file with `git lfs pull`")
        }
        [b'B', b'M', ..] => ("this is a BMP file", CONVERT),
        [b'G', b'I', b'F', b'8', ..] => ("this is a GIF file", CONVERT),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("this is a WebP file", CONVERT),
        [0x89, b'H', b'D', b'F', ..] => ("this is an HDF5 file", CONVERT),
        _ => ("this is neither PNG nor TIFF by its first bytes", CONVERT),
    };
    Finding::new(Code::ForeignFormat, page, text, fix)
}

const CONVERT: &str = "convert it to PNG or TIFF";

/// The error for a file whose content contradicts its format.
fn damaged(page: &Page, format: &str, reason: impl fmt::Display) -> Error {
    let text = format!("damaged or incomplete {format} file ({reason})");
    Finding::new(Code::Damaged, page, text, "save or copy it again").into_error()
}

/// The error for a file of a kind that is not read.
fn unsupported(page: &Page, found: impl fmt::Display) -> Error {
    let fix = "save it as 8- or 16-bit grey or RGB, in PNG or TIFF";
    Finding::new(Code::Unsupported, page, format!("{found} is not supported"), fix).into_error()
}

/// The error for a file that needs more than the limits allow.
fn too_large(page: &Page, text: impl Into<String>) -> Error {
    Finding::new(Code::TooLarge, page, text, "cut the image into pieces").into_error()
}

/// Refuses an image that would not fit memory, before anything is allocated for it. Returns the number of samples.
fn checked_samples(page: &Page, height: u64, width: u64, channels: u64) -> Result<usize> {
    if height == 0 || width == 0 || channels == 0 {
        return Err(damaged(page, "image", format!("no pixels, {width} x {height}")));
    }
    if height > MAX_SIDE || width > MAX_SIDE {
        return Err(too_large(page, format!("{width} x {height} pixels: a side has at most {MAX_SIDE}")));
    }
    let samples = height * width * channels;
    let size_bytes = samples * size_of::<f32>() as u64;
    if size_bytes > MAX_SIZE_BYTES {
        let text = format!(
            "{width} x {height} pixels of {channels} samples take {} MiB, above the limit of {} MiB",
            size_bytes >> 20,
            MAX_SIZE_BYTES >> 20
        );
        return Err(too_large(page, text));
    }
    Ok(samples as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_are_named_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&[u8], &str); 5] = [
            (b"", "the file is empty"),
            (&[0xff, 0xd8, 0xff, 0xe0], "JPEG file, whose compression changes values"),
            (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
            (b"BMxxxx", "a BMP file; convert it to PNG or TIFF"),
            (b"hello", "neither PNG nor TIFF"),
        ];
        for (content, expected) in cases {
            let path = folder.path().join("a.png");
            std::fs::write(&path, content).unwrap();
            let message = Raster::read(&path.as_path().into()).unwrap_err().to_string();
            assert!(message.contains("a.png: ") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let message = Raster::read(&folder.path().into()).unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
    }

    #[test]
    fn a_missing_file_is_an_input_output_error() {
        let error = Raster::read(&Path::new("no/such/file.png").into()).unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert!(error.to_string().starts_with("cannot read no/such/file.png"), "{error}");
    }

    #[test]
    fn sizes_are_checked_before_anything_is_allocated() {
        let page = Path::new("a.png").into();
        let message =
            |height, width, channels| checked_samples(&page, height, width, channels).unwrap_err().to_string();
        assert_eq!(checked_samples(&page, 4, 5, 3).unwrap(), 60);
        assert!(message(0, 5, 1).contains("(no pixels, 5 x 0); save or copy it again"));
        assert!(message(1, 65_536, 1).contains("65536 x 1 pixels: a side has at most 65535"));
        assert!(message(20_000, 20_000, 1).contains("take 1525 MiB, above the limit of 1024 MiB"));
    }

    /// A few kilobytes that say they are 16384 x 16384 pixels: as much as labels may be, three times as much as an image may.
    #[test]
    fn the_limit_counts_the_colours_of_a_palette() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        let bomb = |palette: &[u8]| {
            let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 1 << 14, 1 << 14);
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_depth(png::BitDepth::One);
            encoder.set_palette(palette);
            encoder.write_header().unwrap().write_image_data(&vec![0; 1 << 25]).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() < 100_000);
        };
        let page = Page::from(path.as_path());
        bomb(&[0, 0, 0, 255, 0, 0]);
        let Err(Error::Finding(finding)) = Unread::open_for_colours(&page) else { panic!("a bomb was opened") };
        assert_eq!(finding.code, Code::TooLarge);
        let expected = "16384 x 16384 pixels of 3 samples take 3072 MiB, above the limit of 1024 MiB";
        assert_eq!(finding.text, expected);
        assert_eq!(colour_channels(&[[0; 3], [9; 3]]), 1);
        // A gigabyte of samples from 32 MiB of bits.
        assert_eq!(Unread::open(&page).unwrap().decoding_bytes(), (1 << 30) + (1 << 25));
    }
}
