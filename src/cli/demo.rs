//! `tilewise demo`

use super::train::View;
use super::{Global, go_on_unless, note, print, print_json, stop_on_interrupt};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::demo::{self, Baseline};
use tilewise::models::Variant;
use tilewise::{Error, Result};

/// What `demo` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to write images, weights, metrics and pictures; an earlier demo there is replaced
    #[arg(long, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// The network: unet (the paper's), unet-release (the authors'), milesial, milesial-bilinear, brain or semseg
    #[arg(long, value_name = "NAME", default_value_t)]
    model: Variant,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let device = global.open_device()?;
    let stop = stop_on_interrupt("the step");
    let seed = global.seed.unwrap_or(1);
    let config = demo::config(seed, arguments.model);
    let mut view = View::new(global, config.batch);
    let report = demo::run(&device, config, &arguments.out, &mut |event| {
        view.show(event);
        go_on_unless(&stop)
    });
    view.finish();
    let report = match report {
        Err(error @ Error::Interrupted) => {
            note("stopped before there was anything to show; the next demo starts anew");
            return Ok(ExitCode::from(error.exit_code()));
        }
        other => other?,
    };
    if global.json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let line = |name: &str, Baseline { foreground_iou, pixel_error }: Baseline| {
        format!("{name:<26}{foreground_iou:>14.4}{pixel_error:>14.4}\n")
    };
    let learned = Baseline { foreground_iou: report.foreground_iou, pixel_error: report.pixel_error };
    print(&format!(
        "\non images that it never saw    foreground IoU   pixel error\n{}{}{}\n{} steps of a U-Net with {} parameters in {:.0} s\n\n",
        line("U-Net", learned),
        line("threshold (Otsu)", report.baselines.threshold),
        line("all background", report.baselines.all_background),
        report.steps,
        report.parameters,
        report.seconds,
    ))?;
    let file = |name: &str| arguments.out.join(name).display().to_string();
    print(&format!(
        "pictures: {} (image, truth, probability, prediction, overlay), {}\nreport:   {} (open it in a browser)\nweights:  {}\nnext:     tilewise predict --weights {} --input {} --out predictions\n",
        file("examples.png"),
        file("loss.svg"),
        file(tilewise::report::FILE),
        file("best.safetensors"),
        arguments.out.display(),
        file("data/held-out/images"),
    ))?;
    Ok(ExitCode::SUCCESS)
}
