//! The images that a configuration names.

use super::config::Config;
use crate::checkpoint::Metadata;
use crate::data::{Dataset, Sample};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What a run is trained and scored on.
#[derive(Clone, Debug)]
pub struct Data {
    /// The images that batches are drawn from.
    pub training: Vec<Sample>,
    /// The images to score the weights on; there may be none.
    pub validation: Vec<Sample>,
    /// The number of classes, background included.
    pub classes: usize,
    /// What weights files are to say of the data.
    pub metadata: Metadata,
}

impl Data {
    /// Surveys and reads the folders of [`Config::data`] and [`Config::val`], or holds out [`Config::hold_out`] of the first; `say` is
    /// told what is found, and what to think of, a paragraph each, and `progress` hears of each folder twice, as it is surveyed and as it is
    /// read, and may break off.
    ///
    /// # Errors
    /// [`Error::Usage`] when the configuration names no folder, [`Error::Data`] when the folders have other classes; as [`Dataset::open`],
    /// [`Dataset::split`] and [`Dataset::read`]; [`Error::Interrupted`].
    pub fn read(config: &Config, say: &mut dyn FnMut(&str), progress: &mut Progress<'_>) -> Result<Self> {
        let folder = config.data.as_deref().ok_or_else(|| {
            Error::Usage("give the folder of training images with --data DIR: images/ with masks/ or instances/".into())
        })?;
        let options = config.labels()?;
        let dataset = Dataset::open_with_progress(folder, &options, progress)?;
        say(&format!("{}\n{}\n", folder.display(), dataset.survey()));
        let classes = dataset.class_count();
        let mapping = &dataset.survey().mapping;
        let all = |dataset: &Dataset| (0..dataset.pairs().len()).collect::<Vec<_>>();
        let (training, validation) = if let Some(folder) = &config.val {
            let validation = Dataset::open_with_progress(folder, &options.with_mapping(mapping), progress)?;
            say(&format!("validation: {}\n{}\n", folder.display(), validation.survey()));
            if validation.class_count() != classes {
                let problem = format!("{} classes here, {classes} in the training data", validation.class_count());
                return Err(Error::data(folder, format!("{problem}; give both the same kind of labels")));
            }
            let training = dataset.read_with_progress(&all(&dataset), progress)?;
            (training, validation.read_with_progress(&all(&validation), progress)?)
        } else if let Some(share) = config.hold_out {
            let (training, held_out) = dataset.split(share, config.seed)?;
            let (held, count) = (held_out.len(), dataset.pairs().len());
            say(&format!("held out for validation: {held} of {count} images\n"));
            let training = dataset.read_with_progress(&training, progress)?;
            (training, dataset.read_with_progress(&held_out, progress)?)
        } else {
            say(
                "no validation images, so neither the best weights nor a prediction of one class only will be told: give --val DIR or --hold-out 0.1\n",
            );
            (dataset.read_with_progress(&all(&dataset), progress)?, Vec::new())
        };
        let seen =
            validation.iter().filter(|held_out| training.iter().any(|sample| sample.image == held_out.image)).count();
        if seen > 0 {
            say(&format!("note: {seen} validation image(s) are also trained on, so the scores will look too good\n"));
        }
        let metadata = Metadata::new().with(Metadata::MAPPING, mapping);
        Ok(Self { training, validation, classes, metadata })
    }
}
