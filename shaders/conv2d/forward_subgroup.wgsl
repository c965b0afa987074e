// y[n, p, o] = bias[o] + sum over q, i of weight[q, i, o] * x[n, STRIDE * p + q - PADDING, i], x being zero outside.
// One invocation owns TILE_HEIGHT x TILE_WIDTH pixels of one channel; a workgroup, LANES channels of those pixels.
// Eight lanes share the loads of x: each reads one of CHANNELS channels at one of COLUMNS columns, and a shuffle hands the
// value to all. Where a load costs more than arithmetic (software drivers), that is worth a factor of three.
// Right only if the subgroup size is a multiple of 8 and LANES a multiple of the subgroup size.
// Bytes moved per workgroup, CHANNELS and row of the weight: 32 * VECTORS * TILE_HEIGHT + 4 * LANES * CHANNELS * KERNEL_WIDTH.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const LANES = 32u;
const TILE_HEIGHT = 2u;
const TILE_WIDTH = 8u;
const CHANNELS = 2u;
const COLUMNS = 8u / CHANNELS;
const VECTORS = ((TILE_WIDTH - 1u) * STRIDE_X + KERNEL_WIDTH + COLUMNS - 1u) / COLUMNS;

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [KERNEL_HEIGHT, KERNEL_WIDTH, in_channels, out_channels]
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [out_channels]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [batch, out_height, out_width, out_channels]
@group(0) @binding(4) var<uniform> params: Params;

// x at a position counted from the corner of the padding. What lies before the image wraps around to large numbers.
fn padded(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = row - PADDING_Y;
    let c = column - PADDING_X;
    let inside = r < params.in_height && c < params.in_width && channel < params.in_channels;
    let line = image * params.in_height + min(r, params.in_height - 1u);
    let pixel = line * params.in_width + min(c, params.in_width - 1u);
    return select(0.0, x[pixel * params.in_channels + min(channel, params.in_channels - 1u)], inside);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let channel_blocks = (params.out_channels + LANES - 1u) / LANES;
    let tile_columns = (params.out_width + TILE_WIDTH - 1u) / TILE_WIDTH;
    let tile_rows = (params.out_height + TILE_HEIGHT - 1u) / TILE_HEIGHT;
    let index = group.x + group.y * groups.x;
    let tile = index / channel_blocks;
    let o = index % channel_blocks * LANES + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % tile_rows * TILE_HEIGHT;
    let image = tile / tile_columns / tile_rows;

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_o = min(o, params.out_channels - 1u);
    let own_channel = subgroup_lane % CHANNELS;
    let own_column = subgroup_lane % 8u / CHANNELS + left * STRIDE_X;

    var sum: array<f32, TILE_HEIGHT * TILE_WIDTH>;
    for (var p = 0u; p < TILE_HEIGHT * TILE_WIDTH; p++) { // unroll
        sum[p] = select(0.0, bias[readable_o], BIAS == 1u);
    }
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        for (var i = 0u; i < params.in_channels; i += CHANNELS) {
            var window: array<f32, TILE_HEIGHT * VECTORS>;
            for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
                for (var v = 0u; v < VECTORS; v++) { // unroll
                    let row = (top + r) * STRIDE_Y + ky;
                    window[r * VECTORS + v] = padded(readable_image, row, own_column + v * COLUMNS, i + own_channel);
                }
            }
            for (var j = 0u; j < CHANNELS; j++) { // unroll
                // Past the last channel x is zero, so any weight will do.
                let readable_i = min(i + j, params.in_channels - 1u);
                for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                    let tap = (ky * KERNEL_WIDTH + kx) * params.in_channels + readable_i;
                    let w = weight[tap * params.out_channels + readable_o];
                    for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
                        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
                            sum[r * TILE_WIDTH + c] += w * subgroupShuffle(
                                window[r * VECTORS + (c * STRIDE_X + kx) / COLUMNS],
                                (c * STRIDE_X + kx) % COLUMNS * CHANNELS + j,
                            );
                        }
                    }
                }
            }
        }
    }
    for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            let row = top + r;
            let column = left + c;
            if image < params.batch && row < params.out_height && column < params.out_width && o < params.out_channels {
                let pixel = (image * params.out_height + row) * params.out_width + column;
                y[pixel * params.out_channels + o] = sum[r * TILE_WIDTH + c];
            }
        }
    }
}
