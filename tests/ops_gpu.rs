//! Every candidate of every case of every op equals the reference on a device: derived bounds, guards, NaN-filled memory, the same
//! bits twice. Without an adapter these tests fail and say how to get one.

use tilewise::gpu::Gpu;
use tilewise::ops::REGISTRY;
use tilewise::selftest;

#[test]
fn every_kernel_equals_its_reference() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let reports = selftest::run(&gpu, 1, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));
    let failures: Vec<String> = reports.iter().flat_map(|report| report.failures.clone()).collect();
    assert!(failures.is_empty(), "on {}:\n{}", gpu.adapter(), failures.join("\n"));
    assert!(reports.len() >= REGISTRY.len(), "every op has a kernel that ran");
    assert!(reports.iter().all(|report| report.cases > 0 && report.worst <= 1.0));
}
