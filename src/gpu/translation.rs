//! Kernels that a software driver translates when it first runs them, one after another: translated beforehand, on all cores.

use super::device::Gpu;
use super::kernel::Program;
use super::source::Pieces;
use crate::error::Result;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// For fewer kernels a device more costs more than it saves.
const KERNELS_PER_DEVICE: usize = 4;

/// What is bound in place of a tensor, or of params, which are far smaller; kernels bind arrays, whose elements are, too.
const BOUND_BYTES: u64 = 4096;

impl Gpu {
    /// Whether kernels are translated when they are first run, and this can be done before: not on a host's device, since nothing is
    /// submitted to its queue behind its back.
    fn translates_late(&self) -> bool {
        // As Mesa's lavapipe calls its driver.
        !self.borrowed && self.adapter.get_info().driver == "llvmpipe"
    }

    /// Has a driver translate now what it would translate when it first runs it, of these kernels. What
    /// cannot be translated so is when it is run.
    ///
    /// A device of lavapipe translates one kernel at a time, and keeps it on disk for any other. So others on the same adapter take turns
    /// with this one, one for each core more. Where nothing is kept on disk, their work is lost: this device then translates their kernels
    /// when it runs them, and all of it takes as long as it would have.
    pub(super) fn translate(&self, kernels: &[Program<'_>]) {
        if !self.translates_late() {
            return;
        }
        let is_new = |&&kernel: &&Program<'_>| {
            self.pipeline(kernel).is_ok_and(|pipeline| !pipeline.translated.swap(true, Ordering::Relaxed))
        };
        let late: Vec<_> = kernels.iter().filter(is_new).collect();
        let next = AtomicUsize::new(0);
        let take_turns = |gpu: &Self| {
            while let Some(&&kernel) = late.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(problem) = gpu.launch_nothing(kernel) {
                    tracing::debug!("{} is translated when it is run: {problem}", kernel.dispatch.kernel.path);
                }
            }
        };
        let devices = late.len().div_ceil(KERNELS_PER_DEVICE).min(rayon::current_num_threads());
        (0..devices).into_par_iter().with_max_len(1).for_each(|device| {
            if device == 0 {
                take_turns(self);
            } else if next.load(Ordering::Relaxed) < late.len() {
                match self.another() {
                    Ok(gpu) => take_turns(&gpu),
                    Err(problem) => tracing::debug!("no other device to translate kernels: {problem}"),
                }
            }
        });
    }

    /// Runs a kernel in no workgroup at all, on buffers that it does not touch.
    fn launch_nothing(&self, kernel: Program<'_>) -> Result<()> {
        let pipeline = self.pipeline(kernel)?;
        let buffer = |usage| {
            let size = BOUND_BYTES;
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        self.submit("a launch without workgroups", |encoder| {
            let tensors = kernel.pieces.iter().map(Pieces::count).sum();
            let mut buffers: Vec<_> = (0..tensors).map(|_| buffer(wgpu::BufferUsages::STORAGE)).collect();
            if !pipeline.interface.params.is_empty() {
                buffers.push(buffer(wgpu::BufferUsages::UNIFORM));
            }
            let entries = (0..).zip(&buffers);
            let entries: Vec<_> = entries
                .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
                .collect();
            let layout = &pipeline.layout;
            let group =
                self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline.program);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(0, 0, 0);
        })?;
        self.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::kernel::Indices;
    use crate::gpu::{Plan, PlanOptions};
    use crate::models::{Training, UNet, Variant};
    use std::sync::PoisonError;

    #[test]
    fn every_kernel_of_a_plan_is_translated_once_and_none_of_a_host() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 2, depth: 1, dropout: 0.0 };
        let step = net.build(1, [net.legal_above(30); 2]).unwrap().training_step(&Training::default()).unwrap();
        let plan = |gpu: &Gpu| {
            Plan::new(gpu, &step.graph, PlanOptions::default()).unwrap();
            let pipelines = gpu.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
            let translated = pipelines.values().filter(|pipeline| pipeline.translated.load(Ordering::Relaxed)).count();
            (pipelines.len(), translated)
        };
        let (compiled, translated) = plan(&gpu);
        assert!(compiled > 2 * KERNELS_PER_DEVICE, "{compiled} kernels");
        assert_eq!(translated, if gpu.translates_late() { compiled } else { 0 });
        let borrowed = Gpu::from_device(&gpu.adapter, gpu.device.clone(), gpu.queue.clone());
        assert_eq!(plan(&borrowed), (compiled, 0), "a host's queue has what the host submits");
    }

    #[test]
    fn kernels_are_launched_with_nothing_to_do() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 4, depth: 1, dropout: 0.5 };
        let step = net.build(1, [net.legal_above(30); 2]).unwrap().training_step(&Training::default()).unwrap();
        let (plan, another) = (Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap(), gpu.another().unwrap());
        for (_, dispatch) in plan.dispatches() {
            let pieces = &vec![Pieces::From(Vec::new()); dispatch.bindings.len()];
            let launched = another.launch_nothing(Program { dispatch, pieces, indices: &Indices::Checked });
            launched.unwrap_or_else(|error| panic!("{}: {error}", dispatch.kernel.path));
        }
    }
}
