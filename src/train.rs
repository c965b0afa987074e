//! Training: batches in, one graph run a step, and a folder that survives whatever happens to the process.
//!
//! A run is a function of its configuration, its data and the device: batches, augmentation, dropout and initial weights follow from the
//! seed and the number of the step alone. So a run that was stopped, killed or cut off from power goes on exactly where its
//! last checkpoint stood, and ends with the same bytes as one that was never stopped.
//!
//! The folder of a run holds
//!
//! | file | what |
//! |---|---|
//! | `config.toml` | the [`Config`], every value spelled out |
//! | `metrics.jsonl` | a [`Record`] a step, one a line; no times of the clock, so that it can be compared |
//! | `last.safetensors` | weights, optimiser state, and where the run stands |
//! | `best.safetensors` | the weights with the best score on the validation images |
//! | `progress/` | what the network made of two validation images at each evaluation |
//! | `weight-maps/` | the weights of pixels that took long to compute, so that a resumed run need not; not part of the run otherwise |
//! | `events.out.tfevents.tilewise` | losses, learning rate, scores and those pictures again, for `TensorBoard` |
//! | `summary.json` | a [`Summary`] of the last call |

mod clock;
mod config;
mod data;
mod diagnosis;
mod divergence;
mod events;
mod fingerprint;
mod folder;
mod job;
mod maps;
mod preview;
mod record;
mod schedule;
mod trainer;
mod validation;

pub(crate) use folder::MAPS;
pub(crate) use maps::WeightMaps;

pub use config::{BorderUse, Config, LossKind, OptimizerKind};
pub use data::Data;
pub use diagnosis::{Diagnosis, Units};
pub use divergence::{Divergence, Found, Origin};
pub use events::EVENTS;
pub use job::{Event, Job, Observer, train};
pub use preview::{Example, Preview, preview};
pub use record::{Best, Metric, Progress, Record, Scaling, Scored, Status, Summary};
pub use schedule::Schedule;
pub use trainer::Trainer;
pub use validation::{Validated, Validator};
