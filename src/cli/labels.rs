//! How label values become classes: flags that the commands share which read truth.

use clap::Args;
use tilewise::data::dataset::{Options, ValueMap};

/// What cannot be read off the masks. Without these flags 0/255, palette indices and class numbers from 0 are recognised.
#[derive(Clone, Debug, Args)]
pub(crate) struct LabelArguments {
    /// What the name of a mask has after the name of its image, such as _mask
    #[arg(long, value_name = "TEXT", default_value = "")]
    mask_suffix: String,
    /// The mask values are class numbers below N
    #[arg(long, value_name = "N")]
    classes: Option<u32>,
    /// The class of each mask value, such as 0=0,128=1,255=2
    #[arg(long, value_name = "VALUE=CLASS,...", conflicts_with = "classes")]
    map: Option<ValueMap>,
    /// The mask value of pixels that neither train nor count
    #[arg(long, value_name = "VALUE")]
    ignore: Option<u32>,
}

impl LabelArguments {
    pub(crate) fn options(&self) -> Options {
        self.over(Options::default())
    }

    /// These flags on top of other options.
    pub(crate) fn over(&self, base: Options) -> Options {
        let Self { mask_suffix, classes, map, ignore } = self.clone();
        let mask_suffix = if mask_suffix.is_empty() { base.mask_suffix } else { mask_suffix };
        // Both say what values mean: one as a flag is said instead of the other.
        let (classes, map) = if classes.is_none() && map.is_none() { (base.classes, base.map) } else { (classes, map) };
        Options { mask_suffix, classes, map, ignore: ignore.or(base.ignore) }
    }
}
