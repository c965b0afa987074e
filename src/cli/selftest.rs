//! `tilewise selftest`

use super::{Global, on, print, print_json};
use serde_json::json;
use std::fmt::Write;
use std::process::ExitCode;
use tilewise::executor::Device;
use tilewise::{Error, Result, selftest};

pub(crate) fn run(global: &Global) -> Result<ExitCode> {
    let Device::Gpu(gpu) = global.open_device()? else {
        return Err(Error::Device(format!(
            "the CPU executor is the reference itself, so there is nothing to test without an adapter: {}",
            tilewise::gpu::device::DRIVER_ADVICE
        )));
    };
    let seed = global.seed.unwrap_or(1);
    let bar = global.progress("{bar:30} {pos}/{len} cases, {eta} left");
    let mut reports = selftest::run(&gpu, seed, &mut on(&bar))?;
    bar.finish_and_clear();
    reports.push(selftest::training_step(&gpu, seed)?);
    let failed = reports.iter().filter(|report| !report.failures.is_empty()).count();
    if global.json {
        print_json(&json!({ "adapter": gpu.adapter(), "kernels": reports, "failed": failed }))?;
    } else {
        let mut text = String::from("kernel                        cases  worst error where its bound is\n");
        for report in &reports {
            let verdict = if !report.failures.is_empty() {
                "FAILED".to_owned()
            } else if report.worst == 0.0 {
                "exact".to_owned()
            } else {
                format!("{:.1e}  {:.1e}", report.error, report.bound)
            };
            let _ = writeln!(text, "{:<30}{:>5}  {verdict}", report.kernel, report.cases);
            for failure in &report.failures {
                let _ = writeln!(text, "    {failure}");
            }
        }
        let _ = match failed {
            0 => writeln!(text, "\nall {} hold on {}", reports.len(), gpu.adapter()),
            _ => writeln!(text, "\n{failed} of {} FAILED on {}", reports.len(), gpu.adapter()),
        };
        print(&text)?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
