//! The page that a run leaves: complete, self-contained, and a browser draws it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tilewise::data::cells::{generate, write_dataset};

const TILEWISE: &str = env!("CARGO_BIN_EXE_tilewise");

/// A folder with a run of a few steps in `run`.
fn trained() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_dataset(path("data"), 0..2, |index| generate(1, index, 64)).unwrap();
    write_dataset(path("val"), 2..7, |index| generate(1, index, 64)).unwrap();
    let output = Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
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
        "validation loss",
        "mean IoU, validation images",
        "pixel error, validation images",
        "of the time of steps waiting for data",
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
    assert!(!html.contains("What went wrong"));
    for foreign in ["<script", "<link", "src=\"http", "url(", "@import", "NaN"] {
        assert!(!html.contains(foreign), "{foreign:?} is in it");
    }
    // The command writes the same page again, from another folder, too.
    fs::remove_file(run.join("report.html")).unwrap();
    let again = Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(["report", "../run", "--device", "cpu"])
        .current_dir(folder.path().join("val"))
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(fs::read_to_string(run.join("report.html")).unwrap() == html);
    let nothing = Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(["report", "val"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(2) && message.contains("holds no run"), "{message}");
}

/// A page with what is said of it in words: where its plots and pictures are, and whether each was decoded.
const LOOK: &str = "<script>addEventListener('load', () => {
  const place = node => { const r = node.getBoundingClientRect(); return [r.x, r.y + scrollY, r.width, r.height]; };
  document.title = 'looked ' + JSON.stringify({
    height: document.documentElement.scrollHeight,
    pictures: [...document.images].map(image => ({ decoded: image.complete && image.naturalWidth > 0, place: place(image) })),
    plots: [...document.querySelectorAll('.plot svg')].map(place),
  });
})</script></body>";

/// Chromium, where the user or the path has it.
fn chromium() -> Option<PathBuf> {
    if let Some(browser) = std::env::var_os("CHROMIUM") {
        return Some(browser.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())
}

#[test]
fn a_browser_draws_the_report() {
    let Some(browser) = chromium() else {
        // Past what the test harness holds back of tests that pass.
        let note = "a_browser_draws_the_report: LEFT OUT, as there is no chromium, chromium-browser or google-chrome";
        writeln!(std::io::stderr(), "{note}").unwrap();
        return;
    };
    let (folder, run) = trained();
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    let looked = folder.path().join("looked.html");
    fs::write(&looked, html.replace("</body>", LOOK)).unwrap();
    let open = |page: &Path, height: u64, what: &str| {
        let output = Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .args([&format!("--window-size=1200,{height}"), what, &format!("file://{}", page.display())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let document = open(&looked, 1000, "--dump-dom");
    let found = document.split_once("<title>looked ").and_then(|(_, rest)| rest.split_once("</title>")).unwrap().0;
    let found: serde_json::Value = serde_json::from_str(found).unwrap();
    let pictures = found["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), html.matches("<img ").count());
    assert!(pictures.iter().all(|picture| picture["decoded"] == true), "{found}");
    let plots = found["plots"].as_array().unwrap();
    assert_eq!(plots.len(), 3, "losses and scores, scores by pixel, the learning rate: {found}");

    // The page itself, without the script, as tall as it is: a window of another height lays it out alike.
    let height = found["height"].as_u64().unwrap();
    let picture = folder.path().join("page.png");
    open(&run.join("report.html"), height, &format!("--screenshot={}", picture.display()));
    let page = image::open(picture).unwrap().into_rgb8();
    let colours = |place: &serde_json::Value| -> HashSet<[u8; 3]> {
        let [left, top, width, height] = [0, 1, 2, 3].map(|side| place[side].as_f64().unwrap().round() as u32);
        assert!(width > 50 && height > 50, "{place}");
        let (columns, rows) = (left + 2..left + width - 2, top + 2..top + height - 2);
        rows.flat_map(|y| columns.clone().map(move |x| (x, y))).map(|(x, y)| page.get_pixel(x, y).0).collect()
    };
    for picture in pictures {
        let colours = colours(&picture["place"]);
        assert!(!colours.contains(&PAPER) && colours.len() > 1, "{picture}: {} colours", colours.len());
    }
    for plot in plots {
        assert!(colours(plot).contains(&[0, 114, 178]), "the line is drawn in its colour: {plot}");
    }
    let all: HashSet<_> = page.pixels().map(|pixel| pixel.0).collect();
    assert!(all.len() > 200, "text, curves and pictures have many colours");
}

/// The colour of the page where nothing is.
const PAPER: [u8; 3] = [0xfb, 0xfb, 0xfa];
