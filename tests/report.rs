//! The page that a run leaves: complete, self-contained, and a browser draws it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tilewise::data::cells::write_dataset;

const TILEWISE: &str = env!("CARGO_BIN_EXE_tilewise");

/// A folder with a run of a few steps in `run`.
fn trained() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_dataset(path("data"), 1, 0..2, 64).unwrap();
    write_dataset(path("val"), 1, 2..7, 64).unwrap();
    let output = Command::new(TILEWISE)
        .args(["train", "--data", &path("data"), "--val", &path("val"), "--out", &path("run"), "--device", "cpu"])
        .args(["--base", "4", "--depth", "1", "--tile", "36", "--steps", "4", "--evaluate-every", "2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("report.html"), "{said}");
    let run = folder.path().join("run");
    (folder, run)
}

#[test]
fn the_report_is_complete_and_needs_nothing_else() {
    let (folder, run) = trained();
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    for part in [
        "<!DOCTYPE html>",
        "training loss",
        "learning rate",
        "5 validation images, pixels pooled",
        "predicted 1",
        "Objects",
        "AP at IoU 0.5 of objects",
        "best foreground iou",
        "Over time",
        "after step 2",
        "after step 4",
        "Worst images",
        "Best images",
        "Weights in the loss",
        "base = 4",
        "CPU executor",
        "</html>",
    ] {
        assert!(html.contains(part), "no {part:?}");
    }
    // Five images compared by four pictures, two at two steps, and the training images in which cells come close.
    let pictures = html.matches("<img src=\"data:image/png;base64,").count();
    assert!((1..=2).any(|close| pictures == 5 * 4 + 2 * 2 + 2 * close), "{pictures}");
    for foreign in ["<script", "<link", "src=\"http", "url(", "@import", "NaN"] {
        assert!(!html.contains(foreign), "{foreign:?} is in it");
    }
    // The command writes the same page again, from another folder, too.
    fs::remove_file(run.join("report.html")).unwrap();
    let again = Command::new(TILEWISE)
        .args(["report", "../run", "--device", "cpu"])
        .current_dir(folder.path().join("val"))
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(fs::read_to_string(run.join("report.html")).unwrap() == html);
    let nothing = Command::new(TILEWISE).args(["report", "val"]).current_dir(folder.path()).output().unwrap();
    let message = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(2) && message.contains("holds no run"), "{message}");
}

#[test]
#[ignore = "needs Chromium, as `chromium` or where CHROMIUM says"]
fn a_browser_draws_the_report() {
    let (folder, run) = trained();
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    let picture = folder.path().join("page.png");
    let address = format!("file://{}", run.join("report.html").display());
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,3600"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(address)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(colours(&picture) > 200, "text, curves and pictures have many colours");
}

fn colours(picture: &Path) -> usize {
    let page = image::open(picture).unwrap().into_rgb8();
    page.pixels().collect::<std::collections::HashSet<_>>().len()
}
