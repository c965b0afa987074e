//! Which of the published networks a file from `PyTorch` belongs to, told by the names and shapes of its tensors.

use crate::models::{UNet, Variant};
use std::collections::BTreeMap;

/// A network that was recognised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Published {
    pub(super) net: UNet,
    /// The last convolution, where it has one score, of which the sigmoid is the probability of foreground. As the score of background is 0
    /// then, it is that of two classes, whose first filter is zeros.
    pub(super) one_score: Option<&'static str>,
}

/// The published network that begins with a tensor of such a name, in the size that a few shapes tell; whether all tensors fit is for others to
/// check. `None` where there is none.
pub(super) fn network<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Option<Published> {
    // The first convolution has [base, in_channels, 3, 3].
    let first = |name: &str| match shape(name) {
        Some(&[base_channels, in_channels, ..]) => Some(UNet { in_channels, base_channels, ..UNet::default() }),
        _ => None,
    };
    // One more level than any network may have is refused as one too many.
    let levels = |name: fn(usize) -> String| (1..=8).take_while(|&level| shape(&name(level)).is_some()).count();
    let finish = |net: UNet, head: &'static str| {
        let outputs = *shape(&format!("{head}.weight"))?.first()?;
        // Which has one for two classes here, too.
        let one_score = (outputs == 1 && net.variant != Variant::Brain).then_some(head);
        Some(Published { net: UNet { classes: if outputs == 1 { 2 } else { outputs }, ..net }, one_score })
    };
    if let Some(net) = first("inc.double_conv.0.weight") {
        let transposed = shape("up1.up.weight").is_some();
        let variant = if transposed { Variant::Milesial } else { Variant::MilesialBilinear };
        let depth = levels(|level| format!("down{level}.maxpool_conv.1.double_conv.0.weight"));
        return finish(UNet { variant, depth, ..net }, "outc.conv");
    }
    if let Some(net) = first("encoder1.enc1conv1.weight") {
        let depth = levels(|level| format!("encoder{level}.enc{level}conv1.weight"));
        return finish(UNet { variant: Variant::Brain, depth, ..net }, "conv");
    }
    if let Some(net) = first("encoder0.conv1.weight") {
        // The release's last up-convolution keeps its channels.
        let released = matches!(shape("decoder0.up.weight")?, [c_in, c_out, ..] if c_in == c_out);
        let variant = if released { Variant::UnetRelease } else { Variant::Unet };
        let depth = levels(|level| format!("encoder{}.conv1.weight", level - 1));
        return finish(UNet { variant, depth, ..net }, "head");
    }
    let net = first("down1.conv1.0.weight")?;
    let depth = levels(|level| format!("down{level}.conv1.0.weight"));
    finish(UNet { variant: Variant::Semseg, depth, ..net }, "classifier")
}

/// The tensors by the names that they have within the model: wrappers of `PyTorch`'s put something before every one, `DataParallel` `module.` and
/// `torch.compile` `_orig_mod.`.
pub(super) fn unwrapped<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let wrapped = |wrapper: &&str| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(wrapper));
    match ["module.", "_orig_mod."].into_iter().find(wrapped) {
        None => tensors,
        Some(wrapper) => {
            let within = |(name, tensor): (String, T)| (name[wrapper.len()..].to_owned(), tensor);
            unwrapped(tensors.into_iter().map(within).collect())
        }
    }
}

/// Whether a tensor counts the batches that a batch norm has seen, which only a cumulative average needs.
pub(super) fn is_counter(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Metadata, Section, Weights, save};
    use crate::data::Intensities;
    use crate::graph::{Graph, Init};

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
                let weights = Weights::load(&path).unwrap();
                let (found, parameters) = weights.network().unwrap();
                assert_eq!((found, &parameters), (net, &bank));
                assert_eq!(weights.intensities(&net).unwrap(), variant.intensities());
                // What was trained here is given what training here gives, unless the file says otherwise.
                for (metadata, expected) in [
                    (Metadata::new(), Intensities::Standard),
                    (Metadata::new().with(Metadata::INTENSITIES, &Intensities::Unit), Intensities::Unit),
                ] {
                    let sections = [Section { prefix: "", bank: &bank }];
                    save(&path, &graph, &sections, &metadata.with(Metadata::MODEL, &net)).unwrap();
                    assert_eq!(Weights::load(&path).unwrap().intensities(&net).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn one_score_is_that_of_foreground_beside_a_background_of_zero() {
        let net = UNet { variant: Variant::MilesialBilinear, base_channels: 4, depth: 2, ..UNet::default() };
        let graph = net.inference(1, [net.smallest_side(); 2]).unwrap().graph;
        // The same parameters, but for the last convolution's channels.
        let mut single = Graph::new();
        for parameter in graph.parameters() {
            let mut extents = parameter.shape.extents().to_vec();
            if parameter.name.starts_with("outc.") {
                extents.pop();
                extents.push(1);
            }
            single.parameter(&parameter.name, extents, Init::Normal(1.0)).unwrap();
        }
        let bank = single.initial_parameters(3);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        save(&path, &single, &[Section { prefix: "", bank: &bank }], &Metadata::new()).unwrap();
        let (found, parameters) = Weights::load(&path).unwrap().network().unwrap();
        assert_eq!(found, net);
        for (ours, theirs) in graph.parameters().iter().zip(single.parameters()) {
            let (ours, theirs) = (graph.bank_slice(&parameters, ours), single.bank_slice(&bank, theirs));
            if ours.len() == theirs.len() {
                assert_eq!(ours, theirs);
            } else {
                let expected: Vec<f32> = theirs.iter().flat_map(|&value| [0.0, value]).collect();
                assert_eq!(ours, expected);
            }
        }
    }

    #[test]
    fn a_wrapper_is_taken_off_only_where_all_tensors_have_it() {
        let tensors = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let names = |tensors: BTreeMap<String, u8>| tensors.into_keys().collect::<Vec<_>>();
        assert_eq!(names(unwrapped(tensors(&["module.a", "module.b"]))), ["a", "b"]);
        assert_eq!(names(unwrapped(tensors(&["module._orig_mod.a", "module._orig_mod.b"]))), ["a", "b"]);
        assert_eq!(names(unwrapped(tensors(&["module.a", "b"]))), ["b", "module.a"]);
    }
}
