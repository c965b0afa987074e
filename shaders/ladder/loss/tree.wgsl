// y[g] = sum of x[t] over the t of workgroup g: TERMS * 256 neighbours
// One invocation adds TERMS of them, 256 apart; then half the invocations add what the other half has, again and again, through
// 1 KiB of workgroup memory. Bytes moved: 4 per term and per workgroup.
const TERMS = 16u;

struct Params { count: u32, terms: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // [terms]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count]
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let g = group.x + group.y * groups.x;
    var sum = 0.0;
    for (var k = 0u; k < TERMS; k++) { // unroll
        let t = (g * TERMS + k) * 256u + invocation;
        sum += select(0.0, x[min(t, params.terms - 1u)], t < params.terms);
    }
    sums[invocation] = sum;
    for (var width = 128u; width > 0u; width /= 2u) {
        workgroupBarrier(); // The sums of the step before are complete.
        if invocation < width {
            sums[invocation] += sums[invocation + width];
        }
    }
    if invocation == 0u && g < params.count {
        y[g] = sums[0];
    }
}
