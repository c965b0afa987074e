// y[s, p, c] = (x[s, p, c] - mean[s, g]) / sqrt(variance[s, g] + epsilon) * weight[c] + bias[c], c being in group g
// One invocation owns one element of y, one workgroup 64 neighbours a turn. Bytes moved: 8 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, groups: u32, pixels: u32, channels: u32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(1) var<storage, read> moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(2) var<storage, read> weight: array<f32>; // [channels]
@group(0) @binding(3) var<storage, read> bias: array<f32>; // [channels]
@group(0) @binding(4) var<storage, read_write> y: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(5) var<uniform> params: Params; // count: elements of y

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
        let c = i % params.channels;
        let s = i / params.channels / params.pixels;
        let mean = s * 2u * params.groups + c / (params.channels / params.groups);
        let scale = inverseSqrt(moments[mean + params.groups] + params.epsilon);
        y[i] = Stored((f32(x[i]) - moments[mean]) * scale * weight[c] + bias[c]);
    }
}
