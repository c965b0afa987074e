// y[i] = sum of x[t] over t = i, i + count, i + 2 count, …; with INVERSE the inverse of that, or 0 where it is 0;
// with ROOT its root
// Where x holds rows of columns, and count and terms are multiples of their number, the sums of each column stay apart.
// One invocation owns one sum, one workgroup 64 neighbours. Bytes moved: 4 per term and per sum.
struct Params { count: u32, terms: u32 }

const INVERSE = false;
const ROOT = false;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [terms]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [count]
@group(0) @binding(2) var<uniform> params: Params; // count: sums

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
    for (var t = i; t < params.terms; t += params.count) {
        sum += x[t];
    }
    if INVERSE && sum != 0.0 {
        sum = 1.0 / sum;
    }
    if ROOT {
        sum = sqrt(sum);
    }
    y[i] = sum;
}
