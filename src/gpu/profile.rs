//! Where the time of a run goes: each dispatch timed by the device.

use super::pace::Piece;
use super::plan::record;
use super::{Gpu, Plan};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::time::Instant;

/// What several measurements of one thing gave, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The one in the middle; the longer of two.
    pub median: f64,
    /// The shortest.
    pub least: f64,
    /// The longest.
    pub most: f64,
}

impl Spread {
    /// The spread of these measurements; zeros if there are none.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |place: usize| seconds.get(place).copied().unwrap_or(0.0);
        Self { median: at(seconds.len() / 2), least: at(0), most: at(seconds.len().saturating_sub(1)) }
    }
}

/// When a dispatch of one run began, counted from the start of the run's first, and how long it took, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lap {
    /// Its start.
    pub start: f64,
    /// Its time on the device.
    pub seconds: f64,
}

/// One dispatch of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The position of its node in [`Graph::nodes`](crate::Graph::nodes).
    #[serde(skip)]
    pub position: usize,
    /// The name of the node that it belongs to.
    pub node: String,
    /// The kernel's path.
    pub kernel: &'static str,
    /// The median of its times on the device.
    pub seconds: f64,
    /// Floating-point operations: those of an op count with the dispatches that multiply, not with those that rearrange for them.
    pub flops: u64,
    /// Bytes of what it binds, each counted once.
    pub bytes: u64,
    /// The share of a roof that its op reaches, all the op's dispatches together, once [`Profile::hold_against`] has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_roof: Option<f64>,
    /// The runs, in order.
    #[serde(skip)]
    pub laps: Vec<Lap>,
}

/// The times of a run's dispatches, each in a compute pass of its own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The dispatches, the longest first.
    pub rows: Vec<Row>,
    /// The median of the times from start to end of ordinary runs, in seconds.
    pub wall_seconds: f64,
}

impl Profile {
    /// Tells by how much each op of the profiled plan falls short of a roof, given the least seconds that so many operations on so many bytes
    /// take: each tensor that the op reads or writes counts once, and scratch space not at all.
    pub fn hold_against(&mut self, plan: &Plan, least_seconds: impl Fn(u64, u64) -> f64) {
        let mut taken: BTreeMap<usize, f64> = BTreeMap::new();
        for row in &self.rows {
            *taken.entry(row.position).or_default() += row.seconds;
        }
        for row in &mut self.rows {
            let taken = taken.get(&row.position).copied().unwrap_or_default();
            let least = least_seconds(plan.flops(row.position), plan.traffic(row.position));
            row.share_of_roof = Some(if taken > 0.0 { least / taken } else { 0.0 });
        }
    }

    /// The last run as a trace in the [format](https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU) that
    /// Perfetto and `chrome://tracing` read: an event for each dispatch, on a track named `device`.
    pub fn trace(&self, device: &str) -> Value {
        let mut events = vec![json!({ "ph": "M", "pid": 1, "name": "process_name", "args": { "name": device } })];
        events.extend(self.rows.iter().filter_map(|row| {
            let lap = row.laps.last()?;
            let microseconds = |seconds: f64| 1e6 * seconds;
            Some(json!({
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "name": row.node,
                "cat": row.kernel,
                "ts": microseconds(lap.start),
                "dur": microseconds(lap.seconds),
                "args": {
                    "kernel": row.kernel,
                    "flops": row.flops,
                    "bytes": row.bytes,
                    "share_of_roof": row.share_of_roof,
                },
            }))
        }));
        json!({ "traceEvents": events, "displayTimeUnit": "ms" })
    }
}

impl Gpu {
    /// Times the copy of one buffer of `bytes` into another by the device's own command: each of `runs` copies from submit to end, in
    /// seconds, after one that does not count.
    ///
    /// # Errors
    /// When the device has no room for both buffers, or has failed.
    pub fn time_copies(&self, bytes: u64, runs: usize) -> Result<Vec<f64>> {
        let create = |label| {
            let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let descriptor =
                wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
            self.scoped(&format!("{label} of {bytes} bytes"), || self.device.create_buffer(&descriptor))
        };
        let (source, target) = (create("source")?, create("target")?);
        let mut seconds = Vec::with_capacity(runs);
        for run in 0..=runs {
            let start = Instant::now();
            self.submit("a copy", |encoder| encoder.copy_buffer_to_buffer(&source, 0, &target, 0, Some(bytes)))?;
            self.wait()?;
            if run > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(seconds)
    }
}

/// Passes that share a query set: a set holds two times of each, and at most 4096.
pub(super) const PASSES_PER_SET: usize = 2048;

/// What the device notes times of passes in: of at most [`PASSES_PER_SET`].
pub(super) struct Stopwatch {
    queries: wgpu::QuerySet,
    buffer: wgpu::Buffer,
}

impl Stopwatch {
    pub(super) fn new(device: &wgpu::Device, passes: usize) -> Self {
        let count = 2 * passes as u32;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("passes"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: 8 * u64::from(count),
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Self { queries, buffer }
    }

    /// What has a pass noted.
    pub(super) fn of_pass(&self, pass: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        let begin = 2 * pass as u32;
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(begin),
            end_of_pass_write_index: Some(begin + 1),
        }
    }

    /// To be recorded behind all passes, before the times are read.
    pub(super) fn stop(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..self.queries.count(), &self.buffer, 0);
    }

    /// Where they are to be read.
    pub(super) fn times(&self) -> wgpu::BufferSlice<'_> {
        self.buffer.slice(..)
    }

    /// When each pass began and ended, of what was read, in ticks of the device's clock.
    pub(super) fn laps(words: &[u32]) -> impl Iterator<Item = [u64; 2]> {
        let ticks = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        words.as_chunks().0.iter().map(move |&[a, b, c, d]| [ticks(a, b), ticks(c, d)])
    }

    /// From one tick to another in seconds. A device may report times out of order; nothing takes less than nothing.
    pub(super) fn between(queue: &wgpu::Queue, from: u64, to: u64) -> f64 {
        to.saturating_sub(from) as f64 * f64::from(queue.get_timestamp_period()) * 1e-9
    }
}

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
        let (mut walls, mut laps) = (Vec::new(), vec![Vec::new(); self.steps.len()]);
        for run in 0..=runs {
            let start = Instant::now();
            self.run()?;
            self.wait()?;
            let wall = start.elapsed().as_secs_f64();
            let timed = self.run_timed(1)?;
            if run > 0 {
                walls.push(wall);
                for (dispatch, lap) in timed {
                    let laps: &mut Vec<Lap> = &mut laps[dispatch];
                    match laps.get_mut(walls.len() - 1) {
                        Some(begun) => begun.seconds += lap.seconds,
                        None => laps.push(lap),
                    }
                }
            }
        }
        let work = self.work();
        let rows = self.dispatches().zip(work).zip(laps).map(|(((position, dispatch), (flops, bytes)), laps)| Row {
            position,
            node: self.computed.nodes()[position].name.clone(),
            kernel: dispatch.kernel.path,
            seconds: Spread::of(laps.iter().map(|lap| lap.seconds).collect()).median,
            flops,
            bytes,
            share_of_roof: None,
            laps,
        });
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profile { rows, wall_seconds: Spread::of(walls).median })
    }

    /// The seconds of one run: by the device's clock, all its dispatches, or where the device has none, by the host's, from submit to end.
    pub(crate) fn time(&self) -> Result<f64> {
        if self.gpu.adapter().timestamps {
            return Ok(self.run_timed(self.steps.len().max(1))?.iter().map(|(_, lap)| lap.seconds).sum());
        }
        let start = Instant::now();
        self.run()?;
        self.wait()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// A run in compute passes of so many dispatches, or of fewer where a submit ends, each pass between two timestamps, with its first dispatch. One that
    /// is cut between its workgroups has several.
    fn run_timed(&self, dispatches: usize) -> Result<Vec<(usize, Lap)>> {
        let turn = self.turn();
        let mut laps = Vec::new();
        let mut first = None;
        let mut note = |stopwatch: &Stopwatch, passes: &mut dyn Iterator<Item = usize>| -> Result<()> {
            let words = self.words([stopwatch.times()], &turn)?;
            let between = |from, to| Stopwatch::between(&self.gpu.queue, from, to);
            for (dispatch, [start, end]) in passes.zip(Stopwatch::laps(&words)) {
                let since = *first.get_or_insert(start);
                laps.push((dispatch, Lap { start: between(since, start), seconds: between(start, end) }));
            }
            Ok(())
        };
        for piece in self.pace.settled().map_or_else(|| self.pace.estimated(), <[Piece]>::to_vec) {
            match &piece {
                Piece::Dispatches(all) => {
                    let passes: Vec<usize> = all.clone().step_by(dispatches).collect();
                    for passes in passes.chunks(PASSES_PER_SET) {
                        let stopwatch = self.gpu.submit("a timed run", |encoder| {
                            let stopwatch = Stopwatch::new(&self.gpu.device, passes.len());
                            for (number, &begin) in passes.iter().enumerate() {
                                let end = all.end.min(begin + dispatches);
                                record(&self.steps[begin..end], encoder, Some(stopwatch.of_pass(number)));
                            }
                            stopwatch.stop(encoder);
                            stopwatch
                        })?;
                        note(&stopwatch, &mut passes.iter().copied())?;
                    }
                }
                Piece::Workgroups(dispatch, _) => {
                    let stopwatch = self.gpu.scoped("timestamps", || Stopwatch::new(&self.gpu.device, 1))?;
                    self.submit(&piece, Some(stopwatch.of_pass(0)))?;
                    self.gpu.submit("timestamps", |encoder| stopwatch.stop(encoder))?;
                    note(&stopwatch, &mut iter::once(*dispatch))?;
                }
            }
        }
        self.gpu.check()?;
        Ok(laps)
    }
}

impl fmt::Display for Profile {
    /// Sums by kernel, then a line per dispatch, each the longest first; and what an ordinary run takes, beside their sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.rows.iter().map(|row| row.seconds).sum();
        let mut line = |rows: &[&Row], what: &str| {
            let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
            let rate = |count: u64| count as f64 / seconds.max(1e-9) / 1e9;
            let gflops = rate(rows.iter().map(|row| row.flops).sum());
            let gigabytes = rate(rows.iter().map(|row| row.bytes).sum());
            let least = rows.iter().map(|row| row.share_of_roof.map(|share| share * row.seconds)).sum::<Option<f64>>();
            let roof = least.map_or_else(|| "–".into(), |least| format!("{:.1}", 100.0 * least / seconds.max(1e-9)));
            let (milliseconds, share) = (1e3 * seconds, 100.0 * seconds / total);
            writeln!(f, "{milliseconds:9.3}  {share:5.1}  {gflops:8.2}  {gigabytes:7.2}  {roof:>6}  {what}")
        };
        let mut kernels: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &self.rows {
            kernels.entry(row.kernel).or_default().push(row);
        }
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        let seconds = |rows: &[&Row]| rows.iter().map(|row| row.seconds).sum::<f64>();
        kernels.sort_by(|a, b| seconds(&b.1).total_cmp(&seconds(&a.1)));
        for (kernel, rows) in kernels {
            line(&rows, &format!("{kernel} ({})", rows.len()))?;
        }
        line(&self.rows.iter().collect::<Vec<_>>(), "sum")?;
        for row in &self.rows {
            line(&[row], &format!("{} {}", row.node, row.kernel))?;
        }
        let wall = self.wall_seconds;
        writeln!(f, "an ordinary run takes {:.3} ms, the sum is {:.2} of it", 1e3 * wall, total / wall.max(1e-9))
    }
}
