// partial[s, q, i, o] = sum over the pixels p of part s of grad_output[p, o] * x[STRIDE * p + q - PADDING, i].
// Part s is the rows s * rows_per_part onwards of all images' output rows; conv2d/reduce_partials adds the parts.
// One invocation owns KERNEL_WIDTH x CHANNELS x OUTPUTS elements (one row of the weight; OUTPUTS o, LANES apart); a workgroup,
// LANES * OUTPUTS o of those. All lanes read x at one address, and grad_output side by side.
// Bytes moved per workgroup and pixel: 4 * STRIDE_X * CHANNELS + 4 * LANES * OUTPUTS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const LANES = 32u;
const OUTPUTS = 2u;
const CHANNELS = 4u;
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

// x at a position counted from the corner of the padding. What lies before the image wraps around to large numbers.
fn padded(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = row - PADDING_Y;
    let c = column - PADDING_X;
    let inside = (r < params.in_height) & (c < params.in_width) & (channel < params.in_channels);
    let line = image * params.in_height + min(r, params.in_height - 1u);
    let pixel = line * params.in_width + min(c, params.in_width - 1u);
    return select(0.0, f32(x[pixel * params.in_channels + min(channel, params.in_channels - 1u)]), inside);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let out_blocks = (params.out_channels + LANES * OUTPUTS - 1u) / (LANES * OUTPUTS);
    let in_blocks = (params.in_channels + CHANNELS - 1u) / CHANNELS;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let o = index % out_blocks * LANES * OUTPUTS + lane;
    let i = index / out_blocks % in_blocks * CHANNELS;
    let ky = index / out_blocks / in_blocks % KERNEL_HEIGHT;
    let part = index / out_blocks / in_blocks / KERNEL_HEIGHT;
    let rows = params.batch * params.out_height;
    let end = min((part + 1u) * params.rows_per_part, rows);

    var sum: array<f32, KERNEL_WIDTH * CHANNELS * OUTPUTS>;
    for (var line = part * params.rows_per_part; line < end; line++) {
        let image = line / params.out_height;
        let row = line % params.out_height * STRIDE_Y + ky;
        // The columns under the weight; from one pixel to the next all but STRIDE_X of them stay.
        var window: array<f32, KERNEL_WIDTH * CHANNELS>;
        for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
            for (var j = 0u; j < CHANNELS; j++) { // unroll
                window[kx * CHANNELS + j] = padded(image, row, kx - STRIDE_X, i + j);
            }
        }
        for (var column = 0u; column < params.out_width; column++) {
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                for (var j = 0u; j < CHANNELS; j++) { // unroll
                    if kx + STRIDE_X < KERNEL_WIDTH {
                        window[kx * CHANNELS + j] = window[(kx + STRIDE_X) % KERNEL_WIDTH * CHANNELS + j];
                    } else {
                        window[kx * CHANNELS + j] = padded(image, row, column * STRIDE_X + kx, i + j);
                    }
                }
            }
            for (var b = 0u; b < OUTPUTS; b++) { // unroll
                // A lane past the last channel computes that one again and stores nothing.
                let readable_o = min(o + b * LANES, params.out_channels - 1u);
                let gradient = f32(grad_output[(line * params.out_width + column) * params.out_channels + readable_o]);
                for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                    for (var j = 0u; j < CHANNELS; j++) { // unroll
                        sum[(kx * CHANNELS + j) * OUTPUTS + b] += gradient * window[kx * CHANNELS + j];
                    }
                }
            }
        }
    }
    for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
        for (var j = 0u; j < CHANNELS; j++) { // unroll
            for (var b = 0u; b < OUTPUTS; b++) { // unroll
                if part * params.rows_per_part < rows && o + b * LANES < params.out_channels && i + j < params.in_channels {
                    let tap = (part * KERNEL_HEIGHT + ky) * KERNEL_WIDTH + kx;
                    let first = (tap * params.in_channels + i + j) * params.out_channels;
                    partial[first + o + b * LANES] = sum[(kx * CHANNELS + j) * OUTPUTS + b];
                }
            }
        }
    }
}
