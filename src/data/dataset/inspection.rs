//! Everything that is wrong with a data set, not just the first thing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::files::{self, Pair};
use super::mapping::{Mapping, choose_mapping};
use super::survey::{self, Summary, Survey, summarise};
use super::warning::{Warning, WarningKind, warnings};
use super::{Dataset, LabelKind, Options};
use crate::error::{Error, Result};

/// A data set and what is wrong with it.
#[derive(Debug)]
pub struct Inspection {
    folder: PathBuf,
    pairs: Vec<Pair>,
    summaries: Vec<Summary>,
    kind: Option<LabelKind>,
    survey: Option<Survey>,
    errors: Vec<Error>,
    warnings: Vec<Warning>,
}

/// What one pair contains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// The name of the pair.
    pub name: String,
    /// The image's file.
    pub image: PathBuf,
    /// The label's file.
    pub label: PathBuf,
    /// The page of both, in a stack.
    pub page: Option<usize>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels of the image, alpha left out.
    pub channels: usize,
    /// Bits of a sample of the image.
    pub bit_depth: u8,
    /// Whether the image has an alpha channel.
    pub alpha: bool,
    /// The smallest and the largest value of the image.
    pub range: (f32, f32),
    /// Pixels of each label value; of instances, of each cell.
    pub label_values: BTreeMap<u32, u64>,
}

impl Inspection {
    /// Looks at every file of a folder.
    pub fn new(folder: impl AsRef<Path>, options: &Options) -> Self {
        let folder = folder.as_ref();
        let mut inspection = Self {
            folder: folder.to_owned(),
            pairs: Vec::new(),
            summaries: Vec::new(),
            kind: None,
            survey: None,
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        if let Err(error) = inspection.look(options) {
            inspection.errors.push(error);
        }
        inspection
    }

    /// Fills in everything that can be found out. An error that is returned makes all that follows senseless.
    fn look(&mut self, options: &Options) -> Result<()> {
        let (kind, pairs) = files::pairs(&self.folder, &options.mask_suffix, &mut self.errors)?;
        self.kind = Some(kind);
        let summaries: Vec<Result<Summary>> = pairs.par_iter().map(|pair| summarise(pair, kind)).collect();
        for (pair, summary) in pairs.into_iter().zip(summaries) {
            match summary {
                Ok(summary) => {
                    self.pairs.push(pair);
                    self.summaries.push(summary);
                }
                Err(error) => self.errors.push(error),
            }
        }
        if self.pairs.is_empty() {
            return Ok(());
        }
        self.errors.extend(survey::mixed_channels(&self.pairs, &self.summaries));
        if let Err(error) = survey::refuse_constant(&self.folder, &self.summaries) {
            self.errors.push(error);
        }
        let mapping = choose_mapping(&self.folder, kind, &self.summaries, options);
        self.warnings = warnings(&self.pairs, &self.summaries, mapping.as_ref().ok());
        let mapping = mapping?;
        self.refuse_unmapped(&mapping);
        let survey = Survey::new(kind, &self.summaries, mapping, &self.warnings);
        survey.refuse_single_class(&self.folder)?;
        self.survey = Some(survey);
        Ok(())
    }

    /// Label values without a class: the first pixel of each, in each file.
    fn refuse_unmapped(&mut self, mapping: &Mapping) {
        for (pair, summary) in self.pairs.iter().zip(&self.summaries) {
            for (&value, count) in &summary.values {
                if mapping.class_of(value).is_none() {
                    self.errors.push(mapping.unmapped(&pair.label, value, count.first));
                }
            }
        }
    }

    /// Adds a warning for each image that is also in another data set, which it should be independent of.
    pub fn compare(&mut self, other: &Self) {
        let theirs: BTreeMap<u64, &Pair> =
            other.summaries.iter().map(|summary| summary.content).zip(&other.pairs).collect();
        for (pair, summary) in self.pairs.iter().zip(&self.summaries) {
            if let Some(other) = theirs.get(&summary.content) {
                let kind = WarningKind::SameAs(other.image.clone());
                self.warnings.push(Warning { page: pair.image.clone(), kind });
            }
        }
    }

    /// What keeps the folder from being a data set.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }

    /// What is allowed but worth knowing.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What is in the folder, if the classes can be told.
    pub fn survey(&self) -> Option<&Survey> {
        self.survey.as_ref()
    }

    /// What each pair that could be read contains.
    pub fn files(&self) -> Vec<FileReport> {
        let report = |(pair, summary): (&Pair, &Summary)| FileReport {
            name: pair.name.clone(),
            image: pair.image.path.clone(),
            label: pair.label.path.clone(),
            page: pair.image.index,
            height: summary.size[0],
            width: summary.size[1],
            channels: summary.channels,
            bit_depth: summary.bit_depth,
            alpha: summary.alpha_dropped,
            range: summary.range,
            label_values: summary.values.iter().map(|(&value, count)| (value, count.pixels)).collect(),
        };
        self.pairs.iter().zip(&self.summaries).map(report).collect()
    }

    /// The data set.
    ///
    /// # Errors
    /// The first of [`Inspection::errors`].
    pub fn into_dataset(self) -> Result<Dataset> {
        match (self.errors.into_iter().next(), self.survey) {
            (None, Some(survey)) => Ok(Dataset { folder: self.folder, pairs: self.pairs, survey }),
            (Some(error), _) => Err(error),
            (None, None) => Err(Error::data(&self.folder, "no pair of image and truth could be read")),
        }
    }
}
