// y[n, p, o] = sum over q, i of weight[q, i, o] * x[n, p + q, i]: a convolution with 3 x 3 elements and no padding.
// A workgroup owns 64 pixels x 64 channels, an invocation 4 x 4 of them in registers, 16 apart. In each turn 16 input channels at
// one q pass through workgroup memory, 8 KiB of it; what an invocation reads there it uses four times.
// Bytes moved per output: 1.125 * in_channels + 4, and 18 * in_channels from workgroup memory.
const SIDE = 64u;
const DEPTH = 16u;
const BLOCK = 4u;
const LANES = SIDE / BLOCK;
const LOADS = SIDE * DEPTH / 256u;

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

var<workgroup> x_tile: array<array<f32, DEPTH>, SIDE>; // by pixel, then channel
var<workgroup> weight_tile: array<array<f32, SIDE>, DEPTH>; // by input channel, then output channel

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let out_height = params.height - 2u;
    let out_width = params.width - 2u;
    let pixels = params.batch * out_height * out_width;
    let tiles_across = (params.out_channels + SIDE - 1u) / SIDE;
    let index = group.x + group.y * groups.x;
    let first_o = index % tiles_across * SIDE;
    let first_pixel = index / tiles_across * SIDE;
    let lane = invocation % LANES;
    let row = invocation / LANES;

    // The pixels of x under element 0 of the weight of which this invocation brings a channel. What lies outside is read at the
    // last place inside and not stored.
    var x_pixel: array<u32, LOADS>;
    for (var l = 0u; l < LOADS; l++) { // unroll
        let pixel = min(first_pixel + invocation / DEPTH + l * (256u / DEPTH), pixels - 1u);
        let line = pixel / out_width / out_height * params.height + pixel / out_width % out_height;
        x_pixel[l] = line * params.width + pixel % out_width;
    }
    var sum: array<f32, BLOCK * BLOCK>;
    for (var ky = 0u; ky < 3u; ky++) {
        for (var kx = 0u; kx < 3u; kx++) {
            for (var first = 0u; first < params.in_channels; first += DEPTH) {
                for (var l = 0u; l < LOADS; l++) { // unroll
                    let x_i = first + invocation % DEPTH;
                    let x_at = (x_pixel[l] + ky * params.width + kx) * params.in_channels;
                    let x_value = x[x_at + min(x_i, params.in_channels - 1u)];
                    let part = invocation + l * 256u;
                    let weight_i = first + part / SIDE;
                    let tap = (ky * 3u + kx) * params.in_channels + min(weight_i, params.in_channels - 1u);
                    let o = min(first_o + part % SIDE, params.out_channels - 1u);
                    let weight_value = weight[tap * params.out_channels + o];
                    x_tile[part / DEPTH][part % DEPTH] = select(0.0, x_value, x_i < params.in_channels);
                    weight_tile[part / SIDE][part % SIDE] = select(0.0, weight_value, weight_i < params.in_channels);
                }
                workgroupBarrier(); // The tiles are complete: they may be read.
                for (var i = 0u; i < DEPTH; i++) {
                    var w: array<f32, BLOCK>;
                    for (var b = 0u; b < BLOCK; b++) { // unroll
                        w[b] = weight_tile[i][b * LANES + lane];
                    }
                    for (var p = 0u; p < BLOCK; p++) { // unroll
                        let value = x_tile[p * LANES + row][i];
                        for (var b = 0u; b < BLOCK; b++) { // unroll
                            sum[p * BLOCK + b] += value * w[b];
                        }
                    }
                }
                workgroupBarrier(); // All have read the tiles: they may be overwritten.
            }
        }
    }
    for (var p = 0u; p < BLOCK; p++) { // unroll
        for (var b = 0u; b < BLOCK; b++) { // unroll
            let pixel = first_pixel + p * LANES + row;
            let o = first_o + b * LANES + lane;
            if pixel < pixels && o < params.out_channels {
                y[pixel * params.out_channels + o] = sum[p * BLOCK + b];
            }
        }
    }
}
