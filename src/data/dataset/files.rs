//! Which files belong together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::LabelKind;
use crate::data::finding::{Code, Finding};
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
pub(super) fn pairs(
    folder: &Path,
    (kind, labels): (LabelKind, &Path),
    mask_suffix: &str,
    errors: &mut Vec<Error>,
) -> Result<Vec<Pair>> {
    let images = files_by_name(&folder.join("images"), "", errors)?;
    let mut labels_by_name = files_by_name(labels, mask_suffix, errors)?;
    if images.is_empty() {
        if errors.is_empty() {
            let fix = format!("put some there ({})", EXTENSIONS.join(", "));
            errors.push(finding(Code::NoImages, &folder.join("images"), "no images", fix).into_error());
        }
        return Ok(Vec::new());
    }
    let mut pairs = Vec::with_capacity(images.len());
    let mut lonely = Vec::new();
    for (name, image) in images {
        match labels_by_name.remove(&name) {
            Some(label) => match pages(&image, &label) {
                Ok(pages) => pairs.extend(pages),
                Err(error) => errors.push(error),
            },
            None => lonely.push(image),
        }
    }
    let truth = if kind == LabelKind::Masks { "masks" } else { "instances" };
    let suffix = common_suffix(&lonely, &labels_by_name);
    let unpaired = |path: &Path, other: &str| {
        let fix = match &suffix {
            Some(suffix) => format!("if `{suffix}` marks a mask, say so with --mask-suffix={suffix}"),
            None => "image and truth need the same name: add what is missing or remove this".to_owned(),
        };
        finding(Code::Unpaired, path, format!("no file in {other}/ has its name"), fix).into_error()
    };
    errors.extend(lonely.iter().map(|image| unpaired(image, truth)));
    errors.extend(labels_by_name.values().map(|label| unpaired(label, "images")));
    Ok(pairs)
}

/// A finding about a file as a whole, or a folder.
fn finding(code: Code, path: &Path, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding::new(code, &path.into(), text, fix)
}

/// The pairs that two files hold: one, or as many as the stacks have pages.
fn pages(image: &Path, label: &Path) -> Result<Vec<Pair>> {
    let (images, labels) = (Page::of_file(image)?, Page::of_file(label)?);
    if images.len() != labels.len() {
        let (here, there) = (labels.len(), images.len());
        let text = format!("{here} page(s), but its image {} has {there}", image.display());
        return Err(finding(Code::PageCounts, label, text, "they must be equal: save both anew")
            .of_value(here)
            .into_error());
    }
    Ok(images.into_iter().zip(labels).map(|(image, label)| Pair { name: image.name(), image, label }).collect())
}

/// The folder of the truth, and what kind it is.
pub(super) fn label_folder(folder: &Path) -> Result<(LabelKind, PathBuf)> {
    let wrong = |text: String, fix: &str| Err(finding(Code::Layout, folder, text, fix).into_error());
    if !folder.is_dir() {
        return wrong("there is no such folder".into(), "give one with images/ and masks/ or instances/ in it");
    }
    let expected = "a data set has the folders images/ and masks/ (class values) or instances/ (cell numbers)";
    if !folder.join("images").is_dir() {
        let inside = names_inside(folder)?;
        if let Some(name) = inside.iter().find(|name| folder.join(name).join("images").is_dir()) {
            let text = format!("no folder images/ in it, but there is one in {name}/");
            return wrong(text, &format!("did you mean {}?", folder.join(name).display()));
        }
        let found = match inside.len() {
            0 => "the folder is empty".to_owned(),
            _ => format!("no folder images/ in it, found {}", abridged(&inside)),
        };
        return wrong(found, expected);
    }
    let [masks, instances] = ["masks", "instances"].map(|name| folder.join(name));
    match (masks.is_dir(), instances.is_dir()) {
        (true, false) => Ok((LabelKind::Masks, masks)),
        (false, true) => Ok((LabelKind::Instances, instances)),
        (true, true) => {
            wrong("both masks/ and instances/ are there".into(), "keep the one to train on, rename the other")
        }
        (false, false) => wrong("images/ has no truth beside it".into(), expected),
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
            let fix = "move it elsewhere or move its files up";
            errors.push(finding(Code::NotAnImage, &path, "a folder among the image files", fix).into_error());
            continue;
        }
        if !image {
            let supported = EXTENSIONS.join(", ");
            let text = format!("not a supported image file ({supported})");
            errors.push(finding(Code::NotAnImage, &path, text, "convert or remove it").into_error());
            continue;
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = stem.strip_suffix(suffix).map(str::to_owned).unwrap_or(stem);
        if let Some(other) = files.get(&stem) {
            let text = format!("has the name `{stem}` like {}", other.display());
            errors.push(finding(Code::SameName, &path, text, "names must differ: rename or remove one").into_error());
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

/// The first few of many names.
fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

/// Refuses a truth of another size than its image.
pub(super) fn refuse_other_size(pair: &Pair, [height, width]: [usize; 2], label: &LabelMap) -> Result<()> {
    if [height, width] == [label.height, label.width] {
        return Ok(());
    }
    let size = format!("{} x {}", label.width, label.height);
    let text = format!("{size} pixels, but its image {} has {width} x {height}", pair.image);
    let fix = "they must be equal: save the truth anew, in the size of its image";
    Err(Finding::new(Code::OtherSize, &pair.label, text, fix).of_value(size).into_error())
}
