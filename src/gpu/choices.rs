//! Which candidate of each op a plan takes: its first one, unless a measurement chose another.

use crate::op::{AnyOp, Candidate};
use crate::shape::TensorType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The fastest candidate of an op at some shapes, as measured on some device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The op and its settings, such as `conv2d: Conv2d { stride: [1, 1], padding: [0, 0] }`.
    pub op: String,
    /// The types of its inputs, such as `1×124×124×1`.
    pub inputs: Vec<String>,
    /// A checksum of the chosen one and the other candidates that there were, but for experimental ones, and of the texts of their kernels.
    pub candidates: String,
    /// The chosen one: its kernels, their constants and workgroups.
    pub kernels: String,
    /// The median of its times.
    pub seconds: f64,
    /// The median of the times of the candidate that is taken without a choice, unless that one was wrong.
    pub default_seconds: Option<f64>,
}

impl Choice {
    /// Whether it was faster than the candidate that is taken without a choice, or that one was wrong.
    pub fn is_faster(&self) -> bool {
        self.default_seconds.is_none_or(|default| self.seconds < default)
    }
}

/// An op with its settings and the types of its inputs: what is chosen for.
pub(crate) fn question(op: &dyn AnyOp, inputs: &[TensorType]) -> (String, Vec<String>) {
    (format!("{}: {op:?}", op.name()), inputs.iter().map(ToString::to_string).collect())
}

/// Whether a candidate needs what is experimental in wgpu: units of the device's own that multiply matrices.
fn is_experimental(candidate: &Candidate) -> bool {
    let mut sources = candidate.dispatches.iter().map(|dispatch| dispatch.kernel.source);
    sources.any(|source| source.lines().any(|line| line == "enable wgpu_cooperative_matrix;"))
}

/// A checksum of the candidate that is chosen and those that it was chosen from, and of the texts of their kernels. Only some devices of an
/// adapter have what is experimental, so that what was not chosen of that does not count.
pub(crate) fn checksum(candidates: &[Candidate], chosen: usize) -> String {
    let mut checksum = 0;
    let mut add = |text: &str| checksum = crc32c::crc32c_append(checksum, text.as_bytes());
    for (position, candidate) in candidates.iter().enumerate() {
        if position == chosen || !is_experimental(candidate) {
            add(&candidate.to_string());
            candidate.dispatches.iter().for_each(|dispatch| add(dispatch.kernel.source));
        }
    }
    format!("{checksum:08x}")
}

/// Which candidate of each op a plan takes: the first one, but for ops at shapes for which there is a [`Choice`]. A choice whose op now
/// has other candidates, or candidates whose kernels have changed, is none.
///
/// Candidates differ in the last bits of their results, and in the memory that they take. Choices are worth nothing on another device than they were
/// measured on: [`tune::Table`](crate::tune::Table) keeps devices apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    /// Where there is none.
    otherwise: usize,
    /// By op and inputs, of which the last that holds counts.
    rows: BTreeMap<(String, Vec<String>), Vec<Choice>>,
}

impl Choices {
    /// This candidate of every op, or its last one.
    pub fn nth(candidate: usize) -> Self {
        Self { otherwise: candidate, rows: BTreeMap::new() }
    }

    /// The choices, ordered by op and inputs; of several for the same, each counts before those that come before it.
    pub fn rows(&self) -> impl Iterator<Item = &Choice> {
        self.rows.values().flatten()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds choices, and drops what there was for the same ops and inputs.
    pub(crate) fn replace(&mut self, choices: Self) {
        self.rows.extend(choices.rows);
    }

    /// The position of the candidate that a choice names, if there is one that holds.
    pub(crate) fn chosen(&self, op: &dyn AnyOp, inputs: &[TensorType], candidates: &[Candidate]) -> Option<usize> {
        if self.is_empty() || candidates.len() < 2 {
            return None;
        }
        let holds = |choice: &Choice| {
            let chosen = candidates.iter().position(|candidate| candidate.to_string() == choice.kernels)?;
            (checksum(candidates, chosen) == choice.candidates).then_some(chosen)
        };
        self.rows.get(&question(op, inputs))?.iter().rev().find_map(holds)
    }

    /// The position of the candidate to take; `None` if there is not any.
    pub(super) fn among(&self, op: &dyn AnyOp, inputs: &[TensorType], candidates: &[Candidate]) -> Option<usize> {
        let last = candidates.len().checked_sub(1)?;
        Some(self.chosen(op, inputs, candidates).unwrap_or(self.otherwise.min(last)))
    }
}

impl Extend<Choice> for Choices {
    /// Adds choices that count before those for the same ops and inputs, which count where the new ones do not hold.
    fn extend<I: IntoIterator<Item = Choice>>(&mut self, choices: I) {
        for choice in choices {
            self.rows.entry((choice.op.clone(), choice.inputs.clone())).or_default().push(choice);
        }
    }
}

impl FromIterator<Choice> for Choices {
    fn from_iter<I: IntoIterator<Item = Choice>>(choices: I) -> Self {
        let mut all = Self::default();
        all.extend(choices);
        all
    }
}
