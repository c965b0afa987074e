// y[n, i, c] = contrast * v' + brightness + noise * g, with v' = low + span * clamp((v - low) / span, 2^-100, 1)^gamma, or v' = v
// where gamma is 1, and v = the source at positions[n, i], linear between pixels (TAPS 2) or cubic (4; Keys 1981, a = -1/2)
// g: six 16-bit uniforms of pcg3d(seed, stream, step, element), summed and scaled to variance 1, as in src/random.rs
// One invocation owns one pixel, one workgroup 64 neighbours a turn. Bytes moved: 8 per position, 4 per element,
// 4 TAPS^2 per element of the source, most of them from a cache.
struct Params { count: u32, pixels: u32, channels: u32, source_height: u32, source_width: u32, stream: u32 }

const TAPS = 4u;
const DARKEST = 0x1p-100f;
const PER_DEVIATION = 2.1579186e-5; // 1 / sqrt(6 * (65536^2 - 1) / 12)

@group(0) @binding(0) var<storage, read> source: array<f32>; // [n, source_height, source_width, channels]
@group(0) @binding(1) var<storage, read> positions: array<f32>; // [n, pixels, 2]: y, x
@group(0) @binding(2) var<storage, read> intensities: array<f32>; // [n, 6]: low, span, gamma, contrast, brightness, noise
@group(0) @binding(3) var<storage, read> generator: array<u32>; // [2]: seed, step
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [n, pixels, channels]
@group(0) @binding(5) var<uniform> params: Params; // count: n * pixels

fn weights(t: f32) -> vec4f {
    if TAPS == 2u {
        return vec4f(1.0 - t, t, 0.0, 0.0);
    }
    let before = ((2.0 - t) * t - 1.0) * t;
    let first = (3.0 * t - 5.0) * t * t + 2.0;
    let second = ((4.0 - 3.0 * t) * t + 1.0) * t;
    let after = (t - 1.0) * t * t;
    return 0.5 * vec4f(before, first, second, after);
}

/// The pixel that stands at a place up to two beyond the ends, mirrored there.
fn mirrored(place: i32, last: i32) -> u32 {
    let folded = abs(place);
    return u32(max(min(folded, 2 * last - folded), 0));
}

fn pcg3d(words: vec3u) -> vec3u {
    var v = words * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> vec3u(16u);
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

fn gaussian(element: u32) -> f32 {
    let key = pcg3d(vec3u(generator[1], params.stream, generator[0]));
    var words = pcg3d(vec3u(key.x ^ element, key.y, key.z));
    words ^= words >> vec3u(16u);
    let halves = (words >> vec3u(16u)) + (words & vec3u(0xffffu));
    return f32(i32(halves.x + halves.y + halves.z) - 196605) * PER_DEVIATION;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i >= params.count {
            return;
        }
        let n = i / params.pixels;
        let size = vec2u(params.source_height, params.source_width);
        let last = vec2i(size - 1u);
        let position = clamp(vec2f(positions[2u * i], positions[2u * i + 1u]), vec2f(0.0), vec2f(last));
        let corner = floor(position);
        let row_weights = weights(position.x - corner.x);
        let column_weights = weights(position.y - corner.y);
        let first = vec2i(corner) - i32(TAPS / 2u - 1u);
        let low = intensities[6u * n];
        let span = intensities[6u * n + 1u];
        let gamma = intensities[6u * n + 2u];
        let contrast = intensities[6u * n + 3u];
        let brightness = intensities[6u * n + 4u];
        let noise = intensities[6u * n + 5u];
        for (var c = 0u; c < params.channels; c++) {
            var value = 0.0;
            for (var r = 0; r < i32(TAPS); r++) { // unroll
                let row = n * size.x + mirrored(first.x + r, last.x);
                var line = 0.0;
                for (var s = 0; s < i32(TAPS); s++) { // unroll
                    let pixel = row * size.y + mirrored(first.y + s, last.y);
                    line += column_weights[s] * source[pixel * params.channels + c];
                }
                value += row_weights[r] * line;
            }
            if gamma != 1.0 {
                value = low + span * pow(clamp((value - low) / span, DARKEST, 1.0), gamma);
            }
            value = contrast * value + brightness;
            let element = i * params.channels + c;
            if noise != 0.0 {
                value += noise * gaussian(element);
            }
            y[element] = value;
        }
    }
}
