//! Files of `torch.save`: a pickle that says which tensors there are, of which no code is run, and their numbers.

use super::weights::{Bytes, Entry};
use pytorch_reader::{DType, PytorchReader};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use zip::ZipArchive;
use zip::result::ZipResult;

/// What training scripts call the model's part of a checkpoint.
const PARTS: [&str; 3] = ["state_dict.", "model_state_dict.", "model."];

/// How the names begin that they give the optimiser's.
const OPTIMIZER: &str = "optim";

/// The largest pickle: a tensor takes some 150 bytes of it, its state in the optimiser as much again, and each byte up to about 140 bytes of
/// memory while it is read, since any byte may be an instruction that leaves a value.
const LARGEST_PICKLE_BYTES: u64 = 2 << 20;

/// How the name of a pickle ends in an archive.
const PICKLE: &str = "data.pkl";

/// What makes safetensors of any file of `torch.save`.
const CONVERT: &str = "convert it by python3 -c \"import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in \
                       torch.load('IN.pt', map_location='cpu').items() if torch.is_tensor(v)}, 'OUT.safetensors')\"";

/// How the zip archive begins that `torch.save` writes.
const ARCHIVE: &[u8] = b"PK\x03\x04";

/// Whether a file that begins so is that archive, or the row of pickles that `PyTorch` wrote before 1.6.
pub(super) fn is_one(start: [u8; 8]) -> bool {
    start.starts_with(ARCHIVE) || matches!(start, [0x80, 2..=5, ..])
}

/// The tensors of a file of so many bytes that begins so, by their dotted names within the model.
///
/// The reader holds every length against the file. Strides may still repeat a few numbers at will, so the tensors together may have no more
/// bytes than the file.
pub(super) fn tensors(
    path: &Path,
    start: [u8; 8],
    file: &File,
    file_bytes: u64,
) -> Result<BTreeMap<String, Entry>, String> {
    if !start.starts_with(ARCHIVE) {
        let again = "torch.save(torch.load('IN.pt', map_location='cpu'), 'OUT.pt')";
        return Err(format!(
            "a file of PyTorch before 1.6, which is not read; save it again by python3 -c \"import torch; {again}\""
        ));
    }
    let unreadable =
        |error: &dyn Display| format!("it looks like a PyTorch file, but cannot be read: {error}; {CONVERT}");
    let pickle_bytes = largest_pickle(file).map_err(|error| unreadable(&error))?;
    if pickle_bytes > LARGEST_PICKLE_BYTES {
        return Err(format!(
            "its pickle has {pickle_bytes} bytes, at most {LARGEST_PICKLE_BYTES} are accepted; {CONVERT}"
        ));
    }
    let reader = PytorchReader::new(path).map_err(|error| unreadable(&error))?;
    let bytes: u128 = reader.tensors().values().map(|tensor| tensor.byte_len() as u128).sum();
    if bytes > u128::from(file_bytes) {
        return Err(format!(
            "the tensors would take {bytes} bytes, the file has {file_bytes}: numbers are used several times; save it with \
             safetensors.torch.save_file"
        ));
    }
    let tensors = reader.into_tensors();
    // Beside the model's part there is at most the optimiser's.
    let belongs = |part: &str, name: &str| name.starts_with(part) || name.starts_with(OPTIMIZER);
    let part = PARTS.into_iter().find(|part| {
        tensors.keys().all(|name| belongs(part, name)) && tensors.keys().any(|name| name.starts_with(part))
    });
    let part = part.unwrap_or_default();
    let tensors = tensors.into_iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(part)?.to_owned();
        let (dtype, shape) = (dtype(tensor.dtype()), tensor.shape().to_vec());
        Some((name, Entry { dtype, shape, bytes: Bytes::PyTorch(tensor) }))
    });
    Ok(tensors.collect())
}

/// The bytes of the largest pickle of an archive, which are no more when they are unpacked: the reader takes no more than the archive says.
fn largest_pickle(file: &File) -> ZipResult<u64> {
    let archive = ZipArchive::new(BufReader::new(file))?;
    let mut largest = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index)?;
        if entry.name()?.ends_with(PICKLE) {
            largest = largest.max(entry.size());
        }
    }
    Ok(largest)
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
