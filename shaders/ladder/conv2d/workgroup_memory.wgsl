// y[n, p, o] = sum over q, i of weight[q, i, o] * x[n, p + q, i]: a convolution with 3 x 3 elements and no padding.
// A workgroup owns 16 pixels x 16 channels, an invocation one output of these. In each turn 16 input channels at one q pass
// through workgroup memory, 2 KiB of it: an invocation loads one element of x and one of the weight, and uses 16 of both.
// Bytes moved per output: 4.5 * in_channels + 4, and 72 * in_channels from workgroup memory.
const SIDE = 16u;

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

var<workgroup> x_tile: array<array<f32, SIDE>, SIDE>; // by pixel, then channel
var<workgroup> weight_tile: array<array<f32, SIDE>, SIDE>; // by input channel, then output channel

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let out_height = params.height - 2u;
    let out_width = params.width - 2u;
    let tiles_across = (params.out_channels + SIDE - 1u) / SIDE;
    let index = group.x + group.y * groups.x;
    let lane = invocation % SIDE;
    let row = invocation / SIDE;
    let o = index % tiles_across * SIDE + lane;
    let pixel = index / tiles_across * SIDE + row;
    // All invocations go on to the last barrier, so what lies outside is read at the last place inside and not stored.
    let image = min(pixel / out_width / out_height, params.batch - 1u);
    let top = pixel / out_width % out_height;
    let left = pixel % out_width;

    var sum = 0.0;
    for (var ky = 0u; ky < 3u; ky++) {
        for (var kx = 0u; kx < 3u; kx++) {
            let x_pixel = (image * params.height + top + ky) * params.width + left + kx;
            for (var first = 0u; first < params.in_channels; first += SIDE) {
                // This invocation brings channel `lane` of its own pixel, and its own output channel of input channel `row`.
                let x_i = first + lane;
                let weight_i = first + row;
                let x_value = x[x_pixel * params.in_channels + min(x_i, params.in_channels - 1u)];
                let tap = (ky * 3u + kx) * params.in_channels + min(weight_i, params.in_channels - 1u);
                let weight_value = weight[tap * params.out_channels + min(o, params.out_channels - 1u)];
                x_tile[row][lane] = select(0.0, x_value, x_i < params.in_channels);
                weight_tile[row][lane] = select(0.0, weight_value, weight_i < params.in_channels);
                workgroupBarrier(); // The tiles are complete: they may be read.
                for (var i = 0u; i < SIDE; i++) { // unroll
                    sum += x_tile[row][i] * weight_tile[i][lane];
                }
                workgroupBarrier(); // All have read the tiles: they may be overwritten.
            }
        }
    }
    if pixel < params.batch * out_height * out_width && o < params.out_channels {
        y[pixel * params.out_channels + o] = sum;
    }
}
