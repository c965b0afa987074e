//! Files of `torch.save`: a pickle that says which tensors there are, of which no code is run, and their numbers.

use super::weights::{Bytes, Entry};
use pytorch_reader::{DType, PytorchReader};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

/// What training scripts call the model's part of a checkpoint.
const PARTS: [&str; 3] = ["state_dict.", "model_state_dict.", "model."];

/// How the names begin that they give the optimiser's.
const OPTIMIZER: &str = "optim";

/// Whether a file that begins so is the zip archive or the row of pickles that `torch.save` writes.
pub(super) fn is_one(start: [u8; 8]) -> bool {
    matches!(start, [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..])
}

/// The tensors of a file of so many bytes, by their dotted names within the model.
///
/// The reader limits the pickle to 100 MiB and holds every length against the file. Strides may still repeat a few numbers at will, so the
/// tensors together may have no more bytes than the file.
pub(super) fn tensors(path: &Path, file_bytes: u64) -> Result<BTreeMap<String, Entry>, String> {
    let reader = PytorchReader::new(path).map_err(|error| {
        format!(
            "it looks like a PyTorch file, but cannot be read: {error}; convert it by python3 -c \"import torch, safetensors.torch as s; \
             s.save_file({{k: v.contiguous() for k, v in torch.load('IN.pt', map_location='cpu').items() if torch.is_tensor(v)}}, \
             'OUT.safetensors')\""
        )
    })?;
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
