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
    /// A checksum of all candidates that there were, and of the texts of their kernels.
    pub candidates: String,
    /// The chosen one: its kernels, their constants and workgroups.
    pub kernels: String,
    /// The median of its times.
    pub seconds: f64,
    /// The median of the times of the candidate that is taken without a choice, unless that one was wrong.
    pub default_seconds: Option<f64>,
}

/// What is chosen for: an op with settings, the types of its inputs, and the candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) op: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) candidates: String,
}

impl Question {
    pub(crate) fn new(op: &dyn AnyOp, inputs: &[TensorType], candidates: &[Candidate]) -> Self {
        let mut checksum = 0;
        let mut add = |text: &str| checksum = crc32c::crc32c_append(checksum, text.as_bytes());
        for candidate in candidates {
            add(&candidate.to_string());
            candidate.dispatches.iter().for_each(|dispatch| add(dispatch.kernel.source));
        }
        Self {
            op: format!("{}: {op:?}", op.name()),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            candidates: format!("{checksum:08x}"),
        }
    }
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
    rows: BTreeMap<(String, Vec<String>), Choice>,
}

impl Choices {
    /// This candidate of every op, or its last one.
    pub fn nth(candidate: usize) -> Self {
        Self { otherwise: candidate, rows: BTreeMap::new() }
    }

    /// The choices, ordered by op and inputs.
    pub fn rows(&self) -> impl Iterator<Item = &Choice> {
        self.rows.values()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The position of the candidate that a choice names, if there is one that holds.
    pub(crate) fn chosen(&self, op: &dyn AnyOp, inputs: &[TensorType], candidates: &[Candidate]) -> Option<usize> {
        if self.is_empty() || candidates.len() < 2 {
            return None;
        }
        let Question { op, inputs, candidates: checksum } = Question::new(op, inputs, candidates);
        let choice = self.rows.get(&(op, inputs)).filter(|choice| choice.candidates == checksum)?;
        candidates.iter().position(|candidate| candidate.to_string() == choice.kernels)
    }

    /// The position of the candidate to take; `None` if there is not any.
    pub(super) fn among(&self, op: &dyn AnyOp, inputs: &[TensorType], candidates: &[Candidate]) -> Option<usize> {
        let last = candidates.len().checked_sub(1)?;
        Some(self.chosen(op, inputs, candidates).unwrap_or(self.otherwise.min(last)))
    }
}

impl Extend<Choice> for Choices {
    /// Adds choices, in place of those for the same op and inputs.
    fn extend<I: IntoIterator<Item = Choice>>(&mut self, choices: I) {
        self.rows.extend(choices.into_iter().map(|choice| ((choice.op.clone(), choice.inputs.clone()), choice)));
    }
}

impl FromIterator<Choice> for Choices {
    fn from_iter<I: IntoIterator<Item = Choice>>(choices: I) -> Self {
        let mut all = Self::default();
        all.extend(choices);
        all
    }
}
