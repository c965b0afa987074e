//! Where the time of a run goes: each dispatch timed by the device.

use super::Plan;
use crate::error::{Error, Result};
use crate::graph::{Node, NodeKind};
use crate::shape::TensorType;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// One dispatch of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The name of the node that it belongs to.
    pub node: String,
    /// The kernel's path.
    pub kernel: &'static str,
    /// The median of its times on the device.
    pub seconds: f64,
    /// Floating-point operations; those of an op count with its first dispatch.
    pub flops: u64,
    /// Bytes of what it binds, each counted once.
    pub bytes: u64,
}

/// The times of a run's dispatches, each in a compute pass of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The dispatches, the longest first.
    pub rows: Vec<Row>,
    /// The median of the times from start to end of ordinary runs, in seconds.
    pub wall_seconds: f64,
}

/// Dispatches that share a query set: a set holds two times of each, and at most 4096.
const DISPATCHES_PER_SET: usize = 2048;

impl Plan {
    /// Times every dispatch, and ordinary runs beside them, `runs` times each in turn, after one run of each that does not count.
    /// State changes as in `2 * runs + 2` runs.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has no timestamps, or has failed.
    pub fn profile(&self, runs: usize) -> Result<Profile> {
        if !self.gpu.adapter().timestamps {
            return Err(Error::Device(format!("{} cannot time kernels; try another `--device`", self.gpu.adapter())));
        }
        let (mut walls, mut times) = (Vec::new(), vec![Vec::new(); self.steps.len()]);
        for run in 0..=runs {
            let start = Instant::now();
            self.run()?;
            self.wait()?;
            let wall = start.elapsed().as_secs_f64();
            let seconds = self.run_timed()?;
            if run > 0 {
                walls.push(wall);
                times.iter_mut().zip(seconds).for_each(|(times, seconds)| times.push(seconds));
            }
        }
        let mut previous = None;
        let rows = self.dispatches().zip(times).map(|((node, dispatch), times)| {
            let mut bindings = dispatch.bindings.clone();
            bindings.sort_unstable();
            bindings.dedup();
            let sizes = bindings.iter().map(|&binding| Ok(self.binding(node, binding)?.size.map_or(0, u64::from)));
            let first = previous.replace(node) != Some(node);
            let node = &self.graph.nodes()[node];
            Ok(Row {
                node: node.name.clone(),
                kernel: dispatch.kernel.path,
                seconds: median(times),
                flops: if first { self.flops(node) } else { 0 },
                bytes: sizes.sum::<Result<u64>>()?,
            })
        });
        let mut rows = rows.collect::<Result<Vec<Row>>>()?;
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profile { rows, wall_seconds: median(walls) })
    }

    /// Floating-point operations of a node.
    fn flops(&self, node: &Node) -> u64 {
        let NodeKind::Op { op, inputs } = &node.kind else { return 0 };
        let types: Vec<TensorType> = inputs.iter().map(|&input| self.graph.node(input).tensor_type.clone()).collect();
        op.flops(&types, &node.tensor_type)
    }

    /// A run whose every dispatch is a compute pass between two timestamps; the time of each, in seconds.
    fn run_timed(&self) -> Result<Vec<f64>> {
        let mut seconds = Vec::with_capacity(self.steps.len());
        for steps in self.steps.chunks(DISPATCHES_PER_SET) {
            let count = 2 * steps.len() as u32;
            let device = &self.gpu.device;
            let (commands, buffer) = self.gpu.scoped("recording a timed run", || {
                let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("dispatches"),
                    ty: wgpu::QueryType::Timestamp,
                    count,
                });
                let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: 8 * u64::from(count),
                    usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                });
                let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for (step, query) in steps.iter().zip((0..).step_by(2)) {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: Some(query),
                            end_of_pass_write_index: Some(query + 1),
                        }),
                    });
                    step.record(&mut pass);
                }
                encoder.resolve_query_set(&queries, 0..count, &buffer, 0);
                (encoder.finish(), buffer)
            })?;
            self.gpu.queue.submit([commands]);
            let words = self.read_words(&buffer, 0, buffer.size())?;
            let ticks = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
            let period = f64::from(self.gpu.queue.get_timestamp_period()) * 1e-9;
            // A device may report times out of order; no dispatch takes less than nothing.
            let between = |at| ticks(at + 2).saturating_sub(ticks(at)) as f64 * period;
            seconds.extend((0..words.len()).step_by(4).map(between));
        }
        self.gpu.check()?;
        Ok(seconds)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl fmt::Display for Profile {
    /// Sums by kernel, then a line per dispatch, each the longest first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.rows.iter().map(|row| row.seconds).sum();
        let mut line = |seconds: f64, flops: u64, bytes: u64, what: &str| {
            let (share, rate) = (100.0 * seconds / total, |count: u64| count as f64 / seconds.max(1e-9) / 1e9);
            let (milliseconds, gflops, gigabytes) = (1e3 * seconds, rate(flops), rate(bytes));
            writeln!(f, "{milliseconds:9.3}  {share:5.1}  {gflops:8.2}  {gigabytes:7.2}  {what}")
        };
        let mut kernels: BTreeMap<&str, (f64, u64, u64, usize)> = BTreeMap::new();
        for row in &self.rows {
            let (seconds, flops, bytes, count) = kernels.entry(row.kernel).or_default();
            *seconds += row.seconds;
            *flops += row.flops;
            *bytes += row.bytes;
            *count += 1;
        }
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        kernels.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        for (kernel, (seconds, flops, bytes, count)) in kernels {
            line(seconds, flops, bytes, &format!("{kernel} ({count})"))?;
        }
        line(total, self.rows.iter().map(|row| row.flops).sum(), self.rows.iter().map(|row| row.bytes).sum(), "sum")?;
        for row in &self.rows {
            line(row.seconds, row.flops, row.bytes, &format!("{} {}", row.node, row.kernel))?;
        }
        Ok(())
    }
}
