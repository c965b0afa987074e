//! A report as tables: aligned text, markdown, and CSV.

use super::{Layer, Machine, Measured, Phase, Report, Roof, Spread, Workload};
use crate::error::{Error, Result};
use std::fmt::{self, Write};

/// Rows of text under heads. The first column is a name, the others are aligned to the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it is of.
    pub title: String,
    /// Remarks, a line each.
    pub notes: Vec<String>,
    /// The heads of the columns.
    pub heads: Vec<String>,
    /// As many cells as there are heads, each.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, heads: &[&str]) -> Self {
        Self { title: title.into(), heads: heads.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// The table in markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        for note in &self.notes {
            let _ = writeln!(text, "{note}\n");
        }
        if !self.rows.is_empty() {
            let alignment = (0..self.heads.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned());
            let alignment: Vec<String> = alignment.collect();
            for cells in [&self.heads, &alignment].into_iter().chain(&self.rows) {
                let _ = writeln!(text, "| {} |", cells.join(" | "));
            }
        }
        text
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        let lines = || [&self.heads].into_iter().chain(&self.rows).filter(|_| !self.rows.is_empty());
        let width = |column: usize| lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.heads.len()).map(|column| width(column).unwrap_or(0)).collect();
        for line in lines() {
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                if column == 0 { write!(f, "  {cell:<width$}")? } else { write!(f, "  {cell:>width$}")? }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Seconds as milliseconds.
pub(crate) fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

/// A share as a percentage.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".into(), |share| format!("{:.1}", 100.0 * share))
}

/// Billions a second.
pub(super) fn giga(work: u64, seconds: f64) -> String {
    if work == 0 { String::new() } else { format!("{:.2}", work as f64 / seconds.max(f64::MIN_POSITIVE) / 1e9) }
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "–".into(), |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)))
}

pub(crate) fn spread(seconds: Spread) -> [String; 3] {
    [seconds.median, seconds.least, seconds.most].map(milliseconds)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)?;
        if self.kind == "software" { f.write_str(": a software driver, not a GPU") } else { Ok(()) }
    }
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Update => "update",
        }
    }
}

impl Report {
    /// The whole report: device and roof, then for each network the whole, by op, and every op.
    pub fn tables(&self) -> Vec<Table> {
        let mut device = Table::new(self.device.to_string(), &["roof", "best", "median ms", "least", "most"]);
        let Self { tilewise, wgpu, settings, .. } = self;
        device
            .notes
            .push(format!("tilewise {tilewise}, wgpu {wgpu}, {} repeats, seed {}", settings.repeats, settings.seed));
        device.notes.extend(self.notes.iter().cloned());
        if let Some(roof) = &self.roof {
            let gigabytes = |rate: f64| format!("{:.2} GB/s", rate / 1e9);
            let gigaflops = |rate: f64| format!("{:.2} GFLOP/s", rate / 1e9);
            let mut rows = vec![("multiply-add, f32", gigaflops(roof.multiply_add.best()), roof.multiply_add.seconds)];
            let others = [
                ("multiply-add, f16", roof.multiply_add_f16),
                ("multiply-add, matrices of f16", roof.matrix_multiply_add),
            ];
            rows.extend(others.iter().filter_map(|&(name, rate)| Some((name, gigaflops(rate?.best()), rate?.seconds))));
            rows.extend([
                ("copy by a kernel", gigabytes(roof.copy.best()), roof.copy.seconds),
                ("copy by the device's command", gigabytes(roof.command_copy.best()), roof.command_copy.seconds),
                ("dispatch", format!("{:.2} µs", 1e6 * roof.dispatch.least), roof.dispatch),
                ("submit", format!("{:.2} µs", 1e6 * roof.submit.least), roof.submit),
            ]);
            let row = |(name, best, seconds): (&str, _, _)| [vec![name.into(), best], spread(seconds).into()].concat();
            device.rows = rows.into_iter().map(row).collect();
        }
        let mut tables = vec![device];
        for network in &self.networks {
            tables.push(network.whole());
            if !network.layers.is_empty() {
                tables.push(network.by_op(self.roof.as_ref()));
                tables.push(network.by_layer(self.roof.as_ref()));
            }
        }
        tables
    }

    /// A line for every rate of the roof, whole network and op, in bytes, operations and seconds.
    ///
    /// # Errors
    /// [`Error::Usage`] when a value cannot be written.
    pub fn csv(&self) -> Result<String> {
        let mut text = String::from(
            "network,model,input,base,depth,batch,precision,row,op,phase,output,kernels,flops,bytes,median_s,least_s,most_s,share_of_roof,planned_bytes,\
             allocated_bytes\n",
        );
        let write = |text: &mut String| -> fmt::Result {
            let times = |seconds: Spread| format!("{},{},{}", seconds.median, seconds.least, seconds.most);
            if let Some(roof) = &self.roof {
                let mut rows = vec![("roof.multiply_add", roof.multiply_add.work, 0, roof.multiply_add.seconds)];
                let others = [
                    ("roof.multiply_add_f16", roof.multiply_add_f16),
                    ("roof.matrix_multiply_add", roof.matrix_multiply_add),
                ];
                rows.extend(others.iter().filter_map(|&(name, rate)| Some((name, rate?.work, 0, rate?.seconds))));
                rows.extend([
                    ("roof.copy", 0, roof.copy.work, roof.copy.seconds),
                    ("roof.command_copy", 0, roof.command_copy.work, roof.command_copy.seconds),
                    ("roof.dispatch", 0, 0, roof.dispatch),
                    ("roof.submit", 0, 0, roof.submit),
                ]);
                for (name, flops, bytes, seconds) in rows {
                    writeln!(text, ",,,,,,,{name},,,,,{flops},{bytes},{},,,", times(seconds))?;
                }
            }
            for network in &self.networks {
                let workload = &network.workload;
                let Workload { name, input, base, depth, model, batch, precision } = workload;
                let name = format!("{name},{model},{input},{base},{depth},{batch},{precision}");
                for (row, seconds) in [("ready", network.ready_seconds), ("first step", network.first_step_seconds)] {
                    writeln!(text, "{name},{row},,,,,,,{},,,", times(Spread::of(vec![seconds])))?;
                }
                let optional = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
                for pass in &network.passes {
                    let (planned, allocated) = (optional(pass.planned_bytes), optional(pass.allocated_bytes));
                    let seconds = times(pass.seconds);
                    writeln!(text, "{name},{},,,,,{},,{seconds},,{planned},{allocated}", pass.name, pass.flops)?;
                }
                for layer in &network.layers {
                    let Layer { node, op, flops, bytes, .. } = layer;
                    let (phase, output, kernels) =
                        (layer.phase.name(), extents(&layer.output), layer.kernels.join(" "));
                    let share = layer.share_of_roof.map(|share| share.to_string()).unwrap_or_default();
                    let seconds = times(layer.seconds);
                    writeln!(
                        text,
                        "{name},{node},{op},{phase},{output},{kernels},{flops},{bytes},{seconds},{share},,"
                    )?;
                }
            }
            Ok(())
        };
        write(&mut text).map_err(|error| Error::Usage(format!("the table cannot be written: {error}")))?;
        Ok(text)
    }
}

/// As `3×3×16`.
pub(super) fn extents(extents: &[usize]) -> String {
    extents.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}

impl Measured {
    /// The network as a whole.
    fn whole(&self) -> Table {
        let heads = ["", "ms", "least", "most", "GFLOP/s", "images/s", "planned MiB", "allocated MiB"];
        let mut table = Table::new(self.workload.to_string(), &heads);
        table.notes.push(format!(
            "{} parameters; ready to run after {:.2} s, first training step done after {:.2} s",
            self.parameters, self.ready_seconds, self.first_step_seconds
        ));
        if let Some(checked) = &self.checked {
            let what = if checked.workload == self.workload { "this network" } else { "in its place a smaller one" };
            table.notes.push(format!(
                "checked first: {} results of {what} ({}), errors up to {:.2} of their bounds",
                checked.results, checked.workload, checked.worst
            ));
        }
        for pass in &self.passes {
            let rates = [giga(pass.flops, pass.seconds.median), format!("{:.2}", pass.images_per_second)];
            let memory = [pass.planned_bytes, pass.allocated_bytes].map(mebibytes);
            table.rows.push([&[pass.name.clone()][..], &spread(pass.seconds), &rates, &memory].concat());
        }
        table
    }

    /// The ops of the training step, summed by kind.
    fn by_op(&self, roof: Option<&Roof>) -> Table {
        let heads = ["", "ops", "ms", "% of step", "GFLOP/s", "GB/s", "% of roof", "at best"];
        let mut table = Table::new(format!("{} by kind of op", self.workload.name), &heads);
        let mut kinds: Vec<(&str, Vec<&Layer>)> = Vec::new();
        for layer in &self.layers {
            match kinds.iter_mut().find(|(op, _)| *op == layer.op) {
                Some((_, layers)) => layers.push(layer),
                None => kinds.push((&layer.op, vec![layer])),
            }
        }
        let seconds = |layers: &[&Layer]| layers.iter().map(|layer| layer.seconds.median).sum::<f64>();
        let total = seconds(&self.layers.iter().collect::<Vec<_>>());
        kinds.sort_by(|a, b| seconds(&b.1).total_cmp(&seconds(&a.1)));
        kinds.push(("sum", self.layers.iter().collect()));
        for (op, layers) in kinds {
            let seconds = seconds(&layers);
            let best = layers.iter().map(|layer| layer.seconds.least).sum::<f64>();
            let (flops, bytes) =
                (layers.iter().map(|layer| layer.flops).sum(), layers.iter().map(|layer| layer.bytes).sum());
            let least =
                |roof: &Roof| layers.iter().map(|layer| roof.least_seconds(layer.flops, layer.bytes)).sum::<f64>();
            table.rows.push(vec![
                op.into(),
                layers.len().to_string(),
                milliseconds(seconds),
                percent(Some(seconds / total)),
                giga(flops, seconds),
                giga(bytes, seconds),
                percent(roof.map(|roof| least(roof) / seconds)),
                percent(roof.map(|roof| least(roof) / best)),
            ]);
        }
        table
    }

    /// Every op of the training step in order.
    fn by_layer(&self, roof: Option<&Roof>) -> Table {
        let heads = ["", "result", "kernels", "ms", "least", "most", "GFLOP/s", "GB/s", "% of roof", "bound by"];
        let mut table = Table::new(format!("{} op by op", self.workload.name), &heads);
        for layer in &self.layers {
            let by_arithmetic = |roof: &Roof| roof.is_bound_by_arithmetic(layer.flops, layer.bytes);
            let bound = roof.map(|roof| if by_arithmetic(roof) { "arithmetic" } else { "memory" });
            let median = layer.seconds.median;
            table.rows.push(
                [
                    &[layer.node.clone(), extents(&layer.output), layer.kernels.join(" ")][..],
                    &spread(layer.seconds),
                    &[giga(layer.flops, median), giga(layer.bytes, median), percent(layer.share_of_roof)],
                    &[bound.unwrap_or_default().to_owned()],
                ]
                .concat(),
            );
        }
        table
    }
}
