// loss = 1 - mean over k of (2 both + smoothing) / (predicted + labelled + smoothing), (both, predicted, labelled) = sums[k]
// One invocation owns the result. Bytes moved: 12 per class.
struct Params { count: u32, foreground: u32, smoothing: f32 }

@group(0) @binding(0) var<storage, read> sums: array<f32>; // [foreground, 3]
@group(0) @binding(1) var<storage, read_write> loss: array<f32>; // [1]
@group(0) @binding(2) var<uniform> params: Params; // count: 1

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
    var dice = 0.0;
    for (var k = 0u; k < 3u * params.foreground; k += 3u) {
        dice += (2.0 * sums[k] + params.smoothing) / (sums[k + 1u] + sums[k + 2u] + params.smoothing);
    }
    loss[i] = 1.0 - dice / f32(params.foreground);
}
