//! Everything that is wrong with a data set, not just the first thing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{self, Pair};
use super::histogram::Histogram;
use super::mapping::{choose_mapping, refuse_contradictions};
use super::survey::{self, Summary, Survey, ValueCount, summarise};
use super::warning::warnings;
use super::{Dataset, Options};
use crate::data::budget::Budget;
use crate::data::finding::{Code, Finding};
use crate::data::raster::MAX_DECODING_BYTES;
use crate::error::{Error, Result};
use crate::progress::{Progress, map_all, unwatched};

/// A data set and what is wrong with it.
#[derive(Debug)]
pub struct Inspection {
    folder: PathBuf,
    pairs: Vec<Pair>,
    summaries: Vec<Summary>,
    survey: Option<Survey>,
    errors: Vec<Error>,
    warnings: Vec<Finding>,
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
    /// Whether its pixels are indices of colours.
    pub palette: bool,
    /// The smallest and the largest value of the image.
    pub range: (f32, f32),
    /// How often its values occur.
    pub histogram: Histogram,
    /// Pixels of each label value; of instances, of each cell.
    pub label_values: BTreeMap<u32, u64>,
}

impl Inspection {
    /// Looks at every file of a folder.
    ///
    /// # Errors
    /// [`Error::Usage`] when options contradict each other or the data set.
    pub fn new(folder: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::with_progress(folder, options, &mut unwatched)
    }

    /// As [`Inspection::new`]; `progress` hears the number of files looked at and in total, and may break off.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it did; as [`Inspection::new`].
    pub fn with_progress(folder: impl AsRef<Path>, options: &Options, progress: &mut Progress<'_>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut inspection = Self {
            folder: folder.to_owned(),
            pairs: Vec::new(),
            summaries: Vec::new(),
            survey: None,
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        match inspection.look(options, progress) {
            Err(error @ (Error::Usage(_) | Error::Interrupted)) => return Err(error),
            Err(error) => inspection.errors.push(error),
            Ok(()) => {}
        }
        Ok(inspection)
    }

    /// Fills in everything that can be found out. An error that is returned makes all that follows senseless.
    fn look(&mut self, options: &Options, progress: &mut Progress<'_>) -> Result<()> {
        let (kind, labels) = files::label_folder(&self.folder)?;
        refuse_contradictions(&self.folder, kind, options)?;
        let pairs = files::pairs(&self.folder, (kind, &labels), &options.mask_suffix, &mut self.errors)?;
        let budget = Budget::new(MAX_DECODING_BYTES);
        let summaries = map_all(&pairs, progress, |pair| summarise(pair, kind, &budget))?;
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
        self.errors.extend(survey::mixed_channels(&self.pairs, &self.summaries).into_iter().map(Finding::into_error));
        self.errors.extend(survey::all_constant(&self.folder, &self.summaries).map(Finding::into_error));
        let mapping = choose_mapping(&self.folder, kind, &self.summaries, options);
        // A mapping of one class is a guess from one value, which says nothing about single files.
        let meant = mapping.as_ref().ok().filter(|mapping| mapping.class_count() > 1);
        self.warnings = warnings(&self.pairs, &self.summaries, meant);
        let mapping = mapping?;
        let unmapped = self.pairs.iter().zip(&self.summaries).filter_map(|(pair, summary)| {
            let values = || summary.values.iter().filter(|&(&value, _)| mapping.class_of(value).is_none());
            let (&value, ValueCount { first, .. }) =
                values().min_by_key(|(_, count)| (count.first[1], count.first[0]))?;
            Some(mapping.unmapped(&pair.label, value, *first, values().count()).into_error())
        });
        let errors_before = self.errors.len();
        self.errors.extend(unmapped);
        let survey = Survey::new(kind, &self.summaries, mapping, &self.warnings);
        // While values lack a class, which classes there are is not known.
        if let Some(finding) = survey.single_class(&self.folder).filter(|_| self.errors.len() == errors_before) {
            return Err(finding.into_error());
        }
        self.survey = Some(survey);
        Ok(())
    }

    /// Adds a warning for each image that is also in another data set, which it should be independent of.
    pub fn compare(&mut self, other: &Self) {
        let theirs: BTreeMap<u64, &Pair> =
            other.summaries.iter().map(|summary| summary.content).zip(&other.pairs).collect();
        for (pair, summary) in self.pairs.iter().zip(&self.summaries) {
            if let Some(other) = theirs.get(&summary.content) {
                let text = format!("the same image as {} of the other set", other.image);
                let fix = "remove one, or scores will look too good";
                self.warnings.push(Finding::new(Code::InBothSets, &pair.image, text, fix));
            }
        }
    }

    /// What keeps the folder from being a data set.
    pub fn errors(&self) -> Vec<Finding> {
        let finding = |error: &Error| match error {
            Error::Finding(finding) => (**finding).clone(),
            Error::Io { path, source, .. } => {
                let fix = "check that it is there and may be read";
                Finding::new(Code::Unreadable, &path.as_path().into(), format!("cannot be read ({source})"), fix)
            }
            other => {
                let folder = self.folder.as_path().into();
                Finding::new(Code::Unreadable, &folder, other.to_string(), "check that it may be read")
            }
        };
        self.errors.iter().map(finding).collect()
    }

    /// What is allowed but worth knowing.
    pub fn warnings(&self) -> &[Finding] {
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
            palette: summary.palette,
            range: summary.range,
            histogram: summary.histogram.clone(),
            label_values: summary.values.iter().map(|(&value, count)| (value, count.pixels)).collect(),
        };
        self.pairs.iter().zip(&self.summaries).map(report).collect()
    }

    /// The data set.
    ///
    /// # Errors
    /// The first of [`Inspection::errors`], with the number of the others.
    pub fn into_dataset(self) -> Result<Dataset> {
        let others = self.errors.len().saturating_sub(1);
        match (self.errors.into_iter().next(), self.survey) {
            (None, Some(survey)) => Ok(Dataset { folder: self.folder, pairs: self.pairs, survey }),
            (Some(Error::Finding(mut finding)), _) if others > 0 => {
                let folder = self.folder.display();
                let fix = finding.fix;
                finding.fix = format!("{fix}; errors besides: {others}, which `tilewise check-data {folder}` lists");
                Err(Error::Finding(finding))
            }
            (Some(error), _) => Err(error),
            (None, None) => Err(Error::data(&self.folder, "no pair of image and truth could be read")),
        }
    }
}
