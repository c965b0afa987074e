//! What a run says about itself.

use super::diagnosis::Diagnosis;
use crate::models::UNet;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::time::Duration;

/// One step: a line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the step, from 1.
    pub step: u32,
    /// The loss of its batch before the update. NaN, which JSON has as null, and infinite only in mixed precision at a step that was skipped.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f32,
    /// Its learning rate.
    pub learning_rate: f32,
    /// The norm of its gradients before they were scaled down, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f32>,
    /// Where the scaling of the loss stands after it, in mixed precision.
    #[serde(flatten)]
    pub scaling: Option<Scaling>,
    /// The scores of the weights after it, at the steps that are evaluated.
    #[serde(flatten)]
    pub scored: Option<Scored>,
}

/// Where the scaling of a loss stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// By what the loss of the next step is multiplied.
    pub loss_scale: f32,
    /// The steps so far whose gradients were not finite, and that therefore changed nothing.
    pub overflows: u32,
    /// Whether this step was one of them.
    pub skipped: bool,
}

fn or_nan<'de, D: Deserializer<'de>>(number: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f32::NAN))
}

/// Scores on the validation images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// IoU of everything that is not class 0.
    pub foreground_iou: Option<f64>,
    /// Mean IoU over the classes that occur.
    pub mean_iou: Option<f64>,
    /// Share of pixels whose class is wrong.
    pub pixel_error: f64,
    /// Mean cross-entropy of a pixel, without weights, whatever the training minimises.
    pub validation_loss: Option<f64>,
    /// Where the truth tells objects apart, the precision of the 2018 Data Science Bowl at an IoU of 0.5, the mean over images;
    /// predicted objects are the connected regions of one class other than 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ap50: Option<f64>,
    /// Its mean over the thresholds 0.5 to 0.95 likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_ap: Option<f64>,
}

/// A score by which weights are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// [`Scored::foreground_iou`], the larger the better.
    #[default]
    ForegroundIou,
    /// [`Scored::mean_iou`], the larger the better.
    MeanIou,
    /// [`Scored::pixel_error`], the smaller the better.
    PixelError,
    /// [`Scored::validation_loss`], the smaller the better.
    Loss,
    /// [`Scored::ap50`], the larger the better.
    Ap50,
    /// [`Scored::mean_ap`], the larger the better.
    MeanAp,
}

impl Metric {
    /// Its value among the scores, if it is defined.
    pub fn of(self, scored: &Scored) -> Option<f64> {
        match self {
            Self::ForegroundIou => scored.foreground_iou,
            Self::MeanIou => scored.mean_iou,
            Self::PixelError => Some(scored.pixel_error),
            Self::Loss => scored.validation_loss,
            Self::Ap50 => scored.ap50,
            Self::MeanAp => scored.mean_ap,
        }
    }

    /// Whether it compares objects, which the truth must then tell apart.
    pub fn needs_objects(self) -> bool {
        matches!(self, Self::Ap50 | Self::MeanAp)
    }

    /// Whether one value is better than another.
    pub fn is_better(self, value: f64, than: f64) -> bool {
        match self {
            Self::ForegroundIou | Self::MeanIou | Self::Ap50 | Self::MeanAp => value > than,
            Self::PixelError | Self::Loss => value < than,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForegroundIou => "foreground IoU",
            Self::MeanIou => "mean IoU",
            Self::PixelError => "pixel error",
            Self::Loss => "validation loss",
            Self::Ap50 => "AP at IoU 0.5",
            Self::MeanAp => "mean AP",
        })
    }
}

/// Which weights scored best on the validation images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which they were evaluated.
    pub step: u32,
    /// By what.
    pub metric: Metric,
    /// Its value.
    pub value: f64,
}

/// How a run stands after a step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The step.
    pub record: Record,
    /// Steps in total.
    pub steps: u32,
    /// Steps a second in this call, evaluations and checkpoints left out; `None` before the second step of a call, because the
    /// first one warms the device up.
    pub steps_per_second: Option<f64>,
    /// The estimated time to the last step, or to the limit in minutes.
    pub time_left: Option<Duration>,
}

/// Why a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All steps are done.
    Finished,
    /// The limit in minutes was reached.
    TimeIsUp,
    /// The scores had not become better for as many evaluations as the configuration has patience for.
    EarlyStopped,
    /// The user asked to stop; `--resume` goes on.
    Interrupted,
    /// The loss is no longer finite.
    Diverged,
}

/// What `summary.json` holds after a call.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Why the call ended.
    pub status: Status,
    /// For a run that has diverged, where and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Steps done in total.
    pub step: u32,
    /// The step this call went on from; 0 for a new run.
    pub resumed_from: u32,
    /// The loss of the last step.
    pub loss: Option<f32>,
    /// The mean loss over the last steps of this call, at most 100.
    pub mean_loss: Option<f32>,
    /// Where at the last evaluation every pixel was given one class, wrongly for some: what the numbers say of the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// The last evaluation; at the end of a run there is always one if there are validation images.
    pub scored: Option<Scored>,
    /// In mixed precision, where the scaling of the loss stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// The weights in `best.safetensors`.
    pub best: Option<Best>,
    /// The network.
    pub model: UNet,
    /// Trainable numbers.
    pub parameters: usize,
    /// Side of the input tiles.
    pub tile: usize,
    /// Training images.
    pub images: usize,
    /// Validation images.
    pub validation_images: usize,
    /// The seed.
    pub seed: u32,
    /// The device.
    pub device: String,
    /// The version of this program.
    pub version: &'static str,
    /// Seconds that this call took.
    pub seconds: f64,
    /// Steps a second in this call, evaluations, checkpoints and the first step left out.
    pub steps_per_second: Option<f64>,
    /// The share of the time of these steps in which the device waited for a batch.
    pub waiting_for_data: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_score_comes_back_from_a_checkpoint_to_the_last_bit() {
        let mut random = Random::new(1, 0);
        for step in 0..10_000 {
            let value = f64::from(random.next_u32()) / f64::from(1 + random.next_u32());
            let text = serde_json::to_string(&Best { step, metric: Metric::MeanIou, value }).unwrap();
            let best: Best = serde_json::from_str(&text).unwrap();
            assert_eq!(best.value.to_bits(), value.to_bits(), "{text}");
        }
    }

    #[test]
    fn a_line_has_scores_only_where_there_are_any() {
        let plain = Record { step: 3, loss: 0.1, learning_rate: 0.01, grad_norm: None, scaling: None, scored: None };
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"step":3,"loss":0.1,"learning_rate":0.01}"#);
        let scored = Scored {
            foreground_iou: Some(0.5),
            mean_iou: None,
            pixel_error: 0.25,
            validation_loss: Some(0.7),
            ap50: None,
            mean_ap: None,
        };
        let objects = Scored { ap50: Some(0.5), mean_ap: Some(0.25), ..scored };
        for record in [
            plain,
            Record { scored: Some(objects), ..plain },
            Record { scaling: Some(Scaling { loss_scale: 65_536.0, overflows: 2, skipped: true }), ..plain },
            Record { scored: Some(scored), grad_norm: Some(2.5), ..plain },
        ] {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
        }
    }
}
