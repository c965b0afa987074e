// result[n, p, r] = bias[r] + sum over q, c of weight[q, c, r] * source[n, STRIDE * p + q - PADDING, c], zero outside of source.
// TURNED, it is weight[q, r, c]: the input gradient of a transposed convolution.
// One invocation owns TILE_HEIGHT x TILE_WIDTH pixels of two channels; a workgroup, 2 * LANES channels of those pixels.
// A load takes two neighbouring channels at once. Eight lanes share the loads of source: each reads one of eight columns, and a
// shuffle hands the value to all. On a software driver, where a load costs more than arithmetic, that is worth a factor of four.
// Right only if the subgroup size is a multiple of 8, LANES a multiple of the subgroup size, and the channels are even in number.
// Bytes moved per workgroup, two source channels and row of the weight: 64 * VECTORS * TILE_HEIGHT + 16 * LANES * KERNEL_WIDTH.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const TURNED = 0u;
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const MASK = 0u; // 1: where mask is not above 0, the result is; 0: any buffer stands in its place
const LANES = 32u;
const TILE_HEIGHT = 4u;
const TILE_WIDTH = 6u;
const TILE = TILE_HEIGHT * TILE_WIDTH;
const VECTORS = ((TILE_WIDTH - 1u) * STRIDE_X + KERNEL_WIDTH + 7u) / 8u;

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
    let tile_columns = (params.width + TILE_WIDTH - 1u) / TILE_WIDTH;
    let tile_rows = (params.height + TILE_HEIGHT - 1u) / TILE_HEIGHT;
    let index = group.x + group.y * groups.x;
    let tile = index / pair_blocks;
    let pair = index % pair_blocks * LANES + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % tile_rows * TILE_HEIGHT;
    let image = tile / tile_columns / tile_rows;

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_pair = min(pair, pairs - 1u);
    let first_column = left * STRIDE_X + subgroup_lane % 8u - PADDING_X;
    let first_row = top * STRIDE_Y - PADDING_Y;

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
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        var source_at: array<u32, TILE_HEIGHT * VECTORS>;
        var inside: array<bool, TILE_HEIGHT * VECTORS>;
        for (var r = 0u; r < TILE_HEIGHT; r++) { // unroll
            for (var v = 0u; v < VECTORS; v++) { // unroll
                // What lies before the image has wrapped around to large numbers.
                let row = first_row + r * STRIDE_Y + ky;
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
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                let at = weight_at + (ky * KERNEL_WIDTH + kx) * weight_tap + c * weight_step;
                let a = weight[at];
                let b = weight[at + weight_next];
                // From either channel of source to either channel of the result.
                let w00 = first(a);
                let w01 = select(second(a), first(b), TURNED == 1u);
                let w10 = select(first(b), second(a), TURNED == 1u);
                let w11 = second(b);
                for (var y = 0u; y < TILE_HEIGHT; y++) { // unroll
                    for (var x = 0u; x < TILE_WIDTH; x++) { // unroll
                        let x0 = subgroupShuffle(window[y * VECTORS + (x * STRIDE_X + kx) / 8u], (x * STRIDE_X + kx) % 8u);
                        let x1 = subgroupShuffle(next_window[y * VECTORS + (x * STRIDE_X + kx) / 8u], (x * STRIDE_X + kx) % 8u);
                        sum[y * TILE_WIDTH + x] += w00 * x0 + w10 * x1;
                        next_sum[y * TILE_WIDTH + x] += w01 * x0 + w11 * x1;
                    }
                }
            }
        }
    }
    for (var y = 0u; y < TILE_HEIGHT; y++) { // unroll
        for (var x = 0u; x < TILE_WIDTH; x++) { // unroll
            if image < params.batch && top + y < params.height && left + x < params.width && pair < pairs {
                let pixel = (image * params.height + top + y) * params.width + left + x;
                let at = pixel * pairs + pair;
                result[at] = finished(sum[y * TILE_WIDTH + x], next_sum[y * TILE_WIDTH + x], at);
            }
        }
    }
}
