// y[n, y, x, c] = x[n, y - top, x - left, c - front] inside x, else 0; top, left and front may be negative: then x is cropped
// One invocation owns one of the Elements of y, one workgroup 64 neighbours a turn. Bytes moved: 4 per element, 8 inside x.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Elements = Stored; // or vec4<Stored>: four channels at once; all numbers of channels are then of fours

struct Params {
    count: u32,
    height: u32,
    width: u32,
    channels: u32,
    in_height: u32,
    in_width: u32,
    in_channels: u32,
    top: u32,
    left: u32,
    front: u32,
}

const PIXELS = 1u; // 0: there are margins of channels only

@group(0) @binding(0) var<storage, read> x: array<Elements>; // [n, in_height, in_width, in_channels]
@group(0) @binding(1) var<storage, read_write> y: array<Elements>; // [n, height, width, channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of y

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
        // Before x these wrap around to huge numbers, which are outside as well; a negative margin is one that wraps, too.
        let channel = i % params.channels - params.front;
        var inside = channel < params.in_channels;
        var in_pixel = pixel;
        if PIXELS == 1u {
            let row = pixel / params.width; // n * height + y
            let column = pixel % params.width - params.left;
            let line = row % params.height - params.top;
            inside &= (column < params.in_width) & (line < params.in_height);
            in_pixel = (row / params.height * params.in_height + line) * params.in_width + column;
        }
        var value = Elements();
        if inside {
            value = x[in_pixel * params.in_channels + channel];
        }
        y[i] = value;
    }
}
