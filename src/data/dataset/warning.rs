//! What is allowed but worth knowing.

use std::collections::{BTreeMap, BTreeSet};

use super::Pair;
use super::mapping::Mapping;
use super::survey::Summary;
use crate::data::finding::{Code, Finding};
use crate::data::raster::Page;
use crate::data::sample::IGNORE;

/// The warnings about the files of a data set. Without a mapping nothing is said about classes.
pub(super) fn warnings(pairs: &[Pair], summaries: &[Summary], mapping: Option<&Mapping>) -> Vec<Finding> {
    let mut warnings = Vec::new();
    let mut seen: BTreeMap<u64, &Page> = BTreeMap::new();
    for (pair, summary) in pairs.iter().zip(summaries) {
        let mut warn = |code, page, text: &str, fix: &str| warnings.push(Finding::new(code, page, text, fix));
        if summary.alpha_dropped {
            let fix = "save the image without it if it was not meant";
            warn(Code::Alpha, &pair.image, "the image has an alpha channel, which is dropped", fix);
        }
        if summary.palette && summary.channels > 1 {
            let fix = "save it as grey if its colours only stand for brightness, so that one channel is trained on";
            warn(Code::Palette, &pair.image, "the image has palette colours, which are looked up: 3 channels", fix);
        }
        if summary.bit_depth == 16 && summary.range.1 < 256.0 {
            let fix = "nothing to do: normalisation makes up for it";
            warn(Code::Dim, &pair.image, "a 16-bit image with only 8-bit values", fix);
        }
        if summary.is_constant() {
            let value = summary.range.0;
            let text = format!("the image has the value {value} everywhere");
            let finding = Finding::new(Code::Constant, &pair.image, text, "check how it was saved");
            warnings.push(finding.at(value, [0, 0]));
        }
        warnings.extend(mapping.and_then(|mapping| one_class(&pair.label, summary, mapping)));
        match seen.get(&summary.content) {
            Some(other) => {
                let text = format!("the same image as {other}");
                warnings.push(Finding::new(Code::Duplicate, &pair.image, text, "remove one, or it counts twice"));
            }
            None => _ = seen.insert(summary.content, &pair.image),
        }
    }
    warnings
}

/// What there is to say of a truth in which nothing is to be told apart.
fn one_class(label: &Page, summary: &Summary, mapping: &Mapping) -> Option<Finding> {
    // A value without a class is an error, and leaves the others in doubt.
    let classes: BTreeSet<u32> = summary.values.keys().map(|&value| mapping.class_of(value)).collect::<Option<_>>()?;
    let (code, text, fix) = match classes.iter().filter(|&&class| class != IGNORE).collect::<Vec<_>>()[..] {
        [] => {
            (Code::AllIgnored, "every pixel is ignored, so it neither trains nor counts".to_owned(), "remove the pair")
        }
        [0] => {
            (Code::OnlyBackground, "nothing but background".to_owned(), "fine if there is nothing to see in the image")
        }
        [class] => (Code::OneClass, format!("every pixel is of class {class}"), "check how the mask was saved"),
        _ => return None,
    };
    let (value, _) = summary
        .values
        .iter()
        .find(|&(&value, _)| mapping.class_of(value) != Some(IGNORE))
        .or(summary.values.first_key_value())?;
    let first = summary.values[value].first;
    Some(Finding::new(code, label, text, fix).at(value, first))
}

/// The warnings in short: one line a kind.
pub(super) fn notes(warnings: &[Finding], images: usize) -> Vec<String> {
    let mut kinds: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for warning in warnings {
        let text = match warning.code {
            Code::Alpha => "images with an alpha channel, which is dropped",
            Code::Palette => "images with palette colours, which are looked up",
            Code::Dim => "16-bit images with only 8-bit values, which normalisation makes up for",
            Code::Constant => "images with the same value everywhere",
            Code::OnlyBackground => "images with nothing but background",
            Code::OneClass => "images with one class only, which is not background",
            Code::AllIgnored => "images of which every pixel is ignored",
            Code::Duplicate => "images that are there before",
            _ => continue,
        };
        kinds.entry(text).or_default().push(warning);
    }
    let note = |(text, warnings): (&str, Vec<&Finding>)| {
        format!("{text}: {} of {images}, such as {}", warnings.len(), warnings[0].file.display())
    };
    kinds.into_iter().map(note).collect()
}
