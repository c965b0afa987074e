// sums[i] = sum of w[p] (or of 1, see BY_WEIGHT) over the pixels p = i, i + count, i + 2 count, … whose label counts
// One invocation owns one strip of pixels and its sum, one workgroup 64 neighbours. Bytes moved: 8 per pixel, 4 per strip.
struct Params { count: u32, pixels: u32, classes: u32, ignore_label: u32 }

const BY_WEIGHT = true;

@group(0) @binding(0) var<storage, read> labels: array<u32>; // [pixels]
@group(0) @binding(1) var<storage, read> weights: array<f32>; // [pixels]
@group(0) @binding(2) var<storage, read_write> sums: array<f32>; // [count]
@group(0) @binding(3) var<uniform> params: Params; // count: strips

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
            sum += select(1.0, weights[p], BY_WEIGHT);
        }
    }
    sums[i] = sum;
}
