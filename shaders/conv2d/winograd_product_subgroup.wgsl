// products[k, t, r] = sum over c of weights[k, c, r] * tiles[k, t, c]: a product of matrices for each point k.
// One invocation owns TILES tiles x four channels; a workgroup, 4 * LANES channels of these. A load takes four channels.
// Eight lanes share those of tiles: each reads a tile, and a shuffle hands it to all.
// Right only if the subgroup size is a multiple of 8, LANES a multiple of it, and TILES divides stride.
// Bytes moved per workgroup and four source channels: 16 * TILES + 64 * LANES.
const LANES = 8u;
const TILES = 16u;
const VECTORS = TILES / 8u;

struct Params {
    points: u32,
    stride: u32, // of points, in tiles
    source_channels: u32,
    channels: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> tiles: array<vec2<u64>>; // [points, stride, source_channels / 4]
@group(0) @binding(1) var<storage, read> weights: array<vec2<u64>>; // [points, source_channels, channels / 4]
@group(0) @binding(2) var<storage, read_write> products: array<vec2<u64>>; // [points, stride, channels / 4]
@group(0) @binding(3) var<uniform> params: Params;

fn values_of(quad: vec2<u64>) -> vec4f {
    return bitcast<vec4f>(vec4u(vec2u(quad), vec2u(quad >> vec2u(32u))).xzyw);
}

fn quad_of(values: vec4f) -> vec2<u64> {
    let bits = bitcast<vec4u>(values);
    return vec2<u64>(bits.yw) << vec2u(32u) | vec2<u64>(bits.xz);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    // Read once: a driver may not know that they stay the same.
    let source_quads = params.source_channels / 4u;
    let quads = params.channels / 4u;
    let quad_blocks = (quads + LANES - 1u) / LANES;
    let blocks = params.stride / TILES;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let quad = index % quad_blocks * LANES + lane;
    let first_tile = index / quad_blocks % blocks * TILES;
    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let point = min(index / quad_blocks / blocks, params.points - 1u);
    var tile_at = (point * params.stride + first_tile + subgroup_lane % 8u) * source_quads;
    var weight_at = point * params.source_channels * quads + min(quad, quads - 1u);
    var sum: array<vec4f, TILES>;
    for (var t = 0u; t < TILES; t++) { // unroll
        sum[t] = vec4f();
    }
    for (var c = 0u; c < source_quads; c++) {
        var values: array<vec4f, VECTORS>;
        for (var v = 0u; v < VECTORS; v++) { // unroll
            values[v] = values_of(tiles[tile_at + 8u * v * source_quads]);
        }
        let w0 = values_of(weights[weight_at]);
        let w1 = values_of(weights[weight_at + quads]);
        let w2 = values_of(weights[weight_at + 2u * quads]);
        let w3 = values_of(weights[weight_at + 3u * quads]);
        for (var t = 0u; t < TILES; t++) { // unroll
            let value = subgroupShuffle(values[t / 8u], t % 8u);
            sum[t] += w0 * value.x + w1 * value.y + w2 * value.z + w3 * value.w;
        }
        tile_at += 1u;
        weight_at += 4u * quads;
    }
    if quad < quads && index / quad_blocks / blocks < params.points {
        for (var t = 0u; t < TILES; t++) { // unroll
            products[(point * params.stride + first_tile + t) * quads + quad] = quad_of(sum[t]);
        }
    }
}
