// grad_input[p, i] = sum over o of weight[i, o] * grad_output[p, o], for the 1 x 1 convolution of conv2d/forward_head.
// One invocation owns four channels of PIXELS pixels in a row, and has their part of the weight in registers; a workgroup,
// 64 times as many. Lanes lie along the channels of which grad_input has multiples of four, and go on at the next pixels.
// Bytes moved per pixel: 4 * OUT_CHANNELS + 4 * in_channels, and, for all pixels of an invocation, its part of weight.
const OUT_CHANNELS = 2u;
const MASK = 0u; // 1: where mask is not above 0, the result is; 0: any buffer stands in its place
const PIXELS = 4u;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    pixels: u32,
    in_quads: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> grad_output: array<Stored>; // [pixels, OUT_CHANNELS]
@group(0) @binding(1) var<storage, read> weight: array<vec4f>; // [in_quads, OUT_CHANNELS]: four rows of the weight
@group(0) @binding(2) var<storage, read> mask: array<Stored>; // [pixels, 4 * in_quads]
@group(0) @binding(3) var<storage, read_write> grad_input: array<Stored4>; // [pixels, in_quads]
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (params.first_workgroup + group.x + group.y * groups.x) * 64u + lane;
    let quad = index % params.in_quads;
    let first_pixel = index / params.in_quads * PIXELS;
    if first_pixel >= params.pixels {
        return;
    }

    var w: array<vec4f, OUT_CHANNELS>;
    for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
        w[o] = weight[quad * OUT_CHANNELS + o];
    }
    for (var p = 0u; p < PIXELS; p++) { // unroll
        let pixel = first_pixel + p;
        if pixel < params.pixels {
            let at = pixel * params.in_quads + quad;
            var sum: array<f32, 4>;
            for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
                let gradient = f32(grad_output[pixel * OUT_CHANNELS + o]);
                for (var k = 0u; k < 4u; k++) { // unroll
                    sum[k] += w[(k * OUT_CHANNELS + o) / 4u][(k * OUT_CHANNELS + o) % 4u] * gradient;
                }
            }
            if MASK == 1u {
                for (var k = 0u; k < 4u; k++) { // unroll
                    sum[k] = select(sum[k], 0.0, f32(mask[4u * at + k]) <= 0.0);
                }
            }
            grad_input[at] = Stored4(vec4f(sum[0], sum[1], sum[2], sum[3]));
        }
    }
}
