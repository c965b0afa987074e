// grad_input[s, p, c] = (grad_mean[s, g] + 2 * (x[s, p, c] - mean[s, g]) * grad_variance[s, g]) / terms, c being in group g
// One invocation owns one element, one workgroup 64 neighbours a turn. Bytes moved: 8 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, groups: u32, pixels: u32, channels: u32, inverse_terms: f32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(1) var<storage, read> moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(2) var<storage, read> grad_moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(3) var<storage, read_write> grad_input: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(4) var<uniform> params: Params; // count: elements

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
        let s = i / params.channels / params.pixels;
        let mean = s * 2u * params.groups + i % params.channels / (params.channels / params.groups);
        let variance = mean + params.groups;
        let grad = grad_moments[mean] + 2.0 * (f32(x[i]) - moments[mean]) * grad_moments[variance];
        grad_input[i] = Stored(grad * params.inverse_terms);
    }
}
