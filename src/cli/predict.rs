//! `tilewise predict`

use super::objects::ObjectArguments;
use super::passes::PassArguments;
use super::{Global, create_folder, note, print_json};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::checkpoint::atomic;
use tilewise::data::raster::{EXTENSIONS, Page, write_grey8};
use tilewise::data::{Components, Image};
use tilewise::metrics::Variety;
use tilewise::picture::Picture;
use tilewise::predict::{Prediction, Predictor};
use tilewise::{Error, Result};

/// What `predict` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    passes: PassArguments,
    /// An image or TIFF stack, or a folder of these: PNG or TIFF, 8 or 16 bit, up to 65,535 pixels a side
    #[arg(long, value_name = "FILE|DIR")]
    input: PathBuf,
    /// Where to write: masks/ (class values, indexed colour), probabilities/ (of foreground), overlays/ and, where asked for,
    /// instances/, a PNG per image
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also save the raw scores [H, W, C] as a safetensors file: `logits` for one image, a tensor by name for each of several
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
    /// Also write instances/: the objects, connected regions of one class other than 0, numbered from 1 in a 16-bit PNG
    #[arg(long)]
    instances: bool,
    #[command(flatten)]
    objects: ObjectArguments,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let components = arguments.objects.components(arguments.instances)?;
    let images = images(&arguments.input)?;
    let outputs = Outputs::new(&arguments.out, components, &images)?;
    let weights = arguments.passes.weights()?;
    let device = global.open_device()?;
    let mut predictor = arguments.passes.predictor(device, &weights)?;
    outputs.create()?;
    if let Some(path) = &arguments.logits {
        // Before hours of work: can it be written?
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map_err(|error| Error::io("create", path, error))?;
    }
    let mut logits = BTreeMap::new();
    let mut results = Vec::new();
    let mut failures = Vec::new();
    let mut variety = Variety::new(predictor.net().classes);
    let mut most_tiles = 0;
    for page in &images {
        let name = page.name();
        let segmented = match segment(global, &mut predictor, page) {
            Ok((image, prediction)) => match outputs.write(page, &image, &prediction) {
                // A disk that is full is so for the next image, too.
                Err(error @ Error::Io { .. }) => return Err(error),
                written => written.map(|objects| (image, prediction, objects)),
            },
            Err(error) => Err(error),
        };
        let (image, prediction, objects) = match segmented {
            Ok(segmented) => segmented,
            // One bad file among many is no reason to leave out the others.
            Err(error @ (Error::Data { .. } | Error::Finding(_) | Error::Io { .. })) if images.len() > 1 => {
                note(&format!("error: {error}"));
                failures.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        variety.add(&prediction.logits, &prediction.labels);
        let foreground = prediction.labels.iter().filter(|&&label| label != 0).count();
        let share = foreground as f64 / prediction.labels.len() as f64;
        let [tile_height, tile_width] = predictor.tile_for(image.height, image.width)?;
        most_tiles = most_tiles.max(predictor.tiles_for(image.height, image.width)?);
        global.say(&format!(
            "{name}: {}×{}, {:.1} % foreground{}, tile {tile_height}×{tile_width}",
            image.height,
            image.width,
            100.0 * share,
            objects.map_or(String::new(), |count| format!(", {count} object(s)"))
        ));
        results.push(json!({
            "image": page.path, "page": page.index, "height": image.height, "width": image.width, "foreground_share": share,
            "objects": objects, "tile": [tile_height, tile_width],
        }));
        if arguments.logits.is_some() {
            let name = if images.len() == 1 { "logits".to_owned() } else { name };
            logits.insert(name, ([image.height, image.width, prediction.classes], prediction.logits));
        }
    }
    if let Some(path) = &arguments.logits {
        save_logits(path, &logits)?;
    }
    let failed: Vec<String> = failures.iter().map(ToString::to_string).collect();
    if global.json {
        print_json(
            &json!({ "images": results, "failed": failed, "only_class": variety.only_class(), "out": arguments.out }),
        )?;
    }
    if let Some(remark) = arguments.passes.remark(most_tiles) {
        global.say(remark);
    }
    if let Some(remark) = variety.remark() {
        global.say(&format!("note: {remark}"));
    }
    let done = results.len();
    let kinds = if arguments.instances {
        "masks, probabilities, overlays and objects"
    } else {
        "masks, probabilities and overlays"
    };
    global.say(&format!("wrote {kinds} of {done} image(s) to {}", arguments.out.display()));
    match failures.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            note(&format!("error: {} of {} images could not be segmented", failures.len(), images.len()));
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

/// The images of the file, or of the files of a folder in order of their names: several of a TIFF stack. Hidden files are passed
/// over.
fn images(input: &Path) -> Result<Vec<Page>> {
    let metadata = std::fs::metadata(input).map_err(|error| Error::io("read", input, error))?;
    let mut files = Vec::new();
    if metadata.is_file() {
        files.push(input.to_owned());
    } else {
        for entry in std::fs::read_dir(input).map_err(|error| Error::io("read", input, error))? {
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

/// The folders that are written, which never hold what is read.
struct Outputs {
    masks: PathBuf,
    probabilities: PathBuf,
    overlays: PathBuf,
    /// With what an object is, where objects are wanted.
    instances: Option<(PathBuf, Components)>,
}

impl Outputs {
    fn new(out: &Path, components: Option<Components>, images: &[Page]) -> Result<Self> {
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

    fn create(&self) -> Result<()> {
        self.folders().try_for_each(|folder| create_folder(folder))
    }

    /// Writes all that was asked for, and returns how many objects were found where they were.
    fn write(&self, page: &Page, image: &Image, prediction: &Prediction) -> Result<Option<u32>> {
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

/// Reads an image and predicts it, with progress over its tiles.
fn segment(global: &Global, predictor: &mut Predictor, page: &Page) -> Result<(Image, Prediction)> {
    let image = Image::read_page(page)?;
    let bar = global.progress("{msg} {bar:30} {pos}/{len} tiles, {eta} left");
    bar.set_message(page.name());
    let prediction = predictor.predict_with_progress(&image, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    match prediction {
        Ok(prediction) => Ok((image, prediction)),
        Err(Error::Usage(problem)) => Err(page.error(problem)),
        Err(error) => Err(error),
    }
}

/// Raw scores by name, with their extents.
type Logits = BTreeMap<String, ([usize; 3], Vec<f32>)>;

fn save_logits(path: &Path, logits: &Logits) -> Result<()> {
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
