//! Images in files, and the files that predictions become.

use super::{Prediction, Predictor};
use crate::checkpoint::atomic;
use crate::data::raster::{EXTENSIONS, Page, write_grey8};
use crate::data::{Components, Image};
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::progress::Progress;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The images of a file, or of the files of a folder in order of their names: several of a TIFF stack. Hidden files are passed
/// over.
///
/// # Errors
/// [`Error::Io`] when there is no such file or folder, [`Error::Data`] when there are no images in it, or two whose results would have one
/// name. What is wrong with a file shows when it is read.
pub fn pages(input: &Path) -> Result<Vec<Page>> {
    let metadata = fs::metadata(input).map_err(|error| Error::io("read", input, error))?;
    let mut files = Vec::new();
    if metadata.is_file() {
        files.push(input.to_owned());
    } else {
        for entry in fs::read_dir(input).map_err(|error| Error::io("read", input, error))? {
            let path = entry.map_err(|error| Error::io("read", input, error))?.path();
            let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) {
                files.push(path);
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::data(input, format!("there are no images here; supported are {}", EXTENSIONS.join(", "))));
    }
    let mut images = Vec::new();
    for path in &files {
        // What is wrong with a file is said when it is its turn.
        images.extend(Page::of_file(path).unwrap_or_else(|_| vec![path.as_path().into()]));
    }
    let mut seen = BTreeMap::new();
    for image in &images {
        if let Some(other) = seen.insert(image.name(), image) {
            return Err(other.error(format!("{image} would give the same output names; rename one of them")));
        }
    }
    Ok(images)
}

/// The folders that results are written to, a PNG of the image's name in each; they never hold what is read.
///
/// ```text
/// OUT/masks/           the class of each pixel, in indexed colour
/// OUT/probabilities/   the probability of being foreground, 0 to 255
/// OUT/overlays/        the image with the outlines of what was found
/// OUT/instances/       the objects, numbered from 1, of 16 bits; where they are asked for
/// ```
#[derive(Clone, Debug)]
pub struct Outputs {
    masks: PathBuf,
    probabilities: PathBuf,
    overlays: PathBuf,
    /// With what an object is, where objects are wanted.
    instances: Option<(PathBuf, Components)>,
}

impl Predictor {
    /// Reads an image and segments it; `progress` hears of its tiles.
    ///
    /// # Errors
    /// [`Error::Data`] naming the image when the network takes no such image; as [`Image::read_page`] and
    /// [`Predictor::predict_with_progress`].
    pub fn predict_page(&mut self, page: &Page, progress: &mut Progress<'_>) -> Result<(Image, Prediction)> {
        let image = Image::read_page(page)?;
        match self.predict_with_progress(&image, progress) {
            Ok(prediction) => Ok((image, prediction)),
            Err(Error::Usage(problem)) => Err(page.error(problem)),
            Err(error) => Err(error),
        }
    }
}

impl Outputs {
    /// Folders in `out` for the results of these images; with objects, if it is said what one is. Nothing is created yet.
    ///
    /// # Errors
    /// [`Error::Usage`] when results would be written over images that are read, or over the truth of a data set.
    pub fn new(out: &Path, components: Option<Components>, images: &[Page]) -> Result<Self> {
        let [masks, probabilities, overlays] = ["masks", "probabilities", "overlays"].map(|name| out.join(name));
        let instances = components.map(|components| (out.join("instances"), components));
        let outputs = Self { masks, probabilities, overlays, instances };
        let truth =
            [("masks", Some(&outputs.masks)), ("instances", outputs.instances.as_ref().map(|(folder, _)| folder))];
        for (name, folder) in truth {
            if out.join("images").is_dir() && folder.is_some_and(|folder| folder.is_dir()) {
                let out = out.display();
                return Err(Error::Usage(format!(
                    "{out} is a data set, whose {name}/ would be overwritten: give --out another folder"
                )));
            }
        }
        for folder in outputs.folders() {
            let Ok(folder) = folder.canonicalize() else { continue };
            let inside = images.iter().map(|image| &image.path).find(|path| {
                path.canonicalize().is_ok_and(|path| path.parent().is_some_and(|parent| parent == folder))
            });
            if let Some(path) = inside {
                return Err(Error::Usage(format!(
                    "{} would be overwritten by its own result: give --out another folder",
                    path.display()
                )));
            }
        }
        Ok(outputs)
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let instances = self.instances.iter().map(|(folder, _)| folder);
        [&self.masks, &self.probabilities, &self.overlays].into_iter().chain(instances)
    }

    /// Creates the folders.
    ///
    /// # Errors
    /// [`Error::Io`] naming the one that cannot be.
    pub fn create(&self) -> Result<()> {
        self.folders()
            .try_for_each(|folder| fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error)))
    }

    /// Writes all that was asked for, and returns how many objects were found, where they were asked for.
    ///
    /// # Errors
    /// [`Error::Data`] naming the image when it has more objects than 16 bits number, [`Error::Io`] when a file cannot be written.
    pub fn write(&self, page: &Page, image: &Image, prediction: &Prediction) -> Result<Option<u32>> {
        let name = format!("{}.png", page.name());
        let size = [image.height, image.width];
        let mask = prediction.label_map();
        mask.write_classes(self.masks.join(&name))?;
        let probabilities = Picture::of_probabilities(&prediction.probabilities, size, prediction.classes);
        let grey: Vec<u8> = probabilities.rgb.chunks(3).map(|pixel| pixel[0]).collect();
        write_grey8(&self.probabilities.join(&name), image.height, image.width, &grey)?;
        Picture::of_image(&image.pixels, size, image.channels)
            .overlaid(&prediction.labels)
            .write(self.overlays.join(&name))?;
        let Some((folder, components)) = &self.instances else { return Ok(None) };
        let objects = components.label(&mask);
        let count = objects.values.iter().copied().max().unwrap_or(0);
        if count > u32::from(u16::MAX) {
            return Err(page.error(format!(
                "{count} objects, and 16 bits number at most {}: leave small ones out by --min-size, which is {} now",
                u16::MAX,
                components.min_size
            )));
        }
        objects.write_instances(folder.join(name))?;
        Ok(Some(count))
    }
}

/// Writes raw scores, by name and with their extents `[height, width, classes]`, as a safetensors file.
///
/// # Errors
/// [`Error::Weights`] when there are other numbers than the extents say, [`Error::Io`] when the file cannot be written.
pub fn save_logits(path: &Path, logits: &BTreeMap<String, ([usize; 3], Vec<f32>)>) -> Result<()> {
    let fail = |problem: String| Error::Weights { path: path.into(), problem };
    let views = logits
        .iter()
        .map(|(name, (extents, values))| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, extents.to_vec(), bytes);
            Ok((name.as_str(), view.map_err(|error| fail(error.to_string()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| fail(error.to_string()))?;
    atomic::write(path, |file| file.write_all(&bytes))
}
