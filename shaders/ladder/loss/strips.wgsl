// y[i] = sum of x[t] over t = i * strip up to (i + 1) * strip, or to the last term
// One invocation owns one sum of neighbouring terms, a workgroup 64 of them. Bytes moved: 4 per term and per sum.
const TERMS = 32u; // in a turn of the loop, which some drivers end after 65,535

struct Params { count: u32, terms: u32, strip: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // [terms]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + invocation;
    if i >= params.count {
        return;
    }
    let end = min((i + 1u) * params.strip, params.terms);
    var sum = 0.0;
    for (var t = i * params.strip; t < end; t += TERMS) {
        for (var k = 0u; k < TERMS; k++) { // unroll
            sum += select(0.0, x[min(t + k, params.terms - 1u)], t + k < end);
        }
    }
    y[i] = sum;
}
