// sums[strip, c] = sum of grad_output * x over the elements of slope c with x <= 0 in a strip: i, i + count, i + 2 count, …
// One invocation owns one strip of one slope, one workgroup 64 neighbours. Bytes moved: 8 per element, 4 per strip.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, elements: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [elements]
@group(0) @binding(1) var<storage, read> grad_output: array<Stored>; // [elements]
@group(0) @binding(2) var<storage, read_write> sums: array<f32>; // [count]
@group(0) @binding(3) var<uniform> params: Params; // count: strips * slopes

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
    for (var t = i; t < params.elements; t += params.count) {
        let value = f32(x[t]);
        sum += select(f32(grad_output[t]) * value, 0.0, value > 0.0);
    }
    sums[i] = sum;
}
