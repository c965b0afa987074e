//! How a class map becomes objects: flags that `predict` and `evaluate` share.

use clap::Args;
use tilewise::data::{Components, Connectivity};
use tilewise::{Error, Result};

/// What counts as an object.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ObjectArguments {
    /// Predicted objects of fewer pixels are background [default: 0]
    #[arg(long, value_name = "PIXELS")]
    min_size: Option<usize>,
    /// Which pixels of an object touch: 4, across edges, or 8, across corners too [default: 4]
    #[arg(long, value_name = "4|8")]
    connectivity: Option<Connectivity>,
}

impl ObjectArguments {
    /// How to find objects, where they are wanted.
    pub(crate) fn components(self, wanted: bool) -> Result<Option<Components>> {
        let Self { min_size, connectivity } = self;
        if !wanted && (min_size.is_some() || connectivity.is_some()) {
            let problem =
                "--min-size and --connectivity say what an object is, and no objects are asked for: add --instances";
            return Err(Error::Usage(problem.into()));
        }
        let components =
            Components { connectivity: connectivity.unwrap_or_default(), min_size: min_size.unwrap_or_default() };
        Ok(wanted.then_some(components))
    }
}
