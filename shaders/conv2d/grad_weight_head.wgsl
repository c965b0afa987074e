// partial[s, i, o] = sum over the pixels p of part s of grad_output[p, o] * x[p, i], for a 1 x 1 convolution to few channels.
// Part s is the pixels s * pixels_per_part onwards of all images; conv2d/reduce_partials adds the parts.
// One invocation owns four i, of which x has multiples, all o, and every ROWS-th pixel of a part; a workgroup, 4 * LANES i
// and all pixels of the part. Its ROWS sums of each element are added in order, through workgroup memory.
// Bytes moved per workgroup and pixel: 16 * LANES + 4 * OUT_CHANNELS; workgroup memory: 16 * LANES * ROWS * OUT_CHANNELS.
const OUT_CHANNELS = 2u;
const LANES = 16u;
const ROWS = 16u; // at least OUT_CHANNELS
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    pixels: u32,
    in_quads: u32,
    pixels_per_part: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored4>; // [pixels, in_quads]
@group(0) @binding(1) var<storage, read> grad_output: array<Stored>; // [pixels, OUT_CHANNELS]
@group(0) @binding(2) var<storage, read_write> partial: array<f32>; // [parts, 4 * in_quads, OUT_CHANNELS]
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> sums: array<array<vec4f, OUT_CHANNELS>, LANES * ROWS>;

@compute @workgroup_size(LANES * ROWS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let blocks = (params.in_quads + LANES - 1u) / LANES;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let first_quad = index % blocks * LANES;
    let part = index / blocks;
    let start = part * params.pixels_per_part;
    let end = min(start + params.pixels_per_part, params.pixels);

    // A lane past the last channels computes those again and stores nothing.
    let quad = min(first_quad + invocation % LANES, params.in_quads - 1u);
    var sum: array<vec4f, OUT_CHANNELS>;
    for (var p = start + invocation / LANES; p < end; p += ROWS) {
        let values = vec4f(x[p * params.in_quads + quad]);
        for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
            sum[o] += f32(grad_output[p * OUT_CHANNELS + o]) * values;
        }
    }
    for (var o = 0u; o < OUT_CHANNELS; o++) { // unroll
        sums[invocation][o] = sum[o];
    }
    workgroupBarrier(); // All sums are there: they may be read.
    let lane = invocation / OUT_CHANNELS;
    let o = invocation % OUT_CHANNELS;
    if lane < LANES && first_quad + lane < params.in_quads && start < params.pixels {
        var total = vec4f();
        for (var row = 0u; row < ROWS; row++) {
            total += sums[row * LANES + lane][o];
        }
        let first_i = 4u * (part * params.in_quads + first_quad + lane);
        for (var k = 0u; k < 4u; k++) { // unroll
            partial[(first_i + k) * OUT_CHANNELS + o] = total[k];
        }
    }
}
