// With WEIGHT, grad[c] = sum over s of sums[s, 1, c] / sqrt(variance[s, g] + epsilon), c being in group g; else of sums[s, 0, c]
// One invocation owns one channel, one workgroup 64 neighbours. Bytes moved: 8 per channel and set, 4 per channel.
struct Params { count: u32, sets: u32, groups: u32, epsilon: f32 }

const WEIGHT = true;

@group(0) @binding(0) var<storage, read> sums: array<f32>; // [sets, 2, count]
@group(0) @binding(1) var<storage, read> moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(2) var<storage, read_write> grad: array<f32>; // [count]
@group(0) @binding(3) var<uniform> params: Params; // count: channels

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
    let group_of = i / (params.count / params.groups);
    var sum = 0.0;
    for (var s = 0u; s < params.sets; s++) {
        if WEIGHT {
            let variance = moments[(s * 2u + 1u) * params.groups + group_of];
            sum += sums[(s * 2u + 1u) * params.count + i] * inverseSqrt(variance + params.epsilon);
        } else {
            sum += sums[s * 2u * params.count + i];
        }
    }
    grad[i] = sum;
}
