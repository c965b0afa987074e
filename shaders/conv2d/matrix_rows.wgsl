// rows[i, c] = source[n, y - PADDING_Y, x - PADDING_X, c], where (n, y, x) is position first_position + i of images of
// pitch_height x pitch_width, one behind the other; 0 where source has no such pixel. So positions that meet at one element of a
// weight are the same number of rows apart, past the ends of lines and images, too, and matrices of them can begin anywhere.
// One invocation owns four channels of a position, a workgroup 64 of these. Bytes moved per invocation: 16.
enable f16;
const PADDING_Y = 0u;
const PADDING_X = 0u;
alias Stored = f32; // how activations are stored; matrices are of f16
alias Stored4 = vec4<Stored>;

struct Params {
    batch: u32,
    source_height: u32,
    source_width: u32,
    channels: u32,
    pitch_height: u32,
    pitch_width: u32,
    first_position: u32,
    positions: u32,
}

@group(0) @binding(0) var<storage, read> source: array<Stored4>; // [batch, source_height, source_width, channels / 4]
@group(0) @binding(1) var<storage, read_write> rows: array<vec4<f16>>; // [positions, channels / 4]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = params.channels / 4u;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    if index / quads >= params.positions {
        return;
    }
    let position = params.first_position + index / quads;
    let image = position / params.pitch_width / params.pitch_height;
    // What lies before the image wraps around to large numbers.
    let y = position / params.pitch_width % params.pitch_height - PADDING_Y;
    let x = position % params.pitch_width - PADDING_X;
    let inside = (image < params.batch) & (y < params.source_height) & (x < params.source_width);
    let line = min(image, params.batch - 1u) * params.source_height + min(y, params.source_height - 1u);
    let pixel = line * params.source_width + min(x, params.source_width - 1u);
    let value = vec4<f16>(source[pixel * quads + index % quads]);
    rows[index] = select(vec4<f16>(), value, inside);
}
