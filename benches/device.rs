//! The roof of the best adapter: what `tilewise bench` measures of a device, by criterion. `cargo bench --bench device`.

use criterion::{Criterion, criterion_group, criterion_main};
use tilewise::bench::roof::Probe;
use tilewise::gpu::Gpu;

fn roof(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("device");
    group.sample_size(10);
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let halves = Probe::multiply_add_f16(&gpu, 1).transpose();
    let mut probes: Vec<_> = halves.map(|probe| ("multiply_add_f16", probe)).into_iter().collect();
    probes.extend([
        ("multiply_add", Probe::multiply_add(&gpu, 1)),
        ("copy", Probe::copy(&gpu, 1)),
        ("dispatches", Probe::dispatches(&gpu)),
        ("submit", Probe::submit(&gpu)),
    ]);
    for (name, probe) in probes {
        let probe = probe.unwrap_or_else(|error| panic!("{name}: {error}"));
        group.bench_function(format!("{name}/{}", gpu.adapter()), |bencher| {
            bencher.iter(|| probe.run().unwrap_or_else(|error| panic!("{error}")));
        });
    }
    group.finish();
}

criterion_group!(benches, roof);
criterion_main!(benches);
