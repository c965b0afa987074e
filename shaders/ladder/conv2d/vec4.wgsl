// y[n, p, o] = sum over q, i of weight[q, i, o] * x[n, p + q, i]: a convolution with 3 x 3 elements and no padding.
// A workgroup owns 64 pixels x 64 channels, an invocation 4 pixels, 16 apart, x 4 neighbouring channels. In each turn 16 input
// channels at one q pass through workgroup memory, 8 KiB of it. Every load and store takes four channels at once, so that an
// invocation brings one of x and one of the weight. Channels must be multiples of 4.
// Bytes moved per output: 1.125 * in_channels + 4, and 18 * in_channels from workgroup memory, in a quarter of the loads.
const SIDE = 64u;
const DEPTH = 16u;
const BLOCK = 4u;
const LANES = SIDE / 4u;
const QUADS = DEPTH / 4u;

struct Params {
    batch: u32,
    height: u32,
    width: u32,
    in_channels: u32,
    out_channels: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>; // [batch, height, width, in_channels / 4]
@group(0) @binding(1) var<storage, read> weight: array<vec4f>; // [3, 3, in_channels, out_channels / 4]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>; // [batch, height - 2, width - 2, out_channels / 4]
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> x_tile: array<array<vec4f, QUADS>, SIDE>; // by pixel, then four channels
var<workgroup> weight_tile: array<array<vec4f, LANES>, DEPTH>; // by input channel, then four output channels

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let in_quads = params.in_channels / 4u;
    let out_quads = params.out_channels / 4u;
    let out_height = params.height - 2u;
    let out_width = params.width - 2u;
    let pixels = params.batch * out_height * out_width;
    let tiles_across = (out_quads + LANES - 1u) / LANES;
    let index = group.x + group.y * groups.x;
    let lane = invocation % LANES;
    let row = invocation / LANES;
    let o = index % tiles_across * LANES + lane;
    let first_pixel = index / tiles_across * SIDE;

    // The pixel of x under element 0 of the weight of which this invocation brings four channels. What lies outside is read at
    // the last place inside and not stored.
    let own_pixel = min(first_pixel + invocation / QUADS, pixels - 1u);
    let line = own_pixel / out_width / out_height * params.height + own_pixel / out_width % out_height;
    let x_pixel = line * params.width + own_pixel % out_width;
    var sum: array<vec4f, BLOCK>;
    for (var ky = 0u; ky < 3u; ky++) {
        for (var kx = 0u; kx < 3u; kx++) {
            for (var first = 0u; first < in_quads; first += QUADS) {
                let x_i = first + invocation % QUADS;
                let x_value = x[(x_pixel + ky * params.width + kx) * in_quads + min(x_i, in_quads - 1u)];
                let weight_i = 4u * first + row;
                let tap = (ky * 3u + kx) * params.in_channels + min(weight_i, params.in_channels - 1u);
                let weight_value = weight[tap * out_quads + min(o, out_quads - 1u)];
                x_tile[invocation / QUADS][invocation % QUADS] = select(vec4f(), x_value, x_i < in_quads);
                weight_tile[row][lane] = select(vec4f(), weight_value, weight_i < params.in_channels);
                workgroupBarrier(); // The tiles are complete: they may be read.
                for (var i = 0u; i < QUADS; i++) {
                    var w: array<vec4f, 4>;
                    for (var k = 0u; k < 4u; k++) { // unroll
                        w[k] = weight_tile[4u * i + k][lane];
                    }
                    for (var p = 0u; p < BLOCK; p++) { // unroll
                        let value = x_tile[p * LANES + row][i];
                        for (var k = 0u; k < 4u; k++) { // unroll
                            sum[p] += value[k] * w[k];
                        }
                    }
                }
                workgroupBarrier(); // All have read the tiles: they may be overwritten.
            }
        }
    }
    for (var p = 0u; p < BLOCK; p++) { // unroll
        let pixel = first_pixel + p * LANES + row;
        if pixel < pixels && o < out_quads {
            y[pixel * out_quads + o] = sum[p];
        }
    }
}
