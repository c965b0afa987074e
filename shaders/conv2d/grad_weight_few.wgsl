// partial[s, q, i, o] = sum over the pixels p of part s of grad_output[p, o] * x[STRIDE * p + q - PADDING, i]: for the few input
// channels of a first layer.
// Part s is the runs of PIXELS pixels in a row from s * runs_per_part on, of all images; conv2d/reduce_partials adds the parts.
// One invocation owns four o, of which grad_output has multiples, all i, a row of q, and every ROWS-th run of a part; a
// workgroup, 4 * LANES o and all runs of the part. Its ROWS sums of each element are added in order, through workgroup memory.
// Bytes moved per workgroup and run: 4 * WINDOW * IN_CHANNELS + 16 * LANES * PIXELS; workgroup memory: 16 * LANES * ROWS * TAPS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const IN_CHANNELS = 1u;
const LANES = 16u;
const ROWS = 16u;
const PIXELS = 4u;
const WINDOW = (PIXELS - 1u) * STRIDE_X + KERNEL_WIDTH;
const TAPS = KERNEL_WIDTH * IN_CHANNELS; // of a row
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
    runs_per_part: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [batch, in_height, in_width, IN_CHANNELS]
@group(0) @binding(1) var<storage, read> grad_output: array<Stored4>; // [batch, out_height, out_width, out_channels / 4]
@group(0) @binding(2) var<storage, read_write> partial: array<vec4f>; // [parts, KERNEL_HEIGHT, TAPS, out_channels / 4]
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> sums: array<array<vec4f, TAPS>, LANES * ROWS>;

// x at a position counted from the corner of the padding. What lies before the image wraps around to large numbers.
fn padded(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = row - PADDING_Y;
    let c = column - PADDING_X;
    let inside = (r < params.in_height) & (c < params.in_width);
    let line = image * params.in_height + min(r, params.in_height - 1u);
    let pixel = line * params.in_width + min(c, params.in_width - 1u);
    return select(0.0, f32(x[pixel * IN_CHANNELS + channel]), inside);
}

@compute @workgroup_size(LANES * ROWS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let quads = params.out_channels / 4u;
    let blocks = (quads + LANES - 1u) / LANES;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let ky = index / blocks % KERNEL_HEIGHT;
    let part = index / blocks / KERNEL_HEIGHT;
    // A lane past the last channels computes those again and stores nothing.
    let quad = min(index % blocks * LANES + invocation % LANES, quads - 1u);
    let runs = (params.out_width + PIXELS - 1u) / PIXELS;
    let start = part * params.runs_per_part;
    let end = min(start + params.runs_per_part, params.batch * params.out_height * runs);

    var sum: array<vec4f, TAPS>;
    for (var run = start + invocation / LANES; run < end; run += ROWS) {
        let line = run / runs;
        let left = run % runs * PIXELS;
        let row = line % params.out_height * STRIDE_Y + ky;
        var window: array<f32, WINDOW * IN_CHANNELS>;
        for (var c = 0u; c < WINDOW; c++) { // unroll
            for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                window[c * IN_CHANNELS + i] = padded(line / params.out_height, row, left * STRIDE_X + c, i);
            }
        }
        for (var c = 0u; c < PIXELS; c++) { // unroll
            let pixel = line * params.out_width + min(left + c, params.out_width - 1u);
            let gradient = select(vec4f(), vec4f(grad_output[pixel * quads + quad]), left + c < params.out_width);
            for (var t = 0u; t < TAPS; t++) { // unroll
                sum[t] += gradient * window[c * STRIDE_X * IN_CHANNELS + t];
            }
        }
    }
    for (var t = 0u; t < TAPS; t++) { // unroll
        sums[invocation][t] = sum[t];
    }
    workgroupBarrier(); // All sums are there: they may be read.
    for (var e = invocation; e < LANES * TAPS; e += LANES * ROWS) {
        let own_quad = index % blocks * LANES + e % LANES;
        if own_quad < quads && start < end {
            var total = vec4f();
            for (var row = 0u; row < ROWS; row++) {
                total += sums[row * LANES + e % LANES][e / LANES];
            }
            partial[((part * KERNEL_HEIGHT + ky) * TAPS + e / LANES) * quads + own_quad] = total;
        }
    }
}
