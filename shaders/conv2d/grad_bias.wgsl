// partial[s, o] = sum over the pixels p of part s of grad_output[p, o]; conv2d/reduce_partials adds the parts.
// Part s is the pixels s * pixels_per_part onwards of all images.
// One invocation owns one o, or four, a workgroup LANES times as many. Bytes moved: 4 per element of grad_output and of partial.
const LANES = 32u;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Elements = Stored; // or vec4<Stored>: four channels at once; all numbers of channels are then of fours
alias Values = f32; // or vec4f

struct Params {
    pixels: u32,
    channels: u32,
    pixels_per_part: u32,
}

@group(0) @binding(0) var<storage, read> grad_output: array<Elements>; // [pixels, channels]
@group(0) @binding(1) var<storage, read_write> partial: array<Values>; // [parts, channels]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let blocks = (params.channels + LANES - 1u) / LANES;
    let index = group.x + group.y * groups.x;
    let o = index % blocks * LANES + lane;
    let part = index / blocks;
    let start = part * params.pixels_per_part;
    if start < params.pixels && o < params.channels {
        var sum = Values();
        for (var p = start; p < min(start + params.pixels_per_part, params.pixels); p++) {
            sum += Values(grad_output[p * params.channels + o]);
        }
        partial[part * params.channels + o] = sum;
    }
}
