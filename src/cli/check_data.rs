//! `tilewise check-data`

use super::labels::LabelArguments;
use super::{Global, note, parse, print, print_json};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::data::dataset::{FileReport, Inspection};
use tilewise::data::{Border, BorderMap, Dataset, Prepared};
use tilewise::picture::Picture;
use tilewise::{Error, Result};

/// What `check-data` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of images and truth: images/ with masks/ or instances/
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// Validation images, checked likewise: none may be among the images to train on
    #[arg(long, value_name = "DIR")]
    val: Option<PathBuf>,
    /// Print a line for each file
    #[arg(long)]
    files: bool,
    /// Draw the loss weights of the first images beside them
    #[arg(long, value_name = "FILE.png")]
    weights_map: Option<PathBuf>,
    /// How many images --weights-map draws
    #[arg(long, value_name = "N", default_value_t = 4, requires = "weights_map")]
    samples: usize,
    /// Whose weights: those of the paper, or of the authors' later release
    #[arg(long, value_name = "NAME", value_parser = parse::<BorderMap>, requires = "weights_map")]
    border_map: Option<BorderMap>,
    /// The weight added where two cells touch [default: 10 for paper, 50 for release]
    #[arg(long, value_name = "WEIGHT", requires = "weights_map")]
    border_w0: Option<f32>,
    /// How fast it falls off, in pixels [default: 5 for paper, 6 for release]
    #[arg(long, value_name = "PIXELS", requires = "weights_map")]
    border_sigma: Option<f32>,
    #[command(flatten)]
    labels: LabelArguments,
}

/// The exit codes: nothing to say, warnings only, errors.
const CODES: [u8; 3] = [0, 1, 3];

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let options = arguments.labels.options();
    let data = Inspection::new(&arguments.data, &options);
    let options = data.survey().map_or(options.clone(), |survey| options.with_mapping(&survey.mapping));
    let mut sets = vec![(arguments.data.as_path(), data)];
    if let Some(folder) = &arguments.val {
        let mut val = Inspection::new(folder, &options);
        val.compare(&sets[0].1);
        sets.push((folder, val));
    }
    if global.json {
        print_json(&sets.iter().map(|(folder, set)| to_json(folder, set)).collect::<Vec<_>>())?;
    } else {
        for (folder, set) in &sets {
            print(&text(folder, set, arguments.files))?;
        }
    }
    let errors: usize = sets.iter().map(|(_, set)| set.errors().len()).sum();
    let warnings: usize = sets.iter().map(|(_, set)| set.warnings().len()).sum();
    if let Some(path) = &arguments.weights_map {
        let (_, set) = sets.swap_remove(0);
        draw_weights(&set.into_dataset()?, arguments, path)?;
        global.say(&format!("weights map: {}", path.display()));
    }
    Ok(ExitCode::from(CODES[if errors > 0 { 2 } else { usize::from(warnings > 0) }]))
}

fn text(folder: &Path, set: &Inspection, files: bool) -> String {
    let mut text = format!("{}\n", folder.display());
    if let Some(survey) = set.survey() {
        let _ = writeln!(text, "{survey}");
    }
    if files {
        for FileReport { name, height, width, channels, bit_depth, range: (low, high), label_values, .. } in set.files()
        {
            let values: Vec<String> =
                label_values.iter().take(6).map(|(value, pixels)| format!("{value}: {pixels}")).collect();
            let more =
                if label_values.len() > 6 { format!(" and {} more", label_values.len() - 6) } else { String::new() };
            let _ = writeln!(
                text,
                "  {name}: {width} x {height}, {channels} channel(s) of {bit_depth} bits, values {low} to {high}; pixels by label {}{more}",
                values.join(", ")
            );
        }
    }
    text.push('\n');
    for error in set.errors() {
        let _ = writeln!(text, "error    {error}");
    }
    for warning in set.warnings() {
        let _ = writeln!(text, "warning  {}: {}", warning.page, warning.kind.explanation());
    }
    let (errors, warnings) = (set.errors().len(), set.warnings().len());
    let verdict = match (errors, warnings) {
        (0, 0) => "ready to train on".to_owned(),
        (0, _) => format!("can be trained on; warnings: {warnings}"),
        _ => format!("cannot be trained on as it is; errors: {errors}, warnings: {warnings}"),
    };
    let _ = writeln!(text, "{verdict}\n");
    text
}

fn to_json(folder: &Path, set: &Inspection) -> Value {
    let error = |error: &Error| match error {
        Error::Data { path, problem } => json!({ "file": path, "problem": problem }),
        other => json!({ "file": null, "problem": other.to_string() }),
    };
    let warnings: Vec<Value> = set
        .warnings()
        .iter()
        .map(|warning| {
            json!({ "file": warning.page.path, "page": warning.page.index, "problem": warning.kind.explanation() })
        })
        .collect();
    json!({
        "folder": folder,
        "errors": set.errors().iter().map(error).collect::<Vec<_>>(),
        "warnings": warnings,
        "survey": set.survey(),
        "files": set.files(),
    })
}

/// Images beside their classes and the weights of their pixels in the loss, as training would have them.
fn draw_weights(dataset: &Dataset, arguments: &Arguments, path: &Path) -> Result<()> {
    let count = arguments.samples.min(dataset.pairs().len());
    let source = Border::from(arguments.border_map.unwrap_or_default());
    let (w0, sigma) = (arguments.border_w0.unwrap_or(source.w0), arguments.border_sigma.unwrap_or(source.sigma));
    let border = Border { w0, sigma, ..source };
    let mut rows = Vec::with_capacity(count);
    for sample in dataset.read(&(0..count).collect::<Vec<_>>())? {
        let (name, size) = (sample.name.clone(), [sample.image.height, sample.image.width]);
        let image = Picture::of_image(&sample.image.pixels, size, sample.image.channels);
        let truth = Picture::of_classes(&sample.instances().values, size);
        let prepared = Prepared::new(sample, Some(border))?;
        let weights = Picture::of_values(&prepared.weights, size);
        let (lowest, highest) =
            prepared.weights.iter().fold((f32::INFINITY, 0.0f32), |(low, high), &w| (low.min(w), high.max(w)));
        rows.push(vec![
            image.titled(&name),
            truth.titled("truth"),
            weights.titled(&format!("weight {lowest:.1} to {highest:.1}")),
        ]);
    }
    if rows.is_empty() {
        note("there is no image to draw");
        return Ok(());
    }
    Picture::sheet(&rows).write(path)
}
