//! What is allowed but worth knowing.

use std::collections::{BTreeMap, BTreeSet};

use super::Pair;
use super::mapping::Mapping;
use super::survey::Summary;
use crate::data::raster::Page;
use crate::data::sample::IGNORE;

/// Something in one file that may be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub page: Page,
    /// What there is.
    pub kind: WarningKind,
}

/// What a [`Warning`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// The image has an alpha channel, which is dropped.
    Alpha,
    /// The image has 16 bits and only 8-bit values.
    Dim,
    /// The image has this value everywhere.
    Constant(String),
    /// Every pixel that counts is background.
    OnlyBackground,
    /// Every pixel that counts is of this class, which is not background.
    OneClass(u32),
    /// No pixel counts.
    AllIgnored,
    /// The image equals that of another pair.
    SameAs(Page),
}

impl WarningKind {
    /// In words, with what to do.
    pub fn explanation(&self) -> String {
        match self {
            Self::Alpha => "the image has an alpha channel, which is dropped".into(),
            Self::Dim => "a 16-bit image with only 8-bit values; normalisation makes up for it".into(),
            Self::Constant(value) => format!("the image has the value {value} everywhere; check how it was saved"),
            Self::OnlyBackground => "nothing but background; fine if there is nothing to see in the image".into(),
            Self::OneClass(class) => format!("every pixel is of class {class}; check how the mask was saved"),
            Self::AllIgnored => "every pixel is ignored, so it neither trains nor counts; remove the pair".into(),
            Self::SameAs(other) => format!("the same image as {other}; remove one, or it counts twice"),
        }
    }
}

/// The warnings about the files of a data set.
pub(super) fn warnings(pairs: &[Pair], summaries: &[Summary], mapping: Option<&Mapping>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut seen: BTreeMap<u64, &Page> = BTreeMap::new();
    for (pair, summary) in pairs.iter().zip(summaries) {
        let mut warn = |page: &Page, kind| warnings.push(Warning { page: page.clone(), kind });
        if summary.alpha_dropped {
            warn(&pair.image, WarningKind::Alpha);
        }
        if summary.bit_depth == 16 && summary.range.1 < 256.0 {
            warn(&pair.image, WarningKind::Dim);
        }
        if summary.is_constant() {
            warn(&pair.image, WarningKind::Constant(summary.range.0.to_string()));
        }
        if let Some(mapping) = mapping {
            // A value without a class is an error, and leaves the others in doubt.
            let classes: Option<BTreeSet<u32>> = summary.values.keys().map(|&value| mapping.class_of(value)).collect();
            let classes =
                classes.map(|classes| classes.into_iter().filter(|&class| class != IGNORE).collect::<Vec<_>>());
            match classes.as_deref() {
                Some([]) => warn(&pair.label, WarningKind::AllIgnored),
                Some([0]) => warn(&pair.label, WarningKind::OnlyBackground),
                Some(&[class]) => warn(&pair.label, WarningKind::OneClass(class)),
                _ => {}
            }
        }
        match seen.get(&summary.content) {
            Some(&other) => warn(&pair.image, WarningKind::SameAs(other.clone())),
            None => _ = seen.insert(summary.content, &pair.image),
        }
    }
    warnings
}

/// The warnings in short: one line a kind.
pub(super) fn notes(warnings: &[Warning], images: usize) -> Vec<String> {
    let mut kinds: BTreeMap<&str, Vec<&Warning>> = BTreeMap::new();
    for warning in warnings {
        let text = match warning.kind {
            WarningKind::Alpha => "images with an alpha channel, which is dropped",
            WarningKind::Dim => "16-bit images with only 8-bit values, which normalisation makes up for",
            WarningKind::Constant(_) => "images with the same value everywhere",
            WarningKind::OnlyBackground => "images with nothing but background",
            WarningKind::OneClass(_) => "images with one class only, which is not background",
            WarningKind::AllIgnored => "images of which every pixel is ignored",
            WarningKind::SameAs(_) => "images that are there before",
        };
        kinds.entry(text).or_default().push(warning);
    }
    let note = |(text, warnings): (&str, Vec<&Warning>)| {
        format!("{text}: {} of {images}, such as {}", warnings.len(), warnings[0].page.path.display())
    };
    kinds.into_iter().map(note).collect()
}
