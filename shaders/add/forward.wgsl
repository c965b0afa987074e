// y[i] = a[i] + b[i]
// One invocation owns one element a turn. Bytes moved: 12 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32 }

@group(0) @binding(0) var<storage, read> a: array<Stored>; // [count]
@group(0) @binding(1) var<storage, read> b: array<Stored>; // [count]
@group(0) @binding(2) var<storage, read_write> y: array<Stored>; // [count]
@group(0) @binding(3) var<uniform> params: Params;

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
            y[i] = Stored(f32(a[i]) + f32(b[i]));
        }
    }
}
