//! Kernels that a software driver translates when it first runs them, one after another: translated beforehand, on all cores.

use super::device::Gpu;
use super::kernel::Pipeline;
use super::source::Pieces;
use crate::error::Result;
use crate::op::Dispatch;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// For fewer kernels a device more costs more than it saves.
const KERNELS_PER_DEVICE: usize = 4;

/// Bytes to bind in place of a tensor or of params: more than an element of any, or all of them, have.
const BOUND_BYTES: u64 = 4096;

impl Gpu {
    /// Has a driver translate now what it would translate when it first runs it, of these kernels and the pieces of what they bind.
    ///
    /// A device of lavapipe translates one kernel at a time, and keeps it on disk for any other. So others on the same adapter take turns
    /// with this one, one for each core more. Where nothing is kept on disk, their work is lost: this device then translates their kernels
    /// when it runs them, and all of it takes as long as it would have.
    ///
    /// # Errors
    /// When a kernel does not compile, or this device has failed.
    pub(super) fn translate(&self, kernels: &[(&Dispatch, &[Pieces])]) -> Result<()> {
        if !self.translates_late() {
            return Ok(());
        }
        let mut late = Vec::new();
        for &(dispatch, pieces) in kernels {
            if !self.pipeline(dispatch, pieces)?.translated.swap(true, Ordering::Relaxed) {
                late.push((dispatch, pieces));
            }
        }
        let next = AtomicUsize::new(0);
        let take_turns = |gpu: &Self| -> Result<()> {
            while let Some(&(dispatch, pieces)) = late.get(next.fetch_add(1, Ordering::Relaxed)) {
                gpu.launch_nothing(&*gpu.pipeline(dispatch, pieces)?, pieces)?;
            }
            Ok(())
        };
        let devices = late.len().div_ceil(KERNELS_PER_DEVICE).min(rayon::current_num_threads());
        (0..devices).into_par_iter().with_max_len(1).try_for_each(|device| {
            if device == 0 {
                return take_turns(self);
            }
            if let Err(problem) = self.another().and_then(|gpu| take_turns(&gpu)) {
                tracing::debug!("another device to translate kernels: {problem}");
            }
            Ok(())
        })
    }

    /// Runs a kernel in no workgroup at all.
    fn launch_nothing(&self, pipeline: &Pipeline, pieces: &[Pieces]) -> Result<()> {
        let buffer = |usage| {
            let size = BOUND_BYTES;
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        self.submit("translating a kernel", |encoder| {
            let tensors = pieces.iter().map(Pieces::count).sum();
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
    use crate::gpu::{Plan, PlanOptions};
    use crate::models::{Training, UNet, Variant};
    use std::sync::PoisonError;

    #[test]
    fn a_plan_leaves_nothing_to_be_translated() {
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
}
