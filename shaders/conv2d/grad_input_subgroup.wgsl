// grad_input[n, s, i] = sum over q, o of weight[q, i, o] * grad_output[n, (s + PADDING - q) / STRIDE, o],
// over the q for which the division leaves no rest. Positions s of one phase (s mod STRIDE) use the same q.
// One invocation owns TILE_HEIGHT x TILE_WIDTH positions of one phase and channel; a workgroup, LANES channels of those.
// Eight lanes share the loads of grad_output as in conv2d/forward_subgroup.
// Right only if the subgroup size is a multiple of 8 and LANES a multiple of the subgroup size.
// Bytes moved per workgroup, CHANNELS and row of the weight: 32 * VECTORS * TILE_HEIGHT + 4 * LANES * CHANNELS * TAPS_X.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const LANES = 32u;
const TILE_HEIGHT = 2u;
const TILE_WIDTH = 8u;
const CHANNELS = 2u;
const COLUMNS = 8u / CHANNELS;
const TAPS_Y = (KERNEL_HEIGHT + STRIDE_Y - 1u) / STRIDE_Y;
const TAPS_X = (KERNEL_WIDTH + STRIDE_X - 1u) / STRIDE_X;
const VECTORS = (TILE_WIDTH + TAPS_X + COLUMNS - 2u) / COLUMNS;

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
}

@group(0) @binding(0) var<storage, read> grad_output: array<f32>; // [batch, out_height, out_width, out_channels]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [KERNEL_HEIGHT, KERNEL_WIDTH, in_channels, out_channels]
@group(0) @binding(2) var<storage, read_write> grad_input: array<f32>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(3) var<uniform> params: Params;

// grad_output, or zero outside of it. What lies before row or column 0 has wrapped around to large numbers.
fn gradient(image: u32, row: u32, column: u32, channel: u32) -> f32 {
    let inside = row < params.out_height && column < params.out_width && channel < params.out_channels;
    let line = image * params.out_height + min(row, params.out_height - 1u);
    let pixel = line * params.out_width + min(column, params.out_width - 1u);
    return select(0.0, grad_output[pixel * params.out_channels + min(channel, params.out_channels - 1u)], inside);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let channel_blocks = (params.in_channels + LANES - 1u) / LANES;
    let tile_columns = (params.in_width + TILE_WIDTH * STRIDE_X - 1u) / (TILE_WIDTH * STRIDE_X);
    let tile_rows = (params.in_height + TILE_HEIGHT * STRIDE_Y - 1u) / (TILE_HEIGHT * STRIDE_Y);
    let index = group.x + group.y * groups.x;
    let i = index % channel_blocks * LANES + lane;
    let tile = index / channel_blocks;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % tile_rows * TILE_HEIGHT;
    let phase = tile / tile_columns / tile_rows;
    let phase_x = phase % STRIDE_X;
    let phase_y = phase / STRIDE_X % STRIDE_Y;
    let image = phase / (STRIDE_X * STRIDE_Y);

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_i = min(i, params.in_channels - 1u);
    let own_channel = subgroup_lane % CHANNELS;
    // Position STRIDE * a + phase meets element first_q + STRIDE * k of the weight at grad_output's a + shift - k.
    let first_qx = (phase_x + PADDING_X) % STRIDE_X;
    let first_qy = (phase_y + PADDING_Y) % STRIDE_Y;
    let own_column = left + (phase_x + PADDING_X) / STRIDE_X - (TAPS_X - 1u) + subgroup_lane % 8u / CHANNELS;
    let first_row = top + (phase_y + PADDING_Y) / STRIDE_Y;

    var sum: array<f32, TILE_HEIGHT * TILE_WIDTH>;
    for (var ky = 0u; ky < TAPS_Y; ky++) {
        let qy = first_qy + ky * STRIDE_Y;
        for (var o = 0u; o < params.out_channels; o += CHANNELS) {
            var window: array<f32, TILE_HEIGHT * VECTORS>;
            for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
                for (var v = 0u; v < VECTORS; v++) { // unroll
                    let column = own_column + v * COLUMNS;
                    window[r * VECTORS + v] = gradient(readable_image, first_row + r - ky, column, o + own_channel);
                }
            }
            for (var j = 0u; j < CHANNELS; j++) { // unroll
                // Past the last channel the gradient is zero, so any weight will do.
                let readable_o = min(o + j, params.out_channels - 1u);
                for (var kx = 0u; kx < TAPS_X; kx++) { // unroll
                    let qx = first_qx + kx * STRIDE_X;
                    let q = min(qy * KERNEL_WIDTH + qx, KERNEL_HEIGHT * KERNEL_WIDTH - 1u);
                    let value = weight[(q * params.in_channels + readable_i) * params.out_channels + readable_o];
                    let w = select(0.0, value, qy < KERNEL_HEIGHT && qx < KERNEL_WIDTH);
                    for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
                        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
                            sum[r * TILE_WIDTH + c] += w * subgroupShuffle(
                                window[r * VECTORS + (c + TAPS_X - 1u - kx) / COLUMNS],
                                (c + TAPS_X - 1u - kx) % COLUMNS * CHANNELS + j,
                            );
                        }
                    }
                }
            }
        }
    }
    for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            let row = (top + r) * STRIDE_Y + phase_y;
            let column = (left + c) * STRIDE_X + phase_x;
            if image < params.batch && row < params.in_height && column < params.in_width && i < params.in_channels {
                let pixel = (image * params.in_height + row) * params.in_width + column;
                grad_input[pixel * params.in_channels + i] = sum[r * TILE_WIDTH + c];
            }
        }
    }
}
