// partial[s, q, i, o] = sum over the pixels p of part s of x[p, i] * grad_output[STRIDE * p + q - PADDING, o].
// Part s is the rows s * rows_per_part onwards of all images' input rows; conv2d/reduce_partials adds the parts.
// One invocation owns KERNEL_WIDTH x CHANNELS elements (one row of the weight, one o); a workgroup, LANES o of those.
// All lanes read x at one address, and grad_output side by side.
// Bytes moved per workgroup and pixel: 4 * CHANNELS + 4 * LANES * KERNEL_WIDTH.
const KERNEL_HEIGHT = 2u;
const KERNEL_WIDTH = 2u;
const STRIDE_Y = 2u;
const STRIDE_X = 2u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const LANES = 32u;
const CHANNELS = 8u;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
    rows_per_part: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(1) var<storage, read> grad_output: array<Stored>; // [batch, out_height, out_width, out_channels]
@group(0) @binding(2) var<storage, read_write> partial: array<f32>; // [parts, elements of the weight]
@group(0) @binding(3) var<uniform> params: Params;

// grad_output at a position counted from the corner of the padding. What lies before it wraps around to large numbers.
fn padded(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = row - PADDING_Y;
    let c = column - PADDING_X;
    let inside = (r < params.out_height) & (c < params.out_width);
    let line = image * params.out_height + min(r, params.out_height - 1u);
    let pixel = line * params.out_width + min(c, params.out_width - 1u);
    return select(0.0, f32(grad_output[pixel * params.out_channels + channel]), inside);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let out_blocks = (params.out_channels + LANES - 1u) / LANES;
    let in_blocks = (params.in_channels + CHANNELS - 1u) / CHANNELS;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let o = index % out_blocks * LANES + lane;
    let i = index / out_blocks % in_blocks * CHANNELS;
    let ky = index / out_blocks / in_blocks % KERNEL_HEIGHT;
    let part = index / out_blocks / in_blocks / KERNEL_HEIGHT;
    let rows = params.batch * params.in_height;
    let end = min((part + 1u) * params.rows_per_part, rows);
    // What lies past the last channel computes that one again and stores nothing.
    let readable_o = min(o, params.out_channels - 1u);

    var sum: array<f32, KERNEL_WIDTH * CHANNELS>;
    for (var line = part * params.rows_per_part; line < end; line++) {
        let image = line / params.in_height;
        let row = line % params.in_height * STRIDE_Y + ky;
        for (var column = 0u; column < params.in_width; column++) {
            var gradient: array<f32, KERNEL_WIDTH>;
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                gradient[kx] = padded(image, row, column * STRIDE_X + kx, readable_o);
            }
            for (var j = 0u; j < CHANNELS; j++) { // unroll
                let readable_i = min(i + j, params.in_channels - 1u);
                let value = f32(x[(line * params.in_width + column) * params.in_channels + readable_i]);
                for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                    sum[kx * CHANNELS + j] += value * gradient[kx];
                }
            }
        }
    }
    for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
        for (var j = 0u; j < CHANNELS; j++) { // unroll
            if part * params.rows_per_part < rows && o < params.out_channels && i + j < params.in_channels {
                let tap = (part * KERNEL_HEIGHT + ky) * KERNEL_WIDTH + kx;
                partial[(tap * params.in_channels + i + j) * params.out_channels + o] = sum[kx * CHANNELS + j];
            }
        }
    }
}
