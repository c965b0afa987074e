// bank[first + i] = values[begin + i]
// One invocation owns one element, one workgroup 64 neighbours. Bytes moved: 8 per element.
struct Params { count: u32, first: u32, begin: u32 }

const SCALED = false; // true: the loss is scaled, and nothing is written where its state says so

@group(0) @binding(0) var<storage, read> values: array<f32>; // [c]
@group(0) @binding(1) var<storage, read_write> bank: array<f32>; // [elements of a piece of the bank]
@group(0) @binding(2) var<storage, read> state: array<f32>; // [6] of loss_scale; where not SCALED any buffer stands in its place
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= params.count {
        return;
    }
    if SCALED && state[3] != 0.0 {
        return;
    }
    bank[params.first + i] = values[params.begin + i];
}
