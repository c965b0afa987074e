// transformed[k, c, r] = (G g G^T)[k], where g[q] = weight[q, c, r]; turned, for the gradient of x, g[q] = weight[8 - q, r, c].
// G evaluates a polynomial, whose coefficients are a line of the weight, at the points of conv2d/winograd_input, scaled.
// One invocation owns two channels c and two r, a workgroup 64 of these.
// Bytes moved per invocation: 144 + 16 * POINTS * POINTS.
const OUTPUT_TILE = 4u; // 2 or 4
const POINTS = OUTPUT_TILE + 2u;
const ROOT = 1.41421356; // of 2

struct Params {
    source_channels: u32,
    channels: u32,
    turned: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<u64>; // [3, 3, ..., channels / 2]
@group(0) @binding(1) var<storage, read_write> transformed: array<u64>; // [POINTS * POINTS, source_channels, channels / 2]
@group(0) @binding(2) var<uniform> params: Params;

fn values_of(pair: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(pair), u32(pair >> 32u)));
}

fn pair_of(values: vec2f) -> u64 {
    let bits = bitcast<vec2u>(values);
    return u64(bits.y) << 32u | u64(bits.x);
}

// G times a line. Of F(2, 3) the last two do not exist.
fn at_points(g: array<vec4f, 3>) -> array<vec4f, 6> {
    if OUTPUT_TILE == 2u {
        let even = 0.5 * (g[0] + g[2]);
        let odd = 0.5 * g[1];
        return array(g[0], even + odd, even - odd, g[2], vec4f(), vec4f());
    }
    let even = (2.0 * g[0] + g[2]) * (-1.0 / 3.0); // at 1 / sqrt(2)
    let odd = g[1] * (-ROOT / 3.0);
    let even_2 = (g[0] + 2.0 * g[2]) * (1.0 / 6.0); // at sqrt(2)
    let odd_2 = g[1] * (ROOT / 6.0);
    return array(g[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, g[2]);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let pairs = params.channels / 2u;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    let c = index / pairs * 2u;
    let r = index % pairs;
    if c >= params.source_channels {
        return;
    }
    // Of each element: channels (c, r), (c, r + 1), (c + 1, r), (c + 1, r + 1).
    var g: array<vec4f, 9>;
    let turned = params.turned == 1u;
    let source_pairs = params.source_channels / 2u;
    let start = select(c * pairs + r, 2u * r * source_pairs + c / 2u, turned);
    let next = select(pairs, source_pairs, turned);
    for (var q = 0u; q < 9u; q++) { // unroll
        let at = select(q, 8u - q, turned) * 2u * source_pairs * pairs + start;
        let first = values_of(weight[at]);
        let second = values_of(weight[at + next]);
        g[q] = select(vec4f(first, second), vec4f(first.x, second.x, first.y, second.y), turned);
    }
    var columns: array<vec4f, POINTS * 3u>;
    for (var x = 0u; x < 3u; x++) { // unroll
        let column = at_points(array(g[x], g[3u + x], g[6u + x]));
        for (var y = 0u; y < POINTS; y++) { // unroll
            columns[y * 3u + x] = column[y];
        }
    }
    for (var y = 0u; y < POINTS; y++) { // unroll
        let row = at_points(array(columns[y * 3u], columns[y * 3u + 1u], columns[y * 3u + 2u]));
        for (var x = 0u; x < POINTS; x++) { // unroll
            let at = ((y * POINTS + x) * params.source_channels + c) * pairs + r;
            transformed[at] = pair_of(row[x].xy);
            transformed[at + pairs] = pair_of(row[x].zw);
        }
    }
}
