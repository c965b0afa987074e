// With r = 1 / sqrt(variance[s, g] + epsilon), over the channels c of group g:
// grad_moments[s, 0, g] = -r * sum of weight[c] * sums[s, 0, c]
// grad_moments[s, 1, g] = -r^3 / 2 * sum of weight[c] * sums[s, 1, c]
// One invocation owns both of one statistic, one workgroup 64 neighbours.
// Bytes moved: 12 per channel and set, 12 per statistic.
struct Params { count: u32, groups: u32, channels: u32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> sums: array<f32>; // [sets, 2, channels]
@group(0) @binding(1) var<storage, read> moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(2) var<storage, read> weight: array<f32>; // [channels]
@group(0) @binding(3) var<storage, read_write> grad_moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(4) var<uniform> params: Params; // count: statistics, sets * groups

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
    let s = i / params.groups;
    let group_of = i % params.groups;
    let size = params.channels / params.groups;
    var sum = 0.0;
    var products = 0.0;
    for (var c = group_of * size; c < (group_of + 1u) * size; c++) {
        sum += weight[c] * sums[s * 2u * params.channels + c];
        products += weight[c] * sums[(s * 2u + 1u) * params.channels + c];
    }
    let at = s * 2u * params.groups + group_of;
    let scale = inverseSqrt(moments[at + params.groups] + params.epsilon);
    grad_moments[at] = -scale * sum;
    grad_moments[at + params.groups] = -0.5 * scale * scale * scale * products;
}
