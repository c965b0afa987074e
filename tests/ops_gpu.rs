//! Every candidate of every case of every op equals the reference on a device: derived bounds, guards, NaN-filled memory, the same
//! bits twice. Without an adapter these tests fail and say how to get one.

use tilewise::gpu::device::DRIVER_ADVICE;
use tilewise::gpu::{DeviceChoice, Gpu, Limits};
use tilewise::ops::REGISTRY;
use tilewise::progress::unwatched;
use tilewise::selftest::{self, KernelReport};

/// The best adapter, as far as these limits go.
fn gpu(limits: Limits) -> Gpu {
    let gpu =
        pollster::block_on(Gpu::choose_within(&DeviceChoice::Auto, limits)).unwrap_or_else(|error| panic!("{error}"));
    gpu.unwrap_or_else(|| panic!("no GPU adapter was found: {DRIVER_ADVICE}"))
}

/// What the kernels that a device is offered did, all of which must hold.
fn reports(gpu: &Gpu) -> Vec<KernelReport> {
    let reports = selftest::run(gpu, 1, &mut unwatched).unwrap_or_else(|error| panic!("{error}"));
    let failures: Vec<String> = reports.iter().flat_map(|report| report.failures.clone()).collect();
    assert!(failures.is_empty(), "on {}:\n{}", gpu.adapter(), failures.join("\n"));
    assert!(reports.len() >= REGISTRY.len(), "every op has a kernel that ran");
    assert!(reports.iter().all(|report| report.cases > 0 && report.worst <= 1.0));
    reports
}

#[test]
fn every_kernel_equals_its_reference() {
    reports(&gpu(Limits::Adapter));
}

#[test]
fn every_kernel_that_any_browser_can_run_equals_its_reference() {
    let gpu = gpu(Limits::WebGpu);
    let adapter = gpu.adapter();
    assert_eq!(
        (adapter.max_binding_bytes, adapter.storage_buffers, adapter.workgroup_memory_bytes),
        (128 << 20, 8, 16 << 10)
    );
    assert!(adapter.subgroup_size.is_none() && !adapter.f16 && !gpu.profile().int64);
    let reports = reports(&gpu);
    let others = reports.iter().filter(|report| report.kernel.contains("subgroup"));
    assert_eq!(others.count(), 0, "kernels that need more are not offered");
}
