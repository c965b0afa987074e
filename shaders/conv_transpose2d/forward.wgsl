// y[n, STRIDE * p + q - PADDING, o] = bias[o] + sum over i of weight[q, i, o] * x[n, p, i], overlaps added: seen from y,
// y[n, s, o] = bias[o] + sum over q, i of weight[q, i, o] * x[n, (s + PADDING - q) / STRIDE, i], over the q for which the
// division leaves no rest. Positions s of one phase (s mod STRIDE) use the same q; without overlap there is one.
// One invocation owns TILE_WIDTH positions of one row and phase and OUTPUTS channels, LANES apart; a workgroup,
// LANES * OUTPUTS channels of those. All lanes read x at one address, and weight side by side.
// Bytes moved per workgroup, in_channel and row of the weight: 4 * WINDOW + 4 * LANES * OUTPUTS * TAPS_X.
const KERNEL_HEIGHT = 2u;
const KERNEL_WIDTH = 2u;
const STRIDE_Y = 2u;
const STRIDE_X = 2u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const LANES = 32u;
const OUTPUTS = 2u;
const TILE_WIDTH = 8u;
const TAPS_Y = (KERNEL_HEIGHT + STRIDE_Y - 1u) / STRIDE_Y;
const TAPS_X = (KERNEL_WIDTH + STRIDE_X - 1u) / STRIDE_X;
const WINDOW = TILE_WIDTH + TAPS_X - 1u;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

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

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [KERNEL_HEIGHT, KERNEL_WIDTH, in_channels, out_channels]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [out_channels]
@group(0) @binding(3) var<storage, read_write> y: array<Stored>; // [batch, out_height, out_width, out_channels]
@group(0) @binding(4) var<uniform> params: Params;

// x, or zero outside of it. What lies before row or column 0 has wrapped around to large numbers.
fn value_at(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let inside = (row < params.in_height) & (column < params.in_width);
    let line = image * params.in_height + min(row, params.in_height - 1u);
    let pixel = line * params.in_width + min(column, params.in_width - 1u);
    return select(0.0, f32(x[pixel * params.in_channels + channel]), inside);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let channel_blocks = (params.out_channels + LANES * OUTPUTS - 1u) / (LANES * OUTPUTS);
    let tile_columns = (params.out_width + TILE_WIDTH * STRIDE_X - 1u) / (TILE_WIDTH * STRIDE_X);
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let tile = index / channel_blocks;
    let o = index % channel_blocks * LANES * OUTPUTS + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let phase_x = tile / tile_columns % STRIDE_X;
    let row = tile / tile_columns / STRIDE_X % params.out_height;
    let image = tile / tile_columns / STRIDE_X / params.out_height;
    if image >= params.batch {
        return;
    }

    // Position STRIDE * a + phase meets element first_q + STRIDE * k of the weight at x's a + shift - k.
    let first_qx = (phase_x + PADDING_X) % STRIDE_X;
    let first_qy = (row + PADDING_Y) % STRIDE_Y;
    let first_column = left + (phase_x + PADDING_X) / STRIDE_X - (TAPS_X - 1u);
    let first_row = (row + PADDING_Y) / STRIDE_Y;

    var sum: array<f32, OUTPUTS * TILE_WIDTH>;
    for (var b = 0u; b < OUTPUTS; b++) { // unroll
        // A lane past the last channel computes that one again and stores nothing.
        let start = select(0.0, bias[min(o + b * LANES, params.out_channels - 1u)], BIAS == 1u);
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            sum[b * TILE_WIDTH + c] = start;
        }
    }
    for (var ky = 0u; ky < TAPS_Y; ky++) {
        let qy = first_qy + ky * STRIDE_Y;
        for (var i = 0u; i < params.in_channels; i++) {
            var window: array<f32, WINDOW>;
            for (var c = 0u; c < WINDOW; c++) { // unroll
                window[c] = value_at(image, first_row - ky, first_column + c, i);
            }
            for (var kx = 0u; kx < TAPS_X; kx++) { // unroll
                let qx = first_qx + kx * STRIDE_X;
                let q = min(qy * KERNEL_WIDTH + qx, KERNEL_HEIGHT * KERNEL_WIDTH - 1u);
                for (var b = 0u; b < OUTPUTS; b++) { // unroll
                    let readable_o = min(o + b * LANES, params.out_channels - 1u);
                    let value = weight[(q * params.in_channels + i) * params.out_channels + readable_o];
                    let w = select(0.0, value, (qy < KERNEL_HEIGHT) & (qx < KERNEL_WIDTH));
                    for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
                        sum[b * TILE_WIDTH + c] += w * window[c + TAPS_X - 1u - kx];
                    }
                }
            }
        }
    }
    for (var b = 0u; b < OUTPUTS; b++) { // unroll
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            let column = (left + c) * STRIDE_X + phase_x;
            if column < params.out_width && o + b * LANES < params.out_channels {
                let pixel = (image * params.out_height + row) * params.out_width + column;
                y[pixel * params.out_channels + o + b * LANES] = Stored(sum[b * TILE_WIDTH + c]);
            }
        }
    }
}
