//! One kernel on a GPU with nothing but wgpu: what every layer above this does, too.
//!
//! `cargo run --release --example hello_kernel`

use tilewise::wgpu;

/// One invocation owns one number.
const KERNEL: &str = "
@group(0) @binding(0) var<storage, read_write> numbers: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x < arrayLength(&numbers) {
        numbers[id.x] = sqrt(numbers[id.x]);
    }
}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A device and the queue that work is handed to.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;

    // Numbers on the device, and a buffer that the host can read.
    let numbers: Vec<f32> = (0..100).map(|i| (i * i) as f32).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&numbers);
    let buffer = |usage| {
        let size = bytes.len() as u64;
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let usages = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let (on_device, readable) = (buffer(usages), buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST));
    queue.write_buffer(&on_device, 0, bytes);

    // The kernel, compiled, and what it is bound to.
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("square roots"),
        source: wgpu::ShaderSource::Wgsl(KERNEL.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("square roots"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: on_device.as_entire_binding() }],
    });

    // Two workgroups of 64 for a hundred numbers, then a copy to where the host can read them.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &bind_group, &[]);
    pass.dispatch_workgroups(2, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&on_device, 0, &readable, 0, None);
    queue.submit([encoder.finish()]);

    // Nothing has been waited for so far.
    readable.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let roots: Vec<f32> = bytemuck::pod_collect_to_vec(&readable.get_mapped_range(..)?);
    println!("on {}: √81 = {}, √9801 = {}", adapter.get_info().name, roots[9], roots[99]);
    let wrong = roots.iter().enumerate().find(|&(i, root)| (root - i as f32).abs() > 1e-4);
    wrong.map_or(Ok(()), |(i, root)| Err(format!("the root of {i} squared came out as {root}").into()))
}
