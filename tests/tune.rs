//! Tuning, on the best adapter: what may win, what is kept of it, and `tilewise tune` as a user meets it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;
use tilewise::array::{Array, Real, Tensor};
use tilewise::bench::Workload;
use tilewise::gpu::{Choices, Plan, PlanOptions};
use tilewise::models::Variant;
use tilewise::op::{Binding, Bound, Candidate, DeviceProfile, Dispatch, Kernel, Op, workgroup_grid};
use tilewise::shape::TensorType;
use tilewise::tune::{self, Settings, Table, Tuned};
use tilewise::{Error, Gpu, Graph, wgpu};

/// `y = FACTOR x`, after so many turns that add nothing.
const TIMES: Kernel = Kernel {
    path: "times/forward",
    source: "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
struct Params { count: u32, turns: u32, zero: u32 }
@group(0) @binding(2) var<uniform> params: Params;
const FACTOR = 2.0;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x >= params.count {
        return;
    }
    var value = FACTOR * x[id.x];
    for (var turn = 0u; turn < params.turns; turn++) {
        value += f32(turn * params.zero);
    }
    y[id.x] = value;
}
",
};

/// An op whose first candidate is right and slow, its second wrong and fast, its third right and fast.
#[derive(Debug)]
struct Double {
    flops: u64,
}

impl Op for Double {
    fn name(&self) -> &'static str {
        "double"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        Ok(inputs[0].clone())
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let Array { shape, data } = inputs[0].float();
        let data = data.iter().map(|&x| T::from_f64(2.0) * x).collect();
        vec![Array { shape: shape.clone(), data }.into()]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let count = output.shape.elements();
        let launch = |factor: &str, turns: usize, from, to| Dispatch {
            kernel: TIMES,
            constants: vec![("FACTOR", factor.into())],
            bindings: vec![from, to],
            params: vec![("count", count.into()), ("turns", turns.into()), ("zero", 0.into())],
            workgroups: workgroup_grid(count.div_ceil(64)),
        };
        let (x, y, scratch) = (Binding::Input(0), Binding::Output, Binding::Workspace(0));
        let in_two = vec![launch("4.0", 0, x, scratch), launch("0.5", 0, scratch, y)];
        vec![
            launch("2.0", 2000, x, y).into(),
            launch("2.5", 0, x, y).into(),
            Candidate { dispatches: in_two, workspace: vec![count] },
        ]
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        self.flops
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Terms(1)
    }
}

fn gpu() -> Gpu {
    Gpu::any().unwrap_or_else(|error| panic!("{error}"))
}

fn doubled(flops: u64) -> Graph {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([5000]).unwrap());
    let y = graph.apply("y", Double { flops }, &[x]).unwrap();
    graph.mark_output("y", y).unwrap();
    graph
}

const SETTINGS: Settings = Settings { repeats: 3, seed: 1 };

fn tuned(gpu: &Gpu, graph: &Graph) -> Vec<Tuned> {
    let mut heard = Vec::new();
    let (tuned, known, complete) = tune::ops(gpu, &[graph, graph], SETTINGS, &mut |progress| {
        heard.push((progress.what.to_owned(), progress.done));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(known == 0 && complete);
    assert_eq!(heard, [("y".to_owned(), 0)], "equal ops are measured once");
    tuned
}

#[test]
fn a_wrong_candidate_never_wins_and_a_right_one_that_is_faster_does() {
    let gpu = gpu();
    // Held against the reference, and where that takes too long, against the last candidate.
    for flops in [1, 1 << 40] {
        let all = tuned(&gpu, &doubled(flops));
        let [only] = all.as_slice() else { panic!("{all:?}") };
        let [slow, wrong, fast] = only.candidates.as_slice() else { panic!("{only:?}") };
        assert!(slow.problem.is_none() && fast.problem.is_none(), "{only:?}");
        assert!(wrong.seconds.is_none() && wrong.problem.as_ref().unwrap().contains("double"), "{wrong:?}");
        assert_eq!((only.winner, fast.rounds), (Some(2), 3), "{only:?}");
        assert!(fast.seconds.unwrap().median < slow.seconds.unwrap().median);
        let choice = only.choice().unwrap();
        assert_eq!(choice.kernels, "times/forward FACTOR=4.0 79×1×1 + times/forward FACTOR=0.5 79×1×1");
        assert_eq!(
            (choice.op, choice.inputs),
            (format!("double: Double {{ flops: {flops} }}"), vec!["5000".to_owned()])
        );
    }
}

#[test]
fn a_plan_takes_what_was_chosen_and_only_while_that_is_what_was_measured() {
    let (gpu, graph) = (gpu(), doubled(1));
    let choice = tuned(&gpu, &graph)[0].choice().unwrap();
    let bytes = |choices: Choices| {
        let plan = Plan::new(&gpu.clone().with_choices(choices), &graph, PlanOptions::default()).unwrap();
        let input = graph.inputs().next().unwrap();
        let x: Vec<f32> = (0..5000_u16).map(f32::from).collect();
        plan.write(input, &Array { shape: graph.shape(input).clone(), data: x.clone() }.into()).unwrap();
        plan.run().unwrap();
        let y = plan.read(graph.outputs()[0].1).unwrap();
        assert!(y.float().data.iter().zip(x).all(|(y, x)| y.to_bits() == (2.0 * x).to_bits()));
        plan.memory().transient.iter().sum::<u64>()
    };
    let (first, third) = (bytes(Choices::default()), bytes([choice.clone()].into_iter().collect()));
    assert_eq!(third, first + 4 * 5000, "the chosen candidate has scratch space");
    assert_eq!(bytes(Choices::nth(2)), third);
    let mut stale = vec![choice.clone(); 4];
    stale[0].candidates = "00000000".into();
    stale[1].kernels = "times/forward FACTOR=3.0 79×1×1".into();
    stale[2].inputs = vec!["5001".into()];
    stale[3].op = "double: Double { flops: 2 }".into();
    for choice in stale {
        assert_eq!(bytes([choice.clone()].into_iter().collect()), first, "{choice:?}");
    }
    // Of several choices the last that holds counts.
    let slow = tune::Choice { kernels: "times/forward FACTOR=2.0 79×1×1".into(), ..choice.clone() };
    assert_eq!(bytes([choice.clone(), slow.clone()].into_iter().collect()), first);
    assert_eq!(bytes([slow.clone(), choice.clone()].into_iter().collect()), third);
    let stale = tune::Choice { candidates: String::new(), ..slow };
    assert_eq!(bytes([choice.clone(), stale].into_iter().collect()), third);
    // What is chosen already is not measured again, and what has changed since is.
    let ops = |choice| {
        let gpu = gpu.clone().with_choices([choice].into_iter().collect());
        tune::ops(&gpu, &[&graph], SETTINGS, &mut |_| ControlFlow::Break(())).unwrap()
    };
    assert_eq!(ops(choice.clone()), (vec![], 1, true));
    assert_eq!(ops(tune::Choice { candidates: String::new(), ..choice }), (vec![], 0, false), "broken off before it");
}

#[test]
fn a_table_is_read_back_and_tells_devices_apart() {
    let (gpu, graph) = (gpu(), doubled(1));
    let choice = tuned(&gpu, &graph)[0].choice().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels.toml");
    let mut table = Table::default();
    table.add(&gpu, [choice.clone()]);
    table.write(&path).unwrap();
    assert_eq!(Table::read(&path).unwrap(), table);
    assert_eq!(table.choices(&gpu).rows().collect::<Vec<_>>(), [&choice]);
    let better = tune::Choice { seconds: 1e-9, ..choice.clone() };
    let default = tune::Choice { op: "other".into(), default_seconds: Some(choice.seconds), ..choice.clone() };
    table.add(&gpu, [better.clone(), default]);
    assert_eq!(table.choices(&gpu).rows().map(|choice| choice.seconds).collect::<Vec<_>>(), [1e-9, choice.seconds]);
    let mut faster = table.clone();
    faster.retain_faster(&gpu);
    assert_eq!(faster.choices(&gpu).rows().collect::<Vec<_>>(), [&better]);
    // What is added when there are several, to be taken in their order, is read back so.
    let both: Choices = [choice.clone(), better.clone()].into_iter().collect();
    faster.add(&gpu, both.rows().cloned());
    assert_eq!(faster.choices(&gpu), both);

    let text = fs::read_to_string(&path).unwrap();
    let read = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}: {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        Table::read(&path)
    };
    for key in ["adapter = \"", "backend = \"", "driver = \"", "wgpu = \""] {
        let mut other = read(key, &format!("{key}another ")).unwrap();
        assert!(other.choices(&gpu).is_empty(), "{key}");
        other.add(&gpu, [choice.clone()]);
        other.write(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("another "), "what another device has stays");
    }
    for (from, to, part) in [
        ("schema", "[schema", "no TOML"),
        ("tilewise-kernels", "tilewise-bench", "`schema` is \"tilewise-bench\", expected \"tilewise-kernels\""),
        ("version = 1", "version = 2", "`version` is 2, expected 1"),
        ("kernels = ", "colonels = ", "damaged"),
    ] {
        let error = read(from, to).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, Error::Data { .. }) && message.contains(part) && message.contains("remove it"),
            "{message}"
        );
    }
}

fn tilewise(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tilewise")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    output
}

/// Prediction folds batch norms into convolutions, so that is what has to be measured.
#[test]
fn what_predicts_is_measured_as_it_predicts() {
    let workload =
        Workload { input: 32, base: 4, depth: 2, model: Variant::Milesial, ..Workload::preset("tiny").unwrap() };
    let gpu = Gpu::any().unwrap();
    let settings = Settings { repeats: 1, seed: 1 };
    let report = tune::run(&gpu, &[workload], settings, &mut |_| ControlFlow::Continue(())).unwrap();
    let folded = report.ops.iter().filter(|tuned| tuned.op.starts_with("conv2d_relu:")).count();
    assert!(folded > 0, "{:?}", report.ops.iter().map(|tuned| &tuned.op).collect::<Vec<_>>());
}

#[test]
fn the_command_measures_a_network_once_and_keeps_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new").join("kernels.toml");
    let table = path.to_str().unwrap();
    let network = ["--input", "44", "--base", "4", "--depth", "2", "--kernels", table];
    let report = |command: &[&str]| -> (Value, String) {
        let output = tilewise(&[command, &network, &["--json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        (serde_json::from_slice(&output.stdout).unwrap(), errors)
    };
    let (first, said) = report(&["tune", "--repeats", "2"]);
    let ops = first["ops"].as_array().unwrap();
    assert!(ops.len() > 10 && first["complete"] == true && said.contains("kept in"), "{first}");
    for op in ops {
        let candidates = op["candidates"].as_array().unwrap();
        assert!(candidates.len() > 1 && op["winner"].is_u64(), "{op}");
        assert!(candidates.iter().all(|candidate| candidate.get("problem").is_none()), "{op}");
    }
    // Where the winners do not make the networks faster, the defaults are kept.
    assert_eq!(fs::read_to_string(&path).unwrap().matches("[[devices.choices]]").count(), ops.len(), "{first}");
    let (bench, said) = report(&["bench", "--tune", "--repeats", "1"]);
    assert!(bench["networks"][0]["checked"]["worst"].as_f64().unwrap() <= 1.0 && said.contains("known from before"));
    let (second, _) = report(&["tune", "--repeats", "1", "--only-faster"]);
    assert_eq!((&second["known"], &second["ops"]), (&ops.len().into(), &Value::Array(vec![])));
    let kept = Table::read(&path).unwrap().choices(&gpu());
    assert!(kept.rows().count() < ops.len() && kept.rows().all(tune::Choice::is_faster), "{kept:?}");

    let compiled = folder.path().join("compiled");
    let again = ["tune", "--again", "--repeats", "1", "--pipeline-cache", compiled.to_str().unwrap()];
    let text = String::from_utf8(tilewise(&[&again[..], &network].concat()).stdout).unwrap();
    assert_eq!(compiled.exists(), gpu().device().features().contains(wgpu::Features::PIPELINE_CACHE));
    assert!(text.contains("encoder0.conv1.relu") && text.contains("1×44×44×1") && text.contains(" *"), "{text}");

    fs::write(&path, "schema = 3").unwrap();
    for (code, arguments, part) in [
        (3, [&["bench"][..], &network].concat(), "kernels.toml: the field `schema` is 3"),
        (2, vec!["tune", "--kernels", ""], "give tuned, default, or a file"),
        (2, vec!["tune", "--pipeline-cache", ""], "give auto, none, or a folder"),
        (4, vec!["tune", "--device", "cpu"], "no kernels to choose from"),
        (2, vec!["tune", "--repeats", "0", "--kernels", "default"], "0 repeats"),
    ] {
        let output = tilewise(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && message.contains(part), "{arguments:?}: {message}");
    }
}

#[test]
fn what_was_measured_before_it_is_killed_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels.toml");
    let network =
        ["tune", "--repeats", "1", "--input", "44", "--base", "4", "--depth", "2", "--kernels", path.to_str().unwrap()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
    let mut running = command.args(network).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !path.exists() && running.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let kept = Table::read(&path).unwrap().choices(&gpu());
    // The largest op is not the first of the network.
    assert!(kept.rows().all(|choice| choice.inputs[0] != "1×44×44×1"), "{kept:?}");
    let output = tilewise(&[&network[..], &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["known"], kept.rows().count());
    assert!(!kept.is_empty() && !report["ops"].as_array().unwrap().is_empty(), "{report}");
}
