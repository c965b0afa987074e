//! Weight maps that took long, kept from one call of a run to the next.

use super::config::Config;
use super::fingerprint::Fingerprint;
use crate::checkpoint::atomic;
use crate::data::{Border, LabelMap, Prepared, Sample};
use crate::error::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maps that are computed faster are not kept: reading them would hardly be faster still.
const WORTH_KEEPING: Duration = Duration::from_millis(250);

/// A folder of weight maps, named by what they were computed from. Whatever is wrong with it costs time and nothing else.
#[derive(Debug)]
pub(crate) struct WeightMaps {
    folder: PathBuf,
    worth_keeping: Duration,
}

impl WeightMaps {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), worth_keeping: WORTH_KEEPING }
    }

    /// A sample as a run of this configuration trains on it, but for [`balance`](crate::data::sample::balance).
    ///
    /// # Errors
    /// As [`Prepared::weighed`].
    pub(crate) fn prepare(&self, config: &Config, sample: Sample) -> Result<Prepared> {
        config.prepared_by(sample, |border, instances| self.weights(border, instances))
    }

    /// [`Border::weights`], read back where they are kept.
    fn weights(&self, border: &Border, instances: &LabelMap) -> Result<Vec<f32>> {
        let key = key(border, instances);
        let path = self.folder.join(format!("{key}.map"));
        if let Some(weights) = fs::read(&path).ok().and_then(|bytes| decode(&key, &bytes, instances.values.len())) {
            return Ok(weights);
        }
        let begun = Instant::now();
        let weights = border.weights(instances)?;
        if begun.elapsed() >= self.worth_keeping {
            let kept = fs::create_dir_all(&self.folder).is_ok()
                && atomic::write(&path, |file| file.write_all(&encode(&key, &weights))).is_ok();
            tracing::debug!("{} {}", path.display(), if kept { "is kept" } else { "cannot be kept" });
        }
        Ok(weights)
    }
}

/// What a map depends on.
fn key(border: &Border, instances: &LabelMap) -> String {
    let Border { w0, sigma, background, background_sigma } = *border;
    let mut key = Fingerprint::default();
    // To be raised when the formula changes.
    key.add([1]);
    key.add([w0, sigma, background, background_sigma].map(f32::to_bits));
    key.add([instances.height as u32, instances.width as u32]);
    key.add(instances.values.iter().copied());
    key.to_string()
}

/// The weights and a checksum of key and weights, little-endian.
fn encode(key: &str, weights: &[f32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    bytes.extend(checksum(key, weights).bytes());
    bytes
}

/// What [`encode`] was given, unless the bytes are something else.
fn decode(key: &str, bytes: &[u8], count: usize) -> Option<Vec<f32>> {
    let (values, sum) = bytes.split_at_checked(count.checked_mul(4)?)?;
    let weights: Vec<f32> =
        values.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
    (sum == checksum(key, &weights).as_bytes()).then_some(weights)
}

fn checksum(key: &str, weights: &[f32]) -> String {
    let mut sum = Fingerprint::default();
    sum.add(key.bytes().map(u32::from));
    sum.add(weights.iter().map(|weight| weight.to_bits()));
    sum.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::BorderMap;

    fn labels(last: u32) -> LabelMap {
        LabelMap { height: 2, width: 3, values: vec![1, 0, 2, 1, 0, last] }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn a_kept_map_is_read_back_and_a_wrong_one_is_computed_again() {
        let folder = tempfile::tempdir().unwrap();
        let maps = WeightMaps { folder: folder.path().join("maps"), worth_keeping: Duration::ZERO };
        let border = Border::default();
        let expected = border.weights(&labels(2)).unwrap();
        assert_eq!(maps.weights(&border, &labels(2)).unwrap(), expected);
        let [path] = &files(&maps.folder)[..] else { panic!("one map") };
        let whole = fs::read(path).unwrap();
        // A map that is valid in itself shows that it is read and not computed.
        let other = vec![7.0; 6];
        let key = key(&border, &labels(2));
        fs::write(path, encode(&key, &other)).unwrap();
        assert_eq!(maps.weights(&border, &labels(2)).unwrap(), other);
        let mut flipped = whole.clone();
        flipped[9] ^= 1;
        let stale = encode("of other labels", &other);
        for wrong in [&whole[..20], &[], &flipped, &[&whole[..], &[0]].concat(), &stale] {
            fs::write(path, wrong).unwrap();
            assert_eq!(maps.weights(&border, &labels(2)).unwrap(), expected);
            assert_eq!(fs::read(path).unwrap(), whole, "and kept again");
        }
    }

    #[test]
    fn other_labels_and_other_constants_have_maps_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let maps = WeightMaps { folder: folder.path().into(), worth_keeping: Duration::ZERO };
        let turned = LabelMap { height: 3, width: 2, ..labels(2) };
        for (count, (border, instances)) in (1..).zip([
            (Border::default(), labels(2)),
            (Border::default(), labels(3)),
            (Border::default(), turned),
            (Border { sigma: 4.0, ..Border::default() }, labels(2)),
            (BorderMap::Release.into(), labels(2)),
        ]) {
            assert_eq!(maps.weights(&border, &instances).unwrap(), border.weights(&instances).unwrap());
            assert_eq!(files(folder.path()).len(), count);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_and_a_fast_map_cost_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let expected = Border::default().weights(&labels(2)).unwrap();
        for (path, worth_keeping) in [(file.clone(), Duration::ZERO), (folder.path().join("maps"), WORTH_KEEPING)] {
            let maps = WeightMaps { folder: path, worth_keeping };
            assert_eq!(maps.weights(&Border::default(), &labels(2)).unwrap(), expected);
        }
        assert_eq!(files(folder.path()), [file]);
    }
}
