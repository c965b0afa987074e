//! Several reports side by side: before and after a change, or one device and another.

use super::table::{milliseconds, percent};
use super::{Layer, Measured, Report, Table, Workload, page};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A report, and what to call it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its name in tables and plots.
    pub name: String,
    /// What was measured.
    pub report: Report,
}

/// Reports of the same networks.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison(Vec<Named>);

impl Comparison {
    /// Reads reports; each must have the networks of the first. They are named after their files, by path where two files have one name.
    ///
    /// # Errors
    /// As [`Report::read`]; [`Error::Data`] naming the file that lacks a network and the network; [`Error::Usage`] when there are fewer
    /// than two.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let [first, others @ ..] = paths else {
            return Err(Error::Usage("give at least two results to compare".into()));
        };
        if others.is_empty() {
            return Err(Error::Usage(format!(
                "there is nothing to compare {} with; give another result",
                first.display()
            )));
        }
        let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut reports: Vec<Named> = Vec::new();
        for path in paths {
            let report = Report::read(path)?;
            for network in reports.first().iter().flat_map(|first| &first.report.networks) {
                if report.network(network).is_none() {
                    let has: Vec<String> = report.networks.iter().map(|other| other.workload.to_string()).collect();
                    let problem = format!(
                        "there is no network \"{}\" in it, which {} has; it has \"{}\"; measure the same networks",
                        network.workload,
                        first.display(),
                        has.join("\", \"")
                    );
                    return Err(Error::data(path, problem));
                }
            }
            let unique = paths.iter().filter(|other| stem(other) == stem(path)).count() == 1;
            reports.push(Named { name: if unique { stem(path) } else { path.display().to_string() }, report });
        }
        Ok(Self(reports))
    }

    /// The reports, in the order given.
    pub fn reports(&self) -> &[Named] {
        &self.0
    }

    /// The devices with their roofs, then for each network the whole and every op: the times of all, and how many times as fast as
    /// the first each other is.
    pub fn tables(&self) -> Vec<Table> {
        let mut devices = Table::new("Results", &["", "device", "tilewise", "wgpu", "GFLOP/s", "GB/s"]);
        for Named { name, report } in &self.0 {
            let rate = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{:.2}", value / 1e9));
            devices.rows.push(vec![
                name.clone(),
                report.device.to_string(),
                report.tilewise.clone(),
                report.wgpu.clone(),
                rate(report.roof.map(|roof| roof.flops_per_second())),
                rate(report.roof.map(|roof| roof.bytes_per_second())),
            ]);
        }
        let mut tables = vec![devices];
        for network in self.0.first().iter().flat_map(|first| &first.report.networks) {
            let networks: Vec<&Measured> = self.0.iter().filter_map(|named| named.report.network(network)).collect();
            tables.push(self.whole(&networks));
            if networks.iter().any(|network| !network.layers.is_empty()) {
                tables.push(self.by_layer(&networks));
            }
        }
        tables
    }

    /// The heads of [`times`].
    fn heads(&self) -> Vec<String> {
        let times = self.0.iter().map(|named| format!("{} ms", named.name));
        let faster = self.0.iter().skip(1).map(|named| format!("{}: times as fast", named.name));
        [String::new()].into_iter().chain(times).chain(faster).collect()
    }

    fn whole(&self, networks: &[&Measured]) -> Table {
        let mut table = Table::new(networks[0].workload.to_string(), &[]);
        table.heads = self.heads();
        for (named, network) in self.0.iter().zip(networks) {
            if network.workload.precision != networks[0].workload.precision {
                table.notes.push(format!("{} is of {}", named.name, network.workload));
            }
        }
        let mut row = |name: &str, seconds: Vec<Option<f64>>| {
            table.rows.push([vec![name.to_owned()], times(&seconds)].concat());
        };
        for pass in &networks[0].passes {
            let same = networks.iter().map(|network| network.passes.iter().find(|other| other.name == pass.name));
            row(&pass.name, same.map(|pass| Some(pass?.seconds.median)).collect());
        }
        row("ready to run", networks.iter().map(|network| Some(network.ready_seconds)).collect());
        row("first training step", networks.iter().map(|network| Some(network.first_step_seconds)).collect());
        table
    }

    /// Every op that any of them has, those of the first in its order.
    fn by_layer(&self, networks: &[&Measured]) -> Table {
        let mut table = Table::new(format!("{} op by op", networks[0].workload.name), &[]);
        table.heads = self.heads();
        table.heads.extend(self.0.iter().map(|named| format!("{} % of roof", named.name)));
        let mut nodes: Vec<&str> = Vec::new();
        for layer in networks.iter().flat_map(|network| &network.layers) {
            if !nodes.contains(&layer.node.as_str()) {
                nodes.push(&layer.node);
            }
        }
        for node in nodes {
            let layers: Vec<Option<&Layer>> =
                networks.iter().map(|network| network.layers.iter().find(|layer| layer.node == node)).collect();
            let seconds: Vec<Option<f64>> = layers.iter().map(|layer| Some((*layer)?.seconds.median)).collect();
            let shares = layers.iter().map(|layer| percent(layer.and_then(|layer| layer.share_of_roof)));
            table.rows.push([vec![node.to_owned()], times(&seconds), shares.collect()].concat());
        }
        table
    }

    /// The comparison as a page that needs nothing else.
    ///
    /// # Errors
    /// [`Error::Usage`] when the drawing library cannot draw a plot.
    pub fn html(&self) -> Result<String> {
        page::html("Comparison", &self.0, &self.tables())
    }
}

/// Seconds in milliseconds, then how many times as fast as the first each other is.
fn times(seconds: &[Option<f64>]) -> Vec<String> {
    let cells = seconds.iter().map(|seconds| seconds.map_or_else(|| "–".into(), milliseconds));
    let first = seconds.first().copied().flatten();
    let faster = seconds.iter().skip(1).map(|seconds| match (first, seconds) {
        (Some(first), &Some(other)) if other > 0.0 => format!("{:.2}", first / other),
        _ => "–".into(),
    });
    cells.chain(faster).collect()
}

impl Report {
    /// The measurement of the same network, whatever its name; of the same precision, if there is one.
    pub(super) fn network(&self, other: &Measured) -> Option<&Measured> {
        let Workload { input, base, depth, model, batch, precision, .. } = other.workload;
        let same = |network: &&Measured| {
            let Workload { input: a, base: b, depth: c, model: d, batch: e, .. } = network.workload;
            (a, b, c, d, e) == (input, base, depth, model, batch)
        };
        let mut networks = self.networks.iter().filter(same);
        networks.clone().find(|network| network.workload.precision == precision).or_else(|| networks.next())
    }

    /// The report as a page that needs nothing else, with a plot of every network's ops under the roof.
    ///
    /// # Errors
    /// [`Error::Usage`] when the drawing library cannot draw a plot.
    pub fn html(&self) -> Result<String> {
        let named = Named { name: self.device.name.clone(), report: self.clone() };
        page::html("Benchmark", &[named], &self.tables())
    }
}
