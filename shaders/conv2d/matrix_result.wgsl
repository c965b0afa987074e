// result[n, y, x, r] = bias[r] + products[i, r], where (n, y, x) is position first_position + i of images of
// pitch_height x pitch_width, as conv2d/matrix_rows has them, of which result has the first height x width.
// One invocation owns four channels of a position, a workgroup 64 of these. Bytes moved per invocation: 32.
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const MASK = 0u; // 1: where mask is not above 0, the result is; 0: any buffer stands in its place
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    batch: u32,
    height: u32,
    width: u32,
    channels: u32,
    pitch_height: u32,
    pitch_width: u32,
    first_position: u32,
    positions: u32,
}

@group(0) @binding(0) var<storage, read> products: array<vec4f>; // [positions, channels / 4]
@group(0) @binding(1) var<storage, read> bias: array<vec4f>; // [channels / 4]
@group(0) @binding(2) var<storage, read> mask: array<Stored4>; // [batch, height, width, channels / 4]
@group(0) @binding(3) var<storage, read_write> result: array<Stored4>; // [batch, height, width, channels / 4]
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = params.channels / 4u;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    let position = params.first_position + index / quads;
    let image = position / params.pitch_width / params.pitch_height;
    let y = position / params.pitch_width % params.pitch_height;
    let x = position % params.pitch_width;
    let inside = (image < params.batch) & (y < params.height) & (x < params.width);
    if index / quads >= params.positions || !inside {
        return;
    }
    let quad = index % quads;
    let at = ((image * params.height + y) * params.width + x) * quads + quad;
    var value = select(vec4f(), bias[quad], BIAS == 1u) + products[index];
    if RELU == 1u {
        value = select(value, vec4f(), value <= vec4f());
    }
    if MASK == 1u {
        value = select(value, vec4f(), vec4f(mask[at]) <= vec4f());
    }
    result[at] = Stored4(value);
}
