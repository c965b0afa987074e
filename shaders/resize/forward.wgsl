// y[n, i, j, c] = sum over the four pixels of x around the place of (i, j) of (1 - distance in y) * (1 - distance in x) * x
// With NEAREST, y[n, i, j, c] = x at the pixel before that place. Places are fractions of integers, exact until they are divided.
// One invocation owns one element of y, one workgroup 64 neighbours a turn. Bytes moved: 20 per element of y, x from the cache.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params {
    count: u32,
    channels: u32,
    in_height: u32,
    in_width: u32,
    height: u32,
    width: u32,
    step_y: u32,
    step_x: u32,
    ahead_y: u32,
    ahead_x: u32,
    back_y: u32,
    back_x: u32,
    unit_y: u32,
    unit_x: u32,
}

const NEAREST = false;

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [n, in_height, in_width, channels]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [n, height, width, channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of y

struct Position {
    first: u32,
    fraction: f32,
}

// Where pixel i of the result lies in x, along one axis: (step * i + ahead - back) / unit, but not before 0.
fn position(i: u32, step: u32, ahead: u32, back: u32, unit: u32) -> Position {
    let reach = step * i + ahead;
    let place = select(0u, reach - back, reach > back);
    return Position(place / unit, select(f32(place % unit) / f32(unit), 0.0, NEAREST));
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
        let c = i % params.channels;
        let pixel = i / params.channels;
        let row = pixel / params.width; // n * height + line
        let line = position(row % params.height, params.step_y, params.ahead_y, params.back_y, params.unit_y);
        let column = position(pixel % params.width, params.step_x, params.ahead_x, params.back_x, params.unit_x);
        let image = row / params.height * params.in_height;
        let left = column.first * params.channels + c;
        let top_row = (image + line.first) * params.in_width * params.channels;
        if NEAREST {
            y[i] = x[top_row + left];
        } else {
            let right = min(column.first + 1u, params.in_width - 1u) * params.channels + c;
            let bottom_row = (image + min(line.first + 1u, params.in_height - 1u)) * params.in_width * params.channels;
            let top = (1.0 - column.fraction) * f32(x[top_row + left]) + column.fraction * f32(x[top_row + right]);
            let bottom = (1.0 - column.fraction) * f32(x[bottom_row + left]) + column.fraction * f32(x[bottom_row + right]);
            y[i] = Stored((1.0 - line.fraction) * top + line.fraction * bottom);
        }
    }
}
