// grad_input[n, p, i] = sum over q, o of weight[q, i, o] * grad_output[n, STRIDE * p + q - PADDING, o], zero outside.
// One invocation owns TILE_WIDTH pixels of a row and OUTPUTS channels, LANES apart; a workgroup, LANES * OUTPUTS channels of
// those pixels. All lanes read grad_output at one address; each reads its own row of weight.
// Bytes moved per workgroup, out_channel and row of the weight: 4 * WINDOW + 4 * LANES * OUTPUTS * KERNEL_WIDTH.
const KERNEL_HEIGHT = 2u;
const KERNEL_WIDTH = 2u;
const STRIDE_Y = 2u;
const STRIDE_X = 2u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const MASK = 0u; // 1: where mask is not above 0, the result is; 0: any buffer stands in its place
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

@group(0) @binding(0) var<storage, read> grad_output: array<Stored>; // [batch, out_height, out_width, out_channels]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [KERNEL_HEIGHT, KERNEL_WIDTH, in_channels, out_channels]
@group(0) @binding(2) var<storage, read> mask: array<Stored>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(3) var<storage, read_write> grad_input: array<Stored>; // [batch, in_height, in_width, in_channels]
@group(0) @binding(4) var<uniform> params: Params;

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
    let channel_blocks = (params.in_channels + LANES * OUTPUTS - 1u) / (LANES * OUTPUTS);
    let tile_columns = (params.in_width + TILE_WIDTH - 1u) / TILE_WIDTH;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let tile = index / channel_blocks;
    let i = index % channel_blocks * LANES * OUTPUTS + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % params.in_height;
    let image = tile / tile_columns / params.in_height;
    if image >= params.batch {
        return;
    }

    var sum: array<f32, OUTPUTS * TILE_WIDTH>;
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        for (var o = 0u; o < params.out_channels; o++) {
            var window: array<f32, WINDOW>;
            for (var c = 0u; c < WINDOW; c++) { // unroll
                window[c] = padded(image, top * STRIDE_Y + ky, left * STRIDE_X + c, o);
            }
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                let tap = (ky * KERNEL_WIDTH + kx) * params.in_channels;
                for (var b = 0u; b < OUTPUTS; b++) { // unroll
                    // A lane past the last channel computes that one again and stores nothing.
                    let readable_i = min(i + b * LANES, params.in_channels - 1u);
                    let w = weight[(tap + readable_i) * params.out_channels + o];
                    for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
                        sum[b * TILE_WIDTH + c] += w * window[c * STRIDE_X + kx];
                    }
                }
            }
        }
    }
    for (var b = 0u; b < OUTPUTS; b++) { // unroll
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            if left + c < params.in_width && i + b * LANES < params.in_channels {
                let pixel = (image * params.in_height + top) * params.in_width + left + c;
                let at = pixel * params.in_channels + i + b * LANES;
                var value = sum[b * TILE_WIDTH + c];
                if MASK == 1u {
                    value = select(value, 0.0, f32(mask[at]) <= 0.0);
                }
                grad_input[at] = Stored(value);
            }
        }
    }
}
