//! What a weights file says about itself.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Text by key, as safetensors files carry it; every value but `format` is JSON.
///
/// `format` is `pt`, which says that names and layouts are `PyTorch`'s; `tilewise` is the version of what the other keys mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

/// The version of the keys' meaning that this crate writes.
const VERSION: u32 = 1;

impl Default for Metadata {
    fn default() -> Self {
        let format = [("format".into(), "pt".into()), ("tilewise".into(), VERSION.to_string())];
        Self(format.into())
    }
}

impl Metadata {
    /// The key of the network's configuration, the fields of a U-Net.
    pub const MODEL: &'static str = "model";
    /// The key of how label values became classes, a [`Mapping`](crate::data::dataset::Mapping).
    pub const MAPPING: &'static str = "mapping";
    /// The key of what networks are given of images, [`Intensities`](crate::data::Intensities).
    pub const INTENSITIES: &'static str = "intensities";
    /// The key of the side of the tiles that the weights were trained on.
    pub const TILE: &'static str = "tile";
    /// The key of the factor by which the network is given images larger than they are, [`Zoom`](crate::data::Zoom).
    pub const ZOOM: &'static str = "zoom";
    /// The key of the number of training steps behind the weights.
    pub const STEP: &'static str = "step";

    /// No keys but the format's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Metadata as a file has it.
    pub(super) fn from_file(entries: BTreeMap<String, String>) -> Self {
        Self(entries)
    }

    /// The keys and values.
    pub fn entries(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Adds a value, written as JSON.
    #[must_use]
    pub fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        // Only maps with keys that are not text, and types that refuse on their own, have no JSON.
        let text = serde_json::to_string(value).unwrap_or_else(|_| "null".into());
        self.0.insert(key.into(), text);
        self
    }

    /// With the keys and values of the other, which replace those that are there.
    #[must_use]
    pub(crate) fn overlaid(mut self, other: &Self) -> Self {
        self.0.extend(other.0.clone());
        self
    }

    /// A value; `None` if there is none of this key.
    ///
    /// # Errors
    /// What is wrong with the value, in words.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.0.get(key) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let start: String = text.chars().take(80).collect();
            format!("the metadata `{key}` cannot be read: {error} (it begins with `{start}`)")
        })
    }

    /// The problem if the file was written by a later version, whose keys may mean something else.
    pub(super) fn problem(&self) -> Option<String> {
        match self.get::<u32>("tilewise") {
            Ok(None | Some(0..=VERSION)) => None,
            Ok(Some(version)) => Some(format!(
                "the file has format version {version}, this program knows versions up to {VERSION}: use a newer tilewise"
            )),
            Err(problem) => Some(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_bad_ones_are_described() {
        let metadata = Metadata::new().with(Metadata::STEP, &1200_u64);
        assert_eq!(metadata.get::<u64>(Metadata::STEP), Ok(Some(1200)));
        assert_eq!(metadata.get::<u64>("absent"), Ok(None));
        assert_eq!(metadata.problem(), None);
        let problem = metadata.get::<Vec<u64>>(Metadata::STEP).unwrap_err();
        assert!(problem.contains("`step`") && problem.contains("1200"), "{problem}");
    }

    #[test]
    fn a_later_version_is_refused() {
        let problem = Metadata::new().with("tilewise", &2).problem().unwrap();
        assert!(problem.contains("version 2") && problem.contains("newer"), "{problem}");
    }
}
