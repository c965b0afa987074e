//! `--kernels`: which kernels are taken where ops offer several.

use super::{Global, create_folder, go_on_unless, note};
use etcetera::{BaseStrategy, choose_base_strategy};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use tilewise::executor::Device;
use tilewise::gpu::{Choice, Choices, Gpu};
use tilewise::tune::{self, Progress, Settings, Table, Tuned};
use tilewise::{Error, Graph, Result};

/// Where choices come from, and where what is measured goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The table in the user's folder of caches.
    #[default]
    Tuned,
    /// Nowhere: plans take what comes first.
    Default,
    /// A table elsewhere.
    File(PathBuf),
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" => return Err("give tuned, default, or a file that `tilewise tune` writes".into()),
            "tuned" => Self::Tuned,
            "default" => Self::Default,
            path => Self::File(path.into()),
        })
    }
}

impl Kernels {
    /// The file of the table; none where nothing is kept, or the system has no folder for caches.
    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Tuned => Some(choose_base_strategy().ok()?.cache_dir().join("tilewise").join("kernels.toml")),
            Self::Default => None,
            Self::File(path) => Some(path.clone()),
        }
    }

    /// The table, empty where there is none yet. A damaged cache is no reason to fail; a damaged file that was named is.
    fn table(&self) -> Result<Table> {
        let Some(path) = self.path() else { return Ok(Table::default()) };
        match Table::read(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Table::default()),
            Err(error) if *self == Self::Tuned => {
                note(&format!("note: kernels are taken as if none had been tuned: {error}"));
                Ok(Table::default())
            }
            table => table,
        }
    }

    /// The choices for a device.
    pub(crate) fn choices(&self, gpu: &Gpu) -> Result<Choices> {
        Ok(self.table()?.choices(gpu))
    }

    /// Adds choices to the table, and returns its file.
    pub(crate) fn keep(&self, gpu: &Gpu, choices: Vec<Choice>) -> Result<Option<PathBuf>> {
        let Some(path) = self.path() else { return Ok(None) };
        // Read again, for another program may have written it in the meantime. What cannot be read is not written over.
        let mut table = match Table::read(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Table::default(),
            table => table?,
        };
        table.add(gpu, choices);
        create_folder(path.parent().unwrap_or(Path::new(".")))?;
        table.write(&path)?;
        Ok(Some(path))
    }
}

impl Global {
    /// The device with the kernels that are to be used on it.
    pub(crate) fn with_kernels(&self, device: Device) -> Result<Device> {
        let Device::Gpu(gpu) = device else { return Ok(device) };
        let choices = self.kernels.clone().unwrap_or_default().choices(&gpu)?;
        Ok(Device::Gpu(gpu.with_choices(choices)))
    }

    /// Lets `measure` tell of its progress on a bar, until `stop` is raised.
    pub(crate) fn watched<T>(&self, stop: &AtomicBool, measure: impl FnOnce(&mut tune::Watch<'_>) -> T) -> T {
        let bar = self.progress("{bar:30} {percent} %, {eta} left: {msg}");
        let measured = measure(&mut |&Progress { what, done, total }| {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(what.to_owned());
            go_on_unless(stop)
        });
        bar.finish_and_clear();
        measured
    }

    /// `--tune`: measures the kernels of these graphs that the device has no choice for, keeps what was found, and returns the device with it.
    pub(crate) fn tuned(&self, device: Device, graphs: &[&Graph], stop: &AtomicBool) -> Result<Device> {
        let Device::Gpu(gpu) = device else { return Ok(device) };
        let settings = Settings { repeats: ROUNDS, seed: self.seed.unwrap_or(1) };
        let (ops, known, complete) = self.watched(stop, |watch| tune::ops(&gpu, graphs, settings, watch))?;
        let choices: Vec<Choice> = ops.iter().filter_map(Tuned::choice).collect();
        self.kernels.clone().unwrap_or_default().keep(&gpu, choices.clone())?;
        let changed = ops.iter().filter(|tuned| tuned.winner.is_some_and(|winner| winner > 0)).count();
        self.say(&format!("tuned {} ops, {known} known from before; {changed} get another kernel", ops.len()));
        if !complete {
            return Err(Error::Interrupted);
        }
        let all = gpu.choices().rows().cloned().chain(choices).collect();
        Ok(Device::Gpu(gpu.with_choices(all)))
    }
}

/// How often each candidate is timed unless told otherwise.
pub(crate) const ROUNDS: usize = 8;
