// y[p, o] = bias[o] + sum over i of weight[i, o] * x[p, i]: the 1 x 1 convolution that ends a network, from many channels to few.
// One invocation owns PIXELS pixels, 64 apart, with all their channels, a workgroup 64 * PIXELS of all images. A load takes
// four channels, of which x has multiples; all lanes read weight at one address, once for all their pixels.
// Bytes moved per workgroup: 256 * PIXELS * (in_channels + OUT_CHANNELS) + 4 * in_channels * OUT_CHANNELS.
const OUT_CHANNELS = 2u;
const RELU = 0u; // 1: what is below 0 becomes 0
const PIXELS = 1u;
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
    // Read once: a driver may not know that it stays the same.
    let in_quads = params.in_quads;
    let first_pixel = (params.first_workgroup + group.x + group.y * groups.x) * 64u * PIXELS + lane;
    var x_at: array<u32, PIXELS>;
    var sum: array<f32, PIXELS * OUT_CHANNELS>;
    for (var p = 0u; p < PIXELS; p++) { // unroll
        // A pixel past the last is computed as that one and not stored.
        x_at[p] = min(first_pixel + p * 64u, params.pixels - 1u) * in_quads;
        for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
            sum[p * OUT_CHANNELS + o] = bias[o];
        }
    }
    for (var q = 0u; q < in_quads; q++) {
        var w: array<vec4f, OUT_CHANNELS>;
        for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
            w[o] = weight[q * OUT_CHANNELS + o];
        }
        for (var p = 0u; p < PIXELS; p++) { // unroll
            let values = vec4f(x[x_at[p] + q]);
            for (var k = 0u; k < 4u; k++) { // unroll
                for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
                    sum[p * OUT_CHANNELS + o] += w[(k * OUT_CHANNELS + o) / 4u][(k * OUT_CHANNELS + o) % 4u] * values[k];
                }
            }
        }
    }
    for (var p = 0u; p < PIXELS; p++) { // unroll
        let pixel = first_pixel + p * 64u;
        for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
            if pixel < params.pixels {
                let value = sum[p * OUT_CHANNELS + o];
                y[pixel * OUT_CHANNELS + o] = Stored(select(value, 0.0, (RELU == 1u) & (value <= 0.0)));
            }
        }
    }
}
