//! The folder of a run.

use super::config::Config;
use super::events::{EVENTS, Shown};
use super::record::{Record, Summary};
use crate::checkpoint::{Weights, atomic};
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::gpu::Choices;
use crate::picture::Picture;
use crate::predict::Prediction;
use crate::report::PROGRESS;
use crate::tune::Table;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The name of the folder of weight maps that took long to compute.
pub(crate) const MAPS: &str = "weight-maps";

/// Where a run keeps its files.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) config: PathBuf,
    pub(super) metrics: PathBuf,
    pub(super) summary: PathBuf,
    pub(super) last: PathBuf,
    pub(super) best: PathBuf,
    pub(super) progress: PathBuf,
    pub(super) maps: PathBuf,
    pub(super) events: PathBuf,
    pub(super) kernels: PathBuf,
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            config: path.join("config.toml"),
            metrics: path.join("metrics.jsonl"),
            summary: path.join("summary.json"),
            last: path.join("last.safetensors"),
            best: path.join("best.safetensors"),
            progress: path.join(PROGRESS),
            maps: path.join(MAPS),
            events: path.join(EVENTS),
            kernels: path.join("kernels.toml"),
        }
    }

    /// Prepares the folder of a new run.
    pub(super) fn begin(path: &Path) -> Result<Self> {
        let folder = Self::new(path);
        for file in [&folder.last, &folder.best, &folder.metrics, &folder.summary] {
            // A run that could not save even its first checkpoint leaves its configuration and empty metrics, and nothing to go on
            // with.
            let length = fs::metadata(file).map_or(0, |metadata| metadata.len());
            if length > 0 {
                let name = file.file_name().unwrap_or_default().display();
                let path = path.display();
                return Err(Error::Usage(format!(
                    "{path} already holds a run ({name}): add --resume to go on with it, or give --out another folder"
                )));
            }
        }
        fs::create_dir_all(path).map_err(|error| Error::io("create", path, error))?;
        Ok(folder)
    }

    /// The folder of a run that is to go on, its last checkpoint, and the configuration it had.
    pub(super) fn resume(path: &Path) -> Result<(Self, Weights, Config)> {
        let folder = Self::new(path);
        if !folder.last.exists() {
            let path = path.display();
            return Err(Error::Usage(format!(
                "{path} holds no last.safetensors to resume from: leave --resume out to start a run there"
            )));
        }
        let weights = Weights::load(&folder.last)?;
        let config = Config::read(&folder.config)?;
        Ok((folder, weights, config))
    }

    pub(super) fn write_config(&self, config: &Config) -> Result<()> {
        let text = config.to_toml()?;
        atomic::write(&self.config, |file| file.write_all(text.as_bytes()))
    }

    /// Keeps which kernels were chosen for the device, where any were.
    pub(super) fn write_kernels(&self, device: &Device) -> Result<()> {
        let mut table = Table::default();
        if let Some(gpu) = device.gpu() {
            table.add(gpu, gpu.choices().rows().cloned());
        }
        if table != Table::default() {
            return table.write(&self.kernels);
        }
        // Of a run that never began.
        match fs::remove_file(&self.kernels) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &self.kernels, error)),
            _ => Ok(()),
        }
    }

    /// The device with the kernels that the run began with: others have other roundings.
    pub(super) fn device(&self, device: &Device) -> Result<Device> {
        let Device::Gpu(gpu) = device else { return Ok(device.clone()) };
        let choices = if self.kernels.exists() { Table::read(&self.kernels)?.choices(gpu) } else { Choices::default() };
        if choices.is_empty() && self.kernels.exists() {
            tracing::warn!(
                "{} was measured on another device, driver or version of wgpu than this, so the run goes on with other kernels than it \
                 began with, and results may differ in their last bits",
                self.kernels.display()
            );
        }
        Ok(Device::Gpu(gpu.clone().with_choices(choices)))
    }

    /// Keeps what the network made of a validation image after a step, for the report, and returns it.
    pub(super) fn write_progress(&self, name: &str, step: u32, prediction: &Prediction) -> Result<Shown> {
        let folder = self.progress.join(name);
        fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
        let Prediction { height, width, classes, ref probabilities, .. } = *prediction;
        let png = Picture::of_probabilities(probabilities, [height, width], classes).to_png()?;
        atomic::write(&folder.join(format!("{step:08}.png")), |file| file.write_all(&png))?;
        Ok(Shown { name: name.into(), size: [height, width], png })
    }

    pub(super) fn write_summary(&self, summary: &Summary) -> Result<()> {
        let text =
            serde_json::to_string_pretty(summary).map_err(|error| Error::io("write", &self.summary, error.into()))?;
        atomic::write(&self.summary, |file| writeln!(file, "{text}"))
    }
}

/// `metrics.jsonl`, open for the next step.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Keeps the lines up to a step, which is where the checkpoint stands, and forgets later ones: they come again.
    pub(super) fn open(path: &Path, step: u32) -> Result<Self> {
        let kept = kept(path, step)?;
        atomic::write(path, |file| file.write_all(kept.as_bytes()))?;
        let file = OpenOptions::new().append(true).open(path).map_err(|error| Error::io("open", path, error))?;
        Ok(Self { path: path.into(), file })
    }

    /// Adds a line.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let fail = |error| Error::io("write", &self.path, error);
        let line = serde_json::to_string(record).map_err(|error| fail(error.into()))?;
        // In one call, so that a killed process leaves no half line but on a full disk.
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(fail)
    }

    /// Waits until the lines are on the medium; to be called before a checkpoint says that they are.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("write", &self.path, error))
    }
}

/// The whole lines of steps up to `step`.
fn kept(path: &Path, step: u32) -> Result<String> {
    if step == 0 || !path.exists() {
        return Ok(String::new());
    }
    let fail = |error| Error::io("read", path, error);
    let mut kept = String::new();
    let mut lines = BufReader::new(File::open(path).map_err(fail)?);
    let mut line = String::new();
    while lines.read_line(&mut line).map_err(fail)? > 0 {
        match serde_json::from_str::<Record>(&line) {
            Ok(record) if record.step <= step && line.ends_with('\n') => kept.push_str(&line),
            _ => break,
        }
        line.clear();
    }
    let count = kept.lines().count();
    if count != step as usize {
        tracing::warn!("{} has {count} of the {step} steps behind the checkpoint; the others are lost", path.display());
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u32) -> Record {
        Record { step, loss: 0.5, learning_rate: 0.01, grad_norm: None, scaling: None, scored: None }
    }

    #[test]
    fn lines_after_the_checkpoint_and_half_lines_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        for step in 1..=5 {
            metrics.append(&record(step)).unwrap();
        }
        drop(metrics);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"step\":6,\"lo")).unwrap();
        let mut metrics = Metrics::open(&path, 3).unwrap();
        for step in 4..=5 {
            metrics.append(&record(step)).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn a_run_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "").unwrap();
        fs::write(folder.path().join("config.toml"), "steps = 2").unwrap();
        Folder::begin(folder.path()).unwrap();
        for name in ["metrics.jsonl", "summary.json", "best.safetensors", "last.safetensors"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), "something").unwrap();
            let message = Folder::begin(folder.path()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("--resume"), "{message}");
        }
        let message = Folder::resume(folder.path()).unwrap_err().to_string();
        assert!(message.contains("last.safetensors"), "{message}");
    }
}
