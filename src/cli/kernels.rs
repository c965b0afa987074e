//! `--kernels`: which kernels are taken where ops offer several.

use super::{Global, create_folder, go_on_unless, note};
use etcetera::{BaseStrategy, choose_base_strategy};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use tilewise::executor::Device;
use tilewise::gpu::{Choice, Choices, Gpu};
use tilewise::tune::{self, Progress, Settings, Table, Tuned};
use tilewise::{Error, Graph, Result};

/// Where choices come from, before those that the program comes with, and where what is measured goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// The table in the user's folder of caches.
    #[default]
    Tuned,
    /// Nowhere, nor those that the program comes with: plans take what comes first.
    Default,
    /// A table elsewhere.
    File(PathBuf),
}

/// Where pipelines that were compiled are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PipelineCache {
    /// In the user's folder of caches.
    #[default]
    Auto,
    /// Nowhere.
    None,
    /// In this folder.
    Folder(PathBuf),
}

impl FromStr for PipelineCache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" => return Err("give auto, none, or a folder".into()),
            "auto" => Self::Auto,
            "none" => Self::None,
            path => Self::Folder(path.into()),
        })
    }
}

impl PipelineCache {
    fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Auto => folder_of_caches(),
            Self::None => None,
            Self::Folder(path) => Some(path.clone()),
        }
    }
}

/// The program's own in the user's folder of caches; none where the system has no such folder.
fn folder_of_caches() -> Option<PathBuf> {
    Some(choose_base_strategy().ok()?.cache_dir().join("tilewise"))
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
            Self::Tuned => Some(folder_of_caches()?.join("kernels.toml")),
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

    /// The choices for a device that were measured here.
    pub(crate) fn measured(&self, gpu: &Gpu) -> Result<Choices> {
        Ok(self.table()?.choices(gpu))
    }

    /// The choices for a device: where none that was measured here holds, one that the program comes with.
    fn choices(&self, gpu: &Gpu) -> Result<Choices> {
        let shipped = if *self == Self::Default { Table::default() } else { Table::shipped() };
        let mut choices = shipped.choices(gpu);
        choices.extend(self.measured(gpu)?.rows().cloned());
        Ok(choices)
    }

    /// Adds choices to the table, or, with `only_faster`, leaves only those in it that are faster than what is taken without; returns its file.
    pub(crate) fn keep(&self, gpu: &Gpu, choices: Vec<Choice>, only_faster: bool) -> Result<Option<PathBuf>> {
        let Some(path) = self.path() else { return Ok(None) };
        // Read again, for another program may have written it in the meantime. What cannot be read is not written over.
        let mut table = match Table::read(&path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Table::default(),
            table => table?,
        };
        table.add(gpu, choices);
        if only_faster {
            table.retain_faster(gpu);
        }
        create_folder(path.parent().unwrap_or(Path::new(".")))?;
        table.write(&path)?;
        Ok(Some(path))
    }
}

impl Global {
    /// The device with the kernels that are to be used on it, and those that were compiled before.
    pub(crate) fn with_kernels(&self, device: Device) -> Result<Device> {
        let Device::Gpu(gpu) = device else { return Ok(device) };
        let choices = self.kernels.clone().unwrap_or_default().choices(&gpu)?;
        let gpu = gpu.with_choices(choices);
        let gpu = if self.bounds_checks { gpu.with_bounds_checks() } else { gpu };
        Ok(Device::Gpu(match self.pipeline_cache.folder() {
            Some(folder) => gpu.with_pipeline_cache(&folder),
            None => gpu,
        }))
    }

    /// Lets `measure` tell of its progress on a bar, until `stop` is raised. `keep` gets each choice as it is made, so that nothing is lost
    /// with a device or a program that comes to a sudden end.
    pub(crate) fn watched<T>(
        &self,
        stop: &AtomicBool,
        mut keep: impl FnMut(Choice) -> Result<Option<PathBuf>>,
        measure: impl FnOnce(&mut tune::Watch<'_>) -> Result<T>,
    ) -> Result<T> {
        let bar = self.progress("{bar:30} {percent} %, {eta} left: {msg}");
        let mut kept = Ok(None);
        let measured = measure(&mut |&Progress { what, done, total, measured }| {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(what.to_owned());
            match measured.last().and_then(Tuned::choice).map(&mut keep) {
                Some(Err(error)) => {
                    kept = Err(error);
                    return ControlFlow::Break(());
                }
                Some(path) => kept = path,
                None => {}
            }
            go_on_unless(stop)
        });
        bar.finish_and_clear();
        let path = kept?;
        if let (Err(_), Some(path)) = (&measured, path) {
            note(&format!("note: what was measured until then is kept in {}", path.display()));
        }
        measured
    }

    /// `--tune`: measures the kernels of these graphs that the device has no choice for, keeps what was found, and returns the device with it.
    pub(crate) fn tuned(&self, device: Device, graphs: &[&Graph], stop: &AtomicBool) -> Result<Device> {
        let Device::Gpu(gpu) = device else { return Ok(device) };
        let settings = Settings { repeats: ROUNDS, seed: self.seed.unwrap_or(1) };
        let kernels = self.kernels.clone().unwrap_or_default();
        // What the program comes with was measured elsewhere.
        let measured = gpu.clone().with_choices(kernels.measured(&gpu)?);
        let keep = |choice| kernels.keep(&gpu, vec![choice], false);
        let measure = |watch: &mut tune::Watch<'_>| tune::ops(&measured, graphs, settings, watch);
        let (ops, known, complete) = self.watched(stop, keep, measure)?;
        let choices: Vec<Choice> = ops.iter().filter_map(Tuned::choice).collect();
        kernels.keep(&gpu, choices.clone(), false)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(op: &str, default_seconds: f64) -> Choice {
        let (op, default_seconds) = (op.into(), Some(default_seconds));
        let (inputs, candidates, kernels) = (vec!["5".into()], "00000000".into(), "some/kernel".into());
        Choice { op, inputs, candidates, kernels, seconds: 1.0, default_seconds }
    }

    #[test]
    fn what_the_program_comes_with_is_below_any_table_and_default_is_without() {
        let gpu = Gpu::any().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let table = Kernels::File(folder.path().join("kernels.toml"));
        let shipped = Table::shipped().choices(&gpu);
        assert_eq!(table.choices(&gpu).unwrap(), shipped);
        let mut own: Vec<Choice> = shipped.rows().map(|row| Choice { seconds: 0.0, ..row.clone() }).collect();
        own.push(choice("mine", 2.0));
        table.keep(&gpu, own.clone(), false).unwrap();
        let mut both = shipped;
        both.extend(own);
        assert_eq!(table.choices(&gpu).unwrap(), both);
        assert!(Kernels::Default.choices(&gpu).unwrap().is_empty());
        assert!(Kernels::Default.keep(&gpu, vec![choice("mine", 2.0)], false).unwrap().is_none());
    }

    #[test]
    fn what_another_program_has_kept_meanwhile_stays() {
        let gpu = Gpu::any().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [one, another] = [(); 2].map(|()| Kernels::File(folder.path().join("kernels.toml")));
        let ops = |kernels: &Kernels| {
            kernels.measured(&gpu).unwrap().rows().map(|choice| choice.op.clone()).collect::<Vec<_>>()
        };
        assert!(ops(&one).is_empty() && ops(&another).is_empty(), "both have read it");
        one.keep(&gpu, vec![choice("a", 2.0), choice("b", 1.0)], false).unwrap();
        another.keep(&gpu, vec![choice("c", 2.0)], false).unwrap();
        assert_eq!(ops(&one), ["a", "b", "c"]);
        one.keep(&gpu, vec![choice("a", 1.0)], true).unwrap();
        assert_eq!(ops(&another), ["c"], "only what is faster is left");
    }
}
