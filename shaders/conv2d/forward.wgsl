// y[n, p, o] = bias[o] + sum over q, i of weight[q, i, o] * x[n, STRIDE * p + q - PADDING, i], x being zero outside.
// One invocation owns TILE_WIDTH pixels of a row and OUTPUTS channels, LANES apart; a workgroup, LANES * OUTPUTS channels of
// those pixels. All lanes read x at one address, and weight side by side; what is read twice comes from the cache.
// Bytes moved per workgroup, in_channel and row of the weight: 4 * WINDOW + 4 * LANES * OUTPUTS * KERNEL_WIDTH.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const LANES = 32u;
const OUTPUTS = 2u;
const TILE_WIDTH = 8u;
const WINDOW = (TILE_WIDTH - 1u) * STRIDE_X + KERNEL_WIDTH;
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

// x at a position counted from the corner of the padding. What lies before the image wraps around to large numbers.
fn padded(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = row - PADDING_Y;
    let c = column - PADDING_X;
    let inside = (r < params.in_height) & (c < params.in_width);
    let line = image * params.in_height + min(r, params.in_height - 1u);
    let pixel = line * params.in_width + min(c, params.in_width - 1u);
    return select(0.0, f32(x[pixel * params.in_channels + channel]), inside);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let channel_blocks = (params.out_channels + LANES * OUTPUTS - 1u) / (LANES * OUTPUTS);
    let tile_columns = (params.out_width + TILE_WIDTH - 1u) / TILE_WIDTH;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let tile = index / channel_blocks;
    let o = index % channel_blocks * LANES * OUTPUTS + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % params.out_height;
    let image = tile / tile_columns / params.out_height;
    if image >= params.batch {
        return;
    }

    var sum: array<f32, OUTPUTS * TILE_WIDTH>;
    for (var b = 0u; b < OUTPUTS; b++) { // unroll
        // A lane past the last channel computes that one again and stores nothing.
        let start = select(0.0, bias[min(o + b * LANES, params.out_channels - 1u)], BIAS == 1u);
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            sum[b * TILE_WIDTH + c] = start;
        }
    }
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        for (var i = 0u; i < params.in_channels; i++) {
            var window: array<f32, WINDOW>;
            for (var c = 0u; c < WINDOW; c++) { // unroll
                window[c] = padded(image, top * STRIDE_Y + ky, left * STRIDE_X + c, i);
            }
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                let tap = ((ky * KERNEL_WIDTH + kx) * params.in_channels + i) * params.out_channels;
                for (var b = 0u; b < OUTPUTS; b++) { // unroll
                    let w = weight[tap + min(o + b * LANES, params.out_channels - 1u)];
                    for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
                        sum[b * TILE_WIDTH + c] += w * window[c * STRIDE_X + kx];
                    }
                }
            }
        }
    }
    for (var b = 0u; b < OUTPUTS; b++) { // unroll
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            if left + c < params.out_width && o + b * LANES < params.out_channels {
                let pixel = (image * params.out_height + top) * params.out_width + left + c;
                let value = sum[b * TILE_WIDTH + c];
                y[pixel * params.out_channels + o + b * LANES] = Stored(select(value, 0.0, (RELU == 1u) & (value <= 0.0)));
            }
        }
    }
}
