// partial[s, q, b, a] = sum over the pixels p of part s of coarse[p, a] * fine[STRIDE * p + q - PADDING, b].
// TURNED, it is partial[s, q, a, b]: the weight gradient of a transposed convolution, whose input is the coarse side.
// Part s is the rows s * rows_per_part onwards of all coarse images; conv2d/reduce_partials adds the parts.
// One invocation owns the whole weight between CHANNELS b and two a; a workgroup, 2 * LANES a of those.
// Loads take two channels at once, and eight lanes share those of fine, as in conv2d/correlation_subgroup.
// Right only if the subgroup size is a multiple of 8, LANES a multiple of the subgroup size, and the channels are even in number.
// Bytes moved per workgroup and PIXELS: 32 * CHANNELS * VECTORS * KERNEL_HEIGHT + 8 * LANES * PIXELS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const TURNED = 0u;
const LANES = 32u;
const PIXELS = 6u;
const CHANNELS = 4u;
const PAIRS = CHANNELS / 2u;
const TAPS = KERNEL_HEIGHT * KERNEL_WIDTH;
const VECTORS = ((PIXELS - 1u) * STRIDE_X + KERNEL_WIDTH + 7u) / 8u;

struct Params {
    batch: u32,
    fine_height: u32,
    fine_width: u32,
    fine_channels: u32,
    coarse_height: u32,
    coarse_width: u32,
    coarse_channels: u32,
    rows_per_part: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> fine: array<u64>; // [batch, fine_height, fine_width, fine_channels / 2]
@group(0) @binding(1) var<storage, read> coarse: array<u64>; // [batch, coarse_height, coarse_width, coarse_channels / 2]
@group(0) @binding(2) var<storage, read_write> partial: array<u64>; // [parts, elements of the weight / 2]
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
    // Read once: a driver may not know that they stay the same.
    let fine_height = params.fine_height;
    let fine_width = params.fine_width;
    let fine_pairs = params.fine_channels / 2u;
    let coarse_height = params.coarse_height;
    let coarse_width = params.coarse_width;
    let coarse_pairs = params.coarse_channels / 2u;
    let coarse_blocks = (coarse_pairs + LANES - 1u) / LANES;
    let fine_blocks = (fine_pairs + PAIRS - 1u) / PAIRS;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let a = index % coarse_blocks * LANES + lane;
    let b = index / coarse_blocks % fine_blocks * PAIRS;
    let part = index / coarse_blocks / fine_blocks;

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and does not count.
    let readable_a = min(a, coarse_pairs - 1u);
    let first_column = subgroup_lane % 8u - PADDING_X;
    let rows = params.batch * coarse_height;
    let end = min((part + 1u) * params.rows_per_part, rows);

    var sum: array<f32, TAPS * CHANNELS>;
    var next_sum: array<f32, TAPS * CHANNELS>;
    for (var line = part * params.rows_per_part; line < end; line++) {
        let first_line = line / coarse_height * fine_height;
        let first_row = line % coarse_height * STRIDE_Y - PADDING_Y;
        for (var left = 0u; left < coarse_width; left += PIXELS) {
            var a0: array<f32, PIXELS>;
            var a1: array<f32, PIXELS>;
            for (var c = 0u; c < PIXELS; c++) { // unroll
                let pixel = line * coarse_width + min(left + c, coarse_width - 1u);
                let values = select(0lu, coarse[pixel * coarse_pairs + readable_a], left + c < coarse_width);
                a0[c] = first(values);
                a1[c] = second(values);
            }
            for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) { // unroll
                // What lies before the image has wrapped around to large numbers.
                let row = first_row + ky;
                let fine_line = first_line + min(row, fine_height - 1u);
                var window: array<f32, CHANNELS * VECTORS>;
                for (var v = 0u; v < VECTORS; v++) { // unroll
                    let column = left * STRIDE_X + 8u * v + first_column;
                    let inside = (row < fine_height) & (column < fine_width);
                    let at = (fine_line * fine_width + min(column, fine_width - 1u)) * fine_pairs;
                    for (var j = 0u; j < PAIRS; j++) { // unroll
                        let values = select(0lu, fine[at + min(b + j, fine_pairs - 1u)], inside);
                        window[2u * j * VECTORS + v] = first(values);
                        window[(2u * j + 1u) * VECTORS + v] = second(values);
                    }
                }
                for (var j = 0u; j < CHANNELS; j++) { // unroll
                    for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                        for (var c = 0u; c < PIXELS; c++) { // unroll
                            let value = subgroupShuffle(window[j * VECTORS + (c * STRIDE_X + kx) / 8u], (c * STRIDE_X + kx) % 8u);
                            sum[(ky * KERNEL_WIDTH + kx) * CHANNELS + j] += a0[c] * value;
                            next_sum[(ky * KERNEL_WIDTH + kx) * CHANNELS + j] += a1[c] * value;
                        }
                    }
                }
            }
        }
    }
    for (var q = 0u; q < TAPS; q++) { // unroll
        for (var j = 0u; j < PAIRS; j++) { // unroll
            if (part * params.rows_per_part < rows) & (a < coarse_pairs) & (b + j < fine_pairs) {
                let s00 = sum[q * CHANNELS + 2u * j];
                let s01 = next_sum[q * CHANNELS + 2u * j];
                let s10 = sum[q * CHANNELS + 2u * j + 1u];
                let s11 = next_sum[q * CHANNELS + 2u * j + 1u];
                let tap_at = (part * TAPS + q) * 2u * fine_pairs * coarse_pairs;
                if TURNED == 1u {
                    partial[tap_at + 2u * a * fine_pairs + b + j] = pair_of(s00, s10);
                    partial[tap_at + (2u * a + 1u) * fine_pairs + b + j] = pair_of(s01, s11);
                } else {
                    partial[tap_at + 2u * (b + j) * coarse_pairs + a] = pair_of(s00, s01);
                    partial[tap_at + (2u * (b + j) + 1u) * coarse_pairs + a] = pair_of(s10, s11);
                }
            }
        }
    }
}
