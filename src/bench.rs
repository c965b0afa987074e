//! How fast a device computes networks, and how near that is to what it can do at most: `tilewise bench`.
//!
//! `docs/bench.md` says what is measured and how, and describes the JSON that a [`Report`] is.

mod comparison;
pub mod ladder;
pub(crate) mod network;
mod page;
mod plot;
pub mod roof;
mod rounds;
pub(crate) mod table;

pub use crate::gpu::Spread;
pub use comparison::{Comparison, Named};
pub use ladder::{LADDERS, Ladder};
pub use network::{Checked, Inference, Layer, Measured, Pass, Phase, Workload};
pub use roof::Roof;
pub use rounds::rounds;
pub use table::Table;

use crate::checkpoint::atomic;
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::file;
use crate::ops::Entry;
use crate::progress::{Announce, unless_stopped};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The value of [`Report::schema`].
pub const SCHEMA: &str = "tilewise-bench";

/// The value of [`Report::version`]: raised with every change that an older reader would not understand.
pub const VERSION: u32 = 1;

/// The largest report that is read.
const LARGEST_FILE_BYTES: u64 = 16 << 20;

/// The kernels that measure the device itself. They compute nothing of a network and are no ops of the registry, but are tested alike.
pub const DEVICE: Entry = Entry { name: "device", page: include_str!("../docs/bench.md"), cases: roof::cases };

/// What does the computing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The adapter's name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software`, `other`, or `reference` for the CPU executor.
    pub kind: String,
    /// `vulkan`, `metal`, `dx12` or `none`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
}

impl Machine {
    pub(crate) fn of(device: &Device) -> Self {
        match device.gpu() {
            Some(gpu) => {
                let adapter = gpu.adapter();
                let (name, driver) = (adapter.name.clone(), adapter.driver.clone());
                Self { name, kind: adapter.kind.into(), backend: adapter.backend.clone(), driver }
            }
            None => Self {
                name: "CPU executor".into(),
                kind: "reference".into(),
                backend: "none".into(),
                driver: "none".into(),
            },
        }
    }
}

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How often everything is timed.
    pub repeats: usize,
    /// The seed of parameters and inputs.
    pub seed: u32,
}

impl Settings {
    pub(crate) fn check(self) -> Result<()> {
        if self.repeats == 0 {
            return Err(Error::Usage("nothing can be measured in 0 repeats; ask for 5 or more".into()));
        }
        Ok(())
    }
}

/// What was measured on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// The version of this crate.
    pub tilewise: String,
    /// The version of wgpu.
    pub wgpu: String,
    /// Where it was measured.
    pub device: Machine,
    /// How.
    pub settings: Settings,
    /// What the device can do at most; `None` for the CPU executor.
    pub roof: Option<Roof>,
    /// The networks, in the order asked for.
    pub networks: Vec<Measured>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// Measures a device, then each of the networks on it; `announce` hears what comes next, and may break off.
///
/// # Errors
/// [`Error::Usage`] when a network is none or nothing is to be repeated, [`Error::Device`] when a result does not hold against the
/// reference or the device has failed, [`Error::Memory`] when a network does not fit it; [`Error::Interrupted`].
pub fn run(device: &Device, workloads: &[Workload], settings: Settings, announce: &mut Announce<'_>) -> Result<Report> {
    settings.check()?;
    workloads.iter().try_for_each(|workload| workload.network().map(drop))?;
    let (mut roof, mut notes) = (None, Vec::new());
    if let Some(gpu) = device.gpu() {
        unless_stopped(announce("the device's roof"))?;
        roof = Some(Roof::measure(gpu, settings.repeats, settings.seed)?);
        if !gpu.adapter().timestamps {
            notes.push(format!("{} has no timestamps, so that there are no rows by layer", gpu.adapter()));
        }
        if !gpu.choices().is_empty() {
            notes.push(format!("kernels as tuned: there are {} choices", gpu.choices().rows().count()));
        }
    } else {
        notes.push("the CPU executor has no kernels: there is no roof, and there are no rows by layer".into());
    }
    let mut networks = Vec::new();
    for workload in workloads {
        networks.push(Measured::new(device, workload, settings, roof.as_ref(), announce)?);
    }
    Ok(Report {
        schema: SCHEMA.into(),
        version: VERSION,
        tilewise: env!("CARGO_PKG_VERSION").into(),
        wgpu: wgpu_version().unwrap_or_default(),
        device: Machine::of(device),
        settings,
        roof,
        networks,
        notes,
    })
}

/// The version that this crate was locked to: wgpu itself does not tell.
pub(crate) fn wgpu_version() -> Option<String> {
    let lock: toml::Table = include_str!("../Cargo.lock").parse().ok()?;
    let mut packages = lock.get("package")?.as_array()?.iter();
    let package = packages.find(|package| package.get("name").and_then(toml::Value::as_str) == Some("wgpu"))?;
    package.get("version")?.as_str().map(str::to_owned)
}

impl Report {
    /// Reads a report that [`Report::write`] has written.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such file, [`Error::Data`] naming it when it is no report, one of another version, or has more than 16 MiB.
    pub fn read(path: &Path) -> Result<Self> {
        let text = file::read_text(path, LARGEST_FILE_BYTES)?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Error::data(path, format!("this is no JSON: {error}; give what `bench --save` wrote")))?;
        if value["schema"] != SCHEMA {
            let problem = format!(
                "the field `schema` is {}, expected {SCHEMA:?}; give what `bench --save` wrote",
                value["schema"]
            );
            return Err(Error::data(path, problem));
        }
        if value["version"] != VERSION {
            let problem = format!(
                "the result is of version {}, this program reads {VERSION}; measure it again",
                value["version"]
            );
            return Err(Error::data(path, problem));
        }
        serde_json::from_value(value).map_err(|error| Error::data(path, format!("a damaged result: {error}")))
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic::write(path, |file| Ok(serde_json::to_writer_pretty(file, self)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_wgpu_is_the_locked_one() {
        let version = wgpu_version().unwrap();
        assert!(version.split('.').count() == 3 && version.starts_with("30."), "{version}");
    }
}
