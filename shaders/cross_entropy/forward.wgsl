// sums[i] = scale * sum of w[p] * (log sum over k of exp(x[p, k] - m) - (x[p, label] - m)), m = the largest x[p, k],
// over the pixels p = i, i + count, i + 2 count, … whose label counts
// One invocation owns one strip of pixels and its sum, one workgroup 64 neighbours.
// Bytes moved: 4 per score, 8 per pixel, 4 per strip.
struct Params { count: u32, pixels: u32, classes: u32, ignore_label: u32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [pixels, classes]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [pixels]
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [pixels]
@group(0) @binding(3) var<storage, read> scale: array<f32>; // [1]
@group(0) @binding(4) var<storage, read_write> sums: array<f32>; // [count]
@group(0) @binding(5) var<uniform> params: Params; // count: strips

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
        if label < params.classes && label != params.ignore_label {
            let first = p * params.classes;
            var largest = logits[first];
            for (var k = 1u; k < params.classes; k++) {
                largest = max(largest, logits[first + k]);
            }
            var exponentials = 0.0;
            for (var k = 0u; k < params.classes; k++) {
                exponentials += exp(logits[first + k] - largest);
            }
            sum += weights[p] * (log(exponentials) - (logits[first + label] - largest));
        }
    }
    sums[i] = scale[0] * sum;
}
