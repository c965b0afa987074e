// sums[s, k - 1] = (sum of p[x, k] where the label of x is k, sum of p[x, k], number of x whose label is k), over the pixels
// x = s, s + strips, s + 2 strips, … whose weight is not 0 and whose label is a class, for k = 1 … foreground
// One invocation owns one strip s and one class k, one workgroup 64 neighbours. Bytes moved: 4 per probability, 8 per pixel and
// class, 12 per strip and class.
struct Params { count: u32, pixels: u32, foreground: u32 }

@group(0) @binding(0) var<storage, read> probabilities: array<f32>; // [pixels, foreground + 1]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [pixels]
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [pixels]
@group(0) @binding(3) var<storage, read_write> sums: array<f32>; // [strips, foreground, 3]
@group(0) @binding(4) var<uniform> params: Params; // count: strips * foreground

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
    let class_index = i % params.foreground + 1u;
    var both = 0.0;
    var predicted = 0.0;
    var labelled = 0.0;
    for (var x = i / params.foreground; x < params.pixels; x += params.count / params.foreground) {
        let label = labels[x];
        if label <= params.foreground && weights[x] != 0.0 {
            let p = probabilities[x * (params.foreground + 1u) + class_index];
            predicted += p;
            if label == class_index {
                both += p;
                labelled += 1.0;
            }
        }
    }
    sums[3u * i] = both;
    sums[3u * i + 1u] = predicted;
    sums[3u * i + 2u] = labelled;
}
