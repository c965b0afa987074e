// partial[s, q, i, o] = sum over the pixels p of part s of grad_output[p, o] * x[STRIDE * p + q - PADDING, i].
// Part s is the rows s * rows_per_part onwards of all images' output rows; conv2d/reduce_partials adds the parts.
// One invocation owns KERNEL_WIDTH x CHANNELS elements (one row of the weight, one o); a workgroup, LANES o of those.
// Eight lanes share the loads of x: each reads one of CHANNELS channels at one of COLUMNS columns, and a shuffle hands the
// value to all. Right only if the subgroup size is a multiple of 8 and LANES a multiple of the subgroup size.
// Bytes moved per workgroup and PIXELS: 32 * VECTORS + 4 * LANES * PIXELS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const LANES = 32u;
const PIXELS = 4u;
const CHANNELS = 4u;
const COLUMNS = 8u / CHANNELS;
const VECTORS = ((PIXELS - 1u) * STRIDE_X + KERNEL_WIDTH + COLUMNS - 1u) / COLUMNS;

struct Params {
    batch: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
    rows_per_part: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(1) var<storage, read> grad_output: array<f32>; // [batch, out_height, out_width, out_channels]
@group(0) @binding(2) var<storage, read_write> partial: array<f32>; // [parts, elements of the weight]
@group(0) @binding(3) var<uniform> params: Params;

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
    let out_blocks = (params.out_channels + LANES - 1u) / LANES;
    let in_blocks = (params.in_channels + CHANNELS - 1u) / CHANNELS;
    let index = group.x + group.y * groups.x;
    let o = index % out_blocks * LANES + lane;
    let i = index / out_blocks % in_blocks * CHANNELS;
    let ky = index / out_blocks / in_blocks % KERNEL_HEIGHT;
    let part = index / out_blocks / in_blocks / KERNEL_HEIGHT;

    let readable_o = min(o, params.out_channels - 1u);
    let own_channel = i + subgroup_lane % CHANNELS;
    let own_column = subgroup_lane % 8u / CHANNELS;
    let rows = params.batch * params.out_height;
    let end = min((part + 1u) * params.rows_per_part, rows);

    var sum: array<f32, KERNEL_WIDTH * CHANNELS>;
    for (var line = part * params.rows_per_part; line < end; line++) {
        let image = line / params.out_height;
        let row = line % params.out_height * STRIDE_Y + ky;
        for (var left = 0u; left < params.out_width; left += PIXELS) {
            var window: array<f32, VECTORS>;
            for (var v = 0u; v < VECTORS; v++) { // unroll
                window[v] = padded(image, row, left * STRIDE_X + own_column + v * COLUMNS, own_channel);
            }
            for (var c = 0u; c < PIXELS; c++) { // unroll
                let pixel = line * params.out_width + min(left + c, params.out_width - 1u);
                let value = grad_output[pixel * params.out_channels + readable_o];
                let gradient = select(0.0, value, left + c < params.out_width);
                for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                    for (var j = 0u; j < CHANNELS; j++) { // unroll
                        sum[kx * CHANNELS + j] += gradient * subgroupShuffle(
                            window[(c * STRIDE_X + kx) / COLUMNS],
                            (c * STRIDE_X + kx) % COLUMNS * CHANNELS + j,
                        );
                    }
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
