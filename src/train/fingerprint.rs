//! Whether two calls were given the same.

use crate::data::{Image, Sample, Truth};
use std::fmt;

/// FNV-1a in 64 bits, word by word: a number that two sequences share only if they are equal, but for an accident of one in 2⁶⁴.
#[derive(Debug)]
pub(super) struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    pub(super) fn add(&mut self, words: impl IntoIterator<Item = u32>) {
        for word in words {
            self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The fingerprint of names, sizes, pixels and labels.
pub(super) fn fingerprint<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> String {
    let mut print = Fingerprint::default();
    for sample in samples {
        print.add(sample.name.bytes().map(u32::from));
        let (kind, labels) = match &sample.truth {
            Truth::Instances(labels) => (1, labels),
            Truth::Classes(labels) => (2, labels),
        };
        let Image { height, width, channels, pixels, .. } = &sample.image;
        print.add([kind, *height as u32, *width as u32, *channels as u32]);
        print.add(pixels.iter().map(|value| value.to_bits()));
        print.add(labels.values.iter().copied());
    }
    print.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::LabelMap;

    fn sample() -> Sample {
        let image =
            Image { height: 1, width: 2, channels: 1, bit_depth: 8, pixels: vec![1.0, 2.0], alpha_dropped: false };
        let truth = Truth::Classes(LabelMap { height: 1, width: 2, values: vec![0, 1] });
        Sample { name: "a".into(), image, truth }
    }

    #[test]
    fn every_part_of_a_sample_counts() {
        let original = fingerprint(&[sample()]);
        assert_eq!(original, fingerprint(&[sample()]));
        let mut others = vec![sample(); 4];
        others[0].name = "b".into();
        others[1].image.pixels[1] = 2.5;
        others[2].truth = Truth::Classes(LabelMap { height: 1, width: 2, values: vec![1, 0] });
        others[3].truth = Truth::Instances(LabelMap { height: 1, width: 2, values: vec![0, 1] });
        for other in others {
            assert_ne!(fingerprint([&other]), original, "{other:?}");
        }
        assert_ne!(fingerprint(&[sample(), sample()]), original);
    }
}
