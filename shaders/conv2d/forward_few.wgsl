// y[n, p, o] = bias[o] + sum over q, i of weight[q, i, o] * x[n, STRIDE * p + q - PADDING, i], x being zero outside: for the few
// input channels of a first layer.
// One invocation owns PIXELS pixels in a row, a run, of four channels; a workgroup, 64 times as many. Lanes lie along the
// channels, of which y has multiples of four, and go on at the next run. A loaded weight serves all pixels of the run.
// Bytes moved per invocation: 4 * KERNEL_HEIGHT * WINDOW * IN_CHANNELS + 16 * TAPS + 16 * PIXELS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const IN_CHANNELS = 1u;
const PIXELS = 4u;
const WINDOW = (PIXELS - 1u) * STRIDE_X + KERNEL_WIDTH;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [batch, in_height, in_width, IN_CHANNELS]
@group(0) @binding(1) var<storage, read> weight: array<vec4f>; // [KERNEL_HEIGHT, KERNEL_WIDTH, IN_CHANNELS, out_channels / 4]
@group(0) @binding(2) var<storage, read> bias: array<vec4f>; // [out_channels / 4]
@group(0) @binding(3) var<storage, read_write> y: array<Stored4>; // [batch, out_height, out_width, out_channels / 4]
@group(0) @binding(4) var<uniform> params: Params;

// x at a position counted from the corner of the padding. What lies before the image wraps around to large numbers.
fn padded(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = row - PADDING_Y;
    let c = column - PADDING_X;
    let inside = (r < params.in_height) & (c < params.in_width);
    let line = image * params.in_height + min(r, params.in_height - 1u);
    let pixel = line * params.in_width + min(c, params.in_width - 1u);
    return select(0.0, f32(x[pixel * IN_CHANNELS + channel]), inside);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = params.out_channels / 4u;
    let runs = (params.out_width + PIXELS - 1u) / PIXELS;
    let index = (params.first_workgroup + group.x + group.y * groups.x) * 64u + lane;
    let quad = index % quads;
    let left = index / quads % runs * PIXELS;
    let line = index / quads / runs;
    if line >= params.batch * params.out_height {
        return;
    }
    let image = line / params.out_height;
    let top = line % params.out_height * STRIDE_Y;

    var sum: array<vec4f, PIXELS>;
    for (var c = 0u; c < PIXELS; c++) { // unroll
        sum[c] = select(vec4f(), bias[quad], BIAS == 1u);
    }
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        var window: array<f32, WINDOW * IN_CHANNELS>;
        for (var c = 0u; c < WINDOW; c++) { // unroll
            for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                window[c * IN_CHANNELS + i] = padded(image, top + ky, left * STRIDE_X + c, i);
            }
        }
        for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
            for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                let w = weight[((ky * KERNEL_WIDTH + kx) * IN_CHANNELS + i) * quads + quad];
                for (var c = 0u; c < PIXELS; c++) { // unroll
                    sum[c] += w * window[(c * STRIDE_X + kx) * IN_CHANNELS + i];
                }
            }
        }
    }
    for (var c = 0u; c < PIXELS; c++) { // unroll
        if left + c < params.out_width {
            let at = (line * params.out_width + left + c) * quads + quad;
            y[at] = Stored4(select(sum[c], vec4f(), vec4<bool>(RELU == 1u) & (sum[c] <= vec4f())));
        }
    }
}
