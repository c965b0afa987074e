// y[n, p, o] = sum over q, i of weight[q, i, o] * x[n, p + q, i]: a convolution with 3 x 3 elements and no padding.
// One invocation owns 4 x 6 pixels of one channel in registers, a workgroup LANES channels of those. For each input channel eight
// invocations load the eight columns of x that all need, one each, and hand them round: no workgroup memory, no barrier.
// Right only if the subgroup size is a multiple of 8 and divides LANES.
// Bytes moved per output: 3.5 * in_channels + 4, in 21 loads of an invocation for 216 multiply-adds.
const LANES = 8u;
const HEIGHT = 4u;
const WIDTH = 6u;

struct Params {
    batch: u32,
    height: u32,
    width: u32,
    in_channels: u32,
    out_channels: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, height, width, in_channels]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [3, 3, in_channels, out_channels]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [batch, height - 2, width - 2, out_channels]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let out_height = params.height - 2u;
    let out_width = params.width - 2u;
    let channel_blocks = (params.out_channels + LANES - 1u) / LANES;
    let tile_columns = (out_width + WIDTH - 1u) / WIDTH;
    let tile_rows = (out_height + HEIGHT - 1u) / HEIGHT;
    let index = group.x + group.y * groups.x;
    let o = index % channel_blocks * LANES + lane;
    let tile = index / channel_blocks;
    let left = tile % tile_columns * WIDTH;
    let top = tile / tile_columns % tile_rows * HEIGHT;
    let image = tile / tile_columns / tile_rows;

    // All invocations stay active, so what lies outside is read at the last place inside and not stored.
    let readable_image = min(image, params.batch - 1u);
    let readable_o = min(o, params.out_channels - 1u);
    let column = min(left + subgroup_lane % 8u, params.width - 1u);
    var sum: array<f32, HEIGHT * WIDTH>;
    for (var ky = 0u; ky < 3u; ky++) {
        var x_at: array<u32, HEIGHT>;
        for (var r = 0u; r < HEIGHT; r++) { // unroll
            let line = readable_image * params.height + min(top + r + ky, params.height - 1u);
            x_at[r] = (line * params.width + column) * params.in_channels;
        }
        for (var i = 0u; i < params.in_channels; i++) {
            var w: array<f32, 3>;
            for (var kx = 0u; kx < 3u; kx++) { // unroll
                w[kx] = weight[((ky * 3u + kx) * params.in_channels + i) * params.out_channels + readable_o];
            }
            for (var r = 0u; r < HEIGHT; r++) { // unroll
                let own = x[x_at[r] + i];
                for (var c = 0u; c < WIDTH + 2u; c++) { // unroll
                    let value = subgroupShuffle(own, c);
                    for (var kx = 0u; kx < 3u; kx++) { // unroll
                        if kx <= c && c - kx < WIDTH {
                            sum[r * WIDTH + (c + WIDTH - kx) % WIDTH] += w[kx] * value;
                        }
                    }
                }
            }
        }
    }
    for (var r = 0u; r < HEIGHT; r++) { // unroll
        for (var c = 0u; c < WIDTH; c++) { // unroll
            if image < params.batch && top + r < out_height && left + c < out_width && o < params.out_channels {
                let pixel = (image * out_height + top + r) * out_width + left + c;
                y[pixel * params.out_channels + o] = sum[r * WIDTH + c];
            }
        }
    }
}
