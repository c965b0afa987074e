// sums[strip, s, 0, c] = sum of dy[s, p, c], sums[strip, s, 1, c] = sum of dy[s, p, c] * (x[s, p, c] - mean[s, g]),
// c being in group g, over the pixels p = strip, strip + strips, strip + 2 strips, …
// One invocation owns a strip of one channel, one workgroup 64 neighbours. Bytes moved: 8 per element, 8 per strip.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, sets: u32, groups: u32, pixels: u32, channels: u32, strips: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(1) var<storage, read> moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(2) var<storage, read> grad_output: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(3) var<storage, read_write> sums: array<f32>; // [strips, sets, 2, channels]
@group(0) @binding(4) var<uniform> params: Params; // count: strips * sets * channels

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
    let c = i % params.channels;
    let s = i / params.channels % params.sets;
    let strip = i / params.channels / params.sets;
    let mean = moments[s * 2u * params.groups + c / (params.channels / params.groups)];
    var sum = 0.0;
    var products = 0.0;
    for (var p = strip; p < params.pixels; p += params.strips) {
        let at = (s * params.pixels + p) * params.channels + c;
        sum += f32(grad_output[at]);
        products += f32(grad_output[at]) * (f32(x[at]) - mean);
    }
    let at = (strip * params.sets + s) * 2u * params.channels + c;
    sums[at] = sum;
    sums[at + params.channels] = products;
}
