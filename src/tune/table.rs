//! What was chosen, on which devices, as a file that a person can read.

use super::Choice;
use crate::bench::wgpu_version;
use crate::checkpoint::atomic;
use crate::error::{Error, Result};
use crate::file;
use crate::gpu::{Choices, Gpu};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The value of the field `schema`.
const SCHEMA: &str = "tilewise-kernels";

/// The value of the field `version`: raised with every change that an older reader would not understand.
const VERSION: u32 = 1;

/// The largest table: tens of thousands of choices.
const LARGEST_FILE_BYTES: u64 = 16 << 20;

/// See [`Table::shipped`].
const SHIPPED: &str = include_str!("../../assets/kernels.toml");

/// Choices by device, as TOML. What was measured with another driver or version of wgpu stays in the table, and counts again when they are back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    schema: String,
    version: u32,
    #[serde(default)]
    devices: Vec<Measured>,
}

/// What was measured on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    adapter: String,
    backend: String,
    driver: String,
    wgpu: String,
    choices: Vec<Choice>,
}

impl Default for Table {
    fn default() -> Self {
        Self { schema: SCHEMA.into(), version: VERSION, devices: Vec::new() }
    }
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such file, [`Error::Data`] naming it when it is no table, or has more than 16 MiB.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |problem: String| {
            Error::data(path, format!("{problem}; remove it, or give what `tilewise tune` has written"))
        };
        Self::parse(&file::read_text(path, LARGEST_FILE_BYTES)?).map_err(fail)
    }

    /// The choices that come with this crate, of devices that it was tuned on. A [`Gpu`] has them if it is given them:
    /// `gpu.with_choices(Table::shipped().choices(&gpu))`.
    pub fn shipped() -> Self {
        // A test reads it.
        Self::parse(SHIPPED).unwrap_or_default()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error| format!("this is no TOML: {error}"))?;
        for (key, expected) in [("schema", SCHEMA.into()), ("version", toml::Value::from(VERSION))] {
            let found = table.get(key);
            if found != Some(&expected) {
                let found = found.map_or("missing".into(), ToString::to_string);
                return Err(format!("the field `{key}` is {found}, expected {expected}"));
            }
        }
        table.try_into().map_err(|error| format!("a damaged table of kernels: {error}"))
    }

    /// Writes the table.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self);
        let text = text.map_err(|error| Error::io("write", path, std::io::Error::other(error)))?;
        atomic::write(path, |file| file.write_all(text.as_bytes()))
    }

    /// The choices that hold for a device, its driver and this version of wgpu.
    pub fn choices(&self, gpu: &Gpu) -> Choices {
        let device = Measured::on(gpu);
        self.devices
            .iter()
            .filter(|measured| measured.is(&device))
            .flat_map(|measured| &measured.choices)
            .cloned()
            .collect()
    }

    /// Adds choices for a device, in place of those for the same ops and inputs.
    pub fn add(&mut self, gpu: &Gpu, choices: impl IntoIterator<Item = Choice>) {
        let mut all = self.choices(gpu);
        all.replace(choices.into_iter().collect());
        let device = Measured { choices: all.rows().cloned().collect(), ..Measured::on(gpu) };
        self.devices.retain(|measured| !measured.is(&device));
        if !device.choices.is_empty() {
            self.devices.push(device);
        }
    }

    /// Drops the choices for a device that are no faster than what is taken without one.
    pub fn retain_faster(&mut self, gpu: &Gpu) {
        let here = Measured::on(gpu);
        for device in self.devices.iter_mut().filter(|device| device.is(&here)) {
            device.choices.retain(Choice::is_faster);
        }
        self.devices.retain(|device| !device.choices.is_empty());
    }
}

impl Measured {
    /// Nothing yet.
    fn on(gpu: &Gpu) -> Self {
        let adapter = gpu.adapter();
        Self {
            adapter: adapter.name.clone(),
            backend: adapter.backend.clone(),
            driver: adapter.driver.clone(),
            wgpu: wgpu_version().unwrap_or_default(),
            choices: Vec::new(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        let key = |measured: &Self| {
            let Self { adapter, backend, driver, wgpu, .. } = measured.clone();
            [adapter, backend, driver, wgpu]
        };
        key(self) == key(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Workload;
    use crate::gpu::choices::question;
    use crate::graph::NodeKind;
    use crate::op::DeviceProfile;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_that_is_shipped_is_one_of_choices_that_are_faster() {
        let shipped = Table::parse(SHIPPED).unwrap();
        let mut choices = shipped.devices.iter().flat_map(|device| &device.choices);
        assert!(choices.all(Choice::is_faster) && Table::shipped() == shipped);
    }

    /// A kernel that has changed, or a new candidate, makes its rows worthless: tune again, as docs/tune.md says, or delete them.
    #[test]
    fn every_choice_that_is_shipped_still_holds() {
        let step = Workload::preset("tiny").unwrap().training_step().unwrap();
        let graph = step.graph.fused();
        for device in Table::shipped().devices {
            assert!(
                device.adapter.starts_with("llvmpipe") && device.adapter.ends_with("256 bits)"),
                "{}",
                device.adapter
            );
            let profile =
                DeviceProfile { software: true, subgroup_size: Some(8), int64: true, ..DeviceProfile::PORTABLE };
            let choices: Choices = device.choices.iter().cloned().collect();
            let mut stale: BTreeSet<_> =
                choices.rows().map(|choice| (choice.op.clone(), choice.inputs.clone())).collect();
            for node in graph.nodes() {
                let NodeKind::Op { op, inputs } = &node.kind else { continue };
                let types = graph.types(inputs);
                let candidates = op.offered(&types, &node.tensor_type, &profile);
                if choices.chosen(op.as_ref(), &types, &candidates).is_some() {
                    stale.remove(&question(op.as_ref(), &types));
                }
            }
            assert!(stale.is_empty(), "{}: {stale:#?}", device.driver);
        }
    }

    #[test]
    fn a_table_that_could_fill_the_memory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.toml");
        std::fs::File::create(&path).unwrap().set_len(LARGEST_FILE_BYTES + 1).unwrap();
        let message = Table::read(&path).unwrap_err().to_string();
        assert!(message.contains("kernels.toml: the file is too large"), "{message}");
    }
}
