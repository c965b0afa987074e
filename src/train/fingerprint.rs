//! Whether two calls were given the same images and labels.

use crate::data::{Sample, Truth};

/// A number that two sets of samples share only if they are equal, but for an accident of one in 2⁶⁴: FNV-1a over the names,
/// sizes, pixels and labels, word by word.
pub(super) fn fingerprint<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u32| hash = (hash ^ u64::from(word)).wrapping_mul(0x100_0000_01b3);
    for sample in samples {
        sample.name.bytes().for_each(|byte| mix(u32::from(byte)));
        let (kind, labels) = match &sample.truth {
            Truth::Instances(labels) => (1, labels),
            Truth::Classes(labels) => (2, labels),
        };
        for extent in [kind, sample.image.height, sample.image.width, sample.image.channels] {
            mix(extent as u32);
        }
        sample.image.pixels.iter().for_each(|value| mix(value.to_bits()));
        labels.values.iter().for_each(|&value| mix(value));
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Image, LabelMap};

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
