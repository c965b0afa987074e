// grad_probabilities[x, k] = -grad_output / foreground * (2 [k = label] - D) / S, S = predicted + labelled + smoothing,
// D = (2 both + smoothing) / S, (both, predicted, labelled) = sums[k - 1]; 0 for k = 0 and where the pixel does not count
// One invocation owns one pixel, one workgroup 64 neighbours a turn. Bytes moved: 4 per probability, 8 per pixel.
struct Params { count: u32, foreground: u32, smoothing: f32 }

@group(0) @binding(0) var<storage, read> labels: array<u32>; // [count]
@group(0) @binding(1) var<storage, read> weights: array<f32>; // [count]
@group(0) @binding(2) var<storage, read> sums: array<f32>; // [foreground, 3]
@group(0) @binding(3) var<storage, read> grad_output: array<f32>; // [1]
@group(0) @binding(4) var<storage, read_write> grad_probabilities: array<f32>; // [count, foreground + 1]
@group(0) @binding(5) var<uniform> params: Params; // count: pixels

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
        let first = i * (params.foreground + 1u);
        let label = labels[i];
        let counts = (label <= params.foreground) & (weights[i] != 0.0);
        grad_probabilities[first] = 0.0;
        for (var k = 1u; k <= params.foreground; k++) {
            var grad = 0.0;
            if counts {
                let sum = 3u * (k - 1u);
                let both_twice = 2.0 * sums[sum] + params.smoothing;
                let total = sums[sum + 1u] + sums[sum + 2u] + params.smoothing;
                let distance = select(0.0, 2.0, k == label) - both_twice / total;
                grad = -(grad_output[0] / f32(params.foreground)) * (distance / total);
            }
            grad_probabilities[first + k] = grad;
        }
    }
}
