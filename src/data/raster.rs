//! The pixels of PNG and TIFF files as they are stored: the one place that decodes and encodes image files.
//!
//! Images and labels are read by the same code, which neither expands palettes nor scales 1-bit values: what a sample
//! means is decided by [`Image`](super::Image) and [`LabelMap`](super::LabelMap).

mod png_format;
mod tiff_format;

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub use png_format::{encode_rgb8, write_grey8, write_grey16, write_indexed, write_rgb8};

/// What a file name must end in to be taken for an image, lower case.
pub const EXTENSIONS: [&str; 3] = ["png", "tif", "tiff"];

/// The longest side of an image.
pub const MAX_SIDE: u64 = 65_535;

/// The most memory that the samples of one image may take.
pub const MAX_SIZE_BYTES: u64 = 1 << 30;

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
    /// As [`Raster::read`], as far as it shows without reading pixels; [`Error::Data`] for more than [`MAX_PAGES`].
    pub fn of_file(path: &Path) -> Result<Vec<Self>> {
        let count = match open(path)? {
            (Format::Png, _) => 1,
            (Format::Tiff, reader) => tiff_format::pages(path, reader)?,
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
        Error::data(&self.path, self.located(problem))
    }

    fn located(&self, problem: impl Into<String>) -> String {
        let problem = problem.into();
        self.index.map_or(problem.clone(), |page| format!("page {page}: {problem}"))
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
fn open(path: &Path) -> Result<(Format, BufReader<File>)> {
    let failed = |source| Error::io("read", path, source);
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut start = Vec::with_capacity(START_BYTES as usize);
    reader.by_ref().take(START_BYTES).read_to_end(&mut start).map_err(failed)?;
    reader.seek(SeekFrom::Start(0)).map_err(failed)?;
    match start.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Ok((Format::Png, reader)),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok((Format::Tiff, reader)),
        _ => Err(Error::data(path, foreign(&start))),
    }
}

impl Raster {
    /// Reads an image of a PNG or TIFF file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::Data`] when it is of another format, damaged, larger than
    /// [`MAX_SIDE`] or [`MAX_SIZE_BYTES`], has several pages and none is named, or stores samples in a way that is not supported.
    pub fn read(page: &Page) -> Result<Self> {
        let path = &page.path;
        let raster = match open(path)? {
            (Format::Png, reader) => png_format::read(path, reader),
            (Format::Tiff, reader) => tiff_format::read(path, reader, page.index),
        };
        raster.map_err(|error| match error {
            Error::Data { path, problem } => Error::Data { path, problem: page.located(problem) },
            other => other,
        })
    }

    /// Column and row of the pixel that holds a sample.
    pub(super) fn position(&self, sample: usize) -> (usize, usize) {
        let pixel = sample / self.channels;
        (pixel % self.width, pixel / self.width)
    }
}

/// How much of a file is looked at to recognise its format.
const START_BYTES: u64 = 24;

/// Why a file that starts like this is not read.
fn foreign(start: &[u8]) -> String {
    let found = match start {
        [] => return "the file is empty; save it again".to_owned(),
        [0xff, 0xd8, 0xff, ..] => {
            return "this is a JPEG file, whose compression changes values; go back to the original and save it as PNG or \
                    TIFF"
                .to_owned();
        }
        _ if start.starts_with(b"version https://git-lfs") => {
            return "this is a Git LFS pointer, not the image itself; fetch the file with `git lfs pull`".to_owned();
        }
        [b'B', b'M', ..] => "a BMP file",
        [b'G', b'I', b'F', b'8', ..] => "a GIF file",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "a WebP file",
        [0x89, b'H', b'D', b'F', ..] => "an HDF5 file",
        _ => "neither PNG nor TIFF by its first bytes",
    };
    format!("this is {found}; convert it to PNG or TIFF")
}

/// The error for a file whose content contradicts its format.
fn damaged(path: &Path, format: &str, reason: impl std::fmt::Display) -> Error {
    Error::data(path, format!("damaged or incomplete {format} file ({reason}); save or copy it again"))
}

/// The error for a file of a kind that is not read.
fn unsupported(path: &Path, found: impl std::fmt::Display) -> Error {
    Error::data(path, format!("{found} is not supported; save it as 8- or 16-bit grey or RGB, in PNG or TIFF"))
}

/// Refuses an image that would not fit memory, before anything is allocated for it. Returns the number of samples.
fn checked_samples(path: &Path, height: u64, width: u64, channels: u64) -> Result<usize> {
    if height == 0 || width == 0 || channels == 0 {
        return Err(Error::data(path, format!("the image has no pixels ({width} x {height}); save it again")));
    }
    if height > MAX_SIDE || width > MAX_SIDE {
        let problem = format!("{width} x {height} pixels: a side has at most {MAX_SIDE}; cut the image into pieces");
        return Err(Error::data(path, problem));
    }
    let samples = height * width * channels;
    let size_bytes = samples * size_of::<f32>() as u64;
    if size_bytes > MAX_SIZE_BYTES {
        let problem = format!(
            "{width} x {height} pixels of {channels} samples take {} MiB, above the limit of {} MiB; cut the image into \
             pieces",
            size_bytes >> 20,
            MAX_SIZE_BYTES >> 20
        );
        return Err(Error::data(path, problem));
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
    fn a_missing_file_is_an_input_output_error() {
        let error = Raster::read(&Path::new("no/such/file.png").into()).unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert!(error.to_string().starts_with("cannot read no/such/file.png"), "{error}");
    }

    #[test]
    fn sizes_are_checked_before_anything_is_allocated() {
        let path = Path::new("a.png");
        let message = |height, width, channels| checked_samples(path, height, width, channels).unwrap_err().to_string();
        assert_eq!(checked_samples(path, 4, 5, 3).unwrap(), 60);
        assert!(message(0, 5, 1).contains("no pixels (5 x 0)"));
        assert!(message(1, 65_536, 1).contains("65536 x 1 pixels: a side has at most 65535"));
        assert!(message(20_000, 20_000, 1).contains("take 1525 MiB, above the limit of 1024 MiB"));
    }
}
