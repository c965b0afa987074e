//! Resident memory stays what it is while a plan runs. The only test in its process, because it weighs the process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use tilewise::gpu::{Gpu, Plan, PlanOptions};
use tilewise::graph::Bank;
use tilewise::models::{Training, UNet};
use tilewise::op::Fill;
use tilewise::random::Random;

/// Bytes of the process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
}

/// Less than a fiftieth of what the steps write, so that no step can keep any of it.
const SLACK: u64 = 1 << 20;

#[test]
fn two_hundred_training_steps_leave_resident_memory_as_it_was() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let net = UNet { base_channels: 4, depth: 2, dropout: 0.5, ..UNet::default() };
    let step = net.build(2, [net.legal_above(160); 2]).unwrap().training_step(&Training::default()).unwrap();
    let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
    plan.write_bank(Bank::Parameters, &step.graph.initial_parameters(1)).unwrap();
    let mut random = Random::new(1, 0);
    // What a trainer does in a step: everything written anew, and the loss read.
    let mut train = |steps: usize| {
        for _ in 0..steps {
            for (node, fill) in [
                (step.image, Fill::Normal(1.0)),
                (step.labels, Fill::Labels { classes: 2, ignore: None }),
                (step.weights, Fill::Positive),
                (step.rates, Fill::Constant(1e-3)),
                (step.generator.unwrap(), Fill::Bits),
            ] {
                plan.write(node, &fill.draw(&step.graph.node(node).tensor_type, &mut random)).unwrap();
            }
            plan.run().unwrap();
            assert!(plan.read(step.loss).unwrap().float().data[0].is_finite());
        }
        resident()
    };
    let warm = train(50);
    let after = train(200);
    let written = step.graph.inputs().map(|node| step.graph.node(node).tensor_type.size_bytes()).sum::<u64>() * 200;
    assert!(written > 50 * SLACK, "a step that kept what was written to it would be noticed: {written} bytes");
    assert!(after <= warm + SLACK, "resident memory went from {warm} to {after} bytes in 200 steps");
}
