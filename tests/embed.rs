//! In other people's programs: on a host's device, in its submits, from its threads, with images that are on the device.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;
use tilewise::array::{Array, Tensor};
use tilewise::checkpoint::Weights;
use tilewise::data::{Image, Intensities, LabelMap, Sample, Truth};
use tilewise::executor::{Device, Executor};
use tilewise::gpu::{Limit, Plan, PlanOptions, Requirements};
use tilewise::graph::{Bank, Graph, NodeId};
use tilewise::models::{UNet, Variant};
use tilewise::predict::{Predictor, Segmenter, Texels};
use tilewise::random::Random;
use tilewise::shape::TensorType;
use tilewise::train::{Config, Trainer};
use tilewise::{Error, Gpu, wgpu};

const fn shared_between_threads<T: Send + Sync>() {}
const _: () = {
    shared_between_threads::<Gpu>();
    shared_between_threads::<Graph>();
    shared_between_threads::<Plan>();
    shared_between_threads::<Executor>();
    shared_between_threads::<Predictor>();
    shared_between_threads::<Segmenter>();
    shared_between_threads::<Trainer>();
    shared_between_threads::<Weights>();
    shared_between_threads::<Error>();
};

fn adapter() -> wgpu::Adapter {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let options = wgpu::RequestAdapterOptions::default();
    pollster::block_on(instance.request_adapter(&options)).unwrap()
}

/// A device as a host would have it that knows nothing of this library: default limits, no features.
fn host(limits: wgpu::Limits) -> (wgpu::Adapter, wgpu::Device, wgpu::Queue) {
    let adapter = adapter();
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    (adapter, device, queue)
}

/// How many errors the host's own handler hears of.
fn counted_errors(device: &wgpu::Device) -> Arc<AtomicUsize> {
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    heard
}

fn encoder(device: &wgpu::Device) -> wgpu::CommandEncoder {
    device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}

fn net(variant: Variant, in_channels: usize) -> UNet {
    UNet { variant, in_channels, classes: 2, base_channels: 4, depth: 2, dropout: 0.0 }
}

fn parameters(net: &UNet) -> Vec<f32> {
    net.inference(1, [net.legal_above(60); 2]).unwrap().graph.initial_parameters(3)
}

fn image([height, width]: [usize; 2], channels: usize) -> Image {
    let mut random = Random::new(5, 0);
    let pixels = (0..height * width * channels).map(|_| random.below(256) as f32).collect();
    Image { height, width, channels, bit_depth: 8, pixels, alpha_dropped: false }
}

/// y = relu(x) with x to be written.
fn relu() -> (Graph, NodeId, NodeId) {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([1, 4, 4, 1]).unwrap());
    let y = graph.relu("y", x).unwrap();
    graph.mark_output("y", y).unwrap();
    (graph, x, y)
}

fn sixteen(value: impl Fn(usize) -> f32) -> Tensor<f32> {
    let shape = TensorType::f32([1, 4, 4, 1]).unwrap().shape;
    Array::new(shape, (0..16).map(value).collect()).unwrap().into()
}

#[test]
fn a_host_records_and_submits_by_itself() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    // wgpu numbers submits: how many there were, this one included.
    let submits = || -> u64 {
        let index = format!("{:?}", queue.submit([]));
        index.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let before = submits();
    let gpu = Gpu::from_device(&adapter, device.clone(), queue.clone());
    let (graph, x, y) = relu();
    let plan = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap();
    plan.write(x, &sixteen(|i| i as f32 - 8.0)).unwrap();
    // The result goes into a buffer of the host's, in the same submit.
    let result = plan.slice(y).unwrap();
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: result.size(), usage, mapped_at_creation: false };
    let own = device.create_buffer(&descriptor);
    let mut encoder = encoder(&device);
    plan.record_into(&mut encoder);
    encoder.copy_buffer_to_buffer(result.buffer(), result.offset(), &own, 0, Some(result.size()));
    assert_eq!(submits(), before + 1, "all submits are the host's");
    queue.submit([encoder.finish()]);
    own.map_async(wgpu::MapMode::Read, .., |outcome| outcome.unwrap());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&own.get_mapped_range(..).unwrap());
    assert_eq!(found, sixteen(|i| (i as f32 - 8.0).max(0.0)).float().data);
}

#[test]
fn compiled_kernels_are_kept_if_the_host_has_asked_for_the_feature() {
    let adapter = adapter();
    let offered = adapter.features() & wgpu::Features::PIPELINE_CACHE;
    for required_features in [wgpu::Features::empty(), offered] {
        let descriptor = wgpu::DeviceDescriptor { required_features, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
        let heard = counted_errors(&device);
        let folder = tempfile::tempdir().unwrap();
        let gpu = Gpu::from_device(&adapter, device, queue).with_pipeline_cache(folder.path());
        let (graph, x, y) = relu();
        let plan = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap();
        plan.write(x, &sixteen(|i| i as f32 - 8.0)).unwrap();
        plan.run().unwrap();
        assert_eq!(plan.read(y).unwrap(), sixteen(|i| (i as f32 - 8.0).max(0.0)));
        drop((plan, gpu));
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((files, heard.load(Ordering::SeqCst)), (usize::from(!required_features.is_empty()), 0));
    }
}

#[test]
fn a_host_keeps_its_handlers() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let heard = counted_errors(&device);
    let gpu = Gpu::from_device(&adapter, device.clone(), queue);
    let (graph, x, y) = relu();
    let plan = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap();
    let mistake = || {
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: 4,
            usage: wgpu::BufferUsages::empty(),
            mapped_at_creation: false,
        };
        drop(device.create_buffer(&descriptor));
    };
    mistake();
    assert_eq!(heard.load(Ordering::SeqCst), 1, "the host hears of its own mistakes");
    // They are none of ours: what is done here goes on.
    plan.write(x, &sixteen(|_| 1.0)).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.read(y).unwrap(), sixteen(|_| 1.0));
    assert_eq!(heard.load(Ordering::SeqCst), 1);
}

#[test]
fn what_a_device_lacks_is_named_with_what_to_ask_for() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([1, 256, 256, 40]).unwrap());
    let y = graph.relu("y", x).unwrap();
    graph.mark_output("y", y).unwrap();
    let low = wgpu::Limits { max_storage_buffer_binding_size: 1 << 20, ..Default::default() };
    let (adapter, device, queue) = host(low.clone());
    let error = Plan::new(&Gpu::from_device(&adapter, device, queue), &graph, PlanOptions::default()).unwrap_err();
    let message = error.to_string();
    let bytes = 4 * 40 * 256 * 256;
    let advice = "max_storage_buffers_per_shader_stage: 20 (gpu::Requirements tells)";
    for part in ["`y`", "pieces of up to 1048576 bytes, needs 20 storage buffers", advice] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // Where the device admits as many, the tensors are in pieces.
    let (piece_adapter, device, queue) = host(wgpu::Limits { max_storage_buffer_binding_size: 4 << 20, ..low.clone() });
    Plan::new(&Gpu::from_device(&piece_adapter, device, queue), &graph, PlanOptions::default()).unwrap();
    // All that is missing is named at once.
    let lower = wgpu::Limits { max_compute_invocations_per_workgroup: 16, ..low.clone() };
    let (lower_adapter, device, queue) = host(lower);
    let gpu = Gpu::from_device(&lower_adapter, device, queue);
    let message = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap_err().to_string();
    for limit in ["max_storage_buffers_per_shader_stage: ", "max_compute_invocations_per_workgroup: "] {
        assert!(message.contains(limit), "{limit}: {message}");
    }
    let needs = Requirements::of(&graph, &adapter).unwrap();
    assert!(!needs.features.intersects(wgpu::Features::all_experimental_mask()), "those need the host's own consent");
    let limits = needs.raise(low);
    assert_eq!(limits.max_storage_buffer_binding_size, bytes);
    assert_eq!(limits.max_compute_workgroup_storage_size, wgpu::Limits::default().max_compute_workgroup_storage_size);
    let binding = needs.needs.iter().find(|need| need.limit == Limit::Binding).unwrap();
    assert!(binding.amount == bytes && binding.of.contains("`x`"));
    let (adapter, device, queue) = host(limits);
    Plan::new(&Gpu::from_device(&adapter, device, queue), &graph, PlanOptions::default()).unwrap();
}

#[test]
fn plans_share_a_device_from_several_threads() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    thread::scope(|scope| {
        for number in 0..4 {
            let gpu = &gpu;
            scope.spawn(move || {
                let (graph, x, y) = relu();
                let plan = Plan::new(gpu, &graph, PlanOptions::default()).unwrap();
                for round in 0..20 {
                    let value = (number * 100 + round) as f32;
                    plan.write(x, &sixteen(|i| value - i as f32)).unwrap();
                    plan.run().unwrap();
                    assert_eq!(plan.read(y).unwrap(), sixteen(|i| (value - i as f32).max(0.0)));
                }
            });
        }
    });
    // And one plan is read from several threads.
    let (graph, x, y) = relu();
    let plan = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap();
    plan.write(x, &sixteen(|i| i as f32)).unwrap();
    plan.run().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(plan.read(y).unwrap(), sixteen(|i| i as f32)));
        }
    });
}

/// A plan whose runs are several submits is run by several threads; none may come between the submits of another.
#[test]
fn runs_of_several_submits_stay_whole() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    let net = net(Variant::Unet, 1);
    let mut network = net.inference(1, [net.legal_above(60); 2]).unwrap();
    network.graph.mark_output("logits", network.logits).unwrap();
    let plan = |longest_submit| {
        let options = PlanOptions { longest_submit, ..PlanOptions::default() };
        let plan = Plan::new(&gpu, &network.graph, options).unwrap();
        plan.write_bank(Bank::Parameters, &parameters(&net)).unwrap();
        let side = net.legal_above(60);
        let pixels = image([side; 2], 1).pixels;
        let shape = TensorType::f32([1, side, side, 1]).unwrap().shape;
        plan.write(network.image, &Array::new(shape, pixels).unwrap().into()).unwrap();
        plan
    };
    let whole = plan(Duration::from_secs(1));
    whole.run().unwrap();
    let expected = whole.read(network.logits).unwrap();
    let cut = plan(Duration::from_nanos(1));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| cut.run().unwrap()));
        }
    });
    assert_eq!(cut.read(network.logits).unwrap(), expected);
}

#[test]
fn a_result_is_awaited_while_the_host_polls() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device.clone(), queue);
    let (graph, x, y) = relu();
    let plan = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap();
    plan.write(x, &sixteen(|i| i as f32)).unwrap();
    plan.run().unwrap();
    let found = Mutex::new(None);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            pollster::block_on(plan.wait_async()).unwrap();
            *found.lock().unwrap() = Some(pollster::block_on(plan.read_async(y)).unwrap());
        });
        while !reading.is_finished() {
            device.poll(wgpu::PollType::Poll).unwrap();
            thread::yield_now();
        }
    });
    assert_eq!(found.into_inner().unwrap(), Some(sixteen(|i| i as f32)));
    assert!(pollster::block_on(plan.read_async(x)).unwrap_err().to_string().contains("only outputs"));
}

/// A prediction and two steps of training, awaited by one thread while another polls, and blocking: the same bits.
#[test]
fn prediction_and_training_are_awaited_while_the_host_polls() {
    fn sent<F: Future + Send>(future: F) -> F {
        future
    }
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Device::Gpu(Gpu::from_device(&adapter, device.clone(), queue));
    let config = Config { base: 2, depth: 1, batch: 2, workers: NonZeroUsize::MIN, ..Config::default() };
    let [height, width] = [40, 48];
    let mut random = Random::new(7, 0);
    let pixels = (0..height * width).map(|_| random.normal()).collect();
    let image = Image { height, width, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
    let values = image.pixels.iter().map(|&value| u32::from(value > 0.0)).collect();
    let sample =
        Sample { name: "a".into(), image: image.clone(), truth: Truth::Classes(LabelMap { height, width, values }) };
    let net = config.model(1, 2);
    let trainer = || Trainer::new(&config, net, 20, &gpu, vec![config.prepared(sample.clone()).unwrap()]).unwrap();
    let (mut blocking, mut awaited) = (trainer(), trainer());
    let expected_steps = [blocking.step().unwrap(), blocking.step().unwrap()];
    let weights = blocking.weights().unwrap();
    let predictor = || Predictor::new(gpu.clone(), net, weights.clone(), Some([20; 2])).unwrap();
    let expected = predictor().predict(&image).unwrap();
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            pollster::block_on(sent(async {
                let steps = [awaited.step_async().await.unwrap(), awaited.step_async().await.unwrap()];
                assert_eq!(steps, expected_steps);
                let mut tiles = 0;
                let mut count = |_, total| {
                    tiles = total;
                    ControlFlow::Continue(())
                };
                assert_eq!(predictor().predict_async(&image, &mut count).await.unwrap(), expected);
                assert!(tiles > 1);
                let parameters = awaited.parameters_async().await.unwrap();
                let stop = predictor().predict_async(&image, &mut |_, _| ControlFlow::Break(())).await;
                assert!(matches!(stop, Err(Error::Interrupted)));
                parameters
            }))
        });
        while !working.is_finished() {
            device.poll(wgpu::PollType::Poll).unwrap();
            thread::yield_now();
        }
        assert_eq!(working.join().unwrap(), blocking.parameters().unwrap());
    });
}

/// A step that is broken off before it is made leaves the next one on the same batch.
#[test]
fn a_step_that_nobody_awaits_to_its_end_takes_no_batch() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Device::Gpu(Gpu::from_device(&adapter, device, queue));
    // So small a rate leaves the weights as they are, so that the loss is that of the batch.
    let (workers, learning_rate) = (NonZeroUsize::MIN, Some(1e-30));
    let config = Config { base: 2, depth: 1, batch: 1, workers, learning_rate, ..Config::default() };
    let [height, width] = [64, 64];
    let mut random = Random::new(3, 0);
    let pixels: Vec<f32> = (0..height * width).map(|_| random.normal()).collect();
    let values = pixels.iter().map(|&value| u32::from(value > 0.5)).collect();
    let image = Image { height, width, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
    let sample = Sample { name: "a".into(), image, truth: Truth::Classes(LabelMap { height, width, values }) };
    let losses = |broken_off: usize| -> Vec<f32> {
        let samples = vec![config.prepared(sample.clone()).unwrap()];
        let mut trainer = Trainer::new(&config, config.model(1, 2), 20, &gpu, samples).unwrap();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..broken_off {
            assert!(pin!(trainer.step_async()).poll(&mut context).is_pending());
        }
        (0..4).map(|_| trainer.step().unwrap().loss).collect()
    };
    let whole = losses(0);
    assert!(whole.windows(2).all(|pair| pair[0].to_bits() != pair[1].to_bits()), "batches differ: {whole:?}");
    assert_eq!(losses(2), whole);
}

/// A device that is busy with long runs measures them while it is awaited, too.
#[test]
fn a_first_run_that_is_measured_is_awaited() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    let (mut graph, x, y) = relu();
    let y = graph.relu("again", y).unwrap();
    graph.mark_output("again", y).unwrap();
    let options = PlanOptions { longest_submit: Duration::from_nanos(1), ..PlanOptions::default() };
    let plan = Plan::new(&gpu, &graph, options).unwrap();
    plan.write(x, &sixteen(|i| 1.0 - i as f32)).unwrap();
    let read = gpu.block_on(async {
        plan.run_async().await?;
        plan.run_async().await?;
        plan.read_async(y).await
    });
    assert_eq!(read.unwrap(), sixteen(|i| if i == 0 { 1.0 } else { 0.0 }));
}

/// What happens to a device is an error of the call that meets it, and nothing panics.
#[test]
fn a_device_that_is_gone_is_an_error() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let heard = counted_errors(&device);
    let gpu = Gpu::from_device(&adapter, device.clone(), queue);
    let (graph, x, y) = relu();
    let plan = Plan::new(&gpu, &graph, PlanOptions::default()).unwrap();
    device.destroy();
    let outcomes = [plan.write(x, &sixteen(|_| 1.0)), plan.run(), plan.read(y).map(drop)];
    assert!(outcomes.iter().any(Result::is_err), "{outcomes:?}");
    assert!(Plan::new(&gpu, &graph, PlanOptions::default()).is_err());
    assert_eq!(heard.load(Ordering::SeqCst), 0, "our errors are no business of the host's handler");
}

/// The texels of an image, without gaps between rows.
fn texels(image: &Image, order: [usize; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in image.pixels.chunks(image.width * image.channels) {
        for pixel in row.chunks(image.channels) {
            bytes.extend(order.map(|channel| pixel[channel.min(image.channels - 1)] as u8));
            bytes.push(255);
        }
    }
    bytes
}

/// A texture that can be copied.
fn described([height, width]: [usize; 2], format: wgpu::TextureFormat) -> wgpu::TextureDescriptor<'static> {
    wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: wgpu::TextureUsages::COPY_SRC | wgpu::TextureUsages::COPY_DST,
        view_formats: &[],
    }
}

/// A texture with these texels.
fn texture(gpu: &Gpu, size: [usize; 2], format: wgpu::TextureFormat, bytes: &[u8]) -> wgpu::Texture {
    let texture = gpu.device().create_texture(&described(size, format));
    let (width, size) = (size[1], texture.size());
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(4 * width as u32), rows_per_image: None };
    gpu.queue().write_texture(texture.as_image_copy(), bytes, layout, size);
    texture
}

#[test]
fn a_host_may_ask_what_a_segmenter_needs_before_there_is_a_device() {
    let low = wgpu::Limits { max_storage_buffer_binding_size: 1 << 12, max_buffer_size: 1 << 12, ..Default::default() };
    let (net, size, intensities) = (net(Variant::Milesial, 1), [70, 90], Intensities::Unit);
    let segmenter = |limits: wgpu::Limits| {
        let (adapter, device, queue) = host(limits);
        let gpu = Gpu::from_device(&adapter, device, queue);
        Segmenter::new(&gpu, &net, &parameters(&net), size, Texels::Floats, intensities)
    };
    assert!(matches!(segmenter(low.clone()), Err(Error::Memory(_))));
    let needs = Segmenter::requirements(&net, size, Texels::Floats, intensities, &adapter()).unwrap();
    segmenter(needs.raise(low)).unwrap();
}

#[test]
fn what_is_on_the_device_is_segmented_as_what_is_in_memory() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    for (variant, channels, size) in
        [(Variant::Unet, 1, [61, 90]), (Variant::Unet, 3, [1, 1]), (Variant::Milesial, 3, [70, 33])]
    {
        let (net, image) = (net(variant, channels), image(size, channels));
        let intensities = if variant == Variant::Milesial { Intensities::Unit } else { Intensities::Standard };
        let predictor = Predictor::new(Device::Gpu(gpu.clone()), net, parameters(&net), None).unwrap();
        let mut predictor = predictor.given(intensities);
        assert_eq!(predictor.tiles_for(size[0], size[1]).unwrap(), 1);
        let expected = predictor.predict(&image).unwrap();
        for how in [Texels::Floats, Texels::Rgba8, Texels::Bgra8] {
            let segmenter = Segmenter::new(&gpu, &net, &parameters(&net), size, how, intensities).unwrap();
            let mut encoder = encoder(gpu.device());
            if how == Texels::Floats {
                let mut floats = image.clone();
                if intensities == Intensities::Unit {
                    intensities.prepare(&mut floats).unwrap();
                }
                let input = segmenter.input().unwrap();
                gpu.queue().write_buffer(input.buffer(), input.offset(), bytemuck::cast_slice(&floats.pixels));
            } else {
                let (format, order) = match how {
                    Texels::Rgba8 => (wgpu::TextureFormat::Rgba8UnormSrgb, [0, 1, 2]),
                    _ => (wgpu::TextureFormat::Bgra8Unorm, [2, 1, 0]),
                };
                let texture = texture(&gpu, size, format, &texels(&image, order));
                segmenter.copy_from(&mut encoder, &texture).unwrap();
            }
            segmenter.record_into(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
            let [logits, probabilities, labels] = ["logits", "probabilities", "labels"].map(|name| {
                let outputs = segmenter.plan().graph().outputs();
                let &(_, node) = outputs.iter().find(|(output, _)| output == name).unwrap();
                segmenter.plan().read(node).unwrap()
            });
            // Both round, and not in the same order; an image of one pixel is all zeros once it is normalised.
            let largest = expected.logits.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
            for (found, expected) in [(&logits, &expected.logits), (&probabilities, &expected.probabilities)] {
                assert_eq!(found.float().data.len(), expected.len());
                for (found, expected) in found.float().data.iter().zip(expected) {
                    assert!(
                        (found - expected).abs() <= 1e-4 * largest.max(1.0),
                        "{variant} {how:?}: {found}, {expected}"
                    );
                }
            }
            let apart = labels.uint().data.iter().zip(&expected.labels).filter(|(one, other)| one != other).count();
            assert!(apart * 100 <= expected.labels.len(), "{variant} {how:?}: {apart} labels differ");
        }
    }
}

#[test]
fn what_does_not_fit_a_segmenter_is_refused() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    let one = net(Variant::Unet, 1);
    let segmenter =
        |net: &UNet, size| Segmenter::new(&gpu, net, &parameters(net), size, Texels::Rgba8, Intensities::Standard);
    assert!(segmenter(&one, [0, 5]).unwrap_err().to_string().contains("nothing to segment"));
    assert!(segmenter(&net(Variant::Unet, 4), [8, 8]).unwrap_err().to_string().contains("3 colours"));
    let segmenter = segmenter(&one, [8, 8]).unwrap();
    let refused = |descriptor: &wgpu::TextureDescriptor<'_>| {
        let texture = gpu.device().create_texture(descriptor);
        segmenter.copy_from(&mut encoder(gpu.device()), &texture).unwrap_err().to_string()
    };
    let rgba = wgpu::TextureFormat::Rgba8Unorm;
    assert!(refused(&described([9; 2], rgba)).contains("9×9 pixels"));
    assert!(refused(&described([8; 2], wgpu::TextureFormat::Bgra8Unorm)).contains("Bgra8Unorm"));
    let usage = wgpu::TextureUsages::COPY_DST;
    assert!(refused(&wgpu::TextureDescriptor { usage, ..described([8; 2], rgba) }).contains("COPY_SRC"));
    let usage = wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC;
    let samples = wgpu::TextureDescriptor { sample_count: 4, usage, ..described([8; 2], rgba) };
    assert!(refused(&samples).contains("4 sample(s)"));
    let volume = wgpu::TextureDescriptor { dimension: wgpu::TextureDimension::D3, ..described([8; 2], rgba) };
    assert!(refused(&volume).contains("D3"));
}

/// A frame of one grey level is all zeros once it is normalised, at whatever level and size.
#[test]
fn a_frame_of_one_grey_level_is_nothing_to_a_segmenter() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    let net = UNet { base_channels: 1, depth: 1, ..net(Variant::Unet, 1) };
    let size = [121, 167];
    let parameters = parameters(&net);
    let segmenter = Segmenter::new(&gpu, &net, &parameters, size, Texels::Floats, Intensities::Standard).unwrap();
    let logits = |level: f32| {
        let input = segmenter.input().unwrap();
        gpu.queue().write_buffer(input.buffer(), input.offset(), bytemuck::cast_slice(&vec![level; size[0] * size[1]]));
        let mut encoder = encoder(gpu.device());
        segmenter.record_into(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        let &(_, node) = segmenter.plan().graph().outputs().iter().find(|(output, _)| output == "logits").unwrap();
        segmenter.plan().read(node).unwrap()
    };
    let black = logits(0.0);
    for level in 1..=255 {
        assert_eq!(logits(level as f32), black, "{level}");
    }
}

#[test]
fn networks_that_cannot_be_are_refused() {
    let (adapter, device, queue) = host(wgpu::Limits::default());
    let gpu = Gpu::from_device(&adapter, device, queue);
    let deep = UNet { depth: 70, ..net(Variant::Unet, 1) };
    let outcomes = [
        Segmenter::new(&gpu, &deep, &[], [8, 8], Texels::Rgba8, Intensities::Standard).map(drop),
        Predictor::new(Device::Gpu(gpu.clone()), deep, vec![], None).map(drop),
    ];
    for outcome in outcomes {
        assert!(outcome.unwrap_err().to_string().contains("1 to 7 poolings"));
    }
    let one = net(Variant::Unet, 1);
    let mut predictor = Predictor::new(Device::Gpu(gpu), one, parameters(&one), None).unwrap();
    assert!(predictor.set_parameters(vec![0.0; 3]).unwrap_err().to_string().contains("got 3"));
}
