//! The rungs of every ladder on the best adapter, one after the other, by criterion: `cargo bench --bench ladder`.
//!
//! Inputs are random and each run is waited for. `tilewise ladder` checks the results and says how near each comes to the roof.

use criterion::{Criterion, criterion_group, criterion_main};
use tilewise::bench::LADDERS;
use tilewise::gpu::Gpu;
use tilewise::models::Precision;

fn rungs(criterion: &mut Criterion) {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    for ladder in LADDERS {
        let mut group = criterion.benchmark_group(format!("ladder/{}", ladder.name));
        group.sample_size(10);
        let case = ladder.case(&gpu, None, None, Precision::F32).unwrap_or_else(|error| panic!("{error}"));
        for (rung, plan) in ladder.plans(&gpu, &case, 1).unwrap_or_else(|error| panic!("{error}")) {
            group.bench_function(format!("{}/{}", rung.name, gpu.adapter()), |bencher| {
                bencher.iter(|| plan.run().and_then(|()| plan.wait()).unwrap_or_else(|error| panic!("{error}")));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, rungs);
criterion_main!(benches);
