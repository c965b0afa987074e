// y[p, o] = bias[o] + sum over i of weight[i, o] * x[p, i]: the 1 x 1 convolution that ends a network, from many channels to few.
// One invocation owns all channels of a pixel, a workgroup 64 pixels of all images. A load takes four channels, of which x has
// multiples; all lanes read weight at one address.
// Bytes moved per workgroup: 256 * (in_channels + OUT_CHANNELS) + 4 * in_channels * OUT_CHANNELS.
const OUT_CHANNELS = 2u;
const RELU = 0u; // 1: what is below 0 becomes 0
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    pixels: u32,
    in_quads: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored4>; // [pixels, in_quads]
@group(0) @binding(1) var<storage, read> weight: array<vec4f>; // [in_quads, OUT_CHANNELS]: four rows of the weight
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [OUT_CHANNELS]
@group(0) @binding(3) var<storage, read_write> y: array<Stored>; // [pixels, OUT_CHANNELS]
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = (params.first_workgroup + group.x + group.y * groups.x) * 64u + lane;
    if pixel >= params.pixels {
        return;
    }

    var sum: array<f32, OUT_CHANNELS>;
    for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
        sum[o] = bias[o];
    }
    for (var q = 0u; q < params.in_quads; q++) {
        let values = vec4f(x[pixel * params.in_quads + q]);
        var w: array<vec4f, OUT_CHANNELS>;
        for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
            w[o] = weight[q * OUT_CHANNELS + o];
        }
        for (var k = 0u; k < 4u; k++) { // unroll
            for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
                sum[o] += w[(k * OUT_CHANNELS + o) / 4u][(k * OUT_CHANNELS + o) % 4u] * values[k];
            }
        }
    }
    for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
        y[pixel * OUT_CHANNELS + o] = Stored(select(sum[o], 0.0, (RELU == 1u) & (sum[o] <= 0.0)));
    }
}
