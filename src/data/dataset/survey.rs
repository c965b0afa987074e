//! What is in a data set, before anything is trained on it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde::Serialize;

use super::files::refuse_other_size;
use super::histogram::Histogram;
use super::warning::notes;
use super::{LabelKind, Mapping, Pair};
use crate::data::budget::Budget;
use crate::data::finding::{Code, Finding};
use crate::data::image::Image;
use crate::data::label::LabelMap;
use crate::data::raster::{Page, Unread};
use crate::data::sample::IGNORE;
use crate::error::Result;

/// What a label value stands for in one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueCount {
    pub(super) pixels: u64,
    /// Column and row of the first pixel in reading order.
    pub(super) first: [usize; 2],
}

/// What one pair contains.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    pub(super) size: [usize; 2],
    pub(super) channels: usize,
    pub(super) bit_depth: u8,
    pub(super) range: (f32, f32),
    pub(super) histogram: Histogram,
    pub(super) alpha_dropped: bool,
    /// Whether the pixels of the image are indices of colours.
    pub(super) palette: bool,
    /// A hash of the image: equal images have equal ones.
    pub(super) content: u64,
    pub(super) values: BTreeMap<u32, ValueCount>,
}

/// Reads a pair: the image, and when it is out of memory again the truth. Each counts as long as it is in memory.
pub(super) fn summarise(pair: &Pair, kind: LabelKind, budget: &Budget) -> Result<Summary> {
    let image = Unread::open_for_colours(&pair.image)?;
    let mut summary = budget.spend(image.decoding_bytes(), || summarise_image(&pair.image, image))?;
    let label = Unread::open(&pair.label)?;
    let size = summary.size;
    summary.values = budget.spend(label.decoding_bytes(), || {
        let labels = LabelMap::of_raster(label.decode()?, &pair.label)?;
        refuse_other_size(pair, size, &labels)?;
        Ok(count_values(&labels))
    })?;
    if kind == LabelKind::Instances && summary.values.len() > usize::from(u16::MAX) {
        let count = summary.values.len();
        let text = format!("{count} different values; this is hardly a map of cells");
        let fix = "give each cell one number, 0 where there is none";
        return Err(Finding::new(Code::TooManyCells, &pair.label, text, fix).of_value(count).into_error());
    }
    Ok(summary)
}

/// What an image contains, without truth.
fn summarise_image(page: &Page, unread: Unread<'_>) -> Result<Summary> {
    let raster = unread.decode()?;
    let palette = raster.palette.is_some();
    let image = Image::of_raster(raster, page)?;
    let mut hasher = DefaultHasher::new();
    bytemuck::cast_slice::<f32, u8>(&image.pixels).hash(&mut hasher);
    let range = image.range();
    Ok(Summary {
        size: [image.height, image.width],
        channels: image.channels,
        bit_depth: image.bit_depth,
        range,
        histogram: Histogram::new(&image.pixels, range, image.bit_depth <= 16),
        alpha_dropped: image.alpha_dropped,
        palette,
        content: hasher.finish(),
        values: BTreeMap::new(),
    })
}

fn count_values(labels: &LabelMap) -> BTreeMap<u32, ValueCount> {
    let mut values = BTreeMap::new();
    let mut pixel = 0;
    // Neighbours mostly have the same value: one look-up a run is enough.
    for run in labels.values.chunk_by(PartialEq::eq) {
        let first = [pixel % labels.width, pixel / labels.width];
        values.entry(run[0]).or_insert(ValueCount { pixels: 0, first }).pixels += run.len() as u64;
        pixel += run.len();
    }
    values
}

/// Images with another number of channels than the first, which no one network takes.
pub(super) fn mixed_channels(pairs: &[Pair], summaries: &[Summary]) -> Vec<Finding> {
    let Some(first) = summaries.first() else { return Vec::new() };
    let other = |(pair, summary): (&Pair, &Summary)| {
        let text = format!("channels: {}, but {} has {}", summary.channels, pairs[0].image, first.channels);
        let finding = Finding::new(Code::MixedChannels, &pair.image, text, "save all images as grey or all as RGB");
        (summary.channels != first.channels).then(|| finding.of_value(summary.channels))
    };
    pairs.iter().zip(summaries).filter_map(other).collect()
}

/// Images that all have the same value everywhere: there is nothing to see in them.
pub(super) fn all_constant(folder: &Path, summaries: &[Summary]) -> Option<Finding> {
    if summaries.is_empty() || summaries.iter().any(|summary| !summary.is_constant()) {
        return None;
    }
    let text = "every image has the same value everywhere, so there is nothing to learn from";
    let images = Page::from(folder.join("images").as_path());
    Some(Finding::new(Code::AllConstant, &images, text, "check how they were saved"))
}

impl Summary {
    pub(super) fn is_constant(&self) -> bool {
        self.range.0 >= self.range.1
    }
}

/// How many cells the images have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceCounts {
    /// In all images.
    pub total: usize,
    /// In the image with the fewest.
    pub min: usize,
    /// In the image in the middle.
    pub median: usize,
    /// In the image with the most.
    pub max: usize,
}

/// What predicting the commonest class everywhere scores: the bar that a network has to clear.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConstantPredictor {
    /// The commonest class.
    pub class: usize,
    /// The share of pixels it gets right.
    pub accuracy: f64,
    /// Its mean IoU over the classes that occur.
    pub mean_iou: f64,
}

/// What is in a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survey {
    /// The number of images.
    pub images: usize,
    /// Height, width and number of images of each size, the commonest first.
    pub sizes: Vec<(usize, usize, usize)>,
    /// Channels of every image.
    pub channels: usize,
    /// The number of images of each bit depth.
    pub bit_depths: BTreeMap<u8, usize>,
    /// The smallest and the largest value of all images.
    pub range: (f32, f32),
    /// How often the values of all images occur.
    pub histogram: Histogram,
    /// What kind of truth there is.
    pub kind: LabelKind,
    /// Pixels of each label value; empty for instances.
    pub label_values: BTreeMap<u32, u64>,
    /// `None` for masks.
    pub instances: Option<InstanceCounts>,
    /// How label values become classes.
    pub mapping: Mapping,
    /// Pixels of each class.
    pub class_pixels: Vec<u64>,
    /// Pixels that neither train nor count.
    pub ignored_pixels: u64,
    /// The bar to clear.
    pub constant: ConstantPredictor,
    /// What is allowed but worth knowing.
    pub notes: Vec<String>,
}

impl Survey {
    pub(super) fn new(kind: LabelKind, summaries: &[Summary], mapping: Mapping, warnings: &[Finding]) -> Self {
        let mut sizes: BTreeMap<[usize; 2], usize> = BTreeMap::new();
        let mut bit_depths = BTreeMap::new();
        let mut range = (f32::INFINITY, f32::NEG_INFINITY);
        let mut label_values = BTreeMap::new();
        let mut class_pixels = vec![0; mapping.class_count()];
        let mut ignored_pixels = 0;
        for summary in summaries {
            *sizes.entry(summary.size).or_insert(0) += 1;
            *bit_depths.entry(summary.bit_depth).or_insert(0) += 1;
            range = (range.0.min(summary.range.0), range.1.max(summary.range.1));
            for (&value, count) in &summary.values {
                if kind == LabelKind::Masks {
                    *label_values.entry(value).or_insert(0) += count.pixels;
                }
                match mapping.class_of(value) {
                    Some(class) if class != IGNORE => class_pixels[class as usize] += count.pixels,
                    _ => ignored_pixels += count.pixels,
                }
            }
        }
        let mut sizes: Vec<(usize, usize, usize)> = sizes.into_iter().map(|([h, w], count)| (h, w, count)).collect();
        sizes.sort_by_key(|&(.., count)| std::cmp::Reverse(count));
        let histogram = summaries.iter().map(|summary| summary.histogram.clone()).reduce(|sum, next| sum.merged(&next));
        let mut notes = notes(warnings, summaries.len());
        let absent = (0..class_pixels.len()).filter(|&class| class_pixels[class] == 0);
        notes.extend(absent.map(|class| format!("no pixel is of class {class}")));
        Self {
            images: summaries.len(),
            sizes,
            channels: summaries.first().map_or(0, |summary| summary.channels),
            bit_depths,
            range,
            histogram: histogram.unwrap_or_default(),
            kind,
            label_values,
            instances: (kind == LabelKind::Instances).then(|| instance_counts(summaries)),
            constant: constant_predictor(&class_pixels),
            mapping,
            class_pixels,
            ignored_pixels,
            notes,
        }
    }

    /// The finding that there is nothing to tell apart.
    pub(super) fn single_class(&self, folder: &Path) -> Option<Finding> {
        if self.class_pixels.iter().filter(|&&pixels| pixels > 0).count() > 1 {
            return None;
        }
        let values: Vec<String> = self.label_values.keys().take(10).map(ToString::to_string).collect();
        let found = match self.kind {
            LabelKind::Instances => "no image has a cell".to_owned(),
            LabelKind::Masks => format!("all pixels that count are of one class (label values: {})", values.join(", ")),
        };
        let text = format!("{found}, so there is nothing to learn or to measure");
        let fix = "check how the masks were saved";
        Some(Finding::new(Code::NothingToTell, &folder.into(), text, fix).of_value(values.join(", ")))
    }
}

fn instance_counts(summaries: &[Summary]) -> InstanceCounts {
    let cells = |summary: &Summary| summary.values.keys().filter(|&&value| value != 0).count();
    let mut counts: Vec<usize> = summaries.iter().map(cells).collect();
    counts.sort_unstable();
    let at = |index: usize| counts.get(index).copied().unwrap_or(0);
    InstanceCounts {
        total: counts.iter().sum(),
        min: at(0),
        median: at(counts.len() / 2),
        max: at(counts.len().saturating_sub(1)),
    }
}

fn constant_predictor(class_pixels: &[u64]) -> ConstantPredictor {
    let total: u64 = class_pixels.iter().sum();
    let present = class_pixels.iter().filter(|&&pixels| pixels > 0).count().max(1);
    let class = (0..class_pixels.len()).rev().max_by_key(|&class| class_pixels[class]).unwrap_or(0);
    let right = class_pixels.get(class).copied().unwrap_or(0);
    let accuracy = right as f64 / total.max(1) as f64;
    // The constant's own class has the IoU of its share, every other class that occurs 0.
    ConstantPredictor { class, accuracy, mean_iou: accuracy / present as f64 }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let depths: Vec<String> = self.bit_depths.keys().map(|depth| format!("{depth}-bit")).collect();
        let (low, high) = self.range;
        let (images, channels) = (self.images, self.channels);
        writeln!(
            f,
            "images    {images}, {channels} channel{}, {}, values {low} to {high}",
            plural(channels),
            depths.join(" and ")
        )?;
        writeln!(f, "values    {}", self.histogram)?;
        let sizes = |&(height, width, count): &(usize, usize, usize)| format!("{width} x {height} ({count})");
        let shown: Vec<String> = self.sizes.iter().take(6).map(sizes).collect();
        let more = self.sizes.len().saturating_sub(6);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        writeln!(f, "sizes     {}{more}", shown.join(", "))?;
        if let Some(InstanceCounts { total, min, median, max }) = self.instances {
            writeln!(f, "labels    {total} cells, {min} to {max} an image, median {median}")?;
        } else {
            let values = |(value, pixels): (&u32, &u64)| format!("{value} ({pixels} pixels)");
            let values: Vec<String> = self.label_values.iter().map(values).collect();
            writeln!(f, "labels    {}", values.join(", "))?;
        }
        writeln!(f, "mapping   {}", self.mapping)?;
        let total = self.class_pixels.iter().sum::<u64>().max(1) as f64;
        for (class, &pixels) in self.class_pixels.iter().enumerate() {
            writeln!(f, "class {class:<3} {pixels:>12} pixels {:>6.2} %", 100.0 * pixels as f64 / total)?;
        }
        if self.ignored_pixels > 0 {
            writeln!(f, "ignored   {:>12} pixels", self.ignored_pixels)?;
        }
        let ConstantPredictor { class, accuracy, mean_iou } = self.constant;
        write!(f, "to beat   class {class} everywhere: accuracy {accuracy:.4}, mean IoU {mean_iou:.4}")?;
        self.notes.iter().try_for_each(|note| write!(f, "\nnote      {note}"))
    }
}
