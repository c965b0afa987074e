// result[n, s, r] = bias[r] + sum over q, c of weight[q, r, c] * source[n, (s + PADDING - q) / STRIDE, c], over the q for which
// the division leaves no rest. Not TURNED, it is weight[q, c, r]: a transposed convolution.
// One invocation owns TILE_HEIGHT x TILE_WIDTH positions s of one phase (s mod STRIDE, which share their q) of two channels; a
// workgroup, 2 * LANES channels of those positions. Loads as in conv2d/forward_subgroup.
// Right only if the subgroup size is a multiple of 8, LANES a multiple of the subgroup size, and the channels are even in number.
// Bytes moved per workgroup, two source channels and row of the weight: 64 * VECTORS * TILE_HEIGHT + 16 * LANES * TAPS_X.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const TURNED = 1u;
const BIAS = 0u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const MASK = 0u; // 1: where mask is not above 0, the result is; 0: any buffer stands in its place
const LANES = 32u;
const TILE_HEIGHT = 4u;
const TILE_WIDTH = 6u;
const TILE = TILE_HEIGHT * TILE_WIDTH;
const TAPS_Y = (KERNEL_HEIGHT + STRIDE_Y - 1u) / STRIDE_Y;
const TAPS_X = (KERNEL_WIDTH + STRIDE_X - 1u) / STRIDE_X;
const LAST_X = TAPS_X - 1u;
const VECTORS = (TILE_WIDTH + LAST_X + 7u) / 8u;

struct Params {
    batch: u32,
    source_height: u32,
    source_width: u32,
    source_channels: u32,
    height: u32,
    width: u32,
    channels: u32,
}

@group(0) @binding(0) var<storage, read> source: array<u64>; // [batch, source_height, source_width, source_channels / 2]
@group(0) @binding(1) var<storage, read> weight: array<u64>; // [KERNEL_HEIGHT, KERNEL_WIDTH, ..., channels / 2]
@group(0) @binding(2) var<storage, read> bias: array<u64>; // [channels / 2]
@group(0) @binding(3) var<storage, read> mask: array<u64>; // [batch, height, width, channels / 2]
@group(0) @binding(4) var<storage, read_write> result: array<u64>; // [batch, height, width, channels / 2]
@group(0) @binding(5) var<uniform> params: Params;

fn first(pair: u64) -> f32 {
    return bitcast<f32>(u32(pair));
}

fn second(pair: u64) -> f32 {
    return bitcast<f32>(u32(pair >> 32u));
}

fn pair_of(first: f32, second: f32) -> u64 {
    return u64(bitcast<u32>(second)) << 32u | u64(bitcast<u32>(first));
}

// Two channels as they are stored.
fn finished(first_sum: f32, second_sum: f32, at: u32) -> u64 {
    var sums = vec2f(first_sum, second_sum);
    if RELU == 1u {
        sums = select(sums, vec2f(), sums <= vec2f());
    }
    if MASK == 1u {
        let values = mask[at];
        sums = select(sums, vec2f(), vec2f(first(values), second(values)) <= vec2f());
    }
    return pair_of(sums.x, sums.y);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    // Read once: a driver may not know that they stay the same.
    let source_height = params.source_height;
    let source_width = params.source_width;
    let source_pairs = params.source_channels / 2u;
    let pairs = params.channels / 2u;
    let pair_blocks = (pairs + LANES - 1u) / LANES;
    let tile_columns = (params.width + TILE_WIDTH * STRIDE_X - 1u) / (TILE_WIDTH * STRIDE_X);
    let tile_rows = (params.height + TILE_HEIGHT * STRIDE_Y - 1u) / (TILE_HEIGHT * STRIDE_Y);
    let index = group.x + group.y * groups.x;
    let tile = index / pair_blocks;
    let pair = index % pair_blocks * LANES + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % tile_rows * TILE_HEIGHT;
    let phase = tile / tile_columns / tile_rows;
    let phase_x = phase % STRIDE_X;
    let phase_y = phase / STRIDE_X % STRIDE_Y;
    let image = phase / (STRIDE_X * STRIDE_Y);

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_pair = min(pair, pairs - 1u);
    // Position STRIDE * a + phase meets element first_q + STRIDE * k of the weight at source's a + shift - k.
    let first_qx = (phase_x + PADDING_X) % STRIDE_X;
    let first_qy = (phase_y + PADDING_Y) % STRIDE_Y;
    let first_column = left + (phase_x + PADDING_X) / STRIDE_X - LAST_X + subgroup_lane % 8u;
    let first_row = top + (phase_y + PADDING_Y) / STRIDE_Y;

    // Where two pairs of weights are, for two channels of source and two of the result, and how far apart they and others are.
    let weight_at = select(readable_pair, 2u * readable_pair * source_pairs, TURNED == 1u);
    let weight_next = select(pairs, source_pairs, TURNED == 1u);
    let weight_step = select(2u * pairs, 1u, TURNED == 1u);
    let weight_tap = 2u * source_pairs * pairs;

    let start = select(0lu, bias[readable_pair], BIAS == 1u);
    var sum: array<f32, TILE>;
    var next_sum: array<f32, TILE>;
    for (var p = 0u; p < TILE; p++) { // unroll
        sum[p] = first(start);
        next_sum[p] = second(start);
    }
    for (var ky = 0u; ky < TAPS_Y; ky++) {
        let qy = first_qy + ky * STRIDE_Y;
        var source_at: array<u32, TILE_HEIGHT * VECTORS>;
        var inside: array<bool, TILE_HEIGHT * VECTORS>;
        for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
            for (var v = 0u; v < VECTORS; v++) { // unroll
                // What lies before row or column 0 has wrapped around to large numbers.
                let row = first_row + r - ky;
                let column = first_column + 8u * v;
                let line = readable_image * source_height + min(row, source_height - 1u);
                source_at[r * VECTORS + v] = (line * source_width + min(column, source_width - 1u)) * source_pairs;
                inside[r * VECTORS + v] = row < source_height && column < source_width;
            }
        }
        for (var c = 0u; c < source_pairs; c++) {
            var window: array<f32, TILE_HEIGHT * VECTORS>;
            var next_window: array<f32, TILE_HEIGHT * VECTORS>;
            for (var p = 0u; p < TILE_HEIGHT * VECTORS; p++) { // unroll
                let values = select(0lu, source[source_at[p] + c], inside[p]);
                window[p] = first(values);
                next_window[p] = second(values);
            }
            for (var kx = 0u; kx < TAPS_X; kx++) { // unroll
                let qx = first_qx + kx * STRIDE_X;
                let q = min(qy * KERNEL_WIDTH + qx, KERNEL_HEIGHT * KERNEL_WIDTH - 1u);
                let exists = qy < KERNEL_HEIGHT && qx < KERNEL_WIDTH;
                let at = weight_at + q * weight_tap + c * weight_step;
                let a = select(0lu, weight[at], exists);
                let b = select(0lu, weight[at + weight_next], exists);
                // From either channel of source to either channel of the result.
                let w00 = first(a);
                let w01 = select(second(a), first(b), TURNED == 1u);
                let w10 = select(first(b), second(a), TURNED == 1u);
                let w11 = second(b);
                for (var y = 0u; y < TILE_HEIGHT; y++) { // unroll
                    for (var x = 0u; x < TILE_WIDTH; x++) { // unroll
                        let x0 = subgroupShuffle(window[y * VECTORS + (x + LAST_X - kx) / 8u], (x + LAST_X - kx) % 8u);
                        let x1 = subgroupShuffle(next_window[y * VECTORS + (x + LAST_X - kx) / 8u], (x + LAST_X - kx) % 8u);
                        sum[y * TILE_WIDTH + x] += w00 * x0 + w10 * x1;
                        next_sum[y * TILE_WIDTH + x] += w01 * x0 + w11 * x1;
                    }
                }
            }
        }
    }
    for (var y = 0u; y < TILE_HEIGHT; y++) { // unroll
        for (var x = 0u; x < TILE_WIDTH; x++) { // unroll
            let row = (top + y) * STRIDE_Y + phase_y;
            let column = (left + x) * STRIDE_X + phase_x;
            if image < params.batch && row < params.height && column < params.width && pair < pairs {
                let pixel = (image * params.height + row) * params.width + column;
                let at = pixel * pairs + pair;
                result[at] = finished(sum[y * TILE_WIDTH + x], next_sum[y * TILE_WIDTH + x], at);
            }
        }
    }
}
