//! What tuning has measured, for people and programs.

use super::Choice;
use crate::bench::table::{Table, spread};
use crate::bench::{Machine, Settings, Workload};
use crate::gpu::Spread;
use serde::Serialize;
use std::collections::BTreeSet;

/// A candidate, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timed {
    /// Its kernels, their constants and workgroups.
    pub kernels: String,
    /// What tells whether it is still what was measured: [`Choice::candidates`] of a choice of it.
    pub checksum: String,
    /// Its times: of the shorter of two warm runs if it was hopelessly slow, of all rounds otherwise; `None` when it was wrong.
    pub seconds: Option<Spread>,
    /// How many rounds it took part in.
    pub rounds: usize,
    /// Why it may not win.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An op at some shapes, its candidates measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tuned {
    /// The first node of the graphs that is one.
    pub node: String,
    /// The op and its settings.
    pub op: String,
    /// The types of its inputs.
    pub inputs: Vec<String>,
    /// Its candidates, that first which is taken without a choice.
    pub candidates: Vec<Timed>,
    /// The position of the one to take; `None` when all are wrong.
    pub winner: Option<usize>,
}

impl Tuned {
    /// What to keep of it.
    pub fn choice(&self) -> Option<Choice> {
        self.choice_of(self.winner?)
    }

    /// This candidate, chosen.
    fn choice_of(&self, candidate: usize) -> Option<Choice> {
        let winner = &self.candidates[candidate];
        let median = |timed: &Timed| timed.seconds.map(|seconds| seconds.median);
        Some(Choice {
            op: self.op.clone(),
            inputs: self.inputs.clone(),
            candidates: winner.checksum.clone(),
            kernels: winner.kernels.clone(),
            seconds: median(winner)?,
            default_seconds: self.candidates.first().and_then(median),
        })
    }

    /// The paths of a candidate's kernels, with the constants in which it differs from others of the same kernels, each said once.
    fn label(&self, candidate: usize) -> String {
        let is_path = |word: &&str| word.contains('/') && !word.contains('=');
        let words = |candidate: usize| self.candidates[candidate].kernels.split(' ');
        let paths = |candidate: usize| words(candidate).filter(is_path).collect::<Vec<_>>();
        let others = (0..self.candidates.len()).filter(|&other| other != candidate && paths(other) == paths(candidate));
        let others: Vec<Vec<&str>> = others.map(|other| words(other).collect()).collect();
        let own = |word: &&str| is_path(word) || word.contains('=') && others.iter().any(|other| !other.contains(word));
        let mut said = BTreeSet::new();
        words(candidate).filter(own).filter(|word| said.insert(*word)).collect::<Vec<_>>().join(" ")
    }
}

/// A whole network, timed in turns without choices and with them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Whole {
    /// Which.
    pub workload: Workload,
    /// `inference` or `training step`.
    pub pass: &'static str,
    /// Without.
    pub default: Spread,
    /// With.
    pub tuned: Spread,
}

/// What [`run`](super::run) has measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version of this crate.
    pub tilewise: String,
    /// The version of wgpu.
    pub wgpu: String,
    /// Where it was measured.
    pub device: Machine,
    /// How.
    pub settings: Settings,
    /// Ops for which the device had a choice already; they were not measured again.
    pub known: usize,
    /// The ops that were measured.
    pub ops: Vec<Tuned>,
    /// The networks whose kernels the choices change.
    pub networks: Vec<Whole>,
    /// Whether everything was measured: nobody broke it off.
    pub complete: bool,
}

impl Report {
    /// Whether the choices make the networks faster, all in all. A kernel that is faster alone need not be among others.
    pub fn pays(&self) -> bool {
        let sum = |of: fn(&Whole) -> Spread| self.networks.iter().map(|whole| of(whole).median).sum::<f64>();
        sum(|whole| whole.tuned) <= sum(|whole| whole.default)
    }

    /// What to keep: of each op that was measured the winner, or, if these do not pay, the first that is right.
    pub fn choices(&self) -> Vec<Choice> {
        let first = |tuned: &Tuned| tuned.candidates.iter().position(|timed| timed.problem.is_none());
        let chosen = |tuned: &Tuned| if self.pays() { tuned.winner } else { first(tuned) };
        self.ops.iter().filter_map(|tuned| tuned.choice_of(chosen(tuned)?)).collect()
    }

    /// Every candidate, then the networks.
    pub fn tables(&self) -> Vec<Table> {
        let heads = ["", "inputs", "kernels", "ms", "least", "most", "× default"];
        let mut ops = Table::new(self.device.to_string(), &heads);
        let Self { tilewise, wgpu, settings, known, .. } = self;
        ops.notes
            .push(format!("tilewise {tilewise}, wgpu {wgpu}, {} rounds, seed {}", settings.repeats, settings.seed));
        ops.notes.push(format!("{} ops measured, {known} known from before; * is the choice", self.ops.len()));
        let wrong = self.ops.iter().flat_map(|tuned| tuned.candidates.iter().map(move |timed| (tuned, timed)));
        ops.notes
            .extend(wrong.filter_map(|(tuned, timed)| Some(format!("{}: {}", tuned.node, timed.problem.as_ref()?))));
        if !self.complete {
            ops.notes.push("broken off: without --again, the same command goes on with what is missing".into());
        }
        for tuned in &self.ops {
            let default = tuned.candidates[0].seconds.map(|seconds| seconds.median);
            for (position, timed) in tuned.candidates.iter().enumerate() {
                let first = |text: String| if position == 0 { text } else { String::new() };
                let mark = if tuned.winner == Some(position) { " *" } else { "" };
                let times = timed.seconds.map_or_else(|| ["wrong", "", ""].map(String::from), spread);
                let share =
                    timed.seconds.zip(default).map(|(seconds, default)| format!("{:.2}", seconds.median / default));
                ops.rows.push(
                    [
                        &[first(tuned.node.clone()), first(tuned.inputs.join(", ")), tuned.label(position) + mark][..],
                        &times,
                        &[share.unwrap_or_default()],
                    ]
                    .concat(),
                );
            }
        }
        let heads = ["", "default ms", "least", "most", "tuned ms", "least", "most", "× default"];
        let mut networks = Table::new("Whole networks, in turns", &heads);
        for Whole { workload, pass, default, tuned } in &self.networks {
            let name = format!("{}: {pass}", workload.name);
            let share = format!("{:.3}", tuned.median / default.median.max(f64::MIN_POSITIVE));
            networks.rows.push([&[name][..], &spread(*default), &spread(*tuned), &[share]].concat());
        }
        if !self.pays() {
            networks.notes.push("the winners make it slower as a whole; the defaults are kept".into());
        } else if self.networks.is_empty() && self.complete {
            networks.notes.push("plans take the kernels that they take without a choice".into());
        }
        vec![ops, networks]
    }
}
