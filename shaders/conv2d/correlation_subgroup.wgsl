// result[n, s, r] = bias[r] + sum over q, c of weight[q, c, r] * source[n, p, c], zero outside; turned, with weight[q, r, c].
// Of a convolution: p = STRIDE * s + q - padding. Coarse, of its transpose: STRIDE * p = s + padding - q, so that positions s
// fall into STRIDE * STRIDE phases, whose members meet the same q.
// One invocation owns TILE_HEIGHT x TILE_WIDTH positions of a phase, of two channels; a workgroup, 2 * LANES channels of those.
// A load takes two channels. Eight lanes share those of source: each reads a column, and a shuffle hands it to all. A row of
// source is read once for all rows of the weight, and a row of sums stays in registers until it is done.
// Right only if the subgroup size is a multiple of 8, LANES a multiple of it, and the channels are even in number.
// Bytes moved per workgroup and two source channels: 64 * VECTORS * ROWS + 16 * LANES * TAPS.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PHASES_Y = 1u; // STRIDE_Y where coarse
const PHASES_X = 1u;
const LANES = 32u;
const TILE_HEIGHT = 4u;
const TILE_WIDTH = 6u;
const TILE = TILE_HEIGHT * TILE_WIDTH;
// Along each axis: elements of the weight that a position meets, and how far apart in source two positions are.
const TAPS_Y = (KERNEL_HEIGHT + PHASES_Y - 1u) / PHASES_Y;
const TAPS_X = (KERNEL_WIDTH + PHASES_X - 1u) / PHASES_X;
const TAPS = TAPS_Y * TAPS_X;
const ALL_MEET_AS_MANY = (KERNEL_HEIGHT % PHASES_Y == 0u) & (KERNEL_WIDTH % PHASES_X == 0u);
const STEP_Y = STRIDE_Y / PHASES_Y;
const STEP_X = STRIDE_X / PHASES_X;
// The part of source that a tile meets.
const ROWS = (TILE_HEIGHT - 1u) * STEP_Y + TAPS_Y;
const VECTORS = ((TILE_WIDTH - 1u) * STEP_X + TAPS_X + 7u) / 8u;

struct Params {
    batch: u32,
    source_height: u32,
    source_width: u32,
    source_channels: u32,
    height: u32,
    width: u32,
    channels: u32,
    padding_y: u32,
    padding_x: u32,
    coarse: u32,
    turned: u32,
    with_bias: u32, // 0: there is none, and any buffer stands in its place
    epilogue: u32, // 1: what is below 0 becomes 0; 2: what is where mask is not above 0; else any buffer is the mask
    first_workgroup: u32,
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
    let sums = vec2f(first_sum, second_sum);
    var deciding = select(vec2f(1.0), sums, params.epilogue == 1u);
    if params.epilogue == 2u {
        let values = mask[at];
        deciding = vec2f(first(values), second(values));
    }
    let kept = select(sums, vec2f(), deciding <= vec2f());
    return pair_of(kept.x, kept.y);
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
    let tile_columns = (params.width + TILE_WIDTH * PHASES_X - 1u) / (TILE_WIDTH * PHASES_X);
    let tile_rows = (params.height + TILE_HEIGHT * PHASES_Y - 1u) / (TILE_HEIGHT * PHASES_Y);
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let tile = index / pair_blocks;
    let pair = index % pair_blocks * LANES + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % tile_rows * TILE_HEIGHT;
    let phase = tile / tile_columns / tile_rows;
    let phase_x = phase % PHASES_X;
    let phase_y = phase / PHASES_X % PHASES_Y;
    let image = phase / (PHASES_X * PHASES_Y);

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_pair = min(pair, pairs - 1u);
    // The first row and column of source that the tile meets; what lies before 0 wraps around to large numbers.
    let coarse = params.coarse == 1u;
    let coarse_y = phase_y + params.padding_y;
    let coarse_x = phase_x + params.padding_x;
    let first_row = select(top * STEP_Y - params.padding_y, top + coarse_y / STRIDE_Y - (TAPS_Y - 1u), coarse);
    let first_column = select(left * STEP_X - params.padding_x, left + coarse_x / STRIDE_X - (TAPS_X - 1u), coarse);
    var source_at: array<u32, ROWS * VECTORS>;
    var inside: array<bool, ROWS * VECTORS>;
    for (var r = 0u; r < ROWS; r++) { // unroll
        for (var v = 0u; v < VECTORS; v++) { // unroll
            let row = first_row + r;
            let column = first_column + 8u * v + subgroup_lane % 8u;
            let line = readable_image * source_height + min(row, source_height - 1u);
            source_at[r * VECTORS + v] = (line * source_width + min(column, source_width - 1u)) * source_pairs;
            inside[r * VECTORS + v] = (row < source_height) & (column < source_width);
        }
    }

    // Where two pairs of weights are, for two channels of source and two of the result, and how far apart they and others are.
    let turned = params.turned == 1u;
    let weight_at = select(readable_pair, 2u * readable_pair * source_pairs, turned);
    let weight_next = select(pairs, source_pairs, turned);
    let weight_step = select(2u * pairs, 1u, turned);
    let weight_tap = 2u * source_pairs * pairs;

    let start = select(0lu, bias[readable_pair], params.with_bias == 1u);
    var sum: array<f32, TILE>;
    var next_sum: array<f32, TILE>;
    for (var p = 0u; p < TILE; p++) { // unroll
        sum[p] = first(start);
        next_sum[p] = second(start);
    }
    for (var c = 0u; c < source_pairs; c++) {
        var window: array<f32, ROWS * VECTORS>;
        var next_window: array<f32, ROWS * VECTORS>;
        for (var p = 0u; p < ROWS * VECTORS; p++) { // unroll
            let values = select(0lu, source[source_at[p] + c], inside[p]);
            window[p] = first(values);
            next_window[p] = second(values);
        }
        // From either channel of source to either channel of the result.
        var w00: array<f32, TAPS>;
        var w01: array<f32, TAPS>;
        var w10: array<f32, TAPS>;
        var w11: array<f32, TAPS>;
        for (var ky = 0u; ky < TAPS_Y; ky++) { // unroll
            for (var kx = 0u; kx < TAPS_X; kx++) { // unroll
                // Coarse, the nearest of source come last, and of the weight first.
                let qy = select(ky, coarse_y % STRIDE_Y + (TAPS_Y - 1u - ky) * STRIDE_Y, coarse);
                let qx = select(kx, coarse_x % STRIDE_X + (TAPS_X - 1u - kx) * STRIDE_X, coarse);
                // Some phases meet fewer.
                let exists = ALL_MEET_AS_MANY | ((qy < KERNEL_HEIGHT) & (qx < KERNEL_WIDTH));
                let at = weight_at + select(0u, qy * KERNEL_WIDTH + qx, exists) * weight_tap + c * weight_step;
                let a = select(0lu, weight[at], exists);
                let b = select(0lu, weight[at + weight_next], exists);
                w00[ky * TAPS_X + kx] = first(a);
                w01[ky * TAPS_X + kx] = select(second(a), first(b), turned);
                w10[ky * TAPS_X + kx] = select(first(b), second(a), turned);
                w11[ky * TAPS_X + kx] = second(b);
            }
        }
        for (var y = 0u; y < TILE_HEIGHT; y++) { // unroll
            for (var ky = 0u; ky < TAPS_Y; ky++) { // unroll
                for (var kx = 0u; kx < TAPS_X; kx++) { // unroll
                    for (var x = 0u; x < TILE_WIDTH; x++) { // unroll
                        let column = (x * STEP_X + kx) % 8u;
                        let x0 = subgroupShuffle(window[(y * STEP_Y + ky) * VECTORS + (x * STEP_X + kx) / 8u], column);
                        let x1 = subgroupShuffle(next_window[(y * STEP_Y + ky) * VECTORS + (x * STEP_X + kx) / 8u], column);
                        sum[y * TILE_WIDTH + x] += w00[ky * TAPS_X + kx] * x0 + w10[ky * TAPS_X + kx] * x1;
                        next_sum[y * TILE_WIDTH + x] += w01[ky * TAPS_X + kx] * x0 + w11[ky * TAPS_X + kx] * x1;
                    }
                }
            }
        }
    }
    for (var y = 0u; y < TILE_HEIGHT; y++) { // unroll
        for (var x = 0u; x < TILE_WIDTH; x++) { // unroll
            let row = (top + y) * PHASES_Y + phase_y;
            let column = (left + x) * PHASES_X + phase_x;
            if (image < params.batch) & (row < params.height) & (column < params.width) & (pair < pairs) {
                let pixel = (image * params.height + row) * params.width + column;
                let at = pixel * pairs + pair;
                result[at] = finished(sum[y * TILE_WIDTH + x], next_sum[y * TILE_WIDTH + x], at);
            }
        }
    }
}
