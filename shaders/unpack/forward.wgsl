// y[n, y, x, c] = factor * byte order[c] of x[n, y, x, 0]; byte 0 is the lowest
// One invocation owns one element of y, one workgroup 64 neighbours a turn. Bytes moved: 4 per element and 4 per pixel.
struct Params { count: u32, channels: u32, order: u32, factor: f32 }

@group(0) @binding(0) var<storage, read> x: array<u32>; // [n, height, width, 1]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [n, height, width, channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of y; order: that of channel c in bits 8 c to 8 c + 7

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
        let byte = (params.order >> (8u * (i % params.channels))) & 255u;
        y[i] = f32((x[i / params.channels] >> (8u * byte)) & 255u) * params.factor;
    }
}
