// positions[n, y, x] = mirrored(centre of the source + M[n] (p - centre of the frame) + t[n] + field[n](p)), in pixels; p is the
// place in the frame of pixel (y, x) of a window in its middle
// field: the displacements at the nodes of a grid over the whole frame, cubic between them (Keys 1981, a = -1/2)
// In integers: positions are 256ths of a pixel, M 65536ths, weights of nodes 16384ths; so they are the same on every device.
// One invocation owns one position, one workgroup 64 neighbours a turn. Bytes moved: 8 per position; the rest stays cached.
struct Params {
    count: u32, height: u32, width: u32, frame_height: u32, frame_width: u32, source_height: u32, source_width: u32, grid: u32
}

@group(0) @binding(0) var<storage, read> transforms: array<f32>; // [n, 6]: M yy, M yx, t y, M xy, M xx, t x
@group(0) @binding(1) var<storage, read> displacements: array<f32>; // [n, grid, grid, 2]: y, x
@group(0) @binding(2) var<storage, read_write> positions: array<f32>; // [n, height, width, 2]: y, x
@group(0) @binding(3) var<uniform> params: Params; // count: n * height * width

/// Where a pixel of an axis lies between the nodes: the node before it, and how far it is past that.
struct Place { node: i32, past: i32 }

fn place(pixel: u32, extent: u32) -> Place {
    let steps = pixel * (params.grid - 1u);
    let last = max(extent - 1u, 1u);
    return Place(i32(steps / last), i32(((steps % last) << 14u) / last));
}

fn weights(t: i32) -> vec4i {
    let t2 = (t * t) >> 14u;
    let t3 = (t2 * t) >> 14u;
    let before = (2 * t2 - t3 - t) >> 1u;
    let second = (4 * t2 - 3 * t3 + t) >> 1u;
    let after = (t3 - t2) >> 1u;
    return vec4i(before, 16384 - before - second - after, second, after);
}

fn displacement(n: u32, row: i32, column: i32) -> vec2i {
    let last = i32(params.grid) - 1;
    let node = (n * params.grid + u32(clamp(row, 0, last))) * params.grid + u32(clamp(column, 0, last));
    return vec2i(round(256.0 * vec2f(displacements[2u * node], displacements[2u * node + 1u])));
}

fn field(n: u32, y: u32, x: u32) -> vec2i {
    if params.grid == 1u {
        return displacement(n, 0, 0);
    }
    let row = place(y, params.frame_height);
    let column = place(x, params.frame_width);
    let row_weights = weights(row.past);
    let column_weights = weights(column.past);
    var sum = vec2i(0);
    for (var r = 0; r < 4; r++) { // unroll
        var line = vec2i(0);
        for (var c = 0; c < 4; c++) { // unroll
            line += column_weights[c] * displacement(n, row.node + r - 1, column.node + c - 1);
        }
        sum += row_weights[r] * ((line + 8192) >> vec2u(14u));
    }
    return (sum + 8192) >> vec2u(14u);
}

/// A position folded into 0 ..= last, the positions of the first and the last pixel.
fn mirrored(position: i32, last: i32) -> i32 {
    let period = max(2 * last, 1);
    let rest = position % period;
    let folded = select(rest, rest + period, rest < 0);
    return min(folded, 2 * last - folded);
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
        let row = i / params.width;
        let n = row / params.height;
        let y = (params.frame_height - params.height) / 2u + row % params.height;
        let x = (params.frame_width - params.width) / 2u + i % params.width;
        let first = 6u * n;
        let to_y = vec2i(round(65536.0 * vec2f(transforms[first], transforms[first + 1u])));
        let to_x = vec2i(round(65536.0 * vec2f(transforms[first + 3u], transforms[first + 4u])));
        let shift = vec2i(round(256.0 * vec2f(transforms[first + 2u], transforms[first + 5u])));
        // Twice the distance to the centre, which may lie between two pixels.
        let offset = 2 * vec2i(vec2u(y, x)) - vec2i(vec2u(params.frame_height - 1u, params.frame_width - 1u));
        let turned = vec2i(to_y.x * offset.x + to_y.y * offset.y, to_x.x * offset.x + to_x.y * offset.y);
        let last = 256 * vec2i(vec2u(params.source_height - 1u, params.source_width - 1u));
        let position = last / 2 + ((turned + 256) >> vec2u(9u)) + shift + field(n, y, x);
        positions[2u * i] = f32(mirrored(position.x, last.x)) / 256.0;
        positions[2u * i + 1u] = f32(mirrored(position.y, last.y)) / 256.0;
    }
}
