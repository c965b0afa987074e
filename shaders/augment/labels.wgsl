// labels[n, i] = source[n, the pixel nearest to positions[n, i]], the higher of two equally near ones
// One invocation owns one label, one workgroup 64 neighbours a turn. Bytes moved: 16 per label.
struct Params { count: u32, pixels: u32, source_height: u32, source_width: u32 }

@group(0) @binding(0) var<storage, read> source: array<u32>; // [n, source_height, source_width]
@group(0) @binding(1) var<storage, read> positions: array<f32>; // [n, pixels, 2]: y, x
@group(0) @binding(2) var<storage, read_write> labels: array<u32>; // [n, pixels]
@group(0) @binding(3) var<uniform> params: Params; // count: n * pixels

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
        let n = i / params.pixels;
        let last = vec2f(vec2u(params.source_height - 1u, params.source_width - 1u));
        let position = clamp(vec2f(positions[2u * i], positions[2u * i + 1u]), vec2f(0.0), last);
        let corner = floor(position);
        let nearest = vec2u(corner) + select(vec2u(0u), vec2u(1u), position - corner >= vec2f(0.5));
        labels[i] = source[(n * params.source_height + nearest.x) * params.source_width + nearest.y];
    }
}
