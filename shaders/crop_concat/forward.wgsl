// y[n, y, x, c] = skip[n, y + top, x + left, c] for c < skip_channels, else up[n, y, x, c - skip_channels]
// One invocation owns one of the Elements of y, one workgroup 64 neighbours a turn. Bytes moved: 8 per element of y.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Elements = Stored; // or vec4<Stored>: four channels at once; all numbers of channels are then of fours

struct Params {
    count: u32,
    height: u32,
    width: u32,
    skip_height: u32,
    skip_width: u32,
    skip_channels: u32,
    up_channels: u32,
    top: u32,
    left: u32,
}

@group(0) @binding(0) var<storage, read> skip: array<Elements>; // [n, skip_height, skip_width, skip_channels]
@group(0) @binding(1) var<storage, read> up: array<Elements>; // [n, height, width, up_channels]
@group(0) @binding(2) var<storage, read_write> y: array<Elements>; // [n, height, width, skip_channels + up_channels]
@group(0) @binding(3) var<uniform> params: Params; // count: elements of y

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
        let channels = params.skip_channels + params.up_channels;
        let c = i % channels;
        let pixel = i / channels;
        if c < params.skip_channels {
            let column = pixel % params.width + params.left;
            let row = pixel / params.width; // n * height + y
            let skip_row = row / params.height * params.skip_height + row % params.height + params.top;
            y[i] = skip[(skip_row * params.skip_width + column) * params.skip_channels + c];
        } else {
            y[i] = up[pixel * params.up_channels + c - params.skip_channels];
        }
    }
}
