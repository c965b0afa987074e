// products[strip, k, c, r] = sum over t of inputs[k, t, c] * gradients[k, t, r]: a product of matrices for each point k.
// One invocation owns SOURCES channels c x four channels r; a workgroup, 4 * LANES of these r. A load takes four channels.
// Eight lanes share those of inputs: each reads four of one of two tiles, and a shuffle hands them to all. Four tiles a turn, so
// that a sum is kept in a register for four multiply-adds.
// Right only if the subgroup size is a multiple of 8 and LANES a multiple of it.
// Bytes moved per workgroup and tile: 4 * SOURCES + 16 * LANES.
const LANES = 8u;
const SOURCES = 16u; // at most 16, a multiple of 4
const TURN = 4u;

struct Params {
    points: u32,
    tiles: u32,
    source_channels: u32,
    channels: u32,
    strip: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> inputs: array<vec2<u64>>; // [points, tiles, source_channels / 4]
@group(0) @binding(1) var<storage, read> gradients: array<vec2<u64>>; // [points, tiles, channels / 4]
@group(0) @binding(2) var<storage, read_write> products: array<vec2<u64>>; // [strips, points, source_channels, channels / 4]
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
    let tiles = params.tiles;
    let quad_blocks = (quads + LANES - 1u) / LANES;
    let source_blocks = (params.source_channels + SOURCES - 1u) / SOURCES;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let quad = index % quad_blocks * LANES + lane;
    let first_source = index / quad_blocks % source_blocks * SOURCES;
    // Every lane stays active to the end, so what lies outside is read at the nearest place inside and not stored.
    let point = min(index / quad_blocks / source_blocks, params.points - 1u);
    let input_at = point * tiles * source_quads + min(first_source / 4u + subgroup_lane % 4u, source_quads - 1u);
    let gradient_at = point * tiles * quads + min(quad, quads - 1u);
    var sum: array<vec4f, SOURCES>;
    for (var c = 0u; c < SOURCES; c++) { // unroll
        sum[c] = vec4f();
    }
    for (var first = 0u; first < tiles; first += TURN) {
        var shared_inputs: array<vec4f, TURN / 2u>;
        var g: array<vec4f, TURN>;
        for (var t = 0u; t < TURN / 2u; t++) { // unroll
            let tile = min(first + 2u * t + subgroup_lane / 4u % 2u, tiles - 1u);
            shared_inputs[t] = values_of(inputs[input_at + tile * source_quads]);
        }
        for (var t = 0u; t < TURN; t++) { // unroll
            let tile = min(first + t, tiles - 1u);
            g[t] = select(vec4f(), values_of(gradients[gradient_at + tile * quads]), first + t < tiles);
        }
        for (var c = 0u; c < SOURCES; c += 4u) { // unroll
            let d0 = subgroupShuffle(shared_inputs[0], c / 4u);
            let d1 = subgroupShuffle(shared_inputs[0], 4u + c / 4u);
            let d2 = subgroupShuffle(shared_inputs[1], c / 4u);
            let d3 = subgroupShuffle(shared_inputs[1], 4u + c / 4u);
            sum[c] += g[0] * d0.x + g[1] * d1.x + g[2] * d2.x + g[3] * d3.x;
            sum[c + 1u] += g[0] * d0.y + g[1] * d1.y + g[2] * d2.y + g[3] * d3.y;
            sum[c + 2u] += g[0] * d0.z + g[1] * d1.z + g[2] * d2.z + g[3] * d3.z;
            sum[c + 3u] += g[0] * d0.w + g[1] * d1.w + g[2] * d2.w + g[3] * d3.w;
        }
    }
    let sums = params.strip * params.points + point;
    if quad < quads && index / quad_blocks / source_blocks < params.points {
        for (var c = 0u; c < SOURCES; c++) { // unroll
            if first_source + c < params.source_channels {
                products[(sums * params.source_channels + first_source + c) * quads + quad] = quad_of(sum[c]);
            }
        }
    }
}
