//! Writing weights files.

use super::OPTIMIZER;
use super::atomic::{self, Files};
use super::layout::Layout;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::graph::{Graph, Parameter};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A bank to save: each parameter's slice becomes a tensor named `prefix` and the parameter's name.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Nothing for the parameters themselves, [`state_prefix`](super::state_prefix) for the optimiser's state.
    pub prefix: &'a str,
    /// The bank's elements.
    pub bank: &'a [f32],
}

/// The head of a safetensors file; sorted, so that equal weights make equal bytes.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// Writes banks of `graph` as a safetensors file, replacing what was there atomically.
///
/// # Errors
/// [`Error::Diverged`] when a value is not finite, [`Error::Graph`] when a bank is not the graph's, and as
/// [`atomic::write`]. The old file is then still there.
pub fn save(path: &Path, graph: &Graph, sections: &[Section<'_>], metadata: &Metadata) -> Result<()> {
    save_with(&atomic::Disk, path, graph, sections, metadata)
}

/// As [`save`], through the given [`Files`].
pub(super) fn save_with(
    files: &impl Files,
    path: &Path,
    graph: &Graph,
    sections: &[Section<'_>],
    metadata: &Metadata,
) -> Result<()> {
    check(path, graph, sections)?;
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (section, parameter) in pairs(sections, graph) {
        let start = end;
        end += 4 * parameter.shape.elements();
        let shape = Layout::of(graph, parameter).shape(&parameter.shape);
        let info = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) };
        tensors.insert(format!("{}{}", section.prefix, parameter.name), info);
    }
    let header = Header { metadata: metadata.entries(), tensors };
    let mut header =
        serde_json::to_vec(&header).map_err(|error| Error::io("write", path, std::io::Error::other(error)))?;
    // Readers that map the file want the data aligned to 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write_with(files, path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (section, parameter) in pairs(sections, graph) {
            let ours = graph.bank_slice(section.bank, parameter);
            let theirs = Layout::of(graph, parameter).to_pytorch(&parameter.shape, ours);
            let bytes: Vec<u8> = theirs.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// The parameters that have a tensor in the section named so: optimisers keep no state of buffers, and what of a training's own state is
/// such a buffer is not part of the network.
pub(super) fn held<'a>(graph: &'a Graph, prefix: &str) -> impl Iterator<Item = &'a Parameter> + use<'a> {
    let network = prefix.is_empty();
    graph
        .parameters()
        .iter()
        .filter(move |parameter| parameter.trainable || network && !parameter.name.starts_with(OPTIMIZER))
}

/// Every tensor to write, in order.
fn pairs<'a>(sections: &'a [Section<'a>], graph: &'a Graph) -> impl Iterator<Item = (&'a Section<'a>, &'a Parameter)> {
    sections.iter().flat_map(|section| held(graph, section.prefix).map(move |parameter| (section, parameter)))
}

/// Refuses banks that could not be loaded again.
fn check(path: &Path, graph: &Graph, sections: &[Section<'_>]) -> Result<()> {
    for section in sections {
        let (expected, found) = (graph.bank_elements(), section.bank.len());
        if expected != found {
            let problem = format!("the bank has {expected} elements, got {found}");
            return Err(Error::Graph { op: "save".into(), node: section.prefix.into(), problem });
        }
    }
    for (section, parameter) in pairs(sections, graph) {
        let values = graph.bank_slice(section.bank, parameter);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let (prefix, name, path) = (section.prefix, &parameter.name, path.display());
            return Err(Error::Diverged(format!("`{prefix}{name}` holds {value}, so {path} is not written")));
        }
    }
    Ok(())
}
