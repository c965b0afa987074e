// y[i] = 1 / (1 + exp(-x[i])), with an exponential that is at most 1
// One invocation owns one element a turn. Bytes moved: 8 per element.
struct Params { count: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count]
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
            let exponential = exp(-abs(x[i]));
            y[i] = select(1.0, exponential, x[i] < 0.0) / (1.0 + exponential);
        }
    }
}
