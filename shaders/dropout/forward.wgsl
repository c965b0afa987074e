// y[i] = x[i] * scale where the random word of (seed, stream, step, i) is at least threshold, else 0
// One invocation owns one element, one workgroup 64 neighbours a turn. Bytes moved: 8 per element.
// pcg3d: Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020; the same integers as src/random.rs.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, stream: u32, threshold: u32, scale: f32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [count]
@group(0) @binding(1) var<storage, read> state: array<u32>; // [2]: seed, step
@group(0) @binding(2) var<storage, read_write> y: array<Stored>; // [count]
@group(0) @binding(3) var<uniform> params: Params;

fn pcg3d(words: vec3u) -> vec3u {
    var v = words * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> vec3u(16u);
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

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
        let key = pcg3d(vec3u(state[1], params.stream, state[0]));
        var word = pcg3d(vec3u(key.x ^ i, key.y, key.z)).x;
        // The low bits of pcg3d repeat after 2^17 positions; folding the high half in mends that.
        word ^= word >> 16u;
        y[i] = Stored(select(0.0, f32(x[i]) * params.scale, word >= params.threshold));
    }
}
