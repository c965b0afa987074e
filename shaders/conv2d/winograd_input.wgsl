// transformed[k, t, c] = (B^T d B)[k], where d is what tile first_tile + t of OUTPUT_TILE x OUTPUT_TILE results meets of source.
// B^T takes a line of d apart by the points 0, 1, -1 and infinity, or, of F(4, 3), 0, +-sqrt(1/2), +-sqrt(2) and infinity,
// which lose least in rounding.
// One invocation owns two channels of a tile, a workgroup 64 of these. Bytes moved per invocation: 16 * POINTS * POINTS.
const OUTPUT_TILE = 4u; // 2 or 4
const POINTS = OUTPUT_TILE + 2u;
const ROOT = 1.41421356; // of 2

struct Params {
    source_height: u32,
    source_width: u32,
    source_channels: u32,
    padding_y: u32,
    padding_x: u32,
    tile_rows: u32,
    tile_columns: u32,
    first_tile: u32,
    tiles: u32,
    stride: u32, // of points, in tiles
}

@group(0) @binding(0) var<storage, read> source: array<u64>; // [batch, source_height, source_width, source_channels / 2]
@group(0) @binding(1) var<storage, read_write> transformed: array<u64>; // [POINTS * POINTS, stride, source_channels / 2]
@group(0) @binding(2) var<uniform> params: Params;

fn values_of(pair: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(pair), u32(pair >> 32u)));
}

fn pair_of(values: vec2f) -> u64 {
    let bits = bitcast<vec2u>(values);
    return u64(bits.y) << 32u | u64(bits.x);
}

// B^T times a line. Of F(2, 3) the last two do not exist.
fn in_points(d: array<vec2f, 6>) -> array<vec2f, 6> {
    if OUTPUT_TILE == 2u {
        return array(d[0] - d[2], d[2] + d[1], d[2] - d[1], d[3] - d[1], vec2f(), vec2f());
    }
    let even = d[4] - 2.0 * d[2];
    let odd = 0.5 * ROOT * d[3] - ROOT * d[1];
    let even_2 = d[4] - 0.5 * d[2];
    let odd_2 = ROOT * d[3] - 0.5 * ROOT * d[1];
    let first = d[0] - 2.5 * d[2] + d[4];
    return array(first, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, d[1] - 2.5 * d[3] + d[5]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let pairs = params.source_channels / 2u;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    let pair = index % pairs;
    let local_tile = index / pairs;
    if local_tile >= params.tiles {
        return;
    }
    let tile = params.first_tile + local_tile;
    let image = tile / params.tile_columns / params.tile_rows;
    // What lies before the image wraps around to large numbers.
    let top = tile / params.tile_columns % params.tile_rows * OUTPUT_TILE - params.padding_y;
    let left = tile % params.tile_columns * OUTPUT_TILE - params.padding_x;
    var values: array<vec2f, POINTS * POINTS>;
    for (var y = 0u; y < POINTS; y++) { // unroll
        for (var x = 0u; x < POINTS; x++) { // unroll
            let inside = (top + y < params.source_height) & (left + x < params.source_width);
            let row = image * params.source_height + min(top + y, params.source_height - 1u);
            let at = (row * params.source_width + min(left + x, params.source_width - 1u)) * pairs + pair;
            values[y * POINTS + x] = select(vec2f(), values_of(source[at]), inside);
        }
    }
    for (var x = 0u; x < POINTS; x++) { // unroll
        var line: array<vec2f, 6>;
        for (var y = 0u; y < POINTS; y++) { // unroll
            line[y] = values[y * POINTS + x];
        }
        let column = in_points(line);
        for (var y = 0u; y < POINTS; y++) { // unroll
            values[y * POINTS + x] = column[y];
        }
    }
    for (var y = 0u; y < POINTS; y++) { // unroll
        var line: array<vec2f, 6>;
        for (var x = 0u; x < POINTS; x++) { // unroll
            line[x] = values[y * POINTS + x];
        }
        let row = in_points(line);
        for (var x = 0u; x < POINTS; x++) { // unroll
            transformed[((y * POINTS + x) * params.stride + local_tile) * pairs + pair] = pair_of(row[x]);
        }
    }
}
