// grad_up[pixel, c] = grad_output[pixel, channels - up_channels + c]
// One invocation owns one element of grad_up, one workgroup 64 neighbours a turn. Bytes moved: 8 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, channels: u32, up_channels: u32 }

@group(0) @binding(0) var<storage, read> grad_output: array<Stored>; // [n, height, width, channels]
@group(0) @binding(1) var<storage, read_write> grad_up: array<Stored>; // [n, height, width, up_channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of grad_up

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i < params.count {
            let skip_channels = params.channels - params.up_channels;
            grad_up[i] = grad_output[i / params.up_channels * params.channels + skip_channels + i % params.up_channels];
        }
    }
}
