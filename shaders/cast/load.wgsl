// y[i] = x[i], from what is stored
// One invocation owns one element a turn. Bytes moved: 8 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [count]
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
            y[i] = f32(x[i]);
        }
    }
}
