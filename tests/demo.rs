//! The demo from its first image to its last picture, with a smaller network and few steps.

use std::fs;
use std::ops::ControlFlow;
use std::process::Command;
use tilewise::demo;
use tilewise::executor::Device;
use tilewise::models::Variant;
use tilewise::train::{Config, Status};

#[test]
fn the_demo_leaves_all_its_files_and_a_score() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let config =
        Config { steps: 3, base: 2, depth: 1, tile: Some(60), evaluate_every: 3, ..demo::config(1, Variant::Unet) };
    let run = || demo::run(&Device::Cpu, config.clone(), &out, &mut |_| ControlFlow::Continue(())).unwrap();
    let report = run();
    assert_eq!((report.steps, report.status, report.seed), (3, Status::Finished, 1));
    let scores = [report.foreground_iou, report.pixel_error, report.baselines.threshold.foreground_iou];
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    assert!(report.baselines.threshold.foreground_iou > 0.3, "a threshold finds cells: {scores:?}");
    let mut files: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|file| file != "weight-maps");
    files.sort();
    let expected = [
        ".tilewise-demo",
        "best.safetensors",
        "config.toml",
        "data",
        "demo.json",
        "events.out.tfevents.tilewise",
        "examples.png",
        "last.safetensors",
        "loss.svg",
        "metrics.jsonl",
        "progress",
        "report.html",
        "summary.json",
    ];
    assert_eq!(files, expected);
    let json =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    assert_eq!(json("demo.json")["foreground_iou"].as_f64(), Some(report.foreground_iou));
    assert_eq!(json("summary.json")["parameters"].as_u64(), Some(report.parameters as u64));
    assert!(image::open(out.join("examples.png")).unwrap().width() > 5 * 256);

    // It is the folder of a run like any other: its report can be written again.
    let html = fs::read(out.join("report.html")).unwrap();
    let again = Command::new(env!("CARGO_BIN_EXE_tilewise"))
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(["report", "--device", "cpu"])
        .arg(&out)
        .output();
    assert!(again.unwrap().status.success());
    assert!(fs::read(out.join("report.html")).unwrap() == html);
    // And the next demo replaces it.
    assert_eq!(run().foreground_iou.to_bits(), report.foreground_iou.to_bits());
}
