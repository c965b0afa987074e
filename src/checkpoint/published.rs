//! Which of the published networks a file from `PyTorch` belongs to, told by the names and shapes of its tensors.

use crate::models::{UNet, Variant};
use std::collections::BTreeMap;

/// The published network that begins with a tensor of such a name, in the size that a few shapes tell; whether all tensors fit is for others to
/// check. `None` where there is none.
pub(super) fn network<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Option<UNet> {
    // The first convolution has [base, in_channels, 3, 3].
    let first = |name: &str| match shape(name) {
        Some(&[base_channels, in_channels, ..]) => Some(UNet { in_channels, base_channels, ..UNet::default() }),
        _ => None,
    };
    // One more level than any network may have is refused as one too many.
    let levels = |name: fn(usize) -> String| (1..=8).take_while(|&level| shape(&name(level)).is_some()).count();
    let outputs = |name: &str| shape(name).and_then(|shape| shape.first().copied());
    if let Some(net) = first("inc.double_conv.0.weight") {
        let transposed = shape("up1.up.weight").is_some();
        let variant = if transposed { Variant::Milesial } else { Variant::MilesialBilinear };
        let depth = levels(|level| format!("down{level}.maxpool_conv.1.double_conv.0.weight"));
        return Some(UNet { variant, depth, classes: outputs("outc.conv.weight")?, ..net });
    }
    if let Some(net) = first("encoder1.enc1conv1.weight") {
        let depth = levels(|level| format!("encoder{level}.enc{level}conv1.weight"));
        // One score is that of foreground.
        let classes = outputs("conv.weight")?.max(2);
        return Some(UNet { variant: Variant::Brain, depth, classes, ..net });
    }
    if let Some(net) = first("encoder0.conv1.weight") {
        // The release's last up-convolution keeps its channels.
        let released = matches!(shape("decoder0.up.weight")?, [c_in, c_out, ..] if c_in == c_out);
        let variant = if released { Variant::UnetRelease } else { Variant::Unet };
        let depth = levels(|level| format!("encoder{}.conv1.weight", level - 1));
        return Some(UNet { variant, depth, classes: outputs("head.weight")?, ..net });
    }
    let net = first("down1.conv1.0.weight")?;
    let depth = levels(|level| format!("down{level}.conv1.0.weight"));
    Some(UNet { variant: Variant::Semseg, depth, classes: outputs("classifier.weight")?, ..net })
}

/// The tensors by the names that they have within the model: a wrapper of `PyTorch`'s for several devices puts `module.` before every one.
pub(super) fn unwrapped<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    const WRAPPER: &str = "module.";
    if !tensors.keys().all(|name| name.starts_with(WRAPPER)) {
        return tensors;
    }
    tensors.into_iter().map(|(name, tensor)| (name[WRAPPER.len()..].to_owned(), tensor)).collect()
}

/// Whether a tensor counts the batches that a batch norm has seen, which only a cumulative average needs.
pub(super) fn is_counter(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Metadata, Section, Weights, save};

    #[test]
    fn a_file_without_a_word_is_recognised_and_loaded() {
        let folder = tempfile::tempdir().unwrap();
        for variant in Variant::ALL {
            for classes in [2, 3] {
                let net = UNet { variant, in_channels: 3, classes, base_channels: 4, depth: 2, dropout: 0.0 };
                let graph = net.inference(1, [net.smallest_side(); 2]).unwrap().graph;
                let bank = graph.initial_parameters(3);
                let path = folder.path().join("weights.safetensors");
                save(&path, &graph, &[Section { prefix: "", bank: &bank }], &Metadata::new()).unwrap();
                let (found, parameters) = Weights::load(&path).unwrap().network().unwrap();
                assert_eq!((found, parameters), (net, bank));
            }
        }
    }

    #[test]
    fn a_wrapper_is_taken_off_only_where_all_tensors_have_it() {
        let tensors = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let names = |tensors: BTreeMap<String, u8>| tensors.into_keys().collect::<Vec<_>>();
        assert_eq!(names(unwrapped(tensors(&["module.a", "module.b"]))), ["a", "b"]);
        assert_eq!(names(unwrapped(tensors(&["module.a", "b"]))), ["b", "module.a"]);
    }
}
