//! `tilewise devices`

use super::{Global, print, print_json};
use std::fmt::Write;
use std::process::ExitCode;
use tilewise::Result;
use tilewise::gpu::{adapters, device::DRIVER_ADVICE};

pub(crate) fn run(global: &Global) -> Result<ExitCode> {
    let adapters = adapters(global.limits)?;
    if global.json {
        print_json(&adapters)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for (index, adapter) in adapters.iter().enumerate() {
        let subgroup = match adapter.subgroup_size {
            None => "no subgroups".to_owned(),
            Some((least, most)) if least == most => format!("subgroups of {least}"),
            Some((least, most)) => format!("subgroups of {least} to {most}"),
        };
        let matrices = adapter.matrix_side.map(|side| format!("matrices of {side}×{side}, ")).unwrap_or_default();
        let mebibytes = |bytes: u64| bytes >> 20;
        let _ = writeln!(
            text,
            "{} {}\n    {} on {}, driver {}\n    bindings to {} MiB, buffers to {} MiB, {} storage buffers, {} KiB workgroup memory, \
             {} invocations, {subgroup}, f16 {}, {matrices}timestamps {}",
            index,
            adapter.name,
            if adapter.is_software() { "software driver, not a GPU," } else { adapter.kind },
            adapter.backend,
            adapter.driver,
            mebibytes(adapter.max_binding_bytes),
            mebibytes(adapter.max_buffer_bytes),
            adapter.storage_buffers,
            adapter.workgroup_memory_bytes >> 10,
            adapter.max_workgroup_invocations,
            if adapter.f16 { "yes" } else { "no" },
            if adapter.timestamps { "yes" } else { "no" },
        );
    }
    if adapters.is_empty() {
        let _ = writeln!(text, "no GPU adapter was found; to get one, {DRIVER_ADVICE}");
    }
    text.push_str("cpu CPU executor\n    the reference itself in f32, always there: `--device cpu`\n");
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
