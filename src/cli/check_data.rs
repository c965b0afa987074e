//! `tilewise check-data`

use super::labels::LabelArguments;
use super::{Global, READING, note, on, parse, print, print_json};
use clap::{Args, value_parser};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::Result;
use tilewise::data::dataset::{FileReport, Inspection, Options};
use tilewise::data::sample::balance;
use tilewise::data::{BorderMap, Code, Dataset, Finding, Prepared};
use tilewise::picture::Picture;
use tilewise::train::Config;

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
    /// Settings as TOML, such as a run's config.toml, of which what label values mean and the weights count; a flag wins over it
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Draw the loss weights of the first images to train on beside them
    #[arg(long, value_name = "FILE.png")]
    weights_map: Option<PathBuf>,
    /// How many images --weights-map draws
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..), requires = "weights_map")]
    samples: u32,
    /// Whose weights: those of the paper, or of the authors' later release
    #[arg(long, value_name = "NAME", value_parser = parse::<BorderMap>, requires = "weights_map")]
    border_map: Option<BorderMap>,
    /// The weight added where two cells touch [default: that of `train`: 5 for paper, 50 for release]
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

impl Arguments {
    /// The configuration that training would have.
    fn config(&self, seed: Option<u32>) -> Result<Config> {
        let file = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let config = Config {
            border_map: self.border_map.unwrap_or(file.border_map),
            border_w0: self.border_w0.or(file.border_w0),
            border_sigma: self.border_sigma.or(file.border_sigma),
            seed: seed.unwrap_or(file.seed),
            ..file
        };
        config.validate()?;
        Ok(config)
    }
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let config = arguments.config(global.seed)?;
    let options = arguments.labels.over(config.labels()?);
    let inspect = |folder: &Path, options: &Options| {
        let bar = global.progress(READING);
        let inspection = Inspection::with_progress(folder, options, &mut on(&bar));
        bar.finish_and_clear();
        inspection
    };
    let data = inspect(&arguments.data, &options)?;
    let options = data.survey().map_or(options.clone(), |survey| options.with_mapping(&survey.mapping));
    let mut sets = vec![(arguments.data.as_path(), data)];
    if let Some(folder) = &arguments.val {
        let mut val = inspect(folder, &options)?;
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
        draw_weights(&set.into_dataset()?, &config, arguments.samples as usize, path)?;
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
        for report in set.files() {
            let FileReport { name, height, width, channels, bit_depth, range: (low, high), label_values, .. } = report;
            let palette = if report.palette { " looked up in a palette" } else { "" };
            let values: Vec<String> =
                label_values.iter().take(6).map(|(value, pixels)| format!("{value}: {pixels}")).collect();
            let more =
                if label_values.len() > 6 { format!(" and {} more", label_values.len() - 6) } else { String::new() };
            let _ = writeln!(
                text,
                "  {name}: {width} x {height}, {channels} channel(s) of {bit_depth} bits{palette}, values {low} to {high} {}; pixels by label {}{more}",
                report.histogram.bars(),
                values.join(", ")
            );
        }
    }
    text.push('\n');
    let errors = set.errors();
    text += &list("error  ", &errors);
    text += &list("warning", set.warnings());
    let (errors, warnings) = (errors.len(), set.warnings().len());
    let verdict = match (errors, warnings) {
        (0, 0) => "ready to train on".to_owned(),
        (0, _) => format!("can be trained on; warnings: {warnings}"),
        _ => format!("cannot be trained on as it is; errors: {errors}, warnings: {warnings}"),
    };
    let _ = writeln!(text, "{verdict}\n");
    text
}

/// A line for each finding, and of many of a kind for the first.
fn list(severity: &str, findings: &[Finding]) -> String {
    const SHOWN: usize = 8;
    let mut kinds: BTreeMap<Code, usize> = BTreeMap::new();
    let mut text = String::new();
    for finding in findings {
        let count = kinds.entry(finding.code).or_default();
        *count += 1;
        if *count <= SHOWN {
            let _ = writeln!(text, "{severity}  {finding}");
        }
    }
    let hidden: usize = kinds.values().map(|count| count.saturating_sub(SHOWN)).sum();
    if hidden > 0 {
        let _ = writeln!(text, "{severity}  {hidden} more like these, which --json lists");
    }
    text
}

fn to_json(folder: &Path, set: &Inspection) -> Value {
    json!({
        "folder": folder,
        "errors": set.errors(),
        "warnings": set.warnings(),
        "survey": set.survey(),
        "files": set.files(),
    })
}

/// The first images that training would be given, beside their truth and the weights of their pixels in the loss.
fn draw_weights(dataset: &Dataset, config: &Config, count: usize, path: &Path) -> Result<()> {
    let mut indices = match config.hold_out {
        Some(share) => dataset.split(share, config.seed)?.0,
        None => (0..dataset.pairs().len()).collect(),
    };
    if !config.balance {
        // The weights of an image depend on other images only where classes are balanced.
        indices.truncate(count);
    }
    let mut rows = Vec::new();
    let mut prepared = Vec::with_capacity(indices.len());
    for (number, sample) in dataset.read(&indices)?.into_iter().enumerate() {
        if number < count {
            let image = config.zoom.image(sample.image.clone())?;
            let size = [image.height, image.width];
            let image = Picture::of_image(&image.pixels, size, image.channels);
            let truth = Picture::of_classes(&config.zoom.labels(&sample.instances()).values, size);
            rows.push(vec![image.titled(&sample.name), truth.titled("truth")]);
        }
        prepared.push(if number < count { config.prepared(sample)? } else { Prepared::new(sample, None)? });
    }
    if config.balance {
        balance(&mut prepared, dataset.class_count())?;
    }
    for (row, Prepared { height, width, weights, .. }) in rows.iter_mut().zip(&prepared) {
        let (lowest, highest) =
            weights.iter().fold((f32::INFINITY, 0.0f32), |(low, high), &w| (low.min(w), high.max(w)));
        let picture = Picture::of_values(weights, [*height, *width]);
        row.push(picture.titled(&format!("weight {lowest:.1} to {highest:.1}")));
    }
    let one = |weight: &f32| weight.to_bits() == 1.0_f32.to_bits();
    if prepared.iter().all(|sample| sample.weights.iter().all(one)) {
        note("all weights are 1; for masks/ to have borders, say border = \"always\" in the file of --config");
    }
    Picture::sheet(&rows).write(path)
}
