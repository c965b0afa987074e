// transformed[k, t, c] = (A g A^T)[k], where g is tile first_tile + t, of OUTPUT_TILE x OUTPUT_TILE, of the gradient.
// A is that of conv2d/winograd_output turned: it evaluates a polynomial, whose coefficients are a line of g, at the points.
// One invocation owns two channels of a tile, a workgroup 64 of these.
// Bytes moved per invocation: 8 * OUTPUT_TILE * OUTPUT_TILE + 8 * POINTS * POINTS.
const OUTPUT_TILE = 4u; // 2 or 4
const POINTS = OUTPUT_TILE + 2u;
const ROOT = 1.41421356; // of 2

struct Params {
    height: u32,
    width: u32,
    channels: u32,
    tile_rows: u32,
    tile_columns: u32,
    first_tile: u32,
    tiles: u32,
    stride: u32, // of points, in tiles
}

@group(0) @binding(0) var<storage, read> gradient: array<u64>; // [batch, height, width, channels / 2]
@group(0) @binding(1) var<storage, read_write> transformed: array<u64>; // [POINTS * POINTS, stride, channels / 2]
@group(0) @binding(2) var<uniform> params: Params;

fn values_of(pair: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(pair), u32(pair >> 32u)));
}

fn pair_of(values: vec2f) -> u64 {
    let bits = bitcast<vec2u>(values);
    return u64(bits.y) << 32u | u64(bits.x);
}

// A times a line, of which F(2, 3) has only two, and four results.
fn at_points(g: array<vec2f, 4>) -> array<vec2f, 6> {
    if OUTPUT_TILE == 2u {
        return array(g[0], g[0] + g[1], g[0] - g[1], g[1], vec2f(), vec2f());
    }
    let even = g[0] + 0.5 * g[2]; // at 1 / sqrt(2)
    let odd = 0.5 * ROOT * g[1] + 0.25 * ROOT * g[3];
    let even_2 = g[0] + 2.0 * g[2]; // at sqrt(2)
    let odd_2 = ROOT * g[1] + 2.0 * ROOT * g[3];
    return array(g[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, g[3]);
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
    var values: array<vec2f, POINTS * OUTPUT_TILE>;
    for (var x = 0u; x < OUTPUT_TILE; x++) { // unroll
        var line: array<vec2f, 4>;
        for (var y = 0u; y < OUTPUT_TILE; y++) { // unroll
            let inside = (top + y < params.height) & (left + x < params.width);
            let row = image * params.height + min(top + y, params.height - 1u);
            let at = (row * params.width + min(left + x, params.width - 1u)) * pairs + pair;
            line[y] = select(vec2f(), values_of(gradient[at]), inside);
        }
        let column = at_points(line);
        for (var y = 0u; y < POINTS; y++) { // unroll
            values[y * OUTPUT_TILE + x] = column[y];
        }
    }
    for (var y = 0u; y < POINTS; y++) { // unroll
        var line: array<vec2f, 4>;
        for (var x = 0u; x < OUTPUT_TILE; x++) { // unroll
            line[x] = values[y * OUTPUT_TILE + x];
        }
        let row = at_points(line);
        for (var x = 0u; x < POINTS; x++) { // unroll
            transformed[((y * POINTS + x) * params.stride + local_tile) * pairs + pair] = pair_of(row[x]);
        }
    }
}
