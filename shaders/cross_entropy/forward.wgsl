// sums[i] = scale * sum of w[p] * (log sum over k of exp(x[p, k] - m) - (x[p, label] - m)), m = the largest x[p, k],
// over the pixels p = i, i + count, i + 2 count, … whose label counts
// With GRAD, also grad_logits[p, k] = scale * w[p] * (exp(x[p, k] - m) / sum over j of exp(x[p, j] - m) - [k = label]), 0 where
// the label of p does not count.
// One invocation owns one strip of pixels and its sum, one workgroup 64 neighbours.
// Bytes moved: 4 per score, with GRAD 8, 8 per pixel, 4 per strip.
struct Params { count: u32, pixels: u32, classes: u32, ignore_label: u32 }

const GRAD = 0u; // 0: any buffer of its own stands in the place of grad_logits

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [pixels, classes]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [pixels]
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [pixels]
@group(0) @binding(3) var<storage, read> scale: array<f32>; // [1]
@group(0) @binding(4) var<storage, read_write> sums: array<f32>; // [count]
@group(0) @binding(5) var<storage, read_write> grad_logits: array<f32>; // [pixels, classes]
@group(0) @binding(6) var<uniform> params: Params; // count: strips

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
    var sum = 0.0;
    for (var p = i; p < params.pixels; p += params.count) {
        let label = labels[p];
        let first = p * params.classes;
        if label < params.classes && label != params.ignore_label {
            var largest = logits[first];
            for (var k = 1u; k < params.classes; k++) {
                largest = max(largest, logits[first + k]);
            }
            var exponentials = 0.0;
            for (var k = 0u; k < params.classes; k++) {
                exponentials += exp(logits[first + k] - largest);
            }
            sum += weights[p] * (log(exponentials) - (logits[first + label] - largest));
            if GRAD == 1u {
                let weight = scale[0] * weights[p];
                for (var k = 0u; k < params.classes; k++) {
                    let probability = exp(logits[first + k] - largest) / exponentials;
                    grad_logits[first + k] = weight * (probability - select(0.0, 1.0, k == label));
                }
            }
        } else if GRAD == 1u {
            for (var k = 0u; k < params.classes; k++) {
                grad_logits[first + k] = 0.0;
            }
        }
    }
    sums[i] = scale[0] * sum;
}
