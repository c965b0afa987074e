//! One graph, two executors: a GPU plan, or the CPU reference.

use crate::array::Tensor;
use crate::cpu::{self, Banks};
use crate::error::{Error, Result};
use crate::gpu::{Choices, DeviceChoice, Gpu, Limits, MemoryPlan, Plan, PlanOptions};
use crate::graph::{Bank, Graph, NodeId};
use crate::op::DeviceProfile;
use std::collections::BTreeMap;
use std::fmt;

/// Where graphs run.
#[derive(Clone, Debug)]
pub enum Device {
    /// The CPU executor: the reference itself, in `f32`.
    Cpu,
    /// A GPU, or a software driver that stands in for one.
    Gpu(Gpu),
}

impl Device {
    /// The device that `choice` names.
    ///
    /// # Errors
    /// As [`Gpu::choose`].
    pub fn choose(choice: &DeviceChoice) -> Result<Self> {
        Self::choose_within(choice, Limits::Adapter)
    }

    /// The device that `choice` names, as far as `limits` goes.
    ///
    /// # Errors
    /// As [`Gpu::choose`].
    pub fn choose_within(choice: &DeviceChoice, limits: Limits) -> Result<Self> {
        Ok(pollster::block_on(Gpu::choose_within(choice, limits))?.map_or(Self::Cpu, Self::Gpu))
    }

    /// What ops may know of it and which of their kernels were chosen; of the CPU executor, what any device offers.
    pub fn kernels(&self) -> (DeviceProfile, Choices) {
        self.gpu().map_or((DeviceProfile::PORTABLE, Choices::default()), |gpu| (*gpu.profile(), gpu.choices().clone()))
    }

    /// Drives a future to its end on this thread, polling the device for it, if there is one to poll: what makes the blocking form of an
    /// asynchronous method here.
    ///
    /// # Errors
    /// As [`Gpu::block_on`].
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        match self {
            Self::Cpu => pollster::block_on(future),
            Self::Gpu(gpu) => gpu.block_on(future),
        }
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Self::Cpu => None,
            Self::Gpu(gpu) => Some(gpu),
        }
    }
}

impl fmt::Display for Device {
    /// One line: the device, and whether it is software.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("CPU executor (the reference in f32; no GPU is used)"),
            Self::Gpu(gpu) if gpu.adapter().is_software() => {
                write!(f, "{}: a software driver, not a GPU", gpu.adapter())
            }
            Self::Gpu(gpu) => write!(f, "{}", gpu.adapter()),
        }
    }
}

/// A graph ready to run on a device, with its banks and inputs.
#[derive(Debug)]
pub enum Executor {
    /// On the CPU.
    Cpu(Box<CpuExecutor>),
    /// On a GPU.
    Gpu(Box<Plan>),
}

/// The state of a graph on the CPU.
#[derive(Debug)]
pub struct CpuExecutor {
    graph: Graph,
    inputs: BTreeMap<NodeId, Tensor<f32>>,
    banks: Banks<f32>,
    outputs: BTreeMap<NodeId, Tensor<f32>>,
}

impl Executor {
    /// Prepares a graph, with these parameters (padded as [`Graph::initial_parameters`] pads them; none if the graph has none) and
    /// zeros in the other banks.
    ///
    /// # Errors
    /// [`Error::Graph`] when there are too many or too few parameters, [`Error::Memory`] when the machine's memory is what counts and
    /// the system says that too little is left; as [`Plan::new`].
    pub fn new(device: &Device, graph: &Graph, parameters: &[f32]) -> Result<Self> {
        if parameters.len() != graph.bank_elements() {
            let problem = format!("the graph has {} with padding, got {}", graph.bank_elements(), parameters.len());
            return Err(Error::Graph { op: "executor".into(), node: "parameters".into(), problem });
        }
        if device.gpu().is_none_or(|gpu| gpu.adapter().is_software()) {
            check_memory(device, graph)?;
        }
        match device {
            Device::Cpu => {
                let banks = cpu::banks(graph, parameters);
                let (inputs, outputs) = (BTreeMap::new(), BTreeMap::new());
                Ok(Self::Cpu(Box::new(CpuExecutor { graph: graph.clone(), inputs, banks, outputs })))
            }
            Device::Gpu(gpu) => {
                let plan = Plan::new(gpu, graph, PlanOptions::default())?;
                if !parameters.is_empty() {
                    plan.write_bank(Bank::Parameters, parameters)?;
                }
                Ok(Self::Gpu(Box::new(plan)))
            }
        }
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        match self {
            Self::Cpu(_) => Device::Cpu,
            Self::Gpu(plan) => Device::Gpu(plan.gpu().clone()),
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        match self {
            Self::Cpu(cpu) => &cpu.graph,
            Self::Gpu(plan) => plan.graph(),
        }
    }

    /// Sets an input for the runs to come.
    ///
    /// # Errors
    /// As [`Plan::write`].
    pub fn write(&mut self, node: NodeId, value: Tensor<f32>) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.graph.check_input(node, &value)?;
                cpu.inputs.insert(node, value);
                Ok(())
            }
            Self::Gpu(plan) => plan.write(node, &value),
        }
    }

    /// Computes everything once.
    ///
    /// # Errors
    /// When an input is missing or of the wrong type, or the device has failed.
    pub fn run(&mut self) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                cpu.outputs = cpu::evaluate(&cpu.graph, &cpu.inputs, &mut cpu.banks)?;
                Ok(())
            }
            Self::Gpu(plan) => plan.run(),
        }
    }

    /// As [`Executor::run`], as [`Plan::run_async`]; the CPU computes before this is ready.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub async fn run_async(&mut self) -> Result<()> {
        match self {
            Self::Cpu(_) => self.run(),
            Self::Gpu(plan) => plan.run_async().await,
        }
    }

    /// The value of an output after the runs so far.
    ///
    /// # Errors
    /// When the node is not an output, nothing has run, or the device has failed.
    pub fn read(&self, node: NodeId) -> Result<Tensor<f32>> {
        match self {
            Self::Cpu(cpu) => {
                let name = &cpu.graph.find("read", "output", node)?.name;
                let problem = "only outputs can be read, after a run; mark it with `mark_output`";
                cpu.outputs.get(&node).cloned().ok_or_else(|| Error::Graph {
                    op: "read".into(),
                    node: name.clone(),
                    problem: problem.into(),
                })
            }
            Self::Gpu(plan) => plan.read(node),
        }
    }

    /// As [`Executor::read`], as [`Plan::read_async`].
    ///
    /// # Errors
    /// As [`Executor::read`].
    pub async fn read_async(&self, node: NodeId) -> Result<Tensor<f32>> {
        match self {
            Self::Cpu(_) => self.read(node),
            Self::Gpu(plan) => plan.read_async(node).await,
        }
    }

    /// A whole bank.
    ///
    /// # Errors
    /// When the graph has no such bank, or the device has failed.
    pub fn read_bank(&self, bank: Bank) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(cpu) => cpu.banks.get(&bank).cloned().ok_or_else(|| Error::Graph {
                op: "bank".into(),
                node: format!("{bank:?}"),
                problem: "the graph has no such bank".into(),
            }),
            Self::Gpu(plan) => plan.read_bank(bank),
        }
    }

    /// As [`Executor::read_bank`], as [`Plan::read_bank_async`].
    ///
    /// # Errors
    /// As [`Executor::read_bank`].
    pub async fn read_bank_async(&self, bank: Bank) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(_) => self.read_bank(bank),
            Self::Gpu(plan) => plan.read_bank_async(bank).await,
        }
    }

    /// Replaces a whole bank.
    ///
    /// # Errors
    /// When the graph has no such bank, it has another length, or the device has failed.
    pub fn write_bank(&mut self, bank: Bank, values: &[f32]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                let length = cpu.graph.bank_elements();
                let fail = |problem: String| Error::Graph { op: "write".into(), node: format!("{bank:?}"), problem };
                let target = cpu.banks.get_mut(&bank).ok_or_else(|| fail("the graph has no such bank".into()))?;
                if values.len() != length {
                    return Err(fail(format!("the bank has {length} elements, got {}", values.len())));
                }
                target.copy_from_slice(values);
                Ok(())
            }
            Self::Gpu(plan) => plan.write_bank(bank, values),
        }
    }
}

/// Refuses a graph that needs more of the machine's memory than there is, where the system tells how much that is: one that
/// promises memory it does not have ends the process later, without a word.
fn check_memory(device: &Device, graph: &Graph) -> Result<()> {
    let (profile, choices) = device.kernels();
    let memory = match device {
        Device::Gpu(_) => MemoryPlan::new(&graph.fused(), &profile, &choices, false),
        Device::Cpu => MemoryPlan::new(graph, &profile, &choices, false),
    };
    // The CPU executor computes what has no kernel, too; for that no plan is known.
    let Ok(memory) = memory else { return Ok(()) };
    let Some(available) = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_bytes(&text)) else {
        return Ok(());
    };
    let needed = memory.total_bytes();
    if needed <= available {
        return Ok(());
    }
    Err(Error::Memory(format!(
        "the plan needs {needed} bytes, of the machine's memory {available} are available; use a smaller tile, batch or base"
    )))
}

/// What Linux says that programs can still take without swapping.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;
    use crate::graph::Init;
    use crate::shape::{MOST_ELEMENTS, TensorType};

    #[test]
    fn available_memory_is_read_as_linux_writes_it() {
        let text = "MemTotal:       16384000 kB\nMemFree:          100000 kB\nMemAvailable:    8192000 kB\n";
        assert_eq!(available_bytes(text), Some(8_192_000 << 10));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn more_than_the_machine_has_is_refused_before_it_is_taken() {
        let mut graph = Graph::new();
        for name in (0..1000).map(|index| index.to_string()) {
            let x = graph.input(&name, TensorType::f32([MOST_ELEMENTS]).unwrap());
            graph.mark_output(&name, x).unwrap();
        }
        let error = Executor::new(&Device::Cpu, &graph, &[]).unwrap_err();
        assert!(matches!(error, Error::Memory(_)) && error.to_string().contains("available"), "{error}");
    }

    #[test]
    fn the_cpu_refuses_what_a_device_refuses() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2]).unwrap());
        let w = graph.parameter("w", [2], Init::Zeros).unwrap();
        let y = graph.add("y", x, w).unwrap();
        graph.mark_output("y", y).unwrap();
        let message = Executor::new(&Device::Cpu, &graph, &[0.0; 2]).unwrap_err().to_string();
        assert!(message.contains("64 with padding, got 2"), "{message}");
        let mut executor = Executor::new(&Device::Cpu, &graph, &[1.0; 64]).unwrap();
        let tensor = |extent: usize, count: usize| -> Tensor<f32> {
            Array { shape: TensorType::f32([extent]).unwrap().shape, data: vec![1.0; count] }.into()
        };
        for (node, value, problem) in [
            (x, tensor(3, 3), "got 3"),
            (x, tensor(2, 3), "shape 2 has 2 elements, got 3"),
            (y, tensor(2, 2), "only inputs"),
            (NodeId(99), tensor(2, 2), "not a node"),
        ] {
            let message = executor.write(node, value).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
        for (node, problem) in [(y, "after a run"), (NodeId(99), "not a node")] {
            let message = executor.read(node).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
        let message = executor.write_bank(Bank::Gradients, &[0.0; 64]).unwrap_err().to_string();
        assert!(message.contains("no such bank"), "{message}");
        executor.write(x, tensor(2, 2)).unwrap();
        executor.run().unwrap();
        assert_eq!(executor.read(y).unwrap().float().data, [2.0, 2.0]);
    }
}
