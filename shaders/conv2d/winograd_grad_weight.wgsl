// grad_weight[q, c, r] = (G^T m G)[q], where m[k] = sum over the strips s of tiles, in order, of products[s, k, c, r].
// G^T is that of conv2d/winograd_weight turned.
// One invocation owns two channels r of a channel c, a workgroup 64 of these.
// Bytes moved per invocation: 8 * strips * POINTS * POINTS + 72.
const OUTPUT_TILE = 4u; // 2 or 4
const POINTS = OUTPUT_TILE + 2u;
const ROOT = 1.41421356; // of 2

struct Params {
    source_channels: u32,
    channels: u32,
    strips: u32,
}

@group(0) @binding(0) var<storage, read> products: array<u64>; // [strips, POINTS * POINTS, source_channels, channels / 2]
@group(0) @binding(1) var<storage, read_write> grad_weight: array<u64>; // [3, 3, source_channels, channels / 2]
@group(0) @binding(2) var<uniform> params: Params;

fn values_of(pair: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(pair), u32(pair >> 32u)));
}

fn pair_of(values: vec2f) -> u64 {
    let bits = bitcast<vec2u>(values);
    return u64(bits.y) << 32u | u64(bits.x);
}

// G^T times a line, of which F(2, 3) has only four.
fn from_points(m: array<vec2f, 6>) -> array<vec2f, 3> {
    let sum = m[1] + m[2];
    let difference = m[1] - m[2];
    if OUTPUT_TILE == 2u {
        return array(m[0] + 0.5 * sum, 0.5 * difference, 0.5 * sum + m[3]);
    }
    let sum_2 = m[3] + m[4];
    let difference_2 = m[3] - m[4];
    return array(
        m[0] - 2.0 / 3.0 * sum + 1.0 / 6.0 * sum_2,
        ROOT / 6.0 * difference_2 - ROOT / 3.0 * difference,
        1.0 / 3.0 * (sum_2 - sum) + m[5],
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
    let elements = params.source_channels * pairs;
    if index >= elements {
        return;
    }
    var sums: array<vec2f, POINTS * POINTS>;
    for (var k = 0u; k < POINTS * POINTS; k++) { // unroll
        sums[k] = vec2f();
    }
    for (var s = 0u; s < params.strips; s++) {
        for (var k = 0u; k < POINTS * POINTS; k++) { // unroll
            sums[k] += values_of(products[(s * POINTS * POINTS + k) * elements + index]);
        }
    }
    var values: array<vec2f, 3u * POINTS>;
    for (var x = 0u; x < POINTS; x++) { // unroll
        var line: array<vec2f, 6>;
        for (var y = 0u; y < POINTS; y++) { // unroll
            line[y] = sums[y * POINTS + x];
        }
        let column = from_points(line);
        for (var y = 0u; y < 3u; y++) { // unroll
            values[y * POINTS + x] = column[y];
        }
    }
    for (var y = 0u; y < 3u; y++) { // unroll
        var line: array<vec2f, 6>;
        for (var x = 0u; x < POINTS; x++) { // unroll
            line[x] = values[y * POINTS + x];
        }
        let row = from_points(line);
        for (var x = 0u; x < 3u; x++) { // unroll
            grad_weight[(3u * y + x) * elements + index] = pair_of(row[x]);
        }
    }
}
