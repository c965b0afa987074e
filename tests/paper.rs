//! The paper's network at its own size, 572×572 at base 64: minutes on a software driver, so only on request:
//! `cargo test --release --test paper -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::time::Instant;
use tilewise::compare::compare;
use tilewise::cpu;
use tilewise::gpu::{Choices, Gpu, MemoryPlan, Plan, PlanOptions};
use tilewise::graph::Bank;
use tilewise::models::{Training, UNet};
use tilewise::op::Fill;
use tilewise::random::Random;

#[test]
#[ignore = "takes minutes and gigabytes"]
fn the_papers_network_runs_and_its_logits_equal_the_reference() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let network = UNet::default().build(1, [572; 2]).unwrap();
    let mut step = network.training_step(&Training::default()).unwrap();
    step.graph.mark_output("logits", step.logits).unwrap();
    let planned = MemoryPlan::new(&step.graph.fused(), gpu.profile(), &Choices::default(), false).unwrap();
    println!("{}\n{planned}", gpu.adapter());
    let parameters = step.graph.initial_parameters(1);
    let mut random = Random::new(1, 1);
    let image = Fill::Normal(1.0).draw(&step.graph.node(step.image).tensor_type, &mut random);
    let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
    assert_eq!(planned.total_bytes(), plan.allocated_bytes());
    plan.write_bank(Bank::Parameters, &parameters).unwrap();
    plan.write(step.image, &image).unwrap();
    for (node, fill) in [
        (step.labels, Fill::Labels { classes: 2, ignore: None }),
        (step.weights, Fill::Positive),
        (step.rates, Fill::Constant(1e-3)),
    ] {
        plan.write(node, &fill.draw(&step.graph.node(node).tensor_type, &mut random)).unwrap();
    }
    let started = Instant::now();
    plan.run().unwrap();
    let loss = plan.read(step.loss).unwrap().float().data[0];
    println!("training step {:.1} s, loss {loss}", started.elapsed().as_secs_f64());
    assert!(loss.is_finite());
    let gradients = plan.read_bank(Bank::Gradients).unwrap();
    for parameter in step.graph.parameters() {
        let gradient = step.graph.bank_slice(&gradients, parameter);
        assert!(gradient.iter().all(|value| value.is_finite()), "{}", parameter.name);
        assert!(gradient.iter().any(|&value| value != 0.0), "{}", parameter.name);
    }
    let actual = plan.read(step.logits).unwrap();
    let actual = &actual.float().data;

    let mut forward = network.graph.clone();
    forward.mark_output("logits", network.logits).unwrap();
    let forward_plan = Plan::new(&gpu, &forward, PlanOptions::default()).unwrap();
    forward_plan.write_bank(Bank::Parameters, &parameters).unwrap();
    forward_plan.write(network.image, &image).unwrap();
    let started = Instant::now();
    forward_plan.run().unwrap();
    let again = forward_plan.read(network.logits).unwrap();
    println!("forward {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(&again.float().data, actual, "the same kernels in another plan give the same bits");
    drop(forward_plan);

    let mut banks = cpu::banks::<f64>(&forward, &parameters);
    let inputs = BTreeMap::from([(network.image, image.cast())]);
    let started = Instant::now();
    let outputs = cpu::evaluate(&forward, &inputs, &mut banks).unwrap();
    println!("f64 reference {:.1} s", started.elapsed().as_secs_f64());
    let expected = &outputs[&network.logits].float().data;
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let comparison = compare(actual, expected, &vec![1e-4; expected.len()]).unwrap_or_else(|error| panic!("{error}"));
    println!("logits up to {largest:.3}, off by at most {:.1e}", comparison.error);
}
