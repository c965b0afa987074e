//! Weights files: any bytes, and any text as the head of an otherwise well-formed file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use tilewise::checkpoint::Weights;

/// Bytes behind a head that would else be refused as truncated.
const DATA: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else { return };
    let bytes = if how % 4 == 0 {
        data.to_vec()
    } else {
        [&(data.len() as u64).to_le_bytes(), data, &[how; DATA][..]].concat()
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), bytes).expect("a temporary file");
    if let Ok(weights) = Weights::load(file.path()) {
        let _ = weights.network();
    }
});
