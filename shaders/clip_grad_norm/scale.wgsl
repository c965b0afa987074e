// gradient *= min(1, max_norm / (norm + 1e-6))
// One invocation owns one element of the bank, one workgroup 64 neighbours a turn. Bytes moved: 8 per element, or none.
struct Params { count: u32, max_norm: f32 }

@group(0) @binding(0) var<storage, read_write> gradient: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> norm: array<f32>; // [1]
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
        if i >= params.count {
            return;
        }
        let scale = params.max_norm / (norm[0] + 1e-6);
        if scale < 1.0 {
            gradient[i] *= scale;
        }
    }
}
