//! `tilewise train` as its user meets it: killed, interrupted, on a full disk, with arguments that make no sense.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tilewise::checkpoint::{Metadata, Weights, state_prefix};
use tilewise::data::cells::{generate, write_dataset};
use tilewise::data::raster::write_grey8;
use tilewise::random::Random;
use tilewise::train::{BorderUse, Config, Record};

const TILEWISE: &str = env!("CARGO_BIN_EXE_tilewise");

/// A folder with three generated pictures to train on, two to validate on, and room for runs.
fn workplace() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(folder.path().join("data"), 0..3, |index| generate(1, index, 64)).unwrap();
    write_dataset(folder.path().join("val"), 3..5, |index| generate(1, index, 64)).unwrap();
    folder
}

/// The arguments of a small run on the CPU, but for those that `more` gives otherwise.
fn arguments(folder: &Path, more: &[&str]) -> Vec<String> {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let small = [
        ("--data", path("data")),
        ("--val", path("val")),
        ("--out", path("run")),
        ("--device", "cpu".into()),
        ("--base", "4".into()),
        ("--depth", "1".into()),
        ("--tile", "36".into()),
        ("--save-every", "1".into()),
        ("--evaluate-every", "10".into()),
    ];
    let mut arguments = vec!["train".to_owned()];
    for (flag, value) in small.into_iter().filter(|(flag, _)| !more.contains(flag)) {
        arguments.extend([flag.to_owned(), value]);
    }
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    arguments
}

/// A training in the background that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(TILEWISE);
        command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
        let command = command.args(arguments(folder, more)).stdout(Stdio::null());
        Self(command.stderr(File::create(folder.join("stderr")).unwrap()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn train(folder: &Path, more: &[&str]) -> Output {
    Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(arguments(folder, more))
        .output()
        .unwrap()
}

/// The exit code, and what was written to standard error.
fn ended(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code().unwrap_or(-1), text)
}

fn last(folder: &Path) -> PathBuf {
    folder.join("run").join("last.safetensors")
}

/// The step of a checkpoint that must be whole.
fn checkpoint_step(folder: &Path) -> u32 {
    let graph = Config { base: 4, depth: 1, ..Config::default() }.model(1, 2).build(1, [36, 36]).unwrap().graph;
    let weights = Weights::load(last(folder)).unwrap();
    weights.bank_for(&graph).unwrap();
    weights.bank_with(&graph, &state_prefix("momentum_buffer")).unwrap();
    weights.metadata().get(Metadata::STEP).unwrap().unwrap()
}

fn steps(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("run").join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok()).map(|record| record.step).collect()
}

/// Waits until a running training has done some steps.
fn wait_for(folder: &Path, step: u32) {
    let begun = Instant::now();
    while !steps(folder).contains(&step) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step {step}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_any_moment_it_leaves_a_whole_checkpoint_and_goes_on() {
    let folder = workplace();
    let mut random = Random::new(3, 0);
    let mut done = 0;
    for round in 0..12 {
        let more: &[&str] = if round == 0 { &["--steps", "1000000"] } else { &["--steps", "1000000", "--resume"] };
        let mut running = Running::start(folder.path(), more);
        // Every third is killed while it starts. A line is written before the checkpoint of its step, and after that of the step before.
        let goes_on = round % 3 != 1;
        if goes_on {
            wait_for(folder.path(), done + 2);
        }
        sleep(Duration::from_micros(u64::from(random.below(60_000))));
        running.kill();
        let step = checkpoint_step(folder.path());
        assert!(
            step >= done + u32::from(goes_on),
            "round {round}: a checkpoint of step {step} after one of step {done}"
        );
        done = step;
    }
    let total = (done + 1).to_string();
    let (code, text) = ended(&train(folder.path(), &["--steps", &total, "--resume"]));
    assert_eq!(code, 0, "{text}");
    assert_eq!(steps(folder.path()), (1..=done + 1).collect::<Vec<_>>(), "every step has one line");
    // Twelve kills later it is where an undisturbed run is.
    is_undisturbed(&folder, &["--steps", &total]);
}

/// The run in a folder has the files of one that nothing happened to.
fn is_undisturbed(folder: &TempDir, more: &[&str]) {
    let calm = workplace();
    let (code, text) = ended(&train(calm.path(), more));
    assert_eq!(code, 0, "{text}");
    for name in ["last.safetensors", "best.safetensors", "metrics.jsonl"] {
        let [disturbed, calm] = [folder, &calm].map(|folder| fs::read(folder.path().join("run").join(name)).unwrap());
        assert!(disturbed == calm, "{name} differs");
    }
}

/// Everything random at once, on the device that a user gets without asking: the generator, the place in the data, two moments.
#[test]
fn killed_with_dropout_augmentation_and_adam_it_goes_on_to_the_same_bytes() {
    let folder = workplace();
    let recipe = ["--device", "auto", "--dropout", "0.3", "--augment", "--optimizer", "adamw", "--evaluate-every", "4"];
    let mut running = Running::start(folder.path(), &[&recipe[..], &["--steps", "1000000"]].concat());
    wait_for(folder.path(), 10);
    running.kill();
    let step: u32 = Weights::load(last(folder.path())).unwrap().metadata().get(Metadata::STEP).unwrap().unwrap();
    assert!(step >= 9, "{step}");
    let total = (step + 10).to_string();
    let (code, text) = ended(&train(folder.path(), &[&recipe[..], &["--steps", &total, "--resume"]].concat()));
    assert_eq!(code, 0, "{text}");
    is_undisturbed(&folder, &[&recipe[..], &["--steps", &total]].concat());
}

#[test]
fn fifty_steps_in_two_processes_end_with_the_same_bytes() {
    let folder = workplace();
    let trained = |out: &str, seed: &str| {
        let run = folder.path().join(out);
        let everything = ["--device", "auto", "--steps", "50", "--save-every", "50", "--dropout", "0.3", "--augment"];
        let more = [&everything[..], &["--seed", seed, "--out", run.to_str().unwrap()]].concat();
        let (code, text) = ended(&train(folder.path(), &more));
        assert_eq!(code, 0, "{text}");
        ["last.safetensors", "best.safetensors"].map(|name| fs::read(run.join(name)).unwrap())
    };
    let first = trained("first", "1");
    assert!(first == trained("second", "1"), "the same seed gave other weights or another state of the optimiser");
    assert!(first != trained("third", "2"), "another seed gave the same");
}

#[test]
fn on_a_full_disk_the_old_checkpoint_stays() {
    let folder = workplace();
    let (code, text) = ended(&train(folder.path(), &["--steps", "2"]));
    assert_eq!(code, 0, "{text}");
    let before = fs::read(last(folder.path())).unwrap();
    // No file may grow past this; as on a full disk, a write then fails.
    let blocks = before.len() / 512 / 2;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let arguments = arguments(folder.path(), &["--steps", "4", "--resume"]);
    let output = Command::new("sh").args(["-c", &script, TILEWISE]).args(arguments).output().unwrap();
    let (code, text) = ended(&output);
    assert_eq!(code, 6, "{text}");
    for part in ["cannot write", "last.safetensors", "too large", "the checkpoint of step 2 is whole"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(fs::read(last(folder.path())).unwrap() == before);
    assert_eq!(checkpoint_step(folder.path()), 2);
    let partial = fs::read_dir(folder.path().join("run"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("partial"));
    assert_eq!(partial.count(), 0, "what there was no room for is not left lying around");
    let (code, text) = ended(&train(folder.path(), &["--steps", "4", "--resume"]));
    assert_eq!((code, checkpoint_step(folder.path())), (0, 4), "{text}");
}

#[test]
fn the_first_interrupt_finishes_the_step_and_saves() {
    let folder = workplace();
    let mut running = Running::start(folder.path(), &["--steps", "1000000", "--save-every", "1000000"]);
    wait_for(folder.path(), 3);
    let sent = Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = running.0.wait().unwrap();
    let text = fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert_eq!(status.code(), Some(130), "{text}");
    assert!(text.contains("finishing the step") && text.contains("--resume"), "{text}");
    let step = checkpoint_step(folder.path());
    assert!(step >= 3);
    assert_eq!(steps(folder.path()), (1..=step).collect::<Vec<_>>());
    let run = folder.path().join("run");
    let resumed = Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(["train", "--device", "cpu", "--resume", "--steps", &(step + 2).to_string(), "--out"])
        .arg(&run)
        .output()
        .unwrap();
    assert_eq!(ended(&resumed).0, 0, "the folder knows the data and the settings: {resumed:?}");
    assert_eq!(checkpoint_step(folder.path()), step + 2);
}

#[test]
fn it_first_says_what_it_found() {
    let folder = workplace();
    let output = train(folder.path(), &["--steps", "1", "--json"]);
    let (code, text) = ended(&output);
    assert_eq!(code, 0, "{text}");
    for part in
        ["images    3", "64 x 64 (3)", "cells", "mapping", "class 1", "validation:", "U-Net of depth 1 and base 4"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["status"], "finished");
    assert_eq!(summary["step"], 1);
    assert_eq!(summary["images"], 3);
    assert!(summary["waiting_for_data"].is_null(), "the first step warms up and does not count");
    let run = folder.path().join("run");
    let written: serde_json::Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
    assert_eq!(Config::read(&run.join("config.toml")).unwrap().base, 4);
}

#[test]
fn what_makes_no_sense_is_refused_with_advice() {
    let folder = workplace();
    let data = folder.path().join("data");
    let file = folder.path().join("data/images").read_dir().unwrap().next().unwrap().unwrap().path();
    let inside_a_file = file.join("run");
    let elsewhere = ["--out", inside_a_file.to_str().unwrap()];
    let cases: [(&[&str], i32, &[&str]); 22] = [
        (&["--device", "no such device"], 4, &["no such device"]),
        (&["--tile", "37"], 2, &["37", "36 and 38"]),
        (&["--base", "0"], 2, &["base"]),
        (&["--lr", "0"], 2, &["learning_rate"]),
        (&["--steps", "many"], 2, &["--steps"]),
        (&["--optimizer", "rmsprop"], 2, &["rmsprop", "`sgd`, `adam`, `adamw`"]),
        (&["--optimizer", "adam", "--momentum", "0.9"], 2, &["--momentum belongs to --optimizer sgd"]),
        (&["--workers", "0"], 2, &["--workers", "zero"]),
        (&["--sampling", "size"], 2, &["`images` or `pixels`"]),
        (&["--foreground", "2"], 2, &["foreground"]),
        (&["--border-map", "none"], 2, &["`paper` or `release`"]),
        (&["--border", "sometimes"], 2, &["`instances`, `always`, `never`"]),
        (&["--border-sigma", "1e6"], 2, &["border_sigma", "at most 1000"]),
        (&["--balance", "--border-map", "release"], 2, &["set balance to false"]),
        (&["--loss", "sum"], 2, &["`ce`, `dice`, `ce+dice`"]),
        (&["--schedule", "linear"], 2, &["linear", "step:EVERY:FACTOR"]),
        (&["--best-by", "f1"], 2, &["`foreground_iou`, `mean_iou`, `pixel_error`, `loss`"]),
        (&["--clip-norm=-1"], 2, &["clip_norm", "0 to leave"]),
        (&["--patience", "0"], 2, &["patience"]),
        (&["--val", "/nowhere"], 3, &["/nowhere"]),
        (&["--resume"], 2, &["holds no run", "leave --resume out"]),
        (&elsewhere, 6, &["cannot create"]),
    ];
    for (more, expected, parts) in cases {
        let (code, text) = ended(&train(folder.path(), more));
        assert_eq!(code, expected, "{more:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{more:?}: {part}: {text}");
        }
        assert!(!folder.path().join("run").exists(), "{more:?} leaves nothing behind");
    }
    let no_data = Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(["train", "--out", "run", "--device", "cpu"])
        .current_dir(&data)
        .output();
    let (code, text) = ended(&no_data.unwrap());
    assert!(code == 2 && text.contains("--data DIR"), "{text}");
}

#[test]
fn a_reader_that_leaves_does_not_stop_it() {
    let folder = workplace();
    let mut command = Command::new(TILEWISE);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    let mut running = command
        .args(arguments(folder.path(), &["--steps", "3"]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(running.stderr.take());
    assert_eq!(running.wait().unwrap().code(), Some(0));
    assert_eq!(checkpoint_step(folder.path()), 3);
}

#[test]
fn a_run_that_could_not_save_at_all_can_be_started_again() {
    let folder = workplace();
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let arguments = arguments(folder.path(), &["--steps", "2"]);
    let output = Command::new("sh").args(["-c", script, TILEWISE]).args(&arguments).output().unwrap();
    let (code, text) = ended(&output);
    assert!(code == 6 && text.contains("nothing is lost"), "{text}");
    // The configuration had room, the checkpoint that comes next had none: the folder holds no run yet, and both ways say so.
    let run = folder.path().join("run");
    assert!(run.join("config.toml").exists() && !last(folder.path()).exists());
    let (code, text) = ended(&train(folder.path(), &["--steps", "2", "--resume"]));
    assert!(code == 2 && text.contains("no last.safetensors") && text.contains("leave --resume out"), "{text}");
    let (code, text) = ended(
        &Command::new(TILEWISE).env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")).args(arguments).output().unwrap(),
    );
    assert_eq!((code, checkpoint_step(folder.path())), (0, 2), "{text}");
}

#[test]
fn a_run_goes_on_from_any_folder_and_a_finished_one_keeps_its_summary() {
    let folder = workplace();
    let relative = ["--data", "data", "--val", "val", "--out", "run", "--steps", "2"];
    let start = Command::new(TILEWISE)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(arguments(folder.path(), &relative))
        .current_dir(folder.path())
        .output();
    assert_eq!(ended(&start.unwrap()).0, 0);
    let run = folder.path().join("run");
    let summary = fs::read(run.join("summary.json")).unwrap();
    let resume = |more: &[&str]| {
        let elsewhere = folder.path().join("val");
        let command = ["train", "--device", "cpu", "--resume", "--out", "../run"];
        ended(
            &Command::new(TILEWISE)
                .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
                .args(command)
                .args(more)
                .current_dir(elsewhere)
                .output()
                .unwrap(),
        )
    };
    let (code, text) = resume(&[]);
    assert!(code == 0 && text.contains("all 2 steps were done before"), "{text}");
    assert!(fs::read(run.join("summary.json")).unwrap() == summary, "nothing was done, so nothing is overwritten");
    let (code, text) = resume(&["--steps", "3"]);
    assert_eq!((code, checkpoint_step(folder.path())), (0, 3), "{text}");
}

#[test]
fn the_flags_of_the_weights_reach_the_configuration() {
    let folder = workplace();
    let flags = ["--border", "always", "--border-w0", "7", "--border-sigma", "3", "--balance", "--steps", "1"];
    let (code, text) = ended(&train(folder.path(), &flags));
    assert_eq!(code, 0, "{text}");
    let config = Config::read(&folder.path().join("run/config.toml")).unwrap();
    assert_eq!((config.border, config.balance), (BorderUse::Always, true));
    assert_eq!((config.border_w0, config.border_sigma), (Some(7.0), Some(3.0)));
}

#[test]
fn it_may_begin_with_the_weights_of_a_run_whose_network_it_takes() {
    let folder = workplace();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, run, second) = (path("data"), path("run"), path("second"));
    let network = ["--tile", "44", "--base", "3", "--depth", "2", "--zoom", "0.5", "--steps", "1"];
    assert_eq!(ended(&train(folder.path(), &network)).0, 0);
    let begun = |more: &[&str]| {
        let shared = ["train", "--device", "cpu", "--data", &data, "--init", &run, "--out", &second, "--steps", "1"];
        ended(
            &Command::new(TILEWISE)
                .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
                .args(shared)
                .args(more)
                .output()
                .unwrap(),
        )
    };
    let (code, text) = begun(&["--depth", "1"]);
    assert!(code == 3 && text.contains("the weights are of unet of depth 2"), "{code}: {text}");
    let (code, text) = begun(&[]);
    assert_eq!(code, 0, "{text}");
    let config = Config::read(&folder.path().join("second").join("config.toml")).unwrap();
    assert_eq!((config.base, config.depth, config.zoom.factor()), (3, 2, 0.5));
}

#[test]
fn a_report_that_cannot_be_written_hides_nothing() {
    let folder = workplace();
    let in_the_way = folder.path().join("run/report.html/file");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    let output = train(folder.path(), &["--steps", "1", "--json"]);
    let (code, text) = ended(&output);
    assert_eq!(code, 0, "{text}");
    let (done, note) = (text.find("done: step 1").unwrap(), text.find("note: there is no report").unwrap());
    assert!(done < note && text.contains("report.html") && text.contains("`tilewise report "), "{text}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["status"], "finished");
}

#[test]
fn a_run_that_diverges_leaves_a_report_that_says_so() {
    let folder = workplace();
    let (code, text) = ended(&train(folder.path(), &["--steps", "20", "--lr", "1e30"]));
    assert!(code == 7 && text.find("training has diverged").unwrap() < text.find("report: ").unwrap(), "{text}");
    let html = fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    for part in [
        "What went wrong",
        "training has diverged",
        "--lr",
        "2 validation images, pixels pooled, by last.safetensors",
        "Worst images",
    ] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn validation_labels_of_another_kind_are_refused() {
    let folder = workplace();
    let val = folder.path().join("val");
    fs::remove_dir_all(val.join("instances")).unwrap();
    fs::create_dir(val.join("masks")).unwrap();
    for image in fs::read_dir(val.join("images")).unwrap() {
        let values: Vec<u8> = (0..64 * 64).map(|pixel| (pixel % 3) as u8).collect();
        write_grey8(&val.join("masks").join(image.unwrap().file_name()), 64, 64, &values).unwrap();
    }
    let (code, text) = ended(&train(folder.path(), &["--steps", "1"]));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("3 classes here, 2 in the training data") && text.contains("same kind of labels"), "{text}");
}

#[test]
fn validating_on_what_it_trains_on_is_pointed_out() {
    let folder = workplace();
    let data = folder.path().join("data");
    let (code, text) = ended(&train(folder.path(), &["--steps", "1", "--val", data.to_str().unwrap()]));
    assert!(code == 0 && text.contains("3 validation image(s) are also trained on"), "{text}");
}
