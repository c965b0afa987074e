//! What is wrong with a file of images or labels, or worth knowing about it, in parts that a program can use.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::raster::Page;
use crate::error::Error;

/// Whether a finding stands in the way of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing can be trained on this.
    Error,
    /// Allowed, and may be meant.
    Warning,
}

/// What a [`Finding`] is about. In JSON in snake case: `unmapped_value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// The operating system does not let it be read.
    Unreadable,
    /// A folder lacks `images`, or has not exactly one of `masks` and `instances`.
    Layout,
    /// There is no image.
    NoImages,
    /// A file or folder among the images that is not an image.
    NotAnImage,
    /// Two files have the same name.
    SameName,
    /// An image without truth, or truth without an image.
    Unpaired,
    /// Two stacks differ in their pages.
    PageCounts,
    /// An image and its truth differ in size.
    OtherSize,
    /// Neither PNG nor TIFF.
    ForeignFormat,
    /// The content contradicts the format.
    Damaged,
    /// A kind of PNG or TIFF that is not read.
    Unsupported,
    /// More memory or pages than allowed.
    TooLarge,
    /// A stack where one image is wanted.
    SeveralPages,
    /// A value that is not a finite number.
    NotFinite,
    /// A number beyond those that are exact.
    NotExact,
    /// A palette index that has no colour.
    MissingColour,
    /// Labels whose compression changes values.
    LossyLabels,
    /// Labels of several bands.
    SeveralBands,
    /// Labels that are colours.
    ColouredLabels,
    /// A label that is negative or not whole.
    NotALabel,
    /// More cells than there can be.
    TooManyCells,
    /// Images differ in their number of channels.
    MixedChannels,
    /// Every image is constant.
    AllConstant,
    /// Classes cannot be told from the label values.
    UnclearValues,
    /// A label value has no class.
    UnmappedValue,
    /// All pixels of the data set are of one class.
    NothingToTell,
    /// The image has an alpha channel, which is dropped.
    Alpha,
    /// The image has indices of colours.
    Palette,
    /// The image has 16 bits and only 8-bit values.
    Dim,
    /// The image has one value everywhere.
    Constant,
    /// Every pixel that counts is background.
    OnlyBackground,
    /// Every pixel that counts is of one class, which is not background.
    OneClass,
    /// No pixel counts.
    AllIgnored,
    /// The image equals another one of the data set.
    Duplicate,
    /// The image equals one of the data set that this one should be independent of.
    InBothSets,
}

impl Code {
    fn severity(self) -> Severity {
        match self {
            Self::Alpha
            | Self::Palette
            | Self::Dim
            | Self::Constant
            | Self::OnlyBackground
            | Self::OneClass
            | Self::AllIgnored
            | Self::Duplicate
            | Self::InBothSets => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// Something about one file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// What it is about.
    pub code: Code,
    /// The file or folder.
    pub file: PathBuf,
    /// The page, from 0, of a file that has several.
    pub page: Option<usize>,
    /// The value it is about.
    pub value: Option<String>,
    /// Column and row of the first pixel it is about.
    pub pixel: Option<[usize; 2]>,
    /// The flag that mends it or, where none does, what to do.
    pub fix: String,
    /// In words, without the file and what to do.
    pub text: String,
}

impl Finding {
    /// A finding about a file, or about a folder as its own only page.
    pub(super) fn new(code: Code, page: &Page, text: impl Into<String>, fix: impl Into<String>) -> Self {
        let (file, page) = (page.path.clone(), page.index);
        Self {
            severity: code.severity(),
            code,
            file,
            page,
            value: None,
            pixel: None,
            fix: fix.into(),
            text: text.into(),
        }
    }

    /// The error of what is refused for it.
    pub(super) fn into_error(self) -> Error {
        Error::Finding(Box::new(self))
    }

    /// The finding with the value it is about.
    pub(super) fn of_value(self, value: impl fmt::Display) -> Self {
        Self { value: Some(value.to_string()), ..self }
    }

    /// The finding with the value it is about, and column and row of its first pixel.
    pub(super) fn at(self, value: impl fmt::Display, pixel: [usize; 2]) -> Self {
        Self { pixel: Some(pixel), ..self.of_value(value) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(page) = self.page {
            write!(f, "page {page}: ")?;
        }
        write!(f, "{}; {}", self.text, self.fix)
    }
}
