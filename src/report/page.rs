//! The HTML of a report.

use super::{Progress, Report, Scored};
use crate::error::Result;
use crate::metrics::{IOU_THRESHOLDS, InstanceScores, Scores};
use crate::models::Variant;
use crate::page::document;
use crate::picture::Picture;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

/// The page.
pub(super) fn html(report: &Report) -> Result<String> {
    let summary = &report.summary;
    let body = html! {
        h1 { (report.title) }
        p { "A U-Net trained by tilewise " (text(&summary["version"])) " on " (text(&summary["device"])) "." }
        (tiles(summary))
        @if let Some(failure) = summary["failure"].as_str() {
            h2 { "What went wrong" }
            p class="failure" { (failure) }
        }
        @if let Some(causes) = summary["diagnosis"]["causes"].as_array() {
            h2 { "One class only" }
            p { "At the last evaluation every pixel of the validation images was predicted as class " (summary["diagnosis"]["class"]) ", which "
                (format!("{:.1}", 100.0 * summary["diagnosis"]["true_share"].as_f64().unwrap_or_default()))
                " % of them are. What the numbers say:" }
            ul { @for cause in causes { li { (text(cause)) } } }
        }
        h2 { "Learning" }
        p { "The loss of each batch before its update, and what the network scores on images that are not trained on. Their loss is the "
            "cross-entropy without weights, whatever training minimises: where it rises while that of the batches falls, the network "
            "learns its images by heart." }
        div class="plot" { (PreEscaped(&report.curve)) }
        @if let Some(by_pixel) = &report.by_pixel {
            div class="plot" { (PreEscaped(by_pixel)) }
        }
        @if let Some(schedule) = &report.schedule {
            div class="plot" { (PreEscaped(schedule)) }
        }
        @if let Some(scores) = &report.scores { (quality(scores, report.images, &report.weights)) }
        @if let Some(objects) = &report.objects { (by_object(objects)) }
        @if !report.progress.is_empty() {
            h2 { "Over time" }
            p { "The probability of foreground on validation images, as training went on." }
            @for image in &report.progress { (over_time(image)) }
        }
        @if !report.worst.is_empty() {
            h2 { "Worst images" }
            p {
                "Where the network is most wrong: look here first, at the labels too."
                span class="key" style="background:#969696" {} "found"
                span class="key" style="background:#56b4e9" {} "missed"
                span class="key" style="background:#e69f00" {} "invented, or of another class"
            }
            @for image in &report.worst { (compared(image)?) }
        }
        @if !report.best.is_empty() {
            h2 { "Best images" }
            @for image in &report.best { (compared(image)?) }
        }
        @if !report.weight_maps.is_empty() {
            h2 { "Weights in the loss" }
            p { "How much each pixel counts in the cross-entropy. The border weight lifts what lies between cells that nearly touch, so that "
                "the network learns to keep them apart; balance lifts what is rare." }
            @for (name, image, weights, highest) in &report.weight_maps {
                div class="row four" {
                    (figure(image, name)?)
                    (figure(weights, &format!("weights up to {highest:.1}"))?)
                }
            }
        }
        h2 { "Configuration" }
        pre { (report.config) }
    };
    Ok(document(&report.title, &body))
}

/// The numbers that say most.
fn tiles(summary: &Value) -> Markup {
    let score = |value: &Value| value.as_f64().map_or("–".to_owned(), |value| format!("{value:.4}"));
    let count = |value: &Value| value.as_u64().map_or("–".to_owned(), |value| value.to_string());
    let model = &summary["model"];
    let mut network = format!("base {}, depth {}", count(&model["base_channels"]), count(&model["depth"]));
    if let Some(variant) = model["variant"].as_str().filter(|variant| *variant != Variant::Unet.name()) {
        network = format!("{variant}, {network}");
    }
    let seconds = summary["seconds"].as_f64().map_or("–".to_owned(), |seconds| match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        _ => format!("{:.1} min", seconds / 60.0),
    });
    let waiting =
        summary["waiting_for_data"].as_f64().map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    let best = format!("best {}", summary["best"]["metric"].as_str().unwrap_or("score").replace('_', " "));
    let scaling = &summary["scaling"];
    let overflows = scaling["overflows"].as_u64().map(|overflows| {
        let scale = scaling["loss_scale"].as_f64().unwrap_or_default();
        (format!("{overflows} / {scale}"), "steps that overflowed / scale of the loss")
    });
    let entries = [
        (score(&summary["best"]["value"]), best.as_str()),
        (count(&summary["best"]["step"]), "its step"),
        (count(&summary["step"]), "steps"),
        (score(&summary["mean_loss"]), "mean loss, last steps"),
        (seconds, "the last call took"),
        (waiting, "of the time of steps waiting for data"),
        (count(&summary["parameters"]), "parameters"),
        (network, "U-Net"),
        (
            format!("{} / {}", count(&summary["images"]), count(&summary["validation_images"])),
            "images to train / validate",
        ),
        (text(&summary["status"]).replace('_', " "), "status"),
    ];
    html! {
        div class="tiles" {
            @for (value, name) in entries.into_iter().chain(overflows) { div class="tile" { b { (value) } span { (name) } } }
        }
    }
}

/// Scores by class and the confusion matrix.
fn quality(scores: &Scores, images: usize, weights: &str) -> Markup {
    let score = |value: Option<f64>| value.map_or("absent".to_owned(), |value| format!("{value:.4}"));
    html! {
        h2 { "Quality" }
        p { (images) " validation images, pixels pooled, by " (weights) ": pixel error " (format!("{:.4}", scores.pixel_error))
            ", foreground IoU " (score(scores.foreground_iou)) ", mean IoU " (score(scores.mean_iou)) "." }
        table {
            thead { tr { th { "class" } th { "pixels" } th { "IoU" } th { "Dice" }
                @for class in 0..scores.classes.len() { th { "predicted " (class) } } } }
            tbody {
                @for (class, row) in scores.classes.iter().enumerate() {
                    tr {
                        th scope="row" { (class) }
                        td { (row.pixels) } td { (score(row.iou)) } td { (score(row.dice)) }
                        @for count in &scores.confusion[class] {
                            @let share = *count as f64 / row.pixels.max(1) as f64;
                            td style=(format!("background:rgba(0,114,178,{:.2})", 0.55 * share)) { (count) }
                        }
                    }
                }
            }
        }
    }
}

/// Scores by object.
fn by_object(scores: &InstanceScores) -> Markup {
    let score = |value: Option<f64>| value.map_or("absent".to_owned(), |value| format!("{value:.4}"));
    html! {
        h2 { "Objects" }
        p { "Connected regions of the predicted foreground against the true objects: " (scores.predicted_objects) " predicted, "
            (scores.true_objects) " true, of which " (scores.merged_objects) " are merged with others. Means over images, but SEG over objects:" }
        table {
            thead { tr {
                @for name in ["mean AP", "SEG", "adapted Rand error", "V_Rand thinned", "V_Info thinned", "warping error"] {
                    th { (name) }
                }
            } }
            tbody { tr {
                td { (score(scores.mean_average_precision)) }
                td { (score(scores.seg)) }
                td { (score(scores.adapted_rand.map(|rand| rand.error))) }
                td { (score(scores.v_rand_thinned.map(|rand| rand.score))) }
                td { (score(scores.v_info_thinned.map(|info| info.score))) }
                td { (scores.warping_error.map_or("absent".to_owned(), |error| format!("{error:.6}"))) }
            } }
        }
        p { "Average precision, TP / (TP + FP + FN), by the IoU that an object must exceed to be found:" }
        table {
            thead { tr { th { "IoU" } @for threshold in IOU_THRESHOLDS { th { (format!("{threshold:.2}")) } } } }
            tbody { tr {
                th scope="row" { "AP" }
                @for place in 0..IOU_THRESHOLDS.len() {
                    td { (score(scores.average_precision.map(|precision| precision[place]))) }
                }
            } }
        }
    }
}

fn over_time(Progress { name, moments }: &Progress) -> Markup {
    html! {
        h3 { (name) }
        div class="row" {
            @for (step, png) in moments {
                figure { img src=(data_uri(png)) alt=(format!("{name} after step {step}")); figcaption { "step " (step) } }
            }
        }
    }
}

fn compared(image: &Scored) -> Result<Markup> {
    let iou = image.foreground_iou.map_or("no foreground".to_owned(), |iou| format!("IoU {iou:.4}"));
    Ok(html! {
        h3 { (image.name) " " span { (iou) ", pixel error " (format!("{:.4}", image.pixel_error)) } }
        div class="row four" {
            @for (title, picture) in &image.pictures { (figure(picture, title)?) }
        }
    })
}

fn figure(picture: &Picture, caption: &str) -> Result<Markup> {
    let png = picture.to_png()?;
    Ok(html! { figure { img src=(data_uri(&png)) alt=(caption); figcaption { (caption) } } })
}

fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("–").to_owned()
}
