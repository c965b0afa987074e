//! One graph, two executors: a GPU plan, or the CPU reference.

use crate::array::Tensor;
use crate::cpu::{self, Banks};
use crate::error::{Error, Result};
use crate::gpu::{DeviceChoice, Gpu, Plan, PlanOptions};
use crate::graph::{Bank, Graph, NodeId};
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
        Ok(Gpu::choose(choice)?.map_or(Self::Cpu, Self::Gpu))
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
    /// Prepares a graph, with these parameters and zeros in the other banks.
    ///
    /// # Errors
    /// As [`Plan::new`] and [`Plan::write_bank`].
    pub fn new(device: &Device, graph: &Graph, parameters: &[f32]) -> Result<Self> {
        match device {
            Device::Cpu => {
                let banks = cpu::banks(graph, parameters);
                let (inputs, outputs) = (BTreeMap::new(), BTreeMap::new());
                Ok(Self::Cpu(Box::new(CpuExecutor { graph: graph.clone(), inputs, banks, outputs })))
            }
            Device::Gpu(gpu) => {
                let plan = Plan::new(gpu, graph, PlanOptions::default())?;
                plan.write_bank(Bank::Parameters, parameters)?;
                Ok(Self::Gpu(Box::new(plan)))
            }
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
    /// When the tensor is not of the node's type.
    pub fn write(&mut self, node: NodeId, value: Tensor<f32>) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
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

    /// The value of an output after the runs so far.
    ///
    /// # Errors
    /// When the node is not an output, nothing has run, or the device has failed.
    pub fn read(&self, node: NodeId) -> Result<Tensor<f32>> {
        match self {
            Self::Cpu(cpu) => cpu.outputs.get(&node).cloned().ok_or_else(|| Error::Graph {
                op: "read".into(),
                node: cpu.graph.node(node).name.clone(),
                problem: "only outputs can be read, after a run".into(),
            }),
            Self::Gpu(plan) => plan.read(node),
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

    /// Replaces a whole bank.
    ///
    /// # Errors
    /// When the graph has no such bank, it has another length, or the device has failed.
    pub fn write_bank(&mut self, bank: Bank, values: &[f32]) -> Result<()> {
        match self {
            Self::Cpu(cpu) => {
                let length = cpu.graph.bank_elements();
                if values.len() != length {
                    let problem = format!("the bank has {length} elements, got {}", values.len());
                    return Err(Error::Graph { op: "write".into(), node: format!("{bank:?}"), problem });
                }
                cpu.banks.insert(bank, values.to_vec());
                Ok(())
            }
            Self::Gpu(plan) => plan.write_bank(bank, values),
        }
    }
}
