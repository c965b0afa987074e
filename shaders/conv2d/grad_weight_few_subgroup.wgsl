// partial[s, q, i, o] = sum over the pixels p of part s of grad_output[p, o] * x[STRIDE * p + q - PADDING, i]: for the few input
// channels of a first layer, of which there are no pairs.
// Part s is the rows s * rows_per_part onwards of all images' output rows; conv2d/reduce_partials adds the parts.
// One invocation owns the weight of two o, a workgroup that of 2 * LANES. Eight lanes share the loads of x by shuffles, and o are
// loaded and stored in pairs, as in conv2d/correlation_subgroup, under the same conditions.
// Bytes moved per workgroup and PIXELS: 32 * VECTORS * KERNEL_HEIGHT * IN_CHANNELS + 8 * LANES * PIXELS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const IN_CHANNELS = 1u;
const LANES = 32u;
const PIXELS = 6u;
const TAPS = KERNEL_HEIGHT * KERNEL_WIDTH * IN_CHANNELS;
const VECTORS = ((PIXELS - 1u) * STRIDE_X + KERNEL_WIDTH + 7u) / 8u;

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

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, in_height, in_width, IN_CHANNELS]
@group(0) @binding(1) var<storage, read> grad_output: array<u64>; // [batch, out_height, out_width, out_channels / 2]
@group(0) @binding(2) var<storage, read_write> partial: array<u64>; // [parts, TAPS, out_channels / 2]
@group(0) @binding(3) var<uniform> params: Params;

fn first(pair: u64) -> f32 {
    return bitcast<f32>(u32(pair));
}

fn second(pair: u64) -> f32 {
    return bitcast<f32>(u32(pair >> 32u));
}

fn pair_of(first: f32, second: f32) -> u64 {
    return u64(bitcast<u32>(second)) << 32u | u64(bitcast<u32>(first));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let pairs = params.out_channels / 2u;
    let pair_blocks = (pairs + LANES - 1u) / LANES;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let pair = index % pair_blocks * LANES + lane;
    let part = index / pair_blocks;
    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and does not count.
    let readable_pair = min(pair, pairs - 1u);
    let rows = params.batch * params.out_height;
    let end = min((part + 1u) * params.rows_per_part, rows);

    var sum: array<f32, TAPS>;
    var next_sum: array<f32, TAPS>;
    for (var line = part * params.rows_per_part; line < end; line++) {
        for (var left = 0u; left < params.out_width; left += PIXELS) {
            var window: array<f32, KERNEL_HEIGHT * VECTORS * IN_CHANNELS>;
            for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) { // unroll
                // What lies before the image wraps around to large numbers.
                let row = line % params.out_height * STRIDE_Y + ky - PADDING_Y;
                let x_line = line / params.out_height * params.in_height + min(row, params.in_height - 1u);
                for (var v = 0u; v < VECTORS; v++) { // unroll
                    let column = left * STRIDE_X + 8u * v + subgroup_lane % 8u - PADDING_X;
                    let inside = (row < params.in_height) & (column < params.in_width);
                    let at = (x_line * params.in_width + min(column, params.in_width - 1u)) * IN_CHANNELS;
                    for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                        window[(ky * VECTORS + v) * IN_CHANNELS + i] = select(0.0, x[at + i], inside);
                    }
                }
            }
            for (var c = 0u; c < PIXELS; c++) { // unroll
                let pixel = line * params.out_width + min(left + c, params.out_width - 1u);
                let values = select(0lu, grad_output[pixel * pairs + readable_pair], left + c < params.out_width);
                for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) { // unroll
                    for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                        for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                            let value = subgroupShuffle(
                                window[(ky * VECTORS + (c * STRIDE_X + kx) / 8u) * IN_CHANNELS + i],
                                (c * STRIDE_X + kx) % 8u,
                            );
                            sum[(ky * KERNEL_WIDTH + kx) * IN_CHANNELS + i] += first(values) * value;
                            next_sum[(ky * KERNEL_WIDTH + kx) * IN_CHANNELS + i] += second(values) * value;
                        }
                    }
                }
            }
        }
    }
    for (var t = 0u; t < TAPS; t++) { // unroll
        if part * params.rows_per_part < rows && pair < pairs {
            partial[(part * TAPS + t) * pairs + pair] = pair_of(sum[t], next_sum[t]);
        }
    }
}
