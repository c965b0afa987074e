// result[p, r] = bias[r] + (A^T m A)[p], where m[k] = products[k, t, r], and p is one of the OUTPUT_TILE x OUTPUT_TILE positions
// of tile first_tile + t. A^T adds what conv2d/winograd_input took apart.
// One invocation owns two channels of a tile, a workgroup 64 of these.
// Bytes moved per invocation: 8 * POINTS * POINTS + 8 * OUTPUT_TILE * OUTPUT_TILE.
const OUTPUT_TILE = 4u; // 2 or 4
const POINTS = OUTPUT_TILE + 2u;
const ROOT = 1.41421356; // of 2

struct Params {
    height: u32,
    width: u32,
    channels: u32,
    with_bias: u32, // 0: there is none, and any buffer stands in its place
    epilogue: u32, // 1: what is below 0 becomes 0; 2: what is where mask is not above 0; else any buffer is the mask
    tile_rows: u32,
    tile_columns: u32,
    first_tile: u32,
    tiles: u32,
    stride: u32, // of points, in tiles
}

@group(0) @binding(0) var<storage, read> products: array<u64>; // [POINTS * POINTS, stride, channels / 2]
@group(0) @binding(1) var<storage, read> bias: array<u64>; // [channels / 2]
@group(0) @binding(2) var<storage, read> mask: array<u64>; // [batch, height, width, channels / 2]
@group(0) @binding(3) var<storage, read_write> result: array<u64>; // [batch, height, width, channels / 2]
@group(0) @binding(4) var<uniform> params: Params;

fn values_of(pair: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(pair), u32(pair >> 32u)));
}

fn pair_of(values: vec2f) -> u64 {
    let bits = bitcast<vec2u>(values);
    return u64(bits.y) << 32u | u64(bits.x);
}

// Two channels as they are stored.
fn finished(sum: vec2f, at: u32) -> u64 {
    var deciding = select(vec2f(1.0), sum, params.epilogue == 1u);
    if params.epilogue == 2u {
        deciding = values_of(mask[at]);
    }
    return pair_of(select(sum, vec2f(), deciding <= vec2f()));
}

// A^T times a line, of which F(2, 3) has only four, and two results.
fn from_points(m: array<vec2f, 6>) -> array<vec2f, 4> {
    let sum = m[1] + m[2];
    let difference = m[1] - m[2];
    if OUTPUT_TILE == 2u {
        return array(m[0] + sum, difference + m[3], vec2f(), vec2f());
    }
    let sum_2 = m[3] + m[4];
    let difference_2 = m[3] - m[4];
    return array(
        m[0] + sum + sum_2,
        0.5 * ROOT * difference + ROOT * difference_2,
        0.5 * sum + 2.0 * sum_2,
        0.25 * ROOT * difference + 2.0 * ROOT * difference_2 + m[5],
    );
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let pairs = params.channels / 2u;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    let pair = index % pairs;
    let local_tile = index / pairs;
    if local_tile >= params.tiles {
        return;
    }
    let tile = params.first_tile + local_tile;
    let image = tile / params.tile_columns / params.tile_rows;
    let top = tile / params.tile_columns % params.tile_rows * OUTPUT_TILE;
    let left = tile % params.tile_columns * OUTPUT_TILE;
    let start = select(vec2f(), values_of(bias[pair]), params.with_bias == 1u);
    var values: array<vec2f, OUTPUT_TILE * POINTS>;
    for (var x = 0u; x < POINTS; x++) { // unroll
        var line: array<vec2f, 6>;
        for (var y = 0u; y < POINTS; y++) { // unroll
            line[y] = values_of(products[((y * POINTS + x) * params.stride + local_tile) * pairs + pair]);
        }
        let column = from_points(line);
        for (var y = 0u; y < OUTPUT_TILE; y++) { // unroll
            values[y * POINTS + x] = column[y];
        }
    }
    for (var y = 0u; y < OUTPUT_TILE; y++) { // unroll
        var line: array<vec2f, 6>;
        for (var x = 0u; x < POINTS; x++) { // unroll
            line[x] = values[y * POINTS + x];
        }
        let row = from_points(line);
        for (var x = 0u; x < OUTPUT_TILE; x++) { // unroll
            if (top + y < params.height) & (left + x < params.width) {
                let at = ((image * params.height + top + y) * params.width + left + x) * pairs + pair;
                result[at] = finished(start + row[x], at);
            }
        }
    }
}
