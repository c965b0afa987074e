// y[n, y, x, c] = x[n, mirrored(y - top), mirrored(x - left), c], mirrored at the first and last pixel without repeating them
// One invocation owns one element of y, one workgroup 64 neighbours a turn. Bytes moved: 8 per element, 4 of them mostly cached.
struct Params {
    count: u32,
    height: u32,
    width: u32,
    channels: u32,
    in_height: u32,
    in_width: u32,
    top: u32,
    left: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [n, in_height, in_width, channels]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [n, height, width, channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of y

/// The pixel at a place of a line that begins `before` pixels ahead of it.
fn mirrored(place: u32, before: u32, extent: u32) -> u32 {
    let last = i32(extent) - 1;
    let period = max(2 * last, 1);
    let rest = (i32(place) - i32(before)) % period;
    let folded = select(rest, rest + period, rest < 0);
    return u32(min(folded, 2 * last - folded));
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
        let pixel = i / params.channels;
        let row = pixel / params.width; // n * height + y
        let line = mirrored(row % params.height, params.top, params.in_height);
        let column = mirrored(pixel % params.width, params.left, params.in_width);
        let in_row = row / params.height * params.in_height + line;
        y[i] = x[(in_row * params.in_width + column) * params.channels + i % params.channels];
    }
}
