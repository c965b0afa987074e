//! Which files belong together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::LabelKind;
use crate::data::image::Image;
use crate::data::label::LabelMap;
use crate::data::raster::EXTENSIONS;
use crate::error::{Error, Result};

/// An image and its truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name of the image without its extension.
    pub name: String,
    /// The image.
    pub image: PathBuf,
    /// The mask or the instances.
    pub label: PathBuf,
}

/// The pairs of a data set, in the order of their names.
pub(super) fn pairs(folder: &Path, mask_suffix: &str) -> Result<(LabelKind, Vec<Pair>)> {
    let (kind, labels) = label_folder(folder)?;
    let images = files_by_name(&folder.join("images"), "")?;
    let mut labels = files_by_name(&labels, mask_suffix)?;
    if images.is_empty() {
        let supported = EXTENSIONS.join(", ");
        return Err(Error::data(folder.join("images"), format!("no images; put some there ({supported})")));
    }
    let mut pairs = Vec::with_capacity(images.len());
    let mut lonely = Vec::new();
    for (name, image) in images {
        match labels.remove(&name) {
            Some(label) => pairs.push(Pair { name, image, label }),
            None => lonely.push(image),
        }
    }
    if lonely.is_empty() && labels.is_empty() {
        return Ok((kind, pairs));
    }
    let suffix = common_suffix(&lonely, &labels);
    lonely.extend(labels.into_values());
    let names: Vec<String> = lonely.iter().map(|path| short(folder, path)).collect();
    let count = names.len();
    let advice = match suffix {
        Some(suffix) => format!("if `{suffix}` marks a mask, say so with --mask-suffix={suffix}"),
        None => "image and truth need the same name; add what is missing or remove these".to_owned(),
    };
    Err(Error::data(folder, format!("files without a partner ({count}): {}; {advice}", abridged(&names))))
}

/// The folder of the truth, and what kind it is.
fn label_folder(folder: &Path) -> Result<(LabelKind, PathBuf)> {
    if !folder.is_dir() {
        return Err(Error::data(
            folder,
            "there is no such folder; give one with images/ and masks/ or instances/ in it",
        ));
    }
    let expected = "a data set has the folders images/ and masks/ (class values) or instances/ (cell numbers)";
    if !folder.join("images").is_dir() {
        let inside = names_inside(folder)?;
        let nested = inside.iter().find(|name| folder.join(name).join("images").is_dir());
        let problem = match nested {
            Some(name) => {
                let path = folder.join(name);
                format!("no folder images/ in it, but there is one in {name}/; did you mean {}?", path.display())
            }
            None if inside.is_empty() => format!("the folder is empty; {expected}"),
            None => format!("no folder images/ in it; {expected}; found {}", abridged(&inside)),
        };
        return Err(Error::data(folder, problem));
    }
    let [masks, instances] = ["masks", "instances"].map(|name| folder.join(name));
    match (masks.is_dir(), instances.is_dir()) {
        (true, false) => Ok((LabelKind::Masks, masks)),
        (false, true) => Ok((LabelKind::Instances, instances)),
        (true, true) => {
            Err(Error::data(folder, "both masks/ and instances/ are there; keep the one to train on, rename the other"))
        }
        (false, false) => Err(Error::data(folder, format!("images/ has no truth beside it; {expected}"))),
    }
}

/// The image files of a folder by name, without extension and suffix.
fn files_by_name(folder: &Path, suffix: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for name in names_inside(folder)? {
        let path = folder.join(&name);
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let image = extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()));
        if name.starts_with('.') || (!image && passed_over(&name)) {
            continue;
        }
        if path.is_dir() {
            return Err(Error::data(path, "a folder among the image files; move it elsewhere or move its files up"));
        }
        if !image {
            let supported = EXTENSIONS.join(", ");
            return Err(Error::data(path, format!("not a supported image file ({supported}); convert or remove it")));
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = stem.strip_suffix(suffix).map(str::to_owned).unwrap_or(stem);
        if let Some(other) = files.insert(stem.clone(), path.clone()) {
            let problem = format!("has the name `{stem}` like {}; names must differ", other.display());
            return Err(Error::data(path, problem));
        }
    }
    Ok(files)
}

/// Files that are found among images and mean nothing.
fn passed_over(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let known = ["README", "LICENSE", "LICENCE", "THUMBS.DB", "DESKTOP.INI"];
    known.iter().any(|start| upper.starts_with(start))
}

/// The names in a folder, sorted.
fn names_inside(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::io("read", folder, source);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let names: Result<Vec<String>, std::io::Error> =
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names.map_err(failed)?;
    names.sort();
    Ok(names)
}

/// What every unpaired mask has after the name of an unpaired image.
fn common_suffix(images: &[PathBuf], labels: &BTreeMap<String, PathBuf>) -> Option<String> {
    let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let first = stem(images.first()?)?;
    let suffix = labels.keys().find_map(|label| label.strip_prefix(&first))?;
    let fits = |image: &PathBuf| stem(image).is_some_and(|stem| labels.contains_key(&format!("{stem}{suffix}")));
    images.iter().all(fits).then(|| suffix.to_owned())
}

/// A path within the data set.
pub(super) fn short(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// The first few of many names.
fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

/// Refuses a truth of another size than its image.
pub(super) fn refuse_other_size(pair: &Pair, image: &Image, label: &LabelMap) -> Result<()> {
    if (image.height, image.width) == (label.height, label.width) {
        return Ok(());
    }
    Err(Error::data(
        &pair.label,
        format!(
            "{} x {} pixels, but its image {} has {} x {}; they must be equal",
            label.width,
            label.height,
            pair.image.display(),
            image.width,
            image.height
        ),
    ))
}
