//! Which files belong together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::LabelKind;
use crate::data::image::Image;
use crate::data::label::LabelMap;
use crate::data::raster::{EXTENSIONS, Page};
use crate::error::{Error, Result};

/// An image and its truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name of the image without its extension, and its page in a stack.
    pub name: String,
    /// The image.
    pub image: Page,
    /// The mask or the instances.
    pub label: Page,
}

/// The pairs of a data set, in the order of their names. What does not belong to a pair becomes an error in the list.
pub(super) fn pairs(folder: &Path, mask_suffix: &str, errors: &mut Vec<Error>) -> Result<(LabelKind, Vec<Pair>)> {
    let (kind, labels) = label_folder(folder)?;
    let images = files_by_name(&folder.join("images"), "", errors)?;
    let mut labels = files_by_name(&labels, mask_suffix, errors)?;
    if images.is_empty() {
        if errors.is_empty() {
            let supported = EXTENSIONS.join(", ");
            errors.push(Error::data(folder.join("images"), format!("no images; put some there ({supported})")));
        }
        return Ok((kind, Vec::new()));
    }
    let mut pairs = Vec::with_capacity(images.len());
    let mut lonely = Vec::new();
    for (name, image) in images {
        match labels.remove(&name) {
            Some(label) => match pages(&image, &label) {
                Ok(pages) => pairs.extend(pages),
                Err(error) => errors.push(error),
            },
            None => lonely.push(image),
        }
    }
    if !lonely.is_empty() || !labels.is_empty() {
        errors.push(without_partner(folder, lonely, labels));
    }
    Ok((kind, pairs))
}

fn without_partner(folder: &Path, mut lonely: Vec<PathBuf>, labels: BTreeMap<String, PathBuf>) -> Error {
    let suffix = common_suffix(&lonely, &labels);
    lonely.extend(labels.into_values());
    let names: Vec<String> = lonely.iter().map(|path| short(folder, path)).collect();
    let count = names.len();
    let advice = match suffix {
        Some(suffix) => format!("if `{suffix}` marks a mask, say so with --mask-suffix={suffix}"),
        None => "image and truth need the same name; add what is missing or remove these".to_owned(),
    };
    Error::data(folder, format!("files without a partner ({count}): {}; {advice}", abridged(&names)))
}

/// The pairs that two files hold: one, or as many as the stacks have pages.
fn pages(image: &Path, label: &Path) -> Result<Vec<Pair>> {
    let (images, labels) = (Page::of_file(image)?, Page::of_file(label)?);
    if images.len() != labels.len() {
        let (here, there) = (labels.len(), images.len());
        let problem = format!("{here} page(s), but its image {} has {there}; they must be equal", image.display());
        return Err(Error::data(label, problem));
    }
    Ok(images.into_iter().zip(labels).map(|(image, label)| Pair { name: image.name(), image, label }).collect())
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

/// The image files of a folder by name, without extension and suffix. Everything else but hidden files and such as mean nothing
/// becomes an error in the list.
fn files_by_name(folder: &Path, suffix: &str, errors: &mut Vec<Error>) -> Result<BTreeMap<String, PathBuf>> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for name in names_inside(folder)? {
        let path = folder.join(&name);
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let image = extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()));
        if name.starts_with('.') || (!image && passed_over(&name)) {
            continue;
        }
        if path.is_dir() {
            errors.push(Error::data(path, "a folder among the image files; move it elsewhere or move its files up"));
            continue;
        }
        if !image {
            let supported = EXTENSIONS.join(", ");
            errors.push(Error::data(path, format!("not a supported image file ({supported}); convert or remove it")));
            continue;
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = stem.strip_suffix(suffix).map(str::to_owned).unwrap_or(stem);
        if let Some(other) = files.get(&stem) {
            let problem = format!("has the name `{stem}` like {}; names must differ", other.display());
            errors.push(Error::data(path, problem));
        } else {
            files.insert(stem, path);
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
    Err(pair.label.error(format!(
        "{} x {} pixels, but its image {} has {} x {}; they must be equal",
        label.width, label.height, pair.image, image.width, image.height
    )))
}
