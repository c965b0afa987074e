//! What a run is made of.

use super::record::Metric;
use super::schedule::Schedule;
use crate::data::border::MAX_SIGMA;
use crate::data::dataset::Options;
use crate::data::sample::IGNORE;
use crate::data::{
    Augmentation, Border, BorderMap, Image, Intensities, LabelMap, Prepared, Sample, Sampling, Truth, Zoom,
};
use crate::error::{Error, Result};
use crate::file;
use crate::models::{Loss, Optimizer, Precision, Training, UNet, Variant};
use crate::ops::{AdamSettings, CrossEntropySettings, DiceSettings, Reduction, SgdSettings};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The largest configuration.
const LARGEST_FILE_BYTES: u64 = 1 << 20;

/// The settings of a training run, as `config.toml` has them. Every key may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of training images: `images/` with `masks/` or `instances/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// The folder of validation images, laid out alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// The share of the training images to hold out for validation where there is no `val`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_out: Option<f32>,
    /// What the name of a mask has after the name of its image. Default: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mask_suffix: String,
    /// The mask values are class numbers below this. Default: found out from the masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<u32>,
    /// The class of each mask value, such as `0=0,128=1,255=2`. Default: found out from the masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    /// The mask value of pixels that neither train nor count. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore: Option<u32>,
    /// The factor by which images are made larger before the network sees them, so that tiles, border weights and augmentation are in
    /// larger pixels; scores are of images at their own size. Default 1.
    pub zoom: Zoom,
    /// What the network is given of images: `standard` (default) or `unit`, which is what networks of milesial/Pytorch-UNet have learned
    /// from. Augmentation of brightness, contrast and noise is in the units of `standard`.
    pub intensities: Intensities,
    /// Steps in total, those before a `--resume` included. Default 2000.
    pub steps: u32,
    /// Stop after this many minutes of a call, if the steps are not done before. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Which network: `unet` (default, the paper's), `unet-release`, `milesial`, `milesial-bilinear`, `brain` or `semseg`.
    pub model: Variant,
    /// Channels of the finest level; each level below has twice as many. Default 16; the paper has 64.
    pub base: usize,
    /// The number of poolings. Default 3; the paper has 4.
    pub depth: usize,
    /// The dropout rate at the end of the contracting path. Default 0: none; the authors' release has 0.5.
    pub dropout: f32,
    /// The side of the input tiles. Default: what gives the image of median size whole, but not more than 388 pixels of output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile: Option<usize>,
    /// Tiles a step. Default 2; the paper has 1.
    pub batch: usize,
    /// How often each image is drawn from: `images` (default), all equally often; `pixels`, in proportion to its pixels.
    pub sampling: Sampling,
    /// The share of tiles in the middle of which there is foreground: a class other than 0, each class of the image as likely. Default
    /// 0: tiles lie anywhere.
    pub foreground: f32,
    /// Threads that make batches ahead of the steps that take them. They change how fast a run is and nothing else. Default 2.
    pub workers: NonZeroUsize,
    /// The memory that a training step may take, in MiB: tensors are computed again rather than kept until it does. Results are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// How activations and their gradients are stored: `f32` (default), or `mixed`, as `f16` and with a scaled loss, which takes about half of
    /// the memory; weights, their gradients and all sums are `f32`. See docs/precision.md.
    pub precision: Precision,
    /// How the weights follow their gradients: `sgd` (default, the paper's), `adam` or `adamw`.
    pub optimizer: OptimizerKind,
    /// The learning rate after the warm-up, for PyTorch's forms of the optimisers. Default: 0.03 for SGD, 0.001 for the others.
    #[serde(alias = "lr", skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f32>,
    /// The course of the learning rate: `constant` (default), `step:EVERY:FACTOR`, `poly:POWER` or `cosine`; see [`Schedule`].
    pub schedule: Schedule,
    /// Steps over which the learning rate rises linearly from 0. Default 100.
    pub warmup: u32,
    /// Steps at the end over which the learning rate falls linearly to 0. Default 0: it stays.
    pub cooldown: u32,
    /// For SGD, how much of the velocity stays from step to step. Default 0.9. The paper has 0.99, which sums ten times as many
    /// gradients and so wants a tenth of the learning rate; with it and one tile a step, runs stayed at all background for about 1000
    /// steps (docs/experiments.md).
    pub momentum: f32,
    /// For Adam, how much of the mean of the gradient stays from step to step. Default 0.9.
    pub beta1: f32,
    /// For Adam, how much of the mean of its square stays. Default 0.999.
    pub beta2: f32,
    /// For Adam, what is added to the root of that mean. Default 1e-8.
    pub epsilon: f32,
    /// The share of each weight that is added to its gradient; for `adamw`, the share that a learning rate of 1 would take off the
    /// weight. Default 0.
    pub weight_decay: f32,
    /// The norm of all gradients together above which they are scaled down to it; 0: they never are. Default: 1, and with the
    /// reduction `sum`, whose gradients are larger by the number of pixels, 0. Without it, one of two seeds lost what it had learned at
    /// the peak of the default learning rate (docs/experiments.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f32>,
    /// What is minimised: `ce` (default), the cross-entropy weighted pixel by pixel, the paper's; `dice`, the soft Dice loss of the
    /// foreground classes, for which weights other than 0 are all alike; `ce+dice`, their sum.
    pub loss: LossKind,
    /// By what the weighted cross-entropy of a batch is divided: `mean_over_weights` (default), `mean_over_pixels`, or `sum`, which is the
    /// paper's and needs a learning rate smaller by the number of pixels.
    pub reduction: Reduction,
    /// What is added to both sides of the ratio in the Dice loss. Default 1.
    pub dice_smoothing: f32,
    /// What the pixels of each class weigh, background first, times the weight that they have besides. With the reduction
    /// `mean_over_weights`, that is the `weight` of PyTorch's cross-entropy. Default: all alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<Vec<f32>>,
    /// Whether rare classes weigh more, so that all classes count the same in total, as in the paper. Default false.
    pub balance: bool,
    /// When pixels between cells weigh more: `instances` (default: where the labels tell cells apart), `always` (the connected
    /// regions of a class are its cells), `never`.
    pub border: BorderUse,
    /// Which weights those are: `paper` (default), or `release`, those of the authors' later one, for which background far from
    /// cells weighs 0.1; see [`border`](crate::data::border).
    pub border_map: BorderMap,
    /// The weight added where two cells touch. Default: 5 for `paper`, which itself has 10, and 50 for `release`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border_w0: Option<f32>,
    /// How fast that weight falls off, in pixels. Default: 5 for `paper`, 6 for `release`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border_sigma: Option<f32>,
    /// The seed of initial weights, batches and dropout. Default 1.
    pub seed: u32,
    /// Steps between evaluations on the validation images. Default 100.
    pub evaluate_every: u32,
    /// By what the best weights are chosen: `foreground_iou` (default), `mean_iou`, `pixel_error`, `loss` (the mean
    /// cross-entropy, without weights) or, where the labels tell objects apart, `ap50` or `mean_ap` (the average precision of the 2018
    /// Data Science Bowl at an IoU of 0.5, or the mean up to 0.95) on the validation images.
    pub best_by: Metric,
    /// Stop after this many evaluations without a better one. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// Steps between checkpoints; there is always one at the end. Default 100.
    pub save_every: u32,
    /// How far training tiles are changed. Default: they are flipped and turned by quarters.
    pub augment: Augmentation,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossKind {
    /// The weighted cross-entropy.
    #[default]
    #[serde(rename = "ce")]
    CrossEntropy,
    /// The soft Dice loss.
    #[serde(rename = "dice")]
    Dice,
    /// Their sum.
    #[serde(rename = "ce+dice")]
    Both,
}

/// How the weights follow their gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam; its weight decay is part of the gradient.
    Adam,
    /// Adam with weight decay apart from the gradient.
    AdamW,
}

/// When pixels between cells weigh more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BorderUse {
    /// Where the labels tell cells apart.
    #[default]
    Instances,
    /// For class labels too: the connected regions of a class are its cells.
    Always,
    /// Nowhere.
    Never,
}

/// The largest side of an automatic tile's output: the paper's.
const LARGEST_AUTOMATIC_OUTPUT: usize = 388;

impl Default for Config {
    fn default() -> Self {
        let AdamSettings { beta1, beta2, epsilon, .. } = AdamSettings::default();
        Self {
            data: None,
            val: None,
            hold_out: None,
            mask_suffix: String::new(),
            classes: None,
            map: None,
            ignore: None,
            zoom: Zoom::default(),
            intensities: Intensities::default(),
            steps: 2000,
            minutes: None,
            model: Variant::Unet,
            base: 16,
            depth: 3,
            dropout: 0.0,
            tile: None,
            batch: 2,
            sampling: Sampling::Images,
            foreground: 0.0,
            workers: const { NonZeroUsize::new(2).unwrap() },
            memory: None,
            precision: Precision::F32,
            optimizer: OptimizerKind::Sgd,
            learning_rate: None,
            schedule: Schedule::Constant,
            warmup: 100,
            cooldown: 0,
            momentum: 0.9,
            beta1,
            beta2,
            epsilon,
            weight_decay: 0.0,
            clip_norm: None,
            loss: LossKind::CrossEntropy,
            reduction: Reduction::MeanOverWeights,
            dice_smoothing: 1.0,
            class_weights: None,
            balance: false,
            border: BorderUse::Instances,
            border_map: BorderMap::Paper,
            border_w0: None,
            border_sigma: None,
            seed: 1,
            evaluate_every: 100,
            best_by: Metric::ForegroundIou,
            patience: None,
            save_every: 100,
            augment: Augmentation::default(),
        }
    }
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] when it is no regular file of at most 1 MiB, and with line and key when it is
    /// not TOML or has unknown keys.
    pub fn read(path: &Path) -> Result<Self> {
        let text = file::read_text(path, LARGEST_FILE_BYTES)?;
        toml::from_str(&text).map_err(|error| Error::data(path, error.to_string().trim_end()))
    }

    /// The text of the TOML file, with absolute paths, so that it means the same from every folder.
    ///
    /// # Errors
    /// [`Error::Usage`] when a path is not Unicode.
    pub fn to_toml(&self) -> Result<String> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let config =
            Self { data: self.data.as_ref().map(absolute), val: self.val.as_ref().map(absolute), ..self.clone() };
        toml::to_string(&config).map_err(|error| Error::Usage(format!("this configuration cannot be written: {error}")))
    }

    /// Checks every value that does not depend on the data.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the key, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.model(1, 2).validate()?;
        let at_least_1 = [
            ("steps", u64::from(self.steps)),
            ("batch", self.batch as u64),
            ("evaluate_every", u64::from(self.evaluate_every)),
            ("save_every", u64::from(self.save_every)),
        ];
        let fail =
            |key: &str, value: String, rule: &str| Err(Error::Usage(format!("{key} must be {rule}, got {value}")));
        for (key, value) in at_least_1 {
            if value == 0 {
                return fail(key, value.to_string(), "at least 1");
            }
        }
        let positive = |value: f32| value > 0.0 && value.is_finite();
        if !positive(self.peak_learning_rate()) {
            return fail("learning_rate", self.peak_learning_rate().to_string(), "above 0, such as 0.0005");
        }
        for (key, value) in [("momentum", self.momentum), ("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return fail(key, value.to_string(), "at least 0 and below 1");
            }
        }
        if !positive(self.epsilon) {
            return fail("epsilon", self.epsilon.to_string(), "above 0, such as 1e-8");
        }
        self.schedule.check().map_err(|problem| Error::Usage(format!("schedule {}: {problem}", self.schedule)))?;
        if let Some(norm) = self.clip_norm.filter(|&norm| !positive(norm) && norm != 0.0) {
            return fail("clip_norm", norm.to_string(), "above 0, such as 1, or 0 to leave gradients as they are");
        }
        if !positive(self.dice_smoothing) {
            return fail("dice_smoothing", self.dice_smoothing.to_string(), "above 0, such as 1");
        }
        if self.patience == Some(0) {
            return fail("patience", "0".into(), "at least 1 evaluation");
        }
        if self.weight_decay < 0.0 || !self.weight_decay.is_finite() {
            return fail("weight_decay", self.weight_decay.to_string(), "at least 0");
        }
        if let Some(w0) = self.border_w0.filter(|w0| *w0 < 0.0 || !w0.is_finite()) {
            return fail("border_w0", w0.to_string(), "at least 0; the paper has 10");
        }
        if let Some(sigma) = self.border_sigma.filter(|&sigma| !(sigma > 0.0 && sigma <= MAX_SIGMA)) {
            return fail(
                "border_sigma",
                sigma.to_string(),
                &format!("above 0 and at most {MAX_SIGMA}; the paper has 5 pixels"),
            );
        }
        if let Some(weights) = &self.class_weights {
            if let Some(weight) = weights.iter().find(|&&weight| !positive(weight)) {
                return fail("class_weights", weight.to_string(), "above 0 for each class");
            }
            if self.balance {
                let problem = "class_weights and balance both say what classes weigh: leave one of them out";
                return Err(Error::Usage(problem.into()));
            }
        }
        if self.balance && self.border_map == BorderMap::Release {
            let problem = "balance replaces the constant 1 of the paper's weights, border_map = \"release\" has its own weight of \
                           background: set balance to false, or border_map to \"paper\"";
            return Err(Error::Usage(problem.into()));
        }
        if !(0.0..=1.0).contains(&self.foreground) {
            return fail("foreground", self.foreground.to_string(), "a share from 0 to 1");
        }
        if let Some(minutes) = self.minutes.filter(|&minutes| minutes.is_nan() || minutes <= 0.0) {
            return fail("minutes", minutes.to_string(), "above 0");
        }
        if let Some(share) = self.hold_out.filter(|&share| !(share > 0.0 && share < 1.0)) {
            return fail("hold_out", share.to_string(), "a share between 0 and 1, such as 0.1");
        }
        if self.hold_out.is_some() && self.val.is_some() {
            return Err(Error::Usage("give val or hold_out, not both: one says which images to validate on".into()));
        }
        self.augment.validate()?;
        self.labels()?;
        if let Some(tile) = self.tile {
            self.model(1, 2).output_side(tile)?;
        }
        Ok(())
    }

    /// How label values become classes, as far as the masks do not tell.
    ///
    /// # Errors
    /// [`Error::Usage`] when `map` is not a list of values and classes.
    pub fn labels(&self) -> Result<Options> {
        let map = self.map.as_deref().map(str::parse).transpose()?;
        Ok(Options { mask_suffix: self.mask_suffix.clone(), classes: self.classes, map, ignore: self.ignore })
    }

    /// The network for images of these channels and labels of these classes.
    pub fn model(&self, in_channels: usize, classes: usize) -> UNet {
        let (variant, base_channels) = (self.model, self.base);
        UNet { variant, in_channels, classes, base_channels, depth: self.depth, dropout: self.dropout }
    }

    /// The side of the input tiles for these images, which are of their own size.
    pub fn tile_for(&self, samples: &[Sample]) -> usize {
        let model = self.model(1, 2);
        let size = |image: &Image| self.zoom.size([image.height, image.width]);
        let shorter = |sample: &Sample| size(&sample.image).into_iter().min();
        let mut sides: Vec<usize> = samples.iter().filter_map(shorter).collect();
        sides.sort_unstable();
        let typical = sides.get(sides.len() / 2).copied().unwrap_or(1);
        self.tile.unwrap_or_else(|| model.legal_above(typical.min(LARGEST_AUTOMATIC_OUTPUT) + model.shrink()))
    }

    /// The border weight for a sample's kind of labels.
    pub fn border_for(&self, truth: &Truth) -> Option<Border> {
        let used = match self.border {
            BorderUse::Instances => matches!(truth, Truth::Instances(_)),
            BorderUse::Always => true,
            BorderUse::Never => false,
        };
        let source = Border::from(self.border_map);
        let usual = match self.border_map {
            BorderMap::Paper => 5.0,
            BorderMap::Release => source.w0,
        };
        let (w0, sigma) = (self.border_w0.unwrap_or(usual), self.border_sigma.unwrap_or(source.sigma));
        used.then_some(Border { w0, sigma, ..source })
    }

    /// A sample as a run trains on it, but for [`balance`](crate::data::sample::balance): at its zoom, with its intensities and weights.
    ///
    /// # Errors
    /// As [`Zoom::sample`] and [`Prepared::new`]; [`Error::Usage`] when a class has no weight.
    pub fn prepared(&self, sample: Sample) -> Result<Prepared> {
        self.prepared_by(sample, Border::weights)
    }

    /// As [`Config::prepared`], with something else that knows the weights of a border.
    pub(crate) fn prepared_by(
        &self,
        sample: Sample,
        weights: impl Fn(&Border, &LabelMap) -> Result<Vec<f32>>,
    ) -> Result<Prepared> {
        let border = self.border_for(&sample.truth);
        let weigh = border.as_ref().map(|border| |instances: &LabelMap| weights(border, instances));
        let mut prepared = Prepared::weighed(self.zoom.sample(sample)?, self.intensities, weigh)?;
        if let Some(by_class) = &self.class_weights {
            for (weight, &class) in
                prepared.weights.iter_mut().zip(&prepared.classes).filter(|&(_, &class)| class != IGNORE)
            {
                *weight *= by_class.get(class as usize).ok_or_else(|| {
                    let (name, count) = (&prepared.name, by_class.len());
                    Error::Usage(format!(
                        "{name}: class {class}, but class_weights has {count} values, from class 0 on"
                    ))
                })?;
            }
        }
        Ok(prepared)
    }

    /// What a training step is made of, whatever memory it takes.
    pub fn training(&self) -> Training {
        let Self { momentum, beta1, beta2, epsilon, weight_decay, reduction, .. } = *self;
        // Pixels to ignore come with weight 0.
        let cross_entropy = CrossEntropySettings { reduction, ignore: None };
        let dice = DiceSettings { smoothing: self.dice_smoothing };
        let loss = match self.loss {
            LossKind::CrossEntropy => Loss::CrossEntropy(cross_entropy),
            LossKind::Dice => Loss::Dice(dice),
            LossKind::Both => Loss::Both(cross_entropy, dice),
        };
        let adam = |decoupled| Optimizer::Adam(AdamSettings { beta1, beta2, epsilon, weight_decay, decoupled });
        let optimizer = match self.optimizer {
            OptimizerKind::Sgd => Optimizer::Sgd(SgdSettings { momentum, weight_decay }),
            OptimizerKind::Adam => adam(false),
            OptimizerKind::AdamW => adam(true),
        };
        let automatic = if reduction == Reduction::Sum { 0.0 } else { 1.0 };
        let clip_norm = Some(self.clip_norm.unwrap_or(automatic)).filter(|&norm| norm > 0.0);
        Training { loss, clip_norm, optimizer, memory: None, precision: self.precision }
    }

    /// The learning rate after the warm-up: the given one, or one that suits the optimiser.
    pub fn peak_learning_rate(&self) -> f32 {
        self.learning_rate.unwrap_or(match self.optimizer {
            OptimizerKind::Sgd => 0.03,
            OptimizerKind::Adam | OptimizerKind::AdamW => 0.001,
        })
    }

    /// The learning rate of a step, counted from 0.
    pub fn learning_rate_at(&self, step: u32) -> f32 {
        let share = self.schedule.share(step, self.steps, self.warmup, self.cooldown);
        (f64::from(self.peak_learning_rate()) * share) as f32
    }

    /// The value of each key that is set; keys of tables have the table's name before a dot.
    fn values(&self) -> toml::Table {
        let mut values = toml::Table::new();
        for (key, value) in toml::Table::try_from(self).unwrap_or_default() {
            match value {
                toml::Value::Table(table) => {
                    values.extend(table.into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)));
                }
                value => {
                    values.insert(key, value);
                }
            }
        }
        values
    }

    /// Checks that a stopped run with this configuration may go on with another one.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the keys in which the two differ, of those that make a run what it is.
    pub fn check_resumed_as(&self, other: &Self) -> Result<()> {
        let free = [
            "data",
            "val",
            "steps",
            "minutes",
            "workers",
            "memory",
            "learning_rate",
            "evaluate_every",
            "patience",
            "save_every",
        ];
        let (ours, theirs) = (self.values(), other.values());
        let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let text = |value: Option<&toml::Value>| value.map_or("automatic".into(), ToString::to_string);
        let differences: Vec<String> = keys
            .into_iter()
            .filter(|key| !free.contains(&key.as_str()) && ours.get(*key) != theirs.get(*key))
            .map(|key| format!("{key} was {} and would be {}", text(ours.get(key)), text(theirs.get(key))))
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let differences = differences.join("; ");
        Err(Error::Usage(format!(
            "this run cannot go on with other settings: {differences}; leave them as they were or start another run (only {} \
             may change)",
            free.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_defaults_are_valid_and_survive_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for config in [
            Config::default(),
            Config { augment: Augmentation::RECIPE, ..Config::default() },
            Config { minutes: Some(1.5), tile: Some(188), data: Some("/some/folder".into()), ..Config::default() },
        ] {
            config.validate().unwrap();
            let text = config.to_toml().unwrap();
            assert!(text.contains("momentum = 0.9"), "{text}");
            fs::write(&path, text).unwrap();
            assert_eq!(Config::read(&path).unwrap(), config);
        }
        fs::write(&path, "#".repeat(LARGEST_FILE_BYTES as usize + 1)).unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("too large"));
        fs::write(&path, "").unwrap();
        assert_eq!(Config::read(&path).unwrap(), Config::default());
    }

    #[test]
    fn gradients_are_clipped_unless_they_are_sums_or_the_user_says_no() {
        let clipped = |clip_norm, reduction| Config { clip_norm, reduction, ..Config::default() }.training().clip_norm;
        assert_eq!(clipped(None, Reduction::MeanOverWeights), Some(1.0));
        assert_eq!(clipped(None, Reduction::Sum), None);
        assert_eq!(clipped(Some(0.0), Reduction::MeanOverWeights), None);
        assert_eq!(clipped(Some(50.0), Reduction::Sum), Some(50.0));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "steps = 10\nlearning_rat = 0.1\n").unwrap();
        let message = Config::read(&path).unwrap_err().to_string();
        for part in ["config.toml", "line 2", "learning_rat", "learning_rate"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        fs::write(&path, "[augment]\nelastic = 4.0\n").unwrap();
        let augment = Augmentation { elastic: 4.0, ..Augmentation::default() };
        assert_eq!(Config::read(&path).unwrap(), Config { augment, ..Config::default() });
        fs::write(&path, "[augment]\nelastics = 4.0\n").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("elastics"));
    }

    #[test]
    fn senseless_values_are_named() {
        let default = Config::default;
        for (config, key) in [
            (Config { steps: 0, ..default() }, "steps"),
            (Config { batch: 0, ..default() }, "batch"),
            (Config { base: 0, ..default() }, "base"),
            (Config { depth: 9, ..default() }, "depth"),
            (Config { learning_rate: Some(f32::NAN), ..default() }, "learning_rate"),
            (Config { learning_rate: Some(0.0), ..default() }, "learning_rate"),
            (Config { momentum: 1.0, ..default() }, "momentum"),
            (Config { beta2: 1.0, ..default() }, "beta2"),
            (Config { epsilon: 0.0, ..default() }, "epsilon"),
            (Config { schedule: Schedule::Step { every: 0, factor: 0.1 }, ..default() }, "schedule step:0:0.1"),
            (Config { clip_norm: Some(-1.0), ..default() }, "clip_norm"),
            (Config { dice_smoothing: 0.0, ..default() }, "dice_smoothing"),
            (Config { patience: Some(0), ..default() }, "patience"),
            (Config { weight_decay: -1.0, ..default() }, "weight_decay"),
            (Config { border_w0: Some(-1.0), ..default() }, "border_w0"),
            (Config { border_sigma: Some(0.0), ..default() }, "border_sigma"),
            (Config { border_sigma: Some(1001.0), ..default() }, "border_sigma must be above 0 and at most 1000"),
            (Config { border_sigma: Some(f32::NAN), ..default() }, "border_sigma"),
            (Config { balance: true, border_map: BorderMap::Release, ..default() }, "set balance to false"),
            (Config { foreground: 1.5, ..default() }, "foreground"),
            (Config { hold_out: Some(1.0), ..default() }, "hold_out"),
            (Config { hold_out: Some(0.1), val: Some("val".into()), ..default() }, "hold_out"),
            (Config { map: Some("0:0".into()), ..default() }, "0:0"),
            (Config { minutes: Some(0.0), ..default() }, "minutes"),
            (Config { tile: Some(570), ..default() }, "572"),
            (Config { augment: Augmentation { noise: -1.0, ..default().augment }, ..default() }, "augment.noise"),
        ] {
            let error = config.validate().unwrap_err();
            assert!(error.to_string().contains(key) && error.exit_code() == 2, "{key}: {error}");
        }
    }

    #[test]
    fn the_learning_rate_follows_the_schedule_from_a_value_that_suits_the_optimiser() {
        let config = Config { warmup: 4, steps: 8, schedule: Schedule::Cosine, cooldown: 0, ..Config::default() };
        for (optimizer, learning_rate, expected) in [
            (OptimizerKind::Sgd, None, 0.03_f32),
            (OptimizerKind::Adam, None, 0.001),
            (OptimizerKind::AdamW, None, 0.001),
            (OptimizerKind::AdamW, Some(1.0), 1.0),
        ] {
            let config = Config { optimizer, learning_rate, ..config.clone() };
            let rates = [0, 3, 4, 6].map(|step| config.learning_rate_at(step));
            let expected = [0.25, 1.0, 1.0, 0.5].map(|share| share * expected);
            assert!(rates.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-7 * b), "{rates:?} {expected:?}");
        }
    }

    #[test]
    fn a_run_goes_on_with_more_steps_but_not_with_another_network() {
        let before = Config::default();
        before.check_resumed_as(&Config { steps: 9, minutes: Some(1.0), ..Config::default() }).unwrap();
        let message = before.check_resumed_as(&Config { base: 8, tile: Some(188), ..before.clone() }).unwrap_err();
        let message = message.to_string();
        assert!(message.contains("base was 16 and would be 8"), "{message}");
        assert!(message.contains("tile was automatic and would be 188"), "{message}");
        let message = before.check_resumed_as(&Config { augment: Augmentation::NONE, ..before.clone() }).unwrap_err();
        assert!(message.to_string().contains("settings: augment.flips was true and would be false;"), "{message}");
    }
}
