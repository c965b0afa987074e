//! Reading weights files that anyone may have written.

use super::OPTIMIZER;
use super::difference::Difference;
use super::layout::Layout;
use super::metadata::Metadata;
use super::names::Names;
use super::published::Published;
use super::save::{Section, held, save};
use super::{published, pytorch};
use crate::data::dataset::Mapping;
use crate::data::{Intensities, Zoom};
use crate::error::{Error, Result};
use crate::file;
use crate::graph::{Graph, Parameter};
use crate::models::UNet;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata as Header};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The largest file that is opened.
const LARGEST_FILE_BYTES: u64 = 16 << 30;
/// The largest head of a file.
const LARGEST_HEADER_BYTES: u64 = 16 << 20;
/// The most tensors in a file.
const MOST_TENSORS: usize = 10_000;
/// The most axes of a tensor.
const MOST_AXES: usize = 8;

/// A weights file whose head has been read and checked; the numbers are read when asked for.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    /// One reader at a time: the place in the file is shared.
    file: Mutex<File>,
    metadata: Metadata,
    tensors: BTreeMap<String, Entry>,
}

/// A tensor whose numbers are still in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Bytes,
}

/// Where a tensor's numbers are, little endian and in order.
#[derive(Debug)]
pub(super) enum Bytes {
    /// So many, from there on in the file.
    Within { start: u64, count: usize },
    /// Where the reader of `PyTorch`'s own files finds them.
    PyTorch(pytorch_reader::Tensor),
}

impl Weights {
    /// Opens a file and reads its head: of safetensors, or of what `torch.save` wrote.
    ///
    /// Nothing in the file is believed before it is checked: the file may have at most 16 GiB, its head 16 MiB and
    /// 10,000 tensors of up to 8 axes; the tensors of safetensors must cover the rest of the file exactly, those of a pickle may together
    /// not be larger than the file. So the numbers take no more memory than the file has bytes (twice that for half precision). A pickle,
    /// which may have 2 MiB, takes up to about 140 times as much while it is read; its code is not run.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it is no regular file, [`Error::Weights`] when it is truncated, of
    /// another format, or past a limit.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let fail = |problem: String| Error::Weights { path: path.clone(), problem };
        let io = |source| Error::io("read", &path, source);
        let mut file = file::open(&path)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        if file_bytes > LARGEST_FILE_BYTES {
            return Err(fail(format!("the file has {file_bytes} bytes, at most {LARGEST_FILE_BYTES} are accepted")));
        }
        let mut start = [0; 8];
        if file_bytes < 8 {
            return Err(fail(format!("the file has only {file_bytes} bytes: it is truncated or not safetensors")));
        }
        file.read_exact(&mut start).map_err(io)?;
        let (tensors, metadata) = if pytorch::is_one(start) {
            (pytorch::tensors(&path, start, &file, file_bytes).map_err(fail)?, Metadata::from_file(BTreeMap::new()))
        } else {
            let header_bytes = u64::from_le_bytes(start);
            if header_bytes > LARGEST_HEADER_BYTES {
                return Err(fail(foreign(start, header_bytes)));
            }
            let data_start = 8 + header_bytes;
            if data_start > file_bytes {
                return Err(fail(truncated(file_bytes, data_start)));
            }
            let mut header = vec![0; header_bytes as usize];
            file.read_exact(&mut header).map_err(io)?;
            entries(&header, data_start, file_bytes).map_err(fail)?
        };
        let tensors = published::unwrapped(tensors);
        if tensors.len() > MOST_TENSORS {
            return Err(fail(format!("the file has {} tensors, at most {MOST_TENSORS} are accepted", tensors.len())));
        }
        if let Some((name, entry)) = tensors.iter().find(|(_, entry)| entry.shape.len() > MOST_AXES) {
            let axes = entry.shape.len();
            return Err(fail(format!("tensor `{name}` has {axes} axes, at most {MOST_AXES} are accepted")));
        }
        match metadata.problem() {
            Some(problem) => Err(fail(problem)),
            None => Ok(Self { path, file: Mutex::new(file), metadata, tensors }),
        }
    }

    /// The weights under other names.
    ///
    /// # Errors
    /// [`Error::Data`] about the file of names when one of its lines fits no tensor, or two tensors would have one name.
    pub fn renamed(self, names: &Names) -> Result<Self> {
        Ok(Self { tensors: names.rename(self.tensors)?, ..self })
    }

    /// Opens a file, or the best (else the last) weights in the folder of a run.
    ///
    /// # Errors
    /// As [`Weights::load`]; [`Error::Weights`] when the folder has neither.
    pub fn find(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::load(path);
        }
        let mut files = ["best.safetensors", "last.safetensors"].into_iter().map(|name| path.join(name));
        let file = files.find(|file| file.exists()).ok_or_else(|| Error::Weights {
            path: path.into(),
            problem: "this folder has neither best.safetensors nor last.safetensors; give the folder that `train --out` wrote"
                .into(),
        })?;
        Self::load(file)
    }

    /// The network that the file says it belongs to, or, if it says nothing, the published one that has tensors of these names and shapes; and
    /// its parameter bank.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file names no network and is of none that is known, or of an impossible one; as [`Weights::bank_for`].
    pub fn network(&self) -> Result<(UNet, Vec<f32>)> {
        let Published { net, one_score } = self.published()?;
        let network = net.validate().and_then(|()| net.inference(1, [net.smallest_side(); 2]));
        let graph = network.map_err(|problem| self.error(problem.to_string()))?.graph;
        let parameters = self.bank(&graph, "", one_score)?;
        Ok((net, parameters))
    }

    /// The network alone, as [`Weights::network`] finds it, without a look at the numbers.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file names no network and is of none that is known.
    pub fn net(&self) -> Result<UNet> {
        Ok(self.published()?.net)
    }

    fn published(&self) -> Result<Published> {
        let net: Option<UNet> = self.metadata.get(Metadata::MODEL).map_err(|problem| self.error(problem))?;
        let shape = |name: &str| self.tensors.get(name).map(|entry| entry.shape.as_slice());
        let published = net.map(|net| Published { net, one_score: None }).or_else(|| published::network(shape));
        published.ok_or_else(|| {
            let known = "weights that `tilewise train` wrote, PyTorch's of milesial/Pytorch-UNet, brain-segmentation-pytorch or semseg, or \
                         --names that make its names those";
            self.error(format!("the file does not say which network it belongs to, nor do its tensors' names; give {known}"))
        })
    }

    /// What this network is to be given of images: what the file says; else, if training here wrote it, what that gives; else what the
    /// authors of the network do.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file says what is unknown.
    pub fn intensities(&self, net: &UNet) -> Result<Intensities> {
        let said = self.metadata.get(Metadata::INTENSITIES).map_err(|problem| self.error(problem))?;
        let own = self.metadata.entries().contains_key(Metadata::MODEL);
        Ok(said.unwrap_or(if own { Intensities::Standard } else { net.variant.intensities() }))
    }

    /// What the values of labels meant in the training that wrote the file, if it says so.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file says what is no mapping.
    pub fn mapping(&self) -> Result<Option<Mapping>> {
        self.metadata.get(Metadata::MAPPING).map_err(|problem| self.error(problem))
    }

    /// Writes the network's weights alone, with the names and layouts of `PyTorch` and what prediction needs to know of them, as a
    /// safetensors file.
    ///
    /// # Errors
    /// As [`Weights::network`], [`Weights::refuse_overwriting`] and [`save`].
    pub fn export(&self, path: &Path) -> Result<()> {
        self.refuse_overwriting(path)?;
        let (net, parameters) = self.network()?;
        let mut metadata = Metadata::new().with(Metadata::MODEL, &net);
        metadata = metadata.with(Metadata::INTENSITIES, &self.intensities(&net)?).with(Metadata::ZOOM, &self.zoom()?);
        if let Some(mapping) = self.mapping()? {
            metadata = metadata.with(Metadata::MAPPING, &mapping);
        }
        if let Some(side) = self.tile(&net)? {
            metadata = metadata.with(Metadata::TILE, &side);
        }
        let graph = net.inference(1, [net.smallest_side(); 2])?.graph;
        save(path, &graph, &[Section { prefix: "", bank: &parameters }], &metadata)
    }

    /// Refuses to write over this file, or over a run's own: these hold more than is exported, such as what the run needs to go on.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the file.
    pub fn refuse_overwriting(&self, path: &Path) -> Result<()> {
        let own = path.canonicalize().is_ok_and(|path| self.path().canonicalize().is_ok_and(|own| path == own));
        let problem = if own {
            "is what is exported"
        } else if Self::load(path).is_ok_and(|old| old.metadata().entries().contains_key(Metadata::STEP)) {
            "is a checkpoint of a run"
        } else {
            return Ok(());
        };
        Err(Error::Usage(format!("{} {problem}: write to another file", path.display())))
    }

    /// The side of the tiles that the network must be given since what it has learned holds for these alone: those of training, if it
    /// [stretches](UNet::stretches) its scores and the file tells.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file says what is no side.
    pub fn tile(&self, net: &UNet) -> Result<Option<usize>> {
        let trained_on: Option<usize> = self.metadata.get(Metadata::TILE).map_err(|problem| self.error(problem))?;
        Ok(trained_on.filter(|_| net.stretches()))
    }

    /// How much larger than they are the network is to be given images: what the file says, else not at all.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file says what is no such factor.
    pub fn zoom(&self) -> Result<Zoom> {
        let said = self.metadata.get(Metadata::ZOOM).map_err(|problem| self.error(problem))?;
        Ok(said.unwrap_or_default())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Names and shapes of the tensors, in `PyTorch`'s order of axes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// Whether the file holds a tensor whose name begins so.
    pub fn has(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    /// An [`Error::Weights`] about this file.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::Weights { path: self.path.clone(), problem: problem.into() }
    }

    /// The parameter bank for a graph, all or nothing.
    ///
    /// # Errors
    /// [`Error::Weights`] with the first differences when the file lacks a parameter of the graph, has one of another shape or
    /// type or one that the graph has not, or when a value is not finite; [`Error::Io`] when reading fails.
    pub fn bank_for(&self, graph: &Graph) -> Result<Vec<f32>> {
        self.bank_with(graph, "")
    }

    /// As [`Weights::bank_for`], from the tensors named `prefix` and the parameter's name.
    ///
    /// # Errors
    /// As [`Weights::bank_for`].
    pub fn bank_with(&self, graph: &Graph, prefix: &str) -> Result<Vec<f32>> {
        self.bank(graph, prefix, None)
    }

    fn bank(&self, graph: &Graph, prefix: &str, one_score: Option<&str>) -> Result<Vec<f32>> {
        let difference = self.difference(graph, prefix, one_score);
        if !difference.is_empty() {
            let whose = match self.metadata.entries().get(Metadata::MODEL) {
                Some(model) => format!("The file is for the network {model}: choose that one, or other weights."),
                None => "The file does not say which network it is for: choose other weights.".into(),
            };
            return Err(self.error(format!("not the weights of this network: {difference}\n{whose}")));
        }
        let mut bank = vec![0.0; graph.bank_elements()];
        for parameter in held(graph, prefix) {
            let name = format!("{prefix}{}", parameter.name);
            let mut theirs = self.read(&name)?;
            if let Some(value) = theirs.iter().find(|value| !value.is_finite()) {
                return Err(
                    self.error(format!("tensor `{name}` holds {value}: these weights diverged; take an older file"))
                );
            }
            if is_of(one_score, &name) {
                theirs = [vec![0.0; theirs.len()], theirs].concat();
            }
            let ours = &mut bank[parameter.offset..][..parameter.shape.elements()];
            Layout::of(graph, parameter).to_ours(&parameter.shape, &theirs, ours);
        }
        Ok(bank)
    }

    /// Where the file and the graph differ, of the tensors under `prefix`.
    fn difference(&self, graph: &Graph, prefix: &str, one_score: Option<&str>) -> Difference {
        let mut difference = Difference::default();
        let parameters: BTreeMap<String, &Parameter> =
            held(graph, prefix).map(|parameter| (format!("{prefix}{}", parameter.name), parameter)).collect();
        for (name, parameter) in &parameters {
            let network = Layout::of(graph, parameter).shape(&parameter.shape);
            let fits = |found: &[usize]| match (found, network.as_slice()) {
                ([1, found @ ..], [2, network @ ..]) if is_of(one_score, name) => found == network,
                (found, network) => found == network && !is_of(one_score, name),
            };
            match self.tensors.get(name) {
                None => difference.missing(name, network),
                Some(entry) if !fits(&entry.shape) => difference.misshapen(name, &entry.shape, network),
                Some(entry) if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) => {
                    difference.mistyped(name, format!("{:?}", entry.dtype));
                }
                Some(_) => {}
            }
        }
        for (name, entry) in &self.tensors {
            let another_section = prefix.is_empty() && name.starts_with(OPTIMIZER);
            if name.starts_with(prefix)
                && !another_section
                && !published::is_counter(name)
                && !parameters.contains_key(name)
            {
                difference.unexpected(name, &entry.shape);
            }
        }
        difference
    }

    /// The numbers of one tensor in `PyTorch`'s order.
    fn read(&self, name: &str) -> Result<Vec<f32>> {
        let io = |source| Error::io("read", &self.path, source);
        let entry = self.tensors.get(name).ok_or_else(|| self.error(format!("there is no tensor `{name}`")))?;
        let bytes = match &entry.bytes {
            Bytes::Within { start, count } => {
                let mut bytes = vec![0; *count];
                let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(*start)).map_err(io)?;
                file.read_exact(&mut bytes).map_err(io)?;
                bytes
            }
            Bytes::PyTorch(tensor) => tensor.read().map_err(|error| {
                self.error(format!("the numbers of `{name}` cannot be read: {error}; copy the file again"))
            })?,
        };
        let (words, halves) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<2>().0);
        Ok(match entry.dtype {
            Dtype::F16 => halves.iter().map(|&half| f16::from_le_bytes(half).to_f32()).collect(),
            Dtype::BF16 => halves.iter().map(|&half| bf16::from_le_bytes(half).to_f32()).collect(),
            _ => words.iter().map(|&word| f32::from_le_bytes(word)).collect(),
        })
    }
}

/// Whether a tensor is of the layer of this name.
fn is_of(layer: Option<&str>, name: &str) -> bool {
    layer.is_some_and(|layer| matches!(name.strip_prefix(layer), Some(".weight" | ".bias")))
}

/// The tensors that the head of safetensors speaks of, and what else it says.
fn entries(header: &[u8], data_start: u64, file_bytes: u64) -> Result<(BTreeMap<String, Entry>, Metadata), String> {
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| format!("not a safetensors file, or a damaged one: its head says {error}"))?;
    // The crate has checked that the tensors' bytes follow each other without gaps and fit their shapes.
    let expected = data_start.saturating_add(header.data_len() as u64);
    if file_bytes < expected {
        return Err(truncated(file_bytes, expected));
    }
    if file_bytes > expected {
        let more = file_bytes - expected;
        return Err(format!("{more} bytes follow the last tensor: the file is damaged; copy it again"));
    }
    let tensors = header.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let bytes = Bytes::Within { start: data_start + start as u64, count: end - start };
        (name, Entry { dtype: info.dtype, shape: info.shape.clone(), bytes })
    });
    let entries = header.metadata().iter().flatten();
    let metadata = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok((tensors.collect(), Metadata::from_file(metadata)))
}

/// What to say of a file that does not begin with the length of a head.
fn foreign(start: [u8; 8], header_bytes: u64) -> String {
    match start {
        [0x89, b'H', b'D', b'F', ..] => "this is an HDF5 file, not safetensors".into(),
        _ => format!("not a safetensors file: its head would have {header_bytes} bytes"),
    }
}

fn truncated(found: u64, expected: u64) -> String {
    format!(
        "the file ends after {found} of {expected} bytes: it is truncated; copy it again or take another checkpoint"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Section, save};
    use super::*;
    use crate::graph::Init;
    use proptest::prelude::*;
    use std::fs;
    use std::io::{Cursor, Write};
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    const VELOCITY: &str = "optim.momentum_buffer.";

    /// A graph of a weight of 3×2 taps from 4 to 5 channels and its bias.
    fn graph() -> Graph {
        let mut graph = Graph::new();
        graph.parameter("conv.weight", [3, 2, 4, 5], Init::Normal(1.0)).unwrap();
        graph.parameter("conv.bias", [5], Init::Normal(1.0)).unwrap();
        graph
    }

    /// A folder with `w.safetensors`: the graph's parameters, and a velocity of twice their value.
    fn saved() -> (tempfile::TempDir, PathBuf, Vec<f32>) {
        let (folder, graph) = (tempfile::tempdir().unwrap(), graph());
        let path = folder.path().join("w.safetensors");
        let bank = graph.initial_parameters(1);
        let velocity: Vec<f32> = bank.iter().map(|value| 2.0 * value).collect();
        let sections = [Section { prefix: "", bank: &bank }, Section { prefix: VELOCITY, bank: &velocity }];
        save(&path, &graph, &sections, &Metadata::new().with(Metadata::STEP, &7)).unwrap();
        (folder, path, bank)
    }

    /// The message of a file with these bytes.
    fn refusal(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.safetensors");
        fs::write(&path, bytes).unwrap();
        let result = Weights::load(&path).and_then(|weights| weights.bank_for(&graph()));
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("hostile.safetensors"), "{message}");
        message
    }

    /// A file of one head and some data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    /// A file of the graph's two tensors in a type, filled with copies of `element`.
    fn filled(dtype: &str, element: &[u8]) -> Vec<u8> {
        let [weight, all] = [120 * element.len(), 125 * element.len()];
        let header = format!(
            r#"{{"conv.weight":{{"dtype":"{dtype}","shape":[5,4,3,2],"data_offsets":[0,{weight}]}},
                "conv.bias":{{"dtype":"{dtype}","shape":[5],"data_offsets":[{weight},{all}]}}}}"#
        );
        file(&header, &element.repeat(125))
    }

    #[test]
    fn what_is_saved_is_loaded_in_every_section() {
        let (_folder, path, bank) = saved();
        let weights = Weights::load(&path).unwrap();
        assert_eq!(weights.metadata().get::<u64>(Metadata::STEP), Ok(Some(7)));
        assert_eq!(weights.bank_for(&graph()).unwrap(), bank);
        let velocity = weights.bank_with(&graph(), VELOCITY).unwrap();
        assert_eq!(velocity, bank.iter().map(|value| 2.0 * value).collect::<Vec<_>>());
        let shapes: Vec<_> = weights.tensors().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
        assert!(shapes.contains(&("conv.weight".into(), vec![5, 4, 3, 2])), "{shapes:?}");
    }

    #[test]
    fn several_threads_read_one_file() {
        let (_folder, path, bank) = saved();
        let weights = Weights::load(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| assert_eq!(weights.bank_for(&graph()).unwrap(), bank)));
            }
        });
    }

    #[test]
    fn a_missing_tensor_is_named_with_what_is_most_like_it() {
        let header = r#"{"conv.wieght":{"dtype":"F32","shape":[5,4,3,2],"data_offsets":[0,480]},
            "bias":{"dtype":"F32","shape":[6],"data_offsets":[480,504]}}"#;
        let message = refusal(&file(header, &[0; 504]));
        assert!(message.contains("the network has [5, 4, 3, 2], the file `conv.wieght` of that shape"), "{message}");
        assert!(!message.contains("`bias` of that shape"), "{message}");
    }

    #[test]
    fn a_wrapped_model_with_counters_of_batches_is_loaded() {
        let header = r#"{"module.conv.weight":{"dtype":"F32","shape":[5,4,3,2],"data_offsets":[0,480]},
            "module.conv.bias":{"dtype":"F32","shape":[5],"data_offsets":[480,500]},
            "module.norm.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[500,508]}}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrapped.safetensors");
        fs::write(&path, file(header, &[0; 508])).unwrap();
        let weights = Weights::load(&path).unwrap();
        assert!(weights.bank_for(&graph()).unwrap().iter().all(|&value| value == 0.0));
        let message = weights.network().unwrap_err().to_string();
        assert!(message.contains("nor do its tensors' names; give weights"), "{message}");
    }

    #[test]
    fn equal_weights_make_equal_files() {
        let ((_a, first, _), (_b, second, _)) = (saved(), saved());
        assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
    }

    #[test]
    fn half_precision_is_widened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.safetensors");
        for (dtype, element) in [("F16", f16::from_f32(1.5).to_le_bytes()), ("BF16", bf16::from_f32(1.5).to_le_bytes())]
        {
            fs::write(&path, filled(dtype, &element)).unwrap();
            let bank = Weights::load(&path).unwrap().bank_for(&graph()).unwrap();
            assert_eq!(bank[..120], [1.5; 120]);
        }
    }

    #[test]
    fn other_types_and_values_that_are_not_finite_are_refused() {
        let message = refusal(&filled("F64", &1.5_f64.to_le_bytes()));
        assert!(message.contains("F64") && message.contains("conv.weight"), "{message}");
        for value in [f32::NAN, f32::INFINITY] {
            let message = refusal(&filled("F32", &value.to_le_bytes()));
            assert!(message.contains("conv.weight") && message.contains("diverged"), "{message}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_called_truncated() {
        let (_folder, path, _) = saved();
        let whole = fs::read(path).unwrap();
        for length in 0..whole.len() {
            let message = refusal(&whole[..length]);
            assert!(message.contains("truncated"), "{length}: {message}");
        }
        assert!(refusal(&[&whole[..], b"x"].concat()).contains("1 bytes follow"));
    }

    #[test]
    fn foreign_files_are_named() {
        assert!(refusal(b"PK\x03\x04 a zip file with a pickle in it").contains("PyTorch"));
        assert!(refusal(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 a pickle").contains("PyTorch"));
        assert!(refusal(b"\x89HDF\r\n\x1a\n and more").contains("HDF5"));
        assert!(refusal(b"{\"json\": \"but not safetensors\"}").contains("not a safetensors file"));
        assert!(refusal(&file("{\"conv.weight\":3}", b"")).contains("not a safetensors file"));
        assert!(refusal(b"").contains("only 0 bytes"));
    }

    #[test]
    fn the_head_may_promise_nothing_that_the_file_does_not_hold() {
        let tensor = |shape: &str, end: u64| {
            file(&format!(r#"{{"conv.bias":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#), &[0; 20])
        };
        assert!(refusal(&tensor("[1000000000000]", 4_000_000_000_000)).contains("truncated"));
        assert!(refusal(&tensor("[4611686018427387904,4]", 20)).contains("overflow"));
        assert!(refusal(&tensor("[4]", 20)).contains("invalid shape"));
        assert!(refusal(&tensor("[1,1,1,1,1,1,1,1,5]", 20)).contains("9 axes"));
        let empty = |index: u32| format!(r#""t{index}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        let many = (0..10_001).map(empty).collect::<Vec<_>>().join(",");
        assert!(refusal(&file(&format!("{{{many}}}"), b"")).contains("10001 tensors"));
        let mut long = (LARGEST_HEADER_BYTES + 1).to_le_bytes().to_vec();
        long.extend(b"{}");
        assert!(refusal(&long).contains("head would have"));
        assert!(refusal(&file(&"[".repeat(100_000), b"")).contains("not a safetensors file"));
    }

    #[test]
    fn tensors_may_neither_share_bytes_nor_leave_gaps_nor_lie_outside() {
        let two = |first: [u64; 2], second: [u64; 2]| {
            let tensor = |name: &str, [start, end]: [u64; 2]| {
                let elements = end.saturating_sub(start) / 4;
                format!(r#""{name}":{{"dtype":"F32","shape":[{elements}],"data_offsets":[{start},{end}]}}"#)
            };
            file(&format!("{{{},{}}}", tensor("conv.weight", first), tensor("conv.bias", second)), &[0; 40])
        };
        for (first, second) in [
            ([0, 24], [20, 40]),
            ([0, 20], [24, 40]),
            ([4, 20], [20, 40]),
            ([0, 40], [0, 40]),
            ([0, 40], [40, 20]),
            ([0, 20], [u64::MAX - 19, u64::MAX]),
        ] {
            let message = refusal(&two(first, second));
            assert!(
                message.contains("not a safetensors file") || message.contains("truncated"),
                "{first:?} {second:?}: {message}"
            );
        }
        assert!(refusal(&two([0, 20], [20, 36])).contains("4 bytes follow"));
        assert!(refusal(&two([0, 20], [20, 44])).contains("truncated"));
        let tensor = r#""conv.bias":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}"#;
        assert!(refusal(&file(&format!("{{{tensor},{tensor}}}"), &[0; 20])).contains("hostile"));
    }

    #[test]
    fn which_network_it_is_is_told_without_the_numbers() {
        let net = UNet { base_channels: 1, depth: 1, ..UNet::default() };
        let graph = net.inference(1, [net.smallest_side(); 2]).unwrap().graph;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let section = Section { prefix: "", bank: &graph.initial_parameters(1) };
        save(&path, &graph, &[section], &Metadata::new().with(Metadata::MODEL, &net)).unwrap();
        let weights = Weights::load(&path).unwrap();
        // Whoever asks for numbers now finds none.
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8).unwrap();
        assert_eq!(weights.net().unwrap(), net);
        assert!(matches!(weights.network(), Err(Error::Io { .. })));
    }

    #[test]
    fn extents_without_elements_promise_nothing_either() {
        let header = r#"{"inc.double_conv.0.weight":{"dtype":"F32","shape":[4,4294967296,0,3],"data_offsets":[0,0]},
            "outc.conv.weight":{"dtype":"F32","shape":[2,0],"data_offsets":[0,0]},
            "down1.maxpool_conv.1.double_conv.0.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.safetensors");
        for in_channels in ["4294967296", "4000000000", "100000"] {
            fs::write(&path, file(&header.replace("4294967296", in_channels), b"")).unwrap();
            let error = Weights::load(&path).unwrap().network().unwrap_err();
            assert!(matches!(error, Error::Weights { .. }), "{error:?}");
        }
    }

    #[test]
    fn other_names_are_exchanged_before_anything_is_compared() {
        let (folder, path, bank) = saved();
        let mut theirs = Graph::new();
        theirs.parameter("net.c.w", [3, 2, 4, 5], Init::Zeros).unwrap();
        theirs.parameter("net.c.b", [5], Init::Zeros).unwrap();
        save(&path, &theirs, &[Section { prefix: "", bank: &bank }], &Metadata::new()).unwrap();
        let names = folder.path().join("names.toml");
        fs::write(&names, "\"net.c.w\" = \"conv.weight\"\n\"net.*.b\" = \"*onv.bias\"").unwrap();
        let weights = Weights::load(&path).unwrap().renamed(&Names::read(&names).unwrap()).unwrap();
        assert_eq!(weights.bank_for(&graph()).unwrap(), bank);
        fs::write(&names, "\"net.c.w\" = \"conv.wieght\"").unwrap();
        let weights = Weights::load(&path).unwrap().renamed(&Names::read(&names).unwrap()).unwrap();
        let message = weights.bank_for(&graph()).unwrap_err().to_string();
        assert!(
            message.contains("2 missing, 2 unexpected") && message.contains("`conv.wieght` of that shape"),
            "{message}"
        );
    }

    /// A file that `tests/golden/make_golden.py` wrote by `torch.save`.
    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
    }

    #[test]
    fn a_checkpoint_of_torch_save_is_read() {
        let graph = graph();
        let bank = Weights::load(golden("conv.pt")).unwrap().bank_for(&graph).unwrap();
        let theirs: Vec<f32> = (0..120_u8).map(f32::from).collect();
        let weight = &graph.parameters()[0];
        assert_eq!(Layout::Conv.to_pytorch(&weight.shape, graph.bank_slice(&bank, weight)), theirs);
        assert_eq!(graph.bank_slice(&bank, &graph.parameters()[1]), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn numbers_that_a_pickle_repeats_are_not_multiplied() {
        let message = Weights::load(golden("repeated.pt")).unwrap_err().to_string();
        assert!(message.contains("would take 48020 bytes, the file has 1901"), "{message}");
    }

    #[test]
    fn code_in_a_pickle_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let command = format!("touch {}", trace.display());
        // os.system(command), as the whole and as a value of a dictionary.
        let call = [b"cos\nsystem\n(X", &(command.len() as u32).to_le_bytes()[..], command.as_bytes(), b"tR"].concat();
        for pickle in [[b"\x80\x02", &call[..], b"."].concat(), [b"\x80\x02}X\x01\0\0\0a", &call[..], b"s."].concat()] {
            let message = refusal(&archive(&pickle, CompressionMethod::Stored));
            assert!(!trace.exists() && !message.contains("before 1.6"), "{message}");
            assert!(refusal(&pickle).contains("before 1.6"));
        }
    }

    /// What `torch.save` writes around a pickle.
    fn archive(pickle: &[u8], method: CompressionMethod) -> Vec<u8> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, content) in [("a/data.pkl", pickle), ("a/version", b"3\n")] {
            archive.start_file(name, options).unwrap();
            archive.write_all(content).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn a_pickle_that_would_fill_the_memory_is_refused_unread() {
        // Each byte leaves a value.
        let pickle = |values| [b"\x80\x02", &vec![b'N'; values][..], b"."].concat();
        let stored = archive(&pickle(3 << 20), CompressionMethod::Stored);
        let deflated = archive(&pickle(3 << 20), CompressionMethod::Deflated);
        assert!(deflated.len() < 10_000, "{}", deflated.len());
        for bytes in [stored, deflated] {
            let message = refusal(&bytes);
            assert!(message.contains("its pickle has 3145731 bytes, at most 2097152"), "{message}");
        }
        let message = refusal(&archive(&pickle(100), CompressionMethod::Deflated));
        assert!(message.contains("Expected a dictionary"), "it was read: {message}");
    }

    #[test]
    fn a_checkpoint_cut_anywhere_is_refused() {
        let whole = fs::read(golden("conv.pt")).unwrap();
        for length in (0..whole.len()).step_by(7) {
            refusal(&whole[..length]);
        }
    }

    #[test]
    fn another_networks_weights_are_tabulated() {
        let (_folder, path, _) = saved();
        let mut other = Graph::new();
        other.parameter("conv.weight", [3, 2, 4, 6], Init::Zeros).unwrap();
        for index in 0..23 {
            other.parameter(&format!("conv{index}.bias"), [6], Init::Zeros).unwrap();
        }
        let message = Weights::load(&path).unwrap().bank_for(&other).unwrap_err().to_string();
        assert!(message.contains("23 missing, 1 unexpected, 1 of another shape"), "{message}");
        assert!(message.contains("conv0.bias") && message.contains("… and 5 more"), "{message}");
        let only_shape = {
            let mut other = Graph::new();
            other.parameter("conv.weight", [3, 2, 4, 6], Init::Zeros).unwrap();
            other.parameter("conv.bias", [5], Init::Zeros).unwrap();
            Weights::load(&path).unwrap().bank_for(&other).unwrap_err().to_string()
        };
        assert!(only_shape.contains("the file has [5, 4, 3, 2], the network [6, 4, 3, 2]"), "{only_shape}");
    }

    #[test]
    fn a_folder_and_a_missing_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = Weights::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("regular file"), "{message}");
        let missing = folder.path().join("absent.safetensors");
        let error = Weights::load(&missing).unwrap_err();
        assert!(error.to_string().contains("cannot read") && error.exit_code() == 6, "{error}");
    }

    #[test]
    fn weights_that_diverged_are_not_saved() {
        let (_folder, path, mut bank) = saved();
        let before = fs::read(&path).unwrap();
        bank[121] = f32::NAN;
        // Padding between the slices is nobody's value.
        let error = |bank: &[f32]| save(&path, &graph(), &[Section { prefix: "", bank }], &Metadata::new());
        error(&bank).unwrap();
        fs::write(&path, &before).unwrap();
        bank[119] = f32::NAN;
        let error = error(&bank).unwrap_err();
        assert!(error.to_string().contains("conv.weight") && error.exit_code() == 7, "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    proptest! {
        /// So it is with a checkpoint of `torch.save`.
        #[test]
        fn a_damaged_checkpoint_never_panics(changes in prop::collection::vec((0_usize..3_391, any::<u8>()), 1..8)) {
            let mut bytes = fs::read(golden("conv.pt")).unwrap();
            for (position, value) in changes {
                bytes[position] = value;
            }
            let folder = tempfile::tempdir().unwrap();
            let damaged = folder.path().join("damaged.pt");
            fs::write(&damaged, bytes).unwrap();
            if let Err(error) = Weights::load(&damaged).and_then(|weights| weights.bank_for(&graph())) {
                prop_assert!(matches!(error, Error::Weights { .. }), "{error:?}");
            }
        }

        /// Whatever a file holds, it loads or is refused with an error of its own kind.
        #[test]
        fn damaged_bytes_never_panic(changes in prop::collection::vec((0_usize..1_500, any::<u8>()), 1..8)) {
            let (folder, path, _) = saved();
            let mut bytes = fs::read(&path).unwrap();
            for (position, value) in changes {
                let position = position % bytes.len();
                bytes[position] = value;
            }
            let damaged = folder.path().join("damaged.safetensors");
            fs::write(&damaged, bytes).unwrap();
            if let Err(error) = Weights::load(&damaged).and_then(|weights| weights.bank_for(&graph())) {
                prop_assert!(matches!(error, Error::Weights { .. }), "{error:?}");
            }
        }
    }
}
