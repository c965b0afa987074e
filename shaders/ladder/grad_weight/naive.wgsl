// partial[s, q, i, o] = sum over the pixels p of part s of grad_output[p, o] * x[p + q, i]: for 3 x 3 elements and no padding.
// Part s is the rows s * rows_per_part onwards of all images' output rows; conv2d/reduce_partials adds the parts.
// One invocation owns one element, a workgroup 64 neighbours.
// Bytes moved per element and pixel: 8, a load for each operand of a multiply-add.
struct Params {
    batch: u32,
    height: u32,
    width: u32,
    in_channels: u32,
    out_channels: u32,
    parts: u32,
    rows_per_part: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, height, width, in_channels]
@group(0) @binding(1) var<storage, read> grad_output: array<f32>; // [batch, height - 2, width - 2, out_channels]
@group(0) @binding(2) var<storage, read_write> partial: array<f32>; // [parts, 3, 3, in_channels, out_channels]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let out_height = params.height - 2u;
    let out_width = params.width - 2u;
    let index = (group.x + group.y * groups.x) * 64u + invocation;
    let o = index % params.out_channels;
    let i = index / params.out_channels % params.in_channels;
    let kx = index / params.out_channels / params.in_channels % 3u;
    let ky = index / params.out_channels / params.in_channels / 3u % 3u;
    let part = index / params.out_channels / params.in_channels / 9u;
    if part >= params.parts {
        return;
    }
    let end = min((part + 1u) * params.rows_per_part, params.batch * out_height);
    var sum = 0.0;
    for (var line = part * params.rows_per_part; line < end; line++) {
        let x_line = line / out_height * params.height + line % out_height + ky;
        for (var column = 0u; column < out_width; column++) {
            let value = x[(x_line * params.width + column + kx) * params.in_channels + i];
            sum += value * grad_output[(line * out_width + column) * params.out_channels + o];
        }
    }
    partial[index] = sum;
}
