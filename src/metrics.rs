//! Scores of a segmentation, as their sources define them (docs/metrics.md): by pixel from a confusion matrix, by object from one
//! sparse table of two label maps.

mod contingency;
mod instances;
mod matching;
mod otsu;
mod partition;
mod pixel;
mod thinning;
mod variety;
mod warping;

pub use contingency::{Contingency, Overlap};
pub use instances::InstanceScores;
pub use matching::IOU_THRESHOLDS;
pub use otsu::otsu_threshold;
pub use partition::{AdaptedRand, SplitMerge};
pub use pixel::{ClassScores, Confusion, Scores};
pub use thinning::thin_borders;
pub use variety::{CONSTANT_SCORES, Variety};
pub use warping::warping_error;
