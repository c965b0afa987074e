//! A program that draws, and a segmentation of what it draws, on the program's own device and in its own submit: a render pass draws a scene
//! into a texture, a network segments the texture, another render pass lays the result over the scene. Nothing leaves the device in between.
//!
//! `cargo run --release --example share_device -- OUT.png [WEIGHTS.safetensors]`
//!
//! Without weights a network is trained for half a minute at most, on the same device.

use std::error::Error;
use tilewise::checkpoint::Weights;
use tilewise::data::{Intensities, Prepared, cells};
use tilewise::executor::Device;
use tilewise::gpu::Gpu;
use tilewise::models::UNet;
use tilewise::picture::Picture;
use tilewise::predict::{Segmenter, Texels};
use tilewise::train::{Config, Trainer};
use tilewise::wgpu;

/// Pixels along a side of the scene.
const SIDE: u32 = 320;

/// Both passes draw a triangle that covers the target.
const SHADER: &str = "
@vertex
fn vertex(@builtin(vertex_index) index: u32) -> @builtin(position) vec4f {
    return vec4f(f32(index & 1u) * 4.0 - 1.0, f32(index & 2u) * 2.0 - 1.0, 0.0, 1.0);
}

@group(0) @binding(0) var<storage, read> field: array<f32>;

/// The scene: a microscope's field of view, seen through a round eyepiece.
@fragment
fn scene(@builtin(position) at: vec4f) -> @location(0) vec4f {
    let pixel = vec2u(at.xy);
    let grey = field[pixel.y * SIDE + pixel.x] / 255.0;
    let eyepiece = 1.0 - smoothstep(0.48, 0.5, distance(at.xy / f32(SIDE), vec2f(0.5)));
    return vec4f(vec3f(grey) * eyepiece, 1.0);
}

@group(0) @binding(0) var drawn: texture_2d<f32>;
@group(0) @binding(1) var<storage, read> probabilities: array<vec2f>; // background, foreground

/// The scene, with foreground in colour.
@fragment
fn overlay(@builtin(position) at: vec4f) -> @location(0) vec4f {
    let pixel = vec2u(at.xy);
    let scene = textureLoad(drawn, pixel, 0).rgb;
    let foreground = probabilities[pixel.y * SIDE + pixel.x].y;
    return vec4f(mix(scene, vec3f(0.1, 0.9, 0.5), 0.5 * smoothstep(0.5, 0.7, foreground)), 1.0);
}
";

/// The host program's part: device, textures, pipelines.
struct Host {
    device: wgpu::Device,
    queue: wgpu::Queue,
    shader: wgpu::ShaderModule,
}

impl Host {
    fn texture(&self, label: &str, usage: wgpu::TextureUsages) -> wgpu::Texture {
        self.device.create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size: wgpu::Extent3d { width: SIDE, height: SIDE, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: usage | wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        })
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let usage = usage | wgpu::BufferUsages::COPY_DST;
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    /// Records a pass that draws one of the shader's fragments over a whole texture.
    fn draw(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        fragment: &str,
        onto: &wgpu::Texture,
        entries: &[wgpu::BindingResource<'_>],
    ) {
        let pipeline = self.device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some(fragment),
            layout: None,
            vertex: wgpu::VertexState {
                module: &self.shader,
                entry_point: Some("vertex"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[],
            },
            primitive: wgpu::PrimitiveState::default(),
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &self.shader,
                entry_point: Some(fragment),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                targets: &[Some(onto.format().into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(entries)
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
        let bind_group = self.device.create_bind_group(&descriptor);
        let view = onto.create_view(&wgpu::TextureViewDescriptor::default());
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some(fragment),
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations::default(),
            })],
            ..Default::default()
        });
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.draw(0..3, 0..1);
    }
}

/// A network that has seen a little of what the scene shows.
fn trained(gpu: &Gpu) -> tilewise::Result<(UNet, Vec<f32>)> {
    let config = Config { base: 8, depth: 2, steps: 120, ..Config::default() };
    let net = config.model(1, 2);
    let samples = (0..8).map(|index| Prepared::new(cells::generate(1, index, 160), None));
    let samples = samples.collect::<tilewise::Result<Vec<_>>>()?;
    let device = Device::Gpu(gpu.clone());
    let mut trainer = Trainer::new(&config, net, net.legal_above(128), &device, samples)?;
    for _ in 0..config.steps {
        trainer.step()?;
    }
    Ok((net, trainer.weights()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (out, weights) = match arguments.as_slice() {
        [out] => (out, None),
        [out, weights] => (out, Some(weights)),
        _ => return Err("expected OUT.png [WEIGHTS.safetensors]".into()),
    };
    // A device such as any program that draws has one: it knows nothing of networks.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    let source = format!("const SIDE: u32 = {SIDE}u;\n{SHADER}");
    let shader = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("scene and overlay"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let host = Host { device, queue, shader };

    // The network is a guest on it.
    let gpu = Gpu::from_device(&adapter, host.device.clone(), host.queue.clone());
    let (net, parameters, intensities) = if let Some(weights) = weights {
        let weights = Weights::load(weights)?;
        let (net, parameters) = weights.network()?;
        (net, parameters, weights.intensities(&net)?)
    } else {
        let (net, parameters) = trained(&gpu)?;
        (net, parameters, Intensities::Standard)
    };
    if net.classes != 2 {
        return Err(format!(
            "the overlay shows one kind of foreground, the network tells {} classes apart",
            net.classes
        )
        .into());
    }
    let segmenter = Segmenter::new(&gpu, &net, &parameters, [SIDE as usize; 2], Texels::Rgba8, intensities)?;

    // One frame: draw, segment, draw over it.
    let field = cells::generate(1, 1000, SIDE as usize).image.pixels;
    let field_buffer = host.buffer(4 * field.len() as u64, wgpu::BufferUsages::STORAGE);
    host.queue.write_buffer(&field_buffer, 0, bytemuck::cast_slice(&field));
    let scene = host.texture("scene", wgpu::TextureUsages::TEXTURE_BINDING);
    let screen = host.texture("screen", wgpu::TextureUsages::empty());
    let scene_view = scene.create_view(&wgpu::TextureViewDescriptor::default());
    let probabilities = segmenter.probabilities()?;
    let mut encoder = host.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    host.draw(&mut encoder, "scene", &scene, &[field_buffer.as_entire_binding()]);
    segmenter.copy_from(&mut encoder, &scene)?;
    segmenter.record_into(&mut encoder);
    let seen =
        [wgpu::BindingResource::TextureView(&scene_view), probabilities.try_into().map_err(|()| "no probabilities")?];
    host.draw(&mut encoder, "overlay", &screen, &seen);

    // And a picture of it, for those who have no screen.
    let row = 4 * SIDE;
    let pixels = host.buffer(u64::from(row * SIDE), wgpu::BufferUsages::MAP_READ);
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None };
    let to = wgpu::TexelCopyBufferInfo { buffer: &pixels, layout };
    encoder.copy_texture_to_buffer(screen.as_image_copy(), to, screen.size());
    host.queue.submit([encoder.finish()]);
    pixels.map_async(wgpu::MapMode::Read, .., |_| {});
    host.device.poll(wgpu::PollType::wait_indefinitely())?;
    let bytes = pixels.get_mapped_range(..)?;
    let colours = bytes.chunks(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    Picture { width: SIDE as usize, height: SIDE as usize, rgb: colours }.write(out)?;
    println!("{out}: drawn, segmented and drawn over on {}", adapter.get_info().name);
    Ok(())
}
