//! An op from outside the crate, hard swish (Howard et al. 2019): its kernels, its reference, its gradient, and the checks that every op of the
//! crate passes.
//!
//! `cargo run --release --example custom_op`

use std::sync::Arc;
use tilewise::array::{Array, Real, Tensor};
use tilewise::gpu::{Plan, PlanOptions};
use tilewise::gradcheck::gradcheck;
use tilewise::graph::NodeId;
use tilewise::op::{
    Backward, Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op, UNIT_ROUNDOFF, workgroup_grid,
};
use tilewise::selftest::check_case;
use tilewise::shape::{DType, TensorType};
use tilewise::{Gpu, Graph, Result};

/// In a crate with a folder of shaders: `tilewise::kernel!("hard_swish/forward")`.
const FORWARD: Kernel = Kernel {
    path: "hard_swish/forward",
    source: "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
struct Params { count: u32 }
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let i = id.x + id.y * groups.x * 64u;
    if i < params.count {
        y[i] = x[i] * clamp(x[i] + 3.0, 0.0, 6.0) / 6.0;
    }
}
",
};

const GRAD_INPUT: Kernel = Kernel {
    path: "hard_swish/grad_input",
    source: "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> grad_output: array<f32>;
@group(0) @binding(2) var<storage, read_write> grad_input: array<f32>;
struct Params { count: u32 }
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let i = id.x + id.y * groups.x * 64u;
    if i < params.count {
        let inside = (2.0 * x[i] + 3.0) / 6.0;
        grad_input[i] = grad_output[i] * select(select(inside, 1.0, x[i] >= 3.0), 0.0, x[i] <= -3.0);
    }
}
",
};

/// y = x · clamp(x + 3, 0, 6) / 6.
#[derive(Debug)]
struct HardSwish;

/// dx = dy · (0 below −3, 1 above 3, else (2x + 3) / 6); inputs x and dy.
#[derive(Debug)]
struct HardSwishGrad;

/// A kernel with an invocation for each element. It is told how many there are, since a buffer may be longer than its tensor.
fn launch(kernel: Kernel, bindings: Vec<Binding>, output: &TensorType) -> Vec<Candidate> {
    let count = output.shape.elements();
    let params = vec![("count", count.into())];
    vec![
        Dispatch { kernel, constants: vec![], bindings, params, workgroups: workgroup_grid(count.div_ceil(64)) }.into(),
    ]
}

/// Each element by a sum, two products and a quotient, of which each rounds once (a quotient by up to 2.5 units; sums near zero not at all);
/// and the smallest numbers may count as zero.
fn bound(output: &Tensor<f64>) -> Bound {
    let error = |value: &f64| 8.0 * UNIT_ROUNDOFF * value.abs() + f64::from(f32::MIN_POSITIVE);
    Bound::Elements(output.float().data.iter().map(error).collect())
}

impl Op for HardSwish {
    fn name(&self) -> &'static str {
        "hard_swish"
    }
    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] if x.dtype == DType::F32 => Ok(x.clone()),
            _ => Err(format!("expected one tensor of floats, got {inputs:?}")),
        }
    }
    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, three, six) = (inputs[0].float(), T::from_f64(3.0), T::from_f64(6.0));
        let data = x.data.iter().map(|&x| x * (x + three).max(T::zero()).min(six) / six).collect();
        vec![Array { shape: x.shape.clone(), data }.into()]
    }
    fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        launch(FORWARD, vec![Binding::Input(0), Binding::Output], output)
    }
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.inputs[0], backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", HardSwishGrad, &inputs)?)])
    }
    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        3 * output.shape.elements() as u64
    }
    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        bound(output)
    }
}

impl Op for HardSwishGrad {
    fn name(&self) -> &'static str {
        "hard_swish_grad"
    }
    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x, grad_output] if x == grad_output && x.dtype == DType::F32 => Ok(x.clone()),
            _ => Err(format!("expected two tensors of floats of one shape, got {inputs:?}")),
        }
    }
    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, grad) = (inputs[0].float(), &inputs[1].float().data);
        let [two, three, six] = [2.0, 3.0, 6.0].map(T::from_f64);
        let slope = |x: T| match x {
            x if x <= -three => T::zero(),
            x if x >= three => T::one(),
            x => (two * x + three) / six,
        };
        let data = x.data.iter().zip(grad).map(|(&x, &grad)| grad * slope(x)).collect();
        vec![Array { shape: x.shape.clone(), data }.into()]
    }
    fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        launch(GRAD_INPUT, vec![Binding::Input(0), Binding::Input(1), Binding::Output], output)
    }
    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        4 * output.shape.elements() as u64
    }
    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        bound(output)
    }
}

fn main() -> Result<()> {
    let gpu = Gpu::any()?;
    let x = TensorType::f32([2, 37, 11, 3]).map_err(tilewise::Error::Usage)?;
    let drawn = (x.clone(), Fill::Normal(3.0));
    let forward = Case { name: "odd sizes".into(), op: Arc::new(HardSwish), inputs: vec![drawn.clone()] };
    let backward = Case { name: "odd sizes".into(), op: Arc::new(HardSwishGrad), inputs: vec![drawn.clone(), drawn] };

    println!("gradient against finite differences: {:?}", gradcheck(&forward, 1)?);
    for case in [&forward, &backward] {
        let worst = check_case(&gpu, case, 0, 1)?;
        println!("{} against its reference: {:.0} % of the bound", case.op.name(), 100.0 * worst.worst);
    }

    // In a graph it is an op like any other.
    let mut graph = Graph::new();
    let input = graph.input("x", x.clone());
    let y = graph.apply("y", HardSwish, &[input])?;
    graph.mark_output("y", y)?;
    let plan = Plan::new(&gpu, &graph, PlanOptions::default())?;
    let ones = Array { data: vec![1.0; x.shape.elements()], shape: x.shape };
    plan.write(input, &ones.into())?;
    plan.run()?;
    println!("hard_swish(1) = {}", plan.read(y)?.float().data[0]);
    Ok(())
}
