//! A host with a device, a queue and a handler of its own, in whose submits tilewise takes part.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tilewise::gpu::{Plan, PlanOptions, Requirements};
use tilewise::models::UNet;
use tilewise::{Gpu, graph::Bank, wgpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let net = UNet { base_channels: 8, depth: 2, ..UNet::default() };
    let mut network = net.inference(1, [net.legal_above(100); 2])?;
    network.graph.mark_output("logits", network.logits)?;
    let needs = Requirements::of(&network.graph, &adapter)?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: needs.features,
        required_limits: needs.raise(wgpu::Limits::default()),
        ..Default::default()
    }))?;
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));

    let gpu = Gpu::from_device(&adapter, device.clone(), queue.clone());
    let plan = Plan::new(&gpu, &network.graph, PlanOptions::default())?;
    plan.write_bank(Bank::Parameters, &network.graph.initial_parameters(1))?;
    let (image, logits) = (plan.slice(network.image)?, plan.slice(network.logits)?);
    let ones = vec![1.0_f32; image.size() as usize / 4];
    queue.write_buffer(image.buffer(), image.offset(), bytemuck::cast_slice(&ones));
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let own = wgpu::BufferDescriptor { label: None, size: logits.size(), usage, mapped_at_creation: false };
    // The logits after a submit of the host's, with the network recorded into it or without.
    let submitted = |recorded: bool| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let own = device.create_buffer(&own);
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if recorded {
            plan.record_into(&mut encoder);
        }
        encoder.copy_buffer_to_buffer(logits.buffer(), logits.offset(), &own, 0, Some(logits.size()));
        queue.submit([encoder.finish()]);
        own.map_async(wgpu::MapMode::Read, .., |_| {});
        device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(bytemuck::pod_collect_to_vec(&own.get_mapped_range(..)?))
    };
    assert!(submitted(false)?.iter().all(|&logit| logit == 0.0), "something ran that the host had not submitted");
    assert!(submitted(true)?.iter().any(|&logit| logit != 0.0), "the host's submit computed nothing");
    assert_eq!(heard.load(Ordering::SeqCst), 0, "the host heard an error that was not its own");
    // A mistake of the host's own reaches its own handler.
    drop(device.create_buffer(&wgpu::BufferDescriptor { usage: wgpu::BufferUsages::empty(), ..own }));
    assert_eq!(heard.load(Ordering::SeqCst), 1, "the host's handler was taken away");
    println!("the network ran in the host's submit, and its handler heard its own mistake alone");
    Ok(())
}
