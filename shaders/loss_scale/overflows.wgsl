// sums[i] = how many of gradient[t] over t = i, i + count, i + 2 count, … are infinite or NaN
// One invocation owns one strip of elements and its sum, one workgroup 64 neighbours. Bytes moved: 4 per element and per strip.
struct Params { count: u32, elements: u32, begin: u32 }

const EXPONENT = 0x7f800000u; // All of it set: no finite number. A driver may compute with numbers as if all were finite.

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
        sum += select(0.0, 1.0, (bitcast<u32>(gradient[t]) & EXPONENT) == EXPONENT);
    }
    sums[i] = sum;
}
