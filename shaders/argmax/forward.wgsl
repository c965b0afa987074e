// y = the position of the first maximum among the channels of a pixel
// One invocation owns one pixel, one workgroup 64 neighbours a turn. Bytes moved: 4 per element of x and 4 per pixel.
struct Params { count: u32, channels: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // [count, channels]
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // [count]
@group(0) @binding(2) var<uniform> params: Params; // count: pixels

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
        let first = i * params.channels;
        var best = 0u;
        var largest = x[first];
        for (var k = 1u; k < params.channels; k++) {
            let value = x[first + k];
            if value > largest {
                largest = value;
                best = k;
            }
        }
        y[i] = best;
    }
}
