// grad_skip[n, y, x, c] = grad_output[n, y - top, x - left, c] inside the crop, else 0
// One invocation owns one element of grad_skip, one workgroup 64 neighbours a turn. Bytes moved: 4 per element, 8 in the crop.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params {
    count: u32,
    height: u32,
    width: u32,
    channels: u32,
    skip_height: u32,
    skip_width: u32,
    skip_channels: u32,
    top: u32,
    left: u32,
}

@group(0) @binding(0) var<storage, read> grad_output: array<Stored>; // [n, height, width, channels]
@group(0) @binding(1) var<storage, read_write> grad_skip: array<Stored>; // [n, skip_height, skip_width, skip_channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of grad_skip

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
        let c = i % params.skip_channels;
        let pixel = i / params.skip_channels;
        let row = pixel / params.skip_width; // n * skip_height + y
        let n = row / params.skip_height;
        // Left of and above the crop these wrap around to huge numbers, which are outside as well.
        let column = pixel % params.skip_width - params.left;
        let line = row % params.skip_height - params.top;
        var grad = Stored();
        if line < params.height && column < params.width {
            grad = grad_output[((n * params.height + line) * params.width + column) * params.channels + c];
        }
        grad_skip[i] = grad;
    }
}
