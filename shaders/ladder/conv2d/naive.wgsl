// y[n, p, o] = sum over q, i of weight[q, i, o] * x[n, p + q, i]: a convolution with 3 x 3 elements and no padding.
// One invocation owns one output, a workgroup 64 neighbours: pixels of one channel, or, CHANNELS_FIRST, channels of one pixel.
// Bytes moved per output: 72 * in_channels + 4, a load for each operand of 9 * in_channels multiply-adds.
const CHANNELS_FIRST = false;

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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let out_height = params.height - 2u;
    let out_width = params.width - 2u;
    let pixels = params.batch * out_height * out_width;
    let index = (group.x + group.y * groups.x) * 64u + invocation;
    if index >= pixels * params.out_channels {
        return;
    }
    let pixel = select(index % pixels, index / params.out_channels, CHANNELS_FIRST);
    let o = select(index / pixels, index % params.out_channels, CHANNELS_FIRST);
    let image = pixel / out_width / out_height;
    let top = pixel / out_width % out_height;
    let left = pixel % out_width;

    var sum = 0.0;
    for (var ky = 0u; ky < 3u; ky++) {
        for (var kx = 0u; kx < 3u; kx++) {
            let x_at = ((image * params.height + top + ky) * params.width + left + kx) * params.in_channels;
            let weight_at = (ky * 3u + kx) * params.in_channels * params.out_channels + o;
            for (var i = 0u; i < params.in_channels; i++) {
                sum += x[x_at + i] * weight[weight_at + i * params.out_channels];
            }
        }
    }
    y[pixel * params.out_channels + o] = sum;
}
