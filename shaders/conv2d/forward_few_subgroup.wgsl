// y[n, p, o] = bias[o] + sum over q, i of weight[q, i, o] * x[n, STRIDE * p + q - PADDING, i], x being zero outside: for the few
// input channels of a first layer, of which there are no pairs.
// One invocation owns TILE_HEIGHT x TILE_WIDTH pixels of two channels, a workgroup 2 * LANES channels of those pixels. It has the
// weight of its channels in registers and goes down its tile row by row. Eight lanes share the loads of x by shuffles, and the
// channels of the result are stored in pairs, as in conv2d/correlation_subgroup, under the same conditions.
// Bytes moved per workgroup and row of the tile: 32 * VECTORS * KERNEL_HEIGHT * IN_CHANNELS + 8 * LANES * TILE_WIDTH.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const IN_CHANNELS = 1u;
const LANES = 32u;
const TILE_HEIGHT = 16u;
const TILE_WIDTH = 6u;
const TAPS = KERNEL_HEIGHT * KERNEL_WIDTH * IN_CHANNELS;
const VECTORS = ((TILE_WIDTH - 1u) * STRIDE_X + KERNEL_WIDTH + 7u) / 8u;

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

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, in_height, in_width, IN_CHANNELS]
@group(0) @binding(1) var<storage, read> weight: array<u64>; // [KERNEL_HEIGHT, KERNEL_WIDTH, IN_CHANNELS, out_channels / 2]
@group(0) @binding(2) var<storage, read> bias: array<u64>; // [out_channels / 2]
@group(0) @binding(3) var<storage, read_write> y: array<u64>; // [batch, out_height, out_width, out_channels / 2]
@group(0) @binding(4) var<uniform> params: Params;

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
    let tile_columns = (params.out_width + TILE_WIDTH - 1u) / TILE_WIDTH;
    let tile_rows = (params.out_height + TILE_HEIGHT - 1u) / TILE_HEIGHT;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let tile = index / pair_blocks;
    let pair = index % pair_blocks * LANES + lane;
    let left = tile % tile_columns * TILE_WIDTH;
    let top = tile / tile_columns % tile_rows * TILE_HEIGHT;
    let image = tile / tile_columns / tile_rows;

    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_pair = min(pair, pairs - 1u);
    let start = select(0lu, bias[readable_pair], BIAS == 1u);
    var w: array<f32, TAPS>;
    var next_w: array<f32, TAPS>;
    for (var t = 0u; t < TAPS; t++) { // unroll
        let values = weight[t * pairs + readable_pair];
        w[t] = first(values);
        next_w[t] = second(values);
    }
    for (var row = top; row < min(top + TILE_HEIGHT, params.out_height); row++) {
        var sum: array<f32, TILE_WIDTH>;
        var next_sum: array<f32, TILE_WIDTH>;
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            sum[c] = first(start);
            next_sum[c] = second(start);
        }
        for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) { // unroll
            // What lies before the image wraps around to large numbers.
            let x_row = row * STRIDE_Y + ky - PADDING_Y;
            let line = readable_image * params.in_height + min(x_row, params.in_height - 1u);
            var window: array<f32, VECTORS * IN_CHANNELS>;
            for (var v = 0u; v < VECTORS; v++) { // unroll
                let column = left * STRIDE_X + 8u * v + subgroup_lane % 8u - PADDING_X;
                let inside = (x_row < params.in_height) & (column < params.in_width);
                let at = (line * params.in_width + min(column, params.in_width - 1u)) * IN_CHANNELS;
                for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                    window[v * IN_CHANNELS + i] = select(0.0, x[at + i], inside);
                }
            }
            for (var kx = 0u; kx < KERNEL_WIDTH; kx++) { // unroll
                for (var i = 0u; i < IN_CHANNELS; i++) { // unroll
                    for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
                        let value = subgroupShuffle(window[(c * STRIDE_X + kx) / 8u * IN_CHANNELS + i], (c * STRIDE_X + kx) % 8u);
                        sum[c] += w[(ky * KERNEL_WIDTH + kx) * IN_CHANNELS + i] * value;
                        next_sum[c] += next_w[(ky * KERNEL_WIDTH + kx) * IN_CHANNELS + i] * value;
                    }
                }
            }
        }
        for (var c = 0u; c < TILE_WIDTH; c++) { // unroll
            if image < params.batch && left + c < params.out_width && pair < pairs {
                var sums = vec2f(sum[c], next_sum[c]);
                if RELU == 1u {
                    sums = select(sums, vec2f(), sums <= vec2f());
                }
                let pixel = (image * params.out_height + row) * params.out_width + left + c;
                y[pixel * pairs + pair] = pair_of(sums.x, sums.y);
            }
        }
    }
}
