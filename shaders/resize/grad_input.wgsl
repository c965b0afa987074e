// grad_input[n, i, j, c] = sum over the pixels of y whose place is near (i, j) of their share of x[n, i, j, c] * grad_output
// One invocation owns one element of grad_input and gathers, row by row; one workgroup owns 64 neighbours a turn.
// Bytes moved: 4 per element, and as many of grad_output as lie near, from the cache.
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

@group(0) @binding(0) var<storage, read> grad_output: array<Stored>; // [n, height, width, channels]
@group(0) @binding(1) var<storage, read_write> grad_input: array<Stored>; // [n, in_height, in_width, channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of grad_input

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

// The first pixel of the result whose place is not before `place`, in pixels of x.
fn first_at(place: u32, extent: u32, step: u32, ahead: u32, back: u32, unit: u32) -> u32 {
    let reach = place * unit + back;
    if reach <= ahead {
        return 0u;
    }
    if step == 0u {
        return extent;
    }
    return min((reach - ahead - 1u) / step + 1u, extent);
}

// The share of pixel i of x, one of `extent`, in a place.
fn share(place: Position, i: u32, extent: u32) -> f32 {
    let here = select(0.0, 1.0 - place.fraction, place.first == i);
    return here + select(0.0, place.fraction, min(place.first + 1u, extent - 1u) == i);
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
        let row = pixel / params.in_width; // n * in_height + line
        let line = row % params.in_height;
        let column = pixel % params.in_width;
        let top = select(
            0u,
            first_at(line - 1u, params.height, params.step_y, params.ahead_y, params.back_y, params.unit_y),
            line > 0u,
        );
        let bottom = select(
            first_at(line + 1u, params.height, params.step_y, params.ahead_y, params.back_y, params.unit_y),
            params.height,
            line + 1u == params.in_height,
        );
        let left = select(
            0u,
            first_at(column - 1u, params.width, params.step_x, params.ahead_x, params.back_x, params.unit_x),
            column > 0u,
        );
        let right = select(
            first_at(column + 1u, params.width, params.step_x, params.ahead_x, params.back_x, params.unit_x),
            params.width,
            column + 1u == params.in_width,
        );
        var sum = 0.0;
        for (var oy = top; oy < bottom; oy++) {
            let in_line = position(oy, params.step_y, params.ahead_y, params.back_y, params.unit_y);
            let line_share = share(in_line, line, params.in_height);
            let first = (row / params.in_height * params.height + oy) * params.width;
            for (var ox = left; ox < right; ox++) {
                let in_column = position(ox, params.step_x, params.ahead_x, params.back_x, params.unit_x);
                let column_share = share(in_column, column, params.in_width);
                sum += line_share * column_share * f32(grad_output[(first + ox) * params.channels + c]);
            }
        }
        grad_input[i] = Stored(sum);
    }
}
