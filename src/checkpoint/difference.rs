//! In which tensors a file and a network differ, as a table for an error message.

use std::fmt;

/// One tensor that keeps a file from being the network's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Missing(Vec<usize>),
    Unexpected(Vec<usize>),
    Misshapen { file: Vec<usize>, network: Vec<usize> },
    Mistyped(String),
}

/// The tensors in which a file and a network differ.
#[derive(Clone, Debug, Default)]
pub(super) struct Difference {
    lines: Vec<(String, Line)>,
}

/// How many tensors a message lists.
const LISTED: usize = 20;

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn missing(&mut self, name: &str, network: Vec<usize>) {
        self.lines.push((name.into(), Line::Missing(network)));
    }

    pub(super) fn unexpected(&mut self, name: &str, file: &[usize]) {
        self.lines.push((name.into(), Line::Unexpected(file.to_vec())));
    }

    pub(super) fn misshapen(&mut self, name: &str, file: &[usize], network: Vec<usize>) {
        self.lines.push((name.into(), Line::Misshapen { file: file.to_vec(), network }));
    }

    pub(super) fn mistyped(&mut self, name: &str, file: String) {
        self.lines.push((name.into(), Line::Mistyped(file)));
    }

    /// The unexpected tensor of this shape whose name is most like this one, if it is like it at all.
    fn nearest(&self, name: &str, shape: &[usize]) -> Option<&str> {
        let unexpected = self.lines.iter().filter(|(_, line)| matches!(line, Line::Unexpected(file) if file == shape));
        // Names of any length would take any time.
        let unexpected = unexpected.filter(|(other, _)| other.len() <= 200);
        let likeness = unexpected.map(|(other, _)| (strsim::normalized_levenshtein(name, other), other.as_str()));
        let nearest = likeness.max_by(|(one, _), (other, _)| one.total_cmp(other));
        nearest.filter(|(likeness, _)| *likeness >= 0.5).map(|(_, name)| name)
    }

    fn count(&self, kind: fn(&Line) -> bool) -> usize {
        self.lines.iter().filter(|(_, line)| kind(line)).count()
    }
}

impl fmt::Display for Difference {
    /// A sentence that counts, then the first tensors, one a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.count(|line| matches!(line, Line::Missing(_))), "missing"),
            (self.count(|line| matches!(line, Line::Unexpected(_))), "unexpected"),
            (self.count(|line| matches!(line, Line::Misshapen { .. })), "of another shape"),
            (self.count(|line| matches!(line, Line::Mistyped(_))), "of an unsupported type"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        write!(f, "tensors {}", counts.join(", "))?;
        let width = self.lines.iter().take(LISTED).map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, line) in self.lines.iter().take(LISTED) {
            match line {
                Line::Missing(network) => {
                    write!(f, "\n  missing     {name:width$}  the network has {network:?}")?;
                    if let Some(near) = self.nearest(name, network) {
                        write!(f, ", the file `{near}` of that shape")?;
                    }
                }
                Line::Unexpected(file) => write!(f, "\n  unexpected  {name:width$}  the file has {file:?}")?,
                Line::Misshapen { file, network } => {
                    write!(f, "\n  shape       {name:width$}  the file has {file:?}, the network {network:?}")?;
                }
                Line::Mistyped(file) => {
                    write!(f, "\n  type        {name:width$}  the file has {file}, accepted are F32, F16 and BF16")?;
                }
            }
        }
        match self.lines.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}
