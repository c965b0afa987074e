// sums[i] = sum of gradient[t]² over t = i, i + count, i + 2 count, …
// One invocation owns one strip of elements and its sum, one workgroup 64 neighbours. Bytes moved: 4 per element and per strip.
struct Params { count: u32, elements: u32, begin: u32 }

@group(0) @binding(0) var<storage, read> gradient: array<f32>; // [elements], a piece of the bank, from its element `begin` on
@group(0) @binding(1) var<storage, read_write> sums: array<f32>; // [count]
@group(0) @binding(2) var<uniform> params: Params; // count: strips

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
    if params.begin > 0u {
        sum = sums[i];
    }
    for (var t = (i + params.count - params.begin % params.count) % params.count; t < params.elements; t += params.count) {
        sum += gradient[t] * gradient[t];
    }
    sums[i] = sum;
}
