// gradient /= scale
// One invocation owns one element of the bank, one workgroup 64 neighbours a turn. Bytes moved: 8 per element.
struct Params { count: u32 }

@group(0) @binding(0) var<storage, read_write> gradient: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> state: array<f32>; // [6], the scale first
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i < params.count {
            gradient[i] /= state[0];
        }
    }
}
