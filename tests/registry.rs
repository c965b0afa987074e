//! Nothing is missing or orphaned: registry, source files, kernels and pages belong to each other; and every kernel validates, matches
//! what its op assumes, and translates for every backend. No GPU is needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tilewise::bench::{DEVICE, LADDERS};
use tilewise::gpu::source::{Pieces, compose, in_pieces};
use tilewise::op::{Binding, Candidate, Case, DeviceProfile, Dispatch, Param};
use tilewise::ops::{Entry, REGISTRY};
use tilewise::shape::{DType, TensorType};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whatever has kernels: the ops, and what is no op of a network: what measures the device itself, and the ladders that teach.
fn entries() -> impl Iterator<Item = &'static Entry> {
    REGISTRY.iter().chain([&DEVICE]).chain(LADDERS.iter().map(|ladder| &ladder.entry))
}

/// The names in a folder without their extension.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The folders of kernels, as entries name them.
fn folders() -> BTreeSet<String> {
    let ladders = names("shaders/ladder").into_iter().map(|name| format!("ladder/{name}"));
    names("shaders").into_iter().filter(|name| name != "ladder").chain(ladders).collect()
}

/// Devices that ops may make a difference between.
fn profiles() -> Vec<DeviceProfile> {
    let mut profiles = Vec::new();
    for software in [false, true] {
        for subgroup_size in [None, Some(8), Some(32), Some(64)] {
            let profile = DeviceProfile { software, subgroup_size, f16: true, ..DeviceProfile::PORTABLE };
            profiles.extend([false, true].map(|int64| DeviceProfile { int64, ..profile }));
        }
        for (subgroup_size, matrix_side) in [(8, 8), (32, 16)] {
            let (subgroup_size, matrix_side) = (Some(subgroup_size), Some(matrix_side));
            let profile = DeviceProfile { software, subgroup_size, matrix_side, ..DeviceProfile::PORTABLE };
            profiles.push(DeviceProfile { int64: true, f16: true, ..profile });
        }
    }
    profiles
}

/// A case, and a candidate that its op offers for some device.
struct Offer {
    case: Case,
    types: Vec<TensorType>,
    output: TensorType,
    candidate: Candidate,
}

fn offers() -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for entry in entries() {
        for case in (entry.cases)().unwrap() {
            let types: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
            let output = case.op.output(&types).unwrap();
            let mut candidates: Vec<Candidate> = Vec::new();
            for profile in profiles() {
                let offered = case.op.offered(&types, &output, &profile);
                // What matrix units can do at most is nothing where there are none of that size.
                let optional = case.op.name() == "device_matrix_multiply_add";
                let (op, name) = (case.op.name(), &case.name);
                assert!(optional || !offered.is_empty(), "{op} ({name}) offers nothing for {profile:?}");
                for candidate in offered {
                    if !candidates.contains(&candidate) {
                        candidates.push(candidate);
                    }
                }
            }
            let (case, types, output) = (&case, &types, &output);
            offers.extend(candidates.into_iter().map(|candidate| Offer {
                case: case.clone(),
                types: types.clone(),
                output: output.clone(),
                candidate,
            }));
        }
    }
    offers
}

/// One dispatch for each distinct text that a driver may get, with the case that it comes from.
fn distinct() -> Vec<(Dispatch, String)> {
    let mut distinct = BTreeMap::new();
    for Offer { case, candidate, .. } in offers() {
        for dispatch in candidate.dispatches {
            // Which of its bindings are the same decides on its text in pieces.
            let first = |binding| dispatch.bindings.iter().position(|other| other == binding);
            let alike: Vec<_> = dispatch.bindings.iter().map(first).collect();
            let key = (dispatch.kernel.path, dispatch.constants.clone(), alike);
            distinct.entry(key).or_insert((dispatch, format!("{} ({})", case.op.name(), case.name)));
        }
    }
    distinct.into_values().collect()
}

#[test]
fn files_and_registry_agree() {
    let registered: BTreeSet<String> = REGISTRY.iter().map(|entry| entry.name.to_owned()).collect();
    assert_eq!(registered.len(), REGISTRY.len(), "a name is registered twice");
    assert!(REGISTRY.is_sorted_by_key(|entry| entry.name), "the registry is in alphabetical order");
    assert_eq!(names("src/ops"), registered, "src/ops has one file per entry");
    assert_eq!(names("docs/ops"), registered, "docs/ops has one page per entry");
    let with_kernels: BTreeSet<String> = entries().map(|entry| entry.name.to_owned()).collect();
    assert_eq!(folders(), with_kernels, "shaders has one folder per entry");
}

#[test]
fn every_kernel_file_is_offered_for_some_case_of_its_own_op() {
    let mut reached = BTreeSet::new();
    for entry in entries() {
        for case in (entry.cases)().unwrap() {
            assert!(case.op.name().starts_with(entry.name), "{} has a case of {}", entry.name, case.op.name());
        }
    }
    for (dispatch, _) in distinct() {
        let path = dispatch.kernel.path;
        let file = fs::read_to_string(root().join("shaders").join(path).with_extension("wgsl")).unwrap();
        assert_eq!(file, dispatch.kernel.source, "{path}");
        reached.insert(path.to_owned());
    }
    let mut files = BTreeSet::new();
    for op in folders() {
        files.extend(names(&format!("shaders/{op}")).iter().map(|role| format!("{op}/{role}")));
    }
    assert_eq!(reached, files);
}

#[test]
fn every_page_teaches_its_kernels_and_says_the_same_things() {
    for entry in REGISTRY {
        let page = entry.page;
        assert!(page.starts_with(&format!("# {}\n", entry.name)), "{}", entry.name);
        for part in ["**Formula.**", "**Shapes.**", "**Gradient.**", "**Kernel", "**Error bound.**"] {
            assert!(page.contains(part), "{}: no {part}", entry.name);
        }
    }
    for Entry { name, page, .. } in entries() {
        let above = if *name == DEVICE.name { ".." } else { "../.." };
        for role in names(&format!("shaders/{name}")) {
            let link = format!("[`{name}/{role}`]({above}/shaders/{name}/{role}.wgsl)");
            assert!(page.contains(&link), "{name}: no {link}");
        }
    }
}

/// A page for each rung of the convolution, and a section for each of the others', with the same questions answered.
#[test]
fn every_rung_is_taught() {
    for ladder in LADDERS {
        let page = ladder.entry.page;
        assert!(page.starts_with(&format!("# {}\n", ladder.name)), "{}", ladder.name);
        assert!(page.contains(&format!("tilewise ladder {}", ladder.name)), "{}: something to run", ladder.name);
        for rung in ladder.rungs {
            let chapter = format!("docs/kernels/{}/{}.md", ladder.name, rung.name.replace(' ', "_"));
            let text = if let Ok(text) = fs::read_to_string(root().join(&chapter)) {
                let link = format!("]({}/{}.md)", ladder.name, rung.name.replace(' ', "_"));
                assert!(page.contains(&link), "{}: no link to {chapter}", ladder.name);
                text
            } else {
                let sections = page.split("\n## ");
                sections.filter(|section| section.starts_with(&format!("{}\n", rung.name))).collect()
            };
            for part in ["```", "**One invocation**", "**Bytes and operations**", "**Measured**"] {
                assert!(text.contains(part), "{}, {}: no {part}", ladder.name, rung.name);
            }
        }
    }
}

#[test]
fn every_kernel_file_is_laid_out_alike() {
    for op in folders() {
        for role in names(&format!("shaders/{op}")) {
            let path = format!("shaders/{op}/{role}.wgsl");
            let text = fs::read_to_string(root().join(&path)).unwrap();
            let header = text.lines().take_while(|line| line.starts_with("//")).count();
            assert!((1..=8).contains(&header), "{path}: a header of {header} lines");
            assert!(text.lines().take(header).any(|line| line.contains("Bytes moved")), "{path}: bytes moved");
            assert!(!text.contains("atomic"), "{path}: atomics have no fixed order");
            assert!(text.lines().all(|line| line.len() <= 130 && line.trim_end() == line), "{path}: line form");
            // naga makes a branch of `&&`, and what SwiftShader's compiler takes doubles with each that follows another.
            for line in text.lines().map(str::trim).filter(|line| line.contains("&&") || line.contains("||")) {
                assert!(
                    line.starts_with("if ") || line.starts_with("//"),
                    "{path}: a value by branches, not by & and |: {line}"
                );
            }
            for line in text.lines().filter(|line| line.contains("var<storage")) {
                let comment = line.split_once("; // [").map(|(_, shape)| shape);
                assert!(comment.is_some_and(|shape| shape.contains(']')), "{path}: no shape behind {line}");
            }
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("workgroupBarrier()")) {
                let said = line.contains("//") || lines[number - 1].trim().starts_with("//");
                assert!(said, "{path}:{}: what does the barrier order?", number + 1);
            }
        }
    }
}

/// Parses and validates, with what WebGPU offers everywhere and what the text itself enables.
fn validate(name: &str, wgsl: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|error| panic!("{}", error.emit_to_string(wgsl)));
    let mut enabled = Capabilities::empty();
    if ["enable ", "subgroup", "u64"].iter().any(|what| wgsl.contains(what)) {
        enabled |= Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_INT64;
    }
    enabled.set(Capabilities::COOPERATIVE_MATRIX, wgsl.contains("enable wgpu_cooperative_matrix"));
    let info = Validator::new(ValidationFlags::all(), enabled).validate(&module);
    let info = info.unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(wgsl)));
    (module, info)
}

#[test]
fn every_kernel_validates_as_it_stands_and_as_it_is_specialised() {
    for (dispatch, case) in distinct() {
        validate(dispatch.kernel.path, dispatch.kernel.source);
        let name = format!("{} for {case}", dispatch.kernel.path);
        validate(&name, &compose(dispatch.kernel.path, dispatch.kernel.source, &dispatch.constants).unwrap());
    }
}

/// As for tensors that are larger than a binding: nothing is done with storage but to index it, except by the kernels that are not offered
/// for such tensors.
#[test]
fn every_kernel_validates_with_what_it_binds_in_pieces() {
    for (dispatch, case) in distinct().into_iter().filter(|(dispatch, _)| !dispatch.kernel.takes_pointers()) {
        let path = dispatch.kernel.path;
        let name = format!("{path} for {case}");
        let wgsl = compose(path, dispatch.kernel.source, &dispatch.constants).unwrap();
        let bindings = &dispatch.bindings;
        let pieces = |binding: &Binding| bindings.iter().position(|other| other == binding).unwrap();
        let pieces: Vec<Pieces> = (0..)
            .zip(bindings.iter().map(pieces))
            .map(|(binding, first)| if first < binding { Pieces::Of(first) } else { Pieces::From(vec![64, 128]) })
            .collect();
        let text = in_pieces(path, &wgsl, &pieces).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (module, _) = validate(&name, &text);
        let bound = module.global_variables.iter().filter(|(_, variable)| variable.binding.is_some()).count();
        let expected = pieces.iter().map(Pieces::count).sum::<usize>() + usize::from(!dispatch.params.is_empty());
        assert_eq!(bound, expected, "{name}");
        assert!(!text.contains("arrayLength") && !wgsl.contains("arrayLength"), "{name}");
    }
}

/// What WebGPU promises of every device.
#[test]
fn every_kernel_fits_the_least_limits() {
    for (dispatch, case) in distinct() {
        let name = format!("{} for {case}", dispatch.kernel.path);
        let wgsl = compose(dispatch.kernel.path, dispatch.kernel.source, &dispatch.constants).unwrap();
        let module = naga::front::wgsl::parse_str(&wgsl).unwrap();
        let in_workgroup = module.global_variables.iter().map(|(_, variable)| variable);
        let in_workgroup = in_workgroup.filter(|variable| variable.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 = in_workgroup.map(|variable| module.types[variable.ty].inner.size(module.to_ctx())).sum();
        assert!(bytes <= 16 << 10, "{name}: {bytes} bytes of workgroup memory");
        let invocations = module.entry_points[0].workgroup_size.iter().product::<u32>();
        assert!(invocations <= 256, "{name}: {invocations} invocations in a workgroup");
    }
}

#[test]
fn bindings_and_params_are_what_the_dispatch_says() {
    for Offer { case, types, output, candidate } in offers() {
        let name = format!("{} ({})", case.op.name(), case.name);
        let mut filled = BTreeSet::new();
        let mut written = BTreeSet::new();
        for dispatch in &candidate.dispatches {
            let path = dispatch.kernel.path;
            let name = format!("{path} for {name}");
            let wgsl = compose(path, dispatch.kernel.source, &dispatch.constants).unwrap();
            let module = naga::front::wgsl::parse_str(&wgsl).unwrap();
            let mut variables: Vec<_> = module.global_variables.iter().map(|(_, variable)| variable).collect();
            variables.retain(|variable| variable.binding.is_some());
            variables.sort_by_key(|variable| variable.binding.map(|binding| binding.binding));
            for (position, variable) in variables.iter().enumerate() {
                let binding = variable.binding.unwrap();
                assert_eq!((binding.group, binding.binding as usize), (0, position), "{name}");
            }
            let uniform = usize::from(!dispatch.params.is_empty());
            assert_eq!(variables.len(), dispatch.bindings.len() + uniform, "{name}: the number of bindings");
            assert!(dispatch.bindings.len() <= 8, "{name}: more storage buffers than every device has");
            for (variable, &binding) in variables.iter().zip(&dispatch.bindings) {
                let naga::AddressSpace::Storage { access } = variable.space else {
                    panic!("{name}: {:?} is no storage", variable.name);
                };
                let writable = access.contains(naga::StorageAccess::STORE);
                // What is written of a bank is written piece by piece.
                let binding = if let Binding::Piece(bank, _) = binding { Binding::Input(bank) } else { binding };
                let dtype = match binding {
                    Binding::Input(input) | Binding::InputImages(input, _) | Binding::Piece(input, _) => {
                        assert_eq!(writable, case.op.writes().contains(&input), "{name}: access to {binding:?}");
                        Some(types[input].dtype)
                    }
                    Binding::Output | Binding::OutputImages(_) | Binding::Gradient => {
                        assert!(writable, "{name}: the result is read only");
                        Some(output.dtype)
                    }
                    Binding::Workspace(index) => {
                        assert!(index < candidate.workspace.len(), "{name}: no workspace {index}");
                        assert!(
                            writable || filled.contains(&index),
                            "{name}: workspace {index} is read before written"
                        );
                        if writable {
                            filled.insert(index);
                        }
                        None
                    }
                };
                if writable {
                    written.insert(format!("{binding:?}"));
                }
                let naga::TypeInner::Array { base, size: naga::ArraySize::Dynamic, .. } =
                    module.types[variable.ty].inner
                else {
                    panic!("{name}: {:?} is no array", variable.name);
                };
                let scalar = module.types[base].inner.scalar();
                match dtype {
                    // Two neighbouring floats may be loaded as one integer.
                    Some(DType::F32) => {
                        let bits = [naga::Scalar::F32, naga::Scalar::U64];
                        assert!(scalar.is_some_and(|scalar| bits.contains(&scalar)), "{name}: {binding:?}");
                    }
                    Some(DType::F16) => assert_eq!(scalar, Some(naga::Scalar::F16), "{name}: {binding:?}"),
                    Some(DType::U32) => assert_eq!(scalar, Some(naga::Scalar::U32), "{name}: {binding:?}"),
                    None => {}
                }
            }
            if let (1, Some(variable)) = (uniform, variables.last()) {
                assert_eq!(variable.space, naga::AddressSpace::Uniform, "{name}");
                assert_eq!(variable.name.as_deref(), Some("params"), "{name}");
                let naga::TypeInner::Struct { members, .. } = &module.types[variable.ty].inner else {
                    panic!("{name}: params is no struct");
                };
                let declared: Vec<_> = members
                    .iter()
                    .enumerate()
                    .map(|(position, member)| {
                        assert_eq!(member.offset as usize, 4 * position, "{name}: {:?}", member.name);
                        let scalar = match module.types[member.ty].inner {
                            naga::TypeInner::Scalar(scalar) => scalar,
                            ref other => panic!("{name}: {:?} is {other:?}", member.name),
                        };
                        (member.name.clone().unwrap(), scalar)
                    })
                    .collect();
                let given: Vec<_> = dispatch
                    .params
                    .iter()
                    .map(|&(name, param)| {
                        let scalar = match param {
                            Param::U32(_) => naga::Scalar::U32,
                            Param::F32(_) => naga::Scalar::F32,
                        };
                        (name.to_owned(), scalar)
                    })
                    .collect();
                assert_eq!(declared, given, "{name}: params");
            }
            let [entry] = module.entry_points.as_slice() else { panic!("{name}: more than one entry point") };
            assert_eq!((entry.name.as_str(), entry.stage), ("main", naga::ShaderStage::Compute), "{name}");
            assert!(dispatch.workgroups.iter().all(|&count| (1..=65_535).contains(&count)), "{name}: workgroups");
        }
        let expected: BTreeSet<String> = match case.op.writes() {
            [] => BTreeSet::from([format!("{:?}", Binding::Output)]),
            writes => writes.iter().map(|&input| format!("{:?}", Binding::Input(input))).collect(),
        };
        written.retain(|binding| !binding.starts_with("Workspace"));
        assert_eq!(written, expected, "{name}: what is written");
        assert_eq!(filled.len(), candidate.workspace.len(), "{name}: scratch space that nothing uses");
    }
}

#[test]
fn every_kernel_translates_to_spirv_msl_and_hlsl() {
    for (dispatch, case) in distinct() {
        let name = format!("{} for {case}", dispatch.kernel.path);
        let wgsl = compose(dispatch.kernel.path, dispatch.kernel.source, &dispatch.constants).unwrap();
        let (module, info) = validate(&name, &wgsl);
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None);
        assert!(!words.unwrap_or_else(|error| panic!("{name}: SPIR-V: {error}")).is_empty());
        let matrices = wgsl.contains("enable wgpu_cooperative_matrix");
        // The first version of Metal's language that has matrices is 2.3.
        let lang_version = if matrices { (2, 3) } else { msl::Options::default().lang_version };
        let options = msl::Options { fake_missing_bindings: true, lang_version, ..Default::default() };
        let msl = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        assert!(msl.unwrap_or_else(|error| panic!("{name}: MSL: {error}")).0.contains("kernel void"));
        // naga has no translation of them to HLSL, and wgpu no such feature there.
        if matrices {
            continue;
        }
        let (options, pipeline) = (hlsl::Options::default(), hlsl::PipelineOptions::default());
        let mut hlsl = String::new();
        let outcome = hlsl::Writer::new(&mut hlsl, &options, &pipeline).write(&module, &info, None);
        outcome.unwrap_or_else(|error| panic!("{name}: HLSL: {error}"));
        assert!(hlsl.contains("numthreads"));
    }
}

/// The files of a module and of the folder below it.
fn module(name: &str) -> Vec<(String, String)> {
    let mut folders = vec![root().join("src").join(name)];
    let mut files = vec![root().join("src").join(format!("{name}.rs"))];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.into_iter().map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn only_the_gpu_module_knows_wgpu_and_it_knows_no_op() {
    for name in ["op", "case", "ops", "graph", "autograd", "fuse", "cpu"] {
        for (path, text) in module(name) {
            assert!(!text.contains("wgpu"), "{path} mentions wgpu");
        }
    }
    let gpu = module("gpu");
    assert!(gpu.len() > 4, "{} files", gpu.len());
    for (path, text) in gpu {
        assert!(!text.contains("crate::ops"), "{path} mentions an op");
    }
}
